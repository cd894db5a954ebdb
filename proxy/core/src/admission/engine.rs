//! The engine: the gate's fast path, and the way to the desk when there is no room.

use std::fmt;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::desk::Desk;
use super::ledger::{Ledger, NoRoom, Room};
use super::permit::{Ending, Home, Seat};
use super::queue::{Entry, Place, Pushed};
use super::tuner::TunerState;
use super::{
    Ask, BoundView, ClassId, ClassView, Cost, Decision, Gate, Kind, MAX_CLASSES, Mode, Offer,
    Outcome, Permit, Refusal, Settings, Shed, Signals, Ticket, View, Wake, retry_after, slot,
};
use crate::hash::mix;
use crate::time::Time;

/// A long request that was cancelled keeps its seat at most this long.
const LONGEST_LINGER: Duration = Duration::from_secs(1);
/// Less than this is not worth lingering for; the tick would not be in time for it.
const SHORTEST_LINGER_US: u64 = 10_000;

/// Work and requests served so far, wrapping; in one word so that serving costs one
/// addition. Work in µs modulo 2⁴⁰, requests modulo 2²⁴: only differences between ticks
/// are used. When the work wraps, every twelve days of it, one request too many is counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Served {
    work: u64,
    count: u64,
}

impl Served {
    pub(super) fn since(self, earlier: Self) -> (u64, u64) {
        let work = self.work.wrapping_sub(earlier.work) & ((1 << 40) - 1);
        let count = self.count.wrapping_sub(earlier.count) & ((1 << 24) - 1);
        (work, count)
    }
}

/// What the fast path must know of the settings, in one word.
#[derive(Clone, Copy)]
struct Rules(u64);

impl Rules {
    fn of(settings: &Settings) -> Self {
        let mut rules = match settings.mode {
            Mode::Off => 0,
            Mode::Shadow => 1 << 48,
            Mode::Enforce => 2 << 48,
        };
        for (class, settings) in settings.classes.iter().take(MAX_CLASSES).enumerate() {
            match settings.gate {
                Gate::HardBound(_) => rules |= 1 << class,
                Gate::Ceiling { own_whale: true } => rules |= 1 << (16 + class),
                Gate::Ceiling { own_whale: false } => {}
            }
        }
        Self(rules)
    }

    const fn mode(self) -> Mode {
        match self.0 >> 48 {
            0 => Mode::Off,
            1 => Mode::Shadow,
            _ => Mode::Enforce,
        }
    }

    const fn is_hard(self, class: usize) -> bool {
        self.0 & (1 << class) != 0
    }

    const fn may_have_own_whale(self, class: usize) -> bool {
        self.0 & (1 << (16 + class)) != 0
    }
}

/// Admission, shared by all workers; cloning shares.
pub struct Engine<W: Wake> {
    inner: Arc<Inner<W>>,
}

impl<W: Wake> Clone for Engine<W> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<W: Wake> fmt::Debug for Engine<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

struct Inner<W: Wake> {
    ledgers: [Ledger; 2],
    /// Bytes in flight of responses that count, and what each class may bring them to.
    bytes: AtomicU64,
    byte_ceilings: [AtomicU64; MAX_CLASSES],
    /// Whether a whale of a class that may not have its own is running.
    whale: AtomicBool,
    /// Bit `16 × kind + class`: must go to the desk, because somebody of it waits there or
    /// somebody more important waits for the same room. Zero if nobody waits at all.
    closed: AtomicU64,
    rules: AtomicU64,
    /// Bit per class: the red button is pressed.
    forced: AtomicU64,
    hard_bounds: [AtomicU64; MAX_CLASSES],
    /// Tenants whose spread hash is at most this are enforced.
    enforced: AtomicU64,
    served: [[AtomicU64; MAX_CLASSES]; 2],
    uncounted: [AtomicU64; MAX_CLASSES],
    /// The latest time anybody told; for permits dropped without telling it.
    latest: AtomicU64,
    desk: Mutex<Desk<W>>,
    this: Weak<Self>,
}

fn bit(kind: Kind, class: usize) -> u64 {
    1 << (16 * kind.index() + class)
}

