//! What traces cost: processor time per request of three proxies that differ in `traces` alone.
//!
//! `cargo bench -p proxy-server --bench traces`; or, since only the proxy itself has to be an optimised build,
//! `SPILLWAY=/path/to/spillway cargo bench --profile dev -p proxy-server --bench traces`. The three take turns within one
//! run, in front of one scripted apiserver, so that whatever else the machine does meets all alike; what counts is their
//! ratio. Time is that of the proxy's process alone, from the kernel's books, collector and clients not counted.

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use support::process::Process;
use support::proxy::config_text;
use support::{Client, POD, Page, Pki, Upstream, upstream};

const ROUNDS: usize = 9;
/// Requests of one proxy in one round, by so many clients at once on one connection.
const REQUESTS: usize = 8_000;
const CLIENTS: usize = 16;

/// The three, and what they add to the configuration.
fn arms(collector: SocketAddr) -> [(&'static str, String); 3] {
    let traces =
        |more: &str| format!("traces: {{ endpoint: \"http://{collector}/v1/traces\"{more} }}\n");
    [
        ("off", String::new()),
        ("as by default, 1 %", traces("")),
        (
            "every request",
            traces(", sample: 100%, most: 100000, queue: 65536"),
        ),
    ]
}

struct Arm {
    name: &'static str,
    process: Process,
    admin: SocketAddr,
    client: Client,
    /// Microseconds of processor time per request, by round.
    costs: Vec<f64>,
    took: Duration,
}

fn main() {
    // Whoever runs all targets as tests has none here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let collector = collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(tokio::task::LocalSet::new().run_until(measure(collector)));
}

async fn measure(collector: SocketAddr) {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let binary = std::env::var_os("SPILLWAY").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_spillway")),
        PathBuf::from,
    );
    let mut all = Vec::new();
    for (number, (name, more)) in arms(collector).into_iter().enumerate() {
        let text = config_text(&pki, upstream.address(), &more);
        let file = pki.write(&format!("config-{number}.yaml"), &text);
        let mut process = Process::start_as(&binary, &file, &[]);
        let (main, _, admin) = process.addresses();
        let tls = pki.tls().certificate(&pki.user("jane", &[]));
        all.push(Arm {
            name,
            process,
            admin,
            client: Client::http2(main, &tls).await,
            costs: Vec::new(),
            took: Duration::ZERO,
        });
    }
    // The first round only makes everything warm.
    for round in 0..=ROUNDS {
        for arm in &mut all {
            let (before, began) = (arm.process.processor_time(), Instant::now());
            ask(&arm.client).await;
            let spent = arm.process.processor_time().saturating_sub(before);
            if round > 0 {
                arm.costs.push(spent.as_secs_f64() * 1e6 / REQUESTS as f64);
                arm.took += began.elapsed();
            }
        }
    }
    let off: Vec<f64> = all.first().map(|arm| arm.costs.clone()).unwrap_or_default();
    println!("{ROUNDS} rounds of {REQUESTS} requests each; medians, and the range of the ratios");
    for arm in &all {
        let page = Page::fetch(arm.admin).await;
        let spans = |result| page.sum("spillway_trace_spans_total", &[("result", result)]);
        let mut ratios: Vec<f64> = arm.costs.iter().zip(&off).map(|(a, b)| a / b).collect();
        let ratio = median(&mut ratios);
        println!(
            "{:<20} {:6.1} µs per request, {ratio:.3} of off ({:.3} to {:.3}), {:5.0} requests/s, spans {} exported, {} dropped",
            arm.name,
            median(&mut arm.costs.clone()),
            ratios.first().unwrap_or(&0.0),
            ratios.last().unwrap_or(&0.0),
            (ROUNDS * REQUESTS) as f64 / arm.took.as_secs_f64(),
            spans("exported"),
            spans("dropped"),
        );
    }
}

async fn ask(client: &Client) {
    let asking = (0..CLIENTS).map(|_| {
        let mut client = client.again();
        tokio::task::spawn_local(async move {
            for _ in 0..REQUESTS / CLIENTS {
                let answer = client.get(POD, "echo").await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        asked.await.expect("no panic");
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A collector that takes everything and keeps nothing.
fn collect() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || take(stream));
        }
    });
    address
}

/// Answers posts until the other side closes.
fn take(stream: TcpStream) -> Option<()> {
    let mut answers = stream.try_clone().ok()?;
    let mut posts = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if posts.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        std::io::copy(&mut posts.by_ref().take(length), &mut std::io::sink()).ok()?;
        let answer =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        answers.write_all(answer).ok()?;
    }
}
