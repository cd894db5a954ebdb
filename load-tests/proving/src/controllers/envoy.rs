//! Envoy's adaptive concurrency filter with its defaults: every 30 s it lets only 3 requests run until it has seen 50, and
//! takes their median for the unloaded latency; in between the limit follows the ratio of that to the present median.
//! It refuses with 503 and without Retry-After.

use fastrand::Rng;

use crate::controller::{Arrival, Controller, Decided, Ending, Seen, Sensed, Verdict};

const MEASURE_EVERY_US: f64 = 30e6;
const JITTER: f64 = 0.15;
const MEASURE_REQUESTS: usize = 50;
const MEASURE_LIMIT: f64 = 3.0;
const BUFFER: f64 = 1.25;
const MOST: f64 = 1_000.0;

/// See the module.
#[derive(Debug)]
pub struct Envoy {
    limit: f64,
    before: f64,
    running: u32,
    unloaded: Option<f64>,
    measuring: bool,
    measure_at: u64,
    samples: Vec<u64>,
    random: Rng,
}

impl Envoy {
    /// It begins by measuring.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            limit: MEASURE_LIMIT,
            before: MEASURE_LIMIT,
            running: 0,
            unloaded: None,
            measuring: true,
            measure_at: 0,
            samples: Vec::new(),
            random: Rng::with_seed(seed),
        }
    }

    fn median(&mut self) -> Option<f64> {
        if self.samples.is_empty() {
            return None;
        }
        let middle = self.samples.len() / 2;
        let (_, median, _) = self.samples.select_nth_unstable(middle);
        let median = *median as f64;
        self.samples.clear();
        Some(median.max(1.0))
    }
}

impl Controller for Envoy {
    fn offer(&mut self, _: &Arrival<'_>, _: u64, _: &mut Vec<Decided>) -> Verdict {
        if f64::from(self.running) >= self.limit.floor() {
            return Verdict::Refuse(None);
        }
        self.running += 1;
        Verdict::Start
    }

    fn ended(&mut self, _: u64, ending: Ending, seen: Seen, now: u64, _: &mut Vec<Decided>) {
        self.running -= 1;
        if ending == Ending::Served {
            self.samples.push(seen.service);
        }
        if self.measuring && self.samples.len() >= MEASURE_REQUESTS {
            self.unloaded = self.median();
            self.measuring = false;
            self.limit = self.before.max(MEASURE_LIMIT);
            let wait = MEASURE_EVERY_US * (1.0 + JITTER * self.random.f64());
            self.measure_at = now + wait as u64;
        }
    }

    fn withdrawn(&mut self, _: u64, _: u64, _: &mut Vec<Decided>) {}

    fn tick(&mut self, _: &Sensed, now: u64, _: &mut Vec<Decided>) {
        if self.measuring {
            return;
        }
        if now >= self.measure_at {
            self.measuring = true;
            self.before = self.limit;
            self.limit = MEASURE_LIMIT;
            self.samples.clear();
            return;
        }
        if let (Some(sample), Some(unloaded)) = (self.median(), self.unloaded) {
            let gradient = (unloaded * BUFFER / sample).clamp(0.5, 2.0);
            self.limit = (self.limit * gradient + self.limit.sqrt()).clamp(MEASURE_LIMIT, MOST);
        }
    }

    fn limit(&self) -> f64 {
        self.limit
    }
}
