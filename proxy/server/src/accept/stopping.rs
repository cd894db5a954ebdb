//! How a process stops: what is open is asked to end, not all at once, within a grace period.
//!
//! A client whose connection or watch ends comes back at once, to a successor or to another proxy, with a TLS handshake or
//! a new watch. So everything is asked at a moment of its own, at most [`PACE`] of it at a time.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Everything that does not end by itself is asked to within this share of the grace period; the rest is for saying
/// goodbye.
const SPREAD: f64 = 0.7;

/// One connection or watch in this time: about what a handshake costs both sides.
pub(crate) const PACE: Duration = Duration::from_millis(2);

/// That the process stops, since when, and how much time there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopping {
    begun: Instant,
    grace: Duration,
    /// How long tunnels may take, which nothing can ask to end.
    tunnels: Duration,
}

/// Where every thread learns that the process stops; `None` while it does not.
pub(crate) type Stop = watch::Receiver<Option<Stopping>>;

impl Stopping {
    /// From now on.
    pub(crate) fn now(grace: Duration, tunnels: Duration) -> Self {
        Self {
            begun: Instant::now(),
            grace,
            tunnels: tunnels.max(grace),
        }
    }

    /// By then everything that can be asked to end was asked.
    pub(crate) fn all_asked(&self) -> Instant {
        self.begun + self.grace.mul_f64(SPREAD)
    }

    /// In how much time so many connections or watches are asked to end.
    pub(crate) fn spread(&self, count: u64) -> Duration {
        PACE.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
            .min(self.grace.mul_f64(SPREAD))
    }

    /// The moment for one of `count` connections: `share`, from 0 to 1, of their time.
    pub(crate) fn moment(&self, count: u64, share: f64) -> Instant {
        self.begun + self.spread(count).mul_f64(share.clamp(0.0, 1.0))
    }

    /// What is still open then is cut.
    pub(crate) fn deadline(&self, tunnels: bool) -> Instant {
        self.begun + if tunnels { self.tunnels } else { self.grace }
    }
}

/// Waits until the process stops; for ever when it cannot any more.
pub(crate) async fn stopping(stop: &mut Stop) -> Stopping {
    match stop.wait_for(Option::is_some).await.map(|stop| *stop) {
        Ok(Some(stopping)) => stopping,
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_asked_at_once_and_many_over_most_of_the_grace_period() {
        let stopping = Stopping::now(Duration::from_secs(10), Duration::ZERO);
        assert_eq!(stopping.spread(1), Duration::from_millis(2));
        assert_eq!(stopping.spread(1000), Duration::from_secs(2));
        assert_eq!(stopping.spread(u64::MAX), Duration::from_secs(7));
        assert!(stopping.moment(u64::MAX, 1.0) <= stopping.all_asked());
        assert_eq!(stopping.deadline(true), stopping.deadline(false));
    }
}
