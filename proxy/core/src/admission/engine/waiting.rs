//! Waiting: the way into a queue, and out of it: admitted, displaced or too late.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::Inner;
use crate::admission::desk::Desk;
use crate::admission::gate::bit;
use crate::admission::ledger::NoRoom;
use crate::admission::queue::{Entry, Pushed};
use crate::admission::returns;
use crate::admission::{
    Ask, Decision, Kind, MAX_CLASSES, Mode, Offer, Permit, Refusal, Shed, Ticket, Wake, slot,
};
use crate::time::Time;

impl<W: Wake> Inner<W> {
    /// There was no room: wait, or be refused.
    pub(super) fn queue(&self, ask: Ask, now: Time, make_waiter: impl FnOnce() -> W) -> Offer {
        let class = slot(ask.class);
        let kind = ask.kind;
        let mut desk = self.desk();
        if !self.front.must_queue(&ask) {
            match self.front.charge(&ask, now) {
                Ok(seat) => return Offer::Admitted(Permit::new(self.home(), seat)),
                Err(why) => desk.note_blocked(&ask, why),
            }
        }
        if self.front.is_hard(class) {
            return self.shed_newcomer(&mut desk, &ask, Shed::HardBound, now);
        }
        if desk.queues[kind.index()][class].is_empty()
            && let Some(seat) = self.front.charge_guaranteed(&ask, now)
        {
            return Offer::Admitted(Permit::new(self.home(), seat));
        }
        // Only while others of its class wait, who then keep less important classes out:
        // nobody is refused for the sake of somebody less important. And not in a burst, when there
        // will soon be room for all.
        let burst = desk.books[kind.index()][class].is_burst(kind);
        if !burst && !desk.queues[kind.index()][class].is_empty() {
            if self.front.is_early(&ask, now) {
                return self.shed_newcomer(&mut desk, &ask, Shed::Early, now);
            }
            if self.front.is_below_bar(&ask) {
                return self.shed_newcomer(&mut desk, &ask, Shed::Level, now);
            }
        }
        let deadline = now + desk.patience(&ask, now);
        let max_work = desk.queue_work(&ask);
        let max_waiting = desk.settings.queue.max_waiting;
        let queue = &mut desk.queues[kind.index()][class];
        match queue.push(ask, now, deadline, max_waiting, max_work, make_waiter) {
            Pushed::Refused => self.shed_newcomer(&mut desk, &ask, Shed::QueueFull, now),
            Pushed::Waits(place, displaced) => {
                // Raised before the last look at the room (in `pump`): whoever gives room
                // back from now on either sees the flag or was seen.
                self.front.closed.fetch_or(bit(kind, class), SeqCst);
                desk.books[kind.index()][class].queued += 1;
                let displaced: Vec<_> = displaced
                    .into_iter()
                    .map(|entry| self.shed_entry(&mut desk, entry, Shed::Displaced, now))
                    .collect();
                drop(desk);
                tell(displaced);
                let ticket = Ticket::new(self.home(), ask.class, kind, place);
                self.pump(now);
                Offer::Waiting(ticket)
            }
        }
    }

    fn shed_newcomer(&self, desk: &mut Desk<W>, ask: &Ask, shed: Shed, now: Time) -> Offer {
        match self.shed_or_force(desk, ask, shed, now, now) {
            Decision::Admitted(permit) => Offer::Admitted(permit),
            Decision::Shed(refusal) => Offer::Shed(refusal),
        }
    }

    pub(super) fn shed_entry(
        &self,
        desk: &mut Desk<W>,
        entry: Entry<W>,
        shed: Shed,
        now: Time,
    ) -> (W, Decision) {
        (
            entry.waiter,
            self.shed_or_force(desk, &entry.ask, shed, entry.since, now),
        )
    }

