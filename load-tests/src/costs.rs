//! How well requests' costs are predicted, on a real kube-apiserver: what each shape is taken for before it was ever
//! seen, after one call and after some, and what it really took.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Args;
use config::Config;
use http::{Method, Request};
use proxy_server::run;
use serde_json::{Value, json};

use crate::control_plane::{
    ApiClient, ClientOptions, ControlPlane, Kubeconfig, Options as PlaneOptions, Protocol,
    SERVER_NAME, SeedKind, SeedPlan, Who, seed,
};

/// Compares what requests are predicted to cost with what they take.
#[derive(Debug, Args)]
pub struct Options {
    /// ConfigMaps and pods, each.
    #[arg(long, default_value_t = 3_000)]
    objects: usize,
    /// Calls of each shape through the proxy.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(2..=100))]
    calls: u32,
}

/// One kind of request.
struct Shape {
    name: String,
    method: Method,
    path: String,
    accept: &'static str,
    gzip: bool,
    /// Sent with it; `{}` becomes a number of its own.
    body: Option<&'static str>,
}

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// What is asked for.
fn shapes() -> Vec<Shape> {
    let read = |name: &str, path: String, accept, gzip| Shape {
        name: name.to_owned(),
        method: Method::GET,
        path,
        accept,
        gzip,
        body: None,
    };
    let mut shapes = Vec::new();
    for resource in ["configmaps", "pods"] {
        let all = format!("/api/v1/{resource}");
        let one = format!("/api/v1/namespaces/seed-0/{resource}");
        for (encoding, accept) in [
            ("json", JSON),
            ("protobuf", PROTOBUF),
            ("metadata", METADATA),
            ("table", TABLE),
        ] {
            let list = format!("list {resource}");
            shapes.push(read(
                &format!("{list}, {encoding}, any state"),
                format!("{all}?resourceVersion=0"),
                accept,
                false,
            ));
            shapes.push(read(
                &format!("{list} of a namespace, {encoding}"),
                one.clone(),
                accept,
                false,
            ));
        }
        for (name, path, gzip) in [
            ("most recent", all.clone(), false),
            ("gzip", format!("{all}?resourceVersion=0"), true),
            ("page of 500", format!("{all}?limit=500"), false),
            (
                "selector that matches nothing",
                format!("{all}?resourceVersion=0&labelSelector=a%3Db"),
                false,
            ),
        ] {
            shapes.push(read(&format!("list {resource}, {name}"), path, JSON, gzip));
        }
    }
    for (name, path) in [
        ("get namespace", "/api/v1/namespaces/seed-0"),
        (
            "get service account",
            "/api/v1/namespaces/seed-0/serviceaccounts/default",
        ),
        (
            "get service account, any state",
            "/api/v1/namespaces/seed-0/serviceaccounts/default?resourceVersion=0",
        ),
        ("list namespaces", "/api/v1/namespaces"),
        (
            "list service accounts",
            "/api/v1/serviceaccounts?resourceVersion=0",
        ),
        (
            "list cluster roles",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        ),
        (
            "list cluster role bindings",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings?resourceVersion=0",
        ),
        (
            "list flow schemas",
            "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
        ),
        ("discovery", "/apis"),
        ("openapi", "/openapi/v3"),
        ("version", "/version"),
    ] {
        shapes.push(read(name, path.to_owned(), JSON, false));
    }
    let write = |name: &str, method, path: &str, body| Shape {
        name: name.to_owned(),
        method,
        path: path.to_owned(),
        accept: JSON,
        gzip: false,
        body: Some(body),
    };
    shapes.push(write(
        "create configmap",
        Method::POST,
        "/api/v1/namespaces/default/configmaps",
        r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"cost-{}-"},"data":{"a":"b"}}"#,
    ));
    shapes.push(write(
        "patch namespace",
        Method::PATCH,
        "/api/v1/namespaces/seed-0",
        r#"{"metadata":{"annotations":{"cost":"{}"}}}"#,
    ));
    shapes.push(write(
        "review of an access",
        Method::POST,
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"resourceAttributes":{"verb":"get","resource":"pods","name":"x{}"}}}"#,
    ));
    shapes
}

