//! The demonstration: what happened to OpenAI's clusters on 2024-12-11, in
//! small, three times: straight to the apiserver, through Spillway in `shadow`,
//! through Spillway in `enforce`.
//!
//! A cluster lives its normal life ([`life`]); a telemetry agent is rolled out
//! to every node and LISTs everything, again and again ([`storm`]); an operator
//! deletes its DaemonSet; the cluster recovers. Everything is bounded: phases in
//! time, requests under way in number, the operator's patience, and so the whole
//! run.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use serde_json::json;

pub(crate) mod arm;
pub(crate) mod cast;
mod existing;
pub(crate) mod exposition;
pub(crate) mod life;
pub(crate) mod live;
pub(crate) mod objects;
mod progress;
pub(crate) mod proxy;
pub(crate) mod storm;
mod table;
pub(crate) mod upstream;
mod verdict;

use crate::control_plane::{SeedKind, SeedPlan, seed};
use crate::report::{Plan, Report, SCHEMA};
use arm::{Stage, Way};
use live::Live;
use progress::Progress;
use upstream::Upstream;

/// Nodes with a kubelet, in all populations that are not the storm.
pub(crate) const NODES: usize = 40;
/// Size of a pod as it is sent, bytes.
pub(crate) const POD: usize = 3000;
/// Creations under way.
const SEEDING: usize = 32;

/// Replays an overload by telemetry agents three times: without Spillway, with
/// Spillway in shadow mode, and with Spillway enforcing.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// What to protect: `model` (built in), `kube-apiserver` (a real one with
    /// etcd, started here; needs Go or KUBEBUILDER_ASSETS), or the https URL of
    /// a cluster.
    #[arg(long, value_name = "model|kube-apiserver|URL", default_value = "model")]
    pub upstream: String,
    /// Credentials for a cluster given by its URL: those of a cluster
    /// administrator.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Writes everything that was found as JSON.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Length of the calm phase, and of the storm before the operator acts.
    /// Default: 12 for the model, 20 otherwise.
    #[arg(long, value_name = "SECONDS")]
    pub seconds_per_phase: Option<f64>,
    /// Seed of all schedules.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Large objects to create: pods of 3 kB, or ConfigMaps in a cluster given
    /// by its URL. Default: 10000 for the model, 20000 for kube-apiserver, 1000
    /// for a URL.
    #[arg(long)]
    pub objects: Option<usize>,
    /// Telemetry agents, each with a connection of its own.
    #[arg(long, default_value_t = 100)]
    pub storm_nodes: usize,
    /// The storm's LISTs per second, as a multiple of what the apiserver can
    /// serve.
    #[arg(long, default_value_t = 10.0)]
    pub factor: f64,
    /// With a URL: do it without asking.
    #[arg(long)]
    pub yes: bool,
    /// Keeps certificates, configurations and logs there.
    #[arg(long, value_name = "DIRECTORY")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Real,
    Existing,
}

impl Options {
    fn kind(&self) -> anyhow::Result<Kind> {
        match &*self.upstream {
            "model" => Ok(Kind::Model),
            "kube-apiserver" => Ok(Kind::Real),
            url if url.starts_with("https://") => Ok(Kind::Existing),
            other => bail!(
                "--upstream {other}: neither `model` nor `kube-apiserver` nor an https:// URL"
            ),
        }
    }

    fn plan(&self, kind: Kind) -> anyhow::Result<Plan> {
        let (seconds, objects) = match kind {
            // Longer than a LIST may wait before the first one is refused.
            Kind::Model => (12.0, 10_000),
            Kind::Real => (20.0, 20_000),
            Kind::Existing => (20.0, 1000),
        };
        let plan = Plan {
            seconds_per_phase: self.seconds_per_phase.unwrap_or(seconds),
            seed: self.seed,
            objects: self.objects.unwrap_or(objects),
            storm_nodes: self.storm_nodes,
            factor: self.factor,
        };
        let within = |name: &str, value: f64, least: f64, most: f64| {
            ensure!(
                (least..=most).contains(&value),
                "--{name} {value}: must be from {least} to {most}"
            );
            Ok(())
        };
        within("seconds-per-phase", plan.seconds_per_phase, 1.0, 600.0)?;
        within("objects", plan.objects as f64, 1.0, 200_000.0)?;
        within("storm-nodes", plan.storm_nodes as f64, 1.0, 2000.0)?;
        within("factor", plan.factor, 0.1, 100.0)?;
        Ok(plan)
    }
}

