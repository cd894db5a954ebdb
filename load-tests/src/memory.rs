//! What a thousand LISTs at once do to a real kube-apiserver's memory, through Spillway and straight.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use config::{ByteSize, Config};
use http::Request;
use http_body_util::BodyExt as _;
use proxy_server::run;
use tokio::task::JoinSet;

use crate::control_plane::{
    ApiClient, Auth, ClientOptions, ControlPlane, KeyAlgorithm, Options as PlaneOptions, Protocol,
    SERVER_NAME, SeedKind, SeedPlan, Who, seed,
};

/// LISTs everything a thousand times at once and watches the server's memory.
#[derive(Debug, Args)]
pub struct Options {
    /// ConfigMaps.
    #[arg(long, default_value_t = 100_000)]
    objects: usize,
    /// Bytes of each.
    #[arg(long, default_value_t = 600)]
    bytes_each: usize,
    /// LISTs at once.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=5_000))]
    lists: u32,
    /// What the server may use, in MiB; 0 = two and a half times what it uses at rest.
    #[arg(long, default_value_t = 0)]
    limit: u64,
    /// For so long, each way.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only through the proxy.
    #[arg(long)]
    no_straight: bool,
}

const PATH: &str = "/api/v1/configmaps?resourceVersion=0";
/// LISTs of one client and connection.
const PER_CLIENT: u32 = 50;
/// Straight it ends here, as a share of the limit: the server would have been killed.
const DEAD: f64 = 1.5;

#[derive(Debug, Default)]
struct Tally {
    served: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    enough: AtomicBool,
}

/// Runs it.
///
/// # Errors
/// When the control plane or the proxy does not start.
pub fn run(options: &Options) -> Result<()> {
    let plane = ControlPlane::start(PlaneOptions {
        key_algorithm: KeyAlgorithm::EcdsaP256,
        ..PlaneOptions::default()
    })?;
    let pid = plane.pid().context("it runs")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let plan = SeedPlan {
        kind: SeedKind::ConfigMaps,
        namespaces: 10,
        count: options.objects,
        bytes_each: options.bytes_each,
        concurrency: 64,
    };
    let client = plane.client(Who::SuperAdmin)?;
    let report = runtime.block_on(seed(&client, plan, |_| ()))?;
    eprintln!("seeded in {:.0?}", report.elapsed);
    // A LIST, so that what one takes is there, and time for the collector.
    let size = runtime.block_on(client.get(PATH))?.body.len();
    std::thread::sleep(Duration::from_secs(10));
    let rest = memory(pid)?;
    let limit = match options.limit {
        0 => rest * 5 / 2,
        mebibytes => mebibytes << 20,
    };
    println!(
        "{} ConfigMaps, {} MiB as JSON; kube-apiserver {} (with etcd) at rest {} MiB, limit {} MiB",
        options.objects,
        size >> 20,
        plane.version(),
        rest >> 20,
        limit >> 20
    );
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::with_pki(plane.pki_dir());
    config.listen.main = vec![any];
    config.listen.reserved = vec![any];
    config.listen.admin = any;
    config.listen.workers = 1;
    config.upstream.address = plane
        .server()
        .trim_start_matches("https://")
        .parse()
        .context("the control plane's address")?;
    config.upstream.memory_limit = Some(ByteSize::bytes(limit));
    let running = run::start(config, None).context("starting Spillway")?;
    let main = running.main().first().context("no address")?;
    let server = format!("https://{main}");
    storm(
        options,
        &runtime,
        &plane,
        "through Spillway",
        &server,
        limit,
    )?;
    drop(running);
    if !options.no_straight {
        std::thread::sleep(Duration::from_secs(5));
        let server = plane.server().to_owned();
        storm(options, &runtime, &plane, "straight", &server, limit)?;
    }
    Ok(())
}

fn storm(
    options: &Options,
    runtime: &tokio::runtime::Runtime,
    plane: &ControlPlane,
    name: &str,
    server: &str,
    limit: u64,
) -> Result<()> {
    let pid = plane.pid().context("it runs")?;
    let tally = Arc::new(Tally::default());
    let _entered = runtime.enter();
    let mut clients = JoinSet::new();
    for number in 0..options.lists.div_ceil(PER_CLIENT) {
        // Of different users, so that none shares another's call.
        let user = plane.client_certificate(
            &format!("lister-{number}"),
            &["system:masters"],
            Duration::from_secs(3_600),
        )?;
        let client = ApiClient::new(ClientOptions {
            server: server.to_owned(),
            server_name: SERVER_NAME.to_owned(),
            ca_pem: plane.ca_pem()?,
            auth: Auth::Certificate(user),
            protocol: Protocol::Negotiated,
        })?;
        for _ in 0..PER_CLIENT.min(options.lists - number * PER_CLIENT) {
            clients.spawn(list(client.clone(), Arc::clone(&tally)));
        }
    }
    let began = Instant::now();
    let (mut peak, mut at) = (0, Duration::ZERO);
    let mut above = Duration::ZERO;
    while began.elapsed() < Duration::from_secs(options.seconds) {
        std::thread::sleep(Duration::from_millis(50));
        let now = memory(pid)?;
        if now > peak {
            (peak, at) = (now, began.elapsed());
        }
        if now as f64 > 0.85 * limit as f64 {
            above += Duration::from_millis(50);
        }
        if now as f64 > DEAD * limit as f64 {
            println!(
                "  (ended after {:.0?}: far beyond the limit)",
                began.elapsed()
            );
            break;
        }
    }
    tally.enough.store(true, Ordering::Relaxed);
    runtime.block_on(clients.shutdown());
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "{name}: at most {} MiB ({:.0} % of the limit, after {at:.0?}), {above:.1?} above 85 %; {} LISTs served ({} MiB), {} refused, {} failed",
        peak >> 20,
        peak as f64 / limit as f64 * 100.0,
        of(&tally.served),
        of(&tally.bytes) >> 20,
        of(&tally.refused),
        of(&tally.failed)
    );
    Ok(())
}

/// LISTs again and again, keeping to what it is told.
async fn list(client: ApiClient, tally: Arc<Tally>) {
    while !tally.enough.load(Ordering::Relaxed) {
        let Ok(request) = Request::get(PATH)
            .header("accept", "application/json")
            .body(Bytes::new())
        else {
            return;
        };
        let Ok(response) = client.open(request).await else {
            tally.failed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let status = response.status().as_u16();
        let wait = response
            .headers()
            .get("retry-after")
            .and_then(|wait| wait.to_str().ok()?.parse().ok())
            .unwrap_or(1);
        let mut body = response.into_body();
        let mut whole = true;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                    tally.bytes.fetch_add(bytes, Ordering::Relaxed);
                }
                Err(_) => {
                    whole = false;
                    break;
                }
            }
        }
        let counted = match status {
            200 if whole => &tally.served,
            429 => &tally.refused,
            _ => &tally.failed,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        if status != 200 {
            tokio::time::sleep(Duration::from_secs(wait)).await;
        }
    }
}

/// What a process uses that is no file's, in bytes.
fn memory(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("no RssAnon")? * 1024)
}
