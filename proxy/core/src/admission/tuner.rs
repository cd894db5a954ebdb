//! What the two bounds become, ten times a second.
//!
//! * **Brake** when the probe's excess is above the target for two windows: by
//!   √(target/excess), at most to 0.7; or by 0.7 on a burst of the server's own 429s,
//!   504s or lost connections, or when its memory is nearly used up. The breadth goes
//!   first (long work comes from the least important classes); the limit only once the
//!   breadth is at its floor, and only if more excess is seen than one LIST at the floor
//!   explains by itself.
//! * **Grow** only when a bound kept somebody waiting, the probe is below half the target
//!   and the last step has been watched for six windows; by one typical waiting request. The
//!   limit grows by half at a time, every three windows, until the first brake says how much
//!   is too much (slow start, as TCP's): servers have one core or a hundred.
//!   A step that led to a brake, or that demonstrably got no more done, is remembered:
//!   the next try waits 5 s, then twice as long each time, up to a minute.
//! * **Hold** otherwise. An idle limit does not decay; unused breadth does.
//! * After an **outage**: 15 % of the last good bounds, doubling every second until the
//!   first brake.
//! * **Blind**: wide open. What cannot be judged must not be refused.

use std::time::Duration;

use super::history::{Compare, History};
use super::reason::{Reason, TunerState};
use super::{Kind, SLICE_US, Settings, Signals};
use crate::time::Time;

/// The most important class that was kept waiting by a bound in the last window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Need {
    /// Its share of the bound.
    pub(super) share: f32,
    /// What those kept waiting would typically hold, in microseconds.
    pub(super) held_us: u64,
    /// Its importance.
    pub(super) class: usize,
}

/// What happened to one bound in the last window; work in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    /// Outstanding now.
    pub(super) outstanding: u64,
    /// Requests running now.
    pub(super) running: u64,
    /// The same, as a bound: each class's outstanding work over its share, the largest.
    pub(super) reached: u64,
    /// Estimated work served.
    pub(super) served: u64,
    pub(super) need: Option<Need>,
}

impl Use {
    /// Where a brake starts from: half a long request above what runs. Long requests come
    /// whole, and from exactly two the slightest brake would leave one. From two and a
    /// half, one severe brake does, or several slight ones.
    fn braked_from(&self) -> u64 {
        let bound_per_held = self.reached as f64 / (self.outstanding.max(1)) as f64;
        self.reached + (bound_per_held * SLICE_US as f64 / 2.0) as u64
    }
}

/// Watch a change this long before the next step up.
const WATCH: Duration = Duration::from_millis(600);
/// The same while the limit grows by half at a time: the probe's median needs about as long.
const RAMP: Duration = Duration::from_millis(300);
/// What was too much is tried again quickly after this.
const DOUBT: Duration = Duration::from_secs(30);
/// A brake within this long after a step up was caused by it.
const BLAME: Duration = Duration::from_secs(3);
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
const LAST_BACKOFF: Duration = Duration::from_secs(60);
/// Unused for this long, breadth decays.
const UNUSED: Duration = Duration::from_secs(10);
/// Let a brake show in the probe before judging it.
const SETTLE: Duration = Duration::from_millis(500);
const BURST: u32 = 3;
/// The least breadth: one long request.
const SLICE: Duration = Duration::from_micros(SLICE_US);

/// One bound.
#[derive(Debug)]
struct Dial {
    us: u64,
    floor: u64,
    start: u64,
    max: u64,
    /// Up to here it may grow by half at a time: nothing says yet that it is too much.
    known: u64,
    /// Whether it may before anything was tried.
    ramps: bool,
    /// When something last said so.
    refuted: Option<Time>,
    /// No step up before.
    wait_until: Time,
    /// Since when it waits because a step up was one too many.
    gave_up: Option<Time>,
    backoff: Duration,
    /// The last step up: when, and from where.
    step: Option<(Time, u64)>,
    used: Time,
    history: History,
}

impl Dial {
    fn new(start: Duration, floor: Duration, ramps: bool, settings: &Settings, now: Time) -> Self {
        let mut dial = Self {
            us: 0,
            floor: 0,
            start: 0,
            max: 0,
            known: 0,
            ramps,
            refuted: None,
            wait_until: now,
            gave_up: None,
            backoff: FIRST_BACKOFF,
            step: None,
            used: now,
            history: History::default(),
        };
        dial.reconfigure(start, floor, settings);
        dial.us = dial.start;
        dial
    }

