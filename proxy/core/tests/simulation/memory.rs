//! A thousand clients that LIST everything, and a server whose memory is not endless.

use proxy_core::admission::Settings;

use crate::heap::Heap;
use crate::world::World;
use crate::{STORM, mix};

const GIB: u64 = 1 << 30;
/// The answer to a LIST of 100,000 objects.
const ANSWER: u64 = 150 << 20;
/// Never above this share of the limit.
const PROMISED: f64 = 0.85;

/// A storm of a thousand on eight cores, and the most of its memory the server used.
fn storm(times: f64, seen: bool) -> (World, f64) {
    let mut populations = mix(8, 1_000);
    populations[STORM].bytes = ANSWER;
    // What is configured protects nobody here: memory has to.
    let settings = Settings {
        bytes: 64 << 30,
        ..Settings::default()
    };
    let mut world = World::new(8, settings, populations, 7);
    let mut heap = Heap::new(GIB, 8 * GIB, times);
    heap.seen = seen;
    world.heap = Some(heap);
    world.run(60);
    let peak = world.heap.as_ref().map_or(0.0, |heap| heap.peak);
    let served = world.tallies[STORM].served;
    println!("{times} bytes per byte, seen: {seen}: peak {peak:.2}, {served} LISTs served");
    (world, peak)
}

#[test]
fn a_thousand_lists_do_not_use_up_the_servers_memory() {
    for times in [1.0, 2.0, 4.0, 8.0, 16.0] {
        let (world, peak) = storm(times, true);
        assert!(peak < PROMISED, "{times}: {peak:.2}");
        assert!(world.tallies[STORM].served > 200, "the storm starves");
        let lost: u64 = world.tallies[..STORM]
            .iter()
            .map(|tally| tally.shed + tally.gave_up)
            .sum();
        assert_eq!(lost, 0, "somebody else pays");
    }
}

#[test]
fn unseen_the_same_storm_would() {
    assert!(storm(4.0, false).1 > 1.0);
}
