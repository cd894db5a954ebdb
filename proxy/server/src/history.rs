//! The last minutes, second by second, for whoever opens the console in the middle of an incident.
//!
//! A ring of [`POINTS`] points of fixed size: what it takes does not depend on the traffic.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxy_core::classify::MAX_CLASSES;
use proxy_core::time::Time;
use serde::Serialize;
use serde_json::{Value, json};

use crate::control;
use crate::lane::Lane;
use crate::metrics::{Count, REASONS};
use crate::shared::Shared;

/// Points kept, one a second.
pub(crate) const POINTS: usize = 300;
/// The policy's classes and the reserved lane.
const CLASSES: usize = MAX_CLASSES + 1;

/// What became of one class's requests, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct OfClass {
    admitted: f32,
    spared: f32,
    refused: f32,
    shadow: f32,
    /// What the admitted ones waited in the mean, and one of them at most, in milliseconds.
    wait_ms: f32,
    longest_ms: f32,
}

/// One second.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    number: u64,
    gauges: Gauges,
    classes: [OfClass; CLASSES],
    reasons: [f32; REASONS],
}

/// What holds at its end. Times in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Gauges {
    /// Unix milliseconds.
    at: u64,
    limit: f64,
    limit_used: f64,
    breadth: f64,
    breadth_used: f64,
    /// How late the apiserver answers a probe; `None` while it does not, or nobody asks.
    probe: Option<f64>,
    /// What small reads took in the median.
    read: Option<f64>,
    /// Class and user level beyond which requests are refused.
    level: Option<(u16, u8)>,
    bytes: u64,
    bytes_budget: u64,
    memory: Option<u64>,
    memory_limit: Option<u64>,
    /// Requests in flight on the reserved lane.
    reserved: u64,
}

/// What was counted when the last point was made.
#[derive(Debug)]
struct Before {
    at: Time,
    counts: [Count; CLASSES],
}

#[derive(Debug, Default)]
struct Ring {
    /// Classes of the points: those of another policy would be taken for them.
    names: Vec<std::sync::Arc<str>>,
    points: VecDeque<Point>,
    made: u64,
    before: Option<Box<Before>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct History(Mutex<Ring>);

impl History {
    /// Of a process in which nothing has been counted yet.
    pub(crate) fn new(now: Time) -> Self {
        let counts = [Count::default(); CLASSES];
        Self(Mutex::new(Ring {
            before: Some(Box::new(Before { at: now, counts })),
            ..Ring::default()
        }))
    }

    /// To be called about once a second.
    pub(crate) fn look(&self, shared: &Shared, now: Time) {
        let snapshot = shared.snapshot.load();
        let mut counts = [Count::default(); CLASSES];
        for (count, class) in counts.iter_mut().zip(&snapshot.classes) {
            *count = class.metrics.tally.count();
        }
        let names = snapshot.classes.iter().map(|class| &class.name);
        let gauges = gauges(shared, now);
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !ring.names.iter().eq(names.clone()) {
            let first = ring.names.is_empty();
            ring.names = names.cloned().collect();
            if !first {
                ring.points.clear();
                ring.before = None;
            }
        }
        ring.add(gauges, counts, now);
    }

    /// The points after the one of this number, or all if it is none of this process: `{"last", "names", "points"}`.
    pub(crate) fn since(&self, number: u64) -> Value {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = number > ring.made;
        let new = ring.points.iter();
        let new: Vec<Value> = new
            .filter(|point| all || point.number > number)
            .map(Point::page)
            .collect();
        json!({
            "last": ring.made,
            "names": ring.names.iter().map(|name| &**name).collect::<Vec<_>>(),
            "points": new,
        })
    }
}

impl Ring {
    fn add(&mut self, gauges: Gauges, counts: [Count; CLASSES], now: Time) {
        let before = self.before.replace(Box::new(Before { at: now, counts }));
        // Under another policy a place may have been another class's.
        let Some(before) = before else { return };
        let passed = now.saturating_since(before.at);
        self.made += 1;
        let mut point = Point {
            number: self.made,
            gauges,
            ..Point::default()
        };
        let pairs = before.counts.iter().zip(&counts);
        for (place, (before, count)) in point.classes.iter_mut().zip(pairs) {
            *place = OfClass::between(before, count, passed);
            let refused = before.refused.iter().zip(&count.refused);
            for (reason, (before, count)) in point.reasons.iter_mut().zip(refused) {
                *reason += per_second(*before, *count, passed);
            }
        }
        if self.points.len() >= POINTS {
            self.points.pop_front();
        }
        // Once, so that it never takes more than this.
        self.points.reserve_exact(POINTS - self.points.len());
        self.points.push_back(point);
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "for a chart"
)]
fn per_second(before: u64, count: u64, passed: Duration) -> f32 {
    (count.saturating_sub(before) as f64 / passed.as_secs_f64().max(0.001)) as f32
}

impl OfClass {
    fn between(before: &Count, count: &Count, passed: Duration) -> Self {
        let rate = |before: u64, count: u64| per_second(before, count, passed);
        let admitted = count.admitted.saturating_sub(before.admitted);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "for a chart"
        )]
        let ms = |us: u64| (us as f64 / 1e3) as f32;
        Self {
            admitted: rate(before.admitted, count.admitted),
            spared: rate(before.spared, count.spared),
            refused: rate(before.refused.iter().sum(), count.refused.iter().sum()),
            shadow: rate(before.shadow, count.shadow),
            wait_ms: ms(count.waited_us.saturating_sub(before.waited_us) / admitted.max(1)),
            longest_ms: ms(count.longest_us),
        }
    }
}

