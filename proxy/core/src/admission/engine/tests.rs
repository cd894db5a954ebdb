mod bench;
mod early;
mod guarantee;
mod properties;
mod withheld;

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::*;
use crate::admission::probe::ProbeView;
use crate::admission::{ClassId, Cost, Decision, Kind, Memory, Outcome, Override};
use bench::{Bench, ask, excess, settings};

#[test]
fn a_waiter_is_admitted_by_the_permit_that_makes_room() {
    let mut bench = Bench::new(settings());
    assert_eq!(bench.offer(ask(6, Kind::Long, 200_000)), "admitted");
    assert_eq!(bench.offer(ask(6, Kind::Long, 200_000)), "waiting");
    assert_eq!(
        bench.offer(ask(3, Kind::Short, 1_000)),
        "admitted",
        "short calls go on"
    );
    let first = bench.permits.remove(0);
    first.finish(Outcome::Served, Time(5));
    bench.read();
    assert_eq!((bench.permits.len(), bench.tickets.len()), (2, 0));
    bench.end();
}

#[test]
fn room_goes_to_the_most_important_that_waits() {
    let mut bench = Bench::new(settings());
    bench.offer(ask(6, Kind::Long, 200_000));
    for class in [7, 6, 5] {
        assert_eq!(bench.offer(ask(class, Kind::Long, 200_000)), "waiting");
    }
    for expected in [5, 6, 7] {
        bench.permits.remove(0).finish(Outcome::Served, bench.now);
        bench.read();
        assert_eq!(bench.permits.len(), 1);
        assert_eq!(bench.permits[0].class(), ClassId(expected));
    }
    bench.end();
}

#[test]
fn waiters_are_refused_at_their_deadline() {
    let mut bench = Bench::new(settings());
    bench.offer(ask(6, Kind::Long, 200_000));
    // As long as nobody was refused, four times as long: it may be a burst.
    for patience in [8_000, 2_000] {
        bench.offer(ask(6, Kind::Long, 200_000));
        bench.tick(patience - 100, &excess(15));
        assert_eq!(bench.tickets.len(), 1);
        bench.tick(200, &excess(15));
        assert_eq!((bench.tickets.len(), bench.permits.len()), (0, 1));
        bench.tick(100, &excess(15));
    }
    bench.end();
}

#[test]
fn long_requests_that_end_seldom_are_waited_for() {
    let mut bench = Bench::new(settings());
    let list = ask(6, Kind::Long, 500_000);
    bench.offer(list);
    bench.offer(list);
    bench.tick(8_100, &excess(15));
    assert!(bench.tickets.is_empty(), "refused: no burst");
    let end_one = |bench: &mut Bench| {
        let ended = bench.permits.remove(0);
        ended.finish(Outcome::Served, bench.now);
        bench.read();
        bench.tick(100, &excess(15));
    };
    // One takes ten seconds, and the next one is still there when it ends.
    end_one(&mut bench);
    bench.offer(list);
    bench.offer(list);
    bench.tick(10_000, &excess(15));
    assert_eq!(bench.tickets.len(), 1);
    end_one(&mut bench);
    assert_eq!((bench.tickets.len(), bench.permits.len()), (0, 1));
    // This one never ends: after a while nobody waits for it any longer than otherwise.
    bench.tick(16_000, &excess(15));
    bench.offer(list);
    bench.tick(8_100, &excess(15));
    assert!(bench.tickets.is_empty());
    bench.end();
}

#[test]
fn a_manager_that_begins_its_watches_on_an_idle_server_is_not_refused_for_a_guess() {
    let mut bench = Bench::new(Settings::default());
    // Nobody has seen these: half a second each, sixty of them. They take 10 ms.
    for _ in 0..60 {
        assert_ne!(bench.offer(ask(1, Kind::Long, 500_000)), "shed");
    }
    for _ in 0..60 {
        bench.tick(10, &excess(0));
        let ended = bench.permits.remove(0);
        ended.finish(Outcome::Served, bench.now);
        bench.read();
    }
    assert_eq!(bench.tickets.len(), 0, "all were admitted");
    bench.end();
}

