//! A new policy beside the old one, as a request meets it: asked what it would say, and obeyed by some.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use metrics::Counter;
use proxy_core::admission::limits::{Asked, Leases};
use proxy_core::classify::{ClassId, Classified, MAX_CLASSES};
use proxy_core::rollout::{Counts, Mover, Movers, Seen, Share};

use super::book::Stage;
use crate::clock;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;

/// Which policy judged a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Old,
    New,
}

impl Side {
    const ALL: [(Self, &'static str); 2] = [(Self::Old, "old"), (Self::New, "new")];
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Served,
    /// By us.
    Refused,
    Failed,
}

impl Outcome {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Served, "served"),
        (Self::Refused, "refused"),
        (Self::Failed, "failed"),
    ];
}

/// A limit of one policy that would have answered otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// The new one refuses what the old one lets through.
    NewlyRefused,
    /// The other way round.
    NewlyPassed,
}

impl Difference {
    pub(crate) const ALL: [(Self, &'static str); 2] = [
        (Self::NewlyRefused, "newly_refused"),
        (Self::NewlyPassed, "newly_passed"),
    ];
}

#[derive(Debug, Default)]
struct Cell {
    count: AtomicU64,
    counter: OnceLock<Counter>,
}

impl Cell {
    fn add(&self, count: u64, register: impl FnOnce() -> Counter) {
        self.count.fetch_add(count, Ordering::Relaxed);
        self.counter.get_or_init(register).increment(count);
    }

    fn get(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// What is counted of one new policy, through all its stages.
pub(crate) struct Tally {
    compared: AtomicU64,
    /// By old class, then new one.
    moves: Box<[Cell]>,
    movers: Mutex<Movers>,
    differences: [Cell; 2],
    /// Requests of protected classes, by side and outcome.
    guarded: [[Cell; 3]; 2],
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tally")
    }
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let tally = Self {
            compared: AtomicU64::new(0),
            moves: std::iter::repeat_with(Cell::default)
                .take(MAX_CLASSES * MAX_CLASSES)
                .collect(),
            movers: Mutex::default(),
            differences: Default::default(),
            guarded: Default::default(),
        };
        for (side, _) in Side::ALL {
            for (outcome, _) in Outcome::ALL {
                tally.guarded(side, outcome, metrics, 0);
            }
        }
        tally
    }

