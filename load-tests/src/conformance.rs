//! Kubernetes' own conformance tests, straight to a real control plane and
//! through Spillway: what passes without it must pass with it.
//!
//! There are no nodes, so the tests that run pods are left out ([`skip`]).
//! Kubernetes' controllers run, and reach the cluster the same way as the tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use clap::ValueEnum;
use config::Config;
use proxy_server::run::{self, Running};

use crate::control_plane::{
    ControlPlane, Controllers, GoProgram, KeyAlgorithm, Kubeconfig, Options as PlaneOptions, Who,
    go_program, write_kubeconfig,
};

mod report;
mod skip;

use report::Outcome;

/// Kubernetes' own API-machinery conformance tests, straight and through Spillway.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Which tests: a regular expression on their full names.
    #[arg(long, default_value = r"\[sig-api-machinery\].*\[Conformance\]")]
    focus: String,
    /// Tests to leave out besides those that need nodes: a regular expression.
    #[arg(long)]
    skip: Option<String>,
    /// Which ways to go, in this order.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "straight,through"
    )]
    ways: Vec<Way>,
    /// Where logs and reports are kept; a temporary directory if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// How the tests and the controllers reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Way {
    /// Without Spillway.
    Straight,
    /// Through Spillway with its default configuration.
    Through,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Straight => "straight",
            Self::Through => "through Spillway",
        }
    }
}

/// What came of each test, by its name.
type Outcomes = BTreeMap<String, Outcome>;

/// Runs the tests each way and prints what came of them. The exit status is 1 when
/// a test that passed without Spillway did not pass with it.
///
/// # Errors
/// When something needed is missing or does not start.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let tests = go_program(GoProgram::Conformance).context("Kubernetes' own tests")?;
    let dir = match &options.dir {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("spillway-conformance-{}", std::process::id())),
    };
    let mut results = BTreeMap::new();
    for &way in &options.ways {
        let dir = dir.join(format!("{way:?}").to_lowercase());
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        eprintln!(
            "{}: running; the log is {}/e2e.log",
            way.name(),
            dir.display()
        );
        let outcomes = one_way(&tests, way, options, &dir)?;
        eprintln!("{}: {}", way.name(), report::summary(&outcomes));
        results.insert(way, outcomes);
    }
    report::print(&results);
    let empty = Outcomes::new();
    let straight = results.get(&Way::Straight).unwrap_or(&empty);
    let through = results.get(&Way::Through).unwrap_or(&empty);
    let worse = report::worse(straight, through);
    for name in &worse {
        println!("passed without Spillway only: {name}");
    }
    let passed = |outcomes: &Outcomes| outcomes.values().any(|outcome| outcome.passed);
    let some = results.values().all(passed);
    Ok(if worse.is_empty() && some {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Starts a cluster and runs the tests in it.
fn one_way(tests: &Path, way: Way, options: &Options, dir: &Path) -> anyhow::Result<Outcomes> {
    let plane = ControlPlane::start(PlaneOptions {
        key_algorithm: KeyAlgorithm::EcdsaP256,
        // One test waits for the second compaction, every 5 minutes by default.
        extra_flags: vec!["--etcd-compaction-interval=1m".to_owned()],
        ..PlaneOptions::default()
    })?;
    let proxy = match way {
        Way::Straight => None,
        Way::Through => Some(proxy(&plane)?),
    };
    let server = match proxy.as_ref().and_then(|proxy| proxy.main().first()) {
        Some(address) => format!("https://{address}"),
        None => plane.server().to_owned(),
    };
    let mut controllers = Controllers::start(&plane, &server, dir)?;
    let admin = Kubeconfig::read(&plane.kubeconfig(Who::Admin))?;
    let kubeconfig = dir.join("admin.conf");
    let name = admin.server_name.as_deref();
    write_kubeconfig(&kubeconfig, &server, name, &admin.ca_pem, &admin.auth)?;
    let report = dir.join("report.json");
    let log = dir.join("e2e.log");
    let output = std::fs::File::create(&log).with_context(|| log.display().to_string())?;
    // It ends with 1 when a test fails; which one is in the report.
    Command::new(tests)
        .args(arguments(options))
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .status()
        .context("running Kubernetes' tests")?;
    controllers.check()?;
    report::read(&report).with_context(|| format!("see {}", log.display()))
}

/// A proxy with the default configuration.
fn proxy(plane: &ControlPlane) -> anyhow::Result<Running> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::with_pki(plane.pki_dir());
    config.listen.main = vec![any];
    config.listen.reserved = vec![any];
    config.listen.admin = any;
    config.admin.socket = None;
    config.reserved.check.enabled = false;
    let server = plane.server().trim_start_matches("https://");
    config.upstream.address = server.parse().context("the control plane's address")?;
    run::start(config, None).context("starting Spillway")
}

fn arguments(options: &Options) -> Vec<String> {
    let skip = match &options.skip {
        Some(more) => format!("{}|{more}", skip::needs_nodes()),
        None => skip::needs_nodes(),
    };
    vec![
        "--provider=skeleton".to_owned(),
        // None is ready, and none is waited for.
        "--allowed-not-ready-nodes=-1".to_owned(),
        "--num-nodes=0".to_owned(),
        "--ginkgo.no-color".to_owned(),
        "--ginkgo.v".to_owned(),
        "--ginkgo.timeout=3h".to_owned(),
        format!("--ginkgo.focus={}", options.focus),
        format!("--ginkgo.skip={skip}"),
    ]
}
