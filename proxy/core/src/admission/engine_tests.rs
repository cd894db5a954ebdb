use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::thread;

use proptest::prelude::*;

use super::super::probe::ProbeView;
use super::*;

type Inbox = Arc<Mutex<Vec<(usize, Decision)>>>;

struct Waiter {
    id: usize,
    inbox: Inbox,
}

impl Wake for Waiter {
    fn decide(self, decision: Decision) {
        self.inbox.lock().unwrap().push((self.id, decision));
    }
}

/// An engine and everything it has handed out.
struct Bench {
    engine: Engine<Waiter>,
    now: Time,
    inbox: Inbox,
    permits: Vec<Permit>,
    tickets: Vec<(usize, Ticket)>,
    next: usize,
    told: HashSet<usize>,
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.queue.max_waiting = 5;
    settings.bytes = 100 << 20;
    settings
}

fn ask(class: u8, kind: Kind, work_us: u64) -> Ask {
    let cost = Cost { work_us, bytes: 0 };
    Ask {
        class: ClassId(class),
        cost,
        kind,
        tenant: 1,
        instance: 1,
    }
}

fn excess(ms: u64) -> Signals {
    Signals::of(ProbeView::calm().with_excess(Duration::from_millis(ms)))
}

impl Bench {
    fn new(settings: Settings) -> Self {
        Self {
            engine: Engine::new(settings, Time(0)),
            now: Time(0),
            inbox: Arc::default(),
            permits: Vec::new(),
            tickets: Vec::new(),
            next: 0,
            told: HashSet::new(),
        }
    }

