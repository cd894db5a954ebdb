//! The front of the gate: what every request touches, made of atomics alone.
//!
//! It knows the published bounds, what is held against them, and whether somebody waits.
//! It takes room and gives it back; it never waits, queues or refuses for good. Whoever
//! finds no room here goes to the desk.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::accounts::{Accounts, LAST_LEVEL, MODEST_LEVEL};
use super::ledger::{Ledger, NoRoom, Room};
use super::level::Level;
use super::meter::{Meters, Reading};
use super::permit::Seat;
use super::returns::{self, Returns};
use super::tuner::Tuner;
use super::{Ask, ClassId, Cost, Gate, Kind, MAX_CLASSES, Mode, Settings, slot};
use crate::hash::mix;
use crate::time::Time;

/// Where the modes of the classes begin in the gate's word, two bits each.
const MODES: usize = 32;

/// What the gate must know of the settings, in one word.
#[derive(Clone, Copy)]
struct Rules(u64);

impl Rules {
    fn of(settings: &Settings) -> Self {
        let mut rules = 0;
        for class in 0..MAX_CLASSES {
            let mode: u64 = match settings.mode_of(class).mode {
                Mode::Off => 0,
                Mode::Shadow => 1,
                Mode::Enforce => 2,
            };
            rules |= mode << (MODES + 2 * class);
        }
        for (class, settings) in settings.classes.iter().take(MAX_CLASSES).enumerate() {
            match settings.gate {
                Gate::HardBound(_) => rules |= 1 << class,
                Gate::Ceiling { own_whale: true } => rules |= 1 << (16 + class),
                Gate::Ceiling { own_whale: false } => {}
            }
        }
        Self(rules)
    }

