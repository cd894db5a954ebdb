//! The proving ground's main scenarios in small, on a real kube-apiserver: each once straight to it and once through
//! Spillway, with the demonstration's everyday life going on beside them.
//!
//! The simulator answers what would be on other machines; this answers whether the mechanism is the same on a real one.
//! Everything is bounded in time and number, and on loopback only.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

mod found;
mod informers;
mod lane;
mod memory;
mod scene;
mod trouble;

use crate::demo::arm::{Finished, LAST_ANSWERS, WARM_UP, recovered_after, until_calm};
use crate::demo::cast::{self, Cast};
use crate::demo::life::{Life, POPULATIONS};
use crate::demo::live::Live;
use crate::demo::proxy::Proxy;
use crate::demo::upstream::Upstream;
use crate::demo::{Directory, NODES, POD, seed_objects};
use crate::record::Current;
use crate::report::{Phase, Plan};
use found::Found;
use scene::{Capacity, Scene, Teams};
use trouble::{Setting, Trouble};

/// Agents, and so whales, slow readers and informers.
const AGENTS: usize = 100;

/// Plays the scenarios of the proving ground on a real kube-apiserver, straight and through Spillway.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Which; all of them if none is named.
    #[arg(value_enum)]
    scenes: Vec<Scene>,
    /// `kube-apiserver` (started here; needs Go or KUBEBUILDER_ASSETS) or `model`, which cannot be stopped and started.
    #[arg(long, default_value = "kube-apiserver", value_parser = ["kube-apiserver", "model"])]
    upstream: String,
    /// Pods of 3 kB to begin with.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    objects: u32,
    /// Length of the trouble; calm before it is a third of it, recovery after it half.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Seed of all schedules.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Spillway's configuration, of which the `admission` section is taken; always enforced.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Writes everything that was found as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keeps certificates, configurations and logs there.
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

/// Plays them and prints a table.
///
/// Call it before there are other threads: it confines itself to the cores the apiserver does not use.
///
/// # Errors
/// When something cannot be started, set up or written.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let extra = options.extra()?;
    let dir = Directory::open(options.dir.clone())?;
    let objects = options.objects as usize;
    let mut upstream = match &*options.upstream {
        "model" => Upstream::model(&dir.path, objects, POD)?,
        "kube-apiserver" => Upstream::kube_apiserver(&dir.path)?,
        other => bail!("--upstream {other}: neither `model` nor `kube-apiserver`"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    println!(
        "{}; {objects} pods; {NODES} nodes' everyday life; trouble for {} s\n",
        upstream.label, options.seconds
    );
    let found = runtime.block_on(play(&mut upstream, options, &extra, &dir.path))?;
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&found)?;
        fs::write(file, text + "\n").with_context(|| file.display().to_string())?;
    }
    Ok(())
}

async fn play(
    upstream: &mut Upstream,
    options: &Options,
    extra: &Value,
    dir: &Path,
) -> anyhow::Result<Vec<Found>> {
    let plan = Plan {
        objects: options.objects as usize,
        ..Plan::default()
    };
    seed_objects(upstream, &plan, &Live::new()).await?;
    let cast = Arc::new(cast::assemble(upstream, NODES, AGENTS).await?);
    let teams = Teams::found(upstream).await?;
    let capacity = Capacity::measure(upstream, &teams).await?;
    println!("{capacity}\n\n{}", found::HEAD);
    let mut all = Vec::new();
    for scene in options.scenes() {
        if scene.stops_the_server() && upstream.is_model() {
            println!("| {} | the model cannot be stopped |", scene.name());
            continue;
        }
        for through in [false, true] {
            upstream.revive()?;
            until_calm(upstream).await?;
            let stage = Stage {
                cast: &cast,
                teams: &teams,
                capacity: &capacity,
                options,
                extra,
                dir,
            };
            let found = stage.play(upstream, scene, through).await?;
            println!("{found}");
            all.push(found);
        }
    }
    Ok(all)
}

