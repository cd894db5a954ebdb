//! The atomics and the lock of what every request touches at once with others.
//!
//! Usually the standard library's. Under `cfg(loom)` the unit tests get loom's, which tries
//! every order in which threads can meet:
//! `RUSTFLAGS="--cfg loom" cargo test -p proxy-core --lib --release loom`.

#[cfg(not(all(loom, test)))]
pub(crate) use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
};

#[cfg(all(loom, test))]
pub(crate) use {
    loom::sync::{Mutex, atomic::Ordering::SeqCst},
    sequential::AtomicU64,
};

/// loom takes a sequentially consistent access for an acquiring and releasing one, and would
/// report orders that cannot happen. It does know sequentially consistent fences, and where
/// every access has one, as here, they forbid what the accesses would.
#[cfg(all(loom, test))]
mod sequential {
    use loom::sync::atomic::{AtomicU64 as Weaker, Ordering, fence};

    #[derive(Debug)]
    pub(crate) struct AtomicU64(Weaker);

    impl AtomicU64 {
        pub(crate) fn new(value: u64) -> Self {
            Self(Weaker::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            fence(Ordering::SeqCst);
            self.0.load(order)
        }

        pub(crate) fn store(&self, value: u64, order: Ordering) {
            self.0.store(value, order);
            fence(Ordering::SeqCst);
        }

        pub(crate) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            let before = self.0.fetch_add(value, order);
            fence(Ordering::SeqCst);
            before
        }

        pub(crate) fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
            let before = self.0.fetch_sub(value, order);
            fence(Ordering::SeqCst);
            before
        }

        pub(crate) fn compare_exchange(
            &self,
            before: u64,
            after: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            fence(Ordering::SeqCst);
            let exchanged = self.0.compare_exchange(before, after, success, failure);
            fence(Ordering::SeqCst);
            exchanged
        }
    }
}
