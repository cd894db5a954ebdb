//! Whether admitting more still gets more done.
//!
//! The probe cannot see every bottleneck: not etcd, not the server's own queues, not
//! memory. All of them show in one thing: more is outstanding and no more is finished.
//! This regresses work served on work outstanding over fifty windows, and speaks only when
//! the answer is certain enough; completions of long requests are few and lumpy.
//!
//! What is outstanding also varies by itself, and that explains little: a plain regression
//! finds no gain whenever load comes in bursts ([`Compare::Windows`]). That is good enough
//! where caution costs nothing. Where it is the only reason to refuse somebody, only windows
//! with different bounds are compared, by their means (the bound is the instrument of a
//! two-stage regression, after Wald 1940; [`Compare::Bounds`]): if more is not outstanding
//! under a higher bound, that bound did no harm.

use std::collections::VecDeque;

const WINDOWS: usize = 50;
/// Windows a peak is remembered for: the work that a burst left behind is done by then.
const PEAK_WINDOWS: usize = 30;
/// Below this elasticity (1: served grows in proportion to outstanding, 0: not at all)
/// more is no gain.
const NO_GAIN: f64 = 0.3;
/// Standard errors that the elasticity must be away from that.
const CERTAINTY: f64 = 1.6;

/// What is compared with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    /// Each window with every other.
    Windows,
    /// What went on under one bound with what went on under others.
    Bounds,
}

/// One window of one bound.
#[derive(Clone, Copy, Debug)]
struct Window {
    bound: u64,
    outstanding: f64,
    served: f64,
}

/// The recent windows: the bound, and outstanding and served work.
#[derive(Debug, Default)]
pub(super) struct History {
    windows: VecDeque<Window>,
}

impl History {
    pub(super) fn push(&mut self, bound: u64, outstanding: u64, served: u64) {
        if self.windows.len() == WINDOWS {
            self.windows.pop_front();
        }
        self.windows.push_back(Window {
            bound,
            outstanding: outstanding as f64,
            served: served as f64,
        });
    }

    pub(super) fn clear(&mut self) {
        self.windows.clear();
    }

    /// Whether more was outstanding in some than in others, and certainly no more got done.
    pub(super) fn more_is_no_gain(&self, compare: Compare) -> bool {
        let n = self.windows.len() as f64;
        if n < WINDOWS as f64 / 2.0 {
            return false;
        }
        let mean = |of: fn(&Window) -> f64| self.windows.iter().map(of).sum::<f64>() / n;
        let (outstanding, served) = (mean(|w| w.outstanding), mean(|w| w.served));
        if outstanding <= 0.0 || served <= 0.0 {
            return false;
        }
        let relative = |w: &Window| (w.outstanding / outstanding - 1.0, w.served / served - 1.0);
        let (mut xx, mut xy) = (0.0, 0.0);
        let mut windows = self.windows.iter().peekable();
        while let Some(first) = windows.next() {
            let (mut x, mut y) = relative(first);
            let mut count = 1.0;
            while let Some(next) =
                windows.next_if(|next| compare == Compare::Bounds && next.bound == first.bound)
            {
                let (dx, dy) = relative(next);
                (x, y, count) = (x + dx, y + dy, count + 1.0);
            }
            xx += x * x / count;
            xy += x * y / count;
        }
        // Less than a tenth of variation says nothing about what variation does.
        if (xx / n).sqrt() < 0.1 {
            return false;
        }
        let elasticity = xy / xx;
        let unexplained: f64 = self
            .windows
            .iter()
            .map(|window| {
                let (x, y) = relative(window);
                (y - elasticity * x).powi(2)
            })
            .sum();
        let error = (unexplained / (n - 2.0) / xx).sqrt();
        elasticity + CERTAINTY * error < NO_GAIN
    }
}

/// The most that was reached lately.
#[derive(Debug, Default)]
pub(super) struct Peak(VecDeque<u64>);

impl Peak {
    pub(super) fn push(&mut self, reached: u64) {
        if self.0.len() == PEAK_WINDOWS {
            self.0.pop_front();
        }
        self.0.push_back(reached);
    }

    pub(super) fn most(&self) -> u64 {
        self.0.iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Compare; 2] = [Compare::Windows, Compare::Bounds];

    fn history(served: impl Fn(u64) -> u64) -> History {
        let mut history = History::default();
        for window in 0..50_u64 {
            let outstanding = 1_000 + 200 * (window / 10);
            history.push(window / 10, outstanding, served(outstanding));
        }
        history
    }

    #[test]
    fn a_peak_is_remembered_and_forgotten() {
        let mut peak = Peak::default();
        assert_eq!(peak.most(), 0);
        peak.push(7);
        for _ in 1..PEAK_WINDOWS {
            peak.push(1);
            assert_eq!(peak.most(), 7);
        }
        peak.push(1);
        assert_eq!(peak.most(), 1);
    }

    #[test]
    fn throughput_that_follows_is_a_gain() {
        for compare in BOTH {
            assert!(!history(|outstanding| outstanding / 2).more_is_no_gain(compare));
        }
    }

    #[test]
    fn throughput_that_stays_is_no_gain() {
        for compare in BOTH {
            assert!(history(|_| 700).more_is_no_gain(compare));
        }
    }

    #[test]
    fn a_few_lumpy_completions_prove_nothing() {
        let mut history = History::default();
        for window in 0..50_u64 {
            history.push(
                window / 10,
                1_000 + 200 * (window / 10),
                if window % 17 == 3 { 9_000 } else { 0 },
            );
        }
        for compare in BOTH {
            assert!(!history.more_is_no_gain(compare));
        }
    }

    #[test]
    fn steady_load_proves_nothing() {
        let mut history = History::default();
        for window in 0..50 {
            history.push(1, 1_000 + window % 3, 700);
        }
        for compare in BOTH {
            assert!(!history.more_is_no_gain(compare));
        }
    }

    #[test]
    fn what_varies_under_one_bound_or_is_not_used_under_a_higher_one_proves_nothing() {
        let burst = |window: u64| 500 + 1_000 * (window % 5);
        let mut one = History::default();
        let mut unused = History::default();
        for window in 0..50 {
            one.push(1, burst(window), 700);
            unused.push(window / 10, burst(window), 700);
        }
        for history in [one, unused] {
            assert!(!history.more_is_no_gain(Compare::Bounds));
            assert!(history.more_is_no_gain(Compare::Windows), "less careful");
        }
    }
}