fn atomics() -> [AtomicU64; MAX_CLASSES] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

impl<W: Wake> Engine<W> {
    /// An engine with nothing running.
    #[must_use]
    pub fn new(settings: Settings, now: Time) -> Self {
        let inner = Arc::new_cyclic(|this| Inner {
            ledgers: [Ledger::new(), Ledger::new()],
            bytes: AtomicU64::new(0),
            byte_ceilings: atomics(),
            whale: AtomicBool::new(false),
            closed: AtomicU64::new(0),
            rules: AtomicU64::new(Rules::of(&settings).0),
            forced: AtomicU64::new(0),
            hard_bounds: atomics(),
            enforced: AtomicU64::new(u64::MAX),
            served: [atomics(), atomics()],
            uncounted: atomics(),
            latest: AtomicU64::new(now.as_micros()),
            desk: Mutex::new(Desk::new(settings, now)),
            this: Weak::clone(this),
        });
        inner.publish_settings(&inner.desk());
        inner.publish_bounds(&inner.desk());
        Self { inner }
    }

    /// Take over new settings. What runs goes on and stays counted, what waits goes on
    /// waiting (or is admitted at once if decisions are no longer carried out), and the
    /// bounds stay where they are, within the new range.
    pub fn reconfigure(&self, settings: Settings, now: Time) {
        let inner = &self.inner;
        let mut desk = inner.desk();
        desk.shares = settings.shares();
        desk.tuner.reconfigure(&settings);
        desk.settings = settings;
        inner.publish_settings(&desk);
        inner.publish_bounds(&desk);
        drop(desk);
        inner.pump(now);
    }

    /// Decide about a request.
    ///
    /// With room and nobody waiting this is one atomic addition and a few loads (two
    /// additions for a response whose bytes count), no lock, no allocation. Otherwise it
    /// takes the desk's lock briefly. `make_waiter` is called under it, at most once and
    /// only for [`Offer::Waiting`]; it must not call back into the engine. The waiter may
    /// be told before this returns.
    pub fn offer(&self, ask: Ask, now: Time, make_waiter: impl FnOnce() -> W) -> Offer {
        let ask = Ask {
            cost: ask.cost.bounded(),
            ..ask
        };
        let inner = &self.inner;
        match inner.mode_for(ask.tenant) {
            Mode::Off => Offer::Admitted(self.permit(inner.uncounted_seat(&ask, now))),
            Mode::Shadow => inner.shadow(&ask, now),
            Mode::Enforce => {
                if !inner.must_queue(&ask)
                    && let Ok(seat) = inner.charge(&ask, now)
                {
                    return Offer::Admitted(self.permit(seat));
                }
                inner.queue(ask, now, make_waiter)
            }
        }
    }

    fn permit(&self, seat: Seat) -> Permit {
        let home: Arc<Inner<W>> = Arc::clone(&self.inner);
        Permit::new(home, seat)
    }

    /// To be called about every 100 ms: refuses those whose deadline has passed, gives
    /// back lingering seats, moves the bounds, admits whoever now fits.
    pub fn tick(&self, signals: &Signals, now: Time) {
        let inner = &self.inner;
        inner.latest.fetch_max(now.as_micros(), Relaxed);
        let mut desk = inner.desk();
        inner.free_lingering(&mut desk, now);
        let uses = desk.close_window(&inner.ledgers, |kind, class| inner.served(kind, class), now);
        desk.tuner.step(signals, &uses, now);
        inner.publish_bounds(&desk);
        inner.press_red_buttons(&desk);
        let late: Vec<_> = desk
            .expire(now)
            .into_iter()
            .map(|entry| inner.shed_entry(&mut desk, entry, Shed::Deadline, now))
            .collect();
        drop(desk);
        tell(late);
        inner.pump(now);
    }

