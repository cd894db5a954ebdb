//! A call's way: sent, decided about, served, and sent again when refused.

use super::clients::End;
use super::{Event, Request, SECOND, Stage, World};
use crate::call::{Call, Etcd};
use crate::controller::{Arrival, Ending, Seen, Verdict};
use crate::population::Sends;
use crate::scenario::{Patience, Spread};
use crate::server::cpu::Work;

/// `client-go` repeats a request so often.
const MOST_REPEATS: u32 = 10;
/// It repeats a read whose connection broke after this.
const BROKEN_PAUSE: u64 = SECOND;
/// A proxy tells those it cannot pass on to come back after 1 to this many seconds.
const AWAY_RETRY: u64 = 4;
/// Who ignores Retry-After comes back after this.
const RUDE_PAUSE: u64 = SECOND / 10;

impl World {
    fn call(&self, request: &Request) -> &Call {
        let population = &self.populations[request.population as usize];
        match &population.sends {
            Sends::Informer { watch, .. } if request.watch => watch,
            _ => &population.call,
        }
    }

    /// A new call of a client, due at `due`.
    pub(super) fn begin(&mut self, population: u32, client: u32, watch: bool, due: u64) {
        let mut request = Request {
            population,
            client,
            watch,
            due,
            sent: self.now,
            started: self.now,
            after: 0,
            attempts: 0,
            work: 0,
            bytes: 0,
            held: 0,
            misjudged: 1.0,
            stage: Stage::Sleeping,
            counted: self.counting,
        };
        let call = self.call(&request);
        let (mean, spread, bytes) = (call.work, call.spread, call.bytes as f64);
        let factor = match spread {
            Spread::Fixed => 1.0,
            Spread::Exponential => -(1.0 - self.random.f64()).ln(),
        };
        request.work = ((mean * factor) as u64).max(100);
        request.bytes = (bytes * factor) as u64;
        if self.scenario.faults.estimates > 0.0 {
            request.misjudged = (self.scenario.faults.estimates * self.normal()).exp();
        }
        self.count_call(&request);
        let gives_up = self.now + self.populations[population as usize].gives_up;
        let id = self.requests.insert(request);
        let place = population as usize;
        self.patience[place].push_back((gives_up, id));
        if !std::mem::replace(&mut self.watched[place], true) {
            self.at(gives_up, Event::Expire(population));
        }
        self.send(id);
    }

    /// Sends a call's next request.
    pub(super) fn send(&mut self, id: u64) {
        let (now, clock) = (self.now, self.clock());
        let after = self.inversions.decisions();
        let Some(request) = self.requests.get_mut(id) else {
            return;
        };
        request.stage = Stage::Waiting;
        request.sent = now;
        request.after = after;
        request.attempts += 1;
        let request = *request;
        self.count_request(&request);
        let population = &self.populations[request.population as usize];
        let call = match &population.sends {
            Sends::Informer { watch, .. } if request.watch => &**watch,
            _ => &population.call,
        };
        let arrival = Arrival {
            id,
            call,
            tenant: population.tenant(request.client),
            instance: population.instance(request.client),
            misjudged: request.misjudged,
            reserved: population.reserved,
        };
        let verdict = self.controller.offer(&arrival, clock, &mut self.decided);
        if verdict != Verdict::Wait {
            self.judged(id, verdict);
        }
    }

    /// Carries out what was decided about those that waited.
    pub(super) fn carry_out(&mut self) {
        while !self.decided.is_empty() {
            for decided in std::mem::take(&mut self.decided) {
                self.judged(decided.id, decided.verdict);
            }
        }
    }

    fn judged(&mut self, id: u64, verdict: Verdict) {
        let Some(request) = self.requests.get(id).copied() else {
            return;
        };
        if request.stage != Stage::Waiting {
            return;
        }
        match verdict {
            Verdict::Wait => {}
            Verdict::Start => self.start(id, &request),
            Verdict::Refuse(retry_after) => {
                self.count_refusal(&request);
                let work = self.controller.refusal_work();
                if work > 0 && self.up {
                    // Authenticated before it was refused; nobody waits for the end of it.
                    self.cpu.start(
                        self.now,
                        u64::MAX,
                        Work {
                            time: work,
                            hops: 1,
                            wait: 0,
                        },
                    );
                }
                self.come_back(
                    id,
                    &request,
                    retry_after.map(|seconds| u64::from(seconds) * SECOND),
                    true,
                );
            }
        }
    }

    fn start(&mut self, id: u64, request: &Request) {
        if !self.populations[request.population as usize].reserved {
            let call = self.call(request);
            let (class, kind, work) = (call.class.index(), call.kind, call.work);
            let size = crate::measure::size(kind, work);
            self.inversions.admitted(class, kind, size, self.now);
        }
        if !self.up {
            return self.not_there(id);
        }
        let call = self.call(request);
        let (hops, etcd) = (call.hops, call.etcd);
        let wait = match etcd {
            Etcd::No => 0,
            Etcd::Read => self.etcd.wait(self.now, false, &mut self.random),
            Etcd::Write => self.etcd.wait(self.now, true, &mut self.random),
        };
        let held = self.memory.of_answer(request.bytes);
        let job = self.cpu.start(
            self.now,
            id,
            Work {
                time: request.work,
                hops,
                wait,
            },
        );
        let now = self.now;
        if let Some(request) = self.requests.get_mut(id) {
            request.stage = Stage::Running(job);
            request.started = now;
            request.held = held;
        }
        self.memory.hold(held);
        self.look_at_memory();
    }

