//! The whole of admission in a closed loop with a model server, in virtual time: what is
//! promised about storms, outages and wrong estimates, on one, two and eight cores.
//!
//! Every run is decided by its seed.

#[path = "simulation/heap.rs"]
mod heap;
#[path = "simulation/memory.rs"]
mod memory;
#[path = "simulation/server.rs"]
mod server;
#[path = "simulation/world.rs"]
mod world;

use std::time::Duration;

use proxy_core::admission::probe::ProbeView;
use proxy_core::admission::{Kind, Mode, Settings, TunerState};
use world::{Population, SECOND, World, settings};

const LIST: u64 = 200_000;
const STORM: usize = 6;

/// Everyday load, about 30 % of the server, and a storm of LISTs.
fn mix(cores: usize, clients: u64) -> Vec<Population> {
    let n = cores as f64;
    vec![
        Population::short(0, 1_000, 20.0 * n),
        Population::short(1, 1_500, 50.0 * n),
        Population::short(2, 2_000, 5.0 * n),
        Population::short(3, 1_000, 50.0 * n),
        Population::short(4, 2_000, 40.0 * n),
        Population {
            kind: Kind::Long,
            hops: 2,
            ..Population::short(5, 10_000, 5.0 * n)
        },
        Population::lists(6, LIST, clients),
    ]
}

fn run(cores: usize, settings: Settings, populations: Vec<Population>, seconds: u64) -> World {
    let mut world = World::new(cores, settings, populations, 7);
    world.count_from = 10 * SECOND;
    world.run(seconds);
    world
}

fn off() -> Settings {
    Settings {
        mode: Mode::Off,
        ..settings()
    }
}

fn print(name: &str, world: &World) {
    println!("== {name}");
    for (population, tally) in world.populations.iter().zip(&world.tallies) {
        println!(
            "class {} offered {:6} served {:6} shed {:6} gave up {:4} work {:7.2} s  p50 {:5} p99 {:5} ms",
            population.class,
            tally.offered,
            tally.served,
            tally.shed,
            tally.gave_up,
            tally.work as f64 / 1e6,
            tally.quantile(0.5) / 1_000,
            tally.quantile(0.99) / 1_000,
        );
    }
    if let Some((_, view)) = world.views.last() {
        println!(
            "limit {:?} breadth {:?} state {:?} {:?}",
            view.limit, view.breadth, view.state, view.reason
        );
    }
}

/// Everything above bulk was served, and quickly.
#[track_caller]
fn assert_important_served(world: &World, p99_ms: u64) {
    assert_important_in_the_mean(std::slice::from_ref(world), p99_ms);
}

/// In every run nobody lost a call, and in the mean of them p99 is at most that. Of a class with eight calls a second it
/// is what five calls of a run took.
fn assert_important_in_the_mean(worlds: &[World], p99_ms: u64) {
    let mut all = 0;
    for (nth, population) in worlds[0].populations.iter().enumerate() {
        if population.class >= 6 {
            continue;
        }
        let class = population.class;
        let tallies = || worlds.iter().map(|world| &world.tallies[nth]);
        for tally in tallies() {
            let lost = tally.shed + tally.gave_up;
            assert_eq!(lost, 0, "class {class}: {lost} of {} lost", tally.offered);
            all += tally.offered;
        }
        let sum: u64 = tallies().map(|tally| tally.quantile(0.99)).sum();
        let p99 = sum / worlds.len() as u64 / 1_000;
        assert!(p99 <= p99_ms, "class {class}: p99 {p99} ms");
    }
    assert!(all > 1_000, "the scenario tests nothing");
}

