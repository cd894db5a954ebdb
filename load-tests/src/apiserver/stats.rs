//! What the model did, for tests and the demonstration.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use super::lock;

/// A snapshot of the model's counters, since its start and across its
/// restarts unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests answered, by Kubernetes verb (`nonresource` for health and
    /// discovery). A stream counts when it starts.
    pub served: BTreeMap<&'static str, u64>,
    /// Responses by status code.
    pub codes: BTreeMap<u16, u64>,
    /// Requests refused by the stand-in for Priority and Fairness.
    pub rejected: u64,
    /// Simulated CPU time used.
    pub cpu: Duration,
    /// Times it ran out of memory.
    pub restarts: u64,
    /// Whether it is serving, not down after running out of memory.
    pub up: bool,
    /// Simulated resident bytes now; 0 while down.
    pub memory: u64,
    /// The most of any life.
    pub memory_peak: u64,
    /// Work on the simulated cores or waiting for them, now.
    pub runnable: usize,
    /// Open connections, now.
    pub connections: usize,
    /// Open watches, now.
    pub watches: usize,
    /// Requests between their head and the head of their response, now.
    pub in_flight: usize,
}

/// Counters that outlive a process.
#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<Stats>);

impl Counters {
    pub(super) fn update(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut lock(&self.0));
    }

    pub(super) fn read(&self) -> Stats {
        lock(&self.0).clone()
    }

    pub(super) fn served(&self, verb: &'static str, code: u16) {
        self.update(|stats| {
            *stats.served.entry(verb).or_default() += 1;
            *stats.codes.entry(code).or_default() += 1;
        });
    }
}

/// Counts something as long as it lives.
pub(super) struct Gauge {
    counters: std::sync::Arc<Counters>,
    field: fn(&mut Stats) -> &mut usize,
}

impl Gauge {
    pub(super) fn new(
        counters: &std::sync::Arc<Counters>,
        field: fn(&mut Stats) -> &mut usize,
    ) -> Self {
        counters.update(|stats| *field(stats) += 1);
        Self {
            counters: counters.clone(),
            field,
        }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        let field = self.field;
        self.counters
            .update(|stats| *field(stats) = field(stats).saturating_sub(1));
    }
}
