use super::super::probe::ProbeView;
use super::*;

const LIST: u64 = SLICE_US;

struct Bench {
    tuner: Tuner,
    now: Time,
}

impl Bench {
    fn new() -> Self {
        let settings = Settings::default();
        Self {
            tuner: Tuner::new(&settings, Time(0)),
            now: Time(0),
        }
    }

    fn step(&mut self, signals: &Signals, short: Use, long: Use) -> TunerState {
        self.now += Duration::from_millis(100);
        self.tuner.step(signals, &[short, long], self.now);
        self.tuner.state().0
    }

    fn steps(&mut self, count: usize, signals: &Signals, short: Use, long: Use) {
        for _ in 0..count {
            self.step(signals, short, long);
        }
    }

    fn breadth(&self) -> u64 {
        self.tuner.bound(Kind::Long)
    }

    fn limit(&self) -> u64 {
        self.tuner.bound(Kind::Short)
    }
}

fn excess(ms: u64) -> Signals {
    Signals::of(ProbeView::calm().with_excess(Duration::from_millis(ms)))
}

fn lists(running: u64, waiting: bool) -> Use {
    Use {
        outstanding: running * LIST,
        running,
        reached: running * LIST,
        served: running * LIST,
        need: waiting.then_some(Need {
            share: 1.0,
            held_us: LIST,
            class: 6,
        }),
    }
}

const IDLE: Use = Use {
    outstanding: 0,
    running: 0,
    reached: 0,
    served: 0,
    need: None,
};

#[test]
fn breadth_grows_by_one_request_at_a_time_and_watches_each_step() {
    let mut bench = Bench::new();
    bench.step(&excess(1), IDLE, lists(1, true));
    assert_eq!(bench.breadth() / LIST, 2);
    bench.steps(5, &excess(1), IDLE, lists(2, true));
    assert_eq!(bench.breadth() / LIST, 2, "still watching");
    bench.step(&excess(1), IDLE, lists(2, true));
    assert_eq!(bench.breadth() / LIST, 3);
}

#[test]
fn nothing_grows_unless_somebody_waits_or_while_the_probe_is_not_calm() {
    let mut bench = Bench::new();
    let before = bench.breadth();
    bench.steps(100, &excess(1), IDLE, lists(1, false));
    bench.steps(100, &excess(15), IDLE, lists(1, true));
    assert_eq!(bench.breadth(), before);
}

#[test]
fn a_step_that_led_to_a_brake_is_tried_again_later_and_later() {
    let mut bench = Bench::new();
    let mut tries = Vec::new();
    for window in 0..3_000 {
        let two = bench.breadth() >= 2 * LIST;
        let signals = excess(if two { 34 } else { 5 });
        if bench.step(&signals, IDLE, lists(1 + u64::from(two), true)) == TunerState::Grow {
            tries.push(window);
        }
    }
    let gaps: Vec<_> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] >= 50, "{gaps:?}");
    assert!(gaps.windows(2).all(|pair| pair[1] >= pair[0]), "{gaps:?}");
    assert!(
        gaps.last().is_some_and(|gap| (600..700).contains(gap)),
        "{gaps:?}"
    );
}

#[test]
fn the_brake_takes_from_long_work_first_and_from_short_work_only_beyond_what_one_list_explains() {
    let mut bench = Bench::new();
    let busy = Use {
        outstanding: 300_000,
        reached: 300_000,
        ..IDLE
    };
    let limit = bench.limit();
    bench.steps(40, &excess(30), busy, lists(1, true));
    assert_eq!(bench.breadth(), LIST, "at its floor");
    assert_eq!(bench.limit(), limit);
    bench.steps(40, &excess(60), busy, lists(1, true));
    assert!(bench.limit() < limit);
}

#[test]
fn a_brake_waits_until_the_last_one_has_shown_what_it_does() {
    let mut bench = Bench::new();
    for running in 1..10 {
        bench.steps(6, &excess(1), IDLE, lists(running, true));
    }
    let before = bench.breadth();
    // Ten run and none ends: one cautious brake, then patience.
    bench.steps(20, &excess(22), IDLE, lists(10, true));
    let after = bench.breadth();
    assert!(
        after < before && after >= before * 9 / 10,
        "{before} {after}"
    );
}

