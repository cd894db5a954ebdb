//! What is behind the lock: the queues, the seats that linger, the tuner and the books.
//! Only requests that cannot start at once, and the tick, come here.

use std::collections::BTreeMap;
use std::time::Duration;

use super::culprit::Watch;
use super::deferral::Deferral;
use super::dial::{Need, Use};
use super::gate::Front;
use super::ledger::NoRoom;
use super::level::{Levels, Pressed, Pressure};
use super::memory::Budget;
use super::meter::Reading;
use super::permit::Seat;
use super::queue::{Entry, Queue};
use super::reason::TunerState;
use super::retry_after::Refused;
use super::returns;
use super::tuner::Tuner;
use super::{Ask, Gate, Kind, MAX_CLASSES, Refusal, Settings, Shed, slot};
use crate::time::Time;

/// Seats held without a permit; beyond it they are given back at once.
const MAX_LINGERING: usize = 4_096;

/// Refusals per second from which the tenants of a class take turns.
const PRESSED: f64 = 0.5;
/// One refusal in turn per so many served requests is tolerated.
const OVERRUN: u64 = 50;
/// What a class is served per second (µs) is taken to be at least this: its first LISTs may not
/// have ended yet.
const LEAST_SERVED: f64 = 200_000.0;
/// Refusals per second from which it is an overload that has a culprit.
const OVERLOADED: f64 = 1.0;
/// Refusals per second below which a class counts as not refused: one a few seconds ago.
const LATELY_REFUSED: f64 = 0.1;
/// So many times the work that is thought to make its deadline may wait in such a class.
const BENEFIT_OF_DOUBT: u64 = 32;
/// And so many times as long: whoever is refused comes back in a second at the earliest, and a burst
/// or a pause of the server is over by then.
const BURST_WAIT: u32 = 4;
/// Long requests of people and the control plane may always wait so many times as long as others.
const IMPORTANT_WAIT: u32 = 4;
/// Those of others so many times as long, where one ended within that time and fewer than
/// [`SELDOM`] end within a deadline.
const SELDOM_WAIT: u32 = 8;
const SELDOM: f64 = 2.0;
/// Room for so much short work is wanted (µs) when short work keeps long work out.
const SMALL_US: u64 = 10_000;
/// Among so many accounts the culprit is looked for.
const BLAMEABLE: usize = 64;

/// The books of one class and kind.
#[derive(Debug)]
pub(super) struct Books {
    /// What those that found no room would typically hold, µs.
    pub(super) typical: f64,
    /// Whether somebody found no room for its work since the last tick.
    pub(super) needed: bool,
    /// Refused since the last tick.
    pub(super) shed_now: u32,
    /// Smoothed per second: work served (µs), requests served, requests refused.
    pub(super) work_rate: f64,
    pub(super) served_rate: f64,
    pub(super) shed_rate: f64,
    pub(super) refused: Refused,
    /// When one was last seen to have been served.
    pub(super) ended: Option<Time>,
    /// Work and requests served, as of the last tick.
    pub(super) served: Reading,
    pub(super) shed: u64,
    /// Of those, refused although it was their tenant's turn, since the last turn; and requests
    /// served since then.
    pub(super) shed_in_turn: u64,
    pub(super) served_in_turn: u64,
    pub(super) queued: u64,
    pub(super) forced: u64,
    /// Whether at the last tick somebody had waited for half of what may be waited in an overload:
    /// a burst is over by then.
    pub(super) backed_up: bool,
}

impl Books {
    fn new(now: Time) -> Self {
        Self {
            typical: 0.0,
            needed: false,
            shed_now: 0,
            work_rate: 0.0,
            served_rate: 0.0,
            shed_rate: 0.0,
            refused: Refused::new(now),
            ended: None,
            served: Reading::default(),
            shed: 0,
            shed_in_turn: 0,
            served_in_turn: 0,
            queued: 0,
            forced: 0,
            backed_up: false,
        }
    }

    /// Whether nobody of the class was refused lately.
    fn spared(&self) -> bool {
        self.shed_rate < LATELY_REFUSED
    }

    /// How many times its deadline a request of the class may wait.
    fn burst_wait(&self) -> u32 {
        if self.spared() { BURST_WAIT } else { 1 }
    }

    /// How many times its deadline a long request may wait. Where these take longer than the
    /// deadline, nobody would be left who waits when one ends, and the server would idle in an
    /// overload. Where none ends at all, waiting is in vain.
    fn long_wait(&self, deadline: Duration, now: Time) -> u32 {
        let ends = |at: Time| now.saturating_since(at) < deadline * SELDOM_WAIT;
        let seldom = self.served_rate * deadline.as_secs_f64() < SELDOM;
        let wait = if seldom && self.ended.is_some_and(ends) {
            SELDOM_WAIT
        } else {
            1
        };
        wait.max(self.burst_wait())
    }

