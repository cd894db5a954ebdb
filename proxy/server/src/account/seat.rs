//! The permit of a request, wherever it is held.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use proxy_core::admission::{Cost, Outcome, Permit};

use crate::clock;

/// The initial state of a watch has been delivered, or nobody reads it, after this. A client that does not read must not
/// keep a seat for as long as its watch lasts.
const LONGEST_DELIVERY: Duration = Duration::from_secs(15);

/// What of admission a request holds.
#[derive(Debug, Default)]
pub(crate) enum Seat {
    /// Nothing: not counted, or given back already.
    #[default]
    Empty,
    /// A permit.
    Held(Permit),
    /// A permit that is also given back when its time is up, whether or not anybody looks at the request.
    Timed(Rc<RefCell<Option<Permit>>>),
}

impl Seat {
    pub(crate) fn new(permit: Option<Permit>) -> Self {
        permit.map_or(Self::Empty, Self::Held)
    }

    pub(crate) fn is_held(&self) -> bool {
        match self {
            Self::Empty => false,
            Self::Held(_) => true,
            Self::Timed(permit) => permit.borrow().is_some(),
        }
    }

    /// From now on the permit is held for a bounded time.
    pub(crate) fn time(&mut self) {
        let Self::Held(permit) = std::mem::take(self) else {
            return;
        };
        let permit = Rc::new(RefCell::new(Some(permit)));
        let weak = Rc::downgrade(&permit);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(LONGEST_DELIVERY).await;
            if let Some(permit) = weak.upgrade().and_then(|permit| permit.borrow_mut().take()) {
                permit.finish(Outcome::Served, clock::now());
            }
        });
        *self = Self::Timed(permit);
    }

    /// The answer has become larger than it was admitted as: `bytes` so far.
    pub(crate) fn outgrown(&mut self, bytes: u64) {
        let charge = |permit: &mut Permit| {
            let estimate = permit.estimate();
            let times = bytes / estimate.bytes.max(1);
            let work_us = estimate.work_us.saturating_mul(times.max(1));
            permit.true_up(Cost { work_us, bytes }, clock::now());
        };
        match self {
            Self::Empty => {}
            Self::Held(permit) => charge(permit),
            Self::Timed(permit) => {
                if let Some(permit) = &mut *permit.borrow_mut() {
                    charge(permit);
                }
            }
        }
    }

    /// Takes the permit out, if it is still there.
    pub(crate) fn take(&mut self) -> Option<Permit> {
        match std::mem::take(self) {
            Self::Empty => None,
            Self::Held(permit) => Some(permit),
            Self::Timed(permit) => permit.borrow_mut().take(),
        }
    }
}