/// The mean number of LISTs of the storm that ran at once, and for what share of the time
/// none did.
fn storm_width(world: &World, from_s: u64, to_s: u64) -> (f64, f64) {
    let during = from_s * SECOND..to_s * SECOND;
    let running: Vec<f64> = world
        .views
        .iter()
        .filter(|(at, _)| during.contains(at))
        .map(|(_, view)| view.classes[6].long.running as f64)
        .collect();
    let none = running.iter().filter(|running| **running == 0.0).count();
    (
        running.iter().sum::<f64>() / running.len() as f64,
        none as f64 / running.len() as f64,
    )
}

#[track_caller]
fn assert_storm_gets_the_rest(cores: usize, width: std::ops::RangeInclusive<f64>) {
    let clients = 20 * cores as u64;
    let bare = run(cores, off(), mix(cores, clients), 70);
    let held = run(cores, settings(), mix(cores, clients), 70);
    print(&format!("{cores} cores, off"), &bare);
    print(&format!("{cores} cores, enforced"), &held);
    assert_important_served(&held, 100);
    let share = held.tallies[STORM].work as f64 / bare.tallies[STORM].work as f64;
    assert!(
        share >= 0.95,
        "the storm got {share:.2} of what it got unprotected"
    );
    let (mean, none) = storm_width(&held, 20, 70);
    println!("storm width {mean:.2}, idle {none:.3}, share {share:.3}");
    assert!(
        width.contains(&mean),
        "{mean:.2} LISTs at once on {cores} cores"
    );
    assert!(none < 0.01, "no LIST ran for {none:.3} of the time");
    assert!(held.tallies[STORM].shed > 0, "the scenario tests nothing");
}

#[test]
fn on_one_core_a_storm_runs_one_list_at_a_time_back_to_back() {
    assert_storm_gets_the_rest(1, 0.98..=1.02);
}

#[test]
fn on_two_cores_a_storm_runs_about_two_lists_at_a_time() {
    assert_storm_gets_the_rest(2, 1.9..=2.6);
}

#[test]
fn on_eight_cores_a_storm_runs_about_eight_lists_at_a_time() {
    assert_storm_gets_the_rest(8, 7.5..=12.0);
}

#[test]
fn a_storm_that_breaks_out_is_not_felt_and_passes_without_trace() {
    for cores in [1, 4] {
        let mut populations = mix(cores, 0);
        populations[STORM] = Population::lists(6, LIST, 30 * cores as u64).between(20, 50);
        let mut world = World::new(cores, settings(), populations, 3);
        world.count_from = 20 * SECOND;
        world.run(30);
        print("first 10 s of the storm", &world);
        assert_important_served(&world, 100);
        world.run(60);
        world.start_counting();
        world.run(80);
        print("after the storm", &world);
        for (class, tally) in world.tallies.iter().enumerate().take(5) {
            assert_eq!(tally.shed + tally.gave_up, 0);
            assert!(
                tally.quantile(0.99) < 40_000,
                "class {class}: {}",
                tally.quantile(0.99)
            );
        }
        assert!(
            world
                .views
                .last()
                .is_some_and(|(_, view)| view.breadth.waiting == 0)
        );
    }
}

#[test]
fn half_the_cores_lost_in_a_storm_cost_the_storm_and_nobody_else() {
    let mut world = World::new(8, settings(), mix(4, 160), 5);
    world.act(40, |world| world.server.set_cores(4));
    world.count_from = 40 * SECOND;
    world.run(100);
    print("8 to 4 cores", &world);
    assert_important_served(&world, 150);
    let (mean, none) = storm_width(&world, 60, 100);
    assert!(
        (3.8..=7.0).contains(&mean) && none == 0.0,
        "{mean:.2} {none:.3}"
    );
}

#[test]
fn cores_gained_are_found() {
    let mut world = World::new(1, settings(), mix(1, 80), 5);
    world.act(30, |world| world.server.set_cores(4));
    world.run(150);
    let (mean, _) = storm_width(&world, 110, 150);
    assert!(mean > 3.0, "{mean:.2}");
}

