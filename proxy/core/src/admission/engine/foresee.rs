//! What would become of a request now: the gate's and the desk's own judgement, of which nothing remains.

use super::Inner;
use crate::admission::ledger::NoRoom;
use crate::admission::{Ask, BoundView, Mode, Shed, Wake, slot};
use crate::time::Time;
use std::time::Duration;

/// What the gate would say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It would start at once.
    Starts,
    /// It would wait, behind so many of its class and kind.
    Waits(usize),
    /// It would be refused.
    Refused(Shed),
}

/// What would become of a request, and by what that was judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Foresight {
    /// Whether the gate's word would be carried out for its tenant.
    pub mode: Mode,
    /// The gate's word, whatever the mode.
    pub fate: Fate,
    /// Its class's bound for its kind, as of now.
    pub bound: BoundView,
    /// What it would hold of it.
    pub holds: Duration,
    /// Whether it would start by what is guaranteed to its class, and not because there is room.
    pub guaranteed: bool,
    /// Whether there is no room because somebody waits who goes first.
    pub others_first: bool,
    /// The user level of its tenant; beyond the bound's `bar` it may not wait.
    pub level: u8,
}

impl<W: Wake> Inner<W> {
    /// Takes room and gives it back under the desk's lock: whoever meets that taken for a moment comes to the desk, waits
    /// for the lock, and looks again.
    pub(super) fn foresee(&self, ask: Ask, now: Time) -> Foresight {
        let ask = Ask {
            cost: ask.cost.bounded(),
            ..ask
        };
        let class = slot(ask.class);
        let kind = ask.kind;
        let front = &self.front;
        let desk = self.desk();
        let queue = &desk.queues[kind.index()][class];
        let others_first = front.must_queue(&ask);
        let fits = !others_first
            && match front.charge(&ask, now) {
                Ok(seat) => {
                    front.free(&seat);
                    true
                }
                Err(NoRoom::Shared | NoRoom::Own | NoRoom::Closed | NoRoom::Bytes) => false,
            };
        let guaranteed = !fits && queue.is_empty() && {
            let seat = front.charge_guaranteed(&ask, now);
            seat.inspect(|seat| front.free(seat)).is_some()
        };
        let burst = desk.books[kind.index()][class].is_burst(kind);
        let fate = if fits || guaranteed {
            Fate::Starts
        } else if front.is_hard(class) {
            Fate::Refused(Shed::HardBound)
        } else if !queue.is_empty() && !burst && front.is_below_bar(&ask) {
            Fate::Refused(Shed::Level)
        } else if queue.len() >= desk.settings.queue.max_waiting {
            Fate::Refused(Shed::QueueFull)
        } else {
            Fate::Waits(queue.len())
        };
        let held = front.ledgers[kind.index()].held(class);
        Foresight {
            mode: front.mode_for(&ask),
            fate,
            bound: BoundView {
                ceiling: Duration::from_micros(front.ceiling(kind, class)),
                outstanding: Duration::from_micros(held.work()),
                running: held.running(),
                waiting: queue.len(),
                bar: front.bar(kind, class),
            },
            holds: Duration::from_micros(ask.cost.held_us()),
            guaranteed,
            others_first,
            level: front.accounts.level(&ask),
        }
    }
}
