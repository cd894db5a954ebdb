//! The metrics page: valid, and no larger for what clients make up.

mod support;

use std::collections::HashSet;

use http::Method;
use support::client::{get, request, with, with_token};
use support::{POD, Page, Payload, World, upstream};

#[tokio::test]
async fn every_line_is_of_the_exposition_format_and_every_series_there_once() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    client.get(POD, "echo").await;
    client.get(POD, "status 404").await;
    client.get(POD, "close").await;
    // `fetch` refuses what is not of the format.
    let page = world.proxy.metrics().await;
    let mut series = HashSet::new();
    for sample in &page.samples {
        let mut labels = sample.labels.clone();
        labels.sort();
        assert!(
            series.insert((sample.name.clone(), labels)),
            "twice: {sample:?}"
        );
        assert!(sample.name.starts_with("spillway_"), "{sample:?}");
        assert!(!sample.value.is_nan(), "{sample:?}");
    }
    let mut families = HashSet::new();
    for (family, kind) in &page.types {
        assert!(families.insert(family), "two TYPE lines of {family}");
        assert!(
            kind != "counter" || family.ends_with("_total"),
            "{family} is a counter"
        );
    }
    for sample in &page.samples {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| sample.name.strip_suffix(end));
        let declared = families.contains(&sample.name)
            || base.is_some_and(|base| families.contains(&base.to_owned()));
        assert!(declared, "no TYPE line of {}", sample.name);
    }
}

#[tokio::test]
async fn histograms_are_cumulative_and_complete() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    for _ in 0..5 {
        client.get(POD, "echo").await;
    }
    let page = world
        .proxy
        .until("counted", |page| {
            page.sum("spillway_upstream_latency_seconds_count", &[]) == 5.0
        })
        .await;
    for (family, _) in page.types.iter().filter(|(_, kind)| kind == "histogram") {
        let bucket = format!("{family}_bucket");
        let of_family = |sample: &&support::page::Sample| sample.name == bucket;
        let le = |sample: &support::page::Sample| {
            let (_, le) = sample
                .labels
                .iter()
                .find(|(name, _)| name == "le")
                .expect("le")
                .clone();
            if le == "+Inf" {
                f64::INFINITY
            } else {
                le.parse().expect("a number")
            }
        };
        let rest = |sample: &support::page::Sample| -> Vec<_> {
            sample
                .labels
                .iter()
                .filter(|(name, _)| name != "le")
                .cloned()
                .collect()
        };
        for sample in page.samples.iter().filter(of_family) {
            for other in page
                .samples
                .iter()
                .filter(of_family)
                .filter(|other| rest(other) == rest(sample))
            {
                assert!(
                    (le(sample) <= le(other)) == (sample.value <= other.value)
                        || sample.value == other.value
                );
            }
            let labels = rest(sample);
            let labels: Vec<_> = labels
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .collect();
            let all = page.sum(&bucket, &[&labels[..], &[("le", "+Inf")]].concat());
            assert_eq!(all, page.sum(&format!("{family}_count"), &labels));
        }
    }
}

#[tokio::test]
async fn what_clients_make_up_adds_no_series() {
    let world = World::new();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut word = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        format!("w{:x}", random >> 40)
    };
    let verbs = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(world.user(&word(), &[&word()]).await);
    }
    let mut stranger = world.stranger().await;
    let mut ask = async |count: usize| {
        for number in 0..count {
            let path = match number % 5 {
                0 => format!("/api/v1/namespaces/{}/{}/{}", word(), word(), word()),
                1 => format!("/apis/{}/{}/{}?watch=false", word(), word(), word()),
                2 => format!("/api/v1/{}?{}={}", word(), word(), word()),
                3 => format!("/{}/{}", word(), word()),
                _ => format!("/api/v1/namespaces/{}/pods/{}/{}", word(), word(), word()),
            };
            let method = match number % 3 {
                0 => Method::from_bytes(word().to_uppercase().as_bytes()).expect("a method"),
                _ => verbs[number % verbs.len()].parse().expect("a method"),
            };
            let script = format!("status {}", [200, 201, 404, 409, 418, 500, 599][number % 7]);
            let asked = with(
                request(method, &path, &script, Payload::empty()),
                "user-agent",
                &word(),
            );
            if number % 4 == 0 {
                stranger.call(with_token(asked, &word())).await;
            } else {
                let place = number % clients.len();
                clients[place].call(asked).await;
            }
        }
    };
    ask(1_000).await;
    let before = world.proxy.metrics().await;
    ask(1_000).await;
    let after = world.proxy.metrics().await;
    assert!(
        after.samples.len() < 1_000,
        "{} series",
        after.samples.len()
    );
    // The second thousand may meet a rare combination first, but not new words.
    let grown = after.samples.len() - before.samples.len();
    assert!(grown < 50, "{grown} series more");
    for sample in &after.samples {
        for (_, value) in &sample.labels {
            let made_up = value.len() > 5
                && value.starts_with('w')
                && value[1..].bytes().all(|b| b.is_ascii_hexdigit());
            assert!(!made_up, "{sample:?}");
        }
    }
}

