//! Whether a new policy is given up: more requests of protected classes are refused or fail under
//! it than under the old one.
//!
//! Compared are the last minute of the new policy's tenants with the same minute of the others',
//! and with the time before, whichever was worse: an overload, or a server that fails, hits both and
//! is no reason. A difference counts only when it is large enough to matter (the tolerance, and
//! twice as much as before), too large for chance (five standard deviations of the difference of
//! two shares), made of enough requests, and still there at the next looks.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Time;

/// What is compared, back from now.
const WINDOW: Duration = Duration::from_secs(60);
/// Looks kept; called once a second, so many cover the window.
const MOST_LOOKS: usize = 64;
/// Requests below which a share says nothing.
const LEAST_ASKED: u64 = 50;
/// Refused or failed requests below which it is chance.
const LEAST_HARMED: u64 = 10;
/// So many times the old policy's share.
const FACTOR: f64 = 2.0;
/// Standard deviations.
const DEVIATIONS: f64 = 5.0;
/// Looks in a row.
const LOOKS: u32 = 3;

/// Requests of protected classes, since some beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered in any way.
    pub asked: u64,
    /// Refused by the proxy.
    pub refused: u64,
    /// Failed otherwise: no answer of the server, 5xx, or refused by the server.
    pub failed: u64,
}

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            asked: self.asked.saturating_sub(before.asked),
            refused: self.refused.saturating_sub(before.refused),
            failed: self.failed.saturating_sub(before.failed),
        }
    }

    const fn of(self, harm: Harm) -> u64 {
        match harm {
            Harm::Refusals => self.refused,
            Harm::Errors => self.failed,
        }
    }

    /// The share that was harmed; `None` of too few.
    fn share(self, harm: Harm) -> Option<f64> {
        (self.asked >= LEAST_ASKED).then(|| self.of(harm) as f64 / self.asked as f64)
    }
}

/// Counts under both policies, by who was judged by which; each only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Under the old one.
    pub old: Counts,
    /// Under the new one.
    pub new: Counts,
}

/// What became of requests that should not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The proxy refused them.
    Refusals,
    /// They failed.
    Errors,
}

/// Why a new policy is given up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Break {
    /// What there is too much of.
    pub harm: Harm,
    /// Its share of the requests under the new policy, 0 to 1.
    pub new: f64,
    /// What it is compared with: the worse of the other tenants' share and the time before.
    pub old: f64,
    /// Requests of the last minute under the new policy.
    pub asked: u64,
}

/// How much is tolerated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuardSettings {
    /// So much more of the requests, 0 to 1.
    pub tolerance: f64,
}

/// See the module. Time is handed in, and nothing else is looked at.
#[derive(Clone, Debug)]
pub struct Guard {
    settings: GuardSettings,
    /// The old policy's counts before anybody was judged by the new one.
    before: Counts,
    looks: VecDeque<(Time, Seen)>,
    /// Looks in a row at which it was broken, refusals and errors.
    broken: [u32; 2],
}

impl Guard {
    /// Watches from `now` on; `before` is what the old policy saw until then, and `seen` what both did.
    #[must_use]
    pub fn new(settings: GuardSettings, before: Counts, seen: Seen, now: Time) -> Self {
        Self {
            settings,
            before,
            looks: VecDeque::from([(now, seen)]),
            broken: [0; 2],
        }
    }

    /// Takes in what both policies have seen until `now`; to be called about once a second.
    pub fn look(&mut self, seen: Seen, now: Time) -> Option<Break> {
        // One look older than the window stays, so that it is compared whole.
        while self.looks.len() >= MOST_LOOKS
            || self
                .looks
                .get(1)
                .is_some_and(|(at, _)| now.saturating_since(*at) >= WINDOW)
        {
            self.looks.pop_front();
        }
        self.looks.push_back((now, seen));
        let (_, first) = self.looks.front().copied()?;
        let lately = Seen {
            old: seen.old.since(first.old),
            new: seen.new.since(first.new),
        };
        for (harm, broken) in [Harm::Refusals, Harm::Errors]
            .into_iter()
            .zip(&mut self.broken)
        {
            match compare(harm, &lately, self.before, self.settings) {
                Some(found) => {
                    *broken += 1;
                    if *broken >= LOOKS {
                        return Some(found);
                    }
                }
                None => *broken = 0,
            }
        }
        None
    }
}

