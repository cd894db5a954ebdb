//! Whether admitting more still gets more done.
//!
//! The probe cannot see every bottleneck: not etcd, not the server's own queues, not
//! memory. All of them show in one thing: more is outstanding and no more is finished.
//! This regresses work served on work outstanding over fifty windows, and speaks only when
//! the answer is certain enough; completions of long requests are few and lumpy.

use std::collections::VecDeque;

const WINDOWS: usize = 50;
/// Below this elasticity (1: served grows in proportion to outstanding, 0: not at all)
/// more is no gain.
const NO_GAIN: f64 = 0.3;
/// Standard errors that the elasticity must be away from that.
const CERTAINTY: f64 = 1.6;

/// The recent windows: outstanding and served work of one bound.
#[derive(Debug, Default)]
pub(super) struct History {
    windows: VecDeque<(f64, f64)>,
}

impl History {
    pub(super) fn push(&mut self, outstanding: u64, served: u64) {
        if self.windows.len() == WINDOWS {
            self.windows.pop_front();
        }
        self.windows.push_back((outstanding as f64, served as f64));
    }

    pub(super) fn clear(&mut self) {
        self.windows.clear();
    }

    /// Whether more was outstanding in some windows than in others, and certainly no more
    /// got done in them.
    pub(super) fn more_is_no_gain(&self) -> bool {
        let n = self.windows.len() as f64;
        if n < WINDOWS as f64 / 2.0 {
            return false;
        }
        let mean = |of: fn(&(f64, f64)) -> f64| self.windows.iter().map(of).sum::<f64>() / n;
        let (outstanding, served) = (mean(|w| w.0), mean(|w| w.1));
        if outstanding <= 0.0 || served <= 0.0 {
            return false;
        }
        let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
        for (x, y) in &self.windows {
            let (x, y) = (x / outstanding - 1.0, y / served - 1.0);
            xx += x * x;
            xy += x * y;
            yy += y * y;
        }
        // Less than a tenth of variation says nothing about what variation does.
        if (xx / n).sqrt() < 0.1 {
            return false;
        }
        let elasticity = xy / xx;
        let error = ((yy - elasticity * xy).max(0.0) / (n - 2.0) / xx).sqrt();
        elasticity + CERTAINTY * error < NO_GAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(served: impl Fn(u64) -> u64) -> History {
        let mut history = History::default();
        for window in 0..50_u64 {
            let outstanding = 1_000 + 200 * (window / 10);
            history.push(outstanding, served(outstanding));
        }
        history
    }

    #[test]
    fn throughput_that_follows_is_a_gain() {
        assert!(!history(|outstanding| outstanding / 2).more_is_no_gain());
    }

    #[test]
    fn throughput_that_stays_is_no_gain() {
        assert!(history(|_| 700).more_is_no_gain());
    }

    #[test]
    fn a_few_lumpy_completions_prove_nothing() {
        let mut history = History::default();
        for window in 0..50_u64 {
            history.push(
                1_000 + 200 * (window / 10),
                if window % 17 == 3 { 9_000 } else { 0 },
            );
        }
        assert!(!history.more_is_no_gain());
    }

    #[test]
    fn steady_load_proves_nothing() {
        let mut history = History::default();
        for window in 0..50 {
            history.push(1_000 + window % 3, 700);
        }
        assert!(!history.more_is_no_gain());
    }
}
