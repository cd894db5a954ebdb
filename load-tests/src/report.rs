//! What a demonstration found, as it is written to `--report FILE`.
//!
//! One JSON object, [`Report`]; field names are as here. Times are seconds
//! (`*_seconds`) or milliseconds (`*_ms`), rates are per second, sizes bytes.
//! What was not measured is `null`. [`SCHEMA`] changes when a field changes its
//! meaning or goes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::record::{Record, Tally};

/// Name and version of this format.
pub const SCHEMA: &str = "spillway-demo/1";

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Spillway's version.
    pub version: String,
    /// When it began, Unix seconds.
    pub started_at: u64,
    /// How long all of it took.
    pub seconds: f64,
    /// What was asked for.
    pub plan: Plan,
    /// What was protected, in one line.
    pub upstream: String,
    /// What the numbers need to be understood.
    pub notes: Vec<String>,
    /// What the upstream can serve beside its normal life.
    pub capacity: Capacity,
    /// Life signs while one bulk LIST at a time is served and nothing else of
    /// that size: on this machine nothing that admits LISTs can be better.
    pub floor: Option<Floor>,
    /// `direct`, `shadow`, `enforce`.
    pub arms: Vec<Arm>,
    /// What is claimed, and whether it held.
    pub verdict: Verdict,
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Length of the calm phase, and of the storm before the operator acts.
    pub seconds_per_phase: f64,
    /// Seed of all schedules.
    pub seed: u64,
    /// Large objects in the cluster.
    pub objects: usize,
    /// Telemetry agents, each with a connection and, where possible, a node and
    /// a bound token of its own.
    pub storm_nodes: usize,
    /// Storm over capacity.
    pub factor: f64,
}

/// What the upstream can serve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// Bytes of one bulk LIST.
    pub list_bytes: f64,
    /// LISTs with one under way.
    pub alone_per_second: f64,
    /// How many were under way in the other measurement: two per core.
    pub width: usize,
    /// LISTs with `width` under way.
    pub wide_per_second: f64,
}

impl Capacity {
    /// The better of both, LISTs per second.
    pub fn best(&self) -> f64 {
        self.alone_per_second.max(self.wide_per_second)
    }
}

/// One LIST at a time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Life signs' median.
    pub life_sign_p50_ms: Option<f64>,
    /// Life signs' 99th percentile.
    pub life_sign_p99_ms: Option<f64>,
    /// How many life signs that is of.
    pub life_signs: u64,
    /// A LIST's median.
    pub list_p50_ms: Option<f64>,
}

/// One way to the upstream.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// `direct`, `shadow` or `enforce`.
    pub name: String,
    /// `calm`, `storm`, `recovery`.
    pub phases: Vec<Phase>,
    /// How the operator fared.
    pub rollback: Rollback,
    /// Storm LISTs due per second.
    pub storm_rate: f64,
    /// From the end of the storm to when life signs' 99th percentile over two
    /// seconds stayed below twice the calm one or 50 ms; `null` if it did not.
    pub recovery_seconds: Option<f64>,
    /// Times the upstream had to be started again.
    pub upstream_restarts: u64,
    /// What Spillway said of itself at the end.
    pub proxy: Option<ProxyReport>,
}

impl Arm {
    /// A phase by its name.
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }
}

/// One phase.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `calm`, `storm`, `recovery`.
    pub name: String,
    /// How long it was.
    pub seconds: f64,
    /// By class, most important first.
    pub classes: Vec<Counts>,
    /// By population.
    pub populations: Vec<Counts>,
}

impl Phase {
    /// From a record that is complete.
    pub fn of(name: &str, seconds: f64, record: &Record) -> Self {
        let classes = record.classes().into_iter();
        let populations = record.populations().iter().enumerate();
        Self {
            name: name.to_owned(),
            seconds,
            classes: classes
                .map(|class| Counts::of(class, &record.class(class)))
                .collect(),
            populations: populations
                .map(|(index, population)| Counts::of(population.name, &record.population(index)))
                .collect(),
        }
    }

    /// A population by its name.
    pub fn population(&self, name: &str) -> Option<&Counts> {
        self.populations.iter().find(|counts| counts.name == name)
    }

    /// A class by its name.
    pub fn class(&self, name: &str) -> Option<&Counts> {
        self.classes.iter().find(|counts| counts.name == name)
    }
}

/// Requests of a class or population. Those due in the phase count in it,
/// however late they end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Of what.
    pub name: String,
    /// HTTP requests sent or due, retries included.
    pub offered: u64,
    /// Calls that ended, each with all its retries.
    pub calls: u64,
    /// Answered 2xx.
    pub served: u64,
    /// Answered 429.
    pub shed: u64,
    /// Failed otherwise.
    pub failed: u64,
    /// Given up by the client's own timeout.
    pub timed_out: u64,
    /// Under way when their client was stopped.
    pub cancelled: u64,
    /// Bytes of answers read.
    pub bytes: u64,
    /// Watch events.
    pub events: u64,
    /// Median from when a request was due until it was served or given up.
    pub p50_ms: Option<f64>,
    /// 99th percentile of the same.
    pub p99_ms: Option<f64>,
}