#[test]
fn once_waiting_was_in_vain_no_more_wait_than_can_be_served() {
    let mut bench = Bench::new(Settings::default());
    let mut ask = ask(6, Kind::Long, 500_000);
    let mut herd = |bench: &mut Bench| -> usize {
        let waits = |_: &u64| {
            ask.tenant += 1;
            bench.offer(ask) == "waiting"
        };
        (0..100_u64).filter(waits).count()
    };
    assert_eq!(herd(&mut bench), 99);
    // Nothing ends, and their time is up.
    bench.tick(8_100, &excess(15));
    bench.tick(100, &excess(15));
    assert_eq!(bench.tickets.len(), 0);
    assert_eq!(herd(&mut bench), 4, "two seconds of one core");
    bench.end();
}

#[test]
fn short_work_that_keeps_long_work_out_makes_the_limit_grow() {
    let mut bench = Bench::new(settings());
    // More than bulk sees of the limit, and less than its own class does: no short work waits.
    let limit = bench.engine.view(bench.now).limit.ceiling;
    while bench.offer(ask(4, Kind::Short, 10_000)) == "admitted"
        && bench.permits.len() * 10 < limit.as_millis() as usize / 2
    {}
    assert_eq!(bench.offer(ask(6, Kind::Long, 1_000)), "waiting");
    bench.tick(100, &excess(1));
    assert!(bench.engine.view(bench.now).limit.ceiling > limit);
    bench.end();
}

#[test]
fn long_work_of_the_less_important_waits_a_moment_after_a_refusal() {
    let mut bench = Bench::new(settings());
    // The limit is full, and what waits for it is refused in the end.
    for _ in 0..40 {
        bench.offer(ask(4, Kind::Short, 100_000));
    }
    bench.tick(1_100, &excess(15));
    assert!(bench.tickets.is_empty());
    bench.permits.clear();
    assert_eq!(bench.offer(ask(5, Kind::Long, 1_000)), "waiting");
    assert_eq!(bench.offer(ask(4, Kind::Long, 1_000)), "admitted");
    assert_eq!(bench.offer(ask(5, Kind::Short, 1_000)), "admitted");
    bench.tick(101, &excess(15));
    assert!(bench.tickets.is_empty(), "the moment is over");
    assert_eq!(bench.offer(ask(5, Kind::Long, 1_000)), "admitted");
    bench.end();
}

#[test]
fn long_requests_of_the_important_wait_longer() {
    let mut bench = Bench::new(Settings::default());
    for class in [1, 1, 6] {
        bench.offer(ask(class, Kind::Long, 200_000));
    }
    bench.tick(8_100, &excess(15));
    assert_eq!(bench.tickets.len(), 0);
    bench.tick(100, &excess(15));
    // Somebody of both was refused.
    for class in [1, 6] {
        bench.offer(ask(class, Kind::Long, 200_000));
    }
    bench.tick(2_100, &excess(15));
    assert_eq!(bench.tickets.len(), 1, "that of class 1");
    bench.tick(6_000, &excess(15));
    assert_eq!(bench.tickets.len(), 0);
    bench.end();
}

#[test]
fn whoever_sees_nothing_bounds_no_bytes_but_by_the_memory_it_knows_of() {
    const MIB: u64 = 1 << 20;
    let mut bench = Bench::new(settings());
    let large = |class| {
        let mut ask = ask(class, Kind::Long, 1_000);
        ask.cost.bytes = 60 * MIB;
        ask
    };
    assert_eq!(bench.offer(large(6)), "admitted");
    assert_eq!(bench.offer(large(6)), "waiting", "100 MiB are configured");
    let blind = Signals::of(ProbeView {
        blind: true,
        ..ProbeView::calm()
    });
    bench.tick(100, &blind);
    assert_eq!(bench.tickets.len(), 0);
    for _ in 0..50 {
        assert_eq!(bench.offer(large(6)), "admitted");
    }
    let memory = Memory {
        used: 5 << 30,
        limit: 8 << 30,
        stalled: 0.0,
    };
    let memory = Signals {
        memory: Some(memory),
        ..blind
    };
    bench.tick(100, &memory);
    assert_eq!(bench.offer(large(6)), "waiting", "the memory is filling");
    bench.tick(100, &excess(0));
    assert_eq!(bench.engine.view(bench.now).bytes_budget, 100 * MIB);
    bench.end();
}

