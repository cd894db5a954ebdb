//! Rates: so much a second, and some of it at once.
//!
//! The generic cell rate algorithm (ITU-T I.371, "virtual scheduling"): one word holds when
//! the bucket will be full again. Whole numbers only, and time is handed in.

use std::time::Duration;

use crate::sync::{AtomicU64, SeqCst};
use crate::time::Time;

/// The highest rate, per second.
pub const MAX_PER_SECOND: u32 = 1_000_000;

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// From one to the next, in nanoseconds.
    interval: u64,
    /// How many at once.
    burst: u32,
}

impl Rate {
    /// `count` in each `period`, up to `burst` of them at once; both at least 1, and no more
    /// than [`MAX_PER_SECOND`]. Rounded down to whole nanoseconds between two.
    #[must_use]
    pub fn new(count: u32, period: Duration, burst: u32) -> Self {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let least = 1_000_000_000 / u64::from(MAX_PER_SECOND);
        Self {
            interval: (period / u64::from(count.max(1))).max(least),
            burst: burst.max(1),
        }
    }

    const fn tolerance(self) -> u64 {
        self.interval.saturating_mul(self.burst as u64 - 1)
    }
}

/// A bucket of tokens, as the time at which it will be full. Full at first.
#[derive(Debug)]
pub struct Bucket {
    /// In nanoseconds.
    full_at: AtomicU64,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            full_at: AtomicU64::new(0),
        }
    }
}

const fn nanos(time: Time) -> u64 {
    time.as_micros().saturating_mul(1_000)
}

impl Bucket {
    /// Takes one token.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take(&self, rate: Rate, now: Time) -> Result<(), Duration> {
        self.charge(rate.interval, rate.tolerance(), now)
    }

    /// Gives a token back that was taken and not used.
    pub fn give_back(&self, rate: Rate) {
        self.refund(rate.interval);
    }

    /// Takes back what was charged by [`Self::owe`] and not used.
    pub fn forgive(&self, refill: Duration) {
        self.refund(u64::try_from(refill.as_nanos()).unwrap_or(u64::MAX));
    }

    fn refund(&self, refill: u64) {
        let mut full_at = self.full_at.load(SeqCst);
        // Saturating: the account may have changed hands meanwhile.
        while let Err(other) =
            self.full_at
                .compare_exchange(full_at, full_at.saturating_sub(refill), SeqCst, SeqCst)
        {
            full_at = other;
        }
    }

    /// Takes what refills in `refill`, if all that is missing refills within `tolerance`; more
    /// may be taken than there is, and is then owed.
    ///
    /// # Errors
    /// How long until that is so.
    pub fn owe(&self, refill: Duration, tolerance: Duration, now: Time) -> Result<(), Duration> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.charge(nanos(refill), nanos(tolerance), now)
    }

    fn charge(&self, refill: u64, tolerance: u64, now: Time) -> Result<(), Duration> {
        let now = nanos(now);
        let mut full_at = self.full_at.load(SeqCst);
        loop {
            let missing = full_at.saturating_sub(now);
            if missing > tolerance {
                return Err(Duration::from_nanos(missing - tolerance));
            }
            let next = full_at.max(now).saturating_add(refill);
            match self.full_at.compare_exchange(full_at, next, SeqCst, SeqCst) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }

    /// Whether nothing is missing: then it is as good as new.
    #[must_use]
    pub fn is_full(&self, now: Time) -> bool {
        self.full_at.load(SeqCst) <= nanos(now)
    }

    /// How long until nothing is missing.
    #[must_use]
    pub fn missing(&self, now: Time) -> Duration {
        Duration::from_nanos(self.full_at.load(SeqCst).saturating_sub(nanos(now)))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_goes_at_once_and_then_one_at_a_time() {
        let (bucket, rate) = (Bucket::default(), Rate::new(10, SECOND, 3));
        let now = Time::from_millis(5_000);
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, now), Ok(()));
        }
        assert_eq!(bucket.take(rate, now), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(rate, Time::from_millis(5_100)), Ok(()));
        assert!(bucket.take(rate, Time::from_millis(5_100)).is_err());
        assert!(bucket.is_full(Time::from_millis(5_400)));
        assert!(!bucket.is_full(Time::from_millis(5_399)));
    }

    #[test]
    fn a_token_given_back_can_be_taken_again() {
        let (bucket, rate) = (Bucket::default(), Rate::new(1, SECOND, 1));
        let now = Time::from_millis(5_000);
        assert_eq!(bucket.take(rate, now), Ok(()));
        bucket.give_back(rate);
        assert_eq!(bucket.take(rate, now), Ok(()));
        assert!(bucket.take(rate, now).is_err());
    }

    #[test]
    fn one_that_is_too_large_starts_and_is_owed() {
        let bucket = Bucket::default();
        let now = Time::from_millis(5_000);
        let (large, tolerance) = (Duration::from_secs(40), SECOND);
        assert_eq!(bucket.owe(large, tolerance, now), Ok(()));
        let wait = bucket.owe(large, tolerance, now);
        assert_eq!(wait, Err(Duration::from_secs(39)));
        assert_eq!(
            bucket.owe(large, tolerance, now + Duration::from_secs(39)),
            Ok(())
        );
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_gives_nothing_away() {
        let (bucket, rate) = (Bucket::default(), Rate::new(5, SECOND, 1));
        assert_eq!(bucket.take(rate, Time::from_millis(9_000)), Ok(()));
        assert!(bucket.take(rate, Time::from_millis(1_000)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        /// In any window no more than the burst and what the window refills.
        #[test]
        fn no_more_goes_through_than_the_rate_and_the_burst(
            per_second in 1_u32..2_000,
            burst in 1_u32..50,
            steps in prop::collection::vec(0_u64..5_000, 1..300),
        ) {
            let (bucket, rate) = (Bucket::default(), Rate::new(per_second, SECOND, burst));
            let mut now = Time::from_millis(60_000);
            let start = now;
            let mut taken = 0_u64;
            for step in steps {
                now += Duration::from_micros(step);
                taken += u64::from(bucket.take(rate, now).is_ok());
                let passed = now.saturating_since(start).as_nanos() as u64;
                prop_assert!(taken <= u64::from(burst) + passed / rate.interval);
            }
        }
    }
}
