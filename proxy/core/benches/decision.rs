//! What one decision costs, stage by stage: nanoseconds and allocations.
//!
//! `cargo bench -p proxy-core`. Each line is measured in batches; the fastest batch tells
//! what the code costs, the median what the machine made of it.

#[path = "../tests/allocations/counting.rs"]
mod counting;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use proxy_core::admission::cost::{self, Model, Observation, Shape};
use proxy_core::admission::{
    Ask, ClassId, Cost, Decision, Engine, Kind, Mode, Offer, Outcome, Settings, Wake,
};
use proxy_core::attributes::parse;
use proxy_core::classify::{Client, Policy};
use proxy_core::identity::Identity;
use proxy_core::time::Time;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Batches short enough to fit between two interruptions, and many of them.
const ROUNDS: usize = 501;
const BATCH: u32 = 2_000;
/// Two threads must meet, and take a while to wake up.
const CONTENDED_ROUNDS: usize = 101;
const CONTENDED_BATCH: u32 = 50_000;

struct Nobody;

impl Wake for Nobody {
    fn decide(self, _: Decision) {}
}

/// One batch: how long it took, and how often it allocated.
fn batch(size: u32, mut act: impl FnMut()) -> (Duration, u64) {
    let allocations = counting::allocations();
    let began = Instant::now();
    for _ in 0..size {
        act();
    }
    (began.elapsed(), counting::allocations() - allocations)
}

fn report(name: &str, size: u32, mut batches: Vec<(Duration, u64)>) {
    batches.sort_unstable();
    let ns = |(took, _): (Duration, u64)| took.as_nanos() as f64 / f64::from(size);
    let most = batches.iter().map(|(_, count)| *count).max().unwrap_or(0);
    println!(
        "| {name} | {:.1} | {:.1} | {} |",
        ns(batches[0]),
        ns(batches[batches.len() / 2]),
        most as f64 / f64::from(size),
    );
}

fn measure(name: &str, mut act: impl FnMut()) {
    batch(BATCH, &mut act);
    let batches = (0..ROUNDS).map(|_| batch(BATCH, &mut act)).collect();
    report(name, BATCH, batches);
}

fn ask(class: u8, kind: Kind, work_us: u64) -> Ask {
    Ask {
        class: ClassId(class),
        cost: Cost {
            work_us,
            bytes: 4_000,
        },
        kind,
        tenant: 1,
        instance: 2,
        shape: 3,
    }
}

fn engine(mode: Mode) -> Engine<Nobody> {
    let settings = Settings {
        mode,
        ..Settings::default()
    };
    Engine::new(settings, Time(0))
}

fn offer_and_finish(engine: &Engine<Nobody>, ask: Ask) {
    match engine.offer(black_box(ask), Time(1), || Nobody) {
        Offer::Admitted(permit) => permit.finish(Outcome::Served, Time(2)),
        other => drop(black_box(other)),
    }
}

/// Two threads at the same engine, round by round; the slower one counts.
fn measure_contended(name: &str, asks: [Ask; 2]) {
    let engine = engine(Mode::Enforce);
    let start = Barrier::new(2);
    let one = |ask: Ask| {
        let work = || offer_and_finish(&engine, ask);
        (0..CONTENDED_ROUNDS)
            .map(|_| {
                start.wait();
                batch(CONTENDED_BATCH, work)
            })
            .collect::<Vec<_>>()
    };
    let [first, second] = thread::scope(|scope| {
        let threads = asks.map(|ask| scope.spawn(move || one(ask)));
        threads.map(|thread| thread.join().unwrap_or_default())
    });
    let slower = first.into_iter().zip(second).map(|(a, b)| a.max(b));
    report(name, CONTENDED_BATCH, slower.collect());
}

