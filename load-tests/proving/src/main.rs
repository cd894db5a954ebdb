//! The proving ground alone, without what the rest of the load tests need to be built.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use proving::cli;

#[derive(Debug, Parser)]
#[command(name = "proving", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Simulate(cli::Simulate),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Simulate(options) => cli::simulate(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proving: {error}");
            ExitCode::from(2)
        }
    }
}