#[test]
fn a_permit_granted_to_a_client_that_has_gone_is_given_back() {
    let mut bench = Bench::new(settings());
    bench.offer(ask(6, Kind::Long, 200_000));
    bench.offer(ask(6, Kind::Long, 200_000));
    bench.permits.clear();
    // Decided, but its client is gone before it looks.
    bench.tickets.clear();
    bench.inbox.lock().unwrap().clear();
    bench.assert_conserved();
    assert_eq!(bench.offer(ask(6, Kind::Long, 200_000)), "admitted");
    bench.end();
}

#[test]
fn a_cancelled_list_keeps_its_seat_for_a_while() {
    let mut bench = Bench::new(settings());
    bench.offer(ask(6, Kind::Long, 700_000));
    bench.permits.remove(0).cancel(Time(300_000));
    bench.tick(600, &excess(0));
    assert_eq!(bench.offer(ask(6, Kind::Long, 700_000)), "waiting");
    bench.tick(100, &excess(0));
    assert_eq!(bench.permits.len(), 1);
    bench.end();
}

#[test]
fn life_signs_pass_everybody_and_stop_only_at_their_own_bound() {
    let mut bench = Bench::new(settings());
    while bench.offer(ask(1, Kind::Short, 20_000)) == "admitted" {}
    assert_eq!(bench.offer(ask(0, Kind::Short, 1_000)), "admitted");
    let mut count = 1;
    while bench.offer(ask(0, Kind::Short, 20_000)) == "admitted" {
        count += 1;
    }
    assert!((200..300).contains(&count), "5 s by 20 ms: {count}");
    let refusal = Refusal {
        class: ClassId(0),
        kind: Kind::Short,
        shed: Shed::HardBound,
        waited: Duration::ZERO,
        client: 0,
    };
    assert_eq!(
        bench.engine.retry_after(&refusal, u64::MAX, 32, bench.now),
        1
    );
    bench.end();
}

#[test]
fn off_and_shadow_admit_everything_and_hold_nothing_back() {
    for mode in [Mode::Off, Mode::Shadow] {
        let mut bench = Bench::new(Settings { mode, ..settings() });
        for _ in 0..100 {
            assert_eq!(bench.offer(ask(6, Kind::Long, 200_000)), "admitted");
        }
        let would = bench
            .permits
            .iter()
            .filter(|permit| permit.shadow().is_some())
            .count();
        assert_eq!(would > 0, mode == Mode::Shadow);
        assert_eq!(bench.engine.view(bench.now).classes[6].uncounted, 100);
        bench.end();
    }
}

#[test]
fn a_class_may_differ_in_mode_and_in_whom_it_is_enforced_for() {
    let mut changed = settings();
    changed.overrides[6] = Some(Override {
        mode: Mode::Shadow,
        enforced_tenants: 1.0,
    });
    changed.overrides[5] = Some(Override {
        mode: Mode::Enforce,
        enforced_tenants: 0.0,
    });
    let mut bench = Bench::new(changed.clone());
    let outcomes = |bench: &mut Bench, class| -> Vec<_> {
        let offered = (0..20).map(|_| bench.offer(ask(class, Kind::Long, 200_000)));
        offered.collect()
    };
    for class in [5, 6] {
        let all = outcomes(&mut bench, class);
        assert!(
            all.iter().all(|offer| *offer == "admitted"),
            "{class}: {all:?}"
        );
    }
    let enforced = outcomes(&mut bench, 7);
    assert!(enforced.contains(&"waiting"), "{enforced:?}");
    let view = bench.engine.view(bench.now);
    assert_eq!(
        (view.classes[6].mode, view.classes[7].mode),
        (Mode::Shadow, Mode::Enforce)
    );
    // Off for one class lets go of whoever waits in it.
    changed.overrides[7] = Some(Override {
        mode: Mode::Off,
        enforced_tenants: 1.0,
    });
    bench.engine.reconfigure(changed, bench.now);
    bench.read();
    assert!(bench.tickets.is_empty());
    bench.end();
}

