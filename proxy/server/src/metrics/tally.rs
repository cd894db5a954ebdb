//! What is counted of a class for the console, which cannot read what Prometheus' counters hold.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use proxy_core::admission::Shed;

use super::{Ordered, SHEDS, reason, zero};

/// Reasons to refuse: admission's, the operator's, the ramp's, and the reserved lane's own bound.
pub(crate) const REASONS: usize = SHEDS + Ordered::ALL + 2;
const RAMP: usize = SHEDS + Ordered::ALL;
const LANE_FULL: usize = RAMP + 1;

/// The names of all reasons, in the order in which they are counted.
pub(crate) fn reasons() -> [&'static str; REASONS] {
    let mut names = [""; REASONS];
    let ordered = [Ordered::Rule, Ordered::Denied, Ordered::Quarantined];
    let all = zero::ALL_SHEDS.map(reason).into_iter();
    let all = all.chain(ordered.map(Ordered::reason));
    for (place, name) in names.iter_mut().zip(all.chain(["ramp", "lane_full"])) {
        *place = name;
    }
    names
}

/// Counted since the process started, except for the longest wait.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Count {
    pub(crate) admitted: u64,
    /// Answered with another's call, or with a kept answer.
    pub(crate) spared: u64,
    pub(crate) refused: [u64; REASONS],
    /// In shadow, or under the red button: would have been refused.
    pub(crate) shadow: u64,
    /// What all that were admitted waited, in microseconds.
    pub(crate) waited_us: u64,
    /// What one of them waited at most since this was last asked, in microseconds.
    pub(crate) longest_us: u64,
}

/// See the module. One addition for a request that is admitted at once.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    admitted: AtomicU64,
    spared: AtomicU64,
    refused: [AtomicU64; REASONS],
    shadow: AtomicU64,
    waited_us: AtomicU64,
    longest_us: AtomicU64,
}

impl Tally {
    pub(crate) fn admitted(&self, waited: Duration) {
        self.admitted.fetch_add(1, Relaxed);
        let waited = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        if waited > 0 {
            self.waited_us.fetch_add(waited, Relaxed);
            self.longest_us.fetch_max(waited, Relaxed);
        }
    }

    pub(super) fn spared(&self) {
        self.spared.fetch_add(1, Relaxed);
    }

    pub(super) fn shed(&self, shed: Shed, shadow: bool) {
        self.refuse(shed as usize, shadow);
    }

    pub(super) fn ordered(&self, ordered: Ordered, shadow: bool) {
        self.refuse(SHEDS + ordered as usize, shadow);
    }

    /// A watch that may not begin yet.
    pub(crate) fn ramp(&self) {
        self.refuse(RAMP, false);
    }

    /// The reserved lane has as much under way as it takes.
    pub(crate) fn lane_full(&self) {
        self.refuse(LANE_FULL, false);
    }

    fn refuse(&self, why: usize, shadow: bool) {
        if shadow {
            self.shadow.fetch_add(1, Relaxed);
        } else if let Some(place) = self.refused.get(why) {
            place.fetch_add(1, Relaxed);
        }
    }

    /// (admitted, refused) so far.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let refused = self.refused.iter().map(|place| place.load(Relaxed)).sum();
        (self.admitted.load(Relaxed), refused)
    }

    /// What was counted so far; the longest wait begins anew.
    pub(crate) fn count(&self) -> Count {
        Count {
            admitted: self.admitted.load(Relaxed),
            spared: self.spared.load(Relaxed),
            refused: self.refused.each_ref().map(|place| place.load(Relaxed)),
            shadow: self.shadow.load(Relaxed),
            waited_us: self.waited_us.load(Relaxed),
            longest_us: self.longest_us.swap(0, Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_counted_under_its_own_name() {
        let named = |act: &dyn Fn(&Tally)| {
            let tally = Tally::default();
            act(&tally);
            let count = tally.count();
            let at = count.refused.iter().position(|refused| *refused == 1);
            reasons()[at.expect("counted")]
        };
        for shed in zero::ALL_SHEDS {
            assert_eq!(named(&|tally| tally.shed(shed, false)), reason(shed));
        }
        for ordered in [Ordered::Rule, Ordered::Denied, Ordered::Quarantined] {
            assert_eq!(
                named(&|tally| tally.ordered(ordered, false)),
                ordered.reason()
            );
        }
        assert_eq!(named(&Tally::ramp), "ramp");
        assert_eq!(named(&Tally::lane_full), "lane_full");
    }

    #[test]
    fn the_longest_wait_is_of_the_time_since_it_was_last_asked() {
        let tally = Tally::default();
        tally.admitted(Duration::from_millis(7));
        tally.admitted(Duration::from_millis(3));
        let first = tally.count();
        assert_eq!((first.longest_us, first.waited_us), (7_000, 10_000));
        tally.admitted(Duration::ZERO);
        let second = tally.count();
        assert_eq!((second.longest_us, second.admitted), (0, 3));
    }
}
