//! The server, its clients and what stands between them, in virtual time. Everything is decided by the seed.

mod clients;
mod events;
mod requests;
mod sampling;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use fastrand::Rng;
use proxy_core::admission::probe::{ProbeId, ProbeSettings, Tracker};
use proxy_core::time::Time;

use crate::controller::{Controller, Decided};
use crate::measure::{Inversions, Record, Sample};
use crate::population::{self, Population, Sends};
use crate::scenario::{Act, Scenario, WrongScenario};
use crate::server::cpu::{Cpu, Job};
use crate::server::etcd::{Etcd, EtcdSettings};
use crate::server::memory::{Memory, MemorySettings};
use crate::slots::Slots;
use clients::ClientState;

/// A second, µs.
pub const SECOND: u64 = 1_000_000;
const PROBE_EVERY: u64 = 50_000;
const TICK_EVERY: u64 = 100_000;
/// Owners of work that is no request: probes from here, collections above.
const PROBES: u64 = 1 << 62;
const COLLECTIONS: u64 = 1 << 63;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The next request of a Poisson stream.
    Arrive(u32),
    /// A client does what it has to do next.
    Client {
        population: u32,
        client: u32,
    },
    /// A call's next request.
    Resend(u64),
    /// The answer has been read.
    Read(u64),
    /// Somebody of a population may have waited too long.
    Expire(u32),
    Probe,
    Tick,
    Sample,
    Act(u32),
    /// The server is there again; whether it has forgotten everything.
    Up {
        forgot: bool,
    },
    Pause,
    Compaction,
    StartCounting,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// At the controller.
    Waiting,
    /// At the server.
    Running(Job),
    /// Answered, and being read.
    Reading,
    /// Until it is sent again.
    Sleeping,
}

/// One call.
#[derive(Clone, Copy, Debug)]
struct Request {
    population: u32,
    client: u32,
    /// It is an informer's watch and not its list.
    watch: bool,
    /// When it was due.
    due: u64,
    /// When it was sent last, and started.
    sent: u64,
    started: u64,
    /// Decisions made before it was sent last.
    after: u64,
    attempts: u32,
    work: u64,
    bytes: u64,
    held: u64,
    misjudged: f64,
    stage: Stage,
    counted: bool,
}

/// A run.
pub struct World {
    now: u64,
    until: u64,
    scenario: Scenario,
    populations: Vec<Population>,
    clients: Vec<Vec<ClientState>>,
    cpu: Cpu,
    memory: Memory,
    etcd: Etcd,
    up: bool,
    /// How often the server has forgotten everything.
    generation: u32,
    collectors: u32,
    controller: Box<dyn Controller>,
    tracker: Tracker,
    /// Probes under way, by owner less [`PROBES`].
    probes: Slots<ProbeId>,
    probe_sent: VecDeque<(u64, u64)>,
    probing: usize,
    /// The proxy's control thread stands still until then, and its clock is ahead by so much.
    stalled_until: u64,
    clock_ahead: u64,
    connect_failures: u32,
    requests: Slots<Request>,
    /// By population: who gives up when, in order; and whether somebody looks.
    patience: Vec<VecDeque<(u64, u64)>>,
    watched: Vec<bool>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    random: Rng,
    decided: Vec<Decided>,
    counting: bool,
    record: Record,
    inversions: Inversions,
    sample: Sample,
    sample_every: u64,
    ticked_spent: u64,
    important: Vec<u32>,
    backlog: u64,
    capacity_at: u64,
}

impl World {
    /// A run of `scenario` with `controller`.
    ///
    /// # Errors
    /// [`WrongScenario`] when a call of the scenario cannot be read.
    pub fn new(
        scenario: &Scenario,
        controller: Box<dyn Controller>,
        seed: u64,
    ) -> Result<Self, WrongScenario> {
        let populations = population::of(scenario)?;
        Ok(Self::of(scenario, populations, controller, seed))
    }

    fn of(
        scenario: &Scenario,
        populations: Vec<Population>,
        controller: Box<dyn Controller>,
        seed: u64,
    ) -> Self {
        let server = &scenario.server;
        let memory = MemorySettings {
            limit: server.memory.0,
            base: server.base.0,
            per_answer_byte: server.per_answer_byte,
            ..MemorySettings::default()
        };
        let etcd = EtcdSettings {
            latency: server.etcd_latency.micros(),
            writes_per_second: server.writes_per_second,
        };
        let mut world = Self {
            now: 0,
            until: scenario.length.micros(),
            clients: populations.iter().map(|_| Vec::new()).collect(),
            cpu: Cpu::new(server.cores),
            memory: Memory::new(memory),
            etcd: Etcd::new(etcd),
            up: true,
            generation: 0,
            collectors: 0,
            controller,
            tracker: Tracker::new(ProbeSettings::default(), Time(0)),
            probes: Slots::default(),
            probe_sent: VecDeque::new(),
            probing: 0,
            stalled_until: 0,
            clock_ahead: 0,
            connect_failures: 0,
            requests: Slots::default(),
            patience: populations.iter().map(|_| VecDeque::new()).collect(),
            watched: vec![false; populations.len()],
            events: BinaryHeap::new(),
            sequence: 0,
            random: Rng::with_seed(seed),
            decided: Vec::new(),
            counting: false,
            record: Record::new(
                populations
                    .iter()
                    .map(|population| population.tenants.len()),
            ),
            inversions: Inversions::default(),
            sample: Sample::default(),
            sample_every: (scenario.length.micros() / 300).max(50_000),
            ticked_spent: 0,
            important: Vec::new(),
            backlog: 0,
            capacity_at: 0,
            scenario: scenario.clone(),
            populations,
        };
        world.set_out();
        world
    }

