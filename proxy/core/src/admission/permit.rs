//! The right to run, and the right to wait.

use std::fmt;
use std::sync::Arc;

use super::meter::shard;
use super::queue::Place;
use super::{Ask, Cost, Kind, Refusal};
use crate::classify::ClassId;
use crate::time::Time;

/// How an admitted request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The server did the work and answered: counts as throughput.
    Served,
    /// The server refused it (its own 429) or failed (5xx, broken connection): it took
    /// room, but was not useful work.
    Failed,
}

/// What a permit holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) class: ClassId,
    pub(super) kind: Kind,
    /// What it was admitted as. Throughput is measured in these units, the same as demand.
    pub(super) estimate: Cost,
    /// What it holds now. `None`: admitted without being counted.
    pub(super) charged: Option<Cost>,
    /// Whether it is the one whale that may run beyond the ceilings.
    pub(super) whale: bool,
    pub(super) started: Time,
    /// Of what is kept in shards, its own.
    pub(super) shard: u8,
}

impl Seat {
    /// What a request holds that is `charged` so much.
    pub(super) const fn of(ask: &Ask, charged: Option<Cost>, started: Time) -> Self {
        Self {
            class: ask.class,
            kind: ask.kind,
            estimate: ask.cost,
            charged,
            whale: false,
            started,
            shard: shard(ask.tenant),
        }
    }
}

/// How a seat is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Finished(Outcome, Time),
    Cancelled(Time),
    Dropped,
}

/// Where seats and places in queues are given back to.
pub(super) trait Home: Send + Sync {
    fn release(&self, seat: &Seat, ending: Ending);
    fn adjust(&self, seat: &mut Seat, cost: Cost, now: Time);
    fn withdraw(&self, class: ClassId, kind: Kind, place: Place);
}

/// The right to run one request. Give it back with [`Permit::finish`] or
/// [`Permit::cancel`]; dropping it gives the room back at once and counts nothing done.
#[must_use = "dropping a permit gives its room back"]
pub struct Permit {
    home: Arc<dyn Home>,
    seat: Seat,
    shadow: Option<Refusal>,
    would_wait: bool,
    given_back: bool,
}

impl Permit {
    pub(super) fn new(home: Arc<dyn Home>, seat: Seat) -> Self {
        Self {
            home,
            seat,
            shadow: None,
            would_wait: false,
            given_back: false,
        }
    }

    pub(super) fn marked(mut self, shadow: Option<Refusal>, would_wait: bool) -> Self {
        self.shadow = shadow;
        self.would_wait = would_wait;
        self
    }

    /// The class it was admitted in.
    #[must_use]
    pub const fn class(&self) -> ClassId {
        self.seat.class
    }

    /// Short or long.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.seat.kind
    }

    /// When it was admitted.
    #[must_use]
    pub const fn started(&self) -> Time {
        self.seat.started
    }

    /// What it was admitted as.
    #[must_use]
    pub const fn estimate(&self) -> Cost {
        self.seat.estimate
    }

    /// What it counts as now; `None` if it was admitted without being counted (modes
    /// `off` and `shadow`, or the red button).
    #[must_use]
    pub const fn charged(&self) -> Option<Cost> {
        self.seat.charged
    }

    /// The refusal that was not carried out, if any.
    #[must_use]
    pub const fn shadow(&self) -> Option<Refusal> {
        self.shadow
    }

    /// Whether it would have waited, had decisions been carried out.
    #[must_use]
    pub const fn would_wait(&self) -> bool {
        self.would_wait
    }

    /// Correct what it counts as while it runs, once more is known (a response much larger
    /// than expected). Never refused; if less, the room goes to those who wait.
    pub fn true_up(&mut self, cost: Cost, now: Time) {
        self.home.adjust(&mut self.seat, cost.bounded(), now);
    }

    /// The server has nothing to do for it until its client goes on: it holds no work any more, and is nobody's company,
    /// but the bytes of its answer still count.
    pub fn rest(&mut self, now: Time) {
        let Some(charged) = self.seat.charged else {
            return;
        };
        let idle = Cost {
            work_us: 0,
            ..charged
        };
        self.home.adjust(&mut self.seat, idle, now);
    }

    /// It ended. Gives the room back, possibly waking others on this thread.
    pub fn finish(mut self, outcome: Outcome, now: Time) {
        self.give_back(Ending::Finished(outcome, now));
    }

    /// The client went away before the answer was complete. The server may well go on
    /// working, so long requests keep their room for what remains of their estimate, at
    /// most one second.
    pub fn cancel(mut self, now: Time) {
        self.give_back(Ending::Cancelled(now));
    }

    fn give_back(&mut self, ending: Ending) {
        if !std::mem::replace(&mut self.given_back, true) {
            self.home.release(&self.seat, ending);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back(Ending::Dropped);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("seat", &self.seat)
            .field("shadow", &self.shadow)
            .field("would_wait", &self.would_wait)
            .finish_non_exhaustive()
    }
}

/// A place in a queue. Dropping it withdraws; a permit granted at the same instant has
/// then already been handed to the waiter, and is given back when that drops it.
#[must_use = "dropping a ticket withdraws from the queue"]
pub struct Ticket {
    home: Arc<dyn Home>,
    class: ClassId,
    kind: Kind,
    place: Place,
}

impl Ticket {
    pub(super) fn new(home: Arc<dyn Home>, class: ClassId, kind: Kind, place: Place) -> Self {
        Self {
            home,
            class,
            kind,
            place,
        }
    }

    /// Withdraw: the client went away. The same as dropping the ticket.
    pub fn cancel(self) {}
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.home.withdraw(self.class, self.kind, self.place);
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("class", &self.class)
            .field("kind", &self.kind)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
