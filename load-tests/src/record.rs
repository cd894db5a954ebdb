//! What became of the requests of one phase.
//!
//! A [`Record`] belongs to a phase; a request belongs to the record that was
//! current when it was due, however late it ends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// Longest latency told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(600);
/// How much of the past the live numbers cover.
const RECENT: Duration = Duration::from_secs(2);
/// Bound on latencies kept for the live numbers, per population.
const RECENT_SAMPLES: usize = 4096;
/// Bound on latencies kept with their time, per population and phase.
const TIMELINE_SAMPLES: usize = 200_000;

/// A group of clients of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Population {
    /// What they are, such as `node-leases`.
    pub name: &'static str,
    /// The class that Spillway's built-in policy puts them in.
    pub class: &'static str,
}

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A 2xx answer, read to its end.
    Served,
    /// Refused with 429.
    Shed,
    /// Any other status, or the connection failed.
    Failed,
    /// The client's own timeout passed.
    TimedOut,
    /// The client was stopped; nobody's fault.
    Cancelled,
}

/// Counts of one population in one phase. The unit of all but `requests` is the
/// attempt: one HTTP request, with each retry counted again.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Attempts that were due.
    pub offered: u64,
    /// Attempts answered 2xx.
    pub served: u64,
    /// Attempts answered 429.
    pub shed: u64,
    /// Attempts that failed otherwise, timeouts not included.
    pub failed: u64,
    /// Attempts that the client gave up on.
    pub timed_out: u64,
    /// Attempts under way when their client was stopped.
    pub cancelled: u64,
    /// Bytes of answers read, of unfinished ones as well.
    pub bytes: u64,
    /// Watch events received.
    pub events: u64,
    /// From when a request was due until it was served or given up, retries and
    /// the waits between them included; microseconds.
    pub latency: Histogram<u64>,
    /// When requests were due, after the record was opened, and their latency;
    /// in order of their ends.
    pub timeline: Vec<(Duration, Duration)>,
    recent: VecDeque<(Instant, Duration)>,
}

impl Tally {
    fn new() -> Self {
        // The bounds are constant and valid; a histogram that grows is the next
        // best thing.
        let bound = u64::try_from(LONGEST.as_micros()).unwrap_or(u64::MAX);
        let latency = Histogram::new_with_bounds(1, bound, 3)
            .or_else(|_| Histogram::new(3))
            .unwrap_or_else(|_| unreachable!("three significant digits are valid"));
        Self {
            offered: 0,
            served: 0,
            shed: 0,
            failed: 0,
            timed_out: 0,
            cancelled: 0,
            bytes: 0,
            events: 0,
            latency,
            timeline: Vec::new(),
            recent: VecDeque::new(),
        }
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        self.offered += other.offered;
        self.served += other.served;
        self.shed += other.shed;
        self.failed += other.failed;
        self.timed_out += other.timed_out;
        self.cancelled += other.cancelled;
        self.bytes += other.bytes;
        self.events += other.events;
        // Same bounds, so it fits.
        let _ = self.latency.add(&other.latency);
        self.timeline.extend_from_slice(&other.timeline);
        self.recent.extend(&other.recent);
    }

    /// The latency that a share (0 to 1) of requests did not exceed; `None`
    /// without requests.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        (!self.latency.is_empty())
            .then(|| Duration::from_micros(self.latency.value_at_quantile(share)))
    }

    /// The 99th percentile of the last two seconds.
    pub fn recent_p99(&self) -> Option<Duration> {
        let horizon = Instant::now().checked_sub(RECENT);
        let mut latencies: Vec<_> = self
            .recent
            .iter()
            .filter(|(at, _)| horizon.is_none_or(|horizon| *at >= horizon))
            .map(|(_, latency)| *latency)
            .collect();
        latencies.sort_unstable();
        quantile(&latencies, 0.99)
    }
}

/// A quantile of sorted values, the next larger one.
pub(crate) fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The counts of all populations in one phase.
#[derive(Debug)]
pub struct Record {
    opened: Instant,
    populations: &'static [Population],
    tallies: Vec<Mutex<Tally>>,
}

