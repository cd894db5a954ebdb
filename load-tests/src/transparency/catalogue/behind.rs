//! What lies behind the API server: an aggregated API, and what it proxies to.

use crate::transparency::call::{Over, Payload, Read, Scenario, Step, call, get};
use crate::transparency::who::Who;

const GROUP: &str = "/apis/mirror.spillway.test/v1";

pub(super) fn scenarios() -> Vec<Scenario> {
    let aggregated = format!("{GROUP}/mirror");
    let node = "/api/v1/nodes/worker/proxy/mirror";
    let pod = "/api/v1/namespaces/default/pods/mirror/proxy/mirror";
    let service = "/api/v1/namespaces/default/services/http:mirror:plain/proxy/mirror";
    vec![
        Scenario::new("an aggregated API", Who::Masters, lamps()),
        Scenario::new(
            "an aggregated API, by a service account",
            Who::Account,
            lamps(),
        )
        .over(Over::Http2),
        Scenario::new(
            "behind an aggregated API",
            Who::Masters,
            mirror(&aggregated),
        ),
        Scenario::new(
            "behind an aggregated API, as somebody else",
            Who::Impersonator,
            somebody(&aggregated),
        ),
        Scenario::new("behind a node", Who::Masters, mirror(node)),
        Scenario::new("behind a pod", Who::Masters, mirror(pod)),
        Scenario::new("behind a service", Who::Masters, mirror(service)),
        Scenario::new("behind nothing", Who::Masters, nothing()),
        Scenario::new(
            "upgrades behind",
            Who::Masters,
            upgrades(&[&aggregated, node, pod, service]),
        )
        .over(Over::Http1),
    ]
}

fn lamps() -> Vec<Step> {
    let watched = |query: &str| get(format!("{GROUP}/lamps?watch=1{query}"));
    vec![
        get("/apis/mirror.spillway.test"),
        get(GROUP),
        get(format!("{GROUP}/lamps")),
        get(format!("{GROUP}/lamps?limit=1")),
        get(format!("{GROUP}/lamps/desk")),
        get(format!("{GROUP}/lamps/none")),
        get(format!("{GROUP}/nothings")),
        watched(""),
        watched("&timeoutSeconds=1"),
        watched("").until("\"resourceVersion\":\"5\""),
        get("/apis/apiregistration.k8s.io/v1/apiservices/v1.mirror.spillway.test"),
    ]
}

fn mirror(base: &str) -> Vec<Step> {
    let at = |path: &str| get(format!("{base}{path}"));
    let to = |method: &'static str, path: &str| call(method, format!("{base}{path}"));
    let pieces = Payload::Pieces(vec!["first ".to_owned(), "second".to_owned()]);
    vec![
        at("/echo"),
        at("/echo?a=1&b=%2F&a=2"),
        at("/echo/a%2Fb//c"),
        at("/echo").header("accept-encoding", "gzip"),
        at("/echo")
            .header("cookie", "a=1")
            .header("x-custom", "1")
            .header("referer", "http://here.example/"),
        at("/echo")
            .header("x-remote-user", "root")
            .header("via", "1.1 here"),
        to("POST", "/echo").body("text/plain", "some words"),
        to("PUT", "/echo")
            .header("content-type", "text/plain")
            .payload(pieces),
        to("DELETE", "/echo"),
        to("PATCH", "/echo").body("text/plain", ""),
        to("HEAD", "/echo"),
        to("OPTIONS", "/echo"),
        to("POST", "/echo")
            .header("content-type", "application/json")
            .payload(Payload::Large(1 << 20)),
        at("/redirect"),
        at("/trailers"),
        at("/trailers").header("te", "trailers"),
        at("/gzip"),
        at("/gzip").header("accept-encoding", "gzip"),
        at("/status/204"),
        at("/status/304"),
        at("/status/429"),
        at("/status/500"),
        at("/status/503"),
        at("/slow"),
        at("/bytes/0"),
        at("/bytes/3000"),
        at("/bytes/5000"),
        at("/bytes/3000000"),
        at("/html"),
        at("/cookies"),
        at("/none"),
    ]
}

fn somebody(base: &str) -> Vec<Step> {
    vec![
        get(format!("{base}/echo"))
            .header("impersonate-user", "jane")
            .header("impersonate-group", "developers")
            .header("impersonate-extra-reason", "why"),
        get(format!("{base}/echo"))
            .header("impersonate-user", "jane")
            .header("impersonate-group", "system:masters")
            .header("impersonate-uid", "17")
            .header("impersonate-extra-shop.example%2fscope", "view"),
    ]
}

fn nothing() -> Vec<Step> {
    let mut steps = Vec::new();
    for path in [
        "/api/v1/nodes/another/proxy/",
        "/api/v1/nodes/worker:1/proxy/",
        "/api/v1/nodes/worker/proxy",
        "/api/v1/namespaces/default/pods/none/proxy/",
        "/api/v1/namespaces/default/pods/mirror:1/proxy/",
        "/api/v1/namespaces/default/services/none/proxy/",
        "/api/v1/namespaces/default/services/mirror:9/proxy/",
        "/api/v1/namespaces/fixtures/pods/pod/proxy/",
    ] {
        steps.push(get(path));
    }
    steps
}

fn upgrades(bases: &[&str]) -> Vec<Step> {
    let mut steps = Vec::new();
    for base in bases {
        let asked = |protocol: &str| {
            get(format!("{base}/upgrade"))
                .header("connection", "Upgrade")
                .header("upgrade", protocol)
        };
        steps.push(asked("mirror").read(Read::Upgraded(b"there and back".to_vec(), 14)));
        steps.push(asked("other"));
        steps.push(get(format!("{base}/upgrade")));
    }
    steps
}
