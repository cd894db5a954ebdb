//! The play: threads that read, and one that lets virtual time pass.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::ProgressBar;
use proxy_core::admission::cost::{Model, Observation};
use proxy_core::admission::probe::ProbeView;
use proxy_core::admission::{
    Ask, Decision, Engine, Kind, Offer, Outcome, Permit, Settings, Signals, Ticket, Wake,
};
use proxy_core::classify::Policy;
use proxy_core::time::Time;

use super::calls::{Batch, Call, Reader};
use super::lines::Source;
use super::server::{Job, Server};
use super::tally::{Fate, Tally};

/// The engine's tick, µs.
const TICK: u64 = 100_000;
/// The log is in the order of ends; a call with a deadline ends within a minute of its start, µs.
const WINDOW: u64 = 61_000_000;
/// Calls held to be put in order.
const HELD: usize = 1_000_000;
/// Requests with two stages of which the second is still to come.
const STARTED: usize = 1_000_000;
/// A call on one object keeps a core for at most this long; what it took longer was waiting, µs.
const LONGEST_SHORT: u64 = 10_000;
/// A collection's.
const LONGEST_LONG: u64 = 60_000_000;
/// After a gap in the log this long, nothing is left of what was before, µs.
const GAP: u64 = 600_000_000;
/// Blocks between two threads.
const BLOCKS: usize = 4;

