//! `spillway install`: is this control-plane node ready for Spillway, or soundly behind it; and kube-apiserver's manifest,
//! changed for either side.
//!
//! Looks and prints, changes nothing: `deploy/take-over.sh` does what is to be done.

mod certificates;
mod edit;
mod finding;
mod flags;
mod kubeconfigs;
mod manifest;
mod own_pod;
mod server;
mod sockets;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use config::Config;

use crate::control::reload;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use edit::Wanted;
use finding::{Findings, Verdict};
use manifest::Pod;

const EXAMPLES: &str = "Examples:
  spillway install --check --before              is this node ready to be taken over?
  spillway install --check -o json               is it soundly behind Spillway? For a script
  spillway install --print behind | diff /etc/kubernetes/manifests/kube-apiserver.yaml -
  /etc/spillway/take-over.sh forward             does it: deploy/take-over.sh

Exit status of --check: 0 all is well; 1 there is something to look at; 2 there is
something to fix. Changes nothing. Run as root, or it cannot see who listens where.";

/// Check a control-plane node for Spillway and say what to fix; or print kube-apiserver's manifest, changed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Look at everything and say what to fix.
    #[arg(long, required_unless_present = "print")]
    check: bool,
    /// With --check: what the take-over changes may still be as kubeadm wrote it.
    #[arg(long, requires = "check")]
    before: bool,
    /// Print kube-apiserver's manifest, changed to be behind Spillway, or to serve by itself again.
    #[arg(long, value_enum, value_name = "SIDE", conflicts_with = "check")]
    print: Option<Side>,
    /// With --print straight: kube-apiserver's manifest from before, to give back its bind address and probes.
    #[arg(long, value_name = "FILE", requires = "print")]
    was: Option<PathBuf>,
    /// kube-apiserver's manifest.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/kubernetes/manifests/kube-apiserver.yaml"
    )]
    manifest: PathBuf,
    /// Spillway's own manifest, if it is a static pod.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/kubernetes/manifests/spillway.yaml"
    )]
    pod: PathBuf,
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/spillway/config.yaml")]
    config: PathBuf,
    /// The folder of the node's kubeconfigs.
    #[arg(long, value_name = "FOLDER", default_value = "/etc/kubernetes")]
    kubeconfigs: PathBuf,
    /// The folder of kubeadm's patches.
    #[arg(
        long,
        value_name = "FOLDER",
        default_value = "/etc/spillway/kubeadm-patches"
    )]
    patches: PathBuf,
    /// How --check prints.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// On which side of the take-over kube-apiserver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Side {
    /// On loopback, behind Spillway.
    Behind,
    /// On the node's addresses, by itself.
    Straight,
}

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// One object: verdict and findings.
    Json,
}

/// What a node is looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is to be taken over.
    Before,
    /// Spillway has taken over.
    Installed,
}

/// Runs the command; see [`Arguments`] for the exit status.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    if let Some(side) = arguments.print {
        return match print(arguments, side) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(problem) => super::fail(super::EX_CONFIG, &problem),
        };
    }
    let found = check(arguments);
    match arguments.output {
        Output::Text => print!("{found}"),
        Output::Json => print!("{}", found.json()),
    }
    ExitCode::from(match found.worst() {
        Verdict::Ok => 0,
        Verdict::Warn => 1,
        Verdict::Fail => 2,
    })
}

fn print(arguments: &Arguments, side: Side) -> Result<String, String> {
    let path = &arguments.manifest;
    let named = |problem: String| format!("{} {problem}", path.display());
    let text =
        std::fs::read_to_string(path).map_err(|error| named(format!("cannot be read: {error}")))?;
    let pod = Pod::parse(&text).map_err(named)?;
    let wanted = match side {
        Side::Behind => {
            let config = reload::read(&arguments.config)?;
            let loopback = config.upstream.address.ip();
            if !loopback.is_loopback() {
                return Err(format!(
                    "upstream.address: {loopback} is not a loopback address"
                ));
            }
            Wanted::behind(&pod, loopback)
        }
        Side::Straight => {
            let was = arguments.was.as_deref().map(Pod::read).transpose()?;
            Wanted::straight(&pod, was.as_ref())
        }
    };
    edit::edit(&text, &wanted).map_err(named)
}

fn check(arguments: &Arguments) -> Findings {
    let stage = if arguments.before {
        Stage::Before
    } else {
        Stage::Installed
    };
    let mut found = Findings::default();
    let config = match reload::read(&arguments.config) {
        Ok(config) => config,
        Err(problem) => {
            found.fail(
                "spillway.config",
                problem,
                "correct the file; config/examples/minimal.yaml is the least it needs",
            );
            return found;
        }
    };
    let snapshot = snapshot(&config, &arguments.config, &mut found);
    let clients = kubeconfigs::read(&arguments.kubeconfigs, &mut found);
    match Pod::read(&arguments.manifest) {
        Err(problem) => found.fail(
            "apiserver.manifest",
            problem,
            "name kube-apiserver's static pod: --manifest FILE",
        ),
        Ok(pod) => {
            flags::look(&pod, &config, stage, &mut found);
            let now = crate::clock::unix_seconds();
            certificates::look(
                &pod,
                &config,
                &kubeconfigs::hosts(&clients),
                now,
                &mut found,
            );
        }
    }
    kubeconfigs::look(&clients, &config, &mut found);
    match sockets::all() {
        Ok(sockets) => sockets::look(&sockets, &config, stage, &mut found),
        Err(problem) => found.warn(
            "listening",
            format!("/proc/net/tcp: {problem}"),
            "look with ss -ltnp",
        ),
    }
    if let Some(snapshot) = snapshot {
        server::look(&snapshot, stage, &mut found);
        if stage == Stage::Installed {
            server::through(&snapshot, &mut found);
        }
    }
    if stage == Stage::Installed {
        own_pod::look(&arguments.pod, &config, &mut found);
    }
    own_pod::patches(&arguments.patches, &mut found);
    found
}

/// Everything `spillway run` would read.
fn snapshot(config: &Config, file: &Path, found: &mut Findings) -> Option<Snapshot> {
    const CHECK: &str = "spillway.config";
    let loaded = Metrics::new()
        .map_err(|problem| problem.to_string())
        .and_then(|metrics| {
            Snapshot::load(config.clone(), 1, &metrics).map_err(|problem| problem.to_string())
        });
    match loaded {
        Ok(snapshot) => {
            found.ok(
                CHECK,
                format!("{}: good, as are the files it names", file.display()),
            );
            Some(snapshot)
        }
        Err(problem) => {
            found.fail(CHECK, problem, "correct the file or its path");
            None
        }
    }
}

/// A few of them, for a message.
fn names(addresses: &[std::net::SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().take(8).map(ToString::to_string).collect();
    format!("[{}]", texts.join(", "))
}

#[cfg(test)]
#[path = "install/tests.rs"]
mod tests;
