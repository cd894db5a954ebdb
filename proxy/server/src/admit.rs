//! Stage 5: the asynchronous face of the admission engine.
//!
//! [`admit`] asks the gate, waits when it is told to, and turns a refusal into what the client is told. A client that
//! hangs up while waiting drops this future, and with it the ticket.

mod begin;
pub(crate) mod orders;
pub(crate) mod running;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proxy_core::admission::retry_after;
use proxy_core::admission::{Ask, Decision, Offer, Permit, Refusal, Wake};
use proxy_core::attributes::Verb;
use proxy_core::classify::ClassId;
use tokio::sync::oneshot;

use crate::accept::worker::Worker;
use crate::attribute::Facts;
use crate::clock;
use crate::error::{Error, Refused};
use crate::identify::Identified;
use crate::lane::Lane;
use crate::metrics::reason;
use crate::snapshot::Snapshot;
pub(crate) use begin::Beginner;

/// Tells a waiting request what became of it.
#[derive(Debug)]
pub(crate) struct Waiter(oneshot::Sender<Decision>);

impl Wake for Waiter {
    fn decide(self, decision: Decision) {
        // Nobody there any more: the decision is dropped here, and a permit in it gives its room back.
        let _ = self.0.send(decision);
    }
}

/// Admits a request of class `class`, at once or after a wait. The permit is `None` where admission does not count it.
///
/// # Errors
/// [`Refused::Shed`], or [`Refused::ReservedLaneFull`] on the reserved lane.
pub(crate) async fn admit(
    worker: &Rc<Worker>,
    snapshot: &Snapshot,
    facts: &Facts,
    class: ClassId,
    identified: &Identified,
    address_hash: u64,
) -> Result<Option<Permit>, Error> {
    let ask = Ask {
        class,
        cost: worker.shared.costs.estimate(&facts.shape),
        kind: facts.kind,
        tenant: identified.identity.tenant(),
        instance: identified.identity.instance(address_hash),
        shape: facts.shape.hash(),
    };
    let arrived = clock::now();
    let mut now = arrived;
    if facts.verb == Verb::Watch && worker.lane == Lane::Main {
        begin::begin(worker, snapshot, &ask).await?;
        now = clock::now();
    }
    let mut decision = None;
    let offer = worker.shared.engine.offer(ask, now, || {
        let (sender, receiver) = oneshot::channel();
        decision = Some(receiver);
        Waiter(sender)
    });
    if worker.lane == Lane::Reserved {
        return reserved(worker, snapshot, offer);
    }
    let tally = &snapshot.class(class).metrics.tally;
    match offer {
        Offer::Admitted(permit) => {
            tally.admitted(now.saturating_since(arrived));
            Ok(Some(counted(worker, snapshot, permit)))
        }
        Offer::Shed(refusal) => Err(shed(worker, snapshot, facts, &refusal)),
        Offer::Waiting(ticket) => {
            let decided = match decision {
                Some(decision) => decision.await,
                None => return Ok(None),
            };
            drop(ticket);
            match decided {
                Ok(Decision::Admitted(permit)) => {
                    tally.admitted(clock::now().saturating_since(arrived));
                    Ok(Some(counted(worker, snapshot, permit)))
                }
                Ok(Decision::Shed(refusal)) => Err(shed(worker, snapshot, facts, &refusal)),
                // The engine let go of the waiter without a word, which it never does: fail open.
                Err(_) => Ok(None),
            }
        }
    }
}

/// Counts what would have been refused: in shadow, or under the red button.
fn counted(worker: &Worker, snapshot: &Snapshot, permit: Permit) -> Permit {
    if let Some(refusal) = permit.shadow() {
        let class = snapshot.class(refusal.class);
        class
            .metrics
            .shed(&worker.shared.metrics, refusal.shed, true);
    }
    permit
}

/// The reserved lane is counted by the engine, so that the limit knows of it, and refused only at its own bound.
fn reserved(worker: &Worker, snapshot: &Snapshot, offer: Offer) -> Result<Option<Permit>, Error> {
    let class = snapshot.classes.get(snapshot.reserved_class());
    // This request is counted already.
    if worker.lane_state().in_flight.load(Ordering::Relaxed)
        > u64::from(snapshot.config.reserved.max_in_flight)
    {
        if let Some(class) = class {
            class.metrics.tally.lane_full();
        }
        return Err(Refused::ReservedLaneFull.into());
    }
    if let Some(class) = class {
        class.metrics.tally.admitted(Duration::ZERO);
    }
    match offer {
        Offer::Admitted(permit) => Ok(Some(permit)),
        Offer::Waiting(_) | Offer::Shed(_) => Ok(None),
    }
}

fn shed(worker: &Worker, snapshot: &Snapshot, facts: &Facts, refusal: &Refusal) -> Error {
    let class = snapshot.class(refusal.class);
    class
        .metrics
        .shed(&worker.shared.metrics, refusal.shed, false);
    let most = if facts.lease {
        1
    } else {
        retry_after::MAX_SECONDS
    };
    let retry_after =
        worker
            .shared
            .engine
            .retry_after(refusal, fastrand::u64(..), most, clock::now());
    Refused::Shed {
        reason: reason(refusal.shed),
        class: Arc::clone(&class.name),
        retry_after,
    }
    .into()
}
