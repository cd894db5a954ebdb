//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::kinds::{Attack, Done};
use super::polite::Seen;

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) upstream: String,
    /// Of a round.
    pub(super) seconds: f64,
    pub(super) rounds: u32,
    pub(super) pods: usize,
    pub(super) rows: Vec<Row>,
}

/// One attack.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) attack: &'static str,
    /// What is counted.
    pub(super) piece: &'static str,
    /// Pieces the attackers got rid of, per second.
    pub(super) rate: f64,
    /// Connections they opened, and how many were told to calm down.
    pub(super) connections: u64,
    pub(super) calmed: u64,
    /// Milliseconds, of the others.
    pub(super) p50_calm: Option<f64>,
    pub(super) p50_attacked: Option<f64>,
    pub(super) p99_calm: Option<f64>,
    pub(super) p99_attacked: Option<f64>,
    /// Their requests that were not answered with 200, and why.
    pub(super) failures_calm: u64,
    pub(super) failures_attacked: u64,
    pub(super) failures: BTreeMap<String, u64>,
    /// Of their requests in attacked rounds.
    pub(super) requests_attacked: u64,
    /// The proxy's memory above what it had before, at its highest and in the end, bytes.
    pub(super) peak_bytes: u64,
    pub(super) left_bytes: u64,
    /// Processor time of the proxy, seconds per second.
    pub(super) cpu_calm: f64,
    pub(super) cpu_attacked: f64,
}

impl Row {
    pub(super) fn new(attack: &Attack) -> Self {
        Self {
            attack: attack.name,
            piece: attack.piece,
            rate: 0.0,
            connections: 0,
            calmed: 0,
            p50_calm: None,
            p50_attacked: None,
            p99_calm: None,
            p99_attacked: None,
            failures_calm: 0,
            failures_attacked: 0,
            failures: BTreeMap::new(),
            requests_attacked: 0,
            peak_bytes: 0,
            left_bytes: 0,
            cpu_calm: 0.0,
            cpu_attacked: 0.0,
        }
    }

    /// What both sides saw in `seconds` of attack.
    pub(super) fn note(&mut self, done: &Done, calm: &mut Seen, attacked: &mut Seen, seconds: f64) {
        self.rate = done.pieces.load(Ordering::Relaxed) as f64 / seconds;
        self.connections = done.connections.load(Ordering::Relaxed);
        self.calmed = done.calmed.load(Ordering::Relaxed);
        self.p50_calm = calm.quantile(0.5);
        self.p50_attacked = attacked.quantile(0.5);
        self.p99_calm = calm.quantile(0.99);
        self.p99_attacked = attacked.quantile(0.99);
        self.failures_calm = calm.failed();
        self.failures_attacked = attacked.failed();
        self.requests_attacked = attacked.latencies.len() as u64 + attacked.failed();
        self.failures.clone_from(&attacked.failures);
    }
}

impl Report {
    /// A table in Markdown.
    pub(super) fn render(&self) -> String {
        let mut text = format!(
            "{}; {} pods; {} calm and {} attacked rounds of {} s in turn\n\n",
            self.upstream, self.pods, self.rounds, self.rounds, self.seconds
        );
        text.push_str(
            "| attack | a second | told to calm down | p50, ms | p99, ms | failed | memory, MB | CPU |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        let ms = |value: Option<f64>| {
            value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1}"))
        };
        for row in &self.rows {
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "| {} ({}) | {:.0} | {} of {} | {} → {} | {} → {} | {} → {} of {} | +{:.0}, left {:.0} | {:.2} → {:.2} |",
                row.attack,
                row.piece,
                row.rate,
                row.calmed,
                row.connections,
                ms(row.p50_calm),
                ms(row.p50_attacked),
                ms(row.p99_calm),
                ms(row.p99_attacked),
                row.failures_calm,
                row.failures_attacked,
                row.requests_attacked,
                row.peak_bytes as f64 / 1e6,
                row.left_bytes as f64 / 1e6,
                row.cpu_calm,
                row.cpu_attacked,
            );
        }
        text
    }
}