    /// The server is not there.
    fn not_there(&mut self, id: u64) {
        self.connect_failures += 1;
        let clock = self.clock();
        let seen = Seen {
            bytes: 0,
            service: 0,
        };
        self.controller
            .ended(id, Ending::Failed, seen, clock, &mut self.decided);
        let Some(request) = self.requests.get(id).copied() else {
            return;
        };
        // Writes and leases get none, and fail as they do without a proxy.
        let call = self.call(&request);
        let repeats = self.controller.is_proxy() && call.read && !call.lease;
        let told = repeats.then(|| (1 + self.random.u64(0..AWAY_RETRY)) * SECOND);
        self.come_back(id, &request, told, false);
    }

    /// It was refused or not passed on: again after the time it was told, or an error.
    fn come_back(&mut self, id: u64, request: &Request, told: Option<u64>, refused: bool) {
        let population = &self.populations[request.population as usize];
        let pause = match population.patience {
            Patience::ClientGo if request.attempts <= MOST_REPEATS => told,
            Patience::Rude if refused => Some(RUDE_PAUSE),
            Patience::Rude => told.or(Some(RUDE_PAUSE)),
            Patience::ClientGo | Patience::None => None,
        };
        match pause {
            Some(pause) => {
                if let Some(request) = self.requests.get_mut(id) {
                    request.stage = Stage::Sleeping;
                }
                self.at(self.now + pause, Event::Resend(id));
            }
            None => self.end(id, End::Failed),
        }
    }

    /// A request's core time is done.
    pub(super) fn served(&mut self, id: u64) {
        let Some(request) = self.requests.get_mut(id) else {
            return;
        };
        let population = request.population as usize;
        let reads_for = self.populations[population].reads_for;
        if reads_for > 0 {
            request.stage = Stage::Reading;
            let clock = self.clock();
            self.controller.rests(id, clock, &mut self.decided);
            return self.at(self.now + reads_for, Event::Read(id));
        }
        self.answered(id);
    }

    /// A request's answer has arrived.
    pub(super) fn answered(&mut self, id: u64) {
        let Some(request) = self.requests.get(id).copied() else {
            return;
        };
        let seen = Seen {
            bytes: request.bytes,
            service: self.now - request.started,
        };
        let clock = self.clock();
        self.controller
            .ended(id, Ending::Served, seen, clock, &mut self.decided);
        self.let_go(&request);
        self.end(id, End::Served);
    }

    fn let_go(&mut self, request: &Request) {
        if request.held > 0 {
            self.memory.let_go(request.held);
            self.look_at_memory();
        }
    }

    /// The connection broke under it.
    pub(super) fn broke(&mut self, id: u64) {
        let Some(request) = self.requests.get(id).copied() else {
            return;
        };
        if !matches!(request.stage, Stage::Running(_) | Stage::Reading) {
            return;
        }
        self.connect_failures += 1;
        let seen = Seen {
            bytes: 0,
            service: 0,
        };
        let clock = self.clock();
        self.controller
            .ended(id, Ending::Failed, seen, clock, &mut self.decided);
        let told = self.call(&request).read.then_some(BROKEN_PAUSE);
        self.come_back(id, &request, told, false);
    }

    /// Those of a population that have waited too long give up.
    pub(super) fn expire(&mut self, population: u32) {
        let place = population as usize;
        while let Some((at, id)) = self.patience[place].front().copied() {
            if self.requests.get(id).is_some() && at > self.now {
                return self.at(at, Event::Expire(population));
            }
            self.patience[place].pop_front();
            self.gives_up(id);
        }
        self.watched[place] = false;
    }

    fn gives_up(&mut self, id: u64) {
        let Some(request) = self.requests.get(id).copied() else {
            return;
        };
        let clock = self.clock();
        match request.stage {
            Stage::Running(job) => {
                self.cpu.cancel(job);
                let seen = Seen {
                    bytes: 0,
                    service: self.now - request.started,
                };
                self.controller
                    .ended(id, Ending::Cancelled, seen, clock, &mut self.decided);
                self.let_go(&request);
            }
            Stage::Reading => {
                let seen = Seen {
                    bytes: request.bytes,
                    service: self.now - request.started,
                };
                self.controller
                    .ended(id, Ending::Cancelled, seen, clock, &mut self.decided);
                self.let_go(&request);
            }
            Stage::Waiting => self.controller.withdrawn(id, clock, &mut self.decided),
            Stage::Sleeping => {}
        }
        self.end(id, End::GaveUp);
    }

    fn end(&mut self, id: u64, end: End) {
        let Some(request) = self.requests.remove(id) else {
            return;
        };
        self.count_end(&request, end);
        self.client_goes_on(request.population, request.client, request.watch, end);
    }
}