    /// Curves have a point this often.
    #[must_use]
    pub const fn sampled_every(mut self, micros: u64) -> Self {
        self.sample_every = micros;
        self
    }

    /// The populations, in the order of the record's tallies.
    #[must_use]
    pub fn populations(&self) -> &[Population] {
        &self.populations
    }

    fn set_out(&mut self) {
        self.at(0, Event::Probe);
        self.at(0, Event::Tick);
        self.at(self.sample_every, Event::Sample);
        self.at(self.scenario.warm_up.micros(), Event::StartCounting);
        for (nth, happening) in self.scenario.events.clone().iter().enumerate() {
            self.at(happening.at.micros(), Event::Act(nth as u32));
        }
        if let Some(every) = self.scenario.faults.pause_every {
            let wait = self.exponential(every.micros() as f64);
            self.at(wait, Event::Pause);
        }
        if let Some(every) = self.scenario.faults.compaction_every {
            self.at(every.micros(), Event::Compaction);
        }
        for population in 0..self.populations.len() {
            self.set_out_population(population);
        }
    }

    fn set_out_population(&mut self, population: usize) {
        let who = &self.populations[population];
        let (from, within) = (who.from, who.within);
        let period = match who.sends {
            Sends::PerSecond(rate) if rate <= 0.0 => return,
            Sends::PerSecond(rate) => {
                let wait = self.exponential(1e6 / rate);
                return self.at(from + wait, Event::Arrive(population as u32));
            }
            Sends::Every(period) => period,
            Sends::Again(pause) => pause.min(SECOND),
            Sends::Heartbeat => 10 * SECOND,
            Sends::Leader(_) => 2 * SECOND,
            Sends::Informer { .. } => 0,
        };
        let within = if within > 0 { within } else { period };
        let begins = !matches!(
            who.sends,
            Sends::Informer {
                starts_with_list: false,
                ..
            }
        );
        let listed = !matches!(
            who.sends,
            Sends::Informer {
                starts_with_list: true,
                ..
            }
        );
        for client in 0..who.count {
            let due = from
                + if within > 0 {
                    self.random.u64(0..within)
                } else {
                    0
                };
            self.clients[population].push(ClientState::new(due, listed));
            if begins {
                self.at(
                    due,
                    Event::Client {
                        population: population as u32,
                        client,
                    },
                );
            }
        }
    }

    /// Runs to the end; what was counted.
    #[must_use]
    pub fn run(mut self) -> Record {
        self.go_on_until(self.until);
        self.count_capacity();
        self.count_unfinished();
        self.inversions.settle(u64::MAX);
        self.record.counted = (self.scenario.warm_up.micros(), self.until);
        self.record.inversions = self.inversions.found();
        self.record.patterns = self.inversions.patterns().clone();
        self.record.decisions = self.inversions.decisions();
        self.count_lapses();
        self.record
    }

    fn go_on_until(&mut self, until: u64) {
        loop {
            let ours = self.events.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let servers = self.cpu.next().unwrap_or(u64::MAX);
            let next = ours.min(servers);
            if next >= until {
                self.now = until;
                return;
            }
            self.now = next;
            if servers == next {
                if let Some(owner) = self.cpu.advance() {
                    self.done(owner);
                }
            } else if let Some(Reverse((_, _, event))) = self.events.pop() {
                self.happen(event);
            }
            self.tell_who_began();
            self.carry_out();
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    /// The proxy's own clock.
    const fn clock(&self) -> u64 {
        self.now + self.clock_ahead
    }

    fn exponential(&mut self, mean: f64) -> u64 {
        (-(1.0 - self.random.f64()).ln() * mean) as u64
    }

    fn normal(&mut self) -> f64 {
        let (u, v) = (1.0 - self.random.f64(), self.random.f64());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    fn act(&mut self, nth: u32) {
        let Some(happening) = self.scenario.events.get(nth as usize) else {
            return;
        };
        match happening.what {
            Act::Cores(cores) => {
                self.count_capacity();
                self.cpu.set_cores(cores, self.now);
            }
            Act::Pause(length) => self.cpu.pause(self.now, length.micros()),
            Act::Outage(length) => {
                self.go_away();
                self.at(self.now + length.micros(), Event::Up { forgot: false });
            }
            Act::Crash(_) => self.crash(),
            Act::EtcdStall(length) => self.etcd.stall(self.now, length.micros()),
            Act::ClockJump(ahead) => self.clock_ahead += ahead.micros(),
            Act::ControlStall(length) => self.stalled_until = self.now + length.micros(),
        }
    }
}