impl Point {
    /// Classes and reasons of which there is nothing to say are left out.
    fn page(&self) -> Value {
        let mut page = json!(self.gauges);
        let classes = self.classes.iter().enumerate();
        let classes: Vec<Value> = classes
            .filter(|(_, class)| **class != OfClass::default())
            .map(|(at, class)| {
                let numbers = [
                    class.admitted,
                    class.spared,
                    class.refused,
                    class.shadow,
                    class.wait_ms,
                    class.longest_ms,
                ];
                let numbers = numbers.iter().map(|number| rounded(*number));
                let at = u32::try_from(at).map_or(0.0, f64::from);
                json!(std::iter::once(at).chain(numbers).collect::<Vec<f64>>())
            })
            .collect();
        let reasons = self.reasons.iter().enumerate();
        let reasons: Vec<Value> = reasons
            .filter(|(_, rate)| **rate > 0.0)
            .map(|(at, rate)| json!([at, rounded(*rate)]))
            .collect();
        if let Some(page) = page.as_object_mut() {
            page.insert("classes".to_owned(), json!(classes));
            page.insert("reasons".to_owned(), json!(reasons));
        }
        page
    }
}

fn rounded(number: f32) -> f64 {
    (f64::from(number) * 100.0).round() / 100.0
}

fn gauges(shared: &Shared, now: Time) -> Gauges {
    let ms = |duration: Duration| (duration.as_secs_f64() * 1e5).round() / 1e2;
    let view = shared.engine.view(now);
    let probe = shared.probe.lock().map(|probe| *probe).ok();
    let heard = probe.filter(|probe| !probe.down && !probe.blind);
    let memory = control::memory(shared, now);
    let [reads, _] = shared.delays();
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Gauges {
        at: since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        }),
        limit: ms(view.limit.ceiling),
        limit_used: ms(view.limit.outstanding),
        breadth: ms(view.breadth.ceiling),
        breadth_used: ms(view.breadth.outstanding),
        probe: heard.map(|probe| ms(probe.excess)),
        read: reads.map(|reads| ms(reads.p50)),
        level: shared
            .engine
            .level()
            .map(|level| (level.class.0.into(), level.user)),
        bytes: view.bytes,
        bytes_budget: view.bytes_budget,
        memory: memory.map(|memory| memory.used),
        memory_limit: memory.map(|memory| memory.limit),
        reserved: shared
            .lane(Lane::Reserved)
            .in_flight
            .load(std::sync::atomic::Ordering::Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(admitted: u64, refused: u64) -> [Count; CLASSES] {
        let mut counts = [Count::default(); CLASSES];
        counts[6].admitted = admitted;
        counts[6].refused[0] = refused;
        counts[6].waited_us = admitted * 2_000;
        counts[6].longest_us = 9_000;
        counts
    }

    fn second(number: u64) -> Time {
        Time(number * 1_000_000)
    }

    #[test]
    fn a_point_has_what_happened_since_the_one_before_per_second() {
        let mut ring = Ring::default();
        ring.add(Gauges::default(), counted(1_000, 0), second(1));
        assert!(
            ring.points.is_empty(),
            "what was before is of no known time"
        );
        ring.add(Gauges::default(), counted(1_100, 40), second(3));
        let history = History(Mutex::new(ring));
        let page = history.since(0);
        assert_eq!(
            page["points"][0]["classes"],
            json!([[6.0, 50.0, 0.0, 20.0, 0.0, 2.0, 9.0]])
        );
        assert_eq!(page["points"][0]["reasons"], json!([[0, 20.0]]));
        assert_eq!(history.since(1)["points"], json!([]));
        assert_eq!(
            history.since(7)["points"].as_array().map(Vec::len),
            Some(1),
            "of another process"
        );
    }

    #[test]
    fn what_is_kept_is_bounded_whatever_comes() {
        let mut ring = Ring::default();
        for number in 1..1_000 {
            ring.add(
                Gauges::default(),
                counted(number * 10, number),
                second(number),
            );
        }
        assert_eq!(ring.points.len(), POINTS);
        let bytes = ring.points.capacity() * size_of::<Point>();
        assert!(bytes < 256 << 10, "{bytes} bytes");
        assert_eq!(ring.points.back().map(|point| point.number), Some(998));
    }
}
