//! After Uber's Cinnamon, from its public descriptions (its source is not): two loops. A PID (0.1, 1.4, no D) sets the share
//! of requests to refuse from how much more comes in than goes out and is free, and the share becomes a threshold in
//! (class, cohort) through the priorities of the last 1,000 requests. A tuner sets how many run at once: Vegas on the 90th
//! percentile of latencies, and down when in-flight and throughput vary in opposite directions.

use std::collections::VecDeque;

use proxy_core::hash::mix;

use super::limit::Places;
use crate::controller::{Arrival, Controller, Decided, Ending, Seen, Sensed, Verdict};

const COHORTS: u64 = 128;
const REMEMBERED: usize = 1_000;
const KP: f64 = 0.1;
const KI: f64 = 1.4;
/// The PID's step, µs.
const STEP: u64 = 500_000;
const MOST_REFUSED: f64 = 0.99;
/// The tuner's interval, µs, and samples.
const INTERVAL: u64 = 2_000_000;
const SAMPLES: usize = 250;
const LONGEST_INTERVAL: u64 = 30_000_000;
const INTERVALS: usize = 50;
const LEAST: f64 = 20.0;
const MOST: f64 = 2_000.0;
const PATIENCE: u64 = 1_000_000;
const MOST_WAITING: usize = 2_000;

/// See the module.
#[derive(Debug)]
pub struct Pid {
    places: Places,
    limit: f64,
    came: u64,
    went: u64,
    stepped: u64,
    integral: f64,
    refused: f64,
    threshold: u64,
    priorities: VecDeque<u64>,
    latencies: Vec<u64>,
    tuned: u64,
    done: u64,
    target: Option<f64>,
    history: VecDeque<(f64, f64)>,
}

impl Default for Pid {
    fn default() -> Self {
        Self::new()
    }
}

impl Pid {
    /// Refusing nothing, with 20 at once.
    #[must_use]
    pub fn new() -> Self {
        Self {
            places: Places::default(),
            limit: 20.0,
            came: 0,
            went: 0,
            stepped: 0,
            integral: 0.0,
            refused: 0.0,
            threshold: u64::MAX,
            priorities: VecDeque::with_capacity(REMEMBERED),
            latencies: Vec::new(),
            tuned: 0,
            done: 0,
            target: None,
            history: VecDeque::new(),
        }
    }

    const fn at_once(&self) -> u32 {
        self.limit as u32
    }

    fn step(&mut self, now: u64) {
        let seconds = (now - self.stepped) as f64 / 1e6;
        self.stepped = now;
        let free = (self.limit - f64::from(self.places.running)).max(0.0);
        let (came, went) = (self.came as f64, (self.went as f64).max(1.0));
        (self.came, self.went) = (0, 0);
        let error = ((came - went - free) / went).clamp(-1.0, 1.0);
        self.integral = (self.integral + error * seconds).clamp(0.0, 1.0 / KI);
        self.refused = (KP * error + KI * self.integral).clamp(0.0, MOST_REFUSED);
        let mut sorted: Vec<u64> = self.priorities.iter().copied().collect();
        sorted.sort_unstable();
        let keep = ((1.0 - self.refused) * sorted.len() as f64) as usize;
        self.threshold = if self.refused < 1e-3 {
            u64::MAX
        } else {
            sorted.get(keep).copied().unwrap_or(u64::MAX)
        };
    }

    fn tune(&mut self, now: u64) {
        let lasted = now - self.tuned;
        let enough = self.latencies.len() >= SAMPLES;
        if self.latencies.is_empty() || lasted < INTERVAL || (!enough && lasted < LONGEST_INTERVAL)
        {
            return;
        }
        self.tuned = now;
        let at = (self.latencies.len() - 1) * 9 / 10;
        let (_, p90, _) = self.latencies.select_nth_unstable(at);
        let p90 = (*p90 as f64).max(1.0);
        self.latencies.clear();
        let throughput = self.done as f64 / lasted as f64;
        self.done = 0;
        self.history
            .push_back((f64::from(self.places.running), throughput));
        if self.history.len() > INTERVALS {
            self.history.pop_front();
        }
        // Downwards soon, upwards slowly.
        let target = match self.target {
            Some(target) if p90 > target => target + (p90 - target) * 0.02,
            Some(target) => target + (p90 - target) * 0.2,
            None => p90,
        };
        self.target = Some(target);
        let queued = self.limit * (1.0 - target / p90);
        let step = self.limit.log10().max(1.0);
        let binds = f64::from(self.places.running) >= self.limit * 0.5;
        if !binds {
            // Nothing is learned about a limit that nobody meets.
        } else if self.correlation() < -0.3 || queued > 6.0 * step {
            self.limit -= step;
        } else if queued < 3.0 * step {
            self.limit += step;
        }
        self.limit = self.limit.clamp(LEAST, MOST);
    }

    /// The covariance of what runs and what gets done, as a correlation, so that noise is not taken for a sign.
    fn correlation(&self) -> f64 {
        let count = self.history.len() as f64;
        if count < 5.0 {
            return 0.0;
        }
        let (x, y) = self
            .history
            .iter()
            .fold((0.0, 0.0), |(x, y), (a, b)| (x + a / count, y + b / count));
        let sum = |of: &dyn Fn(&(f64, f64)) -> f64| self.history.iter().map(of).sum::<f64>();
        let both = sum(&|(a, b)| (a - x) * (b - y));
        let each = sum(&|(a, _)| (a - x).powi(2)) * sum(&|(_, b)| (b - y).powi(2));
        if each > 0.0 { both / each.sqrt() } else { 0.0 }
    }
}

impl Controller for Pid {
    fn offer(&mut self, arrival: &Arrival<'_>, now: u64, _: &mut Vec<Decided>) -> Verdict {
        let cohort = mix(arrival.instance) % COHORTS;
        let priority = u64::from(arrival.call.class.0) * COHORTS + cohort;
        if self.priorities.len() == REMEMBERED {
            self.priorities.pop_front();
        }
        self.priorities.push_back(priority);
        if priority >= self.threshold {
            return Verdict::Refuse(Some(1));
        }
        self.came += 1;
        self.places
            .offer(arrival.id, now + PATIENCE, self.at_once(), MOST_WAITING)
    }

    fn ended(&mut self, _: u64, ending: Ending, seen: Seen, now: u64, out: &mut Vec<Decided>) {
        self.places.running = self.places.running.saturating_sub(1);
        self.went += 1;
        if ending == Ending::Served {
            self.done += 1;
            self.latencies.push(seen.service);
        }
        self.places.start_next(self.at_once(), now, out);
    }

    fn withdrawn(&mut self, id: u64, _: u64, _: &mut Vec<Decided>) {
        self.places.withdrawn(id);
    }

    fn tick(&mut self, _: &Sensed, now: u64, out: &mut Vec<Decided>) {
        if now >= self.stepped + STEP {
            self.step(now);
        }
        self.tune(now);
        self.places.fill(self.at_once(), now, out);
    }

    fn limit(&self) -> f64 {
        self.limit
    }
}