fn compare(harm: Harm, lately: &Seen, before: Counts, settings: GuardSettings) -> Option<Break> {
    let harmed = lately.new.of(harm);
    let new = lately.new.share(harm)?;
    let beside = lately
        .old
        .share(harm)
        .map(|share| (share, lately.old.asked));
    let earlier = before.share(harm).map(|share| (share, before.asked));
    let worse = |one: (f64, u64), other: (f64, u64)| if other.0 > one.0 { other } else { one };
    let reference = match (beside, earlier) {
        (Some(beside), Some(earlier)) => Some(worse(beside, earlier)),
        (one, other) => one.or(other),
    };
    let old = reference.map_or(0.0, |(share, _)| share);
    let matters = harmed >= LEAST_HARMED && new > old + settings.tolerance && new > old * FACTOR;
    (matters && !by_chance(new, lately.new.asked, reference)).then_some(Break {
        harm,
        new,
        old,
        asked: lately.new.asked,
    })
}

/// Whether two shares may differ so by chance. Without anything to compare with, they may not.
fn by_chance(new: f64, asked: u64, reference: Option<(f64, u64)>) -> bool {
    let Some((old, of)) = reference else {
        return false;
    };
    let (asked, of) = (asked as f64, of as f64);
    let pooled = (new * asked + old * of) / (asked + of);
    let deviation = (pooled * (1.0 - pooled) * (1.0 / asked + 1.0 / of)).sqrt();
    new - old <= DEVIATIONS * deviation
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: GuardSettings = GuardSettings { tolerance: 0.01 };

    /// A server's life in seconds: so many requests each, of which a share is harmed by chance.
    struct Life {
        rng: fastrand::Rng,
        seen: Seen,
        now: Time,
    }

    impl Life {
        fn new(seed: u64) -> Self {
            Self {
                rng: fastrand::Rng::with_seed(seed),
                seen: Seen::default(),
                now: Time::from_millis(5_000),
            }
        }

        fn count(
            rng: &mut fastrand::Rng,
            counts: &mut Counts,
            requests: u64,
            harm: Harm,
            share: f64,
        ) {
            for _ in 0..requests {
                counts.asked += 1;
                if rng.f64() < share {
                    match harm {
                        Harm::Refusals => counts.refused += 1,
                        Harm::Errors => counts.failed += 1,
                    }
                }
            }
        }

        /// One second: (requests, share) under the old policy and the new one.
        fn second(&mut self, harm: Harm, old: (u64, f64), new: (u64, f64)) {
            Self::count(&mut self.rng, &mut self.seen.old, old.0, harm, old.1);
            Self::count(&mut self.rng, &mut self.seen.new, new.0, harm, new.1);
            self.now += Duration::from_secs(1);
        }

        fn guard(&self) -> Guard {
            Guard::new(SETTINGS, self.seen.old, self.seen, self.now)
        }

        /// Seconds until it breaks, if within `seconds`.
        fn run(
            &mut self,
            guard: &mut Guard,
            seconds: u32,
            harm: Harm,
            old: (u64, f64),
            new: (u64, f64),
        ) -> Option<(u32, Break)> {
            (1..=seconds).find_map(|second| {
                self.second(harm, old, new);
                guard
                    .look(self.seen, self.now)
                    .map(|broken| (second, broken))
            })
        }
    }

    #[test]
    fn refusals_and_errors_that_come_with_the_new_policy_end_it_within_seconds() {
        for harm in [Harm::Refusals, Harm::Errors] {
            for seed in 0..20 {
                let mut life = Life::new(seed);
                let mut guard = life.guard();
                let broken = life.run(&mut guard, 60, harm, (200, 0.001), (20, 0.2));
                let (second, found) = broken.expect("given up");
                assert!(second <= 20, "{second}");
                assert_eq!(found.harm, harm);
                assert!(found.new > 0.1 && found.old < 0.01, "{found:?}");
            }
        }
    }

    #[test]
    fn noise_ends_nothing() {
        for (seed, share) in [0.0, 0.002, 0.01, 0.05, 0.3, 0.9]
            .into_iter()
            .cycle()
            .take(60)
            .enumerate()
        {
            let mut life = Life::new(seed as u64);
            let mut guard = life.guard();
            let broken = life.run(&mut guard, 1_800, Harm::Refusals, (40, share), (5, share));
            assert_eq!(broken, None, "seed {seed}, share {share}");
        }
    }

    #[test]
    fn an_overload_that_hits_both_alike_ends_nothing() {
        let mut life = Life::new(1);
        for _ in 0..120 {
            life.second(Harm::Refusals, (100, 0.0), (0, 0.0));
        }
        let mut guard = life.guard();
        assert_eq!(
            life.run(&mut guard, 120, Harm::Refusals, (100, 0.0), (30, 0.0)),
            None
        );
        assert_eq!(
            life.run(&mut guard, 120, Harm::Refusals, (100, 0.6), (30, 0.6)),
            None
        );
    }

    #[test]
    fn where_all_are_judged_by_the_new_policy_the_time_before_is_the_measure() {
        let mut life = Life::new(2);
        for _ in 0..120 {
            life.second(Harm::Errors, (100, 0.05), (0, 0.0));
        }
        let mut guard = life.guard();
        assert_eq!(
            life.run(&mut guard, 600, Harm::Errors, (0, 0.0), (100, 0.05)),
            None
        );
        assert!(
            life.run(&mut guard, 60, Harm::Errors, (0, 0.0), (100, 0.2))
                .is_some()
        );
    }

    #[test]
    fn a_handful_says_nothing_and_a_moment_is_waited_out() {
        let mut life = Life::new(3);
        let mut guard = life.guard();
        // Nine of nine refused in a minute.
        assert_eq!(
            life.run(&mut guard, 9, Harm::Refusals, (100, 0.0), (1, 1.0)),
            None
        );
        // Broken at two looks, then a window later no more.
        let mut life = Life::new(4);
        let mut guard = life.guard();
        life.run(&mut guard, 50, Harm::Refusals, (100, 0.0), (10, 0.0));
        assert_eq!(
            life.run(&mut guard, 2, Harm::Refusals, (100, 0.0), (100, 1.0)),
            None
        );
        life.seen.new.asked += 100_000;
        assert_eq!(
            life.run(&mut guard, 70, Harm::Refusals, (100, 0.0), (10, 0.0)),
            None
        );
    }

    #[test]
    fn less_than_twice_as_much_or_less_than_is_tolerated_ends_nothing() {
        let mut life = Life::new(5);
        let mut guard = life.guard();
        assert_eq!(
            life.run(&mut guard, 300, Harm::Refusals, (500, 0.2), (500, 0.3)),
            None
        );
        assert_eq!(
            life.run(&mut guard, 300, Harm::Errors, (500, 0.0), (500, 0.005)),
            None
        );
    }

    #[test]
    fn the_looks_kept_are_bounded_however_often_it_is_called() {
        let mut life = Life::new(6);
        let mut guard = life.guard();
        for _ in 0..10_000 {
            life.now += Duration::from_millis(7);
            let _ = guard.look(life.seen, life.now);
            assert!(guard.looks.len() <= MOST_LOOKS);
        }
        // A clock that stands still or steps back does no harm either.
        assert_eq!(guard.look(Seen::default(), Time::ZERO), None);
    }
}
