//! Time as the decisions see it: a number somebody hands in.
//!
//! Nothing in this crate reads a clock. The proxy feeds a monotonic clock, the
//! simulator feeds its own, and a replayed audit log feeds the recorded stamps;
//! the same code must decide the same way for all three.

use std::ops::{Add, AddAssign};
use std::time::Duration;

/// An instant: microseconds since an arbitrary epoch of the caller's choice.
///
/// Only differences between two instants of the same source mean anything. All
/// arithmetic saturates, so neither a clock that steps back nor an absurd
/// duration can bring the proxy down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The epoch itself.
    pub const ZERO: Self = Self(0);

    /// The instant `micros` microseconds after the epoch.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The instant `millis` milliseconds after the epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// How much later `self` is than `earlier`; zero if it is not later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_steps_back_yields_no_elapsed_time() {
        let before = Time::from_millis(2);
        let after = Time::from_millis(5);
        assert_eq!(after.saturating_since(before), Duration::from_millis(3));
        assert_eq!(before.saturating_since(after), Duration::ZERO);
    }

    #[test]
    fn adding_an_absurd_duration_saturates() {
        assert_eq!(Time(7) + Duration::MAX, Time(u64::MAX));
        let mut time = Time::from_millis(1);
        time += Duration::from_micros(5);
        assert_eq!(time.as_micros(), 1_005);
    }
}