/// What one call took.
struct Took {
    bytes: u64,
    time: Duration,
}

async fn call(client: &ApiClient, shape: &Shape, number: u32) -> Result<Took> {
    let mut request = Request::builder()
        .method(shape.method.clone())
        .uri(&shape.path)
        .header("accept", shape.accept)
        .header(
            "accept-encoding",
            if shape.gzip { "gzip" } else { "identity" },
        );
    if shape.body.is_some() {
        let kind = if shape.method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            JSON
        };
        request = request.header("content-type", kind);
    }
    let body = shape
        .body
        .unwrap_or_default()
        .replace("{}", &number.to_string());
    let began = Instant::now();
    let answer = client.request(request.body(Bytes::from(body))?).await?;
    ensure!(
        (200..300).contains(&answer.status),
        "{}: {} {}",
        shape.name,
        answer.status,
        String::from_utf8_lossy(&answer.body)
    );
    Ok(Took {
        bytes: answer.body.len() as u64,
        time: began.elapsed(),
    })
}

/// An estimate.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    seconds: f64,
    bytes: f64,
}

impl Cost {
    fn of(value: &Value) -> Self {
        Self {
            seconds: value["work_seconds"].as_f64().unwrap_or_default(),
            bytes: value["bytes"].as_f64().unwrap_or_default(),
        }
    }
}

/// Runs it, and prints a table in Markdown.
///
/// # Errors
/// When the control plane or the proxy does not start, or a call is not answered.
pub fn run(options: &Options) -> Result<()> {
    let plane = ControlPlane::start(PlaneOptions::default())?;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::with_pki(plane.pki_dir());
    config.listen.main = vec![any];
    config.listen.reserved = vec![any];
    config.listen.admin = any;
    config.listen.workers = 1;
    let server = plane.server().trim_start_matches("https://");
    config.upstream.address = server.parse().context("the control plane's address")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(fill(options, &plane))?;
    // After the objects, so that what the server says of them is what there is.
    let running = run::start(config, None).context("starting Spillway")?;
    let main = running.main().first().context("no address")?.to_string();
    let rows = runtime.block_on(measure(options, &plane, &main, running.admin()))?;
    drop(runtime);
    report(options, &plane, &rows);
    drop(running);
    Ok(())
}

async fn fill(options: &Options, plane: &ControlPlane) -> Result<()> {
    let client = plane.client(Who::SuperAdmin)?;
    for kind in [SeedKind::ConfigMaps, SeedKind::Pods] {
        let plan = SeedPlan {
            kind,
            namespaces: 4,
            count: options.objects,
            bytes_each: 1_500,
            concurrency: 32,
        };
        seed(&client, plan, |_| ()).await?;
    }
    Ok(())
}

struct Row {
    name: String,
    prior: Cost,
    first: Cost,
    last: Cost,
    actual: Cost,
}

async fn measure(
    options: &Options,
    plane: &ControlPlane,
    main: &str,
    admin: SocketAddr,
) -> Result<Vec<Row>> {
    let auth = Kubeconfig::read(&plane.kubeconfig(Who::Admin))?.auth;
    let straight = plane.client_with(auth.clone())?;
    let proxied = ApiClient::new(ClientOptions {
        server: format!("https://{main}"),
        server_name: SERVER_NAME.to_owned(),
        ca_pem: plane.ca_pem()?,
        auth,
        protocol: Protocol::Negotiated,
    })?;
    // Long enough for the server to have been asked what it stores.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let mut rows = Vec::new();
    for shape in shapes() {
        let mut took = Vec::new();
        for number in 0..5 {
            took.push(call(&straight, &shape, number).await?);
        }
        took.sort_by_key(|took| took.time);
        let middle = took.get(2).context("no call")?;
        let actual = Cost {
            seconds: middle.time.as_secs_f64(),
            bytes: middle.bytes as f64,
        };
        let before = counts(&known(admin).await?);
        call(&proxied, &shape, 100).await?;
        let (key, prior, first) = grown(&before, &known(admin).await?)
            .with_context(|| format!("{}: nothing was learned", shape.name))?;
        for number in 1..options.calls {
            tokio::time::sleep(Duration::from_millis(50)).await;
            call(&proxied, &shape, 100 + number).await?;
        }
        let last = known(admin).await?;
        let last = last.iter().find(|entry| identity(entry) == key);
        rows.push(Row {
            name: shape.name,
            prior,
            first,
            last: last.map_or(first, |entry| Cost::of(&entry["estimate"])),
            actual,
        });
    }
    Ok(rows)
}

