//! What the comparison found, for machines and for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

/// Name and version of the JSON.
pub const SCHEMA: &str = "spillway-transparency/1";

/// Everything that was found; as JSON, field names are as here.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Spillway's version.
    pub version: &'static str,
    /// The API server's.
    pub server: String,
    /// How long it took.
    pub seconds: f64,
    /// Groups of calls that were played, each over one version of HTTP.
    pub scenarios: usize,
    /// Calls that were compared; each was made at least three times.
    pub calls: usize,
    /// Calls by who made them.
    pub by_caller: BTreeMap<&'static str, usize>,
    /// Calls by version of HTTP.
    pub by_protocol: BTreeMap<&'static str, usize>,
    /// Calls by the status of the answer.
    pub by_status: BTreeMap<u16, usize>,
    /// Calls by how much of the contents could be compared.
    pub by_depth: BTreeMap<&'static str, usize>,
    /// Calls whose audit events were compared.
    pub audited: usize,
    /// Scenarios that were played again because something was different the
    /// first time.
    pub replayed: usize,
    /// Calls that Spillway refused because of overload; they were made again.
    pub shed: usize,
    /// Differences that must be.
    pub explained: Vec<Explained>,
    /// Differences nobody can explain: there must be none.
    pub unexplained: Vec<Difference>,
}

/// Differences with the same reason.
#[derive(Debug, Clone, Serialize)]
pub struct Explained {
    /// A word for it.
    pub id: &'static str,
    /// Why it must be so.
    pub why: &'static str,
    /// How often it was met.
    pub count: usize,
    /// The first of them.
    pub example: Difference,
}

/// One difference.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The scenario.
    pub scenario: &'static str,
    /// Who asked.
    pub caller: &'static str,
    /// Over which version of HTTP.
    pub protocol: &'static str,
    /// What was asked.
    pub call: String,
    /// Which part of the answer or of the audit log.
    pub part: String,
    /// What it is without Spillway.
    pub straight: String,
    /// What it is through Spillway.
    pub proxied: String,
}

impl Difference {
    /// In one line.
    pub fn line(&self) -> String {
        format!(
            "{} ({}): {}: {}: straight {}, through Spillway {}",
            self.scenario, self.protocol, self.call, self.part, self.straight, self.proxied
        )
    }
}

impl Report {
    /// Counts a difference that has a reason.
    pub(super) fn explain(&mut self, id: &'static str, why: &'static str, example: Difference) {
        match self
            .explained
            .iter_mut()
            .find(|explained| explained.id == id)
        {
            Some(explained) => explained.count += 1,
            None => self.explained.push(Explained {
                id,
                why,
                count: 1,
                example,
            }),
        }
    }

    /// As Markdown, from a heading of the second level on.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "## What was compared\n\n\
             kube-apiserver {}, Spillway {}: **{} calls** in {} scenarios, each call straight, \
             through Spillway, and straight again; the audit events of {}. **{} unexplained \
             differences.**\n",
            self.server,
            self.version,
            self.calls,
            self.scenarios,
            self.audited,
            self.unexplained.len()
        )?;
        let list = |counts: Vec<String>| counts.join(", ");
        let named = |counts: &BTreeMap<&'static str, usize>| {
            list(
                counts
                    .iter()
                    .map(|(name, count)| format!("{name} {count}"))
                    .collect(),
            )
        };
        let statuses = self
            .by_status
            .iter()
            .map(|(status, count)| format!("{status}: {count}"))
            .collect();
        writeln!(text, "| | calls |\n| --- | --- |")?;
        writeln!(text, "| callers | {} |", named(&self.by_caller))?;
        writeln!(text, "| protocols | {} |", named(&self.by_protocol))?;
        writeln!(text, "| answers | {} |", list(statuses))?;
        writeln!(text, "| contents compared | {} |", named(&self.by_depth))?;
        writeln!(text, "\n## Differences that must be\n")?;
        writeln!(
            text,
            "| | met | why | for example |\n| --- | --- | --- | --- |"
        )?;
        for explained in &self.explained {
            let example = &explained.example;
            writeln!(
                text,
                "| {} | {} | {} | `{}` {}: {} → {} |",
                explained.id,
                explained.count,
                explained.why,
                cell(&example.call),
                example.part,
                cell(&example.straight),
                cell(&example.proxied)
            )?;
        }
        if !self.unexplained.is_empty() {
            writeln!(text, "\n## Unexplained\n")?;
            for difference in &self.unexplained {
                writeln!(text, "* {}", difference.line())?;
            }
        }
        Ok(())
    }
}

/// A text that fits into a table's cell.
fn cell(text: &str) -> String {
    super::call::shortened(&text.replace('|', "\\|").replace(['\n', '\r'], " "), 100)
}
