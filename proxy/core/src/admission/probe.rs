//! The delay of a trivial call above its own baseline: how long the server queues, seen
//! from outside.
//!
//! * The **baseline** is the tenth percentile of ten minutes, never above a fixed bound.
//!   A baseline that may follow the measurements learns any overload that lasts long
//!   enough, which every limiter with a purely relative signal has run into.
//! * The **excess** is the median of the recent samples. One LIST on one core gives a
//!   probe 15–20 ms in the middle and twice that at the ninetieth percentile, so the
//!   median tells one from two and a high percentile does not.
//! * A probe still **outstanding** counts with its age as soon as that exceeds the
//!   median: overload shows before the answer does.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Time;

/// Samples the excess is taken from; at one probe per 50 ms this is 450 ms.
const RECENT: usize = 9;
/// Probes outstanding at most; beyond it the oldest counts as failed.
const OUTSTANDING: usize = 64;
/// Buckets of the baseline, and how long each collects.
const BUCKETS: usize = 60;
const BUCKET: Duration = Duration::from_secs(10);
/// Bins of a bucket: 50 µs growing by 15 % each, up to about 300 ms.
const BINS: usize = 64;
const FIRST_BIN_US: f64 = 50.0;
const BIN_GROWTH: f64 = 1.15;

/// How the tracker judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeSettings {
    /// Whether probes are sent at all; without them admission is blind and open.
    pub enabled: bool,
    /// The baseline is never taken above this.
    pub baseline_max: Duration,
    /// Blind when neither an answer nor a failure came for this long.
    pub blind_after: Duration,
    /// An answer this late is counted like a failure to answer.
    pub timeout: Duration,
}

impl Default for ProbeSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            baseline_max: Duration::from_millis(5),
            blind_after: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
        }
    }
}

/// Why a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection: the server is not there.
    Connect,
    /// No answer in time: the server is there and far too slow.
    Timeout,
    /// An answer that is not a success (a 5xx): the server is not well.
    Refused,
}

/// A probe under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProbeId(u64);

/// What the probes say now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeView {
    /// Median of the recent delays above the baseline, ageing probes included.
    pub excess: Duration,
    /// Ninetieth percentile of the same, for people.
    pub excess_p90: Duration,
    /// The baseline.
    pub baseline: Duration,
    /// Nothing was learnt for too long, or probes are disabled: nothing can be judged.
    pub blind: bool,
    /// The last three probes found no server.
    pub down: bool,
}

impl ProbeView {
    /// A sighted view with this excess, for tests and simulations.
    #[must_use]
    pub const fn calm() -> Self {
        Self {
            excess: Duration::ZERO,
            excess_p90: Duration::ZERO,
            baseline: Duration::from_millis(1),
            blind: false,
            down: false,
        }
    }

    /// The same with another excess.
    #[must_use]
    pub const fn with_excess(mut self, excess: Duration) -> Self {
        self.excess = excess;
        self.excess_p90 = excess;
        self
    }
}

/// Follows the probes. Owned by whoever sends them.
#[derive(Debug)]
pub struct Tracker {
    settings: ProbeSettings,
    outstanding: VecDeque<(ProbeId, Time)>,
    next: u64,
    recent: VecDeque<Duration>,
    buckets: VecDeque<(Time, [u16; BINS])>,
    heard: Time,
    lost_connections: u32,
}

impl Tracker {
    /// A tracker that has heard nothing yet, and is not blind before `blind_after`.
    #[must_use]
    pub fn new(settings: ProbeSettings, now: Time) -> Self {
        Self {
            settings,
            outstanding: VecDeque::with_capacity(OUTSTANDING),
            next: 0,
            recent: VecDeque::with_capacity(RECENT),
            buckets: VecDeque::with_capacity(BUCKETS),
            heard: now,
            lost_connections: 0,
        }
    }

    /// Change the settings and keep what was learnt.
    pub fn reconfigure(&mut self, settings: ProbeSettings) {
        self.settings = settings;
    }

    /// A probe goes out.
    pub fn sent(&mut self, now: Time) -> ProbeId {
        self.next += 1;
        let id = ProbeId(self.next);
        if self.outstanding.len() >= OUTSTANDING
            && let Some((oldest, _)) = self.outstanding.front().copied()
        {
            self.failed(oldest, now, Failure::Timeout);
        }
        self.outstanding.push_back((id, now));
        id
    }

    /// Its answer came. Unknown ids (answered after they were given up) are ignored.
    pub fn answered(&mut self, id: ProbeId, now: Time) {
        if let Some(sent) = self.take(id) {
            let delay = now.saturating_since(sent);
            self.lost_connections = 0;
            self.heard = now;
            self.sample(delay);
            self.learn(delay, now);
        }
    }

    /// It failed. A timeout is a delay like any other, as long as it lasted at least; the
    /// other failures say nothing about delay.
    pub fn failed(&mut self, id: ProbeId, now: Time, why: Failure) {
        let Some(sent) = self.take(id) else { return };
        self.heard = now;
        match why {
            Failure::Connect => self.lost_connections = self.lost_connections.saturating_add(1),
            Failure::Timeout => {
                self.lost_connections = 0;
                self.sample(now.saturating_since(sent).max(self.settings.timeout));
            }
            Failure::Refused => self.lost_connections = 0,
        }
    }

