//! The command line: `spillway run`, `spillway check` and `spillway attributes`.
//!
//! Exit status: 0 done; 2 the command line is wrong; 69 an address cannot be listened on, or `check --connect` found no
//! apiserver; 78 the configuration or a file it names cannot be used (sysexits' EX_UNAVAILABLE and EX_CONFIG); 71 the
//! system refused a thread.

mod attributes;
mod install;
mod serve;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::control::reload;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;

const EX_UNAVAILABLE: u8 = 69;
const EX_OSERR: u8 = 71;
const EX_CONFIG: u8 = 78;

/// An adaptive admission proxy in front of kube-apiserver.
#[derive(Debug, Parser)]
#[command(name = "spillway", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy until SIGTERM or SIGINT; SIGHUP reloads, SIGUSR2 starts a successor that takes over.
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/spillway/config.yaml")]
        config: PathBuf,
        /// Stop when standard input closes: for a parent process that must not leave one behind.
        #[arg(long)]
        exit_on_stdin_close: bool,
    },
    /// Check a configuration and every file it names, and change nothing.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/spillway/config.yaml")]
        config: PathBuf,
        /// Also connect to the apiserver, with and without the front-proxy certificate.
        #[arg(long)]
        connect: bool,
    },
    /// Say what requests are taken to be: for each line `METHOD TARGET` on standard input, one JSON object.
    Attributes,
    /// Check a control-plane node for Spillway and say what to fix; or print kube-apiserver's manifest, changed.
    Install(install::Arguments),
}

/// Runs a command line (the program's name first) and says how the process should exit.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(arguments) {
        Err(problem) => {
            let _ = problem.print();
            ExitCode::from(u8::try_from(problem.exit_code()).unwrap_or(2))
        }
        Ok(Cli {
            command:
                Command::Run {
                    config,
                    exit_on_stdin_close,
                },
        }) => serve::run(config, exit_on_stdin_close),
        Ok(Cli {
            command: Command::Check { config, connect },
        }) => check(&config, connect),
        Ok(Cli {
            command: Command::Attributes,
        }) => match attributes::answer(std::io::stdin().lock(), std::io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => fail(EX_OSERR, &problem),
        },
        Ok(Cli {
            command: Command::Install(arguments),
        }) => install::run(&arguments),
    }
}

fn fail(code: u8, problem: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("spillway: {problem}");
    ExitCode::from(code)
}

fn check(file: &Path, connect: bool) -> ExitCode {
    let loaded = reload::read(file).and_then(|config| {
        let metrics = Metrics::new().map_err(|problem| problem.to_string())?;
        Snapshot::load(config, 1, &metrics)
            .map_err(|problem| format!("{}: {problem}", file.display()))
    });
    let snapshot = match loaded {
        Ok(snapshot) => snapshot,
        Err(problem) => return fail(EX_CONFIG, &problem),
    };
    println!(
        "{}: good: {} classes, {} rules",
        file.display(),
        snapshot.policy.classes().len(),
        snapshot.policy.rules().count()
    );
    if !connect {
        return ExitCode::SUCCESS;
    }
    match try_connect(&snapshot) {
        Ok(took) => {
            println!(
                "the apiserver at {} accepts connections ({took:?})",
                snapshot.config.upstream.address
            );
            ExitCode::SUCCESS
        }
        Err(problem) => fail(EX_UNAVAILABLE, &problem),
    }
}

fn try_connect(snapshot: &Snapshot) -> Result<Duration, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|problem| problem.to_string())?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let before = crate::clock::now();
        for asserted in [false, true] {
            snapshot
                .endpoint
                .http2(asserted)
                .await
                .map_err(|problem| problem.to_string())?;
        }
        Ok(crate::clock::now().saturating_since(before))
    })
}
