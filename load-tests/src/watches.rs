//! Thousands of watches on a real kube-apiserver, straight and through one
//! proxy: how long until all are open, what they take, and how soon one change
//! reaches them all.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::control_plane::{
    ApiClient, Auth, ClientOptions, ControlPlane, KeyAlgorithm, Options as PlaneOptions, Protocol,
    SERVER_NAME, Who,
};

/// For one watch to be open, refusals included.
const OPENING: Duration = Duration::from_secs(300);
/// For a change to reach everybody.
const FAN_OUT: Duration = Duration::from_secs(120);
/// How many changes are sent.
const CHANGES: usize = 5;

/// Opens thousands of watches on a real kube-apiserver, straight and through
/// one Spillway, and prints what that takes.
#[derive(Debug, Args)]
pub struct Options {
    /// How many watches.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    count: u32,
    /// How many of them share a client connection.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
    per_connection: u32,
    /// How many are being opened at any time.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    at_once: u32,
    /// Spillway's `admission.mode`: `off` shows what the way alone costs.
    #[arg(long, default_value = "enforce", value_parser = ["off", "shadow", "enforce"])]
    mode: String,
    /// Only through the proxy.
    #[arg(long)]
    no_straight: bool,
}

/// Runs it.
///
/// # Errors
/// When the control plane or the proxy does not start, a watch is not opened or
/// breaks, or a change does not reach one.
pub fn run(options: &Options) -> Result<()> {
    raise_descriptor_limit()?;
    let plane = ControlPlane::start(PlaneOptions {
        key_algorithm: KeyAlgorithm::EcdsaP256,
        ..PlaneOptions::default()
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    println!(
        "{} watches, {} to a client's connection; kube-apiserver {}",
        options.count,
        options.per_connection,
        plane.version()
    );
    let apiserver = plane.pid().context("the control plane runs")?;
    if !options.no_straight {
        let server = plane.server().to_owned();
        runtime.block_on(one_way(
            options, &plane, "straight", &server, apiserver, None,
        ))?;
    }
    let proxy = Proxy::start(&plane, &options.mode)?;
    let server = format!("https://{}", proxy.main);
    runtime.block_on(one_way(
        options,
        &plane,
        &format!("through Spillway, admission {}", options.mode),
        &server,
        apiserver,
        Some(&proxy),
    ))
}

async fn one_way(
    options: &Options,
    plane: &ControlPlane,
    name: &str,
    server: &str,
    apiserver: u32,
    proxy: Option<&Proxy>,
) -> Result<()> {
    let admin = plane.client(Who::SuperAdmin)?;
    let namespace = format!(
        "watched-{}",
        if proxy.is_some() {
            "proxied"
        } else {
            "straight"
        }
    );
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace },
    });
    let created = admin.post("/api/v1/namespaces", &object).await?;
    let created = created.accept("creating a namespace", &[])?.json();
    let version = created["metadata"]["resourceVersion"]
        .as_str()
        .context("no resource version")?;
    let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
    let path = format!("{collection}?watch=1&timeoutSeconds=3000&resourceVersion={version}");

    let before = (
        resident(apiserver)?,
        proxy.map(Proxy::resident).transpose()?,
    );
    let used = || -> Result<(f64, Option<f64>)> {
        let proxy = proxy.map(|proxy| processor_time(proxy.child.id()));
        Ok((processor_time(apiserver)?, proxy.transpose()?))
    };
    let start = used()?;
    let began = Instant::now();
    let (mut watches, refusals, _clients) = open_all(options, plane, server, &path).await?;
    let opened = began.elapsed();
    println!("\n{name}");
    println!("  all open after      {opened:.1?}, {refusals} refusals on the way");
    tell_used("opening", start, used()?);
    let count = watches.len() as u64;
    // What is settled a little later belongs to them too.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = (
        resident(apiserver)?,
        proxy.map(Proxy::resident).transpose()?,
    );
    let each =
        |before: u64, after: u64| after.saturating_sub(before) as f64 / count as f64 / 1024.0;
    println!(
        "  apiserver and etcd  {} MiB, {:.1} KiB per watch",
        after.0 >> 20,
        each(before.0, after.0)
    );
    if let (Some(before), Some(after), Some(proxy)) = (before.1, after.1, proxy) {
        println!(
            "  Spillway            {} MiB, {:.1} KiB per watch",
            after >> 20,
            each(before, after)
        );
        let page = proxy.metrics()?;
        let sum = |name| sum(&page, name, "traffic=\"long\"");
        println!(
            "  upstream            {} connections, {} streams",
            sum("spillway_upstream_connections"),
            sum("spillway_upstream_streams")
        );
    }
    let before_changes = used()?;
    for number in 0..CHANGES {
        let event = format!("event-{number}");
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": event },
        });
        let sent = Instant::now();
        let mut seeing = JoinSet::new();
        for watch in watches.drain(..) {
            let event = event.clone();
            seeing.spawn(async move {
                let watch = tokio::time::timeout(FAN_OUT, sees(watch, &event)).await;
                watch
                    .context("a watch never saw the change")?
                    .map(|watch| (watch, sent.elapsed()))
            });
        }
        admin
            .post(&collection, &object)
            .await?
            .accept("creating", &[])?;
        let mut delays = Histogram::<u64>::new(3)?;
        while let Some(seen) = seeing.join_next().await {
            let (watch, delay) = seen??;
            watches.push(watch);
            delays.record(u64::try_from(delay.as_micros())?)?;
        }
        ensure!(delays.len() == count, "a watch is missing");
        let at = |share| delays.value_at_quantile(share) / 1000;
        println!(
            "  change {number}            seen by all {count}: half after {} ms, 99 % after {} ms, all after {} ms",
            at(0.5),
            at(0.99),
            delays.max() / 1000
        );
    }
    tell_used("all changes", before_changes, used()?);
    Ok(())
}