    /// What the probes say.
    #[must_use]
    pub fn view(&self, now: Time) -> ProbeView {
        let baseline = self.baseline(now);
        let mut delays: Vec<Duration> = self.recent.iter().copied().collect();
        delays.sort_unstable();
        let ages = self
            .outstanding
            .iter()
            .map(|(_, sent)| now.saturating_since(*sent));
        // An ageing probe replaces the oldest sample once it says more than the middle.
        let middle = quantile(&delays, 0.5);
        let ageing: Vec<Duration> = ages.filter(|age| *age > middle).collect();
        let kept = RECENT.saturating_sub(ageing.len()).min(self.recent.len());
        delays = self
            .recent
            .iter()
            .rev()
            .take(kept)
            .copied()
            .chain(ageing)
            .collect();
        delays.sort_unstable();
        let above = |share| quantile(&delays, share).saturating_sub(baseline);
        ProbeView {
            excess: above(0.5),
            excess_p90: above(0.9),
            baseline,
            blind: !self.settings.enabled
                || now.saturating_since(self.heard) > self.settings.blind_after,
            down: self.lost_connections >= 3,
        }
    }

    fn take(&mut self, id: ProbeId) -> Option<Time> {
        let at = self
            .outstanding
            .iter()
            .position(|(other, _)| *other == id)?;
        self.outstanding.remove(at).map(|(_, sent)| sent)
    }

    fn sample(&mut self, delay: Duration) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(delay);
    }

    fn learn(&mut self, delay: Duration, now: Time) {
        let fresh = |(since, _): &(Time, _)| now.saturating_since(*since) < BUCKET;
        if !self.buckets.back().is_some_and(fresh) {
            if self.buckets.len() == BUCKETS {
                self.buckets.pop_front();
            }
            self.buckets.push_back((now, [0; BINS]));
        }
        if let Some((_, bins)) = self.buckets.back_mut() {
            let bin = &mut bins[bin_of(delay)];
            *bin = bin.saturating_add(1);
        }
    }

    fn baseline(&self, now: Time) -> Duration {
        let window = BUCKET * u32::try_from(BUCKETS).unwrap_or(u32::MAX);
        let mut sum = [0_u64; BINS];
        for (_, bins) in self
            .buckets
            .iter()
            .filter(|(at, _)| now.saturating_since(*at) < window)
        {
            for (sum, bin) in sum.iter_mut().zip(bins) {
                *sum += u64::from(*bin);
            }
        }
        let tenth = sum.iter().sum::<u64>().div_ceil(10);
        let mut seen = 0;
        let bin = sum.iter().position(|count| {
            seen += count;
            seen >= tenth.max(1)
        });
        bin.map_or(Duration::ZERO, value_of)
            .min(self.settings.baseline_max)
    }
}

/// The value at `share` of a sorted list; zero of an empty one.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or_default()
}

fn bin_of(delay: Duration) -> usize {
    let ratio = (delay.as_micros() as f64 / FIRST_BIN_US).max(1.0);
    ((ratio.ln() / BIN_GROWTH.ln()) as usize).min(BINS - 1)
}

fn value_of(bin: usize) -> Duration {
    Duration::from_micros((FIRST_BIN_US * BIN_GROWTH.powi(bin as i32)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    /// One probe per 50 ms with the given delays; the time after the last answer.
    fn feed(tracker: &mut Tracker, from: Time, delays_ms: &[u64]) -> Time {
        let mut now = from;
        for delay in delays_ms {
            let id = tracker.sent(now);
            tracker.answered(id, now + Duration::from_millis(*delay));
            now += Duration::from_millis(50);
        }
        now
    }

    fn calm() -> (Tracker, Time) {
        let mut tracker = Tracker::new(ProbeSettings::default(), Time(0));
        let now = feed(&mut tracker, Time(0), &[1; 40]);
        (tracker, now)
    }

    #[test]
    fn excess_is_the_median_delay_above_the_baseline() {
        let (mut tracker, now) = calm();
        let now = feed(&mut tracker, now, &[18, 60, 2, 19, 17, 1, 40, 18, 16]);
        let excess = tracker.view(now).excess;
        assert!(
            excess > Duration::from_millis(15) && excess < Duration::from_millis(18),
            "{excess:?}"
        );
    }

    #[test]
    fn a_stalled_server_shows_before_any_answer_comes() {
        let (mut tracker, mut now) = calm();
        for _ in 0..5 {
            tracker.sent(now);
            now += Duration::from_millis(50);
        }
        let excess = tracker.view(now).excess;
        assert!(excess > Duration::from_millis(20), "{excess:?}");
    }

    #[test]
    fn lasting_overload_does_not_become_the_baseline() {
        let (mut tracker, now) = calm();
        let now = feed(&mut tracker, now, &[40; 20_000]);
        let view = tracker.view(now);
        assert!(view.excess >= Duration::from_millis(34), "{view:?}");
    }

    #[test]
    fn silence_is_blindness_and_lost_connections_are_an_outage() {
        let (mut tracker, now) = calm();
        assert!(!tracker.view(now).blind);
        assert!(tracker.view(Time(now.0 + 6_000 * MS)).blind);
        for _ in 0..3 {
            let id = tracker.sent(now);
            tracker.failed(id, now, Failure::Connect);
        }
        assert!(tracker.view(now).down);
        let now = feed(&mut tracker, now, &[1]);
        assert!(!tracker.view(now).down);
    }

    #[test]
    fn timeouts_count_as_delay() {
        let (mut tracker, mut now) = calm();
        for _ in 0..6 {
            let id = tracker.sent(now);
            now += Duration::from_millis(50);
            tracker.failed(id, now, Failure::Timeout);
        }
        assert!(tracker.view(now).excess > Duration::from_secs(1));
    }

    #[test]
    fn memory_is_bounded_when_nothing_is_ever_answered() {
        let mut tracker = Tracker::new(ProbeSettings::default(), Time(0));
        for at in 0..10_000 {
            tracker.sent(Time(at * 50 * MS));
        }
        assert!(tracker.outstanding.len() <= OUTSTANDING && tracker.recent.len() <= RECENT);
    }
}
