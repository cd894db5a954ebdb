//! Delays counted by length, for people and for judging one sensor by another.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// 50 µs growing by 30 % each, up to about a minute.
const BINS: usize = 54;
const FIRST_US: f64 = 50.0;
const GROWTH: f64 = 1.3;

/// Delays noted since the beginning. Noting one is an atomic addition.
#[derive(Debug)]
pub struct Delays([AtomicU64; BINS]);

impl Default for Delays {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Delays {
    /// Counts one.
    pub fn note(&self, delay: Duration) {
        let us = delay.as_secs_f64() * 1e6;
        let bin = (us / FIRST_US).max(1.0).ln() / GROWTH.ln();
        self.0[(bin as usize).min(BINS - 1)].fetch_add(1, Relaxed);
    }

    fn counts(&self) -> [u64; BINS] {
        self.0.each_ref().map(|bin| bin.load(Relaxed))
    }
}

/// The delays between two looks.
#[derive(Debug)]
pub struct Window([u64; BINS]);

impl Default for Window {
    fn default() -> Self {
        Self([0; BINS])
    }
}

/// Of some delays: how many, the middle one and the one in a hundred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// How many there were.
    pub count: u64,
    /// Half of them took no longer; up to 30 % too long.
    pub p50: Duration,
    /// 99 of a hundred took no longer; as above.
    pub p99: Duration,
}

impl Window {
    /// What was noted since the last turn; `None` if nothing was.
    pub fn turn(&mut self, delays: &Delays) -> Option<Quantiles> {
        let now = delays.counts();
        let mut new = now;
        for (new, before) in new.iter_mut().zip(&self.0) {
            *new = new.saturating_sub(*before);
        }
        self.0 = now;
        let count: u64 = new.iter().sum();
        let quantile = |share: f64| {
            let wanted = (count as f64 * share).ceil() as u64;
            let mut seen = 0;
            let bin = new.iter().position(|bin| {
                seen += bin;
                seen >= wanted
            });
            let us = FIRST_US * GROWTH.powi(bin.map_or(BINS, |bin| bin + 1) as i32);
            Duration::from_micros(us as u64)
        };
        (count > 0).then(|| Quantiles {
            count,
            p50: quantile(0.5),
            p99: quantile(0.99),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_tells_of_what_came_since_the_last_and_not_too_little() {
        let (delays, mut window) = (Delays::default(), Window::default());
        assert_eq!(window.turn(&delays), None);
        for ms in 1..=100 {
            delays.note(Duration::from_millis(ms));
        }
        let seen = window.turn(&delays).expect("some");
        assert_eq!(seen.count, 100);
        assert!((50..=66).contains(&seen.p50.as_millis()), "{seen:?}");
        assert!((99..=130).contains(&seen.p99.as_millis()), "{seen:?}");
        delays.note(Duration::ZERO);
        delays.note(Duration::from_secs(1_000_000));
        let seen = window.turn(&delays).expect("some");
        assert_eq!(seen.count, 2);
        assert!(seen.p50 < Duration::from_micros(70) && seen.p99 > Duration::from_secs(50));
        assert_eq!(window.turn(&delays), None);
    }
}
