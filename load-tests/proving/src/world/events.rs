//! What happens to the server and at the proxy's clock.

use proxy_core::admission::probe::Failure;
use proxy_core::time::Time;

use super::{COLLECTIONS, Event, PROBE_EVERY, PROBES, Stage, TICK_EVERY, World};
use crate::controller::Sensed;
use crate::population::Sends;
use crate::server::cpu::Work;

/// A probe's core time, µs, and hops.
const PROBE: Work = Work {
    time: 400,
    hops: 2,
    wait: 0,
};
/// Probes under way at once.
const MOST_PROBES: usize = 8;
/// The proxy gives a probe up after this, µs.
const PROBE_TIMEOUT: u64 = 2_000_000;

impl World {
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive(population) => self.arrive(population),
            Event::Client { population, client } => self.client_acts(population, client),
            Event::Resend(id) => {
                if self
                    .requests
                    .get(id)
                    .is_some_and(|request| request.stage == Stage::Sleeping)
                {
                    self.send(id);
                }
            }
            Event::Read(id) => {
                if self
                    .requests
                    .get(id)
                    .is_some_and(|request| request.stage == Stage::Reading)
                {
                    self.answered(id);
                }
            }
            Event::Expire(population) => self.expire(population),
            Event::Probe => self.probe(),
            Event::Tick => self.tick(),
            Event::Sample => self.take_sample(),
            Event::Act(nth) => self.act(nth),
            Event::Up { forgot } => self.come_up(forgot),
            Event::Pause => {
                let faults = self.scenario.faults;
                let length = self.exponential(faults.pause.micros() as f64);
                self.cpu.pause(self.now, length);
                let wait = self.exponential(faults.pause_every.unwrap_or_default().micros() as f64);
                self.at(self.now + length + wait, Event::Pause);
            }
            Event::Compaction => {
                let faults = self.scenario.faults;
                self.etcd.stall(self.now, faults.compaction.micros());
                let every = faults.compaction_every.unwrap_or_default().micros().max(1);
                self.at(self.now + every, Event::Compaction);
            }
            Event::StartCounting => self.start_counting(),
        }
    }

    fn arrive(&mut self, population: u32) {
        let who = &self.populations[population as usize];
        let Sends::PerSecond(rate) = who.sends else {
            return;
        };
        if self.now >= who.until {
            return;
        }
        let count = who.count.max(who.tenants.len() as u32);
        let wait = self.exponential(1e6 / rate);
        self.at(self.now + wait.max(1), Event::Arrive(population));
        let client = self.random.u32(0..count.max(1));
        self.begin(population, client, false, self.now);
    }

    /// Something that used cores is done.
    pub(super) fn done(&mut self, owner: u64) {
        if owner == u64::MAX {
            return;
        }
        if owner & COLLECTIONS != 0 {
            self.collectors = self.collectors.saturating_sub(1);
            if self.collectors == 0 {
                self.memory.end_collection();
                self.look_at_memory();
            }
            return;
        }
        if owner & PROBES != 0 {
            if let Some(probe) = self.probes.remove(owner & !PROBES) {
                self.probing -= 1;
                self.tracker.answered(probe, Time(self.clock()));
            }
            return;
        }
        self.served(owner);
    }

    /// Who queues for a core is what DAGOR looks at.
    pub(super) fn tell_who_began(&mut self) {
        let now = self.now;
        for (owner, waited) in self.cpu.began() {
            if owner & (PROBES | COLLECTIONS) == 0 {
                self.controller.began(owner, waited, now);
            }
        }
    }

    fn probe(&mut self) {
        self.at(self.now + PROBE_EVERY, Event::Probe);
        if self.now < self.stalled_until {
            return;
        }
        self.give_up_probes();
        if self.probing >= MOST_PROBES {
            return;
        }
        let probe = self.tracker.sent(Time(self.clock()));
        if self.up {
            let owner = PROBES | self.probes.insert(probe);
            self.probe_sent.push_back((self.now, owner));
            self.probing += 1;
            self.cpu.start(self.now, owner, PROBE);
        } else {
            self.tracker
                .failed(probe, Time(self.clock()), Failure::Connect);
        }
    }

    fn give_up_probes(&mut self) {
        while let Some((sent, owner)) = self.probe_sent.front().copied() {
            if self.now < sent + PROBE_TIMEOUT {
                return;
            }
            self.probe_sent.pop_front();
            if let Some(probe) = self.probes.remove(owner & !PROBES) {
                self.probing -= 1;
                self.tracker
                    .failed(probe, Time(self.clock()), Failure::Timeout);
            }
        }
    }

    fn tick(&mut self) {
        self.at(self.now + TICK_EVERY, Event::Tick);
        if self.now < self.stalled_until {
            return;
        }
        let spent = self.cpu.spent();
        let could = self.cpu.cores() as f64 * TICK_EVERY as f64;
        let busy = (spent - self.ticked_spent) as f64 / could;
        self.ticked_spent = spent;
        let clock = self.clock();
        let sensed = Sensed {
            probe: self.tracker.view(Time(clock)),
            connect_failures: std::mem::take(&mut self.connect_failures),
            timeouts: 0,
            busy,
        };
        self.controller.tick(&sensed, clock, &mut self.decided);
    }

    /// Collects garbage when it is time, and ends the process when its memory is used up.
    pub(super) fn look_at_memory(&mut self) {
        if self.memory.is_exhausted() {
            self.note_memory();
            if self.counting {
                self.record.killed += 1;
            }
            return self.crash();
        }
        if let Some(work) = self.memory.begin_collection() {
            // A quarter of the cores, as Go does it.
            let workers = (self.cpu.cores() / 4).max(1) as u32;
            self.collectors = workers;
            let time = work / u64::from(workers);
            for _ in 0..workers {
                self.cpu.start(
                    self.now,
                    COLLECTIONS,
                    Work {
                        time,
                        hops: 1,
                        wait: 0,
                    },
                );
            }
        }
    }

    /// The process ends and comes back with nothing.
    pub(super) fn crash(&mut self) {
        let restart = self.scenario.server.restart.micros();
        self.go_away();
        self.at(self.now + restart, Event::Up { forgot: true });
    }

    /// The server is gone, and every connection with it.
    pub(super) fn go_away(&mut self) {
        if !self.up {
            return;
        }
        self.count_capacity();
        self.up = false;
        self.cpu.lose_everything();
        self.collectors = 0;
        self.memory.empty();
        for probe in self.probes.ids() {
            if let Some(probe) = self.probes.remove(probe) {
                self.tracker
                    .failed(probe, Time(self.clock()), Failure::Refused);
            }
        }
        self.probing = 0;
        self.probe_sent.clear();
        for id in self.requests.ids() {
            self.broke(id);
        }
        self.break_watches();
    }

    fn come_up(&mut self, forgot: bool) {
        self.count_capacity();
        self.up = true;
        if forgot {
            self.generation = self.generation.wrapping_add(1);
        }
    }
}