#[test]
fn what_is_foreseen_is_what_happens_and_leaves_no_trace() {
    let mut bench = Bench::new(settings());
    let long = ask(6, Kind::Long, 200_000);
    for expected in ["admitted", "waiting", "waiting"] {
        let before = bench.engine.view(bench.now);
        let foreseen = bench.engine.foresee(long, bench.now);
        assert_eq!(bench.engine.view(bench.now), before);
        assert_eq!(foreseen.mode, Mode::Enforce);
        assert_eq!(bench.offer(long), expected);
        match foreseen.fate {
            Fate::Starts => assert_eq!(expected, "admitted"),
            Fate::Waits(_) => assert_eq!(expected, "waiting"),
            Fate::Refused(shed) => panic!("{shed:?}"),
        }
    }
    bench.end();
}

#[test]
fn switching_off_admits_whoever_waits() {
    let mut bench = Bench::new(settings());
    for _ in 0..3 {
        bench.offer(ask(6, Kind::Long, 200_000));
    }
    bench.engine.reconfigure(
        Settings {
            mode: Mode::Off,
            ..settings()
        },
        bench.now,
    );
    bench.read();
    assert_eq!((bench.permits.len(), bench.tickets.len()), (3, 0));
    bench.end();
}

#[test]
fn only_the_enforced_share_of_tenants_is_refused() {
    let mut bench = Bench::new(Settings {
        enforced_tenants: 0.3,
        ..settings()
    });
    bench.offer(ask(6, Kind::Long, 200_000));
    let held_back = (0..1_000)
        .filter(|tenant| {
            bench.offer(Ask {
                tenant: *tenant,
                ..ask(6, Kind::Long, 200_000)
            }) != "admitted"
        })
        .count();
    assert!((200..400).contains(&held_back), "{held_back}");
    bench.end();
}

#[test]
fn the_red_button_admits_when_too_much_of_a_class_is_refused() {
    let mut settings = settings();
    settings.classes[6].max_shed_share = 0.5;
    let mut bench = Bench::new(settings);
    for _ in 0..50 {
        for _ in 0..20 {
            bench.offer(ask(6, Kind::Long, 200_000));
        }
        bench.tick(100, &excess(15));
    }
    let view = bench.engine.view(bench.now);
    assert!(view.classes[6].forced > 0 && view.classes[6].uncounted > 0);
    bench.end();
}

#[test]
fn a_chain_of_waiters_that_have_gone_is_not_a_chain_of_calls() {
    struct Gone;
    impl Wake for Gone {
        fn decide(self, _: Decision) {}
    }
    let mut settings = settings();
    settings.queue.max_waiting = 100_000;
    let engine: Engine<Gone> = Engine::new(settings, Time(0));
    let first = engine.offer(ask(1, Kind::Long, 20), Time(0), || Gone);
    let blocker = engine.offer(ask(1, Kind::Long, 900_000_000), Time(0), || Gone);
    let mut tickets = Vec::new();
    for tenant in 0..50_000 {
        let ask = Ask {
            tenant,
            ..ask(1, Kind::Long, 1)
        };
        if let Offer::Waiting(ticket) = engine.offer(ask, Time(0), || Gone) {
            tickets.push(ticket);
        }
    }
    drop(first);
    drop(blocker);
    assert_eq!(engine.inner.front.ledgers[1].total(), (0, 0));
}

#[test]
fn nobody_presses_the_red_button_alone_by_flooding() {
    let mut settings = settings();
    settings.classes[2].max_shed_share = 0.5;
    let mut bench = Bench::new(settings);
    let polite = ask(2, Kind::Short, 1_000);
    for _ in 0..100 {
        for tenant in 2..5 {
            bench.offer(Ask { tenant, ..polite });
        }
        for _ in 0..1_000 {
            bench.offer(Ask {
                tenant: 1,
                ..polite
            });
        }
        for permit in bench.permits.drain(..) {
            permit.finish(Outcome::Served, bench.now);
        }
        bench.read();
        bench.tick(100, &excess(0));
    }
    let view = bench.engine.view(bench.now).classes[2];
    assert!(view.shed > 1_000, "{view:?}");
    assert_eq!(view.forced, 0);
    bench.end();
}

