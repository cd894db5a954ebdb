//! The simulated heap. Requests hold bytes; what they free stays resident for
//! a while, as garbage does; above the limit the process is killed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock;

/// Frees closer together than this are kept as one entry.
const GRAIN: Duration = Duration::from_millis(50);

/// Memory of one process.
#[derive(Debug)]
pub(super) struct Memory {
    limit: u64,
    linger: Duration,
    inner: Mutex<Inner>,
    exhausted: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    now: u64,
    peak: u64,
    /// Freed bytes and when they leave; ordered, at most one per grain.
    freed: VecDeque<(Instant, u64)>,
}

impl Inner {
    fn settle(&mut self, now: Instant) {
        while let Some(&(at, bytes)) = self.freed.front() {
            if at > now {
                break;
            }
            self.now = self.now.saturating_sub(bytes);
            self.freed.pop_front();
        }
    }
}

impl Memory {
    /// `base` bytes are always resident; freed bytes stay for `linger`.
    pub(super) fn new(base: u64, limit: u64, linger: Duration) -> Arc<Self> {
        Arc::new(Self {
            limit,
            linger,
            inner: Mutex::new(Inner {
                now: base,
                peak: base,
                freed: VecDeque::new(),
            }),
            exhausted: Notify::new(),
        })
    }

    /// Takes `bytes` until the returned value is dropped. Going over the
    /// limit wakes [`Self::exhausted`]: there is no refusing an allocation.
    pub(super) fn hold(self: &Arc<Self>, bytes: u64) -> Hold {
        let mut inner = lock(&self.inner);
        inner.settle(Instant::now());
        inner.now += bytes;
        inner.peak = inner.peak.max(inner.now);
        if inner.now > self.limit {
            self.exhausted.notify_one();
        }
        Hold {
            memory: self.clone(),
            bytes,
        }
    }

    /// Ends when the limit has been passed.
    pub(super) async fn exhausted(&self) {
        self.exhausted.notified().await;
    }

    /// Bytes resident now, and at most so far.
    pub(super) fn usage(&self) -> (u64, u64) {
        let mut inner = lock(&self.inner);
        inner.settle(Instant::now());
        (inner.now, inner.peak)
    }
}

/// Bytes in use by one request.
#[derive(Debug)]
pub(super) struct Hold {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let at = Instant::now() + self.memory.linger;
        let mut inner = lock(&self.memory.inner);
        match inner.freed.back_mut() {
            Some((last, bytes)) if *last + GRAIN >= at => *bytes += self.bytes,
            _ => inner.freed.push_back((at, self.bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn freed_bytes_linger_and_then_leave() {
        let memory = Memory::new(100, 1000, Duration::from_secs(2));
        let hold = memory.hold(400);
        assert_eq!(memory.usage(), (500, 500));
        drop(hold);
        drop(memory.hold(0));
        assert_eq!(memory.usage().0, 500);
        tokio::time::sleep(Duration::from_millis(2100)).await;
        assert_eq!(memory.usage(), (100, 500));
        assert!(lock(&memory.inner).freed.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn passing_the_limit_is_noticed_even_by_garbage() {
        let memory = Memory::new(0, 1000, Duration::from_secs(2));
        drop(memory.hold(600));
        let quick = Duration::from_millis(1);
        assert!(
            tokio::time::timeout(quick, memory.exhausted())
                .await
                .is_err()
        );
        let _second = memory.hold(600);
        assert!(
            tokio::time::timeout(quick, memory.exhausted())
                .await
                .is_ok()
        );
    }
}