    /// Requests about which both were asked.
    pub(crate) fn compared(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    /// (old class, new class, requests) of all that move.
    pub(crate) fn moves(&self) -> Vec<(ClassId, ClassId, u64)> {
        let class = |index: usize| ClassId(u8::try_from(index).unwrap_or(u8::MAX));
        self.moves
            .iter()
            .enumerate()
            .map(|(at, cell)| (class(at / MAX_CLASSES), class(at % MAX_CLASSES), cell.get()))
            .filter(|(.., count)| *count > 0)
            .collect()
    }

    /// The tenants that move most.
    pub(crate) fn movers(&self, most: usize) -> Vec<Mover> {
        self.movers
            .lock()
            .map_or_else(|_| Vec::new(), |movers| movers.top(most))
    }

    /// Requests whose limits say otherwise.
    pub(crate) fn differences(&self) -> [(&'static str, u64); 2] {
        Difference::ALL.map(|(difference, name)| {
            let cell = self.differences.get(difference as usize);
            (name, cell.map_or(0, Cell::get))
        })
    }

    /// What the guard looks at.
    pub(crate) fn seen(&self) -> Seen {
        let [old, new] = self.guarded.each_ref().map(|[served, refused, failed]| {
            let (refused, failed) = (refused.get(), failed.get());
            Counts {
                asked: served.get() + refused + failed,
                refused,
                failed,
            }
        });
        Seen { old, new }
    }

    /// A request of a protected class was answered.
    pub(crate) fn answered(&self, side: Side, outcome: Outcome, metrics: &Metrics) {
        self.guarded(side, outcome, metrics, 1);
    }

    fn guarded(&self, side: Side, outcome: Outcome, metrics: &Metrics, count: u64) {
        let sides = Side::ALL.iter().find(|(one, _)| *one == side);
        let outcomes = Outcome::ALL.iter().find(|(one, _)| *one == outcome);
        let cells = self.guarded.get(side as usize);
        let cell = cells.and_then(|cells| cells.get(outcome as usize));
        if let (Some(cell), Some((_, policy)), Some((_, outcome))) = (cell, sides, outcomes) {
            cell.add(count, || {
                let labels = [("policy", *policy), ("outcome", *outcome)];
                metrics.counter("spillway_policy_guarded_total", &labels)
            });
        }
    }

    fn compare(
        &self,
        tenant: u64,
        old: ClassId,
        new: ClassId,
        snapshot: &Snapshot,
        metrics: &Metrics,
    ) {
        self.compared.fetch_add(1, Ordering::Relaxed);
        if old == new {
            return;
        }
        if let Some(cell) = self.moves.get(old.index() * MAX_CLASSES + new.index()) {
            cell.add(1, || {
                let (from, to) = (&snapshot.class(old).name, &snapshot.class(new).name);
                metrics.counter("spillway_policy_moved_total", &[("from", from), ("to", to)])
            });
        }
        // Nobody waits for the list of names; the counts above miss nothing.
        if let Ok(mut movers) = self.movers.try_lock() {
            movers.note(tenant, old, new);
        }
    }
}

/// See the module. Part of the snapshot in force, and judges by another.
#[derive(Debug)]
pub(crate) struct Trial {
    /// The digest of the new policy.
    pub(crate) name: String,
    /// The other policy: the new one, or, once that is in force and still watched, the old one.
    pub(crate) other: Arc<Snapshot>,
    pub(crate) other_is_new: bool,
    pub(crate) stage: Stage,
    /// Who is judged by the other.
    pub(crate) share: Share,
    pub(crate) tally: Arc<Tally>,
    /// Bit by class of the old policy.
    pub(crate) protected: u32,
}

impl Trial {
    /// Whether a tenant is judged by the other policy.
    pub(crate) const fn judges(&self, tenant: u64) -> bool {
        self.share.contains(tenant)
    }

    /// Whether anybody is judged by the new policy.
    pub(crate) fn is_judging(&self) -> bool {
        !self.other_is_new || self.share > Share::NOBODY
    }

    /// Takes in what both say about a request; by which side it is judged, and whether the guard wants to know what
    /// becomes of it.
    pub(crate) fn note(
        &self,
        tenant: u64,
        own: Classified,
        other: Classified,
        metrics: &Metrics,
    ) -> (Side, bool) {
        let (old, new) = match self.other_is_new {
            true => (own.class, other.class),
            false => (other.class, own.class),
        };
        self.tally.compare(tenant, old, new, &self.other, metrics);
        let side = match self.judges(tenant) == self.other_is_new {
            true => Side::New,
            false => Side::Old,
        };
        (side, self.protected & (1 << (old.0 & 31)) != 0)
    }

    /// What the new policy's limits would say, in shadow, where `refused` says what the old one's did. The leases are held as
    /// long as the request lasts, in tables that nobody else uses.
    pub(crate) fn rehearse(&self, asked: &Asked<'_>, refused: bool, metrics: &Metrics) -> Leases {
        if self.is_judging() || (self.other.limits.is_empty() && !refused) {
            return Leases::none();
        }
        let taken = self.other.limits.take(asked, clock::now());
        let difference = match (refused, &taken) {
            (false, Err(_)) => Some(Difference::NewlyRefused),
            (true, Ok(_)) => Some(Difference::NewlyPassed),
            _ => None,
        };
        if let Some(difference) = difference
            && let Some(cell) = self.tally.differences.get(difference as usize)
        {
            let name = Difference::ALL
                .iter()
                .find(|(one, _)| *one == difference)
                .map_or("", |(_, name)| *name);
            cell.add(1, || {
                metrics.counter(
                    "spillway_policy_limit_differences_total",
                    &[("difference", name)],
                )
            });
        }
        taken.unwrap_or_default()
    }
}