#[test]
fn wrong_estimates_change_nothing_that_matters() {
    let e = std::f64::consts::E;
    for (misjudged, sigma) in [(e, 0.0), (1.0 / e, 0.0), (1.0, 1.0)] {
        let mut populations = mix(2, 40);
        let bare = run(2, off(), populations.clone(), 60);
        populations[STORM].misjudged = misjudged;
        populations[STORM].sigma = sigma;
        let held = run(2, settings(), populations, 60);
        print(
            &format!("misjudged by {misjudged:.2}, sigma {sigma}"),
            &held,
        );
        assert_important_served(&held, 120);
        let share = held.tallies[STORM].work as f64 / bare.tallies[STORM].work as f64;
        assert!(share >= 0.93, "{share:.3}");
    }
}

#[test]
fn lists_taken_for_small_calls_still_cost_nobody_an_answer() {
    let mut populations = mix(2, 40);
    populations[STORM].misjudged = 0.02;
    let worlds: Vec<World> = (1..=5)
        .map(|seed| {
            let mut world = World::new(2, settings(), populations.clone(), seed);
            world.count_from = 10 * SECOND;
            world.run(60);
            print(&format!("misjudged fifty-fold, seed {seed}"), &world);
            world
        })
        .collect();
    assert_important_in_the_mean(&worlds, 200);
}

#[test]
fn two_storms_are_served_in_order_of_importance() {
    let mut populations = mix(1, 20);
    populations[5] = Population::lists(5, LIST, 20);
    let world = run(1, settings(), populations, 60);
    print("storms in classes 5 and 6", &world);
    let (reads, bulk) = (&world.tallies[5], &world.tallies[6]);
    assert!(reads.work > 3 * bulk.work, "{} {}", reads.work, bulk.work);
    let total = (reads.work + bulk.work) as f64 / (50.0 * 1e6);
    assert!(
        total > 0.66,
        "{total:.2} of the server, of which 0.7 are left"
    );
    for tally in &world.tallies[..5] {
        assert_eq!(tally.shed + tally.gave_up, 0);
    }
}

#[test]
fn overload_of_short_calls_closes_bulk_and_spares_what_is_more_important() {
    let mut populations = mix(2, 20);
    // Three times what the server can do, of workload writes alone.
    populations[4] = Population {
        timeout: 5 * SECOND,
        ..Population::short(4, 2_000, 3_000.0)
    };
    let world = run(2, settings(), populations, 60);
    print("writes at three times capacity", &world);
    for tally in &world.tallies[..4] {
        assert_eq!(tally.shed + tally.gave_up, 0);
        assert!(tally.quantile(0.99) < 250_000, "{}", tally.quantile(0.99));
    }
    let writes = &world.tallies[4];
    let useful = writes.work as f64 / (50.0 * 2.0 * 1e6);
    assert!(useful > 0.70, "{useful:.2} of the server did useful writes");
    assert_eq!(writes.gave_up, 0, "what is admitted is answered in time");
}

/// Everyday load, and from the tenth second on small writes: so many times what the server
/// has left for them.
fn step(cores: usize, times: f64) -> World {
    let n = cores as f64;
    let mut populations = mix(cores, 0);
    populations[4] = Population::short(4, 4_000, 180.0 * n * times).between(10, 100);
    let mut world = World::new(cores, settings(), populations, 7);
    world.run(9);
    world.start_counting();
    world.run(14);
    world
}

#[test]
fn a_step_to_ten_times_the_load_delays_nobody_important_however_many_cores_there_are() {
    for cores in [1, 2, 8, 16] {
        let world = step(cores, 10.0);
        print(&format!("{cores} cores, ten times the load"), &world);
        for (class, tally) in world.tallies.iter().enumerate().take(4) {
            assert_eq!(tally.shed + tally.gave_up, 0, "class {class}");
            let p99 = tally.quantile(0.99) / 1_000;
            assert!(p99 < 100, "{cores} cores, class {class}: {p99} ms");
        }
        let writes = &world.tallies[4];
        assert!(writes.shed > writes.served, "the scenario tests nothing");
        let used = writes.work as f64 / (4.0 * 1e6 * cores as f64);
        assert!(used > 0.6, "{cores} cores: {used:.2} did writes");
    }
}

