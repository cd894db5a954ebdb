//! The others: a client that asks for something small, again and again, and notices when it gets worse.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, interval, sleep_until, timeout};

use crate::control_plane::ApiClient;

use super::kinds::SMALL;

/// Between two requests.
const EVERY: Duration = Duration::from_millis(5);
/// What takes longer counts as failed.
const LONGEST: Duration = Duration::from_secs(5);
/// Requests under way at once at most.
const AT_ONCE: usize = 64;

/// How long a request took, or why it failed.
type Ended = Result<Duration, String>;

/// What it saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Of requests that were answered with 200, from when they were due.
    pub(super) latencies: Vec<Duration>,
    /// The others, by why.
    pub(super) failures: BTreeMap<String, u64>,
}

impl Seen {
    pub(super) fn merge(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        for (why, count) in other.failures {
            *self.failures.entry(why).or_default() += count;
        }
    }

    /// How many were not answered with 200.
    pub(super) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn take(&mut self, ended: Ended) {
        match ended {
            Ok(latency) => self.latencies.push(latency),
            Err(why) => *self.failures.entry(why).or_default() += 1,
        }
    }

    /// The latency that `share` of the answers did not exceed, milliseconds.
    pub(super) fn quantile(&mut self, share: f64) -> Option<f64> {
        self.latencies.sort_unstable();
        let last = self.latencies.len().checked_sub(1)?;
        let index = (last as f64 * share).round() as usize;
        Some(self.latencies.get(index)?.as_secs_f64() * 1e3)
    }
}

/// Asks until `until`, and waits for what is under way then.
pub(super) async fn ask(client: &ApiClient, until: Instant) -> Seen {
    let mut seen = Seen::default();
    let mut under_way = tokio::task::JoinSet::new();
    let mut tick = interval(EVERY);
    while Instant::now() < until {
        let due = tick.tick().await;
        if under_way.len() >= AT_ONCE {
            // It would be due; that there is no room for it is a failure.
            seen.take(Err("too many under way".to_owned()));
            while let Some(Ok(ended)) = under_way.try_join_next() {
                seen.take(ended);
            }
            continue;
        }
        let client = client.clone();
        under_way.spawn(async move {
            let answered = timeout(LONGEST, client.get(SMALL)).await;
            match answered {
                Ok(Ok(answer)) if answer.status == 200 => Ok(due.elapsed()),
                Ok(Ok(answer)) => Err(answer.status.to_string()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("too slow".to_owned()),
            }
        });
        while let Some(Ok(ended)) = under_way.try_join_next() {
            seen.take(ended);
        }
    }
    sleep_until(until).await;
    while let Some(Ok(ended)) = under_way.join_next().await {
        seen.take(ended);
    }
    seen
}