fn tell_used(what: &str, before: (f64, Option<f64>), after: (f64, Option<f64>)) {
    print!(
        "  processor time      {what}: apiserver and etcd {:.1} s",
        after.0 - before.0
    );
    if let (Some(before), Some(after)) = (before.1, after.1) {
        print!(", Spillway {:.1} s", after - before);
    }
    println!();
}

/// Opens them all; also says how often one was refused, and keeps the clients.
async fn open_all(
    options: &Options,
    plane: &ControlPlane,
    server: &str,
    path: &str,
) -> Result<(Vec<Incoming>, u64, Vec<ApiClient>)> {
    let watcher = plane.client_certificate(
        "watcher",
        &["kubeadm:cluster-admins"],
        Duration::from_secs(3600),
    )?;
    let turn = Arc::new(Semaphore::new(options.at_once as usize));
    let mut opening = JoinSet::new();
    let mut clients = Vec::new();
    for number in 0..options.count {
        if number % options.per_connection == 0 {
            clients.push(ApiClient::new(ClientOptions {
                server: server.to_owned(),
                server_name: SERVER_NAME.to_owned(),
                ca_pem: plane.ca_pem()?,
                auth: Auth::Certificate(watcher.clone()),
                protocol: Protocol::Negotiated,
            })?);
        }
        let client = clients.last().context("no client")?.clone();
        let (path, turn) = (path.to_owned(), Arc::clone(&turn));
        opening.spawn(async move {
            let _turn = turn.acquire().await?;
            open(&client, &path).await
        });
    }
    let (mut watches, mut refusals) = (Vec::new(), 0);
    while let Some(opened) = opening.join_next().await {
        let (watch, refused) = opened??;
        watches.push(watch);
        refusals += refused;
    }
    Ok((watches, refusals, clients))
}

/// Opens a watch; while it is refused with 429, as an informer does: later.
async fn open(client: &ApiClient, path: &str) -> Result<(Incoming, u64)> {
    let deadline = Instant::now() + OPENING;
    let mut refused = 0;
    loop {
        let request = Request::get(path)
            .header("accept", "application/json")
            .body(Bytes::new())?;
        let response = client.open(request).await?;
        match response.status().as_u16() {
            200 => return Ok((response.into_body(), refused)),
            429 if Instant::now() < deadline => {
                refused += 1;
                let wait = response.headers().get("retry-after");
                let wait = wait.context("429 without Retry-After")?.to_str()?.parse()?;
                tokio::time::sleep(Duration::from_secs(wait)).await;
            }
            status => bail!("a watch got {status}"),
        }
    }
}

/// Reads a watch until an event is about `name`.
async fn sees(mut events: Incoming, name: &str) -> Result<Incoming> {
    let wanted = format!("\"name\":\"{name}\"");
    let mut text = String::new();
    loop {
        let frame = events.frame().await.context("a watch ended")??;
        if let Ok(data) = frame.into_data() {
            text.push_str(&String::from_utf8_lossy(&data));
        }
        if text.contains(&wanted) {
            return Ok(events);
        }
    }
}

/// Spillway in a process of its own, with its default configuration.
struct Proxy {
    child: Child,
    main: SocketAddr,
    admin: SocketAddr,
    _dir: Directory,
}

struct Directory(std::path::PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Proxy {
    fn start(plane: &ControlPlane, mode: &str) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("spillway-watches-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let dir = Directory(dir);
        let file = dir.0.join("spillway.yaml");
        std::fs::write(&file, configuration(plane, mode))?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["spillway", "run", "--exit-on-stdin-close", "--config"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting Spillway")?;
        let mut log = BufReader::new(child.stderr.take().context("no log")?).lines();
        let line = log
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.contains("spillway is up"))
            .context("Spillway did not start")?;
        // Or it would stop at a full pipe.
        std::thread::spawn(move || {
            for line in log.map_while(Result::ok) {
                // Each refusal is one at this level.
                if !line.contains("\"level\":\"INFO\"") {
                    eprintln!("{line}");
                }
            }
        });
        let mut addresses = line
            .split(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != ':')
            .filter_map(|word| word.parse().ok());
        Ok(Self {
            child,
            main: addresses.next().context("no main address")?,
            admin: addresses.next().context("no admin address")?,
            _dir: dir,
        })
    }

    fn resident(&self) -> Result<u64> {
        resident(self.child.id())
    }

    fn metrics(&self) -> Result<String> {
        use std::io::Write as _;
        let mut stream = std::net::TcpStream::connect(self.admin)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(plane: &ControlPlane, mode: &str) -> String {
    format!(
        "pki: {}\n\
         listen: {{ main: [\"127.0.0.1:0\"], reserved: [], admin: \"127.0.0.1:0\", workers: 2 }}\n\
         admin: {{ socket: off }}\n\
         upstream: {{ address: \"{}\" }}\n\
         admission: {{ mode: \"{mode}\" }}\n",
        plane.pki_dir().display(),
        plane.server().trim_start_matches("https://"),
    )
}

fn sum(page: &str, name: &str, label: &str) -> f64 {
    page.lines()
        .filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('{') && rest.contains(label))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// User and system time of a process, seconds: fields 14 and 15 of its `stat`, in
/// hundredths (USER_HZ).
fn processor_time(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).context(path)?;
    // The second field, the name, may hold spaces; it ends at the last bracket.
    let (_, rest) = stat.rsplit_once(')').context("no stat")?;
    let ticks = rest.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / 100.0)
}

/// Resident memory of a process, bytes.
fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(Path::new(&path)).context(path)?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(kib * 1024)
}

fn raise_descriptor_limit() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )?)
}
