//! How watches begin again after an outage, and after the proxy's own start.
//!
//! All of them come back at once: every node's and every controller's. One is cheap and ten
//! thousand are a storm that fells a server which has only just come up. So for the first
//! minute they start at a **rate** that doubles every second while the probe is calm and
//! halves while it is not; the first [`BURST`] start at once, so that a small cluster, or a
//! controller manager that opens its sixty watches, never notices. Who has to wait does so in
//! the bounded queue of its class, fair between tenants, and the most important class goes
//! first. Who cannot is told 429, which a reflector answers by resuming later, and not with a
//! new LIST.
//!
//! It ends when the rate is beyond anything that could come, at the latest after a minute:
//! what begins then is no longer a return. Without sight it ends at once.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::probe::ProbeView;
use super::queue::{Place, Pushed, Queue};
use super::retry_after::{self, Refused};
use super::{Ask, ClassId, MAX_CLASSES, slot};
use crate::time::Time;

/// So many start before anybody waits.
pub const BURST: u32 = 256;
/// Starts per second in the beginning.
const FIRST_RATE: f64 = 256.0;
/// Never below this.
const LEAST_RATE: f64 = 64.0;
/// From here on there is no ramp any more.
const LAST_RATE: f64 = 8_192.0;
/// The longest Retry-After, in seconds: by then the rate is another.
const LONGEST_PAUSE: u32 = 8;
/// Nor after this.
const LONGEST: Duration = Duration::from_secs(60);

/// What becomes of a watch that wants to begin.
#[derive(Debug)]
pub enum Start {
    /// Begin.
    Now,
    /// Wait: the waiter will be handed back by [`Ramp::tick`].
    Waits(Waiting),
    /// Come back in so many seconds at most, drawn by [`Ramp::retry_after`].
    Refused,
}

/// A place in the queue, to be given back with [`Ramp::leave`] by whoever stops waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    class: ClassId,
    place: Place,
}

/// Those who waited and need not any more.
#[derive(Debug)]
pub struct Told<W> {
    /// May begin.
    pub begin: Vec<W>,
    /// Have waited too long, or made room for others.
    pub refused: Vec<W>,
}

impl<W> Default for Told<W> {
    fn default() -> Self {
        Self {
            begin: Vec::new(),
            refused: Vec::new(),
        }
    }
}

/// What it looks like from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RampView {
    /// Starts allowed per second; 0 when there is no ramp.
    pub rate: f64,
    /// Watches that wait to begin.
    pub waiting: usize,
}

#[derive(Debug)]
struct Inner<W> {
    queues: [Queue<W>; MAX_CLASSES],
    /// Since when; `None` when it is over.
    since: Option<Time>,
    rate: f64,
    tokens: f64,
    at: Time,
    down: bool,
    refused: Refused,
    /// Displaced since the last tick.
    displaced: Vec<W>,
}

/// See the module. Shared by all workers; without a ramp one load.
#[derive(Debug)]
pub struct Ramp<W> {
    over: AtomicBool,
    inner: Mutex<Inner<W>>,
}

impl<W> Ramp<W> {
    /// The ramp that follows a start of the proxy.
    #[must_use]
    pub fn new(now: Time) -> Self {
        let mut inner = Inner {
            queues: std::array::from_fn(|_| Queue::new()),
            since: None,
            rate: 0.0,
            tokens: 0.0,
            at: now,
            down: false,
            refused: Refused::new(now),
            displaced: Vec::new(),
        };
        inner.begin(now);
        Self {
            over: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }
    }

    /// Whether watches begin without being asked about. One load.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// A watch wants to begin. It may wait for `patience`, together with at most
    /// `max_waiting` others of its class.
    pub fn offer(
        &self,
        ask: &Ask,
        patience: Duration,
        max_waiting: usize,
        now: Time,
        make_waiter: impl FnOnce() -> W,
    ) -> Start {
        let mut inner = self.inner();
        if inner.since.is_none() {
            return Start::Now;
        }
        inner.refill(now);
        let class = slot(ask.class);
        let first = inner.queues.iter().take(class + 1).all(Queue::is_empty);
        if first && inner.tokens >= 1.0 {
            inner.tokens -= 1.0;
            return Start::Now;
        }
        let deadline = now + patience;
        let queue = &mut inner.queues[class];
        match queue.push(*ask, now, deadline, max_waiting, u64::MAX, make_waiter) {
            Pushed::Refused => {
                inner.refused.note(ask.instance);
                Start::Refused
            }
            Pushed::Waits(place, displaced) => {
                for entry in displaced {
                    inner.refused.note(entry.ask.instance);
                    inner.displaced.push(entry.waiter);
                }
                Start::Waits(Waiting {
                    class: ask.class,
                    place,
                })
            }
        }
    }

