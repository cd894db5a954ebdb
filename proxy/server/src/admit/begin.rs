//! Watches that begin while all do: after an outage, and after our own start.

use std::rc::Rc;

use proxy_core::admission::ramp::{Start, Waiting};
use proxy_core::admission::{Ask, Mode};
use tokio::sync::oneshot;

use crate::accept::worker::Worker;
use crate::clock;
use crate::error::{Error, Refused};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// Told whether it may begin.
pub(crate) type Beginner = oneshot::Sender<bool>;

/// Leaves the queue with whoever waits in it.
struct Place<'a>(&'a Shared, Waiting);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.ramp.leave(self.1);
    }
}

/// Waits until a watch may begin.
///
/// # Errors
/// [`Refused::Shed`] with the reason `ramp`.
pub(super) async fn begin(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    ask: &Ask,
) -> Result<(), Error> {
    let shared = &worker.shared;
    if shared.ramp.is_over() || shared.engine.mode_of(ask.class, ask.tenant) != Mode::Enforce {
        return Ok(());
    }
    let queue = &snapshot.settings.queue;
    let (sender, receiver) = oneshot::channel();
    let start = shared.ramp.offer(
        ask,
        queue.long_deadline,
        queue.max_waiting,
        clock::now(),
        || sender,
    );
    let begins = match start {
        Start::Now => true,
        Start::Refused => false,
        Start::Waits(waiting) => {
            let _place = Place(shared, waiting);
            // Nobody to tell is nobody to hold it back.
            receiver.await.unwrap_or(true)
        }
    };
    if begins {
        return Ok(());
    }
    let class = snapshot.class(ask.class);
    class.metrics.tally.ramp();
    shared
        .metrics
        .counter(
            "spillway_shed_total",
            &[("class", &*class.name), ("reason", "ramp")],
        )
        .increment(1);
    Err(Refused::Shed {
        reason: "ramp",
        class: class.name.clone(),
        retry_after: shared.ramp.retry_after(fastrand::u64(..)),
    }
    .into())
}
