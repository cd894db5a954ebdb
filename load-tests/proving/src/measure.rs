//! What is counted: what became of every population, curves over time, and priority inversions.

pub mod inversions;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use proxy_core::admission::Kind;

pub use inversions::{Inversions, Pattern};

/// Classes of the default policy.
pub const CLASSES: usize = 8;

/// What became of a population; requests sent before the warm-up's end are not counted.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Calls: what clients wanted done, however often they had to send it.
    pub calls: u64,
    /// Requests: calls and their repetitions.
    pub requests: u64,
    /// Calls answered.
    pub served: u64,
    /// Of those, in time since they were due, whatever was in between.
    pub in_time: u64,
    /// Refusals.
    pub shed: u64,
    /// Calls that ended with an error: refused for good, or the server away.
    pub lost: u64,
    /// Calls whose client gave up.
    pub gave_up: u64,
    /// Core time of calls offered, µs.
    pub offered_work: u64,
    /// Core time of calls answered, µs.
    pub work: u64,
    /// Core time of calls answered in time since they were sent last, µs.
    pub useful: u64,
    /// The same by tenant.
    pub by_tenant: Vec<u64>,
    /// From the moment a call was due to its answer, µs.
    pub latency: Histogram<u64>,
    /// Nodes taken for dead, or leaders that lost their seats.
    pub lapses: u64,
}

impl Tally {
    /// Nothing yet.
    #[must_use]
    pub fn new(tenants: usize) -> Self {
        Self {
            calls: 0,
            requests: 0,
            served: 0,
            in_time: 0,
            shed: 0,
            lost: 0,
            gave_up: 0,
            offered_work: 0,
            work: 0,
            useful: 0,
            by_tenant: vec![0; tenants],
            latency: histogram(),
            lapses: 0,
        }
    }
}

/// Latencies up to ten minutes, two digits.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 2)
        .unwrap_or_else(|_| unreachable!("the bounds are sound"))
}

/// One moment of the curves.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// When, µs.
    pub at: u64,
    /// Core time asked for since the last sample, by class, µs.
    pub offered: [u64; CLASSES],
    /// Core time answered in time, by class, µs.
    pub useful: [u64; CLASSES],
    /// Refusals, by class.
    pub shed: [u32; CLASSES],
    /// Calls that became due, requests sent for calls, and calls under way at the end.
    pub calls: u32,
    /// See [`Self::calls`].
    pub requests: u32,
    /// See [`Self::calls`].
    pub under_way: u32,
    /// Calls of the others that were refused or failed; culprits not counted.
    pub victims: u32,
    /// The controller's limit.
    pub limit: f64,
    /// The probe's excess, ms.
    pub probe_ms: f64,
    /// 99th percentile of answers to classes 0 to 3, ms.
    pub p99_ms: f64,
    /// Most memory, bytes.
    pub memory: u64,
    /// Most work of classes 0 and 1 under way, as time of the whole server, ms.
    pub backlog_ms: f64,
    /// Cores there are; 0 while the server is away.
    pub cores: usize,
}

/// Everything counted in one run.
#[derive(Clone, Debug)]
pub struct Record {
    /// By population.
    pub tallies: Vec<Tally>,
    /// Curves.
    pub samples: Vec<Sample>,
    /// From when to when was counted, µs.
    pub counted: (u64, u64),
    /// Core time there was, µs.
    pub capacity: u64,
    /// Times the server was killed for its memory.
    pub killed: u64,
    /// The most memory it used, as a share of its limit.
    pub memory: f64,
    /// Refused while something less important was admitted in its place: within one kind, and of either kind.
    pub inversions: [u64; 2],
    /// The same by pattern.
    pub patterns: BTreeMap<Pattern, u64>,
    /// Decisions made.
    pub decisions: u64,
    /// Refusals on the reserved lane.
    pub reserved_refused: u64,
}

impl Record {
    /// Nothing yet.
    #[must_use]
    pub fn new(tenants: impl Iterator<Item = usize>) -> Self {
        Self {
            tallies: tenants.map(Tally::new).collect(),
            samples: Vec::new(),
            counted: (0, 0),
            capacity: 0,
            killed: 0,
            memory: 0.0,
            inversions: [0; 2],
            patterns: BTreeMap::new(),
            decisions: 0,
            reserved_refused: 0,
        }
    }
}

/// What of a bound a request of this kind and mean work takes.
#[must_use]
pub fn size(kind: Kind, work: f64) -> usize {
    let held = if kind == Kind::Long {
        20_000.0
    } else {
        work.clamp(1.0, 20_000.0)
    };
    (held.log2() as usize).min(inversions::SIZES - 1)
}

/// Jain's index of fairness: 1 when all are equal, 1/n when one has everything.
#[must_use]
pub fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    if squares > 0.0 {
        sum * sum / (shares.len() as f64 * squares)
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jains_index_is_one_for_equals_and_falls_to_a_share_for_one_who_has_all() {
        assert!((jain(&[5, 5, 5, 5]) - 1.0).abs() < 1e-9);
        assert!((jain(&[5, 0, 0, 0]) - 0.25).abs() < 1e-9);
    }
}
