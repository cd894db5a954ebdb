//! Priority inversions: refused while something less important was admitted that it could have replaced.
//!
//! A refused request could have replaced whatever less important was admitted between its arrival and its refusal, or
//! within 100 ms of its arrival if it was refused sooner (every client would rather have waited that long), if that held
//! at least as much of the server. Time is counted in decisions, so that two things in the same microsecond have an order.

use std::collections::{BTreeMap, VecDeque};

use proxy_core::admission::Kind;

use super::CLASSES;

/// What is held, in powers of two µs.
pub(crate) const SIZES: usize = 16;
/// Everybody would wait so long, µs.
const PATIENCE: u64 = 100_000;

/// Who was refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// Its class.
    pub class: usize,
    /// Its kind.
    pub kind: Kind,
    /// [`super::size`] of it.
    pub size: usize,
    /// When it had arrived, µs.
    pub arrived: u64,
    /// The decision before its arrival.
    pub after: u64,
}

/// Watches for inversions.
#[derive(Debug, Default)]
pub struct Inversions {
    decisions: u64,
    /// By kind, class, size: the last decision that admitted one as large or larger.
    admitted: [[[u64; SIZES]; CLASSES]; 2],
    /// Refused before their patience would have ended.
    pending: VecDeque<(u64, Refused)>,
    found: [u64; 2],
    patterns: BTreeMap<Pattern, u64>,
}

/// Who was refused, and the least important that was admitted instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    /// Class that was refused.
    pub refused: usize,
    /// Whether it was long work.
    pub long: bool,
    /// Whether it had waited at least 100 ms before it was refused.
    pub waited: bool,
    /// Class that was admitted.
    pub admitted: usize,
    /// Whether that was long work.
    pub admitted_long: bool,
}

const fn index(kind: Kind) -> usize {
    match kind {
        Kind::Short => 0,
        Kind::Long => 1,
    }
}

impl Inversions {
    /// Decisions so far.
    #[must_use]
    pub const fn decisions(&self) -> u64 {
        self.decisions
    }

    /// Inversions so far, within one kind and of either.
    #[must_use]
    pub const fn found(&self) -> [u64; 2] {
        self.found
    }

    /// By pattern.
    #[must_use]
    pub const fn patterns(&self) -> &BTreeMap<Pattern, u64> {
        &self.patterns
    }

    /// Forgets what was found.
    pub fn reset(&mut self) {
        self.found = [0; 2];
        self.pending.clear();
        self.patterns.clear();
    }

    /// A request is admitted.
    pub fn admitted(&mut self, class: usize, kind: Kind, size: usize, now: u64) {
        self.settle(now);
        self.decisions += 1;
        if let Some(sizes) = self.admitted[index(kind)].get_mut(class) {
            for last in sizes.iter_mut().take(size + 1) {
                *last = self.decisions;
            }
        }
    }

    /// A request is refused.
    pub fn refused(&mut self, refused: Refused, now: u64) {
        self.settle(now);
        self.decisions += 1;
        let until = refused.arrived + PATIENCE;
        if until <= now {
            self.judge(&refused, true);
        } else {
            self.pending.push_back((now + PATIENCE, refused));
        }
    }

    /// Judge those whose patience has ended.
    pub fn settle(&mut self, now: u64) {
        while let Some((until, refused)) = self.pending.front().copied() {
            if until > now {
                return;
            }
            self.pending.pop_front();
            self.judge(&refused, false);
        }
    }

    fn judge(&mut self, refused: &Refused, waited: bool) {
        let instead = |kind: usize| {
            let later = |sizes: &[u64; SIZES]| {
                sizes
                    .get(refused.size)
                    .is_some_and(|last| *last > refused.after)
            };
            (refused.class + 1..CLASSES)
                .rev()
                .find(|class| later(&self.admitted[kind][*class]))
        };
        let own = index(refused.kind);
        let same = instead(own);
        let other = instead(1 - own);
        self.found[0] += u64::from(same.is_some());
        self.found[1] += u64::from(same.is_some() || other.is_some());
        let Some(admitted) = same.or(other) else {
            return;
        };
        let pattern = Pattern {
            refused: refused.class,
            long: refused.kind == Kind::Long,
            waited,
            admitted,
            admitted_long: (if same.is_some() { own } else { 1 - own }) == 1,
        };
        *self.patterns.entry(pattern).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(class: usize, size: usize, arrived: u64, after: u64) -> Refused {
        Refused {
            class,
            kind: Kind::Short,
            size,
            arrived,
            after,
        }
    }

    #[test]
    fn who_is_refused_while_something_less_important_of_its_size_is_admitted_is_inverted() {
        let mut inversions = Inversions::default();
        inversions.refused(refused(3, 5, 0, 0), 0);
        inversions.admitted(6, Kind::Short, 5, 50_000);
        inversions.settle(1_000_000);
        assert_eq!(inversions.found(), [1, 1]);
    }

    #[test]
    fn what_was_admitted_before_or_is_smaller_or_more_important_inverts_nobody() {
        let mut inversions = Inversions::default();
        inversions.admitted(6, Kind::Short, 9, 0);
        let after = inversions.decisions();
        inversions.refused(refused(3, 5, 10, after), 10);
        inversions.admitted(6, Kind::Short, 4, 50_000);
        inversions.admitted(2, Kind::Short, 9, 50_000);
        inversions.settle(1_000_000);
        assert_eq!(inversions.found(), [0, 0]);
        inversions.refused(refused(3, 5, 2_000_000, inversions.decisions()), 2_000_000);
        inversions.admitted(6, Kind::Short, 9, 2_200_000);
        inversions.settle(3_000_000);
        assert_eq!(
            inversions.found(),
            [0, 0],
            "later than anybody would have waited"
        );
    }

    #[test]
    fn the_other_kind_counts_apart() {
        let mut inversions = Inversions::default();
        inversions.refused(refused(3, 5, 0, 0), 0);
        inversions.admitted(6, Kind::Long, 14, 50_000);
        inversions.settle(1_000_000);
        assert_eq!(inversions.found(), [0, 1]);
    }
}