    fn reconfigure(&mut self, start: Duration, floor: Duration, settings: &Settings) {
        self.floor = micros(floor).max(1_000);
        self.max = micros(settings.limit.max).clamp(self.floor, 3_600_000_000);
        self.start = micros(start).clamp(self.floor, self.max);
        self.us = self.us.clamp(self.floor, self.max);
        if self.refuted.is_none() {
            self.known = if self.ramps { self.max } else { self.start };
        }
    }

    fn at_floor(&self) -> bool {
        self.us <= self.floor
    }

    /// Shrink from what was really in use: a bound far above that would shrink without
    /// anybody noticing.
    fn brake(&mut self, factor: f64, reached: u64, now: Time) {
        let from = self.us.min(reached.max(self.floor));
        self.us = ((from as f64 * factor) as u64).max(self.floor);
        if self.ramps {
            self.known = self.us;
            self.refuted = Some(now);
        }
        self.give_up_step(now);
    }

    /// The step up, if it was recent, was one too many: try again later and later.
    fn give_up_step(&mut self, now: Time) {
        let blamed = self
            .step
            .take()
            .is_some_and(|(at, _)| now.saturating_since(at) < BLAME);
        let mut wait = WATCH;
        if blamed {
            wait = self.backoff;
            self.backoff = (self.backoff * 2).min(LAST_BACKOFF);
        }
        self.wait_until = self.wait_until.max(now + wait);
        self.gave_up = Some(now);
    }

    /// Room for one more of what waits.
    fn grow(&mut self, need: Need, now: Time) {
        let share = f64::from(need.share.max(0.01));
        let typical = need.held_us as f64;
        let now_fit = (self.us as f64 * share / typical.max(1.0)).floor().max(1.0);
        // And half of one: see [`Use::braked_from`].
        let one_more = (now_fit + 1.5) * typical / share;
        // On known ground go quickly.
        let (known, watch) = if self.us < self.known {
            ((self.us + self.us / 2).min(self.known), RAMP)
        } else {
            (0, WATCH)
        };
        self.step = Some((now, self.us));
        self.us = (one_more.ceil() as u64)
            .max(known)
            .clamp(self.floor, self.max);
        self.wait_until = now + watch;
        self.gave_up = None;
    }

    /// Whether it is too early for a step up. Where the probe says that the server has room, what
    /// went wrong once is tried again after the first wait, however often it did.
    fn must_wait(&self, has_room: bool, now: Time) -> bool {
        let again = |at: Time| now.saturating_since(at) >= FIRST_BACKOFF;
        now < self.wait_until && !(has_room && self.gave_up.is_some_and(again))
    }

    /// Take back a step that got no more done.
    fn undo_fruitless_step(&mut self, compare: Compare, now: Time) -> bool {
        let Some((_, before)) = self.step else {
            return false;
        };
        if !self.history.more_is_no_gain(compare) {
            return false;
        }
        self.us = before.clamp(self.floor, self.max);
        self.step = Some((now, before));
        self.give_up_step(now);
        self.history.clear();
        true
    }

    fn observe(&mut self, used: &Use, now: Time) {
        self.history.push(self.us, used.outstanding, used.served);
        if used.need.is_some() || used.reached.saturating_mul(2) >= self.us {
            self.used = now;
        }
        if self
            .refuted
            .is_some_and(|at| now.saturating_since(at) >= DOUBT)
        {
            // The server may have become larger, or the work smaller.
            self.refuted = None;
            self.known = self.max;
        }
        if let Some((at, _)) = self.step
            && now.saturating_since(at) >= BLAME
        {
            // It has proved itself; but keep it for the test of its use.
            self.backoff = FIRST_BACKOFF;
        }
    }

    fn decay(&mut self, now: Time) {
        if now.saturating_since(self.used) > UNUSED && self.us > self.start {
            self.us = (self.us - self.us / 100).max(self.start);
            self.step = None;
        }
    }
}