    /// Offer, and keep what comes of it.
    fn offer(&mut self, ask: Ask) -> &'static str {
        self.next += 1;
        let (id, inbox) = (self.next, Arc::clone(&self.inbox));
        match self.engine.offer(ask, self.now, || Waiter { id, inbox }) {
            Offer::Admitted(permit) => {
                self.permits.push(permit);
                "admitted"
            }
            Offer::Waiting(ticket) => {
                self.tickets.push((id, ticket));
                self.read();
                if self.told.contains(&id) {
                    "admitted"
                } else {
                    "waiting"
                }
            }
            Offer::Shed(_) => "shed",
        }
    }

    fn read(&mut self) {
        let decisions = std::mem::take(&mut *self.inbox.lock().unwrap());
        for (id, decision) in decisions {
            assert!(self.told.insert(id), "told twice");
            if let Some(known) = self.tickets.iter().position(|(other, _)| *other == id) {
                drop(self.tickets.swap_remove(known));
            }
            if let Decision::Admitted(permit) = decision {
                self.permits.push(permit);
            }
        }
    }

    fn tick(&mut self, ms: u64, signals: &Signals) {
        self.now += Duration::from_millis(ms);
        self.engine.tick(signals, self.now);
        self.read();
    }

    fn inner(&self) -> &Inner<Waiter> {
        &self.engine.inner
    }

    /// What is held is what the permits and the lingering seats say, to the microsecond.
    fn assert_conserved(&self) {
        let mut work = [[0_u64; MAX_CLASSES]; 2];
        let mut running = work;
        let mut bytes = 0;
        let desk = self.inner().desk();
        let lingering = desk
            .lingering()
            .map(|seat| (seat.kind, seat.class, seat.charged));
        let permits = self
            .permits
            .iter()
            .map(|permit| (permit.kind(), permit.class(), permit.charged()));
        for (kind, class, charged) in lingering.chain(permits) {
            if let Some(charged) = charged {
                work[kind.index()][slot(class)] += charged.held_us();
                running[kind.index()][slot(class)] += 1;
                bytes += charged.counted_bytes();
            }
        }
        for kind in Kind::BOTH {
            for class in 0..MAX_CLASSES {
                let held = self.inner().ledgers[kind.index()].held(class);
                assert_eq!(held.work(), work[kind.index()][class], "{kind:?} {class}");
                assert_eq!(
                    held.running(),
                    running[kind.index()][class],
                    "{kind:?} {class}"
                );
            }
        }
        assert_eq!(self.inner().bytes.load(SeqCst), bytes);
    }

    /// Nobody waits who could run: each queue's head finds no room, down to the class
    /// that bars the rest.
    fn assert_nobody_forgotten(&self) {
        let desk = self.inner().desk();
        for kind in Kind::BOTH {
            for class in 0..MAX_CLASSES {
                let Some(head) = desk.queues[kind.index()][class].head() else {
                    continue;
                };
                match self.inner().charge(&head.ask, self.now) {
                    Ok(seat) => panic!("{seat:?} fits and waits"),
                    Err(NoRoom::Own) => {}
                    Err(_) => break,
                }
            }
        }
    }

    fn assert_bounded(&self) {
        let view = self.engine.view(self.now);
        for class in &view.classes {
            assert!(class.short.waiting <= 5 && class.long.waiting <= 5);
        }
    }

    /// End everything that can end.
    fn end(&mut self) {
        for _ in 0..20 {
            self.read();
            self.tickets.clear();
            self.permits.clear();
            self.tick(2_000, &excess(0));
        }
        self.permits.clear();
        assert_eq!(self.inner().ledgers[0].total(), (0, 0));
        assert_eq!(self.inner().ledgers[1].total(), (0, 0));
        assert_eq!(self.inner().bytes.load(SeqCst), 0);
        assert_eq!(self.inner().closed.load(SeqCst), 0);
        assert!(!self.inner().whale.load(SeqCst));
        assert!(
            self.inner()
                .uncounted
                .iter()
                .all(|count| count.load(SeqCst) == 0)
        );
    }
}

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_doubled_whatever_happens(steps in prop::collection::vec(step(), 1..120)) {
        let mut bench = Bench::new(settings());
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
        let mut bench = Bench::new(settings());
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
            let ledger = &bench.inner().ledgers[new.kind().index()];
            let held = ledger.held(class);
            let above: u64 = (0..class).map(|other| ledger.held(other).work()).sum();
            prop_assert!(held.running() == 1 || above + held.work() <= ledger.ceiling(class));
            let bytes = bench.inner().bytes.load(SeqCst);
            let counted = new.estimate().counted_bytes();
            let budget = bench.inner().byte_ceilings[class].load(SeqCst);
            prop_assert!(counted == 0 || bytes <= budget || bytes == counted);
        }
    }

    #[test]
    fn nobody_is_refused_while_the_same_from_a_less_important_class_is_admitted(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut settings = settings();
        // The red button admits whom it likes.
        settings.classes.iter_mut().for_each(|class| class.max_shed_share = 1.0);
        let mut bench = Bench::new(settings);
        for step in steps {
            let offered = match &step { Step::Offer(ask) => Some(*ask), _ => None };
            let Some(ask) = offered.filter(|ask| (1..7).contains(&ask.class.0)) else {
                bench.go(step, false);
                continue;
            };
            let ceiling = bench.inner().ledgers[ask.kind.index()].ceiling(slot(ask.class));
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
    bench.offer(ask(6, Kind::Long, 200_000));
    bench.tick(1_900, &excess(15));
    assert_eq!(bench.tickets.len(), 1);
    bench.tick(200, &excess(15));
    assert_eq!((bench.tickets.len(), bench.permits.len()), (0, 1));
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
    };
    assert_eq!(bench.engine.retry_after(&refusal, u64::MAX), 1);
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
    assert_eq!(engine.inner.ledgers[1].total(), (0, 0));
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
    assert_eq!(engine.inner.ledgers[0].total(), (0, 0));
    assert_eq!(engine.inner.ledgers[1].total(), (0, 0));
    assert_eq!(engine.inner.bytes.load(SeqCst), 0);
    assert_eq!(engine.inner.closed.load(SeqCst), 0);
    assert!(!engine.inner.whale.load(SeqCst));
}