    /// How many whole seconds a refused client shall be told to wait
    /// ([`retry_after::seconds`]). `random` is any uniformly distributed word. Classes with
    /// a hard bound, the signs of life, are always told 1.
    #[must_use]
    pub fn retry_after(&self, refusal: &Refusal, random: u64) -> u32 {
        let class = slot(refusal.class);
        if self.inner.rules().is_hard(class) {
            return 1;
        }
        let desk = self.inner.desk();
        let books = &desk.books[refusal.kind.index()][class];
        let (clients, capacity) = (books.refused.clients(), books.served_rate);
        drop(desk);
        retry_after::seconds(clients, capacity, random, retry_after::MAX_SECONDS)
    }

    /// What it looks like from outside.
    #[must_use]
    pub fn view(&self, now: Time) -> View {
        let inner = &self.inner;
        let desk = inner.desk();
        let classes = desk.settings.classes.len().min(MAX_CLASSES);
        let whole = |kind: Kind| {
            let (outstanding, running) = inner.ledgers[kind.index()].total();
            BoundView {
                ceiling: Duration::from_micros(desk.tuner.bound(kind)),
                outstanding: Duration::from_micros(outstanding),
                running,
                waiting: desk.queues[kind.index()]
                    .iter()
                    .map(|queue| queue.len())
                    .sum(),
            }
        };
        let (state, reason) = desk.tuner.state();
        View {
            mode: desk.settings.mode,
            limit: whole(Kind::Short),
            breadth: whole(Kind::Long),
            bytes: inner.bytes.load(Relaxed),
            bytes_budget: desk.settings.bytes,
            classes: (0..classes)
                .map(|class| inner.view_class(&desk, class, now))
                .collect(),
            excess: desk.tuner.excess(),
            state,
            reason,
        }
    }
}

