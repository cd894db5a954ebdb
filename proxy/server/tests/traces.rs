//! Spans as a collector gets them, and what tracing does to requests: nothing, or one header.

mod support;

use std::net::SocketAddr;

use config::{HardLimit, Match, Mode, Per, Percent};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use support::client::{get, with, with_token};
use support::collector::{Collector, attribute};
use support::proxy::config_text;
use support::{POD, PODS, Page, Pki, Proxy, Seen, Upstream, World, eventually, upstream};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const WISHED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Every request is traced, and none because its client wishes it.
fn all(config: &mut config::Config, endpoint: &str) {
    config.traces.endpoint = Some(endpoint.to_owned());
    config.traces.sample = Percent::from_basis_points(10_000);
    config.traces.asked = 0;
    config.traces.most = 100_000;
}

fn world(change: impl FnOnce(&mut config::Config)) -> World {
    World::with(upstream::Settings::default(), change)
}

/// So many spans have this result.
fn spans(page: &Page, result: &str) -> f64 {
    page.sum("spillway_trace_spans_total", &[("result", result)])
}

fn exported(page: &Page) -> f64 {
    spans(page, "exported")
}

/// As OTLP's JSON has it: identifiers in lower-case hex, 64-bit numbers as text, enums as numbers.
fn is_sound(span: &Value) {
    let hex = |key: &str, length: usize| {
        let id = span[key].as_str().expect("an identifier");
        let digits = id
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        assert!(digits && id.len() == length, "{key}: {span}");
    };
    hex("traceId", 32);
    hex("spanId", 16);
    if !span["parentSpanId"].is_null() {
        hex("parentSpanId", 16);
    }
    let nanos = |value: &Value| -> u64 { value.as_str().expect("text").parse().expect("nanos") };
    let (start, end) = (&span["startTimeUnixNano"], &span["endTimeUnixNano"]);
    assert!(nanos(start) <= nanos(end), "{span}");
    assert!(nanos(start) > 1_700_000_000_000_000_000, "{span}");
    assert!(span["kind"].is_u64() && span["flags"].is_u64(), "{span}");
    for attribute in span["attributes"].as_array().expect("attributes") {
        let value = attribute["value"].as_object().expect("a value");
        for (kind, value) in value {
            let sound = match kind.as_str() {
                "stringValue" | "intValue" => value.is_string(),
                "boolValue" => value.is_boolean(),
                "doubleValue" => value.is_number(),
                _ => false,
            };
            assert!(sound, "{attribute}");
        }
    }
    for event in span["events"].as_array().unwrap_or(&Vec::new()) {
        let at = nanos(&event["timeUnixNano"]);
        assert!((nanos(start)..=nanos(end)).contains(&at), "{span}");
    }
}

