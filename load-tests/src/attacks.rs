//! What attacks cost the others, measured: calm and attacked rounds in turn, on one machine, in one run.
//!
//! Every attack meets a Spillway of its own with one worker, so that there is no other thread to hide on. The attackers
//! run on a thread that yields to everybody else, and at a bounded rate: what is wanted is the proxy's share of the harm,
//! not the processor time they take themselves.

mod kinds;
mod polite;
mod table;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::control_plane::{self, Auth, SeedKind, SeedPlan, seed};
use crate::demo::proxy::Proxy;
use crate::demo::upstream::{PER_NAMESPACE, Upstream};
use kinds::{Attack, Done};
use polite::{Seen, ask};
use table::{Report, Row};
use wire::Target;

/// Bytes of a pod; the largest answer is `pods` of them.
const POD: usize = 3000;
/// What is left of an attack is given this long to be over.
const AFTERMATH: Duration = Duration::from_millis(700);
/// Between two looks at the proxy's memory.
const LOOK: Duration = Duration::from_millis(50);

/// Measures what attacks cost other clients.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// `model`, or `kube-apiserver` for a real one.
    #[arg(long, default_value = "model")]
    pub upstream: String,
    /// Only the attacks of these names.
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// How long each round lasts, calm or attacked.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Calm and attacked rounds per attack, in turn.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Pods to create.
    #[arg(long, default_value_t = 2000)]
    pub pods: usize,
    /// Writes everything that was found as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs them all and prints the table.
