//! One bound: how far it goes up and down, how long it waits between steps, and what is
//! remembered of them. When it moves is the [tuner](super::tuner)'s.

use std::time::Duration;

use super::history::{Compare, History, Peak};
use super::{SLICE_US, Settings};
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
    pub(super) fn braked_from(&self) -> u64 {
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

/// One bound.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) us: u64,
    floor: u64,
    start: u64,
    pub(super) max: u64,
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
    /// The most that was reached lately.
    pub(super) peak: Peak,
}

impl Dial {
    pub(super) fn new(
        start: Duration,
        floor: Duration,
        ramps: bool,
        settings: &Settings,
        now: Time,
    ) -> Self {
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
            peak: Peak::default(),
        };
        dial.reconfigure(start, floor, settings);
        dial.us = dial.start;
        dial
    }

    pub(super) fn reconfigure(&mut self, start: Duration, floor: Duration, settings: &Settings) {
        self.floor = micros(floor).max(1_000);
        self.max = micros(settings.limit.max).clamp(self.floor, 3_600_000_000);
        self.start = micros(start).clamp(self.floor, self.max);
        self.us = self.us.clamp(self.floor, self.max);
        if self.refuted.is_none() {
            self.known = if self.ramps { self.max } else { self.start };
        }
    }

    pub(super) fn set(&mut self, us: u64) {
        self.us = us.clamp(self.floor, self.max);
    }

    pub(super) fn at_floor(&self) -> bool {
        self.us <= self.floor
    }

    /// Shrink from what was really in use: a bound far above that would shrink without
    /// anybody noticing.
    pub(super) fn brake(&mut self, factor: f64, reached: u64, now: Time) {
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
    pub(super) fn grow(&mut self, need: Need, now: Time) {
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
    pub(super) fn must_wait(&self, has_room: bool, now: Time) -> bool {
        let again = |at: Time| now.saturating_since(at) >= FIRST_BACKOFF;
        now < self.wait_until && !(has_room && self.gave_up.is_some_and(again))
    }

    /// Take back a step that got no more done.
    pub(super) fn undo_fruitless_step(&mut self, compare: Compare, now: Time) -> bool {
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

    pub(super) fn observe(&mut self, used: &Use, now: Time) {
        self.history.push(self.us, used.outstanding, used.served);
        self.peak.push(used.reached);
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

    pub(super) fn decay(&mut self, now: Time) {
        if now.saturating_since(self.used) > UNUSED && self.us > self.start {
            self.us = (self.us - self.us / 100).max(self.start);
            self.step = None;
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