#[tokio::test]
async fn a_traced_request_has_two_spans_and_the_apiserver_is_told_of_the_inner_one() {
    let pki = Pki::new();
    let collector = Collector::start(Some(&pki), &[]);
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let proxy = Proxy::start(&pki, upstream.address(), |config| {
        all(config, &collector.url("https"));
        config.traces.ca = Some(config.pki.join("ca.crt"));
    });
    let world = World {
        proxy,
        upstream,
        pki,
    };
    let mut jane = world.user("jane", &[]).await;
    let mut asked = get(&format!("{PODS}?limit=7&token=hush"), "echo");
    for (name, value) in [
        ("user-agent", "tool/1"),
        ("traceparent", WISHED),
        ("tracestate", "vendor=1"),
    ] {
        asked = with(asked, name, value);
    }
    assert_eq!(jane.call(with_token(asked, "s3cr3t")).await.status, 200);
    let seen = world.upstream.last();
    world.proxy.until_idle().await;
    world.proxy.stop().await;

    let spans = collector.spans();
    let [server, client] = &spans[..] else {
        panic!("{spans:?}");
    };
    for span in &spans {
        is_sound(span);
        assert_eq!(span["traceId"], TRACE);
        assert_eq!(span["name"], "GET /api/v1/namespaces/{:namespace}/pods");
        assert_eq!(span["status"], serde_json::json!({}));
        assert_eq!(attribute(span, "http.request.method"), "GET");
        assert_eq!(attribute(span, "http.response.status_code"), "200");
    }
    assert_eq!((&server["kind"], &client["kind"]), (&2.into(), &3.into()));
    assert_eq!(server["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(client["parentSpanId"], server["spanId"]);
    let ours = client["spanId"].as_str().expect("an identifier");
    let expected = format!("00-{TRACE}-{ours}-01");
    assert_eq!(seen.value("traceparent"), Some(&*expected));
    assert_eq!(seen.value("tracestate"), Some("vendor=1"));
    for (key, value) in [
        ("url.path", PODS),
        ("user_agent.original", "tool/1"),
        ("user.name", "jane"),
        ("network.protocol.version", "2"),
        ("client.address", "127.0.0.1"),
        ("spillway.lane", "main"),
        ("spillway.verb", "list"),
        ("spillway.decision", "admitted"),
    ] {
        assert_eq!(attribute(server, key), value, "{key}");
    }
    assert!(attribute(server, "spillway.waited_ms").is_number());
    assert!(attribute(server, "spillway.class").is_string());
    assert_eq!(attribute(client, "server.address"), "127.0.0.1");
    assert_eq!(client["events"].as_array().map(Vec::len), Some(1));

    let (path, kind, body) = collector.seen().pop().expect("a request");
    assert_eq!(
        (&*path, &*kind),
        ("/v1/traces", "application/json"),
        "{body}"
    );
    let text = body.to_string();
    assert!(!text.contains("hush") && !text.contains("s3cr3t"), "{text}");
    let resource = &body["resourceSpans"][0]["resource"];
    assert_eq!(attribute(resource, "service.name"), "spillway");
}

#[tokio::test]
async fn what_is_not_traced_passes_as_it_came() {
    // Nobody listens there, and nobody is asked.
    for endpoint in [None, Some("http://127.0.0.1:9/v1/traces".to_owned())] {
        let world = world(|config| {
            config.traces.sample = Percent::from_basis_points(match endpoint {
                None => 10_000,
                Some(_) => 0,
            });
            config.traces.asked = 0;
            config.traces.endpoint = endpoint;
        });
        let mut jane = world.user("jane", &[]).await;
        assert_eq!(jane.get(POD, "echo").await.status, 200);
        assert!(world.upstream.last().values("traceparent").is_empty());
        let headers = [
            ("traceparent", WISHED),
            ("traceparent", "not one at all"),
            ("tracestate", "vendor=1"),
            ("baggage", "a=b"),
        ];
        let asked = headers
            .into_iter()
            .fold(get(POD, "echo"), |asked, (name, value)| {
                with(asked, name, value)
            });
        assert_eq!(jane.call(asked).await.status, 200);
        let seen = world.upstream.last();
        assert_eq!(seen.values("traceparent"), [WISHED, "not one at all"]);
        assert_eq!(seen.value("tracestate"), Some("vendor=1"));
        assert_eq!(seen.value("baggage"), Some("a=b"));
        let page = world.proxy.metrics().await;
        assert_eq!(page.sum("spillway_trace_spans_total", &[]), 0.0);
    }
}

#[tokio::test]
async fn clients_that_wish_to_be_traced_are_up_to_a_bound() {
    let collector = Collector::start(None, &[]);
    let world = world(|config| {
        all(config, &collector.url("http"));
        config.traces.sample = Percent::ZERO;
        config.traces.asked = 1;
    });
    let mut jane = world.user("jane", &[]).await;
    let began = std::time::Instant::now();
    for _ in 0..40 {
        let asked = with(get(POD, "echo"), "traceparent", WISHED);
        assert_eq!(jane.call(asked).await.status, 200);
    }
    // One for every second that was touched.
    let most = began.elapsed().as_secs() + 2;
    let beyond = |page: &Page| {
        let labels = [("bound", "asked")];
        page.sum("spillway_traces_bounded_total", &labels)
    };
    let all = |page: &Page| exported(page) / 2.0 + beyond(page) == 40.0;
    world.proxy.until("the export", all).await;
    let traced = collector.spans().len() as u64 / 2;
    assert!((1..=most).contains(&traced), "{traced} of at most {most}");
    let ours = world.upstream.seen().into_iter();
    let theirs = |seen: &Seen| seen.value("traceparent").is_none_or(|sent| sent == WISHED);
    let ours = ours.filter(|seen| !theirs(seen));
    assert_eq!(ours.count() as u64, traced);
}

/// A port that nobody else gets: connections are refused, or, if it listens, never served.
fn port(listens: bool) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("a port");
    if listens {
        socket.listen(16).expect("listening");
    }
    let address = socket.local_addr().expect("an address").as_socket();
    (socket, address.expect("of the network"))
}

#[tokio::test]
async fn a_collector_that_is_away_or_hangs_costs_spans_and_no_request() {
    for hangs in [false, true] {
        let (_socket, address) = port(hangs);
        let world = world(|config| {
            all(config, &format!("http://{address}"));
            config.traces.queue = 2;
        });
        let mut jane = world.user("jane", &[]).await;
        for _ in 0..20 {
            assert_eq!(jane.get(POD, "echo").await.status, 200);
        }
        // Two requests wait, and at most as many again are in a batch that is tried.
        let dropped = |page: &Page| spans(page, "dropped") >= 32.0;
        let page = world.proxy.until("spans are dropped", dropped).await;
        assert_eq!(exported(&page), 0.0);
        assert_eq!(jane.get(POD, "echo").await.status, 200);
        world.proxy.stop().await;
    }
}

#[tokio::test]
async fn refusals_and_failures_are_traced_for_what_they_are() {
    let collector = Collector::start(None, &[]);
    let mut world = world(|config| {
        all(config, &collector.url("http"));
        config.admission.mode = Mode::Enforce;
        config.admission.limits = vec![HardLimit {
            name: "none".to_owned(),
            when: Match {
                users: vec!["eve".to_owned()],
                ..Match::default()
            },
            class: None,
            per: Per::Rule,
            concurrency: Some(0),
            rate: None,
            burst: None,
            server_time: None,
            watches: None,
            sessions: None,
            deny: false,
            message: None,
        }];
    });
    let mut eve = world.user("eve", &[]).await;
    assert_eq!(eve.get(POD, "echo").await.status, 429);
    let mut jane = world.user("jane", &[]).await;
    assert_eq!(jane.get(POD, "status 500").await.status, 500);
    world.upstream = {
        drop(world.upstream);
        Upstream::start(&world.pki, upstream::Settings::default())
    };
    let away = jane.get(POD, "echo").await;
    assert_eq!(away.status, 503, "{away:?}");
    let all = |page: &Page| exported(page) >= 5.0;
    world.proxy.until("the export", all).await;
    let spans = collector.spans();
    spans.iter().for_each(is_sound);
    let of = |status: &str, kind: u64| {
        let found = spans.iter().find(|span| {
            let server = spans.iter().find(|other| {
                let same = other["traceId"] == span["traceId"] && other["kind"] == 2;
                same && attribute(other, "http.response.status_code") == status
            });
            server.is_some() && span["kind"] == kind
        });
        found.unwrap_or(&Value::Null)
    };
    let refused = of("429", 2);
    assert_eq!(refused["status"]["code"], Value::Null, "{refused}");
    assert_eq!(attribute(refused, "spillway.decision"), "refused");
    assert_eq!(attribute(refused, "spillway.reason"), "rule");
    assert_eq!(*of("429", 3), Value::Null, "it never went there");
    for kind in [2, 3] {
        let failed = of("500", kind);
        assert_eq!(failed["status"]["code"], 2, "{failed}");
        assert_eq!(attribute(failed, "error.type"), "500");
        let unanswered = of("503", kind);
        assert_eq!(unanswered["status"]["code"], 2, "{unanswered}");
    }
    assert!(!of("503", 2)["status"]["message"].is_null());
    assert!(attribute(of("503", 3), "http.response.status_code").is_null());
}

#[tokio::test]
async fn a_reload_names_the_collector_which_gets_everything_in_the_end() {
    let collector = Collector::start(None, &[503]);
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let file = pki.write("config.yaml", &config_text(&pki, upstream.address(), ""));
    let proxy = Proxy::from_file(file);
    // By then it has seen the file as it was.
    let probed = |page: &Page| page.sum("spillway_probes_total", &[("result", "answered")]) > 0.0;
    proxy.until("the first probe", probed).await;
    let more = format!(
        "traces: {{ endpoint: \"{}\", sample: 100% }}\n",
        collector.url("http")
    );
    pki.write("config.yaml", &config_text(&pki, upstream.address(), &more));
    let applied =
        |page: &Page| page.sum("spillway_config_reloads_total", &[("result", "applied")]) >= 1.0;
    proxy.until("the reload", applied).await;
    let world = World {
        proxy,
        upstream,
        pki,
    };
    let mut jane = world.user("jane", &[]).await;
    assert_eq!(jane.get(POD, "echo").await.status, 200);
    let exported =
        |page: &Page| page.sum("spillway_trace_spans_total", &[("result", "exported")]) == 2.0;
    world.proxy.until("the export", exported).await;
    let seen = collector.seen();
    assert_eq!(seen.len(), 2, "refused once, and sent again");
    assert_eq!(seen[0].2, seen[1].2);
    eventually("both spans", || collector.spans().len() == 4).await;
}
