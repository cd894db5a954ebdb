//! The access log: one JSON line for a finished request, in `log.access.file`. `docs/logs.md` names its fields, which stay.

use config::AccessLog;
use http::HeaderValue;
use jiff::fmt::temporal::DateTimePrinter;
use serde::Serialize;

use super::End;
use super::log::{Entry, Finished, end_of};
use crate::accept::worker::Worker;
use crate::lane::Lane;
use crate::logging::Lines;
use crate::snapshot::Snapshot;

/// Texts that clients choose are cut after so many bytes.
const LONGEST: usize = 1024;

/// Where lines go, and how many of them.
#[derive(Debug)]
pub(crate) struct Access {
    lines: Lines,
    /// Of what was served, 0 to 1.
    share: f64,
}

/// A line. The names are `docs/logs.md`'s.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    audit_id: &'a str,
    lane: &'static str,
    address: std::net::IpAddr,
    user: &'a str,
    user_agent: &'a str,
    break_glass: bool,
    method: &'a str,
    verb: &'a str,
    path: &'a str,
    class: &'a str,
    rule: &'a str,
    cost_ms: f64,
    status: u16,
    end: &'static str,
    refused: &'a str,
    bytes: u64,
    waited_ms: Option<f64>,
    took_ms: f64,
    weight: f64,
}

impl Access {
    pub(crate) fn new(lines: Lines, log: &AccessLog) -> Self {
        Self {
            lines,
            share: log.sample.fraction(),
        }
    }

    pub(crate) const fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Writes a line, or not, as the sample has it.
    pub(crate) fn write(
        &self,
        worker: &Worker,
        entry: &Entry,
        snapshot: &Snapshot,
        of: &Finished<'_>,
    ) {
        let Some(weight) = self.weight(worker.lane, entry, of) else {
            return;
        };
        let user = entry
            .identity
            .as_ref()
            .map_or("", |identity| identity.user());
        let rule = entry
            .rule
            .map_or("", |rule| snapshot.policy.rule_name(rule));
        let line = Line {
            timestamp: now(),
            audit_id: text(entry.audit_id.as_ref()),
            lane: worker.lane.name(),
            address: entry.address,
            user: cut(user),
            user_agent: text(entry.user_agent.as_ref()),
            break_glass: entry.break_glass,
            method: cut(entry.method.as_str()),
            verb: of.verb,
            path: cut(entry.path.path()),
            class: of.class,
            rule,
            cost_ms: millis(entry.cost),
            status: of.status,
            end: end_of(entry, of),
            refused: cut(entry.refused.as_deref().unwrap_or_default()),
            bytes: of.bytes,
            waited_ms: of.waited.map(millis),
            took_ms: millis(of.took),
            weight,
        };
        let mut bytes = Vec::with_capacity(512);
        if serde_json::to_writer(&mut bytes, &line).is_ok() {
            bytes.push(b'\n');
            self.lines.put(bytes);
        }
    }

    /// How many requests the line stands for; `None`: none is written.
    fn weight(&self, lane: Lane, entry: &Entry, of: &Finished<'_>) -> Option<f64> {
        let served = entry.refused.is_none()
            && of.status < 500
            && !matches!(of.end, End::Broken | End::Ended);
        if lane == Lane::Reserved || !served || self.share >= 1.0 {
            Some(1.0)
        } else {
            (fastrand::f64() < self.share).then(|| 1.0 / self.share)
        }
    }
}

/// As precise as the other logs.
fn now() -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
    PRINTER.timestamp_to_string(&jiff::Timestamp::now())
}

/// To a microsecond.
pub(super) fn millis(duration: std::time::Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

pub(super) fn text(value: Option<&HeaderValue>) -> &str {
    cut(value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default())
}

fn cut(text: &str) -> &str {
    let mut end = LONGEST.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut(&"ü".repeat(LONGEST)).len(), LONGEST);
        assert_eq!(cut(&format!("a{}", "ü".repeat(LONGEST))).len(), LONGEST - 1);
        assert_eq!(cut("short"), "short");
    }
}