#[test]
fn a_step_to_what_the_server_can_do_refuses_nobody_however_many_cores_there_are() {
    for cores in [1, 2, 8, 16] {
        let world = step(cores, 0.8);
        print(&format!("{cores} cores, nearly full"), &world);
        let lost: u64 = world
            .tallies
            .iter()
            .map(|tally| tally.shed + tally.gave_up)
            .sum();
        assert_eq!(lost, 0, "{cores} cores");
    }
}

#[test]
fn a_blind_proxy_lets_everything_through() {
    let mut world = World::new(2, settings(), mix(2, 40), 5);
    world.act(20, |world| world.probing = false);
    world.run(30);
    world.start_counting();
    world.run(40);
    assert_eq!(
        world.views.last().map(|(_, view)| view.state),
        Some(TunerState::FailOpen)
    );
    let shed: u64 = world.tallies.iter().map(|tally| tally.shed).sum();
    assert_eq!(shed, 0);
    world.probing = true;
    world.run(50);
    world.start_counting();
    world.run(70);
    // A handful of requests comes while what was let in blindly still runs.
    assert_important_served(&world, 600);
}

#[test]
fn after_an_outage_the_storm_comes_back_slowly_and_the_important_at_once() {
    let mut world = World::new(4, settings(), mix(4, 200), 5);
    world.act(40, |world| world.set_up(false));
    world.act(50, |world| world.set_up(true));
    world.run(51);
    world.start_counting();
    let before = storm_width(&world, 30, 40).0;
    world.run(60);
    print("after an outage", &world);
    let states: Vec<_> = world
        .views
        .iter()
        .filter(|(at, _)| (50 * SECOND..56 * SECOND).contains(at))
        .map(|(_, view)| view.state)
        .collect();
    assert!(states.contains(&TunerState::SlowStart), "{states:?}");
    let first = storm_width(&world, 50, 51).0;
    assert!(
        first <= before / 2.0 + 1.0,
        "{first:.1} LISTs at once, {before:.1} before"
    );
    assert_important_served(&world, 150);
}

#[test]
fn shadow_refuses_nobody_and_counts_whom_it_would_have() {
    let shadow = Settings {
        mode: Mode::Shadow,
        ..settings()
    };
    let bare = run(1, off(), mix(1, 20), 40);
    let world = run(1, shadow, mix(1, 20), 40);
    print("shadow", &world);
    assert_eq!(world.tallies.iter().map(|tally| tally.shed).sum::<u64>(), 0);
    let (_, view) = world.views.last().unwrap();
    assert!(view.classes[6].shed > 0 && view.classes[6].queued > 0);
    assert_eq!(
        view.classes
            .iter()
            .take(5)
            .map(|class| class.shed)
            .sum::<u64>(),
        0
    );
    let share = world.tallies[STORM].work as f64 / bare.tallies[STORM].work as f64;
    assert!(
        (0.9..1.1).contains(&share),
        "nothing is held back: {share:.2}"
    );
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let tallies = || format!("{:?}", run(2, settings(), mix(2, 40), 15).tallies);
    assert_eq!(tallies(), tallies());
}

#[test]
fn the_knee_is_found_whatever_the_seed() {
    for cores in [1, 2, 4] {
        for seed in 1..=4 {
            let width = |settings| {
                let mut world = World::new(cores, settings, mix(cores, 20 * cores as u64), seed);
                world.count_from = 10 * SECOND;
                world.run(50);
                world
            };
            let (bare, held) = (width(off()), width(settings()));
            assert_important_served(&held, 120);
            let share = held.tallies[STORM].work as f64 / bare.tallies[STORM].work as f64;
            let (mean, none) = storm_width(&held, 10, 50);
            println!("{cores} cores, seed {seed}: width {mean:.2} idle {none:.3} share {share:.3}");
            assert!(share >= 0.95, "{cores} cores, seed {seed}: {share:.3}");
            let n = cores as f64;
            assert!(
                (0.9 * n..1.6 * n).contains(&mean),
                "{cores} cores, seed {seed}: {mean:.2}"
            );
            assert!(none < 0.01);
        }
    }
}

