//! Open-loop load: requests start when they are due, whatever became of the
//! ones before them.
//!
//! A closed loop asks less of a server that is slow, and so hides how slow it
//! is ("coordinated omission"). Here the time of each request is fixed before
//! the first is sent, and its latency counts from that time: a request that had
//! to wait for its turn in the client has waited, too.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

mod call;
mod schedule;

pub use call::{Call, Client, Patience, perform};
pub use schedule::{Arrival, Schedule};

/// When load begins to end, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Go on.
    Running,
    /// No new requests; what is under way may end.
    Drained,
    /// No new requests; what is under way is dropped, as when a process is
    /// killed.
    Killed,
}

/// Runs requests as a schedule says, at most `in_flight` at a time, until told
/// otherwise or until the sender of `until` is gone.
///
/// An arrival that finds `in_flight` requests under way is not delayed but given
/// to `overflow`, which is to count it as failed: delaying it would close the
/// loop, and starting it would have no bound.
pub async fn open_loop<Issue, Request>(
    mut schedule: Schedule,
    in_flight: usize,
    mut until: watch::Receiver<Until>,
    mut issue: Issue,
    mut overflow: impl FnMut(Arrival),
) where
    Issue: FnMut(Arrival) -> Request,
    Request: Future<Output = ()> + Send + 'static,
{
    let mut running = JoinSet::new();
    let end = loop {
        let arrival = schedule.next_arrival();
        // A stop that comes while this request is not due yet wins over it.
        tokio::select! {
            biased;
            end = ended(&mut until) => break end,
            () = sleep_until(arrival.intended) => {}
        }
        while running.try_join_next().is_some() {}
        if running.len() >= in_flight {
            overflow(arrival);
        } else {
            running.spawn(issue(arrival));
        }
    };
    if end == Until::Killed {
        running.shutdown().await;
        return;
    }
    loop {
        tokio::select! {
            next = running.join_next() => if next.is_none() { return },
            () = killed(&mut until) => {
                running.shutdown().await;
                return;
            }
        }
    }
}

async fn ended(until: &mut watch::Receiver<Until>) -> Until {
    match until.wait_for(|until| *until != Until::Running).await {
        Ok(end) => *end,
        Err(_) => Until::Killed,
    }
}

/// Ends when the rest is to be dropped; without a sender the rest may finish.
async fn killed(until: &mut watch::Receiver<Until>) {
    if until
        .wait_for(|until| *until == Until::Killed)
        .await
        .is_err()
    {
        std::future::pending::<()>().await;
    }
}

/// Spreads `count` things over `period`: when the one with `index` is due.
pub fn staggered(start: Instant, period: Duration, index: usize, count: usize) -> Instant {
    start + period.mul_f64(index as f64 / count.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::Semaphore;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn stop_after(after: Duration, how: Until) -> watch::Receiver<Until> {
        let (sender, receiver) = watch::channel(Until::Running);
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            sender.send_replace(how);
            sender.closed().await;
        });
        receiver
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_stands_still_is_charged_for_every_request_it_delayed() {
        // One request at a time, 1 ms each, and a stall of 2 s from 1 s on. A
        // closed loop would see one slow request; 100 per second are due.
        let server = Arc::new(Semaphore::new(1));
        let latencies = Arc::new(Mutex::new(Vec::new()));
        let start = Instant::now();
        let stall = (start + SECOND, start + 3 * SECOND);
        open_loop(
            Schedule::even(start, 100.0),
            10_000,
            stop_after(4 * SECOND - Duration::from_millis(5), Until::Drained),
            |arrival| {
                let (server, latencies) = (server.clone(), latencies.clone());
                async move {
                    let _turn = server.acquire().await;
                    if (stall.0..stall.1).contains(&Instant::now()) {
                        sleep_until(stall.1).await;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let latency = arrival.intended.elapsed();
                    latencies.lock().expect("not poisoned").push(latency);
                }
            },
            |_| panic!("within the bound"),
        )
        .await;
        let latencies = latencies.lock().expect("not poisoned");
        assert_eq!(latencies.len(), 400, "as many as were due");
        let slow = latencies.iter().filter(|&&latency| latency > SECOND);
        // Those due in the first second of the stall, and the queue behind it.
        assert!(slow.count() >= 100, "the stall is felt by all it delayed");
        let most = latencies.iter().max().copied().unwrap_or_default();
        assert!(most >= 2 * SECOND, "{most:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_exceeds_the_bound_is_counted_and_not_delayed() {
        let mut dropped = 0;
        open_loop(
            Schedule::even(Instant::now(), 10.0),
            3,
            stop_after(2 * SECOND - Duration::from_millis(50), Until::Killed),
            |_| std::future::pending::<()>(),
            |_| dropped += 1,
        )
        .await;
        assert_eq!(dropped, 20 - 3);
    }

    #[tokio::test(start_paused = true)]
    async fn draining_waits_for_what_is_under_way_and_killing_does_not() {
        for (how, waits) in [(Until::Drained, true), (Until::Killed, false)] {
            let start = Instant::now();
            open_loop(
                Schedule::even(start, 10.0),
                1000,
                stop_after(SECOND, how),
                |_| tokio::time::sleep(30 * SECOND),
                |_| {},
            )
            .await;
            assert_eq!(start.elapsed() > 20 * SECOND, waits, "{how:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_can_be_cut_short() {
        let (sender, until) = watch::channel(Until::Drained);
        tokio::spawn(async move {
            tokio::time::sleep(SECOND).await;
            sender.send_replace(Until::Killed);
        });
        let start = Instant::now();
        open_loop(
            Schedule::even(start, 10.0),
            10,
            until,
            |_| tokio::time::sleep(30 * SECOND),
            |_| {},
        )
        .await;
        assert!(start.elapsed() <= 2 * SECOND);
    }
}
