//! A server, its clients, and the engine between them, in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::{Arc, Mutex};

use proxy_core::admission::probe::{Failure, ProbeId, ProbeSettings, ProbeView, Tracker};
use proxy_core::admission::{
    Ask, Cost, Decision, Engine, Kind, LimitSettings, Offer, Outcome, Permit, Refusal, Settings,
    Signals, Ticket, View, Wake,
};
use proxy_core::classify::ClassId;
use proxy_core::time::Time;

use crate::server::Server;

pub(crate) const SECOND: u64 = 1_000_000;
const PROBE_EVERY: u64 = 50_000;
const TICK_EVERY: u64 = 100_000;
/// Jobs from here on are probes.
const PROBES: u64 = 1 << 40;

/// Who sends what.
#[derive(Clone, Debug)]
pub(crate) struct Population {
    pub(crate) class: u8,
    pub(crate) kind: Kind,
    /// Server time of one request, µs: mean, and whether exponential or always the same.
    pub(crate) work: u64,
    pub(crate) spread: bool,
    pub(crate) bytes: u64,
    pub(crate) hops: u32,
    /// What the estimate is wrong by, as a factor.
    pub(crate) misjudged: f64,
    /// The same per request: standard deviation of a log-normal factor.
    pub(crate) sigma: f64,
    pub(crate) demand: Demand,
    /// Calls that an operation is made of, each sent when the one before was answered; an
    /// operation of which one call is refused has failed. Only with open demand, which is then
    /// in operations.
    pub(crate) calls: u32,
    /// What share of Retry-After they wait.
    pub(crate) patience: f64,
    /// When they are there, µs.
    pub(crate) from: u64,
    pub(crate) until: u64,
    /// The client gives up after this long, µs, and comes back.
    pub(crate) timeout: u64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Demand {
    /// Requests per second, whatever happens to the earlier ones (Poisson).
    Open(f64),
    /// So many clients, each sending its next request when the last one was answered.
    Closed(u64),
}

impl Population {
    pub(crate) fn short(class: u8, work: u64, per_second: f64) -> Self {
        Self {
            class,
            kind: Kind::Short,
            work,
            spread: false,
            bytes: 4_000,
            hops: 5,
            misjudged: 1.0,
            sigma: 0.0,
            demand: Demand::Open(per_second),
            calls: 1,
            patience: 1.0,
            from: 0,
            until: u64::MAX,
            timeout: 10 * SECOND,
        }
    }

    pub(crate) fn lists(class: u8, work: u64, clients: u64) -> Self {
        Self {
            kind: Kind::Long,
            spread: true,
            bytes: 14 << 20,
            hops: 1,
            demand: Demand::Closed(clients),
            timeout: 30 * SECOND,
            ..Self::short(class, work, 0.0)
        }
    }

    pub(crate) fn between(mut self, from_s: u64, until_s: u64) -> Self {
        (self.from, self.until) = (from_s * SECOND, until_s * SECOND);
        self
    }
}

/// What became of a population.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) offered: u64,
    pub(crate) served: u64,
    pub(crate) shed: u64,
    pub(crate) gave_up: u64,
    /// Operations begun, and those of which every call was served.
    pub(crate) begun: u64,
    pub(crate) completed: u64,
    /// Server time of what was served, µs.
    pub(crate) work: u64,
    /// From offer to answer, µs.
    pub(crate) latencies: Vec<u64>,
}

impl Tally {
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
        sorted.get(at).copied().unwrap_or(0)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Send {
        population: usize,
        client: u64,
    },
    /// An operation's next call.
    GoOn {
        population: usize,
        client: u64,
    },
    GiveUp(u64),
    Probe,
    Tick,
}

struct Request {
    population: usize,
    client: u64,
    since: u64,
    work: u64,
    permit: Option<Permit>,
    ticket: Option<Ticket>,
}

/// Puts decisions where the world looks for them.
pub(crate) struct Waiter {
    job: u64,
    inbox: Arc<Mutex<Vec<(u64, Decision)>>>,
}

