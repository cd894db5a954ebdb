//! Outstanding work per class, and whether one more request fits.
//!
//! This is the part of admission every request touches, so it is made of atomics alone.
//!
//! **Add, then look.** A request first adds itself to its class and then looks at the
//! sum; if it does not fit it takes itself out again. All additions and the loads that
//! judge them are sequentially consistent, so of two requests that together do not fit
//! at least one sees the other: a ceiling is never exceeded by a race. Both may see each
//! other and both withdraw; they then meet at the desk's lock, where one goes first. The
//! same order makes waking safe: a waiter raises its flag before its last look, a
//! release takes its work out before it looks for flags, so one of them sees the other.

use super::MAX_CLASSES;
use crate::sync::{AtomicU64, SeqCst};

const WORK_BITS: u32 = 40;
const ONE_RUNNING: u64 = 1 << WORK_BITS;
const WORK_MASK: u64 = ONE_RUNNING - 1;

/// Work in microseconds (low 40 bits: twelve days) and requests running (high 24 bits) of
/// one class, in one word so that both always belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held(u64);

impl Held {
    pub(super) const fn work(self) -> u64 {
        self.0 & WORK_MASK
    }

    pub(super) const fn running(self) -> u64 {
        self.0 >> WORK_BITS
    }
}

/// Why a request does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The bound shared by all classes: nobody less important may pass.
    Shared,
    /// Larger than its whole ceiling, and its own class still has one running.
    Own,
    /// Short work of more important classes has closed its class to long work.
    Closed,
    /// The bytes in flight.
    Bytes,
}

/// How a request fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Under the ceiling.
    Under,
    /// Over it, as the only one of its class.
    Alone,
    /// As [`Room::Alone`], and larger than the whole ceiling.
    Whale,
}

/// One bound, its nested ceilings and what is outstanding against them.
#[derive(Debug)]
pub(super) struct Ledger {
    held: [AtomicU64; MAX_CLASSES],
    ceilings: [AtomicU64; MAX_CLASSES],
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            held: std::array::from_fn(|_| AtomicU64::new(0)),
            ceilings: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Publish ceilings, in microseconds of work.
    pub(super) fn set_ceiling(&self, class: usize, work_us: u64) {
        self.ceilings[class].store(work_us, SeqCst);
    }

    pub(super) fn ceiling(&self, class: usize) -> u64 {
        self.ceilings[class].load(SeqCst)
    }

    pub(super) fn held(&self, class: usize) -> Held {
        Held(self.held[class].load(SeqCst))
    }

    /// Outstanding work and requests of all classes.
    pub(super) fn total(&self) -> (u64, u64) {
        (0..MAX_CLASSES).fold((0, 0), |(work, running), class| {
            let held = self.held(class);
            (work + held.work(), running + held.running())
        })
    }

    /// What is used as `class` sees it, its own held work aside: everything more
    /// important, and of the less important classes at most what their ceilings allow.
    /// What they run beyond that (a whale, or a bound that has shrunk meanwhile) does not
    /// take from what is reserved for `class`.
    fn used_by_others(&self, class: usize) -> u64 {
        let above: u64 = (0..class).map(|other| self.held(other).work()).sum();
        let below = (class + 1..MAX_CLASSES).rev().fold(0_u64, |below, other| {
            (below + self.held(other).work()).min(self.ceiling(other))
        });
        above + below
    }

    /// Whether `class` still sees any room at all.
    pub(super) fn is_open(&self, class: usize) -> bool {
        self.used_by_others(class) + self.held(class).work() < self.ceiling(class)
    }

    /// Add a request if it fits.
    pub(super) fn try_add(&self, class: usize, work_us: u64) -> Result<Room, NoRoom> {
        let before = Held(self.held[class].fetch_add(ONE_RUNNING + work_us, SeqCst));
        let ceiling = self.ceiling(class);
        let used = before.work() + self.used_by_others(class);
        // A request that holds no work any more (its client does not read) is nobody's company.
        let alone = before.work() == 0;
        if used + work_us <= ceiling {
            return Ok(Room::Under);
        }
        if alone && used < ceiling {
            return Ok(if work_us > ceiling {
                Room::Whale
            } else {
                Room::Alone
            });
        }
        self.take(class, work_us);
        Err(
            if work_us > ceiling && !alone && used - before.work() < ceiling {
                NoRoom::Own
            } else {
                NoRoom::Shared
            },
        )
    }

