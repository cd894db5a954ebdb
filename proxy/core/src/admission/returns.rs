//! Who was told to come back when: clients that come back before their time sink to the bottom
//! of their class, or ignoring Retry-After would pay.
//!
//! One word per client and shape in a table of fixed size; whoever falls on somebody else's
//! place pushes it out, and that one is merely forgiven.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Ask, slot};
use crate::hash::mix;
use crate::time::Time;

/// 64 KiB.
const PLACES: usize = 8_192;
/// Times are kept in so many microseconds.
const UNIT_US: u64 = 10_000;
/// A clock that differs, a timer that rounds: not early.
const LENIENCE: Duration = Duration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct Returns(Box<[AtomicU64]>);

/// Who it is that may come back: an instance, with what it asked for.
pub(super) const fn client(ask: &Ask) -> u64 {
    let what = mix(ask.shape ^ (slot(ask.class) as u64));
    mix(ask.instance.wrapping_add(what))
}

impl Returns {
    pub(super) fn new() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }

    fn place(&self, client: u64) -> Option<&AtomicU64> {
        self.0.get(client as usize % PLACES)
    }

    /// The client was told not to come back before `until`.
    pub(super) fn expect(&self, client: u64, until: Time) {
        if let Some(place) = self.place(client) {
            let until = (until.as_micros() / UNIT_US) & u64::from(u32::MAX);
            place.store((client & !u64::from(u32::MAX)) | until, Relaxed);
        }
    }

    /// Whether it was told to come back later than now.
    pub(super) fn is_early(&self, client: u64, now: Time) -> bool {
        let Some(place) = self.place(client) else {
            return false;
        };
        let word = place.load(Relaxed);
        if (word ^ client) >> 32 != 0 {
            return false;
        }
        let now = ((now + LENIENCE).as_micros() / UNIT_US) as u32;
        // Wraps after 497 days; what is half of that ahead is long past.
        let ahead = (word as u32).wrapping_sub(now);
        ahead != 0 && ahead < u32::MAX / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_is_before_the_time_that_was_told_and_only_for_who_was_told() {
        let returns = Returns::new();
        let client = 0x1234_5678_9abc_def0;
        assert!(!returns.is_early(client, Time(0)));
        returns.expect(client, Time::from_millis(5_000));
        assert!(returns.is_early(client, Time::from_millis(4_800)));
        assert!(!returns.is_early(client, Time::from_millis(4_901)));
        assert!(!returns.is_early(client, Time::from_millis(9_000)));
        assert!(!returns.is_early(client + (1 << 40), Time::from_millis(4_000)));
    }
}
