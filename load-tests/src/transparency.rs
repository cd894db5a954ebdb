//! Can a cluster tell that Spillway is there? The same calls, straight and
//! through it, by many callers, over both versions of HTTP: answers, events and
//! audit log have to be the same, but for what must differ and says why.
//!
//! A kube-apiserver is needed, and the parts that only the Go program has: an
//! aggregated API, a kubelet, an egress.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

mod audit;
mod call;
mod catalogue;
mod compare;
mod explained;
mod fixtures;
mod http1;
mod http2;
mod observed;
mod player;
mod report;
mod stage;
mod who;

pub use report::{Difference, Explained, Report, SCHEMA};
pub use stage::StageError;

use audit::AuditLog;
use call::{Over, Scenario};
use compare::{Depth, Found, Three};
use explained::Case;
use observed::Observed;
use player::{Played, Version, play};
use stage::{Stage, Way};

/// Scenarios that are played at the same time.
const AT_ONCE: usize = 3;
/// How often a scenario is played before a difference counts.
const ATTEMPTS: usize = 3;
/// How often it is played again because Spillway shed part of it.
const MOST_SHED: usize = 10;
/// How long the server may take to write its audit log.
const AUDIT_PATIENCE: Duration = Duration::from_secs(20);

/// Compares a kube-apiserver with itself behind Spillway, call by call.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Writes everything that was found as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Writes a summary as Markdown.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Plays only scenarios whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
}

/// Runs the comparison and says what it found; exit status 1 when something
/// differs that nobody can explain.
///
/// # Errors
/// When there is no control plane to be had, or a file cannot be written.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting a runtime")?;
    let only = options.only.as_deref().unwrap_or_default();
    let report = runtime.block_on(compare_all(only, Effort::Full))?;
    if let Some(file) = &options.report {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(file, text + "\n").with_context(|| file.display().to_string())?;
    }
    if let Some(file) = &options.markdown {
        fs::write(file, report.markdown()).with_context(|| file.display().to_string())?;
    }
    println!("{}", report.markdown());
    Ok(if report.unexplained.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// How much is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Every scenario over every version of HTTP it is about.
    Full,
    /// Every scenario over one version, by turns: half the calls.
    Half,
}

/// Plays every scenario whose name contains `only` and compares.
///
/// # Errors
/// When the stage cannot be set. Calls that fail are part of the comparison.
pub async fn compare_all(only: &str, effort: Effort) -> Result<Report, StageError> {
    let began = Instant::now();
    let stage = Arc::new(Stage::start().await?);
    let turn = Arc::new(Semaphore::new(AT_ONCE));
    let mut playing = JoinSet::new();
    for (number, scenario) in catalogue::all().into_iter().enumerate() {
        if !scenario.name.contains(only) {
            continue;
        }
        let mut versions = versions(scenario.over);
        if let (Effort::Half, [_, _]) = (effort, versions) {
            versions = &versions[number % 2..=number % 2];
        }
        for version in versions {
            let (stage, turn) = (Arc::clone(&stage), Arc::clone(&turn));
            let scenario = scenario.clone();
            playing.spawn(async move {
                let _turn = turn.acquire().await;
                settle(&stage, scenario, *version).await
            });
        }
    }
    let mut settled = Vec::new();
    while let Some(ended) = playing.join_next().await {
        settled.push(ended.context("a scenario")??);
    }
    settled.sort_by_key(|settled: &Settled| (settled.name(), settled.version));
    let log = audit_log(&stage, &settled).await?;
    let mut report = Report {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        server: stage.server_version().to_owned(),
        ..Report::default()
    };
    for settled in &settled {
        settled.add_to(&log, &mut report);
    }
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

const fn versions(over: Over) -> &'static [Version] {
    match over {
        Over::Both => &[Version::Http1, Version::Http2],
        Over::Http1 => &[Version::Http1],
        Over::Http2 => &[Version::Http2],
    }
}

/// A scenario that has been played, and what is to be held of it.
struct Settled {
    scenario: Scenario,
    version: Version,
    played: Three<Played>,
    attempts: usize,
    shed: usize,
}

/// Plays a scenario until nothing is different that cannot be explained, at
/// most [`ATTEMPTS`] times: what differs only now and then differs by itself.
async fn settle(stage: &Stage, scenario: Scenario, version: Version) -> anyhow::Result<Settled> {
    let mut settled = Settled {
        played: play_three(stage, version, &scenario).await?,
        scenario,
        version,
        attempts: 1,
        shed: 0,
    };
    loop {
        let shed = settled
            .played
            .proxied
            .observed
            .iter()
            .filter(|seen| seen.is_shed())
            .count();
        if shed > 0 && settled.shed < MOST_SHED {
            settled.shed += shed;
            tokio::time::sleep(Duration::from_millis(500)).await;
        } else if settled.attempts < ATTEMPTS && settled.has_unexplained() {
            settled.attempts += 1;
        } else {
            return Ok(settled);
        }
        settled.played = play_three(stage, version, &settled.scenario).await?;
    }
}