impl<W: Wake> Inner<W> {
    /// A panic of a waiter's `decide` cannot happen under the lock, and nothing under it
    /// panics; should it ever, going on with slightly wrong books is the lesser evil.
    fn desk(&self) -> MutexGuard<'_, Desk<W>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> Rules {
        Rules(self.rules.load(Relaxed))
    }

    fn mode_for(&self, tenant: u64) -> Mode {
        match self.rules().mode() {
            Mode::Enforce => {
                if mix(tenant) <= self.enforced.load(Relaxed) {
                    Mode::Enforce
                } else {
                    Mode::Shadow
                }
            }
            other => other,
        }
    }

    /// Whether somebody waits who goes first. Classes with a hard bound pass everybody.
    fn must_queue(&self, ask: &Ask) -> bool {
        let class = slot(ask.class);
        self.closed.load(SeqCst) & bit(ask.kind, class) != 0 && !self.rules().is_hard(class)
    }

    fn served(&self, kind: Kind, class: usize) -> Served {
        let word = self.served[kind.index()][class].load(Relaxed);
        Served {
            work: word & ((1 << 40) - 1),
            count: word >> 40,
        }
    }

    fn publish_settings(&self, desk: &Desk<W>) {
        let settings = &desk.settings;
        self.rules.store(Rules::of(settings).0, SeqCst);
        let share = f64::from(settings.enforced_tenants.clamp(0.0, 1.0));
        self.enforced
            .store((share * u64::MAX as f64) as u64, SeqCst);
        for (class, settings) in settings.classes.iter().take(MAX_CLASSES).enumerate() {
            if let Gate::HardBound(bound) = settings.gate {
                let bound = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
                self.hard_bounds[class].store(bound, SeqCst);
            }
        }
    }

    fn publish_bounds(&self, desk: &Desk<W>) {
        let open = desk.tuner.state().0 == TunerState::FailOpen;
        for class in 0..MAX_CLASSES {
            for kind in Kind::BOTH {
                let share = if open {
                    1.0
                } else {
                    f64::from(desk.shares[kind.index()][class])
                };
                let ceiling = (desk.tuner.bound(kind) as f64 * share) as u64;
                self.ledgers[kind.index()].set_ceiling(class, ceiling.max(1));
            }
            let share = f64::from(desk.shares[Kind::Long.index()][class]);
            let bytes = (desk.settings.bytes as f64 * share) as u64;
            self.byte_ceilings[class].store(bytes, SeqCst);
        }
    }

    /// Red button: classes of which too much is refused.
    fn press_red_buttons(&self, desk: &Desk<W>) {
        let mut forced = 0;
        for (class, settings) in desk.settings.classes.iter().take(MAX_CLASSES).enumerate() {
            let books = desk.books.each_ref().map(|books| &books[class]);
            let shed: f64 = books.iter().map(|books| books.shed_rate).sum();
            let served: f64 = books.iter().map(|books| books.served_rate).sum();
            // A handful of refusals says nothing about the judgement.
            if shed > 1.0 && shed > f64::from(settings.max_shed_share) * (shed + served) {
                forced |= 1 << class;
            }
        }
        self.forced.store(forced, Relaxed);
    }

    fn seat(ask: &Ask, charged: Option<Cost>, whale: bool, started: Time) -> Seat {
        Seat {
            class: ask.class,
            kind: ask.kind,
            estimate: ask.cost,
            charged,
            whale,
            started,
        }
    }

    fn uncounted_seat(&self, ask: &Ask, now: Time) -> Seat {
        self.uncounted[slot(ask.class)].fetch_add(1, Relaxed);
        Self::seat(ask, None, false, now)
    }

    /// Take room for a request if there is.
    fn charge(&self, ask: &Ask, now: Time) -> Result<Seat, NoRoom> {
        let class = slot(ask.class);
        let rules = self.rules();
        let ledger = &self.ledgers[ask.kind.index()];
        let held = ask.cost.held_us();
        let bytes = ask.cost.counted_bytes();
        if rules.is_hard(class) {
            let bound = self.hard_bounds[class].load(Relaxed);
            if !ledger.try_add_bounded(class, held, bound) {
                return Err(NoRoom::Own);
            }
            if bytes > 0 {
                self.bytes.fetch_add(bytes, SeqCst);
            }
            return Ok(Self::seat(ask, Some(ask.cost), false, now));
        }
        let room = ledger.try_add(class, held)?;
        let needs_token = room == Room::Whale && !rules.may_have_own_whale(class);
        if needs_token && self.whale.swap(true, SeqCst) {
            ledger.take(class, held);
            return Err(NoRoom::Shared);
        }
        let seat = Self::seat(ask, Some(ask.cost), needs_token, now);
        let without_bytes = Seat {
            charged: Some(Cost {
                bytes: 0,
                ..ask.cost
            }),
            ..seat
        };
        if ask.kind == Kind::Long && !self.ledgers[Kind::Short.index()].is_open(class) {
            self.free(&without_bytes);
            return Err(NoRoom::Closed);
        }
        if bytes > 0 {
            let before = self.bytes.fetch_add(bytes, SeqCst);
            let fits = before.saturating_add(bytes) <= self.byte_ceilings[class].load(SeqCst);
            if !fits && before > 0 {
                self.bytes.fetch_sub(bytes, SeqCst);
                self.free(&without_bytes);
                return Err(NoRoom::Bytes);
            }
        }
        Ok(seat)
    }

    /// Give room back. Whoever calls this looks at `closed` afterwards.
    fn free(&self, seat: &Seat) {
        let class = slot(seat.class);
        let Some(charged) = seat.charged else {
            self.uncounted[class].fetch_sub(1, Relaxed);
            return;
        };
        if charged.counted_bytes() > 0 {
            self.bytes.fetch_sub(charged.counted_bytes(), SeqCst);
        }
        if seat.whale {
            self.whale.store(false, SeqCst);
        }
        self.ledgers[seat.kind.index()].take(class, charged.held_us());
    }

    fn free_lingering(&self, desk: &mut Desk<W>, now: Time) {
        while let Some(seat) = desk.linger_out(now) {
            self.free(&seat);
        }
    }

    /// Decide, count, and admit all the same.
    ///
    /// What would run is held against the bounds for twice its estimate, not until it
    /// really ends: the server is as slow as it is because nothing is refused, and would
    /// not be. Counting that against requests that would never have met it would have
    /// shadow report the loss of everything important.
    fn shadow(&self, ask: &Ask, now: Time) -> Offer {
        let permit = Permit::new(self.home(), self.uncounted_seat(ask, now));
        let class = slot(ask.class);
        let mut desk = self.desk();
        self.free_lingering(&mut desk, now);
        let (seat, waits) = match self.charge(ask, now) {
            Ok(seat) => (seat, false),
            Err(why) => {
                desk.note_blocked(ask, why);
                let ledger = &self.ledgers[ask.kind.index()];
                let hard = self.rules().is_hard(class);
                // What is held beyond the ceiling is what would be waiting.
                let held = ask.cost.held_us();
                let could_wait = desk.queue_work(ask) / (ask.cost.work_us / held);
                let fits = ledger.held(class).work() + held <= ledger.ceiling(class) + could_wait;
                if hard || !fits {
                    let shed = if hard {
                        Shed::HardBound
                    } else {
                        Shed::QueueFull
                    };
                    let refusal = desk.note_shed(ask, shed, now, now);
                    return Offer::Admitted(permit.marked(Some(refusal), false));
                }
                desk.books[ask.kind.index()][class].queued += 1;
                ledger.add(class, held);
                self.bytes.fetch_add(ask.cost.counted_bytes(), SeqCst);
                (Self::seat(ask, Some(ask.cost), false, now), true)
            }
        };
        if !desk.linger(now + ask.cost.work() * 2, seat) {
            self.free(&seat);
        }
        Offer::Admitted(permit.marked(None, waits))
    }

    /// There was no room: wait, or be refused.
    fn queue(&self, ask: Ask, now: Time, make_waiter: impl FnOnce() -> W) -> Offer {
        let class = slot(ask.class);
        let kind = ask.kind;
        let mut desk = self.desk();
        if !self.must_queue(&ask) {
            match self.charge(&ask, now) {
                Ok(seat) => return Offer::Admitted(Permit::new(self.home(), seat)),
                Err(why) => desk.note_blocked(&ask, why),
            }
        }
        if self.rules().is_hard(class) {
            return self.shed_newcomer(&mut desk, &ask, Shed::HardBound, now);
        }
        let deadline = now + desk.deadline(kind);
        let max_work = desk.queue_work(&ask);
        let max_waiting = desk.settings.queue.max_waiting;
        let queue = &mut desk.queues[kind.index()][class];
        match queue.push(ask, now, deadline, max_waiting, max_work, make_waiter) {
            Pushed::Refused => self.shed_newcomer(&mut desk, &ask, Shed::QueueFull, now),
            Pushed::Waits(place, displaced) => {
                // Raised before the last look at the room (in `pump`): whoever gives room
                // back from now on either sees the flag or was seen.
                self.closed.fetch_or(bit(kind, class), SeqCst);
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

    fn shed_entry(
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
        if self.forced.load(Relaxed) & (1 << class) == 0 {
            return Decision::Shed(desk.note_shed(ask, shed, since, now));
        }
        desk.books[ask.kind.index()][class].forced += 1;
        let waited = now.saturating_since(since);
        let refusal = Refusal {
            class: ask.class,
            kind: ask.kind,
            shed,
            waited,
        };
        let permit = Permit::new(self.home(), self.uncounted_seat(ask, now));
        Decision::Admitted(permit.marked(Some(refusal), false))
    }

    /// Hand out room to those who wait. Decisions are told without the lock; what that in
    /// turn gives back is handed out by whoever is already at it, so a chain of waiters
    /// that have gone away does not become a chain of calls.
    fn pump(&self, now: Time) {
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
        let mut closed = 0;
        for kind in Kind::BOTH {
            let mut barred = false;
            for class in 0..MAX_CLASSES {
                while !barred {
                    let Some(ask) = desk.queues[kind.index()][class].head().map(|head| head.ask)
                    else {
                        break;
                    };
                    let seat = if self.mode_for(ask.tenant) == Mode::Enforce {
                        match self.charge(&ask, now) {
                            Ok(seat) => seat,
                            Err(why) => {
                                desk.note_blocked(&ask, why);
                                // Nobody less important may take what this one waits for.
                                barred = why != NoRoom::Own;
                                break;
                            }
                        }
                    } else {
                        self.uncounted_seat(&ask, now)
                    };
                    match desk.queues[kind.index()][class].pop() {
                        Some(entry) => {
                            let permit = Permit::new(self.home(), seat);
                            decisions.push((entry.waiter, Decision::Admitted(permit)));
                        }
                        None => self.free(&seat),
                    }
                }
                if barred || !desk.queues[kind.index()][class].is_empty() {
                    closed |= bit(kind, class);
                }
            }
        }
        // Flags are raised under the lock only, so none is lost here.
        self.closed.store(closed, SeqCst);
        decisions
    }

    fn home(&self) -> Arc<dyn Home> {
        // Upgrading fails only while the last handle is being dropped, when nobody can
        // call; a home nobody sees then does no harm.
        match self.this.upgrade() {
            Some(this) => this,
            None => Arc::new(Nowhere),
        }
    }

    fn view_class(&self, desk: &Desk<W>, class: usize, now: Time) -> ClassView {
        let bound = |kind: Kind| {
            let ledger = &self.ledgers[kind.index()];
            let held = ledger.held(class);
            let ceiling = if self.rules().is_hard(class) {
                self.hard_bounds[class].load(Relaxed)
            } else {
                ledger.ceiling(class)
            };
            BoundView {
                ceiling: Duration::from_micros(ceiling),
                outstanding: Duration::from_micros(held.work()),
                running: held.running(),
                waiting: desk.queues[kind.index()][class].len(),
            }
        };
        let books = desk.books.each_ref().map(|books| &books[class]);
        let oldest = desk
            .queues
            .iter()
            .filter_map(|queues| queues[class].oldest())
            .min();
        ClassView {
            short: bound(Kind::Short),
            long: bound(Kind::Long),
            oldest_wait: oldest.map_or(Duration::ZERO, |since| now.saturating_since(since)),
            uncounted: self.uncounted[class].load(Relaxed),
            shed: books.iter().map(|books| books.shed).sum(),
            queued: books.iter().map(|books| books.queued).sum(),
            forced: books.iter().map(|books| books.forced).sum(),
            served_per_second: books.iter().map(|books| books.served_rate).sum::<f64>() as f32,
        }
    }
}

impl<W: Wake> Home for Inner<W> {
    fn release(&self, seat: &Seat, ending: Ending) {
        let now = match ending {
            Ending::Finished(_, now) | Ending::Cancelled(now) => now,
            Ending::Dropped => Time(self.latest.load(Relaxed)),
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
            let word = (1 << 40) | seat.estimate.work_us;
            self.served[seat.kind.index()][slot(seat.class)].fetch_add(word, Relaxed);
        }
        self.free(seat);
        if self.closed.load(SeqCst) != 0 {
            self.pump(now);
        }
    }

    fn adjust(&self, seat: &mut Seat, cost: Cost, now: Time) {
        let Some(charged) = seat.charged.replace(cost) else {
            seat.charged = None;
            return;
        };
        let class = slot(seat.class);
        self.ledgers[seat.kind.index()].adjust(class, charged.held_us(), cost.held_us());
        let (from, to) = (charged.counted_bytes(), cost.counted_bytes());
        if to >= from {
            self.bytes.fetch_add(to - from, SeqCst);
        } else {
            self.bytes.fetch_sub(from - to, SeqCst);
        }
        let less = cost.held_us() < charged.held_us() || to < from;
        if less && self.closed.load(SeqCst) != 0 {
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
            self.pump(Time(self.latest.load(Relaxed)));
        }
    }
}

/// Lets others hand out permits again should a waiter panic.
struct Pumping<'a, W: Wake>(&'a Inner<W>);

impl<W: Wake> Drop for Pumping<'_, W> {
    fn drop(&mut self) {
        self.0.desk().pumping = false;
    }
}

/// The home of permits after the engine.
struct Nowhere;

impl Home for Nowhere {
    fn release(&self, _: &Seat, _: Ending) {}
    fn adjust(&self, _: &mut Seat, _: Cost, _: Time) {}
    fn withdraw(&self, _: ClassId, _: Kind, _: Place) {}
}

fn tell<W: Wake>(decisions: Vec<(W, Decision)>) {
    for (waiter, decision) in decisions {
        waiter.decide(decision);
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
