//! Runs hyper's per-stream futures on the thread they were made on.
//!
//! Everything about a connection stays on one thread, so nothing in it needs to be `Send` and no lock is contended.

use std::future::Future;

/// Spawns onto the current thread's `LocalSet`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
