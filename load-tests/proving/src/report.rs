//! Tables of what came out, for people and for machines.

use std::fmt::Write as _;

use serde::Serialize;

use crate::measure::CLASSES;
use crate::run::Outcome;
use crate::scenario::Scenario;

/// A number over several seeds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Spread {
    /// Of these.
    #[must_use]
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let all: Vec<f64> = values.collect();
        let count = all.len().max(1) as f64;
        Self {
            mean: all.iter().sum::<f64>() / count,
            least: all.iter().copied().reduce(f64::min).unwrap_or(0.0),
            most: all.iter().copied().reduce(f64::max).unwrap_or(0.0),
        }
    }

    /// Mean and range, with so many decimals, times `factor`.
    #[must_use]
    pub fn show(&self, factor: f64, decimals: usize) -> String {
        let Self { mean, least, most } = *self;
        let show = |value: f64| format!("{:.decimals$}", value * factor);
        let (low, high) = (show(least), show(most));
        if low == high {
            low
        } else {
            format!("{} ({low}–{high})", show(mean))
        }
    }
}

/// One controller's line.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Who decided.
    pub controller: String,
    /// Calls of classes 0 to 3 answered in time, 0..1.
    pub important: Spread,
    /// Calls of all but the culprits answered in time, 0..1.
    pub kept: Spread,
    /// Work answered in time, of what was asked for or could be done.
    pub useful: Spread,
    /// Slowest 99th percentile of classes 0 to 3, ms.
    pub slowest_ms: Spread,
    /// Most memory, of the limit.
    pub memory: Spread,
    /// Times the server was killed.
    pub killed: Spread,
    /// Nodes taken for dead.
    pub nodes_lost: Spread,
    /// Leaders that lost their seats.
    pub leaders_lost: Spread,
    /// Requests per call.
    pub amplification: Spread,
    /// Priority inversions, of either kind.
    pub inversions: Spread,
    /// What did not hold, by seed; empty: all held.
    pub failures: Vec<String>,
}

impl Line {
    /// Of one controller's runs.
    #[must_use]
    pub fn of(scenario: &Scenario, runs: &[Outcome]) -> Self {
        let over = |of: &dyn Fn(&Outcome) -> f64| Spread::of(runs.iter().map(of));
        let failed = |run: &Outcome| {
            let failures = run.failures(&scenario.expect);
            (!failures.is_empty()).then(|| format!("seed {}: {}", run.seed, failures.join(", ")))
        };
        Self {
            controller: runs
                .first()
                .map_or_else(String::new, |run| run.choice.name()),
            important: over(&Outcome::important),
            kept: over(&Outcome::kept),
            useful: over(&Outcome::useful),
            slowest_ms: over(&|run| run.slowest() as f64 / 1e3),
            memory: over(&|run| run.record.memory),
            killed: over(&|run| run.record.killed as f64),
            nodes_lost: over(&|run| run.nodes_lost() as f64),
            leaders_lost: over(&|run| run.leaders_lost() as f64),
            amplification: over(&|run| run.amplification(|_| true)),
            inversions: over(&|run| run.record.inversions[1] as f64),
            failures: runs.iter().filter_map(failed).collect(),
        }
    }
}

/// The table of a scenario.
#[must_use]
pub fn table(scenario: &Scenario, lines: &[Line]) -> String {
    let mut text = format!("## {}\n\n{}\n\n", scenario.name, scenario.about.trim());
    text += "| controller | classes 0–3 in time, % | all but culprits, % | useful work, % | p99 of 0–3, ms | memory, % | killed \
             | nodes lost | leaders lost | requests per call | inversions | |\n";
    text += "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for line in lines {
        let verdict = if line.failures.is_empty() {
            "holds"
        } else {
            "fails"
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {verdict} |",
            line.controller,
            line.important.show(100.0, 2),
            line.kept.show(100.0, 2),
            line.useful.show(100.0, 1),
            line.slowest_ms.show(1.0, 0),
            line.memory.show(100.0, 0),
            line.killed.show(1.0, 0),
            line.nodes_lost.show(1.0, 0),
            line.leaders_lost.show(1.0, 0),
            line.amplification.show(1.0, 2),
            line.inversions.show(1.0, 0),
        );
    }
    for line in lines {
        if let Some(first) = line.failures.first() {
            let _ = writeln!(text, "\n{} fails: {first}", line.controller);
        }
    }
    text
}

/// One run's curves as comma-separated values, a line per sample.
#[must_use]
pub fn csv(run: &Outcome) -> String {
    let mut text = String::from(
        "seconds,cores,offered_ms,useful_ms,limit,probe_ms,p99_ms,memory_mib,backlog_ms,victims",
    );
    for class in 0..CLASSES {
        let _ = write!(text, ",offered_ms_{class},useful_ms_{class},shed_{class}");
    }
    text.push('\n');
    for sample in &run.record.samples {
        let _ = write!(
            text,
            "{:.2},{},{},{},{:.1},{:.1},{:.1},{},{:.1},{}",
            sample.at as f64 / 1e6,
            sample.cores,
            sample.offered.iter().sum::<u64>() / 1_000,
            sample.useful.iter().sum::<u64>() / 1_000,
            sample.limit,
            sample.probe_ms,
            sample.p99_ms,
            sample.memory >> 20,
            sample.backlog_ms,
            sample.victims,
        );
        for class in 0..CLASSES {
            let (offered, useful) = (sample.offered[class] / 1_000, sample.useful[class] / 1_000);
            let _ = write!(text, ",{offered},{useful},{}", sample.shed[class]);
        }
        text.push('\n');
    }
    text
}
