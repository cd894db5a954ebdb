//! The command line: the proxy itself (`run`), what is asked of files (`check`, `attributes`, …) and what is asked of a
//! running process over its admin socket (`top`, `explain`, `mode`, …).
//!
//! Exit status: 0 done; 1 the answer is no; 2 the command line is wrong; 65 the running process refused; 69 an address
//! cannot be listened on, `check --connect` found no apiserver, or no process answers; 71 the system refused a thread; 77
//! permission denied; 78 the configuration or a file it names cannot be used. From 65 on as in BSD's sysexits.

mod admin_client;
mod attributes;
mod break_glass;
mod config_show;
mod console;
mod explain;
mod import_apf;
mod install;
mod level;
mod mode;
mod output;
mod policy;
mod quarantine;
mod replay;
mod serve;
mod top;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::control::reload;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use admin_client::{AdminClient, Failed};
use output::Format;

const EX_DATAERR: u8 = 65;
const EX_UNAVAILABLE: u8 = 69;
const EX_OSERR: u8 = 71;
const EX_NOPERM: u8 = 77;
const EX_CONFIG: u8 = 78;

/// An adaptive admission proxy in front of kube-apiserver.
#[derive(Debug, Parser)]
#[command(name = "spillway", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// Run the proxy until SIGTERM or SIGINT; SIGHUP reloads, SIGUSR1 opens the log files anew, SIGUSR2 starts a
    /// successor that takes over.
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/spillway/config.yaml")]
        config: PathBuf,
        /// Stop when standard input closes: for a parent process that must not leave one behind.
        #[arg(long)]
        exit_on_stdin_close: bool,
    },
    /// Check a configuration and every file it names, and change nothing.
    #[command(after_help = CHECK_EXAMPLES)]
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
    Install(install::Arguments),
    Top(top::TopArgs),
    Explain(explain::ExplainArgs),
    Mode(mode::ModeArgs),
    Level(level::LevelArgs),
    Culprit(level::CulpritArgs),
    Console(console::ConsoleArgs),
    BreakGlass(break_glass::BreakGlassArgs),
    Config(config_show::ConfigArgs),
    ImportApf(import_apf::ImportArgs),
    Replay(replay::ReplayArgs),
    Quarantine(quarantine::QuarantineArgs),
    Policy(policy::PolicyArgs),
    /// Print a completion script for a shell.
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

const CHECK_EXAMPLES: &str = "Examples:
  spillway check --config new.yaml && cp new.yaml /etc/spillway/config.yaml
  spillway check --connect        also ask the apiserver";

const COMPLETION_EXAMPLES: &str = "Examples:
  source <(spillway completion bash)
  spillway completion zsh > \"${fpath[1]}/_spillway\"";

/// Where the running process is, and how to print.
#[derive(Debug, Args)]
struct Reach {
    /// The running process's admin socket (`admin.socket` in its configuration).
    #[arg(long, value_name = "PATH", env = "SPILLWAY_SOCKET", default_value = config::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Reach {
    fn client(&self) -> AdminClient {
        AdminClient::new(&self.socket)
    }
}

/// A command that is done, or says why not.
trait Command {
    /// # Errors
    /// With what to do next.
    fn run(self) -> Result<(), Failed>;
}

/// Who runs this, for journals; what the kernel says of a caller stands beside it.
fn operator() -> String {
    let uid = rustix::process::getuid().as_raw();
    match std::env::var("SUDO_USER") {
        Ok(user) if uid == 0 => format!("{user} (sudo)"),
        _ => std::env::var("USER").unwrap_or_else(|_| format!("uid {uid}")),
    }
}

/// A duration of the command line, written as in the configuration.
fn duration(text: &str) -> Result<Duration, String> {
    config::parse_duration(text)
}

/// Runs a command line (the program's name first) and says how the process should exit.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli.command,
        Err(problem) => {
            let _ = problem.print();
            return ExitCode::from(u8::try_from(problem.exit_code()).unwrap_or(2));
        }
    };
    match command {
        Commands::Run {
            config,
            exit_on_stdin_close,
        } => serve::run(config, exit_on_stdin_close),
        Commands::Check { config, connect } => check(&config, connect),
        Commands::Attributes => {
            match attributes::answer(std::io::stdin().lock(), std::io::stdout().lock()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(problem) => fail(EX_OSERR, &problem),
            }
        }
        Commands::Install(arguments) => install::run(&arguments),
        Commands::Top(command) => done(command.run()),
        Commands::Explain(command) => done(command.run()),
        Commands::Mode(command) => done(command.run()),
        Commands::Config(command) => done(command.run()),
        Commands::ImportApf(command) => done(command.run()),
        Commands::Replay(command) => done(command.run()),
        Commands::Quarantine(command) => done(command.run()),
        Commands::Policy(arguments) => policy::run(arguments),
        Commands::BreakGlass(command) => done(command.run()),
        Commands::Level(command) => done(command.run()),
        Commands::Console(command) => done(command.run()),
        Commands::Culprit(command) => match command.run() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(failed) => done(Err(failed)),
        },
        Commands::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "spillway", &mut script);
            let _ = std::io::Write::write_all(&mut std::io::stdout().lock(), &script);
            ExitCode::SUCCESS
        }
    }
}

fn done(result: Result<(), Failed>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => fail(failed.exit_code(), &failed),
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
