//! The engine: a request's way past the gate or to the desk, and the tick that moves the
//! bounds.
//!
//! `waiting.rs` is the way through the queues, `release.rs` the way out, `shadow.rs` what
//! stands in for both when decisions are not carried out,
//! `foresee.rs` what would become of a request that nobody sends.

mod foresee;
mod release;
mod shadow;
mod waiting;

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::desk::Desk;
use super::gate::Front;
use super::meter::SHARDS;
use super::permit::Seat;
use super::{
    Ask, ClassId, Culprit, Level, MAX_CLASSES, Mode, Offer, Permit, Refusal, Settings, Shed,
    Signals, TenantView, View, Wake, retry_after, slot,
};
use crate::time::Time;

pub use foresee::{Fate, Foresight};
use waiting::tell;

/// Admission, shared by all workers; cloning shares.
pub struct Engine<W: Wake> {
    inner: Arc<Inner<W>>,
    /// Where permits are given back to, by shard: a permit keeps a reference, and one count for all would be the line that
    /// every worker writes to twice a request.
    doors: Arc<[Arc<Door<W>>; SHARDS]>,
}

/// A reference to the engine whose own references are counted on lines of their own.
#[repr(align(128))]
struct Door<W: Wake>(Arc<Inner<W>>);

impl<W: Wake> Clone for Engine<W> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            doors: Arc::clone(&self.doors),
        }
    }
}

impl<W: Wake> fmt::Debug for Engine<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

/// The gate's front, which every request passes, and the desk behind it, where those go
/// that cannot start at once.
struct Inner<W: Wake> {
    front: Front,
    desk: Mutex<Desk<W>>,
    this: Weak<Self>,
}

impl<W: Wake> Engine<W> {
    /// An engine with nothing running.
    #[must_use]
    pub fn new(settings: Settings, now: Time) -> Self {
        let inner = Arc::new_cyclic(|this| Inner {
            front: Front::new(&settings, now),
            desk: Mutex::new(Desk::new(settings, now)),
            this: Weak::clone(this),
        });
        inner.publish(&inner.desk());
        let doors = Arc::new(std::array::from_fn(|_| Arc::new(Door(Arc::clone(&inner)))));
        Self { inner, doors }
    }

    /// Take over new settings. What runs goes on and stays counted, what waits goes on
    /// waiting (or is admitted at once if decisions are no longer carried out), and the
    /// bounds stay where they are, within the new range.
    pub fn reconfigure(&self, settings: Settings, now: Time) {
        let inner = &self.inner;
        let mut desk = inner.desk();
        desk.shares = settings.shares();
        desk.tuner.reconfigure(&settings);
        desk.bytes.cap(settings.bytes);
        desk.settings = settings;
        inner.publish(&desk);
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
        match inner.front.mode_for(&ask) {
            Mode::Off => Offer::Admitted(self.permit(inner.front.uncounted_seat(&ask, now))),
            Mode::Shadow => {
                inner.front.accounts.offered(&ask);
                inner.shadow(&ask, now)
            }
            Mode::Enforce => {
                inner.front.accounts.offered(&ask);
                if !inner.front.must_queue(&ask)
                    && let Ok(seat) = inner.front.charge(&ask, now)
                {
                    return Offer::Admitted(self.permit(seat));
                }
                inner.queue(ask, now, make_waiter)
            }
        }
    }

    /// Count a request that an order of the operator refused, so that it was never offered here: the tenant is seen to ask
    /// for it and to be refused it ([`TenantView`]). Turns, bounds and blame know nothing of it. No lock.
    pub fn withheld(&self, ask: &Ask) {
        let ask = Ask {
            cost: ask.cost.bounded(),
            ..*ask
        };
        self.inner.front.accounts.withheld(&ask);
    }

    /// Whether decisions about this tenant in this class are carried out. One or two loads.
    #[must_use]
    pub fn mode_of(&self, class: ClassId, tenant: u64) -> Mode {
        self.inner.front.mode_of(class, tenant)
    }

    /// Work served of late, of all classes, in microseconds per second.
    #[must_use]
    pub fn work_rate(&self) -> f64 {
        let desk = self.inner.desk();
        desk.books
            .iter()
            .flatten()
            .map(|books| books.work_rate)
            .sum()
    }

    fn permit(&self, seat: Seat) -> Permit {
        let door = &self.doors[usize::from(seat.shard) % SHARDS];
        let home: Arc<Door<W>> = Arc::clone(door);
        Permit::new(home, seat)
    }

    /// To be called about every 100 ms: refuses those whose deadline has passed, gives
    /// back lingering seats, moves the bounds, admits whoever now fits.
    pub fn tick(&self, signals: &Signals, now: Time) {
        let inner = &self.inner;
        inner.front.note_time(now);
        let mut desk = inner.desk();
        inner.free_lingering(&mut desk, now);
        let uses = desk.close_window(&inner.front, now);
        desk.tuner.step(signals, &uses, now);
        if desk.tuner.is_blind() {
            desk.bytes.open(signals.memory, now);
        } else {
            let configured = desk.settings.bytes;
            desk.bytes.step(configured, signals.memory, now);
        }
        inner.publish_bounds(&desk);
        inner.press_red_buttons(&desk);
        desk.take_turns(&inner.front, now);
        let late: Vec<_> = desk
            .expire(now)
            .into_iter()
            .map(|entry| inner.shed_entry(&mut desk, entry, Shed::Deadline, now))
            .collect();
        inner.defer(&mut desk, now);
        drop(desk);
        tell(late);
        inner.pump(now);
    }