fn gate() {
    let uncongested = engine(Mode::Enforce);
    measure("offer + finish, room, 1 thread", || {
        offer_and_finish(&uncongested, ask(4, Kind::Short, 1_000));
    });
    let list = Ask {
        cost: Cost {
            work_us: 200_000,
            bytes: 14 << 20,
        },
        ..ask(6, Kind::Long, 0)
    };
    measure("offer + finish, room, 1 thread, LIST of 14 MiB", || {
        offer_and_finish(&uncongested, list);
    });
    let short = |class| ask(class, Kind::Short, 1_000);
    measure_contended(
        "offer + finish, room, 2 threads, one class",
        [short(4), short(4)],
    );
    measure_contended(
        "offer + finish, room, 2 threads, two classes",
        [short(1), short(4)],
    );

    let full = engine(Mode::Enforce);
    let mut held = Vec::new();
    loop {
        match full.offer(list, Time(0), || Nobody) {
            Offer::Shed(_) => break,
            other => held.push(other),
        }
    }
    measure("offer that is shed: the queue is full", || {
        drop(black_box(full.offer(black_box(list), Time(1), || Nobody)));
    });
    drop(held);

    let shadow = engine(Mode::Shadow);
    let running: Vec<_> = (0..1_000)
        .map(|_| shadow.offer(list, Time(0), || Nobody))
        .collect();
    measure("offer + finish in shadow that would be shed", || {
        offer_and_finish(&shadow, list);
    });
    drop(running);
}

fn costs() {
    let model = Model::new();
    let known = Shape {
        resource: 7,
        verb: cost::Verb::List,
        scope: cost::Scope::Cluster,
        source: cost::Source::Cache,
        encoding: cost::Encoding::Json,
        gzip: false,
        selector: false,
        limit: None,
    };
    let seen = Observation {
        bytes: 14 << 20,
        service: Duration::from_millis(190),
        calm: true,
    };
    model.observe(&known, &seen);
    let unknown = Shape {
        resource: 8,
        ..known
    };
    measure("estimate, known shape", || {
        black_box(model.estimate(black_box(&known)));
    });
    measure("estimate, unknown shape", || {
        black_box(model.estimate(black_box(&unknown)));
    });
    measure("observe", || {
        model.observe(black_box(&known), black_box(&seen));
    });
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf, application/json";

/// Name, method, path, query.
const REQUESTS: [(&str, &str, &str, Option<&str>); 6] = [
    ("GET pod", "GET", "/api/v1/namespaces/shop/pods/web-0", None),
    (
        "renew a lease",
        "PUT",
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-1",
        Some("timeout=10s"),
    ),
    (
        "patch a node's status",
        "PATCH",
        "/api/v1/nodes/node-1/status",
        Some("timeout=10s"),
    ),
    (
        "LIST pods, all namespaces",
        "GET",
        "/api/v1/pods",
        Some("limit=500&resourceVersion=0"),
    ),
    (
        "LIST pods, by field selector",
        "GET",
        "/api/v1/pods",
        Some("fieldSelector=spec.nodeName%3Dnode-1&resourceVersion=0"),
    ),
    (
        "watch from a version",
        "GET",
        "/apis/apps/v1/deployments",
        Some("allowWatchBookmarks=true&resourceVersion=123456&timeoutSeconds=431&watch=true"),
    ),
];

fn reading() {
    for (name, method, path, query) in REQUESTS {
        measure(&format!("parse: {name}"), || {
            let (path, query) = (black_box(path), black_box(query));
            drop(black_box(parse(method, path, query, Some(PROTOBUF))));
        });
    }
    let policy = Policy::default_policy();
    let agent = Identity::service_account("telemetry", "agent", None, Some("p"), Some("node-1"));
    let client = Client {
        user_agent: Some("agent/1.0"),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    for (name, method, path, query) in REQUESTS {
        let Ok(attributes) = parse(method, path, query, Some(PROTOBUF)) else {
            continue;
        };
        measure(
            &format!("classify, default policy, a service account: {name}"),
            || {
                black_box(policy.classify(black_box(&attributes), &agent, &client));
            },
        );
    }
}

fn main() {
    // `cargo test --benches` runs this too, and there it would measure nothing worth knowing.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("| what | fastest, ns | median, ns | allocations |");
    println!("| --- | --- | --- | --- |");
    gate();
    costs();
    reading();
}