#[test]
fn a_single_bad_window_does_not_brake() {
    let mut bench = Bench::new();
    bench.steps(30, &excess(1), IDLE, lists(3, true));
    let before = bench.breadth();
    bench.step(&excess(200), IDLE, lists(3, false));
    bench.step(&excess(1), IDLE, lists(3, false));
    assert!(bench.breadth() >= before);
}

#[test]
fn delay_without_load_shrinks_nothing() {
    let mut bench = Bench::new();
    let before = (bench.limit(), bench.breadth());
    bench.steps(100, &excess(500), IDLE, IDLE);
    assert_eq!((bench.limit(), bench.breadth()), before);
    assert_eq!(
        bench.tuner.state(),
        (TunerState::Hold, Reason::NothingToTake)
    );
}

#[test]
fn the_servers_own_refusals_brake() {
    for signals in [
        Signals {
            upstream_429: 5,
            ..excess(0)
        },
        Signals {
            upstream_504: 5,
            ..excess(0)
        },
        Signals {
            connect_failures: 5,
            ..excess(0)
        },
        Signals {
            memory: Some(crate::admission::Memory {
                used: 95,
                limit: 100,
                stalled: 0.0,
            }),
            ..excess(0)
        },
    ] {
        let mut bench = Bench::new();
        bench.steps(30, &excess(1), IDLE, lists(3, true));
        let before = bench.breadth();
        assert_eq!(
            bench.step(&signals, IDLE, lists(3, true)),
            TunerState::Brake
        );
        assert!(bench.breadth() < before);
    }
}

#[test]
fn blindness_opens_everything_and_sight_restores_what_was_learnt() {
    let mut bench = Bench::new();
    bench.steps(8, &excess(1), IDLE, lists(2, true));
    let before = (bench.limit(), bench.breadth());
    let blind = Signals::of(ProbeView {
        blind: true,
        ..ProbeView::calm()
    });
    assert_eq!(
        bench.step(&blind, IDLE, lists(2, true)),
        TunerState::FailOpen
    );
    assert_eq!((bench.limit(), bench.breadth()), (30_000_000, 30_000_000));
    bench.step(&excess(15), IDLE, lists(2, true));
    assert_eq!((bench.limit(), bench.breadth()), before);
}

#[test]
fn after_an_outage_the_bounds_double_every_second_until_the_first_brake() {
    let mut bench = Bench::new();
    for running in 1..10 {
        bench.steps(7, &excess(1), IDLE, lists(running, true));
    }
    let good = bench.breadth();
    let down = Signals::of(ProbeView {
        down: true,
        ..ProbeView::calm()
    });
    bench.steps(30, &down, IDLE, IDLE);
    assert_eq!(
        bench.step(&excess(1), IDLE, lists(1, true)),
        TunerState::SlowStart
    );
    assert!(
        bench.breadth() <= good * 3 / 11,
        "{} of {good}",
        bench.breadth()
    );
    bench.steps(10, &excess(1), IDLE, lists(1, true));
    assert!(
        (good * 4 / 9..good * 5 / 9).contains(&bench.breadth()),
        "{} of {good}",
        bench.breadth()
    );
    bench.steps(3, &excess(100), IDLE, lists(2, true));
    let braked = bench.breadth();
    bench.steps(10, &excess(15), IDLE, lists(1, true));
    assert_eq!(
        bench.breadth(),
        braked,
        "slow start ends with the first brake"
    );
}

#[test]
fn an_idle_limit_stays_and_unused_breadth_decays_to_where_it_started() {
    let mut bench = Bench::new();
    let start = bench.breadth();
    for running in 1..6 {
        bench.steps(7, &excess(1), IDLE, lists(running, true));
    }
    let limit = bench.limit();
    bench.steps(150, &excess(1), IDLE, IDLE);
    assert!(bench.breadth() > start);
    bench.steps(2_000, &excess(1), IDLE, IDLE);
    assert_eq!((bench.limit(), bench.breadth()), (limit, start));
}