impl Wake for Waiter {
    fn decide(self, decision: Decision) {
        self.inbox.lock().unwrap().push((self.job, decision));
    }
}

/// Something the test does to the world at a time.
pub(crate) type Act = Box<dyn FnMut(&mut World)>;

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) server: Server,
    pub(crate) engine: Engine<Waiter>,
    pub(crate) populations: Vec<Population>,
    pub(crate) tallies: Vec<Tally>,
    /// Count only what was offered from here on, µs.
    pub(crate) count_from: u64,
    /// Requests reach the server (or the connection fails at once).
    pub(crate) up: bool,
    /// Probes get through.
    pub(crate) probing: bool,
    /// The engine at every tick.
    pub(crate) views: Vec<(u64, View)>,
    /// What the probes said at every tick.
    pub(crate) probed: Vec<ProbeView>,
    tracker: Tracker,
    probes: HashMap<u64, ProbeId>,
    requests: HashMap<u64, Request>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    inbox: Arc<Mutex<Vec<(u64, Decision)>>>,
    sequence: u64,
    next_job: u64,
    random: fastrand::Rng,
    connect_failures: u32,
    acts: BTreeMap<u64, Vec<Act>>,
    /// Operations under way: calls served.
    operations: HashMap<(usize, u64), u32>,
}

impl World {
    pub(crate) fn new(
        cores: usize,
        mut settings: Settings,
        populations: Vec<Population>,
        seed: u64,
    ) -> Self {
        settings.limit.initial = LimitSettings::initial(cores as u32);
        let mut world = Self {
            now: 0,
            server: Server::new(cores),
            engine: Engine::new(settings, Time(0)),
            tallies: populations.iter().map(|_| Tally::default()).collect(),
            populations,
            count_from: 0,
            up: true,
            probing: true,
            views: Vec::new(),
            probed: Vec::new(),
            tracker: Tracker::new(ProbeSettings::default(), Time(0)),
            probes: HashMap::new(),
            requests: HashMap::new(),
            events: BinaryHeap::new(),
            inbox: Arc::default(),
            sequence: 0,
            next_job: 0,
            random: fastrand::Rng::with_seed(seed),
            connect_failures: 0,
            acts: BTreeMap::new(),
            operations: HashMap::new(),
        };
        world.at(0, Event::Probe);
        world.at(0, Event::Tick);
        for population in 0..world.populations.len() {
            let Population { demand, from, .. } = world.populations[population];
            match demand {
                Demand::Open(_) => world.at(
                    from,
                    Event::Send {
                        population,
                        client: 0,
                    },
                ),
                Demand::Closed(clients) => {
                    for client in 0..clients {
                        world.at(from + client * 500, Event::Send { population, client });
                    }
                }
            }
        }
        world
    }

    /// Do something at a time.
    pub(crate) fn act(&mut self, at_s: u64, act: impl FnMut(&mut Self) + 'static) {
        self.acts
            .entry(at_s * SECOND)
            .or_default()
            .push(Box::new(act));
    }

    pub(crate) fn run(&mut self, until_s: u64) {
        let until = until_s * SECOND;
        loop {
            let ours = self.events.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let servers = self.server.next().unwrap_or(u64::MAX);
            let acts = self.acts.keys().next().copied().unwrap_or(u64::MAX);
            let next = ours.min(servers).min(acts);
            if next >= until {
                self.now = until;
                return;
            }
            self.now = next;
            if acts == next {
                for mut act in self.acts.remove(&next).unwrap_or_default() {
                    act(self);
                }
            } else if servers == next {
                if let Some(job) = self.server.advance() {
                    self.done(job);
                }
            } else if let Some(Reverse((_, _, event))) = self.events.pop() {
                self.happen(event);
            }
            self.read_inbox();
        }
    }