    /// Somebody no longer waits.
    pub fn leave(&self, waiting: Waiting) {
        self.inner().queues[slot(waiting.class)].remove(waiting.place);
    }

    /// To be called about every 100 ms with what the probe says; `target` is the delay that is
    /// tolerated. Whoever is handed back is to be told.
    #[must_use]
    pub fn tick(&self, probe: &ProbeView, target: Duration, now: Time) -> Told<W> {
        if self.is_over() && !probe.down {
            return Told::default();
        }
        let mut inner = self.inner();
        let came_back = inner.down && !probe.down;
        inner.down = probe.down;
        let mut told = Told {
            refused: std::mem::take(&mut inner.displaced),
            ..Told::default()
        };
        inner.refused.tick(now);
        if came_back {
            inner.begin(now);
        } else if probe.down || probe.blind {
            // While the server is away a refusal is for others to give, and at once.
            inner.since = None;
        } else if let Some(since) = inner.since {
            inner.pace(probe, target, now);
            if inner.rate >= LAST_RATE || now.saturating_since(since) >= LONGEST {
                inner.since = None;
            }
        }
        let over = inner.since.is_none();
        // The last tick of an outage must find its way in here.
        self.over.store(over && !inner.down, Relaxed);
        for class in 0..MAX_CLASSES {
            let late = inner.queues[class].expire(now);
            for entry in late {
                inner.refused.note(entry.ask.instance);
                told.refused.push(entry.waiter);
            }
            while over || inner.tokens >= 1.0 {
                let Some(entry) = inner.queues[class].pop() else {
                    break;
                };
                inner.tokens -= 1.0;
                told.begin.push(entry.waiter);
            }
        }
        told
    }

    /// How many whole seconds a refused client shall wait, 1..=[`LONGEST_PAUSE`], by chance:
    /// those who were refused then come back with half of what may begin, since nobody else
    /// is to begin here. `random` is any uniform word.
    #[must_use]
    pub fn retry_after(&self, random: u64) -> u32 {
        let inner = self.inner();
        let clients = inner.refused.clients() / 5.0;
        retry_after::seconds(clients, inner.rate, random, LONGEST_PAUSE)
    }

    /// What it looks like from outside.
    #[must_use]
    pub fn view(&self) -> RampView {
        let inner = self.inner();
        RampView {
            rate: if inner.since.is_some() {
                inner.rate
            } else {
                0.0
            },
            waiting: inner.queues.iter().map(Queue::len).sum(),
        }
    }

    /// Nothing under the lock panics but what a caller's `make_waiter` does.
    fn inner(&self) -> MutexGuard<'_, Inner<W>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> Inner<W> {
    fn begin(&mut self, now: Time) {
        self.since = Some(now);
        self.rate = FIRST_RATE;
        self.tokens = BURST.into();
        self.at = now;
    }

    fn refill(&mut self, now: Time) {
        let passed = now.saturating_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        // Beyond a thousand a second, what a tick allows is more than the burst.
        let most = f64::from(BURST).max(self.rate / 4.0);
        self.tokens = (self.tokens + passed * self.rate).min(most);
    }

    /// A window has passed: what it allowed is there, and the rate becomes what the probe says.
    fn pace(&mut self, probe: &ProbeView, target: Duration, now: Time) {
        let passed = now.saturating_since(self.at).as_secs_f64().min(1.0);
        self.refill(now);
        if probe.excess > target {
            self.rate = (self.rate * (-passed).exp2()).max(LEAST_RATE);
        } else if probe.excess <= target / 2 {
            self.rate *= passed.exp2();
        }
    }
}

#[cfg(test)]
#[path = "ramp_tests.rs"]
mod tests;