/// Runs the demonstration; the exit status is 0 only if every required criterion
/// of the verdict was met, 1 if one was not.
///
/// Call it before there are other threads: beside a real control plane it
/// confines itself to the cores the apiserver does not use.
///
/// # Errors
/// When something cannot be started, set up or written; not when a criterion is
/// missed.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let kind = options.kind()?;
    let plan = options.plan(kind)?;
    let dir = Directory::open(options.dir.clone())?;
    let mut upstream = match kind {
        Kind::Model => Upstream::model(&dir.path, plan.objects, POD)?,
        Kind::Real => Upstream::kube_apiserver(&dir.path)?,
        Kind::Existing => {
            let kubeconfig = options.kubeconfig.as_deref();
            let kubeconfig = kubeconfig.context("--upstream URL needs --kubeconfig FILE")?;
            existing::ask(&options.upstream, &plan, options.yes)?;
            Upstream::existing(&options.upstream, kubeconfig, &dir.path)?
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let mut report = Report {
        schema: SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        upstream: upstream.label.clone(),
        notes: notes(kind, &plan),
        plan,
        ..Report::default()
    };
    say(&format!("Protecting {}.", report.upstream))?;
    for note in &report.notes {
        say(&format!("- {note}"))?;
    }
    let played = runtime.block_on(async {
        tokio::select! {
            played = play(&mut upstream, &mut report, &dir.path) => Some(played),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    let cleaned = if upstream.is_existing() {
        // Said before cleaning up, which takes its time and may fail, too.
        if let Some(Err(error)) = &played {
            eprintln!("load-tests: {error:#}");
        }
        say("Removing what was created.")?;
        runtime.block_on(existing::clean_up(&upstream))
    } else {
        Ok(())
    };
    match played {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            return Err(error.context(format!("files are in {}", dir.keep().display())));
        }
        // Everything has been taken away again, or is as this returns.
        None => bail!("interrupted"),
    }
    cleaned?;
    drop(upstream);
    report.verdict = verdict::judge(&report);
    report.seconds = began.elapsed().as_secs_f64();
    say(&table::render(&report))?;
    if let Some(file) = &options.report {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(file, text + "\n").with_context(|| file.display().to_string())?;
    }
    Ok(if report.verdict.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn play(upstream: &mut Upstream, report: &mut Report, dir: &Path) -> anyhow::Result<()> {
    let live = Live::new();
    let progress = Progress::begin(&live);
    let played = perform(upstream, report, dir, &live).await;
    progress.finish().await;
    played
}

async fn perform(
    upstream: &mut Upstream,
    report: &mut Report,
    dir: &Path,
    live: &Live,
) -> anyhow::Result<()> {
    live.phase("seeding");
    let plan = report.plan.clone();
    seed_objects(upstream, &plan, live).await?;
    let cast = Arc::new(cast::assemble(upstream, NODES, plan.storm_nodes).await?);
    let settings = if upstream.is_existing() {
        existing::settings(upstream).await?
    } else {
        json!({})
    };
    let mut measured = None;
    for way in Way::ALL {
        live.phase("settling");
        let restarted = upstream.revive()?;
        arm::until_calm(upstream).await?;
        let deaths = upstream.deaths();
        let stage = Stage {
            upstream,
            cast: cast.clone(),
            plan: plan.clone(),
            settings: settings.clone(),
            dir,
            live: live.clone(),
        };
        let mut arm = stage.run(way, &mut measured).await?;
        arm.upstream_restarts = u64::from(restarted) + upstream.deaths() - deaths;
        report.arms.push(arm);
    }
    if let Some((capacity, floor)) = measured {
        report.capacity = capacity;
        report.floor = Some(floor);
    }
    Ok(())
}

pub(crate) async fn seed_objects(
    upstream: &Upstream,
    plan: &Plan,
    live: &Live,
) -> anyhow::Result<()> {
    let admin = upstream.endpoint.client(&upstream.admin)?;
    if upstream.is_existing() {
        return existing::seed(&admin, plan.objects).await;
    }
    if upstream.is_model() {
        return Ok(()); // it started with them
    }
    let count = plan.objects;
    let report = seed(
        &admin,
        SeedPlan {
            kind: SeedKind::Pods,
            namespaces: count.div_ceil(upstream::PER_NAMESPACE),
            count,
            bytes_each: POD,
            concurrency: SEEDING,
        },
        // It reports a hundred times.
        |done| {
            if done * 10 / count > (done - 1) * 10 / count {
                live.tell(format!("{done} of {count} pods created"));
            }
        },
    )
    .await?;
    live.tell(format!(
        "{} pods of {POD} bytes in {:.1} s",
        report.created,
        report.elapsed.as_secs_f64()
    ));
    Ok(())
}

/// What the numbers need to be understood.
fn notes(kind: Kind, plan: &Plan) -> Vec<String> {
    let mut notes = vec![
        format!(
            "{NODES} nodes renew their leases once a second instead of every ten, to have as \
             many samples as ten times as many; all rates are open-loop and latencies count \
             from when a request was due"
        ),
        format!(
            "the storm is {} times what the apiserver was measured to serve, from {} agents with \
             a connection each; they honour Retry-After, up to 10 retries within {} s; offered \
             counts attempts; 10,000 under way are the bound",
            plan.factor,
            plan.storm_nodes,
            storm::PATIENCE.timeout.as_secs()
        ),
        format!(
            "the operator acts {:.0} s into the storm, in `enforce` through the reserved lane, \
             and the agents die 1 s after the DaemonSet is gone",
            plan.seconds_per_phase
        ),
    ];
    match kind {
        Kind::Model => notes.push(
            "the model simulates processor time and memory: its numbers show the mechanism, not \
             a machine"
                .to_owned(),
        ),
        Kind::Real => notes
            .push("no controllers or kubelets run: theirs is the load generated here".to_owned()),
        Kind::Existing => notes.push(
            "service accounts stand in for nodes, components and operators, because the \
             cluster's authority is not ours to sign with; rules give them the classes of those \
             they stand in for"
                .to_owned(),
        ),
    }
    notes
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").context("writing to the terminal")
}

/// Where the files of a run are; removed at the end unless somebody wants them.
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
    temporary: bool,
}

impl Directory {
    pub(crate) fn open(wanted: Option<PathBuf>) -> anyhow::Result<Self> {
        let temporary = wanted.is_none();
        let id = std::process::id();
        let path =
            wanted.unwrap_or_else(|| std::env::temp_dir().join(format!("spillway-demo-{id}")));
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        let path = path
            .canonicalize()
            .with_context(|| path.display().to_string())?;
        Ok(Self { path, temporary })
    }

    /// Not removed after all.
    fn keep(mut self) -> PathBuf {
        self.temporary = false;
        self.path.clone()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed is left.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Line::parse_from([&["demo"], arguments].concat()).options
    }

    #[test]
    fn a_cluster_is_only_attacked_when_its_url_is_given() {
        assert_eq!(options(&[]).kind().expect("valid"), Kind::Model);
        let real = options(&["--upstream", "kube-apiserver"]);
        assert_eq!(real.kind().expect("valid"), Kind::Real);
        let url = options(&["--upstream", "https://10.0.0.1:6443"]);
        assert_eq!(url.kind().expect("valid"), Kind::Existing);
        for wrong in ["http://10.0.0.1", "prod", ""] {
            assert!(options(&["--upstream", wrong]).kind().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_asked_for_is_bounded() {
        assert!(options(&[]).plan(Kind::Model).is_ok());
        for wrong in [
            ["--factor", "1000"],
            ["--seconds-per-phase", "0"],
            ["--seconds-per-phase", "NaN"],
            ["--storm-nodes", "0"],
            ["--objects", "1000000"],
        ] {
            let error = options(&wrong).plan(Kind::Model).expect_err("refused");
            assert!(error.to_string().contains(wrong[0]), "{error}");
        }
    }
}