#[tokio::test]
async fn every_class_and_both_lanes_are_there_from_the_start() {
    let world = World::with(upstream::Settings::default(), |_| {});
    let page: Page = world
        .proxy
        .until("lanes are up", |page| {
            page.sum("spillway_lane_up", &[]) == 2.0
        })
        .await;
    for class in config::DEFAULT_CLASSES {
        for name in [
            "spillway_running_requests",
            "spillway_waiting_requests",
            "spillway_ceiling_seconds",
        ] {
            let there = page.samples.iter().any(|sample| {
                sample.name == name
                    && sample
                        .labels
                        .contains(&("class".to_owned(), class.to_owned()))
            });
            assert!(there, "{name} of {class}");
        }
    }
}

#[tokio::test]
async fn a_request_is_counted_once_by_how_it_ended() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    for (script, code) in [
        ("echo", "2xx"),
        ("status 302", "3xx"),
        ("status 404", "4xx"),
        ("apf", "429"),
        ("close", "5xx"),
    ] {
        client.call(get(POD, script)).await;
        let labels = [("verb", "get"), ("code", code), ("lane", "main")];
        world
            .proxy
            .until(script, |page| {
                page.sum("spillway_requests_total", &labels) == 1.0
            })
            .await;
    }
    assert_eq!(
        world
            .proxy
            .metrics()
            .await
            .sum("spillway_requests_total", &[]),
        5.0
    );
    let mut leaving = client.again();
    let task = tokio::spawn(async move { leaving.send(get(POD, "silent")).await.is_ok() });
    world.upstream.until_open(1).await;
    task.abort();
    world
        .proxy
        .until("gone", |page| {
            page.sum("spillway_requests_total", &[("code", "gone")]) == 1.0
        })
        .await;
}

#[tokio::test]
async fn the_admin_side_has_its_pages_and_no_others() {
    let world = World::new();
    for (path, status) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/", 302),
        ("/console", 200),
        ("/debug/pprof", 404),
    ] {
        if path == "/readyz" {
            world
                .proxy
                .until("up", |page| {
                    page.sum("spillway_lane_up", &[("lane", "main")]) == 1.0
                })
                .await;
        }
        assert_eq!(
            support::page::get(world.proxy.admin(), path).await.0,
            status,
            "{path}"
        );
    }
}

/// What a client can bring about by how it asks says nothing about the server, or it could slow all others down.
#[tokio::test]
async fn only_refusals_that_no_client_can_bring_about_count_as_the_servers() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    let brought_about = [
        ("/api/v1/pods?resourceVersion=99999999999", "status 504"),
        (
            "/api/v1/namespaces/a/pods/b?resourceVersion=99999999999",
            "status 504",
        ),
        ("/api/v1/namespaces/a/pods/b?timeout=1s", "status 504"),
        ("/api/v1/namespaces/a/services/b/proxy/c", "status 504"),
        ("/api/v1/namespaces/a/services/b/proxy/c", "apf"),
        ("/api/v1/nodes/a/proxy/", "status 504"),
    ];
    let refused = [
        ("/api/v1/pods?resourceVersion=0", "status 504"),
        ("/api/v1/namespaces/a/pods/b?timeout=30s", "status 504"),
        ("/api/v1/pods?resourceVersion=99999999999", "apf"),
    ];
    for (path, script) in brought_about.into_iter().chain(refused) {
        let answer = client.get(path, script).await;
        let status = answer.status.as_u16();
        assert!(matches!(status, 429 | 504), "{path}: {answer:?}");
    }
    let all = "spillway_upstream_refusals_total";
    let page = world
        .proxy
        .until("counted", |page| page.sum(all, &[]) >= 3.0)
        .await;
    assert_eq!(page.sum(all, &[("code", "504")]), 2.0);
    assert_eq!(page.sum(all, &[("code", "429")]), 1.0);
}
