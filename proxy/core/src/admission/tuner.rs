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

use super::dial::{Dial, Need, Use};
use super::history::Compare;
use super::reason::{Reason, TunerState};
use super::{Kind, SLICE_US, Settings, Signals};
use crate::time::Time;

/// Let a brake show in the probe before judging it.
const SETTLE: Duration = Duration::from_millis(500);
const BURST: u32 = 3;
/// The least breadth: one long request.
const SLICE: Duration = Duration::from_micros(SLICE_US);

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
            // Short work comes and goes in bursts, and between two ticks: to shrink to what runs just
            // now would refuse the next burst, which need not be too much.
            let peak = self.dials[0].peak.most().max(short.reached);
            self.dials[0].brake(factor, peak + peak / 2, now);
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
        // The most important that waits is served first. Long work must not be given more while
        // more important short work is not; short work may, because what is too much of both is
        // taken from long work first.
        match (short.need, long.need) {
            (None, None) => (TunerState::Hold, Reason::NotBinding),
            (None, Some(need)) => self.grow_one(Kind::Long, need, signals, long, now),
            (Some(need), None) => self.grow_one(Kind::Short, need, signals, long, now),
            (Some(short), Some(need)) => {
                if need.class < short.class {
                    let grown = self.grow_one(Kind::Long, need, signals, long, now);
                    if grown.0 == TunerState::Grow {
                        return grown;
                    }
                }
                self.grow_one(Kind::Short, short, signals, long, now)
            }
        }
    }

    /// Give the bound of `kind` room for one more of what `need` says, if the signals allow it.
    fn grow_one(
        &mut self,
        kind: Kind,
        need: Need,
        signals: &Signals,
        long: &Use,
        now: Time,
    ) -> (TunerState, Reason) {
        let excess = signals.probe.excess;
        let mut calm = self.target / 2;
        if kind == Kind::Short && self.dials[1].at_floor() {
            calm += self.explained(long);
        }
        if excess > calm || signals.memory_pressure().is_some_and(|share| share >= 0.8) {
            return (TunerState::Hold, Reason::NearTarget);
        }
        // The calmer the probe, the surer it must be that short work is refused for a reason.
        // Of long work one more is much, and waiting for it costs nobody.
        let has_room = kind == Kind::Short && excess <= self.target / 4;
        let compare = if has_room {
            Compare::Bounds
        } else {
            Compare::Windows
        };
        let dial = &mut self.dials[kind.index()];
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
            dial.set(us);
        }
    }
}

#[cfg(test)]
#[path = "tuner_tests.rs"]
mod tests;
