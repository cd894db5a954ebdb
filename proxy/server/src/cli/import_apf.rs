//! `spillway import-apf`: a cluster's FlowSchemas and PriorityLevelConfigurations as classes and rules.
//!
//! From files or a pipe, never from the API: in the worst hour there is none, and in a good one `kubectl get` reads it.

mod convert;
mod objects;

use std::io::Read as _;
use std::path::PathBuf;

use clap::Args;
use config::Config;

use super::Command;
use super::admin_client::Failed;
use crate::snapshot;
use objects::Objects;

const EXAMPLES: &str = "Examples:
  kubectl get flowschemas,prioritylevelconfigurations -o yaml | spillway import-apf > admission.yaml
  spillway import-apf flowschemas.json levels.yaml --all

Takes what kubectl prints with -o yaml or -o json, and manifests. What Kubernetes creates by
itself is left out unless --all is given: Spillway's built-in rules stand for it. Read the
comments in what is written: they say what could not be carried over.";

/// Turn FlowSchemas and PriorityLevelConfigurations into classes and rules.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImportArgs {
    /// Files; without any, or with `-`, standard input.
    files: Vec<PathBuf>,
    /// Also what Kubernetes creates by itself.
    #[arg(long)]
    all: bool,
}

/// The longest text read: a cluster has dozens of these objects, not thousands.
const MOST_BYTES: u64 = 64 << 20;

fn failed(error: String) -> Failed {
    Failed::Refused {
        error,
        next: Some(
            "give what `kubectl get flowschemas,prioritylevelconfigurations -o yaml` prints"
                .to_owned(),
        ),
    }
}

impl Command for ImportArgs {
    fn run(self) -> Result<(), Failed> {
        let mut objects = Objects::default();
        let files = if self.files.is_empty() {
            vec![PathBuf::from("-")]
        } else {
            self.files
        };
        for file in files {
            let name = file.display().to_string();
            let mut text = String::new();
            let read = if name == "-" {
                std::io::stdin()
                    .lock()
                    .take(MOST_BYTES)
                    .read_to_string(&mut text)
            } else {
                std::fs::File::open(&file)
                    .and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text))
            };
            read.map_err(|problem| failed(format!("{name}: cannot be read: {problem}")))?;
            objects
                .add(&text)
                .map_err(|problem| failed(format!("{name}: {problem}")))?;
        }
        if objects.is_empty() {
            return Err(failed(
                "there is neither a FlowSchema nor a PriorityLevelConfiguration in it".to_owned(),
            ));
        }
        let imported = convert::convert(&objects, self.all);
        let text = imported.text();
        check(&text).map_err(|problem| Failed::Refused {
            error: format!("what would be written is not accepted: {problem}"),
            next: Some("please report it with the objects".to_owned()),
        })?;
        print!("{text}");
        eprintln!(
            "{} FlowSchemas and {} levels read; {} rules and {} own classes written, {} left out as built in",
            objects.schemas.len(),
            objects.levels.len(),
            imported.rules.len(),
            imported.own_classes,
            imported.left_out.len(),
        );
        Ok(())
    }
}

/// What is written must be what is read.
fn check(text: &str) -> Result<(), String> {
    let whole = format!("listen: {{ main: [\"192.0.2.1:6443\"] }}\n{text}");
    let config = Config::parse(&whole, "import").map_err(|report| report.to_string())?;
    snapshot::policy(&config)
        .map(|_| ())
        .map_err(|problem| problem.to_string())
}

#[cfg(test)]
#[path = "import_apf/tests.rs"]
mod tests;
