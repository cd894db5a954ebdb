//! Giving back: where permits and tickets return to.

use std::sync::Arc;
use std::time::Duration;

use super::{Door, Inner};
use crate::admission::permit::{Ending, Home, Seat};
use crate::admission::queue::Place;
use crate::admission::{ClassId, Cost, Kind, Outcome, Wake, slot};
use crate::time::Time;

/// A long request that was cancelled keeps its seat at most this long.
const LONGEST_LINGER: Duration = Duration::from_secs(1);
/// Less than this is not worth lingering for; the tick would not be in time for it.
const SHORTEST_LINGER_US: u64 = 10_000;

impl<W: Wake> Inner<W> {
    pub(super) fn home(&self) -> Arc<dyn Home> {
        // Upgrading fails only while the last handle is being dropped, when nobody can
        // call; a home nobody sees then does no harm.
        match self.this.upgrade() {
            Some(this) => this,
            None => Arc::new(Nowhere),
        }
    }
}

impl<W: Wake> Home for Door<W> {
    fn release(&self, seat: &Seat, ending: Ending) {
        self.0.release(seat, ending);
    }

    fn adjust(&self, seat: &mut Seat, cost: Cost, now: Time) {
        self.0.adjust(seat, cost, now);
    }

    fn withdraw(&self, class: ClassId, kind: Kind, place: Place) {
        self.0.withdraw(class, kind, place);
    }
}

impl<W: Wake> Home for Inner<W> {
    fn release(&self, seat: &Seat, ending: Ending) {
        let now = match ending {
            Ending::Finished(_, now) | Ending::Cancelled(now) => now,
            Ending::Dropped => self.front.latest(),
        };
        if let (Ending::Cancelled(now), Kind::Long, Some(charged)) =
            (ending, seat.kind, seat.charged)
        {
            let elapsed = now.saturating_since(seat.started);
            let rest = charged.work().saturating_sub(elapsed).min(LONGEST_LINGER);
            if rest.as_micros() >= u128::from(SHORTEST_LINGER_US) {
                let mut desk = self.desk();
                if desk.linger(now + rest, *seat) {
                    return;
                }
            }
        }
        if matches!(ending, Ending::Finished(Outcome::Served, _)) {
            self.front.note_served(seat);
        }
        self.front.free(seat);
        if self.front.somebody_waits() {
            self.pump(now);
        }
    }

    fn adjust(&self, seat: &mut Seat, cost: Cost, now: Time) {
        if self.front.adjust(seat, cost) && self.front.somebody_waits() {
            self.pump(now);
        }
    }

    fn withdraw(&self, class: ClassId, kind: Kind, place: Place) {
        let mut desk = self.desk();
        let gone = desk.queues[kind.index()][slot(class)].remove(place);
        drop(desk);
        // The waiter is dropped without the lock, and whoever stood behind it may fit.
        if gone.is_some() {
            drop(gone);
            self.pump(self.front.latest());
        }
    }
}

/// The home of permits after the engine.
struct Nowhere;

impl Home for Nowhere {
    fn release(&self, _: &Seat, _: Ending) {}
    fn adjust(&self, _: &mut Seat, _: Cost, _: Time) {}
    fn withdraw(&self, _: ClassId, _: Kind, _: Place) {}
}
