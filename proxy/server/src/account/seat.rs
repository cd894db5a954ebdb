//! What of admission a request holds, and for how long.

use std::time::Duration;

use proxy_core::admission::{Cost, Kind, Permit};

use crate::accept::patience::{Hold, Sight};
use crate::clock;

/// The initial state of a watch has been delivered, or nobody reads it, after this. A client that does not read must not
/// keep a seat for as long as its watch lasts.
const LONGEST_DELIVERY: Duration = Duration::from_secs(15);

/// A request's seat; empty until it is admitted.
#[derive(Debug, Default)]
pub(crate) struct Seat(Option<Hold>);

impl Seat {
    pub(crate) fn new(hold: Hold) -> Self {
        Self(Some(hold))
    }

    pub(crate) fn is_held(&self) -> bool {
        self.0.as_ref().is_some_and(Hold::is_held)
    }

    /// From now on the permit is held for a bounded time, whether or not anybody looks at the request.
    pub(crate) fn time(&self) {
        if let Some(hold) = &self.0 {
            hold.at_most(LONGEST_DELIVERY);
        }
    }

    /// The request waits for its client.
    pub(crate) fn waits(&self) {
        if let Some(hold) = &self.0 {
            hold.waits();
        }
    }

    /// From now on it holds its bytes only.
    pub(crate) fn rest(&self) {
        if let Some(hold) = &self.0 {
            hold.change(|permit| permit.rest(clock::now()));
        }
    }

    /// The request waits for the server.
    pub(crate) fn goes_on(&self) {
        if let Some(hold) = &self.0 {
            hold.goes_on();
        }
    }

    /// For the request's body.
    pub(crate) fn sight(&self) -> Option<Sight> {
        self.0.as_ref().map(Hold::sight)
    }

    /// The answer has become larger than it was admitted as: `bytes` so far.
    pub(crate) fn outgrown(&self, bytes: u64) {
        let Some(hold) = &self.0 else { return };
        hold.outgrown(bytes, |permit| {
            let estimate = permit.estimate();
            let times = bytes / estimate.bytes.max(1);
            let rests = permit.charged().is_some_and(|charged| charged.work_us == 0);
            let work_us = match permit.kind() {
                Kind::Short if rests => 0,
                _ => estimate.work_us.saturating_mul(times.max(1)),
            };
            permit.true_up(Cost { work_us, bytes }, clock::now());
        });
    }

    /// Takes the permit out, if it is still there.
    pub(crate) fn take(&self) -> Option<Permit> {
        self.0.as_ref().and_then(Hold::take)
    }
}
