//! A stand-in for API Priority and Fairness: priority levels with a fixed
//! number of seats, a bounded queue and a wait of at most a quarter of the
//! request deadline.
//!
//! Levels and shares are Kubernetes' bootstrap objects
//! (`apiserver/pkg/apis/flowcontrol/bootstrap/default.go`); what a LIST costs
//! is 1.34's estimate for the watch cache (at most ten seats). Borrowing is
//! immediate: what a level may lend is in one pool that every level draws on
//! once its own seats are taken. Unlike the real thing a level is one
//! first-come queue, not many fair ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::auth::User;
use super::request::{Info, Verb};

/// A priority level of the bootstrap configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Exempt,
    NodeHigh,
    System,
    LeaderElection,
    WorkloadHigh,
    WorkloadLow,
    GlobalDefault,
}

/// Limited levels with their nominal concurrency shares and the percentage
/// they lend.
const SHARES: [(Level, usize, usize); 6] = [
    (Level::NodeHigh, 40, 25),
    (Level::System, 30, 33),
    (Level::LeaderElection, 10, 0),
    (Level::WorkloadHigh, 40, 50),
    (Level::WorkloadLow, 100, 90),
    (Level::GlobalDefault, 20, 50),
];

/// Requests that may wait in one level.
const QUEUE: usize = 6400;

#[derive(Debug)]
struct Own {
    level: Level,
    seats: Arc<Semaphore>,
    /// Seats a request may take at most: one must be able to get them.
    widest: u32,
    waiting: AtomicUsize,
}

/// All levels of one process.
#[derive(Debug)]
pub(super) struct Seats {
    levels: Vec<Own>,
    /// Seats that are lent to whoever comes.
    lent: Arc<Semaphore>,
    wait: Duration,
}

/// A request's seats; free when dropped.
#[derive(Debug)]
pub(super) struct Seated {
    _permit: Option<OwnedSemaphorePermit>,
}

/// The queue was full or the wait too long.
#[derive(Debug)]
pub(super) struct Rejected;

impl Seats {
    /// Splits `total` seats; requests wait at most `wait`.
    pub(super) fn new(total: usize, wait: Duration) -> Self {
        let shares: usize = SHARES.iter().map(|(_, share, _)| share).sum();
        let nominal = |share: usize| (total * share / shares).clamp(1, Semaphore::MAX_PERMITS / 8);
        let lends = |share: usize, percent: usize| nominal(share) * percent / 100;
        let levels = SHARES
            .iter()
            .map(|&(level, share, percent)| {
                let own = nominal(share) - lends(share, percent);
                Own {
                    level,
                    seats: Arc::new(Semaphore::new(own)),
                    widest: u32::try_from(own).unwrap_or(u32::MAX).max(1),
                    waiting: AtomicUsize::new(0),
                }
            })
            .collect();
        let lent = SHARES
            .iter()
            .map(|&(_, share, percent)| lends(share, percent))
            .sum();
        Self {
            levels,
            lent: Arc::new(Semaphore::new(lent)),
            wait,
        }
    }

    /// Waits for `seats` of `level`, its own or lent ones.
    pub(super) async fn take(&self, level: Level, seats: u32) -> Result<Seated, Rejected> {
        let Some(own) = self.levels.iter().find(|own| own.level == level) else {
            return Ok(Seated { _permit: None });
        };
        if own.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            own.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Rejected);
        }
        let _waiting = Waiting(&own.waiting);
        let seats = seats.clamp(1, own.widest);
        let permit = tokio::select! {
            biased;
            permit = own.seats.clone().acquire_many_owned(seats) => permit.ok(),
            permit = self.lent.clone().acquire_many_owned(seats) => permit.ok(),
            () = tokio::time::sleep(self.wait) => None,
        };
        match permit {
            Some(permit) => Ok(Seated {
                _permit: Some(permit),
            }),
            None => Err(Rejected),
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The level the bootstrap flow schemas put a request in.
pub(super) fn level(user: &User, info: &Info) -> Level {
    let member = |group: &str| user.groups.iter().any(|have| have == group);
    let probe = matches!(
        info.path.split('/').nth(1),
        Some("livez" | "readyz" | "healthz")
    );
    if probe || member("system:masters") {
        return Level::Exempt;
    }
    let leases = info.target.resource == "leases";
    if member("system:nodes") {
        return if leases || info.target.resource == "nodes" {
            Level::NodeHigh
        } else {
            Level::System
        };
    }
    let system = user.name.starts_with("system:kube-")
        || user.name.starts_with("system:serviceaccount:kube-system:");
    let locks = leases && matches!(info.verb, Verb::Get | Verb::Create | Verb::Update);
    match () {
        () if locks && system => Level::LeaderElection,
        () if system => Level::WorkloadHigh,
        () if member("system:serviceaccounts") => Level::WorkloadLow,
        () => Level::GlobalDefault,
    }
}

/// Seats of a LIST that encodes `bytes`.
pub(super) fn list_seats(bytes: u64) -> u32 {
    u32::try_from(bytes.min(1_000_000).div_ceil(100_000))
        .unwrap_or(10)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_level_borrows_then_waits_and_is_then_refused_while_others_go_on() {
        // Nominal 240 × 20/240 = 20 of its own, half of them lent; the pool
        // is 10 + 9 + 20 + 90 + 10.
        let seats = Seats::new(240, Duration::from_secs(15));
        let mut held = Vec::new();
        for _ in 0..10 + 139 {
            held.push(seats.take(Level::GlobalDefault, 1).await.unwrap());
        }
        let start = tokio::time::Instant::now();
        assert!(seats.take(Level::GlobalDefault, 1).await.is_err());
        assert_eq!(start.elapsed().as_secs(), 15);
        assert!(
            seats.take(Level::WorkloadLow, 500).await.is_ok(),
            "its own are kept"
        );
        assert!(seats.take(Level::LeaderElection, 1).await.is_ok());
        assert!(seats.take(Level::Exempt, 1).await.is_ok());
        held.pop();
        assert!(seats.take(Level::GlobalDefault, 1).await.is_ok());
    }

    #[test]
    fn lists_cost_at_most_ten_seats() {
        assert_eq!(list_seats(0), 1);
        assert_eq!(list_seats(250_000), 3);
        assert_eq!(list_seats(u64::MAX), 10);
    }
}