impl Counts {
    fn of(name: &str, tally: &Tally) -> Self {
        let millis = |share| Some(tally.quantile(share)?.as_secs_f64() * 1000.0);
        Self {
            name: name.to_owned(),
            offered: tally.offered,
            calls: tally.latency.len(),
            served: tally.served,
            shed: tally.shed,
            failed: tally.failed,
            timed_out: tally.timed_out,
            cancelled: tally.cancelled,
            bytes: tally.bytes,
            events: tally.events,
            p50_ms: millis(0.5),
            p99_ms: millis(0.99),
        }
    }

    /// Share of ended requests that were served; 1 without any.
    pub fn served_share(&self) -> f64 {
        let ended = self.offered.saturating_sub(self.cancelled);
        if ended == 0 {
            1.0
        } else {
            self.served as f64 / ended as f64
        }
    }
}

/// The deletion of the DaemonSet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rollback {
    /// Whether it succeeded before the operator gave up.
    pub succeeded: bool,
    /// How many calls it took.
    pub tries: u32,
    /// How long the call took that succeeded, connecting included.
    pub call_seconds: Option<f64>,
    /// From the storm's start to the first try.
    pub began_after_seconds: f64,
    /// From the storm's start to success.
    pub after_storm_start_seconds: Option<f64>,
    /// What became of the other tries.
    pub failures: Vec<String>,
}

/// What Spillway said of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProxyReport {
    /// Requests refused before the storm, by class and then reason.
    pub shed_in_calm: BTreeMap<String, BTreeMap<String, u64>>,
    /// Requests refused from the storm on, by class and then reason.
    pub shed: BTreeMap<String, BTreeMap<String, u64>>,
    /// What `enforce` would have refused from the storm on.
    pub shadow_shed: BTreeMap<String, BTreeMap<String, u64>>,
    /// Smallest limit seen during the storm, seconds of server time.
    pub least_limit_seconds: Option<f64>,
    /// Largest probe delay seen during the storm.
    pub most_probe_delay_ms: Option<f64>,
    /// Resident memory at the end, bytes.
    pub resident_bytes: Option<u64>,
    /// Processor time used.
    pub cpu_seconds: Option<f64>,
}

/// The judgement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether every required criterion was met.
    pub passed: bool,
    /// All criteria.
    pub criteria: Vec<Criterion>,
}

/// One claim.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Criterion {
    /// A name to find it by.
    pub name: String,
    /// Whether the exit status depends on it.
    pub required: bool,
    /// Whether it held.
    pub met: bool,
    /// What was found, and what was expected.
    pub finding: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Outcome, Population};

    #[test]
    fn what_is_written_reads_back_the_same() {
        let counts = Counts {
            name: "bulk".to_owned(),
            offered: 7,
            p99_ms: Some(1.5),
            ..Counts::default()
        };
        let shed = BTreeMap::from([("timeout".to_owned(), 3)]);
        let report = Report {
            schema: SCHEMA.to_owned(),
            floor: Some(Floor::default()),
            arms: vec![Arm {
                name: "enforce".to_owned(),
                phases: vec![Phase {
                    name: "storm".to_owned(),
                    seconds: 1.0,
                    classes: vec![counts.clone()],
                    populations: vec![counts],
                }],
                rollback: Rollback {
                    call_seconds: Some(0.25),
                    failures: vec!["status 429".to_owned()],
                    ..Rollback::default()
                },
                proxy: Some(ProxyReport {
                    shed: BTreeMap::from([("bulk".to_owned(), shed)]),
                    ..ProxyReport::default()
                }),
                ..Arm::default()
            }],
            verdict: Verdict {
                passed: true,
                criteria: vec![Criterion::default()],
            },
            ..Report::default()
        };
        let text = serde_json::to_string(&report).expect("serializable");
        let read: Report = serde_json::from_str(&text).expect("readable");
        assert_eq!(read, report);
        let phase = read.arms[0].phase("storm").expect("the phase");
        assert_eq!(phase.class("bulk").expect("the class").offered, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn counts_are_those_of_the_record() {
        static POPULATIONS: &[Population] = &[Population {
            name: "telemetry",
            class: "bulk",
        }];
        let record = Record::open(POPULATIONS);
        record.attempt(0).end(Outcome::Served);
        record.attempt(0).end(Outcome::Shed);
        drop(record.attempt(0));
        let phase = Phase::of("storm", 1.0, &record);
        let bulk = phase.class("bulk").expect("the class");
        assert_eq!((bulk.offered, bulk.served, bulk.shed), (3, 1, 1));
        assert_eq!(bulk.served_share(), 0.5, "the stopped one has no end");
        assert_eq!(phase.populations[0].name, "telemetry");
        assert_eq!(Counts::default().served_share(), 1.0);
    }
}