/// Both bounds, and what moves them.
#[derive(Debug)]
pub(super) struct Tuner {
    dials: [Dial; 2],
    target: Duration,
    /// Whether what the bounds say is carried out.
    carried_out: bool,
    over: u32,
    last_brake: Option<(Time, Duration)>,
    /// The bounds before the eyes were closed.
    seen: Option<[u64; 2]>,
    /// The last good bounds, and since when they are approached again; `None` as long as
    /// the server is away.
    outage: Option<([u64; 2], Option<Time>)>,
    state: TunerState,
    reason: Reason,
    excess: Duration,
}

impl Tuner {
    pub(super) fn new(settings: &Settings, now: Time) -> Self {
        Self {
            dials: [
                Dial::new(
                    settings.limit.initial,
                    settings.limit.min,
                    true,
                    settings,
                    now,
                ),
                Dial::new(settings.initial_breadth, SLICE, false, settings, now),
            ],
            target: settings.target.max(Duration::from_millis(1)),
            carried_out: settings.enforces(),
            over: 0,
            last_brake: None,
            seen: None,
            outage: None,
            state: TunerState::Hold,
            reason: Reason::NotBinding,
            excess: Duration::ZERO,
        }
    }

    /// Take over new settings and keep what was learnt.
    pub(super) fn reconfigure(&mut self, settings: &Settings) {
        self.dials[0].reconfigure(settings.limit.initial, settings.limit.min, settings);
        self.dials[1].reconfigure(settings.initial_breadth, SLICE, settings);
        self.target = settings.target.max(Duration::from_millis(1));
        self.carried_out = settings.enforces();
    }

    /// The bound of `kind`, in microseconds.
    pub(super) fn bound(&self, kind: Kind) -> u64 {
        self.dials[kind.index()].us
    }

    pub(super) fn state(&self) -> (TunerState, Reason) {
        (self.state, self.reason)
    }

    /// Whether nothing can be judged, and everything is open.
    pub(super) fn is_blind(&self) -> bool {
        self.state == TunerState::FailOpen
    }

    pub(super) fn excess(&self) -> Duration {
        self.excess
    }

    /// One window has passed.
    pub(super) fn step(&mut self, signals: &Signals, uses: &[Use; 2], now: Time) {
        self.excess = signals.probe.excess;
        for (dial, used) in self.dials.iter_mut().zip(uses) {
            dial.observe(used, now);
        }
        (self.state, self.reason) = self.decide(signals, uses, now);
    }

    fn decide(&mut self, signals: &Signals, uses: &[Use; 2], now: Time) -> (TunerState, Reason) {
        let probe = &signals.probe;
        if probe.down {
            let bounds = self.seen.take().unwrap_or_else(|| self.bounds());
            let good = self.outage.map_or(bounds, |(good, _)| good);
            self.set(good);
            self.outage = Some((good, None));
            return (TunerState::Hold, Reason::Outage);
        }
        if probe.blind {
            if self.seen.is_none() {
                self.seen = Some(self.bounds());
            }
            self.set([self.dials[0].max, self.dials[1].max]);
            return (TunerState::FailOpen, Reason::Blind);
        }
        if let Some(seen) = self.seen.take() {
            self.set(seen);
        }

        self.over = if probe.excess > self.target {
            self.over + 1
        } else {
            0
        };
        if let Some(decision) = self.brake(signals, uses, now) {
            if decision.0 == TunerState::Brake {
                self.outage = None;
            }
            return decision;
        }
        if let Some(decision) = self.come_back(now) {
            return decision;
        }
        self.dials[1].decay(now);
        self.grow(signals, uses, now)
    }

    fn come_back(&mut self, now: Time) -> Option<(TunerState, Reason)> {
        let (good, since) = self.outage?;
        let since = since.unwrap_or(now);
        let share = 0.25 * now.saturating_since(since).as_secs_f64().exp2();
        if share >= 1.0 {
            self.set(good);
            self.outage = None;
            return None;
        }
        self.outage = Some((good, Some(since)));
        self.set(good.map(|us| (us as f64 * share) as u64));
        Some((TunerState::SlowStart, Reason::Recovering))
    }