/// Plays all of `source`.
///
/// # Errors
/// A text about a file that cannot be read on.
pub(super) fn play(
    mut source: Source,
    policy: &Policy,
    settings: Settings,
    cores: f64,
    progress: &ProgressBar,
) -> Result<Tally, String> {
    let readers = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 16));
    let (blocks, to_read) = sync_channel::<(u64, Vec<u8>)>(BLOCKS * readers);
    let (batches, to_play) = sync_channel::<(u64, Batch)>(BLOCKS * readers);
    let to_read = Mutex::new(to_read);
    let so_far = Arc::clone(&source.read);
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || -> Result<(), String> {
            let mut number = 0;
            while let Some(block) = source.block()? {
                if blocks.send((number, block)).is_err() {
                    break;
                }
                number += 1;
            }
            Ok(())
        });
        for _ in 0..readers {
            let (to_read, batches) = (&to_read, batches.clone());
            scope.spawn(move || {
                let mut reader = Reader::new(policy);
                loop {
                    let next = to_read
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .recv();
                    let Ok((number, block)) = next else { return };
                    if batches.send((number, reader.read(&block))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(batches);
        let tally = in_order(to_play, policy, settings, cores, |tally| {
            progress.set_position(so_far.load(Ordering::Relaxed));
            progress.set_message(format!("{} lines", tally.lines));
        });
        let read = reading.join();
        read.unwrap_or_else(|_| Err("reading failed".to_owned()))?;
        Ok(tally)
    })
}

/// Puts the batches, and then the calls, in order.
fn in_order(
    batches: Receiver<(u64, Batch)>,
    policy: &Policy,
    settings: Settings,
    cores: f64,
    mut say: impl FnMut(&Tally),
) -> Tally {
    let mut stage = Stage::new(policy, settings, cores);
    let mut early: BTreeMap<u64, Batch> = BTreeMap::new();
    let mut next = 0;
    for (number, batch) in batches {
        early.insert(number, batch);
        while let Some(batch) = early.remove(&next) {
            next += 1;
            stage.take(batch);
        }
        say(&stage.tally);
    }
    stage.finish()
}

/// Told of decisions; they are looked at after every call of the engine.
#[derive(Debug)]
struct Waiter(usize, Arc<Mutex<Vec<(usize, Decision)>>>);

impl Wake for Waiter {
    fn decide(self, decision: Decision) {
        self.1
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((self.0, decision));
    }
}

/// A call under way: waiting while it has a ticket, running while it has a permit.
struct UnderWay {
    call: Call,
    work: u64,
    since: u64,
    ticket: Option<Ticket>,
    permit: Option<Permit>,
}

struct Stage {
    engine: Option<Engine<Waiter>>,
    settings: Settings,
    costs: Model,
    server: Server,
    inbox: Arc<Mutex<Vec<(usize, Decision)>>>,
    under_way: Vec<Option<UnderWay>>,
    free: Vec<usize>,
    held: BinaryHeap<Reverse<(u64, u64)>>,
    calls: std::collections::HashMap<u64, Call>,
    sequence: u64,
    latest: u64,
    now: u64,
    ticked: u64,
    started: HashSet<u64>,
    tally: Tally,
}

impl Stage {
    fn new(policy: &Policy, settings: Settings, cores: f64) -> Self {
        Self {
            engine: None,
            settings,
            costs: Model::new(),
            server: Server::new(cores, 0),
            inbox: Arc::default(),
            under_way: Vec::new(),
            free: Vec::new(),
            held: BinaryHeap::new(),
            calls: std::collections::HashMap::new(),
            sequence: 0,
            latest: 0,
            now: 0,
            ticked: 0,
            started: HashSet::new(),
            tally: Tally::new(policy.classes().len(), policy.rules().count()),
        }
    }

    fn take(&mut self, batch: Batch) {
        self.tally.count(&batch);
        for (hash, name) in batch.names {
            self.tally.name(hash, name);
        }
        for call in batch.calls {
            // A watch is there when it starts; if the log has no starts, when it ends.
            if call.long_running {
                if self.started.remove(&call.id) {
                    continue;
                }
                if self.started.len() >= STARTED {
                    self.started.clear();
                }
                self.started.insert(call.id);
            }
            self.latest = self.latest.max(call.stage_at);
            self.sequence += 1;
            self.calls.insert(self.sequence, call);
            self.held.push(Reverse((call.at, self.sequence)));
            while self.held.len() > HELD || self.is_in_order() {
                self.play_one();
            }
        }
    }

    /// Whether nothing earlier than the first one held can come any more.
    fn is_in_order(&self) -> bool {
        let first = self.held.peek();
        first.is_some_and(|Reverse((at, _))| at.saturating_add(WINDOW) < self.latest)
    }

    fn play_one(&mut self) {
        let Some(Reverse((_, sequence))) = self.held.pop() else {
            return;
        };
        if let Some(call) = self.calls.remove(&sequence) {
            self.arrive(call);
        }
    }

    fn finish(mut self) -> Tally {
        while !self.held.is_empty() {
            self.play_one();
        }
        // What is under way may end.
        let end = self.now + WINDOW;
        while self.free.len() < self.under_way.len() && self.now < end {
            let next = self.now + TICK;
            self.pass(next);
        }
        self.tally.done_us = self.server.done;
        self.tally
    }

    /// Lets everything happen that does until `until`.
    fn pass(&mut self, until: u64) {
        loop {
            let tick = self.ticked + TICK;
            let end = self.server.next().unwrap_or(u64::MAX);
            let next = tick.min(end);
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            self.server.pass(next);
            if end <= tick {
                if let Some(job) = self.server.end() {
                    self.end(job);
                }
            } else {
                self.ticked = tick;
                if let Some(engine) = &self.engine {
                    let view = ProbeView::calm().with_excess(self.server.delay());
                    engine.tick(&Signals::of(view), Time(self.now));
                }
            }
            self.hear();
        }
        self.now = self.now.max(until);
        self.server.pass(until);
    }

    fn arrive(&mut self, call: Call) {
        if self.engine.is_none() || call.at > self.now + GAP {
            // The beginning, or one after a gap in which everything would have ended.
            if self.engine.is_some() {
                self.pass(self.now + WINDOW);
            }
            self.now = call.at;
            self.ticked = call.at;
            self.server.pass(call.at);
            let engine = Engine::new(self.settings.clone(), Time(call.at));
            self.engine.get_or_insert(engine);
        }
        if call.at < self.now {
            self.tally.late += 1;
        }
        self.pass(call.at.max(self.now));
        let estimate = self.costs.estimate(&call.shape);
        let took = call.stage_at.saturating_sub(call.at);
        let work = match (call.long_running, call.status, call.kind) {
            // How long a watch was open says nothing; what the server refused cost it nothing then.
            (true, ..) | (_, 429, _) => estimate.work_us,
            (_, 400.., _) | (.., Kind::Short) => took.min(LONGEST_SHORT),
            (.., Kind::Long) => took.min(LONGEST_LONG),
        }
        .max(200);
        let ask = Ask {
            class: call.class,
            cost: estimate,
            kind: call.kind,
            tenant: call.tenant,
            instance: call.instance,
            shape: call.shape.hash(),
        };
        self.tally.arrive(&call, work);
        let place = self.free.pop().unwrap_or_else(|| {
            self.under_way.push(None);
            self.under_way.len() - 1
        });
        let waiter = Waiter(place, Arc::clone(&self.inbox));
        let offer = match &self.engine {
            Some(engine) => engine.offer(ask, Time(self.now), || waiter),
            None => return,
        };
        let mut under_way = UnderWay {
            call,
            work,
            since: self.now,
            ticket: None,
            permit: None,
        };
        match offer {
            Offer::Admitted(permit) => {
                under_way.permit = Some(permit);
                self.keep(place, under_way);
                self.server.start(place, work);
                self.tally
                    .decided(&call, work, Fate::Admitted(Duration::ZERO));
            }
            Offer::Waiting(ticket) => {
                under_way.ticket = Some(ticket);
                self.keep(place, under_way);
            }
            Offer::Shed(refusal) => {
                self.free.push(place);
                self.tally.decided(&call, work, Fate::Shed(refusal.shed));
            }
        }
        self.hear();
    }

    fn keep(&mut self, place: usize, under_way: UnderWay) {
        if let Some(slot) = self.under_way.get_mut(place) {
            *slot = Some(under_way);
        }
    }

    /// Follows the decisions that were told.
    fn hear(&mut self) {
        loop {
            let told = {
                let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *inbox)
            };
            if told.is_empty() {
                return;
            }
            for (place, decision) in told {
                let Some(waiting) = self.under_way.get_mut(place).and_then(Option::as_mut) else {
                    continue;
                };
                let (call, work) = (waiting.call, waiting.work);
                let waited = Duration::from_micros(self.now.saturating_sub(waiting.since));
                drop(waiting.ticket.take());
                match decision {
                    Decision::Admitted(permit) => {
                        waiting.permit = Some(permit);
                        self.server.start(place, work);
                        self.tally.decided(&call, work, Fate::Admitted(waited));
                    }
                    Decision::Shed(refusal) => {
                        self.tally.decided(&call, work, Fate::Shed(refusal.shed));
                        if let Some(slot) = self.under_way.get_mut(place) {
                            *slot = None;
                        }
                        self.free.push(place);
                    }
                }
            }
        }
    }

    fn end(&mut self, job: Job) {
        let Some(done) = self.under_way.get_mut(job).and_then(Option::take) else {
            return;
        };
        self.free.push(job);
        if !done.call.long_running && done.call.status < 400 {
            // Bytes are not in the log; as many as take that long are plausible.
            let seen = Observation {
                bytes: done.work.saturating_mul(1_000) / 12,
                service: Duration::from_micros(done.work),
                calm: true,
            };
            self.costs.observe(&done.call.shape, &seen);
        }
        if let Some(permit) = done.permit {
            permit.finish(Outcome::Served, Time(self.now));
        }
    }
}