#[test]
fn the_red_button_is_not_pressed_while_the_server_queues() {
    let mut settings = settings();
    settings.classes[6].max_shed_share = 0.1;
    let mut bench = Bench::new(settings);
    for _ in 0..50 {
        for _ in 0..5 {
            bench.offer(ask(6, Kind::Long, 500_000));
        }
        bench.tick(100, &excess(100));
    }
    assert_eq!(bench.engine.view(bench.now).classes[6].forced, 0);
    bench.end();
}

#[test]
fn threads_lose_no_permit_and_forget_no_waiter() {
    struct Counting {
        decided: Arc<AtomicUsize>,
        permits: Arc<Mutex<Vec<Permit>>>,
    }
    impl Wake for Counting {
        fn decide(self, decision: Decision) {
            self.decided.fetch_add(1, SeqCst);
            if let Decision::Admitted(permit) = decision {
                self.permits.lock().unwrap().push(permit);
            }
        }
    }
    let mut settings = settings();
    settings.queue.max_waiting = 50;
    let engine: Engine<Counting> = Engine::new(settings, Time(0));
    let decided = Arc::new(AtomicUsize::new(0));
    let waited = AtomicUsize::new(0);
    thread::scope(|scope| {
        for seed in 0..4_u64 {
            let (engine, decided, waited) = (engine.clone(), Arc::clone(&decided), &waited);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let granted: Arc<Mutex<Vec<Permit>>> = Arc::default();
                let (mut permits, mut tickets) = (Vec::new(), Vec::new());
                for round in 0..5_000_u64 {
                    let now = Time(round * 100);
                    let ask = Ask {
                        class: ClassId(random.u8(0..8)),
                        cost: Cost {
                            work_us: random.u64(1..40_000),
                            bytes: random.u64(0..1 << 20),
                        },
                        kind: if random.bool() {
                            Kind::Long
                        } else {
                            Kind::Short
                        },
                        tenant: random.u64(0..8),
                        instance: seed,
                        shape: 0,
                    };
                    let make = || Counting {
                        decided: Arc::clone(&decided),
                        permits: Arc::clone(&granted),
                    };
                    match engine.offer(ask, now, make) {
                        Offer::Admitted(permit) => permits.push(permit),
                        Offer::Waiting(ticket) => {
                            waited.fetch_add(1, SeqCst);
                            tickets.push(ticket);
                        }
                        Offer::Shed(_) => {}
                    }
                    permits.append(&mut granted.lock().unwrap());
                    while permits.len() > random.usize(0..30) {
                        let permit: Permit = permits.swap_remove(random.usize(..permits.len()));
                        match random.u8(0..4) {
                            0 => permit.cancel(now),
                            1 => drop(permit),
                            _ => permit.finish(Outcome::Served, now),
                        }
                    }
                    if random.u8(..) == 0 {
                        engine.tick(&excess(random.u64(0..40)), now);
                    }
                }
                // Nobody gives up here, so whoever still waits must be told in the end.
                drop(permits);
                let late = std::mem::take(&mut *granted.lock().unwrap());
                drop(late);
                tickets
            });
        }
    });
    // The threads' tickets are gone with them: every waiter was told or has withdrawn.
    for round in 0..20 {
        engine.tick(&excess(0), Time(10_000_000 + round * 1_000_000));
    }
    assert!(waited.load(SeqCst) > 0 && decided.load(SeqCst) <= waited.load(SeqCst));
    assert_eq!(engine.inner.front.ledgers[0].total(), (0, 0));
    assert_eq!(engine.inner.front.ledgers[1].total(), (0, 0));
    assert_eq!(engine.inner.front.bytes.load(SeqCst), 0);
    assert_eq!(engine.inner.front.closed.load(SeqCst), 0);
    assert!(!engine.inner.front.whale.load(SeqCst));
}
