//! The command line: `spillway run`, `spillway check` and `spillway attributes`.
//!
//! Exit status: 0 done; 2 the command line is wrong; 69 an address cannot be listened on, or `check --connect` found no
//! apiserver; 78 the configuration or a file it names cannot be used (sysexits' EX_UNAVAILABLE and EX_CONFIG); 71 the
//! system refused a thread.

mod attributes;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::control::reload;
use crate::run::{self, StartError};
use crate::snapshot::Snapshot;
use crate::{logging, metrics::Metrics};

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
    /// Run the proxy until SIGTERM or SIGINT.
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
        }) => serve(config, exit_on_stdin_close),
        Ok(Cli {
            command: Command::Check { config, connect },
        }) => check(&config, connect),
        Ok(Cli {
            command: Command::Attributes,
        }) => match attributes::answer(std::io::stdin().lock(), std::io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => fail(EX_OSERR, &problem),
        },
    }
}

fn fail(code: u8, problem: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("spillway: {problem}");
    ExitCode::from(code)
}

fn serve(file: PathBuf, exit_on_stdin_close: bool) -> ExitCode {
    let config = match reload::read(&file) {
        Ok(config) => config,
        Err(problem) => return fail(EX_CONFIG, &problem),
    };
    let _log = logging::start(&config.log);
    let running = match run::start(config, Some(file)) {
        Ok(running) => running,
        Err(problem @ StartError::Snapshot(_)) => return fail(EX_CONFIG, &problem),
        Err(problem @ StartError::Bind(_)) => return fail(EX_UNAVAILABLE, &problem),
        Err(problem @ StartError::System(_)) => return fail(EX_OSERR, &problem),
    };
    if let Err(problem) = wait_for_the_end(exit_on_stdin_close) {
        return fail(EX_OSERR, &problem);
    }
    info!("stopping");
    running.stop();
    ExitCode::SUCCESS
}

fn wait_for_the_end(exit_on_stdin_close: bool) -> std::io::Result<()> {
    let (closed, mut stdin) = tokio::sync::mpsc::channel::<()>(1);
    if exit_on_stdin_close {
        std::thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || {
                let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
                drop(closed);
            })?;
    } else {
        std::mem::forget(closed);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = stdin.recv() => {}
        }
        Ok(())
    })
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
