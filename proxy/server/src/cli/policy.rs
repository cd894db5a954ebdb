//! `spillway policy`: look at the policies, and take a new one from stage to stage.

mod screen;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use config::PolicyDocument;
use serde_json::{Value, json};

use super::admin_client::Failed;
use super::output::print;
use super::{EX_CONFIG, Reach, done, fail};
use crate::control::reload;
use crate::policy::book::Stage;
use crate::snapshot::{self, SnapshotError};

const EXAMPLES: &str = "Examples:
  spillway policy check new.yaml --config /etc/spillway/config.yaml   can it be used? (needs no process)
  spillway policy stage new.yaml            ask it about every request, and judge nobody by it
  spillway policy diff                      who would move where
  spillway policy percent 5                 judge 5% of the tenants by it, by hash
  spillway policy status                    where it stands, and what the guard has seen
  spillway policy promote                   judge everybody by it; the old one returns by itself if it must
  spillway policy undo                      the policy before this one
  spillway policy abort                     take the candidate away

A policy has rules and limits, which stand behind those of the configuration. When more requests of
protected classes are refused or fail under a new policy, the old one is in force again at once, and
the new one goes no further until `spillway policy resume`. Works while the apiserver is down;
survives a restart where policy.file names a file. A policy that policy.from_cluster delivers stays
until the ConfigMap says something new.";

/// Look at the policies beside the configuration, and take a new one from stage to stage.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PolicyArgs {
    #[command(subcommand)]
    command: Wanted,
}

