//! LISTs under way, so that as the last step those of the culprit can be broken off.
//!
//! On a real server that freed the CPU within 0.3 to 4 s instead of 10. Whoever has not been sent the head of an answer
//! gets 429; whoever has is broken off. Kept only while `admission.cancel_culprit` is configured.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::error::Refused;

/// LISTs kept at once; further ones cannot be broken off.
const MOST: usize = 16_384;

/// In seconds.
const LONG: std::ops::RangeInclusive<u32> = 30..=60;

struct Entry {
    tenant: u64,
    end: oneshot::Sender<()>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Running {
    /// By when they began.
    entries: Mutex<BTreeMap<u64, Entry>>,
    next: AtomicU64,
}

/// A request's place among them, given up when dropped; and whether it is to end.
pub(crate) struct Cut {
    running: Arc<Running>,
    number: u64,
    end: oneshot::Receiver<()>,
}

impl std::fmt::Debug for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cut").field(&self.number).finish()
    }
}

impl Running {
    /// A LIST of `tenant` begins.
    pub(crate) fn begin(self: &Arc<Self>, tenant: u64) -> Option<Cut> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MOST {
            return None;
        }
        entries.insert(
            number,
            Entry {
                tenant,
                end: sender,
            },
        );
        drop(entries);
        Some(Cut {
            running: Arc::clone(self),
            number,
            end: receiver,
        })
    }

    /// Whether `tenant` has any.
    pub(crate) fn has(&self, tenant: u64) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.values().any(|entry| entry.tenant == tenant)
    }

    /// Ends the newest of `tenant`; whether there was one.
    pub(crate) fn end_newest(&self, tenant: u64) -> bool {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = entries.iter().rev();
        let newest = newest
            .filter(|(_, entry)| entry.tenant == tenant)
            .map(|(number, _)| *number)
            .next();
        let entry = newest.and_then(|number| entries.remove(&number));
        drop(entries);
        entry.is_some_and(|entry| entry.end.send(()).is_ok())
    }
}

/// What a client is told whose LIST was ended before its answer began: to come back after a long time, spread, because
/// clients sleep exactly what they are told.
pub(crate) fn ended(class: Option<Arc<str>>) -> Refused {
    Refused::Ended {
        class: class.unwrap_or_default(),
        retry_after: fastrand::u32(LONG),
    }
}

impl Cut {
    /// Ready when the request is to end.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut self.end).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            // Nobody can end it any more.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let mut entries = self
            .running
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn is_ended(cut: &mut Cut) -> bool {
        cut.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_newest_of_a_tenant_ends_first_and_nobody_elses() {
        let running = Arc::new(Running::default());
        let begin = |tenant| running.begin(tenant).expect("room");
        let (mut a, mut b, mut other) = (begin(1), begin(1), begin(2));
        assert!(running.end_newest(1));
        assert!(is_ended(&mut b) && !is_ended(&mut a) && !is_ended(&mut other));
        assert!(running.end_newest(1));
        assert!(is_ended(&mut a) && !is_ended(&mut other));
        assert!(!running.end_newest(1), "there is none left");
    }

    #[test]
    fn what_has_ended_by_itself_is_not_ended_again() {
        let running = Arc::new(Running::default());
        drop(running.begin(1));
        assert!(!running.end_newest(1));
        assert!(running.entries.lock().expect("no panic").is_empty());
    }

    #[test]
    fn only_so_many_are_kept() {
        let running = Arc::new(Running::default());
        let kept: Vec<_> = (0..=MOST).map(|_| running.begin(1)).collect();
        assert_eq!(kept.iter().flatten().count(), MOST);
    }
}
