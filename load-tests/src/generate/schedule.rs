//! When requests are due.

use std::time::Duration;

use tokio::time::Instant;

/// One request of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// When it is due; its latency counts from here.
    pub intended: Instant,
    /// How many came before it.
    pub index: u64,
}

/// An endless series of arrivals at a mean rate.
#[derive(Debug, Clone)]
pub struct Schedule {
    next: Instant,
    mean: Duration,
    index: u64,
    /// `None` for even gaps.
    random: Option<fastrand::Rng>,
}

/// The slowest rate, requests per second: one in a day.
const SLOWEST: f64 = 1.0 / 86_400.0;

impl Schedule {
    /// One request every `1 / rate` seconds, the first at `start`.
    pub fn even(start: Instant, rate: f64) -> Self {
        Self {
            next: start,
            mean: Duration::from_secs_f64(1.0 / rate.max(SLOWEST)),
            index: 0,
            random: None,
        }
    }

    /// Independent arrivals: exponential gaps of mean `1 / rate` seconds, as of
    /// many clients that know nothing of each other. The same seed gives the
    /// same gaps.
    pub fn poisson(start: Instant, rate: f64, seed: u64) -> Self {
        let mut schedule = Self::even(start, rate);
        schedule.random = Some(fastrand::Rng::with_seed(seed));
        let gap = schedule.gap();
        schedule.next += gap;
        schedule
    }

    /// The next arrival; may lie in the past when the caller is late.
    pub fn next_arrival(&mut self) -> Arrival {
        let arrival = Arrival {
            intended: self.next,
            index: self.index,
        };
        self.index += 1;
        let gap = self.gap();
        self.next += gap;
        arrival
    }

    fn gap(&mut self) -> Duration {
        match &mut self.random {
            None => self.mean,
            // 1 - f64() lies in (0, 1], so the logarithm is finite.
            Some(random) => self.mean.mul_f64(-(1.0 - random.f64()).ln()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn even_arrivals_do_not_drift() {
        let start = Instant::now();
        let mut schedule = Schedule::even(start, 50.0);
        let last = (0..=500).map(|_| schedule.next_arrival()).last();
        let last = last.expect("arrivals");
        assert_eq!(last.intended - start, Duration::from_secs(10));
        assert_eq!(last.index, 500);
    }

    #[tokio::test(start_paused = true)]
    async fn random_arrivals_keep_the_mean_rate_and_repeat_with_the_seed() {
        let start = Instant::now();
        let arrivals = |seed| {
            let mut schedule = Schedule::poisson(start, 100.0, seed);
            (0..10_000)
                .map(|_| schedule.next_arrival().intended)
                .collect::<Vec<_>>()
        };
        let first = arrivals(1);
        let took = first
            .last()
            .map_or(0.0, |last| (*last - start).as_secs_f64());
        assert!((90.0..110.0).contains(&took), "{took} s for 100 s' worth");
        assert_eq!(first, arrivals(1));
        assert_ne!(first, arrivals(2));
    }
}