    const fn mode(self, class: usize) -> Mode {
        match (self.0 >> (MODES + 2 * class)) & 0b11 {
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

fn atomics() -> [AtomicU64; MAX_CLASSES] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

/// Bit of a class and kind in [`Front::closed`].
pub(super) fn bit(kind: Kind, class: usize) -> u64 {
    1 << (16 * kind.index() + class)
}

/// See the module.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) ledgers: [Ledger; 2],
    /// Bytes in flight of responses that count, and what each class may bring them to.
    pub(super) bytes: AtomicU64,
    pub(super) byte_ceilings: [AtomicU64; MAX_CLASSES],
    /// Whether a whale of a class that may not have its own is running.
    pub(super) whale: AtomicBool,
    /// Bit `16 × kind + class`: must go to the desk, because somebody of it waits there or
    /// somebody more important waits for the same room. Zero if nobody waits at all.
    pub(super) closed: AtomicU64,
    /// Bits as in `closed`, of long work only: somebody more important was refused a moment ago.
    pub(super) deferred: AtomicU64,
    rules: AtomicU64,
    /// Bit per class: the red button is pressed.
    pub(super) forced: AtomicU64,
    hard_bounds: [AtomicU64; MAX_CLASSES],
    /// By class: tenants whose spread hash is at most this are enforced.
    enforced: [AtomicU64; MAX_CLASSES],
    /// By kind and class: what may be held whatever more important classes ask for, in microseconds.
    guarantees: [[AtomicU64; MAX_CLASSES]; 2],
    served: Meters,
    /// Who was told to come back when.
    pub(super) returns: Returns,
    /// Who asks for how much.
    pub(super) accounts: Accounts,
    /// By kind and class: tenants of a higher user level do not wait.
    bars: [[AtomicU64; MAX_CLASSES]; 2],
    /// The compound level: zero, or one more than class and user level.
    level: AtomicU64,
    pub(super) uncounted: [AtomicU64; MAX_CLASSES],
    /// The latest time anybody told; for permits dropped without telling it.
    latest: AtomicU64,
}

impl Front {
    pub(super) fn new(settings: &Settings, now: Time) -> Self {
        Self {
            ledgers: [Ledger::new(), Ledger::new()],
            bytes: AtomicU64::new(0),
            byte_ceilings: atomics(),
            whale: AtomicBool::new(false),
            closed: AtomicU64::new(0),
            deferred: AtomicU64::new(0),
            rules: AtomicU64::new(Rules::of(settings).0),
            forced: AtomicU64::new(0),
            hard_bounds: atomics(),
            enforced: std::array::from_fn(|_| AtomicU64::new(u64::MAX)),
            guarantees: std::array::from_fn(|_| atomics()),
            served: Meters::new(),
            returns: Returns::new(),
            accounts: Accounts::new(),
            bars: std::array::from_fn(|_| {
                std::array::from_fn(|_| AtomicU64::new(u64::from(LAST_LEVEL)))
            }),
            level: AtomicU64::new(0),
            uncounted: atomics(),
            latest: AtomicU64::new(now.as_micros()),
        }
    }

    pub(super) fn publish_settings(&self, settings: &Settings) {
        self.rules.store(Rules::of(settings).0, SeqCst);
        for (class, enforced) in self.enforced.iter().enumerate() {
            let share = settings.mode_of(class).enforced_tenants.clamp(0.0, 1.0);
            enforced.store((f64::from(share) * u64::MAX as f64) as u64, SeqCst);
        }
        for (class, settings) in settings.classes.iter().take(MAX_CLASSES).enumerate() {
            if let Gate::HardBound(bound) = settings.gate {
                let bound = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
                self.hard_bounds[class].store(bound, SeqCst);
            }
        }
    }

    /// Publish the ceilings that follow from the tuner's bounds and from what `shares` of
    /// them each class may see.
    pub(super) fn publish_bounds(
        &self,
        settings: &Settings,
        tuner: &Tuner,
        shares: &[[f32; MAX_CLASSES]; 2],
        bytes_budget: u64,
    ) {
        let part = |bound: u64, share: f32| {
            let share = if tuner.is_blind() {
                1.0
            } else {
                f64::from(share)
            };
            (bound as f64 * share) as u64
        };
        for kind in Kind::BOTH {
            for (class, share) in shares[kind.index()].iter().enumerate() {
                let ceiling = part(tuner.bound(kind), *share);
                self.ledgers[kind.index()].set_ceiling(class, ceiling.max(1));
            }
            for (class, guarantee) in self.guarantees[kind.index()].iter().enumerate() {
                let class = settings.classes.get(class);
                let share = class.map_or(0.0, |class| f64::from(class.guarantee.clamp(0.0, 1.0)));
                guarantee.store((tuner.bound(kind) as f64 * share).ceil() as u64, SeqCst);
            }
        }
        // Large answers are long work's.
        for (ceiling, share) in self.byte_ceilings.iter().zip(&shares[Kind::Long.index()]) {
            ceiling.store(part(bytes_budget, *share), SeqCst);
        }
    }

    fn rules(&self) -> Rules {
        Rules(self.rules.load(Relaxed))
    }

    /// Whether a class is held by a bound of its own, and neither waits nor makes wait.
    pub(super) fn is_hard(&self, class: usize) -> bool {
        self.rules().is_hard(class)
    }

    pub(super) fn mode_for(&self, ask: &Ask) -> Mode {
        self.mode_of(ask.class, ask.tenant)
    }

    pub(super) fn mode_of(&self, class: ClassId, tenant: u64) -> Mode {
        let class = slot(class);
        match self.rules().mode(class) {
            Mode::Enforce => {
                if mix(tenant) <= self.enforced[class].load(Relaxed) {
                    Mode::Enforce
                } else {
                    Mode::Shadow
                }
            }
            other => other,
        }
    }

    /// Whether somebody goes first. Classes with a hard bound pass everybody.
    pub(super) fn must_queue(&self, ask: &Ask) -> bool {
        let class = slot(ask.class);
        let later = self.closed.load(SeqCst) | self.deferred.load(Relaxed);
        later & bit(ask.kind, class) != 0 && !self.is_hard(class)
    }

    /// Whether anybody waits at all.
    pub(super) fn somebody_waits(&self) -> bool {
        self.closed.load(SeqCst) != 0
    }

    /// Take room for a request if there is.
    pub(super) fn charge(&self, ask: &Ask, now: Time) -> Result<Seat, NoRoom> {
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
            return Ok(Seat::of(ask, Some(ask.cost), now));
        }
        let room = ledger.try_add(class, held)?;
        let needs_token = room == Room::Whale && !rules.may_have_own_whale(class);
        if needs_token && self.whale.swap(true, SeqCst) {
            ledger.take(class, held);
            return Err(NoRoom::Shared);
        }
        let seat = Seat {
            whale: needs_token,
            ..Seat::of(ask, Some(ask.cost), now)
        };
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
        if !self.try_add_bytes(class, bytes) {
            self.free(&without_bytes);
            return Err(NoRoom::Bytes);
        }
        Ok(seat)
    }

    /// Take room for so many bytes, if the class has it or none are under way.
    fn try_add_bytes(&self, class: usize, bytes: u64) -> bool {
        if bytes == 0 {
            return true;
        }
        let before = self.bytes.fetch_add(bytes, SeqCst);
        let fits = before.saturating_add(bytes) <= self.byte_ceilings[class].load(SeqCst);
        if !fits && before > 0 {
            self.bytes.fetch_sub(bytes, SeqCst);
            return false;
        }
        true
    }

    /// Take room that is guaranteed to the class, whoever else wants it. It is used on top of what
    /// more important classes hold, so a bound can be exceeded by the guarantees; the tuner sees
    /// what that does.
    pub(super) fn charge_guaranteed(&self, ask: &Ask, now: Time) -> Option<Seat> {
        let class = slot(ask.class);
        let guarantee = self.guarantees[ask.kind.index()][class].load(SeqCst);
        if guarantee == 0 || self.is_hard(class) {
            return None;
        }
        let ledger = &self.ledgers[ask.kind.index()];
        let held = ask.cost.held_us();
        if !ledger.try_add_bounded(class, held, guarantee) {
            return None;
        }
        // Memory is guaranteed to nobody.
        if !self.try_add_bytes(class, ask.cost.counted_bytes()) {
            ledger.take(class, held);
            return None;
        }
        Some(Seat::of(ask, Some(ask.cost), now))
    }

    /// Take room whether there is or not; for what would be waiting, had decisions been
    /// carried out.
    pub(super) fn overcharge(&self, ask: &Ask, now: Time) -> Seat {
        self.ledgers[ask.kind.index()].add(slot(ask.class), ask.cost.held_us());
        self.bytes.fetch_add(ask.cost.counted_bytes(), SeqCst);
        Seat::of(ask, Some(ask.cost), now)
    }

    /// A seat that is held against nothing.
    pub(super) fn uncounted_seat(&self, ask: &Ask, now: Time) -> Seat {
        self.uncounted[slot(ask.class)].fetch_add(1, Relaxed);
        Seat::of(ask, None, now)
    }

    /// Give room back. Whoever calls this looks whether somebody waits afterwards.
    pub(super) fn free(&self, seat: &Seat) {
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

    /// Hold a seat at another cost; whether that gave room back. Seats held against
    /// nothing stay so.
    pub(super) fn adjust(&self, seat: &mut Seat, cost: Cost) -> bool {
        let Some(charged) = seat.charged else {
            return false;
        };
        seat.charged = Some(cost);
        let class = slot(seat.class);
        self.ledgers[seat.kind.index()].adjust(class, charged.held_us(), cost.held_us());
        let (from, to) = (charged.counted_bytes(), cost.counted_bytes());
        if to >= from {
            self.bytes.fetch_add(to - from, SeqCst);
        } else {
            self.bytes.fetch_sub(from - to, SeqCst);
        }
        if seat.whale && cost.held_us() == 0 {
            seat.whale = false;
            self.whale.store(false, SeqCst);
        }
        cost.held_us() < charged.held_us() || to < from
    }

    /// What a class is held by: its own hard bound or its ceiling, in microseconds.
    pub(super) fn ceiling(&self, kind: Kind, class: usize) -> u64 {
        if self.is_hard(class) {
            self.hard_bounds[class].load(Relaxed)
        } else {
            self.ledgers[kind.index()].ceiling(class)
        }
    }

    /// Count a request as served.
    pub(super) fn note_served(&self, seat: &Seat) {
        let class = slot(seat.class);
        self.served
            .add(seat.shard, seat.kind, class, seat.estimate.work_us);
    }

    pub(super) fn served(&self, kind: Kind, class: usize) -> Reading {
        self.served.read(kind, class)
    }

    pub(super) fn set_bar(&self, kind: Kind, class: usize, bar: u8) {
        self.bars[kind.index()][class].store(u64::from(bar), Relaxed);
    }

    /// The user level of a class beyond which nobody waits.
    pub(super) fn bar(&self, kind: Kind, class: usize) -> u8 {
        u8::try_from(self.bars[kind.index()][class].load(Relaxed)).unwrap_or(LAST_LEVEL)
    }

    pub(super) fn set_level(&self, level: Option<Level>) {
        let word = level.map_or(0, |level| {
            1 + (u64::from(level.class.0) << 8) + u64::from(level.user)
        });
        self.level.store(word, Relaxed);
    }

    pub(super) fn level(&self) -> Option<Level> {
        let word = self.level.load(Relaxed).checked_sub(1)?;
        Some(Level {
            class: ClassId((word >> 8) as u8),
            user: (word & 0xff) as u8,
        })
    }

    /// Whether it is not this tenant's turn.
    pub(super) fn is_below_bar(&self, ask: &Ask) -> bool {
        let bar = self.bar(ask.kind, slot(ask.class));
        bar < LAST_LEVEL && self.accounts.level(ask) > bar
    }

    /// Whether it comes back before the time it was told, and its tenant asks for more than an
    /// equal share: a client that asks for several things at once looks early, too, and is not to
    /// be kept out for one refusal.
    pub(super) fn is_early(&self, ask: &Ask, now: Time) -> bool {
        self.returns.is_early(returns::client(ask), now) && self.accounts.level(ask) > MODEST_LEVEL
    }

    /// The latest time anybody told.
    pub(super) fn latest(&self) -> Time {
        Time(self.latest.load(Relaxed))
    }

    pub(super) fn note_time(&self, now: Time) {
        self.latest.fetch_max(now.as_micros(), Relaxed);
    }
}