#[derive(Debug, Subcommand)]
enum Wanted {
    /// What is in force, what is staged, and what the guard has seen. Exit status 1: a policy was given up.
    #[command(after_help = EXAMPLES)]
    Status {
        #[command(flatten)]
        reach: Reach,
    },
    /// Stage a new policy: in shadow it is asked about every request, and nobody is judged by it.
    #[command(after_help = EXAMPLES)]
    Stage {
        /// The policy, rules and limits; `-` for standard input.
        file: PathBuf,
        /// Judge this share of the tenants by it at once.
        #[arg(long, value_name = "0.01..100", value_parser = percent)]
        percent: Option<Stage>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Judge nobody by the candidate, and go on comparing.
    #[command(after_help = EXAMPLES)]
    Shadow {
        #[command(flatten)]
        reach: Reach,
    },
    /// Judge a share of the tenants by the candidate, chosen by a stable hash.
    #[command(after_help = EXAMPLES)]
    Percent {
        /// Of all tenants.
        #[arg(value_name = "0.01..100", value_parser = percent)]
        percent: Stage,
        #[command(flatten)]
        reach: Reach,
    },
    /// Make the candidate the policy; it is watched for a while (policy.guard.watch).
    #[command(after_help = EXAMPLES)]
    Promote {
        #[command(flatten)]
        reach: Reach,
    },
    /// Take the candidate away.
    #[command(after_help = EXAMPLES)]
    Abort {
        #[command(flatten)]
        reach: Reach,
    },
    /// Return to the policy before this one.
    #[command(after_help = EXAMPLES)]
    Undo {
        #[command(flatten)]
        reach: Reach,
    },
    /// Let a candidate go on that was given up; it begins in shadow.
    #[command(after_help = EXAMPLES)]
    Resume {
        #[command(flatten)]
        reach: Reach,
    },
    /// Who moves where under the new policy. Exit status 1: nothing is compared.
    #[command(after_help = EXAMPLES)]
    Diff {
        #[command(flatten)]
        reach: Reach,
    },
    /// Print a policy's text.
    #[command(after_help = EXAMPLES)]
    Show {
        /// Which.
        #[arg(value_enum, default_value_t)]
        which: Which,
        #[command(flatten)]
        reach: Reach,
    },
    /// Judge a policy's text by a configuration, and change nothing.
    #[command(after_help = EXAMPLES)]
    Check {
        /// The policy; `-` for standard input.
        file: PathBuf,
        /// The configuration it is to stand beside.
        #[arg(long, value_name = "FILE", default_value = "/etc/spillway/config.yaml")]
        config: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Which {
    /// The one in force.
    #[default]
    Current,
    /// The staged one.
    Candidate,
    /// The one before.
    Previous,
}

impl Which {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Candidate => "candidate",
            Self::Previous => "previous",
        }
    }
}

fn percent(text: &str) -> Result<Stage, String> {
    match Stage::parse(text) {
        Ok(stage @ Stage::Percent(_)) => Ok(stage),
        _ => Err("write a percentage from 0.01 to 100".to_owned()),
    }
}

/// Runs the command; what the process exits with.
pub(super) fn run(arguments: PolicyArgs) -> ExitCode {
    match arguments.command {
        Wanted::Status { reach } => match reach.client().get::<Value>("/policy") {
            Ok(page) => {
                print(reach.output, &page, screen::status);
                let returned = page.get("stage").and_then(Value::as_str) == Some("returned");
                ExitCode::from(u8::from(returned))
            }
            Err(failed) => done(Err(failed)),
        },
        Wanted::Stage {
            file,
            percent,
            reach,
        } => {
            let text = match text_of(&file) {
                Ok(text) => text,
                Err(problem) => return fail(EX_CONFIG, &problem),
            };
            let stage = percent.unwrap_or(Stage::Shadow).to_string();
            change(
                &reach,
                &json!({ "do": "stage", "text": text, "stage": stage }),
            )
        }
        Wanted::Shadow { reach } => change(&reach, &json!({ "do": "to", "stage": "shadow" })),
        Wanted::Percent { percent, reach } => {
            change(&reach, &json!({ "do": "to", "stage": percent.to_string() }))
        }
        Wanted::Promote { reach } => change(&reach, &json!({ "do": "promote" })),
        Wanted::Abort { reach } => change(&reach, &json!({ "do": "abort" })),
        Wanted::Undo { reach } => change(&reach, &json!({ "do": "undo" })),
        Wanted::Resume { reach } => change(&reach, &json!({ "do": "resume" })),
        Wanted::Diff { reach } => match reach.client().get::<Value>("/policy/diff") {
            Ok(page) => {
                print(reach.output, &page, screen::diff);
                ExitCode::SUCCESS
            }
            Err(failed @ Failed::Refused { .. }) => fail(1, &failed),
            Err(failed) => done(Err(failed)),
        },
        Wanted::Show { which, reach } => {
            let target = format!("/policy/{}", which.as_str());
            let shown = reach.client().get::<Value>(&target);
            done(shown.map(|page| print(reach.output, &page, |page| screen::text(page, "text"))))
        }
        Wanted::Check { file, config } => check(&file, &config),
    }
}

fn change(reach: &Reach, wish: &Value) -> ExitCode {
    let page = reach.client().post::<Value>("/policy", wish);
    done(page.map(|page| print(reach.output, &page, screen::status)))
}

fn text_of(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let most = config::MAX_TEXT as u64 + 1;
    let read = match file.to_str() {
        Some("-") => std::io::stdin().lock().take(most).read_to_string(&mut text),
        _ => {
            std::fs::File::open(file).and_then(|opened| opened.take(most).read_to_string(&mut text))
        }
    };
    read.map_err(|problem| format!("{}: cannot be read: {problem}", file.display()))?;
    Ok(text)
}

fn check(file: &Path, config: &Path) -> ExitCode {
    let judged = reload::read(config).and_then(|config| {
        let text = text_of(file)?;
        let name = file.display().to_string();
        let document =
            PolicyDocument::parse(&text, &name, &config).map_err(|report| report.to_string())?;
        snapshot::compiles(&config, &document)
            .map_err(|problem: SnapshotError| format!("{name}: {problem}"))?;
        Ok(document)
    });
    match judged {
        Ok(document) => {
            println!(
                "{}: good: {} rules, {} limits",
                file.display(),
                document.rules.len(),
                document.limits.len()
            );
            ExitCode::SUCCESS
        }
        Err(problem) => fail(EX_CONFIG, &problem),
    }
}
