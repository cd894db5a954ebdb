//! What holds whatever happens.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use proptest::prelude::*;

use super::bench::{Bench, excess, settings};
use crate::admission::{Ask, ClassId, Cost, Kind, Mode, Outcome, Settings, slot};

#[derive(Clone, Debug)]
enum Step {
    Offer(Ask),
    Finish(usize),
    Cancel(usize),
    Drop(usize),
    TrueUp(usize, Cost),
    Withdraw(usize),
    Tick {
        ms: u64,
        excess: u64,
        blind: bool,
        down: bool,
    },
    Reconfigure {
        mode: Mode,
        min_ms: u64,
        queue: usize,
    },
}

fn cost() -> impl Strategy<Value = Cost> {
    (
        prop_oneof![0..5_000_u64, 5_000..3_000_000_u64],
        prop_oneof![0..70_000_u64, 0..200_u64 << 20],
    )
        .prop_map(|(work_us, bytes)| Cost { work_us, bytes })
}

fn any_ask() -> impl Strategy<Value = Ask> {
    (0..9_u8, cost(), any::<bool>(), 0..4_u64).prop_map(|(class, cost, long, tenant)| Ask {
        class: ClassId(class),
        cost,
        kind: if long { Kind::Long } else { Kind::Short },
        tenant,
        instance: tenant,
        shape: 0,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => any_ask().prop_map(Step::Offer),
        4 => any::<usize>().prop_map(Step::Finish),
        2 => any::<usize>().prop_map(Step::Cancel),
        1 => any::<usize>().prop_map(Step::Drop),
        2 => (any::<usize>(), cost()).prop_map(|(at, cost)| Step::TrueUp(at, cost)),
        2 => any::<usize>().prop_map(Step::Withdraw),
        3 => (0..3_000_u64, 0..80_u64, 0..20_u8).prop_map(|(ms, excess, odd)| Step::Tick {
            ms, excess, blind: odd == 0, down: odd == 1,
        }),
        1 => (0..3_u8, 1..400_u64, 1..6_usize).prop_map(|(mode, min_ms, queue)| Step::Reconfigure {
            mode: [Mode::Off, Mode::Shadow, Mode::Enforce][mode as usize], min_ms, queue,
        }),
    ]
}

fn take<T>(from: &mut Vec<T>, at: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(at % from.len()))
}

impl Bench {
    fn go(&mut self, step: Step, reconfigurable: bool) {
        match step {
            Step::Offer(ask) => {
                self.offer(ask);
            }
            Step::Finish(at) => {
                if let Some(permit) = take(&mut self.permits, at) {
                    permit.finish(Outcome::Served, self.now);
                }
            }
            Step::Cancel(at) => {
                if let Some(permit) = take(&mut self.permits, at) {
                    permit.cancel(self.now);
                }
            }
            Step::Drop(at) => drop(take(&mut self.permits, at)),
            Step::TrueUp(at, cost) => {
                if let Some(mut permit) = take(&mut self.permits, at) {
                    permit.true_up(cost, self.now);
                    self.permits.push(permit);
                }
            }
            Step::Withdraw(at) => drop(take(&mut self.tickets, at)),
            Step::Tick {
                ms,
                excess: by,
                blind,
                down,
            } => {
                let mut signals = excess(by);
                signals.probe.blind = blind;
                signals.probe.down = down;
                self.tick(ms, &signals);
            }
            Step::Reconfigure {
                mode,
                min_ms,
                queue,
            } if reconfigurable => {
                let mut settings = settings();
                settings.mode = mode;
                settings.limit.min = Duration::from_millis(min_ms);
                settings.queue.max_waiting = queue;
                self.engine.reconfigure(settings, self.now);
            }
            Step::Reconfigure { .. } => {}
        }
        self.read();
    }
}

/// The red button admits whom it likes.
fn without_red_button() -> Settings {
    let mut settings = settings();
    for class in &mut settings.classes {
        class.max_shed_share = 1.0;
    }
    settings
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_doubled_whatever_happens(
        steps in prop::collection::vec(step(), 1..120),
        guarantee in prop_oneof![Just(0.0_f32), Just(0.2)],
    ) {
        let mut settings = settings();
        settings.classes[5].guarantee = guarantee;
        let mut bench = Bench::new(settings);
        for step in steps {
            bench.go(step, true);
            bench.assert_conserved();
            bench.assert_nobody_forgotten();
            bench.assert_bounded();
        }
        bench.end();
    }

    #[test]
    fn ceilings_hold_except_for_the_only_one_of_its_class(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut bench = Bench::new(without_red_button());
        for step in steps {
            let offer = matches!(step, Step::Offer(_));
            let before = bench.permits.len();
            bench.go(step, false);
            // Exactly one was admitted, by this very step: the newcomer, or one that stood
            // behind somebody whom the newcomer displaced.
            let Some(new) = bench.permits.last().filter(|permit| permit.class().0 > 0) else {
                continue;
            };
            if !offer || bench.permits.len() != before + 1 {
                continue;
            }
            let class = slot(new.class());
            let ledger = &bench.inner().front.ledgers[new.kind().index()];
            let held = ledger.held(class);
            let above: u64 = (0..class).map(|other| ledger.held(other).work()).sum();
            prop_assert!(held.running() == 1 || above + held.work() <= ledger.ceiling(class));
            let bytes = bench.inner().front.bytes.load(SeqCst);
            let counted = new.estimate().counted_bytes();
            let budget = bench.inner().front.byte_ceilings[class].load(SeqCst);
            prop_assert!(counted == 0 || bytes <= budget || bytes == counted);
        }
    }

    #[test]
    fn nobody_is_refused_while_the_same_from_a_less_important_class_is_admitted(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut bench = Bench::new(without_red_button());
        for step in steps {
            let offered = match &step { Step::Offer(ask) => Some(*ask), _ => None };
            let Some(ask) = offered.filter(|ask| (1..7).contains(&ask.class.0)) else {
                bench.go(step, false);
                continue;
            };
            let ceiling = bench.inner().front.ledgers[ask.kind.index()].ceiling(slot(ask.class));
            // A whale waits until its own class is idle, and its class behind it; that is
            // no reason to stop the others.
            let behind_a_whale = {
                let desk = bench.inner().desk();
                let head = desk.queues[ask.kind.index()][slot(ask.class)].head();
                head.is_some_and(|head| head.ask.cost.held_us() > ceiling)
            };
            let whale = behind_a_whale || ask.cost.bounded().held_us() > ceiling;
            if bench.offer(ask) == "admitted" || whale { continue }
            for class in ask.class.0 + 1..8 {
                prop_assert_ne!(bench.offer(Ask { class: ClassId(class), ..ask }), "admitted");
            }
        }
    }
}
