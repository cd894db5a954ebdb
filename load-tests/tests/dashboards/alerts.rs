//! Recording rules and alerts: sound by promtool, tested one by one, and each with a page that says what to do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use super::{current, read, repository, there, unknown};

#[derive(Debug, Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

/// A rule: recorded, or an alert.
#[derive(Debug, Deserialize)]
pub(crate) struct Rule {
    #[serde(default)]
    pub(crate) record: String,
    #[serde(default)]
    pub(crate) alert: String,
    pub(crate) expr: String,
    #[serde(default, rename = "for")]
    lasting: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

pub(crate) fn rules(file: &str) -> Vec<Rule> {
    let text = read(&repository(&format!("deploy/prometheus/{file}")));
    let file: File =
        serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    file.groups
        .into_iter()
        .flat_map(|group| group.rules)
        .collect()
}

/// Names of all recorded series.
pub(crate) fn recorded() -> Vec<String> {
    let rules = rules("spillway.rules.yaml");
    rules.into_iter().map(|rule| rule.record).collect()
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(repository("deploy/prometheus"))
        .output()
        .expect("promtool");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn promtool_finds_the_rules_sound_and_their_tests_pass() {
    if !there("promtool") {
        return;
    }
    promtool(&[
        "check",
        "rules",
        "spillway.rules.yaml",
        "spillway.alerts.yaml",
    ]);
    promtool(&["check", "config", "--agent", "scrape.yaml"]);
    for test in ["rules", "alerts", "days"] {
        promtool(&["test", "rules", &format!("tests/{test}.yaml")]);
    }
}

#[test]
fn rules_and_alerts_ask_only_for_what_there_is() {
    let recorded = recorded();
    for rule in rules("spillway.rules.yaml")
        .iter()
        .chain(&rules("spillway.alerts.yaml"))
    {
        let name = format!("{}{}", rule.record, rule.alert);
        assert_eq!(
            unknown(&rule.expr, &recorded),
            Vec::<String>::new(),
            "{name}: {}",
            rule.expr
        );
    }
}

#[test]
fn every_alert_says_what_is_wrong_and_has_a_page_that_says_what_to_do() {
    for rule in rules("spillway.alerts.yaml") {
        let name = &rule.alert;
        let severity = rule.labels.get("severity").map(String::as_str);
        assert!(
            matches!(severity, Some("critical" | "warning" | "info")),
            "{name}: {severity:?}"
        );
        for key in ["summary", "description", "runbook_url"] {
            let there = rule
                .annotations
                .get(key)
                .is_some_and(|text| !text.is_empty());
            assert!(there, "{name} has no {key}");
        }
        let page = read(&repository(&rule.annotations["runbook_url"]));
        for part in ["## Meaning", "## Look", "## Do"] {
            assert!(page.contains(part), "{name}: its page has no `{part}`");
        }
    }
    // And no page of an alert that is gone.
    for entry in std::fs::read_dir(repository("docs/runbooks")).expect("runbooks") {
        let name = entry
            .expect("a file")
            .file_name()
            .to_string_lossy()
            .into_owned();
        let meant = |rule: &Rule| rule.annotations["runbook_url"].ends_with(&format!("/{name}"));
        assert!(
            rules("spillway.alerts.yaml").iter().any(meant),
            "{name} is of no alert"
        );
    }
}

#[test]
fn every_alert_and_every_rule_has_a_unit_test_in_which_it_appears() {
    let mut raised = Vec::new();
    let mut asked = String::new();
    for test in ["rules", "alerts", "days"] {
        let text = read(&repository(&format!("deploy/prometheus/tests/{test}.yaml")));
        let value: Value = serde_saphyr::from_str(&text).expect("YAML");
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        for case in list(&value["tests"]) {
            for one in list(&case["alert_rule_test"]) {
                if !list(&one["exp_alerts"]).is_empty() {
                    raised.push(one["alertname"].as_str().unwrap_or_default().to_owned());
                }
            }
            for one in list(&case["promql_expr_test"]) {
                if !list(&one["exp_samples"]).is_empty() {
                    asked += one["expr"].as_str().unwrap_or_default();
                    asked += "\n";
                }
            }
        }
    }
    for rule in rules("spillway.alerts.yaml") {
        assert!(
            raised.contains(&rule.alert),
            "no test raises {}",
            rule.alert
        );
    }
    for name in recorded() {
        assert!(asked.contains(&name), "no test asks for {name}");
    }
}

#[test]
fn the_alerts_reference_is_current() {
    let mut page = String::from(HEAD);
    for rule in rules("spillway.alerts.yaml") {
        let said = |key: &str| rule.annotations.get(key).cloned().unwrap_or_default();
        let link = said("runbook_url").replace("docs/", "");
        let expr = rule.expr.split_whitespace().collect::<Vec<_>>().join(" ");
        let lasting = if rule.lasting.is_empty() {
            "at once"
        } else {
            &rule.lasting
        };
        let severity = &rule.labels["severity"];
        let what = said("description")
            .replace("{{ $labels.", "*")
            .replace(" }}", "*");
        let _ = writeln!(
            page,
            "| [{}]({link}) | {severity} | {what} | {lasting} | `{}` |",
            rule.alert,
            expr.replace('|', "\\|"),
        );
    }
    page.push_str(RULES);
    for rule in rules("spillway.rules.yaml") {
        let expr = rule.expr.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            page,
            "| `{}` | `{}` |",
            rule.record,
            expr.replace('|', "\\|")
        );
    }
    current(&repository("docs/alerts.md"), &page);
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let docs = repository("docs");
    for folder in [docs.clone(), docs.join("runbooks")] {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("a file").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                check_links(&folder, &path);
            }
        }
    }
}

fn check_links(folder: &Path, path: &Path) {
    let text = read(path);
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split([')', '#']).next().unwrap_or_default();
        let here = target.is_empty() || target.contains("://") || folder.join(target).exists();
        assert!(here, "{}: {target} is not there", path.display());
    }
}

const HEAD: &str = "# Alerts

Generated from `deploy/prometheus`; after a change: `UPDATE_DASHBOARDS=1 cargo test -p load-tests --test dashboards current`.

Each name leads to what to do. `critical` wakes somebody; `warning` is for the working day; `info` is to be seen beside others.
All are tested with `promtool test rules` (`deploy/prometheus/tests`), and their expressions against real Spillways under load.
For the worst hour there is [one page](runbook.md).

| alert | severity | what | for | when |
| --- | --- | --- | --- | --- |
";

const RULES: &str = "
## Recorded series

| series | from |
| --- | --- |
";