    fn brake(
        &mut self,
        signals: &Signals,
        uses: &[Use; 2],
        now: Time,
    ) -> Option<(TunerState, Reason)> {
        let [short, long] = uses;
        let excess = signals.probe.excess;
        let refuses = signals.upstream_429 >= BURST
            || signals.upstream_504 >= BURST
            || signals.connect_failures >= BURST;
        let memory = signals.memory_pressure().is_some_and(|share| share >= 0.9);
        let probe = self.over >= 2;
        if !(refuses || memory || probe) {
            return None;
        }
        let severe = probe && excess > self.target * 3;
        if let Some((at, before)) = self.last_brake {
            let since = now.saturating_since(at);
            let worse = probe && excess > before + before / 2;
            // While more runs than the bound now allows, the last brake has not yet shown
            // what it does. Braking on would overshoot by as much as requests are long.
            // A single request cannot be waited for in this way: it is what remains.
            let unfinished = long.running > 1 && long.reached > self.dials[1].us;
            let pending = since < SETTLE || unfinished;
            let soon = since < Duration::from_millis(200);
            if soon || (pending && !severe && !worse && since < Duration::from_secs(3)) {
                return Some((TunerState::Hold, Reason::TakingEffect));
            }
        }
        let (factor, reason) = if refuses {
            (0.7, Reason::ServerRefuses)
        } else if memory {
            (0.7, Reason::Memory)
        } else {
            let share = self.target.as_secs_f64() / excess.as_secs_f64();
            (share.sqrt().max(0.7), Reason::Probe)
        };
        if long.outstanding > 0 && !self.dials[1].at_floor() {
            self.dials[1].brake(factor, long.braked_from(), now);
        } else if self.carried_out
            && short.outstanding > 0
            && !self.dials[0].at_floor()
            && (refuses || excess > self.target + self.explained(long))
        {
            // (In shadow the excess is not the limit's doing, whatever it becomes.)
            // Short work comes and goes between two ticks; its peak may be twice as high.
            self.dials[0].brake(factor, short.reached.saturating_mul(2), now);
        } else {
            return Some((TunerState::Hold, Reason::NothingToTake));
        }
        self.last_brake = Some((now, excess));
        Some((TunerState::Brake, reason))
    }

    /// The excess one long request causes by itself, which no bound on anything else will
    /// take away.
    fn explained(&self, long: &Use) -> Duration {
        if long.outstanding > 0 {
            self.target
        } else {
            Duration::ZERO
        }
    }

    fn grow(&mut self, signals: &Signals, uses: &[Use; 2], now: Time) -> (TunerState, Reason) {
        let [short, long] = uses;
        // The most important that waits is served first, and if it must not be given more
        // because that has just led to a brake, neither must those behind it.
        let which = match (short.need, long.need) {
            (None, None) => return (TunerState::Hold, Reason::NotBinding),
            (Some(_), None) => 0,
            (None, Some(_)) => 1,
            (Some(short), Some(long)) => usize::from(long.class < short.class),
        };
        let mut calm = self.target / 2;
        if which == 0 && self.dials[1].at_floor() {
            calm += self.explained(long);
        }
        if signals.probe.excess > calm
            || signals.memory_pressure().is_some_and(|share| share >= 0.8)
        {
            return (TunerState::Hold, Reason::NearTarget);
        }
        let Some(need) = uses[which].need else {
            return (TunerState::Hold, Reason::NotBinding);
        };
        // The calmer the probe, the surer it must be that short work is refused for a reason.
        // Of long work one more is much, and waiting for it costs nobody.
        let has_room = which == 0 && signals.probe.excess <= self.target / 4;
        let compare = if has_room {
            Compare::Bounds
        } else {
            Compare::Windows
        };
        let dial = &mut self.dials[which];
        if dial.must_wait(has_room, now) {
            return (TunerState::Hold, Reason::Watching);
        }
        if dial.undo_fruitless_step(compare, now) {
            return (TunerState::Hold, Reason::NoGain);
        }
        if dial.us >= dial.max {
            return (TunerState::Hold, Reason::NotBinding);
        }
        dial.grow(need, now);
        (TunerState::Grow, Reason::Calm)
    }

    fn bounds(&self) -> [u64; 2] {
        [self.dials[0].us, self.dials[1].us]
    }

    fn set(&mut self, bounds: [u64; 2]) {
        for (dial, us) in self.dials.iter_mut().zip(bounds) {
            dial.us = us.clamp(dial.floor, dial.max);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "tuner_tests.rs"]
mod tests;