///
/// # Errors
/// When something could not be started or written; bad results are not errors.
pub fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(
        (0.2..=60.0).contains(&options.seconds),
        "--seconds {}: must be from 0.2 to 60",
        options.seconds
    );
    ensure!(
        (1..=20).contains(&options.rounds),
        "--rounds {}: must be from 1 to 20",
        options.rounds
    );
    ensure!(
        (1..=50_000).contains(&options.pods),
        "--pods {}: must be from 1 to 50000",
        options.pods
    );
    let chosen = chosen(&options.only)?;
    let dir = std::env::temp_dir().join(format!("spillway-attacks-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let measured = measure(options, &chosen, &dir);
    // What cannot be removed is left.
    let _ = std::fs::remove_dir_all(&dir);
    let report = measured?;
    println!("{}", report.render());
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, text + "\n").with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Attack>> {
    if names.is_empty() {
        return Ok(kinds::ALL.iter().collect());
    }
    let find = |name: &String| {
        let found = kinds::ALL.iter().find(|attack| attack.name == name);
        found.with_context(|| {
            let known: Vec<_> = kinds::ALL.iter().map(|attack| attack.name).collect();
            format!("--only {name}: there are {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}

fn measure(options: &Options, chosen: &[&'static Attack], dir: &Path) -> anyhow::Result<Report> {
    let upstream = match &*options.upstream {
        "model" => Upstream::model(dir, options.pods, POD)?,
        "kube-apiserver" => Upstream::kube_apiserver(dir)?,
        other => bail!("--upstream {other}: neither `model` nor `kube-apiserver`"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if !upstream.is_model() {
            let plan = SeedPlan {
                kind: SeedKind::Pods,
                namespaces: options.pods.div_ceil(PER_NAMESPACE),
                count: options.pods,
                bytes_each: POD,
                concurrency: 64,
            };
            seed(&upstream.endpoint.client(&upstream.admin)?, plan, |_| {}).await?;
        }
        let mut report = Report {
            upstream: upstream.label.clone(),
            seconds: options.seconds,
            rounds: options.rounds,
            pods: options.pods,
            rows: Vec::new(),
        };
        for attack in chosen {
            eprintln!("{}", attack.name);
            let row = one(options, attack, &upstream, dir).await;
            report.rows.push(row.context(attack.name)?);
        }
        Ok(report)
    })
}

/// Measures one attack.
async fn one(
    options: &Options,
    attack: &'static Attack,
    upstream: &Upstream,
    dir: &Path,
) -> anyhow::Result<Row> {
    let extra = json!({ "listen": { "workers": 1 } });
    let proxy = Proxy::start(upstream, "enforce", &extra, dir).await?;
    let certificate = |name| {
        let validity = Duration::from_secs(3600);
        control_plane::client_certificate(
            &upstream.pki,
            name,
            &["kubeadm:cluster-admins"],
            validity,
        )
        .map(Auth::Certificate)
    };
    let polite = upstream
        .endpoint
        .at(proxy.main)
        .client(&certificate("polite")?)?;
    let target = Target::new(
        proxy.main,
        &upstream.endpoint.server_name,
        &upstream.endpoint.ca_pem,
        &certificate("mallory")?,
    )?;
    let length = Duration::from_secs_f64(options.seconds);
    // Connections are made and costs are learned before anything counts.
    ask(&polite, Instant::now() + length.min(Duration::from_secs(1))).await;
    let done = Arc::new(Done::default());
    let (_, resting) = proxy.usage();
    let mut row = Row::new(attack);
    let (mut calm, mut attacked) = (Seen::default(), Seen::default());
    for _ in 0..options.rounds {
        let before = proxy.usage().0;
        calm.merge(ask(&polite, Instant::now() + length).await);
        row.cpu_calm += spent(before, proxy.usage().0);

        let attackers = Attackers::start(attack, target.clone(), Arc::clone(&done))?;
        let before = proxy.usage().0;
        let asking = ask(&polite, Instant::now() + length);
        let peak = peak_memory(&proxy);
        let seen = tokio::select! {
            seen = asking => seen,
            () = peak.watch() => unreachable!("it has no end"),
        };
        attacked.merge(seen);
        row.cpu_attacked += spent(before, proxy.usage().0);
        row.peak_bytes = row.peak_bytes.max(peak.highest());
        attackers.stop();
        sleep(AFTERMATH).await;
    }
    let all = options.seconds * f64::from(options.rounds);
    row.cpu_calm /= all;
    row.cpu_attacked /= all;
    row.peak_bytes = row.peak_bytes.saturating_sub(resting.unwrap_or_default());
    row.left_bytes = proxy
        .usage()
        .1
        .unwrap_or_default()
        .saturating_sub(resting.unwrap_or_default());
    row.note(&done, &mut calm, &mut attacked, all);
    Ok(row)
}

fn spent(before: Option<f64>, after: Option<f64>) -> f64 {
    match (before, after) {
        (Some(before), Some(after)) => after - before,
        _ => 0.0,
    }
}

struct Peak<'a> {
    proxy: &'a Proxy,
    highest: std::cell::Cell<u64>,
}

fn peak_memory(proxy: &Proxy) -> Peak<'_> {
    Peak {
        proxy,
        highest: std::cell::Cell::new(0),
    }
}

impl Peak<'_> {
    async fn watch(&self) {
        loop {
            let now = self.proxy.usage().1.unwrap_or_default();
            self.highest.set(self.highest.get().max(now));
            sleep(LOOK).await;
        }
    }

    fn highest(&self) -> u64 {
        self.highest.get()
    }
}

/// A thread full of attackers.
struct Attackers {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Attackers {
    fn start(attack: &'static Attack, target: Target, done: Arc<Done>) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::spawn(move || {
            // Of this thread only, on Linux.
            let _ = rustix::process::nice(10);
            let attackers = tokio::task::LocalSet::new();
            for _ in 0..attack.connections {
                attackers.spawn_local((attack.run)(target.clone(), Arc::clone(&done)));
            }
            // Dropping them closes their connections.
            attackers.block_on(&runtime, async {
                while !stopped.load(Ordering::Relaxed) {
                    sleep(Duration::from_millis(10)).await;
                }
            });
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        // It has nothing to say.
        let _ = self.thread.join();
    }
}
