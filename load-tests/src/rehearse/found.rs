//! What was found, as a row of a table and as JSON.

use std::fmt;

use serde::Serialize;

use crate::demo::life::{POPULATIONS, TELEMETRY};
use crate::report::{Counts, Phase};

/// One scenario, one way.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Found {
    pub(super) scenario: String,
    /// Through Spillway, or straight to the server.
    pub(super) through: bool,
    /// `calm`, `trouble`, `recovery`: everybody by class and population.
    pub(super) phases: Vec<Phase>,
    /// The operator during the trouble: on the reserved lane, or straight.
    pub(super) operator: Phase,
    /// From the end of the trouble to when life signs were as when calm; `null` if they were not.
    pub(super) stable_after_seconds: Option<f64>,
    pub(super) server_peak_bytes: Option<u64>,
    pub(super) proxy_cpu_seconds: Option<f64>,
    pub(super) proxy_resident_bytes: Option<u64>,
    /// Whether the server became ready again after it was stopped.
    pub(super) server_returned: bool,
    pub(super) outcome: Outcome,
}

/// What became of those who caused it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    /// How long it took.
    pub(super) seconds: f64,
    /// Informers there were, and how many watched at the end.
    pub(super) informers: usize,
    pub(super) watching: usize,
    /// LISTs they were served (once the server was stopped, where it was).
    pub(super) lists: u64,
    /// Calls served, by team.
    pub(super) served_by_team: Vec<u64>,
}

impl Outcome {
    /// Jain's index over the teams: 1 when all got the same.
    fn jain(&self) -> Option<f64> {
        let sum: f64 = self.served_by_team.iter().map(|&n| n as f64).sum();
        let squares: f64 = self
            .served_by_team
            .iter()
            .map(|&n| (n as f64).powi(2))
            .sum();
        (squares > 0.0).then(|| sum * sum / (self.served_by_team.len() as f64 * squares))
    }
}

/// The table's head, Markdown.
pub(super) const HEAD: &str = "\
| scenario | way | life signs lost; p99, ms | control plane, operators, nodes lost; p99 | workloads lost; p99 | reserved lane lost; p99 | culprits served, refused, failed | server's memory, MB | calm after, s | |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

/// Calls lost, of all that were due: a call that was repeated until it was served is not lost.
fn lost(phase: &Phase, classes: &[&str]) -> (f64, f64) {
    let (mut served, mut ended, mut p99) = (0.0, 0.0, 0.0_f64);
    for class in classes.iter().filter_map(|class| phase.class(class)) {
        served += class.served as f64;
        ended += class.calls as f64;
        p99 = p99.max(class.p99_ms.unwrap_or(0.0));
    }
    if ended == 0.0 {
        return (0.0, p99);
    }
    ((100.0 * (1.0 - served / ended)).max(0.0), p99)
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = |name: &str| self.phases.iter().find(|phase| phase.name == name);
        let (Some(calm), Some(trouble)) = (phase("calm"), phase("trouble")) else {
            return Err(fmt::Error);
        };
        let way = if self.through { "through" } else { "straight" };
        write!(f, "| {} | {way} |", self.scenario)?;
        for classes in [
            &["life-signs"][..],
            &["control-plane", "operators", "nodes"],
            &["workload-writes", "workload-reads"],
        ] {
            let (lost_now, p99) = lost(trouble, classes);
            let (_, before) = lost(calm, classes);
            write!(f, " {lost_now:.1} %; {before:.0} → {p99:.0} |")?;
        }
        let (lane_lost, lane) = lost(&self.operator, &["reserved"]);
        write!(f, " {lane_lost:.1} %; {lane:.0} |")?;
        let culprit = POPULATIONS.get(TELEMETRY).map_or("", |them| them.name);
        let nobody = Counts::default();
        let culprits = trouble.population(culprit).unwrap_or(&nobody);
        let failed = culprits.failed + culprits.timed_out;
        write!(f, " {}, {}, {failed} |", culprits.served, culprits.shed)?;
        match self.server_peak_bytes {
            Some(bytes) => write!(f, " {:.0} |", bytes as f64 / 1e6)?,
            None => f.write_str(" – |")?,
        }
        match self.stable_after_seconds {
            Some(after) => write!(f, " {after:.1} |")?,
            None => f.write_str(" not in time |")?,
        }
        if !self.server_returned {
            f.write_str(" the server did not become ready again;")?;
        }
        let outcome = &self.outcome;
        if outcome.informers > 0 {
            write!(
                f,
                " {} of {} watch after {:.1} s, {} LISTs",
                outcome.watching, outcome.informers, outcome.seconds, outcome.lists
            )?;
        } else if let Some(jain) = outcome.jain() {
            write!(f, " Jain {jain:.4}")?;
        }
        f.write_str(" |")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_served_in_the_end_is_not_lost() {
        let class = |name: &str, served, calls| Counts {
            name: name.to_owned(),
            offered: 3 * calls,
            served,
            calls,
            p99_ms: Some(calls as f64),
            ..Counts::default()
        };
        let phase = Phase {
            classes: vec![class("nodes", 10, 10), class("operators", 5, 10)],
            ..Phase::default()
        };
        assert_eq!(lost(&phase, &["nodes"]), (0.0, 10.0));
        assert_eq!(lost(&phase, &["nodes", "operators"]), (25.0, 10.0));
        assert_eq!(lost(&phase, &["bulk"]), (0.0, 0.0));
    }

    #[test]
    fn equal_shares_are_fair() {
        let shares = |served_by_team: Vec<u64>| {
            Outcome {
                seconds: 1.0,
                informers: 0,
                watching: 0,
                lists: 0,
                served_by_team,
            }
            .jain()
        };
        assert_eq!(shares(vec![5; 10]), Some(1.0));
        assert_eq!(shares(vec![10, 0]), Some(0.5));
        assert_eq!(shares(vec![0; 10]), None);
    }
}