async fn play_three(
    stage: &Stage,
    version: Version,
    scenario: &Scenario,
) -> anyhow::Result<Three<Played>> {
    Ok(Three {
        before: play_one(stage, Way::Straight, 'a', version, scenario).await?,
        proxied: play_one(stage, Way::Proxied, 'b', version, scenario).await?,
        after: play_one(stage, Way::Straight, 'c', version, scenario).await?,
    })
}

/// Plays a scenario in a namespace of a new name, as long as any other.
async fn play_one(
    stage: &Stage,
    way: Way,
    side: char,
    version: Version,
    scenario: &Scenario,
) -> anyhow::Result<Played> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let namespace = format!("own-{side}-{number:05}");
    if scenario.own_namespace {
        stage.create_namespace(&namespace).await?;
    }
    let mut played = play(stage, way, version, scenario, &namespace).await;
    for observed in &mut played.observed {
        observed.forget(&played.variables);
    }
    Ok(played)
}

/// The audit log, once it tells of everything.
async fn audit_log(stage: &Stage, settled: &[Settled]) -> anyhow::Result<AuditLog> {
    let deadline = Instant::now() + AUDIT_PATIENCE;
    loop {
        let log = AuditLog::read(&stage.audit_log()?);
        let complete = settled
            .iter()
            .flat_map(|settled| {
                let Three {
                    before,
                    proxied,
                    after,
                } = settled.played.each();
                [before, proxied, after]
            })
            .flat_map(|played| &played.observed)
            .filter_map(Observed::audit_id)
            .all(|id| log.is_complete(id));
        if complete || Instant::now() >= deadline {
            return Ok(log);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

impl Settled {
    /// What it is called, by which all are sorted.
    fn name(&self) -> &'static str {
        self.scenario.name
    }

    fn seen(&self, index: usize) -> Option<Three<&Observed>> {
        let Three {
            before,
            proxied,
            after,
        } = self.played.each();
        Some(Three {
            before: before.observed.get(index)?,
            proxied: proxied.observed.get(index)?,
            after: after.observed.get(index)?,
        })
    }

    fn compared(&self, index: usize) -> (Vec<Found>, Depth) {
        let volatile = self
            .scenario
            .steps
            .get(index)
            .is_some_and(|step| step.volatile.is_some());
        self.seen(index)
            .map(|three| compare::answers(three, volatile))
            .unwrap_or_default()
    }

    fn reason(&self, index: usize, found: &Found) -> Option<&'static explained::Reason> {
        let seen = self.seen(index)?;
        explained::reason(&Case {
            found,
            step: self.scenario.steps.get(index)?,
            caller: self.scenario.who,
            version: self.version,
            straight: seen.before,
            proxied: seen.proxied,
        })
    }

    fn has_unexplained(&self) -> bool {
        (0..self.scenario.steps.len()).any(|index| {
            let (found, _) = self.compared(index);
            found
                .iter()
                .any(|found| self.reason(index, found).is_none())
        })
    }

    /// What the audit log says differently, and whether it says anything.
    fn audited(&self, index: usize, log: &AuditLog) -> (Vec<Found>, bool) {
        let Some(seen) = self.seen(index) else {
            return (Vec::new(), false);
        };
        let Three {
            before,
            proxied,
            after,
        } = self.played.each();
        let about = |seen: &Observed, played: &Played| {
            let event = log.about(seen.audit_id()?)?;
            let text = compare::unnamed(&event.to_string(), &played.variables);
            serde_json::from_str(&text).ok()
        };
        let (Some(first), Some(last)) = (about(seen.before, before), about(seen.after, after))
        else {
            return (Vec::new(), false);
        };
        let middle = about(seen.proxied, proxied).unwrap_or_default();
        let mut found = Vec::new();
        let three = Three {
            before: &first,
            proxied: &middle,
            after: &last,
        };
        compare::structures("audit ", three, &mut found);
        (found, true)
    }

    fn add_to(&self, log: &AuditLog, report: &mut Report) {
        report.scenarios += 1;
        report.replayed += usize::from(self.attempts > 1);
        report.shed += self.shed;
        for (index, step) in self.scenario.steps.iter().enumerate() {
            let (mut found, depth) = self.compared(index);
            let (audit, audited) = self.audited(index, log);
            found.extend(audit);
            report.calls += 1;
            report.audited += usize::from(audited);
            *report
                .by_caller
                .entry(self.scenario.who.name())
                .or_default() += 1;
            *report.by_protocol.entry(self.version.name()).or_default() += 1;
            *report.by_depth.entry(depth.name()).or_default() += 1;
            if let Some(seen) = self.seen(index) {
                *report.by_status.entry(seen.before.status).or_default() += 1;
            }
            for found in found {
                let reason = self.reason(index, &found);
                let difference = Difference {
                    scenario: self.scenario.name,
                    caller: self.scenario.who.name(),
                    protocol: self.version.name(),
                    call: step.label(),
                    part: found.part,
                    straight: found.straight,
                    proxied: found.proxied,
                };
                match reason {
                    Some(reason) => report.explain(reason.id, reason.why, difference),
                    None => report.unexplained.push(difference),
                }
            }
        }
    }
}