    /// Add a request held only against what its own class has outstanding.
    pub(super) fn try_add_bounded(&self, class: usize, work_us: u64, bound: u64) -> bool {
        let before = Held(self.held[class].fetch_add(ONE_RUNNING + work_us, SeqCst));
        let fits = before.work() + work_us <= bound || before.work() == 0;
        if !fits {
            self.take(class, work_us);
        }
        fits
    }

    /// Add a request whether it fits or not.
    pub(super) fn add(&self, class: usize, work_us: u64) {
        self.held[class].fetch_add(ONE_RUNNING + work_us, SeqCst);
    }

    /// Take a request out; with exactly the work it was added and adjusted with.
    pub(super) fn take(&self, class: usize, work_us: u64) {
        self.held[class].fetch_sub(ONE_RUNNING + work_us, SeqCst);
    }

    /// Change the work of a running request.
    pub(super) fn adjust(&self, class: usize, from_us: u64, to_us: u64) {
        if to_us >= from_us {
            self.held[class].fetch_add(to_us - from_us, SeqCst);
        } else {
            self.held[class].fetch_sub(from_us - to_us, SeqCst);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn ledger(ceilings: &[u64]) -> Ledger {
        let ledger = Ledger::new();
        for class in 0..MAX_CLASSES {
            let last = ceilings.last().copied().unwrap_or(0);
            ledger.set_ceiling(class, ceilings.get(class).copied().unwrap_or(last));
        }
        ledger
    }

    #[test]
    fn a_less_important_class_never_uses_what_is_reserved() {
        let ledger = ledger(&[100, 60, 30]);
        assert_eq!(ledger.try_add(2, 30), Ok(Room::Under));
        assert_eq!(ledger.try_add(2, 1), Err(NoRoom::Shared));
        assert_eq!(ledger.try_add(1, 30), Ok(Room::Under));
        assert_eq!(ledger.try_add(1, 1), Err(NoRoom::Shared));
        assert_eq!(ledger.try_add(0, 40), Ok(Room::Under));
    }

    #[test]
    fn what_runs_beyond_a_shrunken_ceiling_takes_nothing_from_the_classes_above() {
        let ledger = ledger(&[100, 60, 30]);
        assert_eq!(ledger.try_add(2, 30), Ok(Room::Under));
        for (class, ceiling) in [(0, 20), (1, 12), (2, 6)] {
            ledger.set_ceiling(class, ceiling);
        }
        assert_eq!(ledger.try_add(1, 6), Ok(Room::Under));
        assert_eq!(ledger.try_add(0, 8), Ok(Room::Under));
    }

    #[test]
    fn a_whale_starts_beside_what_holds_no_work_any_more() {
        let ledger = ledger(&[10]);
        assert_eq!(ledger.try_add(0, 50), Ok(Room::Whale));
        assert_eq!(ledger.try_add(0, 50), Err(NoRoom::Own));
        ledger.adjust(0, 50, 0);
        assert_eq!(ledger.try_add(0, 50), Ok(Room::Whale));
        ledger.take(0, 50);
        ledger.take(0, 0);
        assert_eq!(ledger.total(), (0, 0));
    }

    #[test]
    fn a_whale_starts_when_its_class_is_idle_and_still_sees_room() {
        let ledger = ledger(&[100, 60, 30]);
        assert_eq!(ledger.try_add(2, 500), Ok(Room::Whale));
        assert_eq!(ledger.try_add(2, 500), Err(NoRoom::Own));
        ledger.take(2, 500);
        assert_eq!(ledger.try_add(0, 30), Ok(Room::Under));
        assert_eq!(
            ledger.try_add(2, 500),
            Err(NoRoom::Shared),
            "closed by class 0"
        );
    }

    #[test]
    fn work_and_count_return_to_zero() {
        let ledger = ledger(&[1 << 39]);
        assert!(ledger.try_add(0, 7).is_ok());
        ledger.adjust(0, 7, 1_000);
        ledger.adjust(0, 1_000, 3);
        assert_eq!((ledger.held(0).work(), ledger.held(0).running()), (3, 1));
        ledger.take(0, 3);
        assert_eq!(ledger.total(), (0, 0));
    }
}
