//! A counter of requests and of their work in one word, so that counting both costs one
//! addition.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::{Kind, MAX_CLASSES};
use crate::hash::mix;

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

/// What every request writes to is kept so many times, by tenant, so that workers busy with different
/// tenants do not wait for each other's cache lines.
pub(super) const SHARDS: usize = 16;

/// The one that a tenant's requests write to.
pub(super) const fn shard(tenant: u64) -> u8 {
    (mix(tenant) % SHARDS as u64) as u8
}

/// A meter for each class and kind, in shards.
#[derive(Debug)]
pub(super) struct Meters([Shard; SHARDS]);

/// Two lines, because processors fetch pairs of them.
#[derive(Debug)]
#[repr(align(128))]
struct Shard([[Meter; MAX_CLASSES]; 2]);

impl Meters {
    pub(super) fn new() -> Self {
        let meters = || std::array::from_fn(|_| std::array::from_fn(|_| Meter::new()));
        Self(std::array::from_fn(|_| Shard(meters())))
    }

    /// Count one request in the meter of `shard`.
    pub(super) fn add(&self, shard: u8, kind: Kind, class: usize, work_us: u64) {
        self.0[usize::from(shard) % SHARDS].0[kind.index()][class].add(work_us);
    }

    pub(super) fn read(&self, kind: Kind, class: usize) -> Reading {
        let all = self
            .0
            .iter()
            .map(|shard| shard.0[kind.index()][class].read());
        all.fold(Reading::default(), Reading::plus)
    }
}

impl Reading {
    const fn plus(self, other: Self) -> Self {
        let work = (self.0 & WORK).wrapping_add(other.0 & WORK) & WORK;
        let count = (self.0 >> WORK_BITS).wrapping_add(other.0 >> WORK_BITS);
        Self(count << WORK_BITS | work)
    }

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
    fn shards_are_read_as_one_even_when_their_sums_wrap() {
        let meters = Meters::new();
        let read = || meters.read(Kind::Long, 6);
        let mut before = read();
        for _ in 0..4 {
            for tenant in 0..100 {
                meters.add(shard(tenant), Kind::Long, 6, 1 << 38);
            }
            assert_eq!(read().since(before).0, (100 << 38) & WORK);
            before = read();
        }
        meters.add(shard(7), Kind::Long, 6, 5);
        meters.add(shard(8), Kind::Short, 6, 9);
        assert_eq!(read().since(before), (5, 1));
    }

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