impl Record {
    /// An empty record that starts now.
    pub fn open(populations: &'static [Population]) -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            populations,
            tallies: populations
                .iter()
                .map(|_| Mutex::new(Tally::new()))
                .collect(),
        })
    }

    /// When it was opened.
    pub fn opened(&self) -> Instant {
        self.opened
    }

    /// The populations it counts.
    pub fn populations(&self) -> &'static [Population] {
        self.populations
    }

    fn tally(&self, population: usize) -> Option<MutexGuard<'_, Tally>> {
        let tally = self.tallies.get(population)?;
        Some(tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins an attempt of a population (its index). It counts as
    /// [`Outcome::Cancelled`] if it is dropped before it ends.
    pub fn attempt(self: &Arc<Self>, population: usize) -> Attempt {
        if let Some(mut tally) = self.tally(population) {
            tally.offered += 1;
        }
        Attempt {
            record: self.clone(),
            population,
            outcome: Outcome::Cancelled,
        }
    }

    /// A request that was due at `intended` has ended, served or given up.
    pub fn ended(&self, population: usize, intended: Instant) {
        let now = Instant::now();
        let latency = now.saturating_duration_since(intended);
        let Some(mut tally) = self.tally(population) else {
            return;
        };
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        tally.latency.saturating_record(micros.max(1));
        if tally.timeline.len() < TIMELINE_SAMPLES {
            let due = intended.saturating_duration_since(self.opened);
            tally.timeline.push((due, latency));
        }
        while tally.recent.len() >= RECENT_SAMPLES
            || tally
                .recent
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) > RECENT)
        {
            tally.recent.pop_front();
        }
        tally.recent.push_back((now, latency));
    }

    /// Bytes of an answer have been read.
    pub fn received(&self, population: usize, bytes: usize) {
        if let Some(mut tally) = self.tally(population) {
            tally.bytes += bytes as u64;
        }
    }

    /// A watch has delivered events.
    pub fn delivered(&self, population: usize, events: u64) {
        if let Some(mut tally) = self.tally(population) {
            tally.events += events;
        }
    }

    /// A copy of one population's counts.
    pub fn population(&self, population: usize) -> Tally {
        self.tally(population)
            .map_or_else(Tally::new, |tally| tally.clone())
    }

    /// The sum over the populations of a class.
    pub fn class(&self, class: &str) -> Tally {
        let mut sum = Tally::new();
        for (index, population) in self.populations.iter().enumerate() {
            if population.class == class
                && let Some(tally) = self.tally(index)
            {
                sum.merge(&tally);
            }
        }
        sum
    }

    /// The classes of its populations, each once, in their order.
    pub fn classes(&self) -> Vec<&'static str> {
        let mut classes: Vec<&'static str> = Vec::new();
        for population in self.populations {
            if !classes.contains(&population.class) {
                classes.push(population.class);
            }
        }
        classes
    }
}

/// One HTTP request under way.
#[derive(Debug)]
pub struct Attempt {
    record: Arc<Record>,
    population: usize,
    outcome: Outcome,
}

impl Attempt {
    /// It has ended like this.
    pub fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(mut tally) = self.record.tally(self.population) else {
            return;
        };
        match self.outcome {
            Outcome::Served => tally.served += 1,
            Outcome::Shed => tally.shed += 1,
            Outcome::Failed => tally.failed += 1,
            Outcome::TimedOut => tally.timed_out += 1,
            Outcome::Cancelled => tally.cancelled += 1,
        }
    }
}

/// The record in use, replaced when a phase ends.
#[derive(Debug, Clone)]
pub struct Current(Arc<RwLock<Arc<Record>>>);

impl Current {
    /// Starts with an empty record.
    pub fn open(populations: &'static [Population]) -> Self {
        Self(Arc::new(RwLock::new(Record::open(populations))))
    }

    /// The record for a request that is due now.
    pub fn get(&self) -> Arc<Record> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Replaces it by an empty one and returns it. Requests under way still
    /// count into it.
    pub fn turn(&self) -> Arc<Record> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let next = Record::open(current.populations);
        std::mem::replace(&mut *current, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POPULATIONS: &[Population] = &[
        Population {
            name: "node-leases",
            class: "life-signs",
        },
        Population {
            name: "telemetry",
            class: "bulk",
        },
        Population {
            name: "leader-election",
            class: "life-signs",
        },
    ];

    #[tokio::test(start_paused = true)]
    async fn every_attempt_ends_in_exactly_one_count() {
        let record = Record::open(POPULATIONS);
        for outcome in [
            Outcome::Served,
            Outcome::Shed,
            Outcome::Failed,
            Outcome::TimedOut,
        ] {
            record.attempt(1).end(outcome);
        }
        drop(record.attempt(1));
        let tally = record.population(1);
        let ends = [
            tally.served,
            tally.shed,
            tally.failed,
            tally.timed_out,
            tally.cancelled,
        ];
        assert_eq!(ends, [1; 5]);
        assert_eq!(tally.offered, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_end_counts_in_the_phase_it_was_due_in() {
        let current = Current::open(POPULATIONS);
        let due = Instant::now();
        let record = current.get();
        let attempt = record.attempt(0);
        let calm = current.turn();
        tokio::time::sleep(Duration::from_secs(3)).await;
        attempt.end(Outcome::Served);
        record.ended(0, due);
        assert_eq!(calm.class("life-signs").served, 1);
        assert_eq!(current.get().class("life-signs").offered, 0);
        let p99 = calm.class("life-signs").quantile(0.99);
        assert!(p99.is_some_and(|p99| p99 >= Duration::from_millis(2990)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_class_is_the_sum_of_its_populations() {
        let record = Record::open(POPULATIONS);
        for population in [0, 2, 2] {
            record.attempt(population).end(Outcome::Served);
            record.ended(population, Instant::now());
        }
        let class = record.class("life-signs");
        assert_eq!(
            (class.offered, class.served, class.latency.len()),
            (3, 3, 3)
        );
        assert_eq!(record.classes(), ["life-signs", "bulk"]);
    }

    #[test]
    fn quantiles_of_few_values_are_the_larger_ones() {
        let sorted: Vec<_> = (1..=10).map(Duration::from_secs).collect();
        assert_eq!(quantile(&sorted, 0.99), Some(Duration::from_secs(10)));
        assert_eq!(quantile(&sorted, 0.5), Some(Duration::from_secs(5)));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