/// What the probes said on one core while so many LISTs ran at once, with the everyday
/// load: the middle of the medians and of the ninetieth percentiles, in ms.
fn excess_with_lists(lists: u64) -> (u64, u64) {
    let world = run(1, off(), mix(1, lists), 60);
    let middle = |of: fn(&ProbeView) -> Duration| {
        let mut all: Vec<Duration> = world.probed.iter().skip(100).map(of).collect();
        all.sort_unstable();
        u64::try_from(all[all.len() / 2].as_millis()).unwrap()
    };
    let seen = (middle(|view| view.excess), middle(|view| view.excess_p90));
    println!(
        "{lists} LISTs at once: median {} ms, p90 {} ms",
        seen.0, seen.1
    );
    seen
}

#[test]
fn the_median_of_the_probes_tells_one_list_from_two_and_a_high_percentile_does_not() {
    let target = Settings::default().target.as_millis() as u64;
    let (none, one, two) = (
        excess_with_lists(0),
        excess_with_lists(1),
        excess_with_lists(2),
    );
    assert!(none.0 < target && none.1 < target, "{none:?}");
    assert!(one.0 <= target && two.0 > target, "{one:?} {two:?}");
    assert!(one.1 > target, "a single LIST would be braked: {one:?}");
}

/// The first ten seconds of a storm of LISTs that is held as this kind: the slowest p99
/// above bulk in ms, and how many above bulk were lost.
fn outbreak(storm: Kind) -> (u64, u64) {
    let mut populations = mix(2, 0);
    populations[STORM] = Population {
        kind: storm,
        ..Population::lists(6, LIST, 200).between(20, 50)
    };
    let mut world = World::new(2, settings(), populations, 3);
    world.count_from = 20 * SECOND;
    world.run(30);
    print(&format!("a storm held as {storm:?}"), &world);
    let above = &world.tallies[..STORM];
    let slowest = above.iter().map(|tally| tally.quantile(0.99)).max();
    (
        slowest.unwrap_or(0) / 1_000,
        above.iter().map(|tally| tally.shed + tally.gave_up).sum(),
    )
}

#[test]
fn a_storm_of_lists_held_with_the_small_calls_breaks_out_and_held_apart_it_does_not() {
    let (together, apart) = (outbreak(Kind::Short), outbreak(Kind::Long));
    println!("slowest p99 above bulk in ms, and lost: together {together:?}, apart {apart:?}");
    assert!(together.0 > apart.0 + 20, "{together:?} {apart:?}");
    assert_eq!(apart.1, 0);
}

/// Tenants of one class who together ask for three times what the server can do, in operations
/// of four calls. Operations completed and begun, by tenant, over half a minute.
fn crowd(turns: bool) -> World {
    const TENANTS: usize = 40;
    let tenants = (0..TENANTS)
        .map(|_| Population {
            calls: 4,
            ..Population::short(4, 5_000, 150.0 / TENANTS as f64)
        })
        .collect();
    let settings = Settings {
        turns,
        ..settings()
    };
    let mut world = World::new(1, settings, tenants, 3);
    world.count_from = 10 * SECOND;
    world.run(40);
    world
}

fn completed(world: &World) -> f64 {
    let of = |count: fn(&world::Tally) -> u64| world.tallies.iter().map(count).sum::<u64>() as f64;
    of(|tally| tally.completed) / of(|tally| tally.begun)
}

