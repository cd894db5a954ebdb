//! The end: one table per phase, and the verdict.

use std::fmt::Write as _;

use super::verdict::{bulk_bytes_per_second, bulk_served_per_second};
use crate::report::{Arm, Phase, Report};

/// Everything in a report that a person wants to see.
pub(crate) fn render(report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for arm in &report.arms {
        for phase in &arm.phases {
            let _ = writeln!(
                text,
                "\n{}: {} ({:.1} s)",
                arm.name, phase.name, phase.seconds
            );
            table(&mut text, phase);
        }
        let _ = writeln!(text, "  {}", rollback(arm));
        match arm.recovery_seconds {
            Some(seconds) => {
                let _ = writeln!(
                    text,
                    "  life signs recovered {seconds:.1} s after the storm"
                );
            }
            None => {
                let _ = writeln!(text, "  life signs did not recover within the phase");
            }
        }
        if arm.upstream_restarts > 0 {
            let _ = writeln!(
                text,
                "  the apiserver died {} time(s)",
                arm.upstream_restarts
            );
        }
    }
    comparison(&mut text, report);
    verdict(&mut text, report);
    text
}

fn table(text: &mut String, phase: &Phase) {
    let _ = writeln!(
        text,
        "  {:<16} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11} {:>11}",
        "class", "offered", "served", "shed", "failed", "timed out", "p50 ms", "p99 ms"
    );
    for counts in &phase.classes {
        if counts.offered == 0 {
            continue;
        }
        let _ = write!(
            text,
            "  {:<16} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11} {:>11}",
            counts.name,
            counts.offered,
            counts.served,
            counts.shed,
            counts.failed,
            counts.timed_out,
            millis(counts.p50_ms),
            millis(counts.p99_ms)
        );
        if counts.cancelled > 0 {
            let _ = write!(text, "   {} stopped under way", counts.cancelled);
        }
        text.push('\n');
    }
}

fn rollback(arm: &Arm) -> String {
    let rollback = &arm.rollback;
    match (rollback.after_storm_start_seconds, rollback.call_seconds) {
        (Some(after), Some(call)) => format!(
            "rollback succeeded {after:.2} s after the storm began ({:.1} s of them before the \
             operator acted): {} {}, {:.0} ms for the one that succeeded",
            rollback.began_after_seconds,
            rollback.tries,
            if rollback.tries == 1 { "try" } else { "tries" },
            call * 1e3
        ),
        _ => format!(
            "rollback did NOT succeed in {} tries; the last: {}",
            rollback.tries,
            rollback.failures.last().map_or("-", String::as_str)
        ),
    }
}

fn comparison(text: &mut String, report: &Report) {
    let _ = writeln!(
        text,
        "\nIn the storm\n  {:<8} {:>12} {:>12} {:>16} {:>16} {:>12}",
        "", "LISTs/s", "MB/s", "life signs p99", "life signs lost", "rollback s"
    );
    for arm in &report.arms {
        let signs = arm
            .phase("storm")
            .and_then(|phase| phase.class("life-signs"));
        let lost = signs.map(|signs| signs.shed + signs.failed + signs.timed_out);
        let _ = writeln!(
            text,
            "  {:<8} {:>12} {:>12} {:>16} {:>16} {:>12}",
            arm.name,
            number(bulk_served_per_second(arm), 2),
            number(bulk_bytes_per_second(arm).map(|bytes| bytes / 1e6), 1),
            number(signs.and_then(|signs| signs.p99_ms), 1),
            lost.map_or_else(|| "-".to_owned(), |lost| lost.to_string()),
            number(arm.rollback.after_storm_start_seconds, 2)
        );
    }
    let capacity = &report.capacity;
    let _ = writeln!(
        text,
        "  capacity: {:.2} LISTs/s of {:.1} MB one at a time, {:.2}/s with {} at a time",
        capacity.alone_per_second,
        capacity.list_bytes / 1e6,
        capacity.wide_per_second,
        capacity.width
    );
    if let Some(floor) = &report.floor {
        let _ = writeln!(
            text,
            "  floor: life signs beside one LIST at a time: p50 {} ms, p99 {} ms ({} of them)",
            millis(floor.life_sign_p50_ms),
            millis(floor.life_sign_p99_ms),
            floor.life_signs
        );
    }
    for arm in &report.arms {
        if let Some(proxy) = &arm.proxy {
            let sum = |by: &std::collections::BTreeMap<String, _>| -> String {
                let by: Vec<String> = by
                    .iter()
                    .map(
                        |(class, reasons): (&String, &std::collections::BTreeMap<_, u64>)| {
                            format!("{class} {}", reasons.values().sum::<u64>())
                        },
                    )
                    .collect();
                if by.is_empty() {
                    "nothing".to_owned()
                } else {
                    by.join(", ")
                }
            };
            let _ = writeln!(
                text,
                "  Spillway in {}: refused {} (before the storm {}), would have refused {}; used {} s of CPU, {} MB",
                arm.name,
                sum(&proxy.shed),
                sum(&proxy.shed_in_calm),
                sum(&proxy.shadow_shed),
                number(proxy.cpu_seconds, 1),
                number(proxy.resident_bytes.map(|bytes| bytes as f64 / 1e6), 0)
            );
        }
    }
}

fn verdict(text: &mut String, report: &Report) {
    let _ = writeln!(text, "\nVerdict");
    for criterion in &report.verdict.criteria {
        let mark = match (criterion.met, criterion.required) {
            (true, _) => "held",
            (false, true) => "FAILED",
            (false, false) => "missed",
        };
        let _ = writeln!(
            text,
            "  {mark:<7} {}: {}",
            criterion.name, criterion.finding
        );
    }
    let passed = if report.verdict.passed {
        "PASSED"
    } else {
        "NOT PASSED"
    };
    let _ = writeln!(text, "{passed} in {:.0} s", report.seconds);
}

fn millis(value: Option<f64>) -> String {
    number(value, 1)
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Counts, Criterion, Rollback};

    #[test]
    fn every_phase_has_a_table_and_every_criterion_a_line() {
        let arm = |name: &str| Arm {
            name: name.to_owned(),
            phases: vec![Phase {
                name: "storm".to_owned(),
                classes: vec![Counts {
                    name: "life-signs".to_owned(),
                    offered: 12_345,
                    ..Counts::default()
                }],
                ..Phase::default()
            }],
            rollback: Rollback {
                tries: 3,
                failures: vec!["status 504".to_owned()],
                ..Rollback::default()
            },
            ..Arm::default()
        };
        let mut report = Report {
            arms: vec![arm("direct"), arm("enforce")],
            ..Report::default()
        };
        report.verdict.criteria.push(Criterion {
            name: "rollback at once".to_owned(),
            required: true,
            ..Criterion::default()
        });
        let text = render(&report);
        assert_eq!(text.matches("12345").count(), 2);
        assert!(text.contains("did NOT succeed in 3 tries; the last: status 504"));
        assert!(text.contains("FAILED  rollback at once"));
        assert!(text.contains("NOT PASSED"));
    }
}
