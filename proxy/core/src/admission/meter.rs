//! A counter of requests and of their work in one word, so that counting both costs one
//! addition.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

const WORK_BITS: u32 = 40;
const WORK: u64 = (1 << WORK_BITS) - 1;

/// Requests and their work so far, wrapping: work in µs modulo 2⁴⁰, requests modulo 2²⁴.
/// Only differences between two readings mean anything. When the work wraps, every twelve
/// days of it, one request too many is counted.
#[derive(Debug, Default)]
pub(super) struct Meter(AtomicU64);

/// What a [`Meter`] showed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading(u64);

impl Meter {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Count one request.
    pub(super) fn add(&self, work_us: u64) {
        self.0
            .fetch_add((1 << WORK_BITS) | (work_us & WORK), Relaxed);
    }

    pub(super) fn read(&self) -> Reading {
        Reading(self.0.load(Relaxed))
    }

    /// Begin anew, for somebody else.
    pub(super) fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

impl Reading {
    /// Work in µs and requests since an earlier reading.
    pub(super) const fn since(self, earlier: Self) -> (u64, u64) {
        let work = self.0.wrapping_sub(earlier.0) & WORK;
        let count = (self.0 >> WORK_BITS).wrapping_sub(earlier.0 >> WORK_BITS) & 0xff_ffff;
        (work, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_work_are_told_apart_and_survive_wrapping() {
        let meter = Meter(AtomicU64::new(u64::MAX - 5));
        let before = meter.read();
        for _ in 0..3 {
            meter.add(1_000_000);
        }
        let (work, count) = meter.read().since(before);
        assert_eq!(work, 3_000_000);
        // The wrap of the work itself counts as one more.
        assert!((3..=4).contains(&count), "{count}");
    }
}
