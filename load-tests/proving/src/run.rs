//! Runs: scenarios, controllers and seeds, as many at once as there are processors.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use proxy_core::classify::ClassId;

use crate::controllers::{Choice, Setup};
use crate::measure::{Record, histogram, jain};
use crate::population::{Population, Sends};
use crate::scenario::{Expect, Scenario, WrongScenario};
use crate::world::World;

/// What came out of one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Who decided.
    pub choice: Choice,
    /// The seed.
    pub seed: u64,
    /// Who sent what, in the order of the record's tallies.
    pub populations: Vec<Population>,
    /// What was counted.
    pub record: Record,
}

/// Does `job` for all of `0..count`, several at once; the results in order.
pub fn several<T: Send>(count: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(count));
    let workers = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(count.max(1));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= count {
                        return;
                    }
                    let result = job(nth);
                    results
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((nth, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(nth, _)| *nth);
    results.into_iter().map(|(_, result)| result).collect()
}

/// One run.
///
/// # Errors
/// [`WrongScenario`] when a call of the scenario cannot be read.
pub fn once(
    scenario: &Scenario,
    choice: Choice,
    seed: u64,
    sample_every: Option<u64>,
) -> Result<Outcome, WrongScenario> {
    let controller = choice.make(Setup {
        cores: scenario.server.cores,
        seed,
    });
    let mut world = World::new(scenario, controller, seed)?;
    if let Some(every) = sample_every {
        world = world.sampled_every(every);
    }
    let populations = world.populations().to_vec();
    Ok(Outcome {
        choice,
        seed,
        populations,
        record: world.run(),
    })
}

/// Every choice with every seed from 1 to `seeds`; by choice, then seed.
///
/// # Errors
/// [`WrongScenario`] when a call of the scenario cannot be read.
pub fn all(
    scenario: &Scenario,
    choices: &[Choice],
    seeds: u64,
) -> Result<Vec<Vec<Outcome>>, WrongScenario> {
    let seeds = seeds.max(1) as usize;
    let mut outcomes = several(choices.len() * seeds, |nth| {
        once(
            scenario,
            choices[nth / seeds],
            (nth % seeds) as u64 + 1,
            None,
        )
    })
    .into_iter();
    choices
        .iter()
        .map(|_| outcomes.by_ref().take(seeds).collect())
        .collect()
}

impl Outcome {
    /// Sums something up over the populations that `of` picks.
    pub fn sum(
        &self,
        of: impl Fn(&Population) -> bool,
        what: impl Fn(&crate::measure::Tally) -> u64,
    ) -> u64 {
        self.populations
            .iter()
            .zip(&self.record.tallies)
            .filter(|(population, _)| of(population))
            .map(|(_, tally)| what(tally))
            .sum()
    }

    /// The share of calls answered in time of the populations that `of` picks; 1 if they made none.
    pub fn in_time(&self, of: impl Fn(&Population) -> bool + Copy) -> f64 {
        let calls = self.sum(of, |tally| tally.calls);
        if calls == 0 {
            1.0
        } else {
            self.sum(of, |tally| tally.in_time) as f64 / calls as f64
        }
    }

    /// Calls of classes 0 to 3 answered in time.
    #[must_use]
    pub fn important(&self) -> f64 {
        self.in_time(|population| !population.culprit && population.call.class <= ClassId::NODES)
    }

    /// Calls of all but the culprits answered in time.
    #[must_use]
    pub fn kept(&self) -> f64 {
        self.in_time(|population| !population.culprit)
    }

    /// Work answered in time, as a share of what was asked for or could be done, whichever is less. Who begins again whenever
    /// it is answered asks for all there is as long as it is there.
    #[must_use]
    pub fn useful(&self) -> f64 {
        let (from, until) = self.record.counted;
        let again = |population: &&Population| matches!(population.sends, Sends::Again(_));
        let all_there_is = self.populations.iter().filter(again).map(|population| {
            let there = population
                .until
                .min(until)
                .saturating_sub(population.from.max(from));
            (self.record.capacity as f64 * there as f64 / (until - from).max(1) as f64) as u64
        });
        let offered = self.sum(|population| !again(&population), |tally| tally.offered_work)
            + all_there_is.sum::<u64>();
        let could = offered.min(self.record.capacity).max(1);
        self.sum(|_| true, |tally| tally.useful) as f64 / could as f64
    }

    /// A quantile of the latency of those that `of` picks, µs.
    pub fn latency(&self, of: impl Fn(&Population) -> bool, quantile: f64) -> u64 {
        let mut together = histogram();
        for (population, tally) in self.populations.iter().zip(&self.record.tallies) {
            if of(population) {
                // The bounds of all histograms are the same.
                let _ = together.add(&tally.latency);
            }
        }
        together.value_at_quantile(quantile)
    }

    /// The slowest 99th percentile of classes 0 to 3, µs.
    #[must_use]
    pub fn slowest(&self) -> u64 {
        (0..=ClassId::NODES.0)
            .map(|class| {
                let of = |population: &Population| {
                    !population.culprit && population.call.class == ClassId(class)
                };
                self.latency(of, 0.99)
            })
            .max()
            .unwrap_or(0)
    }

    /// Requests per call, of those that `of` picks.
    pub fn amplification(&self, of: impl Fn(&Population) -> bool + Copy) -> f64 {
        self.sum(of, |tally| tally.requests) as f64
            / self.sum(of, |tally| tally.calls).max(1) as f64
    }

    /// Nodes taken for dead.
    #[must_use]
    pub fn nodes_lost(&self) -> u64 {
        self.sum(
            |population| matches!(population.sends, Sends::Heartbeat),
            |tally| tally.lapses,
        )
    }

    /// Leaders that lost their seats.
    #[must_use]
    pub fn leaders_lost(&self) -> u64 {
        self.sum(
            |population| matches!(population.sends, Sends::Leader(_)),
            |tally| tally.lapses,
        )
    }

    /// Jain's index over the tenants of the population of that name.
    #[must_use]
    pub fn jain(&self, name: &str) -> f64 {
        let of = self
            .populations
            .iter()
            .position(|population| population.name == name);
        of.and_then(|nth| self.record.tallies.get(nth))
            .map_or(1.0, |tally| jain(&tally.by_tenant))
    }

    /// What of the expectations does not hold.
    #[must_use]
    pub fn failures(&self, expect: &Expect) -> Vec<String> {
        let mut failures = Vec::new();
        let mut least = |what: &str, is: f64, wanted: Option<f64>| {
            if let Some(wanted) = wanted
                && is < wanted
            {
                failures.push(format!("{what} {is:.4} < {wanted}"));
            }
        };
        least("important", self.important(), expect.important);
        least("kept", self.kept(), expect.kept);
        least("useful", self.useful(), expect.useful);
        let mut most = |what: &str, is: u64, wanted: u64| {
            if is > wanted {
                failures.push(format!("{what} {is} > {wanted}"));
            }
        };
        if let Some(slowest) = expect.slowest {
            most("slowest µs", self.slowest(), slowest.micros());
        }
        for within in &expect.within {
            let p99 = self.latency(|population| population.name == within.clients, 0.99);
            most(&format!("{} µs", within.clients), p99, within.p99.micros());
        }
        most("killed", self.record.killed, expect.killed);
        most("nodes lost", self.nodes_lost(), expect.nodes_lost);
        most("leaders lost", self.leaders_lost(), expect.leaders_lost);
        failures
    }
}