/// The shapes that are known to the proxy.
async fn known(admin: SocketAddr) -> Result<Vec<Value>> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    // An answer is learned from when its body has ended here, which may be a moment after it has there.
    tokio::time::sleep(Duration::from_millis(30)).await;
    let mut stream = tokio::net::TcpStream::connect(admin).await?;
    stream
        .write_all(b"GET /costs HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let page: Value = serde_json::from_str(body)?;
    Ok(page["shapes"].as_array().cloned().unwrap_or_default())
}

fn identity(entry: &Value) -> String {
    json!([
        entry["shape"],
        entry["verb"],
        entry["from"],
        entry["encoding"],
        entry["gzip"],
        entry["limit"],
        entry["selector"]
    ])
    .to_string()
}

fn counts(page: &[Value]) -> HashMap<String, u64> {
    page.iter()
        .map(|entry| (identity(entry), entry["seen"].as_u64().unwrap_or_default()))
        .collect()
}

/// The shape of which more has been seen since: what it was taken for, and is now.
fn grown(before: &HashMap<String, u64>, page: &[Value]) -> Option<(String, Cost, Cost)> {
    page.iter().find_map(|entry| {
        let key = identity(entry);
        let seen = entry["seen"].as_u64()?;
        (seen > before.get(&key).copied().unwrap_or_default()).then(|| {
            let (prior, estimate) = (Cost::of(&entry["prior"]), Cost::of(&entry["estimate"]));
            (key, prior, estimate)
        })
    })
}

/// How far off, as a factor of one or more.
fn factor(estimate: f64, actual: f64) -> f64 {
    let ratio = estimate.max(1e-9) / actual.max(1e-9);
    ratio.max(1.0 / ratio)
}

fn report(options: &Options, plane: &ControlPlane, rows: &[Row]) {
    println!(
        "{} ConfigMaps and as many pods; kube-apiserver {}; {} calls of each shape.\n",
        options.objects,
        plane.version(),
        options.calls
    );
    println!(
        "| shape | took ms | prior ms | after 1 | after {} | answer KiB | prior KiB | after {} |",
        options.calls, options.calls
    );
    println!("| --- | --: | --: | --: | --: | --: | --: | --: |");
    let ms = |cost: Cost| cost.seconds * 1e3;
    let kib = |cost: Cost| cost.bytes / 1024.0;
    for row in rows {
        println!(
            "| {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            row.name,
            ms(row.actual),
            ms(row.prior),
            ms(row.first),
            ms(row.last),
            kib(row.actual),
            kib(row.prior),
            kib(row.last)
        );
    }
    println!(
        "\n{} shapes; how far off, as a factor (1 is right):\n",
        rows.len()
    );
    println!("| | time: half below | nine of ten below | bytes: half below | nine of ten below |");
    println!("| --- | --: | --: | --: | --: |");
    for (name, of) in [
        ("prior", (|row| row.prior) as fn(&Row) -> Cost),
        ("after 1 call", |row| row.first),
        ("at the end", |row| row.last),
    ] {
        let quantiles = |of: &dyn Fn(&Row) -> f64| {
            let mut all: Vec<f64> = rows.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            let at = |share: f64| {
                let index = (all.len() as f64 * share) as usize;
                all.get(index.min(all.len().saturating_sub(1)))
                    .copied()
                    .unwrap_or(0.0)
            };
            (at(0.5), at(0.9))
        };
        let time = quantiles(&|row| factor(of(row).seconds, row.actual.seconds));
        let bytes = quantiles(&|row| factor(of(row).bytes, row.actual.bytes));
        println!(
            "| {name} | {:.1} | {:.1} | {:.1} | {:.1} |",
            time.0, time.1, bytes.0, bytes.1
        );
    }
}