    /// How many whole seconds a refused client shall be told to wait
    /// ([`retry_after::seconds`]), at most `most`; it is expected to keep to that. `random` is
    /// any uniformly distributed word. Classes with a hard bound, the signs of life, are always
    /// told 1; whoever came back early is told twice as much as it would have been.
    #[must_use]
    pub fn retry_after(&self, refusal: &Refusal, random: u64, most: u32, now: Time) -> u32 {
        let class = slot(refusal.class);
        if self.inner.front.is_hard(class) {
            return 1;
        }
        let seconds = self.drawn(refusal, random);
        let early = refusal.shed == Shed::Early;
        let seconds = if early { 2 * seconds } else { seconds };
        let seconds = seconds.min(most.clamp(1, retry_after::MAX_SECONDS));
        let until = now + Duration::from_secs(seconds.into());
        self.inner.front.returns.expect(refusal.client, until);
        seconds
    }

    fn drawn(&self, refusal: &Refusal, random: u64) -> u32 {
        let class = slot(refusal.class);
        let desk = self.inner.desk();
        let books = &desk.books[refusal.kind.index()][class];
        let (clients, capacity) = (books.refused.clients(), books.served_rate);
        drop(desk);
        retry_after::seconds(clients, capacity, random, retry_after::MAX_SECONDS)
    }

    /// The compound level, if anything is being refused: for co-operating clients and layers,
    /// who had better not send what is beyond it (DAGOR's collaborative admission). One load.
    #[must_use]
    pub fn level(&self) -> Option<Level> {
        self.inner.front.level()
    }

    /// Those who ask for most of the server, at most `most` of them, the first first. In mode
    /// `off` nobody is known.
    #[must_use]
    pub fn top_tenants(&self, most: usize) -> Vec<TenantView> {
        self.inner
            .desk()
            .levels
            .top(&self.inner.front.accounts, most)
    }

    /// Who is behind the present overload, if there is one and somebody is.
    #[must_use]
    pub fn culprit(&self) -> Option<Culprit> {
        self.inner.desk().watch.culprit()
    }

    /// Whether anybody waits for room. One load.
    #[must_use]
    pub fn somebody_waits(&self) -> bool {
        self.inner.front.somebody_waits()
    }

    /// Bytes in flight of answers that count. One load.
    #[must_use]
    pub fn bytes_in_flight(&self) -> u64 {
        self.inner.front.bytes.load(Relaxed)
    }

    /// What would become of a request now. Nothing is admitted, counted or refused.
    #[must_use]
    pub fn foresee(&self, ask: Ask, now: Time) -> Foresight {
        self.inner.foresee(ask, now)
    }

    /// What it looks like from outside.
    #[must_use]
    pub fn view(&self, now: Time) -> View {
        View::of(&self.inner.front, &self.inner.desk(), now)
    }
}

impl<W: Wake> Inner<W> {
    /// A panic of a waiter's `decide` cannot happen under the lock, and nothing under it
    /// panics; should it ever, going on with slightly wrong books is the lesser evil.
    fn desk(&self) -> MutexGuard<'_, Desk<W>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, desk: &Desk<W>) {
        self.front.publish_settings(&desk.settings);
        self.publish_bounds(desk);
    }

    fn publish_bounds(&self, desk: &Desk<W>) {
        self.front.publish_bounds(
            &desk.settings,
            &desk.tuner,
            &desk.shares,
            desk.bytes.bytes(),
        );
    }

    /// Red button: classes of which too much is refused, by what the average tenant loses, or a
    /// single one could open the gate for itself by asking for more than anybody can have. And
    /// not while the server visibly queues: then it is no error of judgement.
    fn press_red_buttons(&self, desk: &Desk<W>) {
        let mut forced = 0;
        let lost = desk.levels.lost();
        let queueing = desk.tuner.excess() > desk.settings.target * 3;
        for (class, settings) in desk.settings.classes.iter().take(MAX_CLASSES).enumerate() {
            let books = desk.books.each_ref().map(|books| &books[class]);
            let shed: f64 = books.iter().map(|books| books.shed_rate).sum();
            // A handful of refusals says nothing about the judgement.
            if shed > 1.0 && lost[class] > f64::from(settings.max_shed_share) && !queueing {
                forced |= 1 << class;
            }
        }
        self.front.forced.store(forced, Relaxed);
    }

    fn free_lingering(&self, desk: &mut Desk<W>, now: Time) {
        while let Some(seat) = desk.linger_out(now) {
            self.front.free(&seat);
        }
    }
}

#[cfg(test)]
mod tests;
