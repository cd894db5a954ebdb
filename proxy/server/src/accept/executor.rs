//! Runs hyper's per-stream futures on the thread they were made on.
//!
//! Everything about a connection stays on one thread, so nothing in it needs to be `Send` and no lock is contended.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;

use tokio::task::AbortHandle;

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

/// The same for the streams of a client's connection, whose tasks are remembered.
#[derive(Clone, Debug)]
pub(crate) struct StreamExecutor(pub(crate) Rc<Streams>);

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        let task = tokio::task::spawn_local(future);
        self.0.began(task.abort_handle());
    }
}

/// The streams of one connection that have a task and have not been polled yet. hyper asks the service for a future and
/// hands that to the executor, in this order and without a pause: so the task is that of the last request asked for.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    asked: Cell<u64>,
    begun: RefCell<VecDeque<(u64, AbortHandle)>>,
}

impl Streams {
    /// A request came in; the number by which its task is found.
    pub(crate) fn ask(&self) -> u64 {
        self.asked.set(self.asked.get() + 1);
        self.asked.get()
    }

    fn began(&self, task: AbortHandle) {
        let mut begun = self.begun.borrow_mut();
        begun.push_back((self.asked.get(), task));
    }

    /// The task of request `number`, once. `None` if it has none: HTTP/1.1.
    pub(crate) fn task(&self, number: u64) -> Option<AbortHandle> {
        let mut begun = self.begun.borrow_mut();
        let at = begun.iter().position(|(other, _)| *other == number)?;
        begun.remove(at).map(|(_, task)| task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::rt::Executor as _;

    #[tokio::test]
    async fn every_request_finds_its_own_task() {
        let streams = Rc::new(Streams::default());
        let executor = StreamExecutor(Rc::clone(&streams));
        let spawned = async {
            let numbers: Vec<u64> = (0..3)
                .map(|_| {
                    let number = streams.ask();
                    executor.execute(std::future::pending::<()>());
                    number
                })
                .collect();
            let second = streams.task(numbers[1]).expect("a task");
            second.abort();
            tokio::task::yield_now().await;
            assert!(second.is_finished());
            for number in [numbers[2], numbers[0]] {
                let other = streams.task(number).expect("a task");
                assert!(!other.is_finished());
            }
            assert!(streams.task(numbers[0]).is_none(), "once");
        };
        tokio::task::LocalSet::new().run_until(spawned).await;
    }
}
