//! Ginkgo's report of a run, and ours of two.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use super::{Outcomes, Way};

/// What came of a test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outcome {
    pub(super) passed: bool,
    /// How long it took, seconds.
    pub(super) seconds: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    special_suite_failure_reasons: Option<Vec<String>>,
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    /// Nanoseconds.
    #[serde(default)]
    run_time: f64,
}

/// What came of the tests that were run, from Ginkgo's JSON report.
///
/// # Errors
/// When there is none, or it has no test: then none was run.
pub(super) fn read(path: &Path) -> anyhow::Result<Outcomes> {
    let text = std::fs::read_to_string(path).context("the tests left no report")?;
    parse(&text)
}

fn parse(text: &str) -> anyhow::Result<Outcomes> {
    let suites: Vec<Suite> = serde_json::from_str(text).context("the tests' report")?;
    let mut outcomes = Outcomes::new();
    let mut reasons = Vec::new();
    for suite in suites {
        reasons.extend(suite.special_suite_failure_reasons.unwrap_or_default());
        for spec in suite.spec_reports.unwrap_or_default() {
            if spec.leaf_node_type != "It" || spec.state == "skipped" || spec.state == "pending" {
                continue;
            }
            let mut words = spec.container_hierarchy_texts.unwrap_or_default();
            words.push(spec.leaf_node_text);
            let outcome = Outcome {
                passed: spec.state == "passed",
                seconds: spec.run_time / 1e9,
            };
            outcomes.insert(words.join(" "), outcome);
        }
    }
    anyhow::ensure!(!outcomes.is_empty(), "no test was run; {reasons:?}");
    Ok(outcomes)
}

/// `12 passed, 1 failed`.
pub(super) fn summary(outcomes: &Outcomes) -> String {
    let passed = outcomes.values().filter(|outcome| outcome.passed).count();
    format!("{passed} passed, {} failed", outcomes.len() - passed)
}

/// The tests that passed straight and did not pass through Spillway.
pub(super) fn worse(straight: &Outcomes, through: &Outcomes) -> Vec<String> {
    if through.is_empty() {
        return Vec::new(); // not asked for
    }
    let passed = straight.iter().filter(|(_, outcome)| outcome.passed);
    passed
        .filter(|(name, _)| !through.get(*name).is_some_and(|outcome| outcome.passed))
        .map(|(name, _)| name.clone())
        .collect()
}

/// Prints a table with a line for each test and a column for each way.
pub(super) fn print(results: &BTreeMap<Way, Outcomes>) {
    let names: BTreeSet<&String> = results.values().flat_map(BTreeMap::keys).collect();
    let ways: Vec<_> = results.keys().map(|way| way.name()).collect();
    println!("| test | {} |", ways.join(" | "));
    println!("| --- |{}", " --- |".repeat(ways.len()));
    for name in names {
        let cells = results.values().map(|outcomes| match outcomes.get(name) {
            Some(outcome) if outcome.passed => format!("passed, {:.0} s", outcome.seconds),
            Some(outcome) => format!("FAILED, {:.0} s", outcome.seconds),
            None => "not run".to_owned(),
        });
        println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    for (way, outcomes) in results {
        println!("\n{}: {}", way.name(), summary(outcomes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: &str) -> String {
        let spec = |kind: &str, name: &str, state: &str| {
            format!(
                r#"{{"ContainerHierarchyTexts":["[sig-x]"],"LeafNodeType":"{kind}",
                "LeafNodeText":"{name}","State":"{state}","RunTime":2000000000}}"#
            )
        };
        let specs = [
            spec("It", "works", state),
            spec("It", "is left out", "skipped"),
            spec("BeforeSuite", "", "passed"),
        ];
        format!(r#"[{{"SpecReports":[{}]}}]"#, specs.join(","))
    }

    #[test]
    fn only_tests_that_ran_count() {
        let outcomes = parse(&report("passed")).expect("a report");
        let (name, outcome) = outcomes.iter().next().expect("a test");
        assert_eq!((name.as_str(), outcome.passed), ("[sig-x] works", true));
        assert_eq!(outcome.seconds, 2.0);
        assert_eq!(outcomes.len(), 1);
    }

    #[test]
    fn a_run_without_a_test_is_no_success() {
        let nothing = parse(r#"[{"SpecReports":null,"SpecialSuiteFailureReasons":["broken"]}]"#);
        let problem = nothing.expect_err("nothing ran").to_string();
        assert!(problem.contains("broken"), "{problem}");
    }

    #[test]
    fn a_test_that_passes_straight_must_pass_through() {
        let passed = parse(&report("passed")).expect("a report");
        for state in ["failed", "panicked", "timedout", "skipped"] {
            let through = parse(&report(state)).unwrap_or_else(|_| {
                let failed = Outcome {
                    passed: false,
                    seconds: 0.0,
                };
                Outcomes::from([("another".to_owned(), failed)])
            });
            assert_eq!(worse(&passed, &through), ["[sig-x] works"], "{state}");
            assert!(worse(&through, &passed).is_empty());
        }
        assert!(worse(&passed, &passed).is_empty());
    }
}
