//! Control planes to test against, storms, the demonstration, and the proving ground.

#[path = "../../proxy/core/tests/allocations/counting.rs"]
mod counting;

use std::ffi::OsString;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use load_tests::control_plane::{ControlPlane, Options, Who};
use load_tests::{
    apiserver, attacks, conformance, costs, demo, memory, rehearse, transparency, watches,
};

/// Counts allocations per thread, for the scoreboard's claim that a decision makes none.
#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

#[derive(Debug, Parser)]
#[command(name = "load-tests", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one")]
enum Command {
    Demo(demo::Options),
    Attacks(attacks::Options),
    Apiserver(apiserver::Cli),
    Watches(watches::Options),
    Transparency(transparency::Options),
    Conformance(conformance::Options),
    Simulate(proving::cli::Simulate),
    Scoreboard(proving::cli::Scoreboard),
    Rehearse(rehearse::Options),
    Costs(costs::Options),
    Memory(memory::Options),
    /// Runs a real control plane until standard input ends or Ctrl-C.
    ControlPlane {
        /// Directory for its data, certificates and kubeconfigs; a temporary
        /// one if not given.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Spillway itself: `spillway run --config FILE` and so on.
    Spillway {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Attacks(options) => attacks::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Apiserver(cli) => {
            tracing_subscriber::fmt()
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .init();
            apiserver::run(cli).map(|()| ExitCode::SUCCESS)
        }
        Command::Watches(options) => watches::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Transparency(options) => transparency::run(&options),
        Command::Conformance(options) => conformance::run(&options),
        Command::Simulate(options) => proving::cli::simulate(&options)
            .map(|()| ExitCode::SUCCESS)
            .map_err(anyhow::Error::from_boxed),
        Command::Scoreboard(options) => {
            proving::cli::scoreboard(&options, Some(counting::allocations))
                .map(|()| ExitCode::SUCCESS)
                .map_err(anyhow::Error::from_boxed)
        }
        Command::Rehearse(options) => rehearse::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Costs(options) => costs::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Memory(options) => memory::run(&options).map(|()| ExitCode::SUCCESS),
        Command::ControlPlane { dir } => control_plane(dir).map(|()| ExitCode::SUCCESS),
        Command::Spillway { arguments } => {
            let program = OsString::from("spillway");
            Ok(proxy_server::cli::main(
                std::iter::once(program).chain(arguments),
            ))
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("load-tests: {error:#}");
        ExitCode::from(2)
    })
}

fn control_plane(dir: Option<PathBuf>) -> anyhow::Result<()> {
    let plane = ControlPlane::start(Options {
        dir,
        ..Options::default()
    })?;
    println!("{} {}", plane.server(), plane.version());
    println!("KUBECONFIG={}", plane.kubeconfig(Who::Admin).display());
    let mut ignored = Vec::new();
    // Its servers end with this process, however it ends.
    std::io::stdin()
        .read_to_end(&mut ignored)
        .context("standard input")?;
    Ok(())
}
