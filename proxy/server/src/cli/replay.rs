//! `spillway replay`: a real audit log through the real engine, in virtual time.
//!
//! Lines are read in blocks, parsed and classified by several threads, put into the order of their arrival, and offered to
//! the engine of proxy-core, with a model of a server of the given capacity behind it. Nothing is kept but sums.

mod calls;
mod lines;
mod picture;
mod report;
mod server;
mod stage;
mod tally;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use config::Config;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use proxy_core::admission::{Mode, Settings};
use proxy_core::classify::Policy;

use super::Command;
use super::admin_client::Failed;
use super::output::{Format, print};
use crate::snapshot;
use report::Report;

const EXAMPLES: &str = "Examples:
  spillway replay --audit-log audit.log --capacity 4
  spillway replay --audit-log audit-*.log.gz --policy new.yaml --capacity 8 --picture storm.svg
  zcat audit.log.gz | spillway replay --audit-log - -o json | jq '.rules_never_matched'

The log is kube-apiserver's (JSON lines, plain or gz; --audit-log-format=json), at level
Metadata or above. What a request takes of the server is not in it: collections count with
the time they took then, calls on one object with at most 10ms. Whoever was refused here
would have come back later; who comes back is not played. Results are for comparing
policies and capacities, not for predicting milliseconds.";

/// Run an audit log through a policy: who would be in which class, what would have been shed at a capacity, and which rules
/// never match.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ReplayArgs {
    /// Audit logs, oldest first; `-` is standard input.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    audit_log: Vec<PathBuf>,
    /// A configuration, or its `admission` section alone; default: the built-in policy.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The server's capacity in cores.
    #[arg(long, value_name = "CORES", default_value_t = 4.0)]
    capacity: f64,
    /// Write a picture (SVG) of what was asked for and what would have been shed.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

fn failed(error: impl Into<String>, next: &str) -> Failed {
    Failed::Refused {
        error: error.into(),
        next: Some(next.to_owned()),
    }
}

impl Command for ReplayArgs {
    fn run(self) -> Result<(), Failed> {
        if !(0.01..=1e6).contains(&self.capacity) {
            return Err(failed(
                "a capacity is between 0.01 and 1000000 cores",
                "as --capacity 4",
            ));
        }
        let (policy, settings) = plan(self.policy.as_deref())?;
        let started = Instant::now();
        let source = lines::Source::open(&self.audit_log).map_err(|problem| {
            failed(problem, "give kube-apiserver's audit log: --audit-log FILE")
        })?;
        let progress = progress(&source);
        let played = stage::play(source, &policy, settings, self.capacity, &progress);
        progress.finish_and_clear();
        let tally = played.map_err(|problem| {
            failed(problem, "is it complete? `gzip -t FILE` tells of a gz file")
        })?;
        if tally.calls == 0 {
            return Err(failed(
                format!(
                    "no request among {} lines ({} of them are no audit events)",
                    tally.lines, tally.unreadable
                ),
                "give kube-apiserver's audit log in JSON lines (--audit-log-format=json)",
            ));
        }
        let report = Report::of(&tally, &policy, self.capacity, started.elapsed());
        if let Some(file) = &self.picture {
            std::fs::write(file, picture::svg(&tally, &policy, self.capacity)).map_err(
                |problem| {
                    failed(
                        format!("{}: {problem}", file.display()),
                        "name another file",
                    )
                },
            )?;
        }
        print(self.output, &report, Report::text);
        if let Some(file) = &self.picture {
            eprintln!("picture: {}", file.display());
        }
        Ok(())
    }
}

/// The policy to play by, always carried out.
fn plan(file: Option<&Path>) -> Result<(Policy, Settings), Failed> {
    let wrong = |problem: String| failed(problem, "check it: spillway check --config FILE");
    let text = match file {
        None => String::new(),
        Some(file) => std::fs::read_to_string(file)
            .map_err(|problem| wrong(format!("{}: cannot be read: {problem}", file.display())))?,
    };
    // A policy alone says nothing about addresses. Added at the end, so that lines keep their numbers.
    let whole = if text.lines().any(|line| line.starts_with("listen:")) {
        text
    } else {
        text + "\nlisten: { main: [\"192.0.2.1:6443\"] }\n"
    };
    let name = file.map_or_else(|| "built-in".to_owned(), |file| file.display().to_string());
    let config = Config::parse(&whole, &name).map_err(|report| wrong(report.to_string()))?;
    let policy =
        snapshot::policy(&config).map_err(|problem| wrong(format!("{name}: {problem}")))?;
    let mut settings = snapshot::settings(&config, &policy);
    settings
        .check()
        .map_err(|problem| wrong(format!("{name}: {problem}")))?;
    settings.mode = Mode::Enforce;
    settings.enforced_tenants = 1.0;
    Ok((policy, settings))
}

fn progress(source: &lines::Source) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(source.size(), ProgressDrawTarget::stderr_with_hz(5));
    let template = if source.size().is_some() {
        "{bar:40} {percent}% {bytes}/{total_bytes}, {msg}, {eta} left"
    } else {
        "{spinner} {bytes}, {msg}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
#[path = "replay/tests.rs"]
mod tests;
