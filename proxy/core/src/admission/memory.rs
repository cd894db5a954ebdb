//! What the server's memory means for the bytes in flight.
//!
//! Queueing delay cannot see memory: a server dies of it with idle cores. What can be bounded
//! is what fills it, the answers under way. So the budget of their bytes follows from the
//! memory that is left, long before there is none:
//!
//! *budget = ([`LINE`] · limit − used) ÷ [`TIMES`]*, at most what is configured.
//!
//! Used memory already holds what runs, so the budget shrinks while answers fill it and
//! settles where both together stay below the line, whatever an answer really takes: from
//! there on too much is only what was let in before it showed. Down at once, up over about a
//! second, because memory comes back in the garbage collector's leaps. With nothing left a
//! single large answer may still run at a time, so that nothing is refused for ever.

use std::time::Duration;

use crate::time::Time;

/// Share of the limit that is used by design; what is promised is 0.85.
const LINE: f64 = 0.75;
/// Bytes of memory a byte of answer is taken to need at the server. Measured on a streaming
/// 1.36: two to four; servers that build an answer whole need more, and are held by the feedback.
const TIMES: f64 = 4.0;
/// In this time a budget has made up for 63 % of what it was below.
const RISE: Duration = Duration::from_secs(1);
/// Stalled for this share of its time, a server has no memory left, whatever is counted.
const STALLED: f32 = 0.2;

/// The server's memory, as its host sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Bytes used that cannot be had back by dropping caches.
    pub used: u64,
    /// Bytes it may use.
    pub limit: u64,
    /// Share of the last ten seconds, 0..=1, in which all of it waited for memory; 0 if unknown.
    pub stalled: f32,
}

impl Memory {
    /// Used share of the limit; may exceed 1. At least 0.9 while the server stalls for want of
    /// memory.
    #[must_use]
    pub fn pressure(&self) -> f32 {
        if self.stalled >= STALLED {
            self.share().max(0.9)
        } else {
            self.share()
        }
    }

    fn share(&self) -> f32 {
        (self.used as f64 / self.limit.max(1) as f64) as f32
    }

    fn below_line(&self) -> u64 {
        (self.limit as f64 * LINE - self.used as f64).max(0.0) as u64
    }

    /// Bytes left below the line.
    #[must_use]
    pub fn room(&self) -> u64 {
        if self.stalled >= STALLED {
            0
        } else {
            self.below_line()
        }
    }

    /// Of several limits that hold at once (a container's, its pod's, its host's) the one that
    /// leaves least room; of those that leave none, the one most exceeded.
    #[must_use]
    pub fn tightest(all: impl IntoIterator<Item = Self>) -> Option<Self> {
        all.into_iter().min_by(|a, b| {
            let by_room = a.below_line().cmp(&b.below_line());
            by_room.then(b.share().total_cmp(&a.share()))
        })
    }
}

/// Bytes of answers that the memory left has room for.
fn room_for_answers(memory: Memory) -> u64 {
    (memory.room() as f64 / TIMES) as u64
}

/// The budget of bytes in flight.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: u64,
    at: Time,
}

impl Budget {
    pub(super) const fn new(configured: u64, now: Time) -> Self {
        Self {
            bytes: configured,
            at: now,
        }
    }

    /// What the budget is.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// No more than this is configured now.
    pub(super) fn cap(&mut self, configured: u64) {
        self.bytes = self.bytes.min(configured);
    }

    /// Nothing can be judged: only what is known of the server's memory bounds anything, and
    /// at once.
    pub(super) fn open(&mut self, memory: Option<Memory>, now: Time) {
        self.at = now;
        self.bytes = memory.map_or(u64::MAX, room_for_answers);
    }

    /// Time has passed, and this is what is known of the server's memory now. Unknown memory
    /// leaves what is configured.
    pub(super) fn step(&mut self, configured: u64, memory: Option<Memory>, now: Time) {
        let passed = now.saturating_since(self.at).as_secs_f64();
        self.at = now;
        let Some(memory) = memory else {
            self.bytes = configured;
            return;
        };
        let wanted = room_for_answers(memory).min(configured);
        if wanted <= self.bytes {
            self.bytes = wanted;
            return;
        }
        let part = 1.0 - (-passed / RISE.as_secs_f64()).exp();
        let rise = ((wanted - self.bytes) as f64 * part) as u64;
        self.bytes = (self.bytes + rise.max(1)).min(wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn memory(used: u64, limit: u64) -> Memory {
        Memory {
            used,
            limit,
            stalled: 0.0,
        }
    }

    #[test]
    fn the_budget_shrinks_long_before_memory_is_used_up() {
        let mut budget = Budget::new(GIB, Time(0));
        budget.step(GIB, Some(memory(GIB, 8 * GIB)), Time(1));
        assert_eq!(budget.bytes(), GIB, "plenty of room");
        budget.step(GIB, Some(memory(4 * GIB, 8 * GIB)), Time(2));
        assert_eq!(budget.bytes(), GIB / 2);
        budget.step(GIB, Some(memory(6 * GIB, 8 * GIB)), Time(3));
        assert_eq!(budget.bytes(), 0);
    }

    #[test]
    fn what_is_unknown_bounds_nothing() {
        let mut budget = Budget::new(GIB, Time(0));
        budget.step(GIB, Some(memory(8 * GIB, 8 * GIB)), Time(1));
        budget.step(GIB, None, Time(2));
        assert_eq!(budget.bytes(), GIB);
    }

    #[test]
    fn it_falls_at_once_and_rises_over_about_a_second() {
        let mut budget = Budget::new(GIB, Time(0));
        budget.step(GIB, Some(memory(8 * GIB, 8 * GIB)), Time(1));
        let after = |budget: &mut Budget, ms: u64| {
            for at in 1..=ms / 100 {
                budget.step(GIB, Some(memory(GIB, 8 * GIB)), Time(at * 100_000));
            }
            budget.bytes() as f64 / GIB as f64
        };
        let share = after(&mut budget, 1_000);
        assert!((0.55..0.7).contains(&share), "{share}");
        assert!(after(&mut budget, 5_000) > 0.95);
    }

    #[test]
    fn a_server_that_stalls_for_want_of_memory_has_none_left() {
        let stalled = Memory {
            stalled: 0.5,
            ..memory(GIB, 8 * GIB)
        };
        assert_eq!(stalled.room(), 0);
        assert!(stalled.pressure() >= 0.9);
    }

    #[test]
    fn of_several_limits_the_one_with_least_room_counts() {
        let (pod, host) = (memory(3 * GIB, 4 * GIB), memory(20 * GIB, 64 * GIB));
        assert_eq!(Memory::tightest([host, pod]), Some(pod));
        let worse = memory(5 * GIB, 4 * GIB);
        assert_eq!(Memory::tightest([pod, worse, host]), Some(worse));
        assert_eq!(Memory::tightest([]), None);
    }

    #[test]
    fn nonsense_is_survived() {
        assert!(memory(9, 0).pressure() > 1.0);
        assert_eq!(memory(u64::MAX, 0).room(), 0);
        let mut budget = Budget::new(0, Time(9));
        budget.step(u64::MAX, Some(memory(0, u64::MAX)), Time(0));
        assert!(budget.bytes() >= 1);
    }
}
