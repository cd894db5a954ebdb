//! Netflix' Gradient2 (`concurrency-limits`) with its defaults: the limit follows the ratio of a long and a short average of
//! response times. It counts requests and knows no priorities.

use crate::controller::{Arrival, Controller, Decided, Ending, Seen, Sensed, Verdict};

const INITIAL: f64 = 20.0;
const LEAST: f64 = 20.0;
const MOST: f64 = 200.0;
const SMOOTHING: f64 = 0.2;
const TOLERANCE: f64 = 1.5;
/// The long average is over so many windows.
const LONG: f64 = 600.0;
const QUEUE: f64 = 4.0;
/// `WindowedLimit`.
const WINDOW_US: u64 = 1_000_000;
const SAMPLES: u64 = 10;

/// See the module.
#[derive(Debug)]
pub struct Gradient {
    limit: f64,
    running: u32,
    most_running: u32,
    sum: f64,
    samples: u64,
    since: u64,
    long: Option<f64>,
}

impl Default for Gradient {
    fn default() -> Self {
        Self::new()
    }
}

impl Gradient {
    /// With the initial limit.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            limit: INITIAL,
            running: 0,
            most_running: 0,
            sum: 0.0,
            samples: 0,
            since: 0,
            long: None,
        }
    }

    fn close_window(&mut self, now: u64) {
        let short = self.sum / self.samples as f64;
        let mut long = self
            .long
            .map_or(short, |long| long + (short - long) * 2.0 / (LONG + 1.0));
        // After a long overload the long average comes down again.
        if long / short > 2.0 {
            long *= 0.95;
        }
        self.long = Some(long);
        let idle = f64::from(self.most_running) < self.limit / 2.0;
        (self.sum, self.samples, self.since, self.most_running) = (0.0, 0, now, self.running);
        if idle {
            return;
        }
        let gradient = (TOLERANCE * long / short).clamp(0.5, 1.0);
        let wanted = self.limit * gradient + QUEUE;
        self.limit = (self.limit * (1.0 - SMOOTHING) + wanted * SMOOTHING).clamp(LEAST, MOST);
    }
}

impl Controller for Gradient {
    fn offer(&mut self, _: &Arrival<'_>, _: u64, _: &mut Vec<Decided>) -> Verdict {
        if f64::from(self.running) >= self.limit.floor() {
            return Verdict::Refuse(Some(1));
        }
        self.running += 1;
        self.most_running = self.most_running.max(self.running);
        Verdict::Start
    }

    fn ended(&mut self, _: u64, ending: Ending, seen: Seen, now: u64, _: &mut Vec<Decided>) {
        self.running -= 1;
        if ending == Ending::Served {
            self.sum += seen.service as f64;
            self.samples += 1;
        }
        if now >= self.since + WINDOW_US && self.samples >= SAMPLES {
            self.close_window(now);
        }
    }

    fn withdrawn(&mut self, _: u64, _: u64, _: &mut Vec<Decided>) {}

    fn tick(&mut self, _: &Sensed, _: u64, _: &mut Vec<Decided>) {}

    fn limit(&self) -> f64 {
        self.limit
    }
}
