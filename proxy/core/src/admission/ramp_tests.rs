use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::admission::{Cost, Kind};

const TARGET: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(2);
const TICK: u64 = 100_000;

fn ask(class: u8, tenant: u64) -> Ask {
    Ask {
        class: ClassId(class),
        cost: Cost {
            work_us: 500,
            bytes: 0,
        },
        kind: Kind::Short,
        tenant,
        instance: tenant,
        shape: 0,
    }
}

fn calm() -> ProbeView {
    ProbeView::calm()
}

fn offer(ramp: &Ramp<u64>, class: u8, id: u64, now: u64) -> Start {
    ramp.offer(&ask(class, id), PATIENCE, 1_000, Time(now), || id)
}

#[test]
fn a_controller_managers_watches_begin_at_once() {
    let ramp = Ramp::new(Time(0));
    for id in 0..64 {
        assert!(matches!(offer(&ramp, 1, id, id), Start::Now));
    }
    assert_eq!(ramp.view().waiting, 0);
}

#[test]
fn it_is_over_within_seconds_on_a_calm_server() {
    let ramp = Ramp::<u64>::new(Time(0));
    let over = (1..100).find(|tick| {
        let _ = ramp.tick(&calm(), TARGET, Time(tick * TICK));
        ramp.is_over()
    });
    assert!(over.is_some_and(|tick| tick <= 60), "{over:?}");
    for id in 0..10_000 {
        assert!(matches!(offer(&ramp, 7, id, 10_000_000), Start::Now));
    }
}

#[test]
fn on_a_busy_server_it_halves_and_is_over_after_a_minute_all_the_same() {
    let ramp = Ramp::<u64>::new(Time(0));
    let busy = calm().with_excess(TARGET * 3);
    let mut rates = Vec::new();
    for tick in 1..=599 {
        let _ = ramp.tick(&busy, TARGET, Time(tick * TICK));
        rates.push(ramp.view().rate);
    }
    assert!(rates[10] < 140.0, "{}", rates[10]);
    assert_eq!(rates.last(), Some(&LEAST_RATE));
    let _ = ramp.tick(&busy, TARGET, Time(601 * TICK));
    assert!(ramp.is_over());
}

#[test]
fn an_outage_begins_another_and_what_is_not_seen_does_not() {
    let ramp = Ramp::<u64>::new(Time(0));
    let blind = ProbeView {
        blind: true,
        ..calm()
    };
    let down = ProbeView {
        down: true,
        ..calm()
    };
    let _ = ramp.tick(&blind, TARGET, Time(TICK));
    assert!(ramp.is_over(), "fails open");
    let _ = ramp.tick(&down, TARGET, Time(2 * TICK));
    for id in 0..2 * u64::from(BURST) {
        assert!(matches!(offer(&ramp, 1, id, 2 * TICK), Start::Now));
    }
    let _ = ramp.tick(&calm(), TARGET, Time(3 * TICK));
    let waits = (0..2 * u64::from(BURST))
        .filter(|id| !matches!(offer(&ramp, 1, *id, 3 * TICK), Start::Now))
        .count();
    assert_eq!(waits, BURST as usize);
}

#[test]
fn those_who_wait_when_the_server_goes_away_are_let_go() {
    let ramp = Ramp::new(Time(0));
    for id in 0..u64::from(BURST) + 10 {
        offer(&ramp, 1, id, 0);
    }
    let down = ProbeView {
        down: true,
        ..calm()
    };
    assert_eq!(ramp.tick(&down, TARGET, Time(TICK)).begin.len(), 10);
}

#[test]
fn who_leaves_takes_nobodys_turn() {
    let ramp = Ramp::new(Time(0));
    for id in 0..u64::from(BURST) {
        offer(&ramp, 1, id, 0);
    }
    let Start::Waits(first) = offer(&ramp, 1, 1_000, 0) else {
        panic!("does not wait")
    };
    offer(&ramp, 1, 1_001, 0);
    ramp.leave(first);
    let told = ramp.tick(&calm(), TARGET, Time(TICK));
    assert_eq!(told.begin, [1_001]);
}

proptest! {
    /// Whatever comes and whatever the probe says: no more begin than the rate allows, nobody
    /// begins before somebody more important who waited already, no queue outgrows its bound,
    /// and everybody is told exactly once.
    #[test]
    fn watches_begin_in_order_and_no_faster_than_allowed(
        arrivals in prop::collection::vec((0_u8..8, 0_u64..40, 0_u64..600), 1..40),
        delays in prop::collection::vec(0_u64..60, 70),
    ) {
        const MOST: usize = 50;
        let ramp = Ramp::new(Time(0));
        let mut waiting: HashMap<u64, (u8, u64)> = HashMap::new();
        let (mut begun, mut allowed, mut next) = (0.0, f64::from(BURST), 0_u64);
        for (tick, delay) in delays.iter().enumerate() {
            let now = tick as u64 * TICK;
            for (class, _, many) in arrivals.iter().filter(|(_, at, _)| *at == tick as u64) {
                for _ in 0..*many {
                    next += 1;
                    let id = next;
                    match ramp.offer(&ask(*class, id % 5), PATIENCE, MOST, Time(now), || id) {
                        Start::Now => {
                            let before = waiting.values().any(|(other, _)| other <= class);
                            prop_assert!(!before || ramp.is_over());
                            begun += 1.0;
                        }
                        Start::Waits(_) => {
                            waiting.insert(id, (*class, now));
                        }
                        Start::Refused => {}
                    }
                }
            }
            let rate = ramp.view().rate;
            let view = calm().with_excess(Duration::from_millis(*delay));
            let now = now + TICK;
            let told = ramp.tick(&view, TARGET, Time(now));
            allowed += rate.max(ramp.view().rate) * 0.1;
            let mut last = 0;
            for id in &told.begin {
                let (class, _) = waiting.remove(id).expect("waits");
                prop_assert!(class >= last);
                last = class;
                begun += 1.0;
            }
            for id in &told.refused {
                prop_assert!(waiting.remove(id).is_some());
            }
            let mut by_class = [0; 8];
            for (class, since) in waiting.values() {
                by_class[usize::from(*class)] += 1;
                prop_assert!(now - since <= PATIENCE.as_micros() as u64 + TICK);
            }
            // Displaced ones are told with the next tick.
            prop_assert!(ramp.view().waiting <= 8 * MOST);
            prop_assert!(ramp.is_over() || begun <= allowed + 1.0, "{begun} of {allowed}");
        }
        prop_assert_eq!(ramp.view().waiting, waiting.len());
    }
}
