//! The simulated processor in real time: tasks await the end of their slices
//! on Tokio's timers, so a saturated model sleeps rather than spins.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::lock;
use super::scheduler::{Done, JobId, Micros, RunQueue};

/// A task that asks again within this time has been running all along; the
/// difference is the host's timer, not the server's idleness.
const CONTINUES: Micros = 5_000;

/// One process's cores.
#[derive(Debug)]
pub(super) struct Cpu {
    inner: Mutex<Inner>,
    wake: Notify,
    epoch: Instant,
    cancel_lag: Duration,
}

#[derive(Debug)]
struct Inner {
    queue: RunQueue,
    waiting: HashMap<JobId, oneshot::Sender<(Micros, bool)>>,
}

impl Inner {
    fn advance(&mut self, now: Micros) {
        for Done { id, at, finished } in self.queue.advance(now) {
            if let Some(waiter) = self.waiting.remove(&id) {
                // The task may be gone; its work was done all the same.
                let _ = waiter.send((at, finished));
            }
        }
    }
}

impl Cpu {
    /// Work of vanished clients keeps running for `cancel_lag`.
    pub(super) fn new(cores: usize, quantum: Duration, cancel_lag: Duration) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                queue: RunQueue::new(cores, micros(quantum)),
                waiting: HashMap::new(),
            }),
            wake: Notify::new(),
            epoch: Instant::now(),
            cancel_lag,
        })
    }

    /// Drives the cores; runs until it is dropped.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let next = {
                let mut inner = lock(&self.inner);
                inner.advance(self.now());
                inner.queue.next_event()
            };
            match next {
                Some(at) => {
                    let deadline = self.epoch + Duration::from_micros(at);
                    tokio::select! {
                        () = tokio::time::sleep_until(deadline) => {}
                        () = self.wake.notified() => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// A new thread of work, one per request.
    pub(super) fn thread(self: &Arc<Self>) -> Thread {
        Thread {
            cpu: self.clone(),
            ended: None,
            running: None,
        }
    }

    /// Simulated CPU time used.
    pub(super) fn used(&self) -> Duration {
        Duration::from_micros(lock(&self.inner).queue.used())
    }

    /// Work running or waiting.
    pub(super) fn runnable(&self) -> usize {
        lock(&self.inner).queue.runnable()
    }

    fn now(&self) -> Micros {
        micros(self.epoch.elapsed())
    }
}

/// The CPU time of one request.
#[derive(Debug)]
pub(super) struct Thread {
    cpu: Arc<Cpu>,
    /// End of its last piece of work.
    ended: Option<Micros>,
    /// Work charged ahead that has not ended.
    running: Option<JobId>,
}

impl Thread {
    /// Uses `work` of CPU time in `hops` turns (at least one per quantum).
    /// Dropping the future takes the work back after the cancel lag.
    pub(super) async fn charge(&mut self, work: Duration, hops: u32) {
        self.use_cpu(work, hops, false).await;
    }

    /// As [`Self::charge`], but returns with this piece of work still to be
    /// done, once all earlier pieces are: a task with more to come stays on
    /// the run queue all along instead of leaving it between its pieces.
    pub(super) async fn charge_ahead(&mut self, work: Duration) {
        self.use_cpu(work, 1, true).await;
    }

    async fn use_cpu(&mut self, work: Duration, hops: u32, ahead: bool) {
        if work.is_zero() {
            return;
        }
        let work = micros(work).max(1);
        let (sender, receiver) = oneshot::channel();
        let id = {
            let now = self.cpu.now();
            let mut inner = lock(&self.cpu.inner);
            inner.advance(now);
            let before = inner.queue.next_event();
            let extended = self
                .running
                .take()
                .filter(|&id| inner.queue.extend(id, work, ahead));
            let id = extended.unwrap_or_else(|| {
                let since = self
                    .ended
                    .filter(|ended| now.saturating_sub(*ended) <= CONTINUES)
                    .unwrap_or(now);
                inner.queue.submit(since, work, hops)
            });
            if inner.queue.next_event() != before {
                self.cpu.wake.notify_one();
            }
            if ahead && extended.is_none() {
                // Nothing earlier to wait for.
                self.running = Some(id);
                return;
            }
            inner.waiting.insert(id, sender);
            id
        };
        let mut pending = Pending {
            cpu: &self.cpu,
            id: Some(id),
        };
        // The sender lives in the processor; it only goes away unsent when
        // the process has ended.
        let report = receiver.await.ok();
        pending.id = None;
        drop(pending);
        match report {
            Some((_, false)) => self.running = Some(id),
            Some((at, true)) => self.ended = Some(at),
            None => {}
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(id) = self.running.take() {
            drop(Pending {
                cpu: &self.cpu,
                id: Some(id),
            });
        }
    }
}

/// Cancels its job when dropped before the end.
struct Pending<'a> {
    cpu: &'a Cpu,
    id: Option<JobId>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let at = self.cpu.now() + micros(self.cpu.cancel_lag);
            let mut inner = lock(&self.cpu.inner);
            inner.waiting.remove(&id);
            inner.queue.cancel(id, at);
        }
    }
}

fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn cpu() -> Arc<Cpu> {
        let cpu = Cpu::new(1, 10 * MS, 50 * MS);
        tokio::spawn(cpu.clone().run());
        cpu
    }

    async fn probe(cpu: &Arc<Cpu>) -> Duration {
        let start = Instant::now();
        cpu.thread().charge(MS * 3 / 10, 2).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn every_call_slows_with_the_number_of_lists_and_recovers_after_them() {
        let cpu = cpu();
        assert!(probe(&cpu).await <= 2 * MS);
        let lists: Vec<_> = (0..20)
            .map(|_| {
                let cpu = cpu.clone();
                tokio::spawn(async move { cpu.thread().charge(500 * MS, 1).await })
            })
            .collect();
        tokio::time::sleep(MS).await;
        let delay = probe(&cpu).await;
        assert!(delay > 300 * MS && delay < 500 * MS, "{delay:?}");
        for list in lists {
            list.await.unwrap();
        }
        assert!(probe(&cpu).await <= 2 * MS);
        // 20 × 500 ms and the probes: nothing lost, nothing invented.
        assert_eq!(cpu.used().as_millis(), 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn abandoned_work_leaves_the_queue_after_the_lag() {
        let cpu = cpu();
        let list = {
            let cpu = cpu.clone();
            tokio::spawn(async move { cpu.thread().charge(Duration::from_secs(60), 1).await })
        };
        tokio::time::sleep(100 * MS).await;
        list.abort();
        tokio::time::sleep(100 * MS).await;
        assert_eq!(cpu.runnable(), 0);
        assert!(cpu.used() <= 170 * MS, "{:?}", cpu.used());
    }
}