#[test]
fn growth_that_gets_no_more_done_is_taken_back() {
    let mut bench = Bench::new();
    // The probe sees nothing, but whatever is admitted, no more is served: etcd is slow.
    let mut most = 0;
    for _ in 0..1_200 {
        let running = (bench.breadth() / LIST).max(1);
        most = most.max(running);
        bench.step(
            &excess(1),
            IDLE,
            Use {
                served: LIST,
                ..lists(running, true)
            },
        );
    }
    assert!(most < 20, "{most}");
}

/// Windows that a limit of which every step is too much waits for the next one in the end, on a
/// server whose probe is `ms` late otherwise.
fn last_wait_of_the_limit(ms: u64) -> usize {
    let mut bench = Bench::new();
    let wanted = Use {
        outstanding: 90_000,
        running: 20,
        reached: 90_000,
        served: 90_000,
        need: Some(Need {
            share: 0.5,
            held_us: 5_000,
            class: 4,
        }),
    };
    let mut tries = Vec::new();
    for window in 0..4_000 {
        let signals = excess(if bench.limit() > 95_000 { 60 } else { ms });
        if bench.step(&signals, wanted, IDLE) == TunerState::Grow {
            tries.push(window);
        }
    }
    // Several small steps may make one that is too much.
    let gaps = tries.windows(2).rev().take(4).map(|pair| pair[1] - pair[0]);
    gaps.max().expect("it was tried again and again")
}

#[test]
fn a_limit_that_was_too_much_is_tried_again_soon_while_the_probe_is_calm() {
    let (late, calm) = (last_wait_of_the_limit(8), last_wait_of_the_limit(1));
    assert!((600..700).contains(&late), "{late} windows");
    assert!((50..70).contains(&calm), "{calm} windows");
}

fn writes(outstanding: u64, waiting: bool) -> Use {
    Use {
        outstanding,
        running: outstanding / 2_000,
        reached: outstanding,
        served: outstanding,
        need: waiting.then_some(Need {
            share: 1.0,
            held_us: 2_000,
            class: 3,
        }),
    }
}

#[test]
fn a_brake_of_the_limit_leaves_room_for_the_bursts_of_a_moment_ago() {
    let mut bench = Bench::new();
    bench.steps(5, &excess(0), writes(350_000, false), IDLE);
    bench.steps(10, &excess(0), writes(20_000, false), IDLE);
    bench.steps(2, &excess(21), writes(20_000, false), IDLE);
    assert_eq!(bench.tuner.state().0, TunerState::Brake);
    assert!(bench.limit() >= 350_000, "{}", bench.limit());
    // What nobody used for three seconds goes.
    let mut bench = Bench::new();
    bench.steps(5, &excess(0), writes(350_000, false), IDLE);
    bench.steps(30, &excess(0), writes(20_000, false), IDLE);
    bench.steps(2, &excess(21), writes(20_000, false), IDLE);
    assert!(bench.limit() <= 50_000, "{}", bench.limit());
}

#[test]
fn long_work_that_must_wait_does_not_keep_the_limit_from_growing_but_the_other_way_round_it_does() {
    let mut bench = Bench::new();
    let important = Use {
        need: Some(Need {
            share: 1.0,
            held_us: LIST,
            class: 1,
        }),
        ..lists(3, true)
    };
    // A step of the breadth was one too many: the next must wait.
    bench.steps(30, &excess(0), IDLE, important);
    bench.steps(3, &excess(25), IDLE, important);
    let (limit, breadth) = (bench.limit(), bench.breadth());
    bench.steps(20, &excess(8), writes(limit, true), important);
    assert!(bench.limit() > limit);
    assert_eq!(bench.breadth(), breadth);

    let mut bench = Bench::new();
    // The limit has room nowhere: it is as wide as it goes.
    bench.tuner.dials[0].set(u64::MAX);
    bench.steps(20, &excess(0), writes(1_000, true), lists(3, true));
    assert_eq!(
        bench.breadth(),
        Settings::default().initial_breadth.as_micros() as u64
    );
}
