//! What a class may use whatever more important ones ask for.

use super::bench::{Bench, ask, excess, settings};
use crate::admission::engine::Fate;
use crate::admission::{Kind, Outcome, SLICE_US, Settings};

/// Class 5 is guaranteed this share of both bounds.
fn guaranteed(share: f32) -> Settings {
    let mut settings = settings();
    settings.classes[5].guarantee = share;
    settings
}

/// Writes of class 4 take the limit and are refused all the time.
fn stormed(settings: Settings) -> Bench {
    let mut bench = Bench::new(settings);
    for _ in 0..20 {
        for _ in 0..20 {
            bench.offer(ask(4, Kind::Short, 20_000));
        }
        bench.tick(100, &excess(15));
    }
    bench
}

#[test]
fn without_a_guarantee_a_storm_of_the_more_important_leaves_nothing() {
    let mut bench = stormed(settings());
    assert_eq!(bench.offer(ask(5, Kind::Long, 200_000)), "waiting");
    assert_eq!(bench.offer(ask(5, Kind::Short, 1_000)), "waiting");
    bench.end();
}

#[test]
fn what_is_guaranteed_starts_whoever_else_waits_and_not_more_than_that() {
    let mut bench = stormed(guaranteed(0.1));
    let limit = bench.engine.view(bench.now).limit.ceiling.as_micros() as u64;
    let mut held = 0;
    while bench.offer(ask(5, Kind::Short, 10_000)) == "admitted" {
        held += 10_000;
    }
    assert!((limit / 10 - 10_000..=limit / 10).contains(&held), "{held}");
    // Of long work one at a time, though it is more than a tenth of the breadth.
    assert_eq!(bench.offer(ask(5, Kind::Long, 200_000)), "admitted");
    assert_eq!(bench.offer(ask(5, Kind::Long, 200_000)), "waiting");
    assert_eq!(
        bench.offer(ask(6, Kind::Long, 200_000)),
        "waiting",
        "nobody else's"
    );
    bench.end();
}

#[test]
fn who_waits_for_what_is_guaranteed_gets_it_in_turn() {
    let mut bench = stormed(guaranteed(0.1));
    assert_eq!(bench.offer(ask(5, Kind::Long, 200_000)), "admitted");
    assert_eq!(bench.offer(ask(5, Kind::Long, 200_000)), "waiting");
    let of_five = |bench: &Bench| {
        bench
            .permits
            .iter()
            .filter(|permit| permit.class().0 == 5)
            .count()
    };
    let at = bench
        .permits
        .iter()
        .position(|permit| permit.class().0 == 5);
    bench
        .permits
        .remove(at.unwrap())
        .finish(Outcome::Served, bench.now);
    bench.read();
    assert_eq!(of_five(&bench), 1, "the one that waited");
    assert_eq!(bench.offer(ask(5, Kind::Long, 200_000)), "waiting");
    bench.end();
}

#[test]
fn a_guarantee_is_foreseen() {
    let mut bench = stormed(guaranteed(0.1));
    let foreseen = bench.engine.foresee(ask(5, Kind::Long, 200_000), bench.now);
    assert_eq!(foreseen.fate, Fate::Starts);
    assert!(foreseen.guaranteed && foreseen.others_first);
    let of_bulk = bench.engine.foresee(ask(6, Kind::Long, 200_000), bench.now);
    assert_ne!(of_bulk.fate, Fate::Starts);
    // Of which nothing remains.
    assert_eq!(SLICE_US, ask(5, Kind::Long, 200_000).cost.held_us());
    let again = bench.engine.foresee(ask(5, Kind::Long, 200_000), bench.now);
    assert_eq!(again.fate, Fate::Starts);
    bench.end();
}

#[test]
fn where_there_is_room_nobody_is_said_to_need_a_guarantee() {
    let mut settings = settings();
    settings.classes[5].guarantee = 0.1;
    let mut bench = Bench::new(settings);
    let foreseen = bench.engine.foresee(ask(5, Kind::Long, 200_000), bench.now);
    assert_eq!((foreseen.fate, foreseen.guaranteed), (Fate::Starts, false));
    bench.end();
}

#[test]
fn what_is_guaranteed_starts_where_nobody_may_wait() {
    let mut settings = guaranteed(0.1);
    settings.queue.max_waiting = 0;
    let mut bench = stormed(settings);
    assert_eq!(bench.offer(ask(5, Kind::Long, 200_000)), "admitted");
    assert_ne!(bench.offer(ask(5, Kind::Long, 200_000)), "admitted");
    bench.end();
}