/// Jain's index of the server time each was given: 1 if all got the same.
fn jain(world: &World) -> f64 {
    let got: Vec<f64> = world.tallies.iter().map(|t| t.work as f64).collect();
    let (sum, squares) = got
        .iter()
        .fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    sum * sum / (got.len() as f64 * squares)
}

#[test]
fn operations_of_many_calls_complete_because_tenants_take_turns() {
    let (chance, turns) = (crowd(false), crowd(true));
    let (by_chance, by_turns) = (completed(&chance), completed(&turns));
    println!(
        "completed by chance {by_chance:.3} (Jain {:.4}), by turns {by_turns:.3} (Jain {:.4}) of at most 0.333",
        jain(&chance),
        jain(&turns)
    );
    assert!(by_turns > 0.24, "{by_turns:.3}");
    assert!(by_turns > 1.3 * by_chance, "{by_turns:.3} {by_chance:.3}");
    assert!(jain(&turns) > 0.98, "{}", jain(&turns));
}

#[test]
fn who_asks_for_a_hundred_times_as_much_costs_the_others_nothing() {
    let mut tenants: Vec<_> = (0..20).map(|_| Population::short(4, 5_000, 4.0)).collect();
    tenants.push(Population::short(4, 5_000, 400.0));
    let mut world = World::new(1, settings(), tenants, 5);
    world.count_from = 10 * SECOND;
    world.run(40);
    let (abuser, others) = world.tallies.split_last().unwrap();
    let offered: u64 = others.iter().map(|tally| tally.offered).sum();
    let lost: u64 = others.iter().map(|tally| tally.shed + tally.gave_up).sum();
    println!(
        "others lost {lost} of {offered}; the abuser was served {} of {}",
        abuser.served, abuser.offered
    );
    assert!(lost * 100 <= offered, "{lost} of {offered}");
    assert!(abuser.served > 1_500 && abuser.shed > 3_000);
}

#[test]
fn the_culprit_is_named_within_seconds() {
    let mut populations = mix(1, 0);
    populations[STORM] = Population::lists(6, LIST, 40).between(30, 90);
    let mut world = World::new(1, settings(), populations, 7);
    world.run(30);
    assert_eq!(world.engine.culprit(), None);
    world.run(36);
    let culprit = world.engine.culprit().expect("named");
    assert_eq!(culprit.tenant.tenant, STORM as u64);
    assert_eq!(culprit.tenant.shape, Some(STORM as u64));
    assert!(culprit.herd && culprit.tenant.share > 0.5, "{culprit:?}");
    let since = culprit.tenant.since.expect("it has grown").as_micros();
    assert!((30 * SECOND..32 * SECOND).contains(&since), "{since}");
    world.run(125);
    assert_eq!(world.engine.culprit(), None);
}

#[test]
fn who_ignores_retry_after_is_served_after_those_who_keep_to_it() {
    let mut populations = mix(1, 40);
    populations.push(Population {
        patience: 0.05,
        ..populations[STORM].clone()
    });
    // One run alone depends on who happens to be first.
    let (mut polite, mut rude) = ((0, 0), (0, 0));
    for seed in 1..=5 {
        let mut world = World::new(1, settings(), populations.clone(), seed);
        world.count_from = 10 * SECOND;
        world.run(70);
        let sum = |sum: &mut (u64, u64), nth: usize| {
            let tally = &world.tallies[nth];
            *sum = (sum.0 + tally.work, sum.1 + tally.offered);
        };
        sum(&mut polite, STORM);
        sum(&mut rude, STORM + 1);
    }
    println!(
        "polite {:.1} s in {} requests, rude {:.1} s in {} requests",
        polite.0 as f64 / 1e6,
        polite.1,
        rude.0 as f64 / 1e6,
        rude.1
    );
    assert!(rude.1 > 3 * polite.1, "the scenario tests nothing");
    assert!(polite.0 as f64 > 1.25 * rude.0 as f64);
}