    /// The server goes away with everything it had; or comes back.
    pub(crate) fn set_up(&mut self, up: bool) {
        self.up = up;
        if up {
            return;
        }
        self.server.lose_everything();
        let mut lost: Vec<u64> = self.requests.keys().copied().collect();
        lost.sort_unstable();
        for job in lost {
            if let Some(permit) = self.requests.get_mut(&job).and_then(|r| r.permit.take()) {
                permit.finish(Outcome::Failed, Time(self.now));
                self.fail_to_connect(job);
            }
        }
    }

    /// Forget what was counted and count from now on.
    pub(crate) fn start_counting(&mut self) {
        self.count_from = self.now;
        self.tallies
            .iter_mut()
            .for_each(|tally| *tally = Tally::default());
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    fn happen(&mut self, event: Event) {
        let now = Time(self.now);
        match event {
            Event::Tick => {
                let probe = self.tracker.view(now);
                let signals = Signals {
                    connect_failures: std::mem::take(&mut self.connect_failures),
                    ..Signals::of(probe)
                };
                self.probed.push(probe);
                self.engine.tick(&signals, now);
                self.views.push((self.now, self.engine.view(now)));
                self.at(self.now + TICK_EVERY, Event::Tick);
            }
            Event::Probe => {
                self.at(self.now + PROBE_EVERY, Event::Probe);
                if !self.probing {
                    return;
                }
                let id = self.tracker.sent(now);
                if self.up {
                    self.next_job += 1;
                    let job = PROBES + self.next_job;
                    self.probes.insert(job, id);
                    self.server.start(self.now, job, 400, 2);
                } else {
                    self.tracker.failed(id, now, Failure::Connect);
                }
            }
            Event::Send { population, client } => self.begin(population, client),
            Event::GoOn { population, client } => self.send(population, client),
            Event::GiveUp(job) => self.give_up(job),
        }
    }

    fn begin(&mut self, population: usize, client: u64) {
        let Population {
            demand,
            until,
            calls,
            ..
        } = self.populations[population];
        if self.now >= until {
            return;
        }
        let mut next = client;
        if let Demand::Open(per_second) = demand {
            let gap = -(1.0 - self.random.f64()).ln() / per_second * 1e6;
            next += 1;
            self.at(
                self.now + gap as u64 + 1,
                Event::Send {
                    population,
                    client: next,
                },
            );
        }
        if calls > 1 {
            self.operations.insert((population, client), 0);
            if self.now >= self.count_from {
                self.tallies[population].begun += 1;
            }
        }
        self.send(population, client);
    }

    fn send(&mut self, population: usize, client: u64) {
        let who = self.populations[population].clone();
        let factor = if who.spread {
            -(1.0 - self.random.f64()).ln()
        } else {
            1.0
        };
        let work = ((who.work as f64 * factor) as u64).max(200);
        let wrong = who.misjudged * (who.sigma * self.normal()).exp();
        let ask = Ask {
            class: ClassId(who.class),
            cost: Cost {
                work_us: (work as f64 * wrong) as u64,
                bytes: who.bytes,
            },
            kind: who.kind,
            tenant: population as u64,
            instance: (population as u64) << 32 | client,
            shape: population as u64,
        };
        self.next_job += 1;
        let job = self.next_job;
        if self.now >= self.count_from {
            self.tallies[population].offered += 1;
        }
        let inbox = Arc::clone(&self.inbox);
        let offer = self
            .engine
            .offer(ask, Time(self.now), || Waiter { job, inbox });
        let request = Request {
            population,
            client,
            since: self.now,
            work,
            permit: None,
            ticket: None,
        };
        self.requests.insert(job, request);
        self.at(self.now + who.timeout, Event::GiveUp(job));
        match offer {
            Offer::Admitted(permit) => self.start(job, permit),
            Offer::Shed(refusal) => self.refused(job, &refusal),
            Offer::Waiting(ticket) => {
                if let Some(request) = self.requests.get_mut(&job) {
                    request.ticket = Some(ticket);
                }
            }
        }
    }

    fn read_inbox(&mut self) {
        loop {
            let decisions = std::mem::take(&mut *self.inbox.lock().unwrap());
            if decisions.is_empty() {
                return;
            }
            for (job, decision) in decisions {
                match decision {
                    // The permit of one that gave up meanwhile is dropped here.
                    Decision::Admitted(permit) if self.requests.contains_key(&job) => {
                        self.start(job, permit);
                    }
                    Decision::Admitted(_) => {}
                    Decision::Shed(refusal) => self.refused(job, &refusal),
                }
            }
        }
    }

    fn start(&mut self, job: u64, permit: Permit) {
        let Some(request) = self.requests.get_mut(&job) else {
            return;
        };
        request.ticket = None;
        if !self.up {
            permit.finish(Outcome::Failed, Time(self.now));
            self.fail_to_connect(job);
            return;
        }
        request.permit = Some(permit);
        let (work, hops) = (request.work, self.populations[request.population].hops);
        self.server.start(self.now, job, work, hops);
    }

    fn fail_to_connect(&mut self, job: u64) {
        self.connect_failures += 1;
        if let Some(request) = self.requests.remove(&job) {
            let pause = SECOND / 2 + self.random.u64(0..SECOND);
            self.come_back(&request, pause);
        }
    }

    fn done(&mut self, job: u64) {
        if let Some(id) = self.probes.remove(&job) {
            self.tracker.answered(id, Time(self.now));
            return;
        }
        let Some(mut request) = self.requests.remove(&job) else {
            return;
        };
        if let Some(permit) = request.permit.take() {
            permit.finish(Outcome::Served, Time(self.now));
        }
        if request.since >= self.count_from {
            let tally = &mut self.tallies[request.population];
            tally.served += 1;
            tally.latencies.push(self.now - request.since);
        }
        if self.now >= self.count_from {
            self.tallies[request.population].work += request.work;
        }
        self.go_on(&request);
        self.come_back(&request, 1_000);
    }

    /// One call of an operation was served.
    fn go_on(&mut self, request: &Request) {
        let Request {
            population, client, ..
        } = *request;
        let calls = self.populations[population].calls;
        if calls == 1 {
            return;
        }
        let served = self.operations.entry((population, client)).or_default();
        *served += 1;
        if *served < calls {
            self.at(self.now + 1_000, Event::GoOn { population, client });
            return;
        }
        self.operations.remove(&(population, client));
        if self.now >= self.count_from {
            self.tallies[population].completed += 1;
        }
    }

    fn refused(&mut self, job: u64, refusal: &Refusal) {
        let Some(request) = self.requests.remove(&job) else {
            return;
        };
        if request.since >= self.count_from {
            self.tallies[request.population].shed += 1;
        }
        let word = self.random.u64(..);
        let seconds = self.engine.retry_after(refusal, word, 32, Time(self.now));
        let patience = self.populations[request.population].patience;
        let pause = f64::from(seconds) * patience * SECOND as f64;
        self.come_back(&request, pause as u64);
    }

    fn give_up(&mut self, job: u64) {
        let Some(mut request) = self.requests.remove(&job) else {
            return;
        };
        self.server.cancel(job);
        if request.since >= self.count_from {
            self.tallies[request.population].gave_up += 1;
        }
        if let Some(permit) = request.permit.take() {
            permit.cancel(Time(self.now));
        }
        let pause = SECOND / 2 + self.random.u64(0..SECOND);
        self.come_back(&request, pause);
    }

    fn come_back(&mut self, request: &Request, after: u64) {
        let Request {
            population, client, ..
        } = *request;
        if matches!(self.populations[population].demand, Demand::Closed(_)) {
            self.at(self.now + after, Event::Send { population, client });
        }
    }

    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.random.f64(), self.random.f64());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }
}

/// The defaults, but for the bytes: they are not what these scenarios are about.
pub(crate) fn settings() -> Settings {
    Settings {
        bytes: 64 << 30,
        ..Settings::default()
    }
}
