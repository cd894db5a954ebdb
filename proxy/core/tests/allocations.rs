//! Deciding about a request that finds room must cost nothing but a few instructions:
//! no allocation, whoever asks and whatever is asked in the usual way.

#[path = "allocations/counting.rs"]
mod counting;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use proxy_core::admission::cost::{Encoding, Model, Observation, Scope, Shape, Source, Verb};
use proxy_core::admission::limits::{Asked, LimitSpec, Limits, Per, Rate};
use proxy_core::admission::{
    Ask, ClassId, Cost, Decision, Engine, Kind, Mode, Offer, Outcome, Settings, Wake,
};
use proxy_core::attributes::parse;
use proxy_core::classify::{Client, Policy};
use proxy_core::identity::Identity;
use proxy_core::time::Time;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

struct Nobody;

impl Wake for Nobody {
    fn decide(self, _: Decision) {}
}

/// How often this thread allocates while doing it.
fn allocations_of(act: impl FnOnce()) -> u64 {
    let before = counting::allocations();
    act();
    counting::allocations() - before
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

/// Offer and finish, `rounds` times; all must be admitted.
fn run(engine: &Engine<Nobody>, ask: Ask, rounds: u64) {
    for round in 0..rounds {
        match engine.offer(ask, Time(round), || Nobody) {
            Offer::Admitted(permit) => permit.finish(Outcome::Served, Time(round + 1)),
            other => panic!("no room for {other:?}"),
        }
    }
}

#[test]
fn the_allocator_under_test_counts() {
    assert_eq!(
        allocations_of(|| drop(black_box(Box::new(black_box(1_u64))))),
        1
    );
    assert!(allocations_of(|| drop(black_box(vec![0_u8; 100]))) >= 1);
}

#[test]
fn a_request_that_finds_room_starts_and_ends_without_allocating() {
    for mode in [Mode::Off, Mode::Enforce] {
        let engine = engine(mode);
        for class in 0..8 {
            for kind in [Kind::Short, Kind::Long] {
                let large = Ask {
                    cost: Cost {
                        work_us: 500_000,
                        bytes: 40 << 20,
                    },
                    ..ask(class, kind, 0)
                };
                for ask in [ask(class, kind, 1_000), large] {
                    let count = allocations_of(|| run(&engine, ask, 100));
                    assert_eq!(count, 0, "{mode:?} {ask:?}");
                }
            }
        }
    }
}

#[test]
fn a_request_within_its_limits_takes_and_gives_back_without_allocating() {
    let limit = |name: &str, per| LimitSpec {
        name: name.into(),
        per,
        bounds: [Some(5), Some(5), Some(5)],
        rate: Some(Rate::new(1_000_000, Duration::from_secs(1), 1_000)),
        ..LimitSpec::default()
    };
    let none = Arc::new(Limits::default());
    let specs = vec![
        limit("rule", Per::Rule),
        limit("class", Per::Class),
        limit("tenant", Per::Tenant),
        limit("instance", Per::Instance),
    ];
    let four = Arc::new(Limits::compile(specs, None).expect("limits"));
    let identity = Identity::service_account("telemetry", "agent", None, Some("agent-1"), None);
    let attributes = parse("GET", "/api/v1/pods", None, None).expect("a request");
    let asked = Asked {
        attributes: &attributes,
        identity: &identity,
        client: Client {
            user_agent: Some("agent/1.0"),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        },
        class: ClassId(6),
        instance: 7,
        work: Duration::ZERO,
    };
    for (limits, held) in [(&none, 0), (&four, 4)] {
        let count = allocations_of(|| {
            for round in 0..100_u64 {
                let leases = limits.take(&asked, Time(round * 1_000)).expect("room");
                assert_eq!(leases.len(), held);
            }
        });
        assert_eq!(count, 0);
    }
}

#[test]
fn waiting_is_what_allocates() {
    let engine = engine(Mode::Enforce);
    let running = engine.offer(ask(6, Kind::Long, 200_000), Time(0), || Nobody);
    let mut waiting = None;
    let count = allocations_of(|| {
        waiting = Some(engine.offer(ask(6, Kind::Long, 200_000), Time(0), || Nobody));
    });
    assert!(matches!(waiting, Some(Offer::Waiting(_))));
    assert!(count > 0, "the test above would not notice anything");
    drop((running, waiting));
}

#[test]
fn a_usual_request_is_parsed_and_classified_without_allocating() {
    let policy = Policy::default_policy();
    let client = Client {
        user_agent: Some("agent/1.0"),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let identities = [
        Identity::service_account("telemetry", "agent", None, Some("agent-1"), Some("node-1")),
        Identity::certificate(
            "system:node:node-1",
            vec!["system:nodes".into()],
            None,
            Vec::new(),
        ),
        Identity::certificate("alice", vec!["admins".into()], None, Vec::new()),
        Identity::anonymous(),
    ];
    let requests = [
        ("GET", "/api/v1/namespaces/shop/pods/web-0", None),
        (
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-1",
            Some("timeout=10s"),
        ),
        ("GET", "/api/v1/pods", Some("limit=500&resourceVersion=0")),
        (
            "GET",
            "/apis/apps/v1/deployments",
            Some("allowWatchBookmarks=true&resourceVersion=123456&timeoutSeconds=431&watch=true"),
        ),
        ("PATCH", "/api/v1/nodes/node-1/status", Some("timeout=10s")),
        ("GET", "/livez", Some("verbose")),
    ];
    for identity in &identities {
        for (method, path, query) in requests {
            let count = allocations_of(|| {
                let accept = Some("application/vnd.kubernetes.protobuf, application/json");
                let attributes = parse(method, path, query, accept).expect("a usual request");
                black_box(policy.classify(&attributes, identity, &client));
            });
            assert_eq!(count, 0, "{method} {path} {query:?}");
        }
    }
}

#[test]
fn costs_are_estimated_and_learnt_without_allocating() {
    let model = Model::new();
    let shape = Shape {
        resource: 7,
        verb: Verb::List,
        scope: Scope::Cluster,
        source: Source::Cache,
        encoding: Encoding::Json,
        gzip: false,
        selector: false,
        limit: None,
    };
    let seen = Observation {
        bytes: 1 << 20,
        service: std::time::Duration::from_millis(20),
        calm: true,
    };
    let count = allocations_of(|| {
        for resource in 0..1_000 {
            let shape = Shape { resource, ..shape };
            black_box(model.estimate(&shape));
            model.observe(&shape, &seen);
            black_box(model.estimate(&shape));
        }
    });
    assert_eq!(count, 0);
}
