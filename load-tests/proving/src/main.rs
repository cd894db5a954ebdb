//! The proving ground alone, without what the rest of the load tests need to be built.

#[path = "../../../proxy/core/tests/allocations/counting.rs"]
mod counting;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use proving::cli;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

#[derive(Debug, Parser)]
#[command(name = "proving", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Simulate(cli::Simulate),
    Scoreboard(cli::Scoreboard),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Simulate(options) => cli::simulate(&options),
        Command::Scoreboard(options) => cli::scoreboard(&options, Some(counting::allocations)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proving: {error}");
            ExitCode::from(2)
        }
    }
}