    /// Whether those that wait do so because of a burst. Long requests are few: one that waits does
    /// not mean that there are too many, even soon after an overload. Of short ones it does, and
    /// operations of several of them need their tenants' turns from the first one on.
    pub(super) fn is_burst(&self, kind: Kind) -> bool {
        !self.backed_up && (kind == Kind::Long || self.spared())
    }

    /// One window of `seconds` has passed.
    fn roll(&mut self, served: Reading, seconds: f64, now: Time) -> u64 {
        let (work, count) = served.since(self.served);
        self.served = served;
        self.served_in_turn += count;
        if count > 0 {
            self.ended = Some(now);
        }
        // Over about three seconds, whatever the windows are.
        let keep = (-seconds / 3.0).exp();
        let smooth = |rate: &mut f64, new: f64| *rate = *rate * keep + new / seconds * (1.0 - keep);
        smooth(&mut self.work_rate, work as f64);
        smooth(&mut self.served_rate, count as f64);
        smooth(&mut self.shed_rate, f64::from(self.shed_now));
        self.shed_now = 0;
        self.refused.tick(now);
        work
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Desk<W> {
    pub(super) settings: Settings,
    pub(super) shares: [[f32; MAX_CLASSES]; 2],
    pub(super) queues: [[Queue<W>; MAX_CLASSES]; 2],
    pub(super) books: [[Books; MAX_CLASSES]; 2],
    /// Seats held without a permit, by when they are given back.
    lingering: BTreeMap<(Time, u64), Seat>,
    lingered: u64,
    pub(super) tuner: Tuner,
    /// Of the bytes in flight.
    pub(super) bytes: Budget,
    pub(super) levels: Levels,
    pub(super) deferral: Deferral,
    pub(super) watch: Watch,
    pub(super) ticked: Time,
    /// Somebody is handing out permits, and shall look again when done.
    pub(super) pumping: bool,
    pub(super) again: bool,
}

impl<W> Desk<W> {
    pub(super) fn new(settings: Settings, now: Time) -> Self {
        Self {
            shares: settings.shares(),
            queues: std::array::from_fn(|_| std::array::from_fn(|_| Queue::new())),
            books: std::array::from_fn(|_| std::array::from_fn(|_| Books::new(now))),
            lingering: BTreeMap::new(),
            lingered: 0,
            tuner: Tuner::new(&settings, now),
            bytes: Budget::new(settings.bytes, now),
            levels: Levels::new(now),
            deferral: Deferral::default(),
            watch: Watch::default(),
            ticked: now,
            pumping: false,
            again: false,
            settings,
        }
    }

    /// The most work that can wait and still make its deadline, at the pace its class was
    /// lately served; at least what one core does in that time.
    pub(super) fn reachable_work(&self, ask: &Ask) -> u64 {
        let rate = self.books[ask.kind.index()][slot(ask.class)].work_rate;
        (rate.max(1e6) * self.settings.queue.deadline(ask.kind).as_secs_f64()) as u64
    }

    /// The most work that may wait. As long as nobody of the class was refused lately, much more
    /// than what is thought to make its deadline: estimates of what was never seen are high, and
    /// a manager that begins its sixty watches on an idle server shall not be sent away for a
    /// guess. Those who then wait in vain make the queue short.
    pub(super) fn queue_work(&self, ask: &Ask) -> u64 {
        let books = &self.books[ask.kind.index()][slot(ask.class)];
        let doubt = if books.spared() { BENEFIT_OF_DOUBT } else { 1 };
        self.reachable_work(ask).saturating_mul(doubt)
    }

    /// How long a request may wait. As long as nobody of its class was refused lately, until a burst is
    /// over; in an overload that lasts, waiting helps nobody. A class whose long requests are worth a
    /// whale of their own is better off waiting: it comes back in any case, and nobody less important
    /// passes it.
    pub(super) fn patience(&self, ask: &Ask, now: Time) -> Duration {
        let deadline = self.settings.queue.deadline(ask.kind);
        let books = &self.books[ask.kind.index()][slot(ask.class)];
        let own_whale = self
            .settings
            .classes
            .get(slot(ask.class))
            .is_some_and(|class| matches!(class.gate, Gate::Ceiling { own_whale: true }));
        match ask.kind {
            Kind::Long if own_whale => deadline * IMPORTANT_WAIT,
            Kind::Long => deadline * books.long_wait(deadline, now),
            Kind::Short => deadline * books.burst_wait(),
        }
    }

    /// Somebody found no room.
    pub(super) fn note_blocked(&mut self, ask: &Ask, why: NoRoom) {
        let held = ask.cost.held_us();
        let (kind, held) = match why {
            NoRoom::Bytes => return,
            // It is the limit that keeps long work out, though no short work waits for it.
            NoRoom::Closed => (Kind::Short, held.min(SMALL_US)),
            NoRoom::Own | NoRoom::Shared => (ask.kind, held),
        };
        let books = &mut self.books[kind.index()][slot(ask.class)];
        let held = held as f64;
        books.needed = true;
        books.typical = if books.typical > 0.0 {
            books.typical * 0.9 + held * 0.1
        } else {
            held
        };
    }

    /// Write a refusal into the books.
    pub(super) fn note_shed(&mut self, ask: &Ask, shed: Shed, since: Time, now: Time) -> Refusal {
        let books = &mut self.books[ask.kind.index()][slot(ask.class)];
        books.shed += 1;
        books.shed_in_turn += u64::from(shed != Shed::Level);
        books.shed_now = books.shed_now.saturating_add(1);
        books.refused.note(ask.instance);
        let waited = now.saturating_since(since);
        Refusal {
            class: ask.class,
            kind: ask.kind,
            shed,
            waited,
            client: returns::client(ask),
        }
    }

    pub(super) fn expire(&mut self, now: Time) -> Vec<Entry<W>> {
        self.queues
            .iter_mut()
            .flatten()
            .flat_map(|queue| queue.expire(now))
            .collect()
    }

    /// Hold a seat without a permit until then; `false` if there are too many already.
    pub(super) fn linger(&mut self, until: Time, seat: Seat) -> bool {
        if self.lingering.len() >= MAX_LINGERING {
            return false;
        }
        self.lingered += 1;
        self.lingering.insert((until, self.lingered), seat);
        true
    }

    #[cfg(test)]
    pub(super) fn lingering(&self) -> impl Iterator<Item = &Seat> {
        self.lingering.values()
    }

    /// The next seat that has lingered long enough.
    pub(super) fn linger_out(&mut self, now: Time) -> Option<Seat> {
        let entry = self.lingering.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// Bring what is known of the tenants up to date; once a turn, move the bars and look for
    /// a culprit.
    pub(super) fn take_turns(&mut self, front: &Front, now: Time) {
        let Self {
            levels,
            books,
            queues,
            settings,
            tuner,
            watch,
            ..
        } = self;
        let mut pressure = || -> Pressure {
            Kind::BOTH.map(|kind| {
                let deadline = settings.queue.deadline(kind);
                std::array::from_fn(|class| {
                    let books = &mut books[kind.index()][class];
                    let patience = deadline * books.burst_wait() / 2;
                    let oldest = queues[kind.index()][class].oldest();
                    let waits = oldest.is_some_and(|since| now.saturating_since(since) > patience);
                    let pressed = waits || books.shed_rate > PRESSED;
                    let overrun = books.shed_in_turn * OVERRUN > books.served_in_turn;
                    (books.shed_in_turn, books.served_in_turn) = (0, 0);
                    (settings.turns && pressed && !front.is_hard(class)).then(|| Pressed {
                        served: books.work_rate.max(LEAST_SERVED),
                        overrun,
                    })
                })
            })
        };
        let Some(turned) = levels.tick(&front.accounts, &mut pressure, now) else {
            return;
        };
        for kind in Kind::BOTH {
            for (class, bar) in turned.bars[kind.index()].iter().enumerate() {
                front.set_bar(kind, class, *bar);
            }
        }
        front.set_level(turned.level);
        let shed: f64 = books.iter().flatten().map(|books| books.shed_rate).sum();
        let overloaded = shed > OVERLOADED
            || tuner.state().0 == TunerState::Brake
            || books.iter().flatten().any(|books| books.backed_up);
        let blameable = || levels.blameable(&front.accounts, BLAMEABLE);
        watch.turn(overloaded, blameable, now);
    }

    /// Close the books of the window for the tuner.
    pub(super) fn close_window(&mut self, front: &Front, now: Time) -> [Use; 2] {
        let seconds = now.saturating_since(self.ticked).as_secs_f64().max(1e-3);
        self.ticked = now;
        Kind::BOTH.map(|kind| {
            let k = kind.index();
            let mut used = Use::default();
            for class in 0..MAX_CLASSES {
                let share = self.shares[k][class];
                let held = front.ledgers[k].held(class);
                used.running += held.running();
                let held = held.work();
                used.outstanding += held;
                if held > 0 {
                    let bound = (used.outstanding as f64 / f64::from(share)) as u64;
                    used.reached = used.reached.max(bound);
                }
                let oldest = self.queues[k][class].oldest();
                let waiting = oldest.is_some();
                let enough = self.settings.queue.deadline(kind) / 2;
                let books = &mut self.books[k][class];
                books.backed_up = oldest.is_some_and(|at| now.saturating_since(at) >= enough);
                used.served += books.roll(front.served(kind, class), seconds, now);
                let needed = std::mem::take(&mut books.needed) || (waiting && books.typical > 0.0);
                if needed && used.need.is_none() {
                    used.need = Some(Need {
                        share,
                        held_us: books.typical as u64,
                        class,
                    });
                }
            }
            used
        })
    }
}
