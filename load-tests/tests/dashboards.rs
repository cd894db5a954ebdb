//! Dashboards, recording rules and alerts: well formed, about series there are, and answered by a real Prometheus that
//! scrapes real Spillways under load.
//!
//! After a change of `deploy/grafana/dashboards.yaml` or of the alerts, write what is made from them anew with
//! `UPDATE_DASHBOARDS=1 cargo test -p load-tests --test dashboards current`.

#[path = "dashboards/alerts.rs"]
mod alerts;
#[path = "dashboards/answered.rs"]
mod answered;
#[path = "dashboards/grafana.rs"]
mod grafana;
#[path = "dashboards/load.rs"]
mod load;
#[path = "dashboards/prometheus.rs"]
mod prometheus;

use std::path::{Path, PathBuf};

use load_tests::control_plane::REQUIRE_VARIABLE;
use proxy_server::metrics::families;

/// A path of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares a file made from others with what it should be, and writes it if asked to.
fn current(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_DASHBOARDS").is_some() {
        std::fs::write(path, text).expect("written");
    }
    assert!(
        std::fs::read_to_string(path).unwrap_or_default() == text,
        "{} is stale; run UPDATE_DASHBOARDS=1 cargo test -p load-tests --test dashboards current",
        path.display()
    );
}

/// Whether a program of Debian's `prometheus` package is there; it must be where nothing may be skipped.
fn there(program: &str) -> bool {
    let found = std::process::Command::new(program)
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    let required = std::env::var(REQUIRE_VARIABLE).is_ok_and(|value| value == "1");
    assert!(found || !required, "{program} is not on the PATH");
    if !found {
        println!("skipped: {program} is not on the PATH (Debian: apt-get install prometheus)");
    }
    found
}

/// Every series or recorded series an expression names, with the labels it asks for: `name{…}`.
fn selectors(expr: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = expr;
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    while let Some(start) = rest.find(|letter: char| word(letter) || letter == '"') {
        rest = &rest[start..];
        if let Some(text) = rest.strip_prefix('"') {
            rest = text.split_once('"').map_or("", |(_, after)| after);
            continue;
        }
        let end = rest.find(|letter| !word(letter)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let labels = match after.find('}') {
            Some(close) if after.starts_with('{') => &after[..=close],
            _ => "",
        };
        if name.contains("spillway_") || name == "up" || name == "ALERTS" {
            found.push(format!("{name}{labels}"));
        }
        rest = &after[labels.len()..];
    }
    found
}

/// What an expression names that is neither a series of the source, nor recorded, nor Prometheus' own.
fn unknown(expr: &str, recorded: &[String]) -> Vec<String> {
    let families = families();
    let known = |name: &str| {
        let of_family = families.iter().any(|family| {
            family.name == name
                || (family.kind == "histogram"
                    && ["_bucket", "_sum", "_count"]
                        .iter()
                        .any(|end| name.strip_suffix(end) == Some(&family.name)))
        });
        of_family || recorded.iter().any(|other| other == name) || ["up", "ALERTS"].contains(&name)
    };
    selectors(expr)
        .iter()
        .map(|selector| selector.split('{').next().unwrap_or_default().to_owned())
        .filter(|name| !known(name))
        .collect()
}

#[test]
fn series_are_found_in_an_expression() {
    let expr = "sum by (spillway) (rate(spillway_a_total{b=~\"x|spillway_c\", d=\"}\"}[2m])) / class:spillway_e:f > up{job=\"g\"}";
    // A bracket inside quotes would end the labels too early: no label of ours has one.
    let found = selectors(&expr.replace(", d=\"}\"", ""));
    assert_eq!(
        found,
        [
            "spillway_a_total{b=~\"x|spillway_c\"}",
            "class:spillway_e:f",
            "up{job=\"g\"}"
        ]
    );
    assert_eq!(
        unknown("spillway_no_such_total", &[]),
        ["spillway_no_such_total"]
    );
    assert!(unknown("rate(spillway_queue_delay_seconds_bucket[1m])", &[]).is_empty());
}
