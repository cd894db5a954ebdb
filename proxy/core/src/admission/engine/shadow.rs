//! The shadow: what would have become of a request that is admitted whatever happens.

use super::Inner;
use crate::admission::{Ask, Offer, Permit, Shed, Wake, slot};
use crate::time::Time;

impl<W: Wake> Inner<W> {
    /// Decide, count, and admit all the same.
    ///
    /// What would run is held against the bounds for twice its estimate, not until it
    /// really ends: the server is as slow as it is because nothing is refused, and would
    /// not be. Counting that against requests that would never have met it would have
    /// shadow report the loss of everything important.
    pub(super) fn shadow(&self, ask: &Ask, now: Time) -> Offer {
        let permit = Permit::new(self.home(), self.front.uncounted_seat(ask, now));
        let class = slot(ask.class);
        let mut desk = self.desk();
        self.free_lingering(&mut desk, now);
        let (seat, waits) = match self.front.charge(ask, now) {
            Ok(seat) => (seat, false),
            Err(why) => {
                desk.note_blocked(ask, why);
                let ledger = &self.front.ledgers[ask.kind.index()];
                let hard = self.front.is_hard(class);
                // What is held beyond the ceiling is what would be waiting.
                let held = ask.cost.held_us();
                let could_wait = desk.reachable_work(ask) / (ask.cost.work_us / held);
                let fits = ledger.held(class).work() + held <= ledger.ceiling(class) + could_wait;
                if hard || !fits {
                    let shed = if hard {
                        Shed::HardBound
                    } else {
                        Shed::QueueFull
                    };
                    self.front.accounts.refused(ask);
                    let refusal = desk.note_shed(ask, shed, now, now);
                    return Offer::Admitted(permit.marked(Some(refusal), false));
                }
                desk.books[ask.kind.index()][class].queued += 1;
                (self.front.overcharge(ask, now), true)
            }
        };
        if !desk.linger(now + ask.cost.work() * 2, seat) {
            self.front.free(&seat);
        }
        Offer::Admitted(permit.marked(None, waits))
    }
}
