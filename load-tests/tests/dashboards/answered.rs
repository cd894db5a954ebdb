//! Every query of every dashboard, rule and alert, asked of a real Prometheus that scrapes real Spillways under load.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::load::{Site, number};
use super::prometheus::Prometheus;
use super::{alerts, grafana, selectors, there};

/// How long the load may take to show what is waited for. Most of it is what the culprit's finder and a busy machine need.
const PATIENCE: Duration = Duration::from_secs(180);

/// Queries that rightly find nothing here, by a text in them, and why.
const EMPTY: [(&str, &str); 1] = [(
    "offset 10m",
    "compares with ten minutes ago, and nothing here is as old as that",
)];

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("spillway-dashboards-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a dashboard's variables stand for here.
fn filled(expr: &str) -> String {
    expr.replace("$__rate_interval", "1m")
        .replace("$__range", "5m")
        .replace("$instance", ".+")
        .replace("$class", ".+")
}

/// Waits until a query finds something above 0. While Prometheus starts it answers 503.
async fn until(prometheus: &Prometheus, what: &str, expr: &str) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = prometheus.query(expr).await;
        let there = |found: &Vec<_>| found.iter().any(|sample| number(sample) > 0.0);
        if found.as_ref().is_ok_and(there) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{what}: {expr} found {found:?}");
        sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_is_answered_under_load() -> Result<()> {
    if !there("prometheus") || !there("promtool") {
        return Ok(());
    }
    let dir = Scratch::new()?;
    let enforce = Site::start(&dir.0, "enforce", &dir.0.join("audit.log")).await?;
    // Its disk is full.
    let shadow = Site::start(&dir.0, "shadow", Path::new("/dev/full")).await?;
    let targets = [("enforce", enforce.admin), ("shadow", shadow.admin)];
    let prometheus = Prometheus::start(&dir.0, &targets).await?;
    until(&prometheus, "both are scraped", "sum(up) == 2").await?;

    let mut load = JoinSet::new();
    enforce.live(&mut load)?;
    shadow.live(&mut load)?;
    enforce.stage(None).await?;
    shadow.stage(Some("50")).await?;
    enforce.configure(false)?;
    let refused = "increase(spillway_config_reloads_total{result=\"refused\"}[1m])";
    for (what, expr) in [
        ("a reload is refused", refused),
        (
            "something is refused",
            "rate(spillway_shed_total{instance=\"enforce\"}[1m])",
        ),
        (
            "something would be",
            "rate(spillway_shadow_shed_total{instance=\"shadow\"}[1m])",
        ),
        (
            "the reserved lane is used",
            "rate(spillway_requests_total{lane=\"reserved\", code=\"2xx\"}[1m])",
        ),
        (
            "a limit refuses",
            "rate(spillway_limit_refused_total{carried_out=\"true\"}[1m])",
        ),
        (
            "one of a staged policy would",
            "rate(spillway_policy_limit_differences_total{difference=\"newly_refused\"}[1m])",
        ),
        (
            "a staged policy moves requests",
            "rate(spillway_policy_moved_total{instance=\"enforce\"}[1m])",
        ),
        ("a culprit is named", "spillway_culprit_share_ratio"),
        ("shares are recorded", "class:spillway_shed:ratio_rate2m"),
        (
            "an alert is raised",
            "ALERTS{alertname=\"SpillwayCulprit\", alertstate=\"firing\"}",
        ),
        (
            "another is",
            "ALERTS{alertname=\"SpillwayConfigRefused\", alertstate=\"firing\"}",
        ),
        (
            "and one of the full disk",
            "ALERTS{alertname=\"SpillwayAuditLogNotWritten\", instance=\"shadow\", alertstate=\"firing\"}",
        ),
    ] {
        until(&prometheus, what, expr).await?;
    }
    enforce.configure(true)?;

    // What dashboards ask finds something.
    let mut wrong = Vec::new();
    for (place, expr) in grafana::queries() {
        let excused = EMPTY.iter().any(|(text, _)| expr.contains(text));
        match prometheus.query(&filled(&expr)).await {
            Ok(found) if found.is_empty() != excused => {
                wrong.push(format!("{place}: {} samples: {expr}", found.len()));
            }
            Ok(_) => {}
            Err(error) => wrong.push(format!("{place}: {error}: {expr}")),
        }
    }
    // Alerts mostly find nothing, and should; the series they look at must be there.
    let alerts = alerts::rules("spillway.alerts.yaml");
    for rule in alerts.iter().chain(&alerts::rules("spillway.rules.yaml")) {
        let name = format!("{}{}", rule.alert, rule.record);
        if let Err(error) = prometheus.query(&rule.expr).await {
            wrong.push(format!("{name}: {error}: {}", rule.expr));
        }
        for selector in selectors(&rule.expr)
            .iter()
            .chain((!rule.record.is_empty()).then_some(&rule.record))
        {
            if prometheus.query(selector).await?.is_empty() {
                wrong.push(format!("{name}: there is no {selector}"));
            }
        }
    }
    for rule in prometheus.rules().await? {
        if rule["health"] != "ok" {
            wrong.push(format!("{}: {}", rule["name"], rule["lastError"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");

    // Names, kinds and texts as Prometheus' own linter wants them.
    lint(&enforce.metrics().await?)
}

fn lint(page: &str) -> Result<()> {
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("standard input")?;
    let page = page.to_owned();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, page.as_bytes()));
    let output = child.wait_with_output()?;
    writer.join().expect("no panic")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && said.trim().is_empty(),
        "promtool check metrics: {said}"
    );
    Ok(())
}
