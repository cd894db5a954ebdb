//! GET and LIST: forms, encodings, selectors, pages, versions.

use crate::transparency::call::{Over, Scenario, Step, call, get, gets};
use crate::transparency::who::Who;

const MAPS: &str = "/api/v1/namespaces/fixtures/configmaps";
const MAP: &str = "/api/v1/namespaces/fixtures/configmaps/map-1";

/// Forms a client may ask for.
const FORMS: [&str; 15] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/cbor",
    "application/cbor-seq",
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    "application/yaml;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=Table;v=v1beta1;g=meta.k8s.io",
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
    "application/cbor;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    "*/*",
    "application/xml",
    "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
];

pub(super) fn scenarios() -> Vec<Scenario> {
    let forms_of = |paths: &[&str]| -> Vec<Step> {
        paths
            .iter()
            .flat_map(|path| FORMS.map(|form| get(*path).accept(form)))
            .collect()
    };
    let first_maps = "/api/v1/namespaces/fixtures/configmaps?labelSelector=parity";
    vec![
        Scenario::new("forms of an object", Who::User, forms_of(&[MAP])),
        Scenario::new("forms of a collection", Who::User, forms_of(&[first_maps])),
        Scenario::new(
            "forms of a kind of its own",
            Who::Masters,
            forms_of(&[
                "/apis/shop.example/v2/namespaces/fixtures/widgets",
                "/apis/shop.example/v1/namespaces/fixtures/widgets/bolt",
            ]),
        )
        .over(Over::Http2),
        Scenario::new("pages", Who::User, pages()),
        Scenario::new("versions", Who::User, versions()),
        Scenario::new("versions that are not yet there", Who::User, ahead()).over(Over::Http2),
        Scenario::new("selectors", Who::User, selectors()),
        Scenario::new("packed answers", Who::User, packed()),
        Scenario::new("pretty answers", Who::User, pretty()),
        Scenario::new("methods of reading", Who::User, methods()),
        Scenario::new("wrong questions", Who::User, wrong()),
        Scenario::new("conditional requests", Who::User, conditional()),
        Scenario::new("other origins", Who::User, origins()),
        Scenario::new("logs", Who::Masters, logs()),
    ]
}

fn pages() -> Vec<Step> {
    let with = |query: &str| get(format!("{MAPS}?{query}"));
    vec![
        with("limit=3").keep("next", "/metadata/continue"),
        with("limit=3&continue=<next>").keep("last", "/metadata/continue"),
        with("limit=3&continue=<last>"),
        with("limit=1&labelSelector=parity%3Deven"),
        with("limit=500"),
        with("limit=0"),
        with("limit=-1"),
        with("limit=x"),
        with("continue=nonsense"),
        with("limit=2&continue=<next>&resourceVersion=5"),
        // {"v":"meta.k8s.io/v1","rv":1,"start":"map-1"}: compacted or not, the
        // same either way.
        with("limit=2&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJtYXAtMSJ9"),
        with("limit=2").accept("application/vnd.kubernetes.protobuf"),
    ]
}

fn versions() -> Vec<Step> {
    let with = |query: &str| get(format!("{MAPS}?labelSelector=parity&{query}"));
    vec![
        with("resourceVersion=0").keep("rv", "/metadata/resourceVersion"),
        with("resourceVersion=0&limit=2"),
        with("resourceVersion=<rv>&resourceVersionMatch=NotOlderThan"),
        with("resourceVersion=<rv>&resourceVersionMatch=Exact"),
        with("resourceVersion=<rv>&resourceVersionMatch=Exact&limit=2"),
        with("resourceVersion=<rv>"),
        with("resourceVersionMatch=Exact"),
        with("resourceVersion=<rv>&resourceVersionMatch=Sometimes"),
        with("resourceVersion=0&resourceVersionMatch=Exact"),
        with("resourceVersion=x"),
        with("resourceVersion=1&resourceVersionMatch=Exact"),
        get(format!("{MAP}?resourceVersion=0")),
        get(format!("{MAP}?resourceVersion=<rv>")),
        get(format!("{MAP}?resourceVersion=x")),
    ]
}

/// The server waits three seconds before it says so.
fn ahead() -> Vec<Step> {
    vec![get(format!("{MAPS}?resourceVersion=999999999999"))]
}

fn selectors() -> Vec<Step> {
    let with = |query: &str| get(format!("{MAPS}?{query}"));
    vec![
        with("labelSelector=parity%3Dodd"),
        with("labelSelector=parity+in+%28odd%2Ceven%29"),
        with("labelSelector=parity%20notin%20(odd)"),
        with("labelSelector=!parity"),
        with("labelSelector==="),
        with("fieldSelector=metadata.name%3Dmap-2"),
        with("fieldSelector=metadata.name%3Dnone"),
        with("fieldSelector=data.number%3D1"),
        get("/api/v1/pods?fieldSelector=spec.nodeName%3Dworker&labelSelector=app%3Dnone"),
        get("/api/v1/namespaces/fixtures/pods?fieldSelector=status.phase%3DRunning"),
        get("/api/v1/namespaces/nowhere/configmaps"),
        get("/api/v1/configmaps?labelSelector=parity%3Dodd"),
        get("/apis/apps/v1/deployments?labelSelector=made-for%3Dnothing"),
        with("labelSelector=parity%3Dodd&labelSelector=parity%3Deven"),
        with("&&labelSelector=parity%3Dodd&=&x&pretty"),
        with("labelSelector=parity%3Dodd;limit=1"),
    ]
}

fn packed() -> Vec<Step> {
    let packed = format!("{MAPS}/packed");
    let large = format!("{MAPS}/large");
    let with = |path: &str, coding: &str| get(path).header("accept-encoding", coding);
    vec![
        with(&packed, "gzip"),
        with(&packed, "identity"),
        with(&packed, "gzip;q=0"),
        with(&packed, "deflate, br, gzip;q=0.5"),
        with(&packed, "*"),
        with(&large, "gzip"),
        get(large.as_str()).accept("application/vnd.kubernetes.protobuf"),
        get(large.as_str()),
        with(MAP, "gzip"),
        get(MAPS)
            .header("accept-encoding", "gzip")
            .volatile("the version of the collection is in what is packed"),
    ]
}

fn pretty() -> Vec<Step> {
    vec![
        get(format!("{MAP}?pretty=true")),
        get(format!("{MAP}?pretty=false")),
        get(format!("{MAP}?pretty")),
        get(MAP).header("user-agent", "curl/8.5.0"),
        get(MAP).header("user-agent", "Mozilla/5.0 (X11)"),
        get(MAP).header(
            "user-agent",
            "kubectl/v1.37.1 (linux/amd64) kubernetes/abcdef0",
        ),
        get(MAP).header("user-agent", ""),
    ]
}

fn methods() -> Vec<Step> {
    vec![
        call("HEAD", MAP),
        call("HEAD", MAPS),
        call("HEAD", "/api/v1/namespaces/fixtures/configmaps/none"),
        call("HEAD", "/version"),
        call("OPTIONS", MAP),
        call("OPTIONS", "/version"),
        call("TRACE", MAP),
        call("BREW", MAP),
        call("get", MAP),
        call("POST", MAP),
        call("PUT", MAPS),
        call("PATCH", MAPS),
        call("DELETE", "/version"),
    ]
}

fn wrong() -> Vec<Step> {
    let mut wrong = gets([
        "/api/v1/namespaces/fixtures/configmaps/none",
        "/api/v1/namespaces/fixtures/nothings",
        "/api/v1/namespaces/fixtures/nothings/none",
        "/api/v1/namespaces/fixtures/configmaps/map-1/none",
        "/api/v1/namespaces/fixtures/pods/pod/none",
        "/api/v1/namespaces/fixtures/pods/pod/exec?command=true",
        "/api/v1/namespaces/fixtures/pods/pod/attach",
        "/api/v1/namespaces/fixtures/pods/pod/portforward",
        "/api/v1/namespaces/fixtures",
        "/api/v1/namespaces/nowhere",
        "/api/v1/nodes/worker",
        "/api/v1/componentstatuses",
        "/apis/apps/v1/namespaces/fixtures/deployments/web?timeout=bad",
        "/apis/apps/v1/namespaces/fixtures/deployments/web?timeout=1s",
        "/apis/apps/v1/namespaces/fixtures/deployments/web?timeout=5",
        "/api/v1/proxy/namespaces/fixtures/pods/pod",
        "/api/v1/namespaces/fixtures/configmaps?watch=maybe&timeoutSeconds=1",
        "/apis/apps/v1/namespaces/fixtures/deployments/web/scale",
        "/apis/apps/v1/namespaces/fixtures/deployments/web/status",
        "/api/v1/namespaces/fixtures/secrets/secret",
    ]);
    wrong.push(get("/api/v1/watch").refused("nobody can say what it asks for"));
    for path in [MAP, "/version", "/apis", "/nope"] {
        wrong.push(get(path).accept("image/png"));
    }
    wrong
}

fn conditional() -> Vec<Step> {
    vec![
        get(MAP).header("if-none-match", "\"1\""),
        get(MAP).header("if-modified-since", "Thu, 01 Jan 2099 00:00:00 GMT"),
        get(MAP).header("if-match", "\"1\""),
        get(MAP).header("range", "bytes=0-9"),
        get(MAP).header("cache-control", "no-cache"),
        get(MAP).header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        get(MAP).header("audit-id", "<ns>-an-id-of-the-clients-own"),
        get(MAP).header("cookie", "a=1; b=2"),
        get(MAP).header("x-request-id", "17"),
        get(MAP).header("accept-language", "de, en;q=0.5"),
    ]
}

fn origins() -> Vec<Step> {
    vec![
        get(MAP).header("origin", "https://console.example"),
        get(MAP).header("origin", "https://evil.example"),
        call("OPTIONS", MAP)
            .header("origin", "https://console.example")
            .header("access-control-request-method", "PATCH")
            .header("access-control-request-headers", "authorization"),
        call("OPTIONS", MAP)
            .header("origin", "https://evil.example")
            .header("access-control-request-method", "PATCH"),
    ]
}

fn logs() -> Vec<Step> {
    let log = "/api/v1/namespaces/fixtures/pods/pod/log";
    vec![
        get(log),
        get(format!("{log}?tailLines=2&timestamps=false")),
        get(format!("{log}?follow=true")).until("line 9"),
        get(format!("{log}?container=none")),
        get(format!("{log}?tailLines=x")),
        get(log).accept("text/plain"),
        get("/api/v1/namespaces/fixtures/pods/none/log"),
    ]
}