    fn shed_or_force(
        &self,
        desk: &mut Desk<W>,
        ask: &Ask,
        shed: Shed,
        since: Time,
        now: Time,
    ) -> Decision {
        let class = slot(ask.class);
        if self.front.forced.load(Relaxed) & (1 << class) == 0 {
            self.front.accounts.refused(ask);
            desk.deferral.note(class, shed, now);
            self.defer(desk, now);
            return Decision::Shed(desk.note_shed(ask, shed, since, now));
        }
        desk.books[ask.kind.index()][class].forced += 1;
        let waited = now.saturating_since(since);
        let refusal = Refusal {
            class: ask.class,
            kind: ask.kind,
            shed,
            waited,
            client: returns::client(ask),
        };
        let permit = Permit::new(self.home(), self.front.uncounted_seat(ask, now));
        Decision::Admitted(permit.marked(Some(refusal), false))
    }

    /// Publish who has to wait for the sake of those who were refused a moment ago.
    pub(super) fn defer(&self, desk: &mut Desk<W>, now: Time) {
        self.front.deferred.store(desk.deferral.mask(now), Relaxed);
    }

    /// Hand out room to those who wait. Decisions are told without the lock; what that in
    /// turn gives back is handed out by whoever is already at it, so a chain of waiters
    /// that have gone away does not become a chain of calls.
    pub(super) fn pump(&self, now: Time) {
        let mut desk = self.desk();
        if std::mem::replace(&mut desk.pumping, true) {
            desk.again = true;
            return;
        }
        let at_it = Pumping(self);
        loop {
            desk.again = false;
            let decisions = self.grant(&mut desk, now);
            if decisions.is_empty() && !desk.again {
                desk.pumping = false;
                drop(desk);
                std::mem::forget(at_it);
                return;
            }
            drop(desk);
            tell(decisions);
            desk = self.desk();
        }
    }

    /// Those who now fit, most important class first, in the order of their queues.
    fn grant(&self, desk: &mut Desk<W>, now: Time) -> Vec<(W, Decision)> {
        let mut decisions = Vec::new();
        let deferred = desk.deferral.mask(now);
        let mut closed = 0;
        for kind in Kind::BOTH {
            let mut barred = false;
            for class in 0..MAX_CLASSES {
                barred |= deferred & bit(kind, class) != 0;
                let mut own = false;
                while let Some(ask) = desk.queues[kind.index()][class].head().map(|head| head.ask) {
                    let seat = if barred || own {
                        None
                    } else if self.front.mode_for(&ask) == Mode::Enforce {
                        let charged = self.front.charge(&ask, now);
                        if let Err(why) = charged {
                            desk.note_blocked(&ask, why);
                            // Nobody less important may take what this one waits for.
                            barred = why != NoRoom::Own;
                            own = true;
                        }
                        charged.ok()
                    } else {
                        Some(self.front.uncounted_seat(&ask, now))
                    };
                    let Some(seat) = seat.or_else(|| self.front.charge_guaranteed(&ask, now))
                    else {
                        break;
                    };
                    match desk.queues[kind.index()][class].pop() {
                        Some(entry) => {
                            let permit = Permit::new(self.home(), seat);
                            decisions.push((entry.waiter, Decision::Admitted(permit)));
                        }
                        None => self.front.free(&seat),
                    }
                }
                if barred || !desk.queues[kind.index()][class].is_empty() {
                    closed |= bit(kind, class);
                }
            }
        }
        // Flags are raised under the lock only, so none is lost here.
        self.front.closed.store(closed, SeqCst);
        decisions
    }
}

/// Lets others hand out permits again should a waiter panic.
struct Pumping<'a, W: Wake>(&'a Inner<W>);

impl<W: Wake> Drop for Pumping<'_, W> {
    fn drop(&mut self) {
        self.0.desk().pumping = false;
    }
}

pub(super) fn tell<W: Wake>(decisions: Vec<(W, Decision)>) {
    for (waiter, decision) in decisions {
        waiter.decide(decision);
    }
}