impl Options {
    fn scenes(&self) -> Vec<Scene> {
        use clap::ValueEnum as _;
        if self.scenes.is_empty() {
            Scene::value_variants().to_vec()
        } else {
            self.scenes.clone()
        }
    }

    /// What is set in Spillway's configuration beside addresses and keys.
    fn extra(&self) -> anyhow::Result<Value> {
        let Some(file) = &self.config else {
            return Ok(json!({}));
        };
        let name = file.display().to_string();
        let text = fs::read_to_string(file).with_context(|| name.clone())?;
        let config = config::Config::parse(&text, &name).map_err(|report| anyhow!("{report}"))?;
        let mut admission = serde_json::to_value(config.admission)?;
        admission["mode"] = json!("enforce");
        Ok(json!({ "admission": admission }))
    }
}

struct Stage<'a> {
    cast: &'a Arc<Cast>,
    teams: &'a Teams,
    capacity: &'a Capacity,
    options: &'a Options,
    extra: &'a Value,
    dir: &'a Path,
}

impl Stage<'_> {
    /// One scenario, one way.
    async fn play(
        &self,
        upstream: &mut Upstream,
        scene: Scene,
        through: bool,
    ) -> anyhow::Result<Found> {
        let length = Duration::from_secs(self.options.seconds.into());
        let proxy = match through {
            true => Some(Proxy::start(upstream, "enforce", self.extra, self.dir).await?),
            false => None,
        };
        let (endpoint, lane) = match &proxy {
            Some(proxy) => (upstream.behind(proxy.main), upstream.behind(proxy.reserved)),
            None => (upstream.endpoint.clone(), upstream.endpoint.clone()),
        };
        let current = Current::open(POPULATIONS);
        let operator = Current::open(lane::POPULATIONS);
        let life = Life::begin(self.cast, &endpoint, &current, self.options.seed)?;
        let lane = lane::ask(&lane.client(&self.cast.operator)?, &operator);
        let setting = Setting {
            agents: trouble::connect(&self.cast.agents, &endpoint, "telemetry-agent/2.0.0").await?,
            teams: trouble::connect(&self.teams.members, &endpoint, "team/1.0.0").await?,
            manager: trouble::connect(
                std::slice::from_ref(&self.cast.manager),
                &endpoint,
                "kube-controller-manager/v1.36.0",
            )
            .await?
            .remove(0),
            capacity: self.capacity.clone(),
            current: current.clone(),
            seed: self.options.seed,
        };
        sleep(WARM_UP).await;
        current.turn();
        operator.turn();
        sleep(length / 3).await;
        let calm = Finished::turn("calm", &current);
        operator.turn();

        let memory = memory::Peak::watch(upstream.pid());
        let began = Instant::now();
        let mut trouble = Trouble::begin(scene, setting);
        let mut returned = true;
        if let Some(away) = scene.away() {
            // Informers have listed and watch before it strikes.
            trouble.settled(2 * length).await;
            current.turn();
            trouble.strikes();
            // A server that everybody's return keeps from starting is a finding, too.
            returned = upstream.fail(away).await.is_ok();
        }
        if scene.ends_by_itself() {
            if returned {
                trouble.settled(3 * length).await;
            }
        } else {
            sleep_until(began + length + scene.away().unwrap_or_default()).await;
        }
        let outcome = trouble.end().await;
        let during = Finished::turn("trouble", &current);
        let asked = operator.turn();
        sleep(length / 2).await;
        let recovery = Finished::turn("recovery", &current);
        life.end(LAST_ANSWERS).await;
        lane.abort();
        let (proxy_cpu, proxy_memory) = proxy.as_ref().map_or((None, None), Proxy::usage);
        Ok(Found {
            scenario: scene.name(),
            through,
            stable_after_seconds: recovered_after(&calm, &recovery),
            phases: [calm, during, recovery].map(Finished::into_phase).into(),
            operator: Phase::of("trouble", 0.0, &asked),
            server_peak_bytes: memory.end(),
            proxy_cpu_seconds: proxy_cpu,
            proxy_resident_bytes: proxy_memory,
            server_returned: returned,
            outcome,
        })
    }
}
