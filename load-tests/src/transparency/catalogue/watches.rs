//! Watches: the events, their order, and how they end.

use serde_json::{Value, json};

use crate::transparency::call::{Over, Read, Scenario, Step, call, get, post};
use crate::transparency::who::Who;

const MAPS: &str = "/api/v1/namespaces/<ns>/configmaps";
const FIXED: &str = "/api/v1/namespaces/fixtures/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const INITIAL: &str =
    "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("events of a watch", Who::User, events()).in_own_namespace(),
        Scenario::new("events in other forms", Who::User, forms()).in_own_namespace(),
        Scenario::new("events of a kind of its own", Who::Masters, widgets()).in_own_namespace(),
        Scenario::new("watches that begin with everything", Who::User, initial()),
        Scenario::new("watches that end by themselves", Who::User, ending()),
        Scenario::new("watches that are refused", Who::User, refused()),
        Scenario::new("watches over WebSocket", Who::User, websocket()).over(Over::Http1),
    ]
}

fn map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "labels": { "value": value } },
    })
}

/// What happens to be seen: the last event is about `last`.
fn changes() -> Vec<Step> {
    vec![
        post(MAPS, &map("one", "a")),
        call("PUT", format!("{MAPS}/one")).json(&map("one", "b")),
        post(MAPS, &map("two", "a")),
        call("DELETE", format!("{MAPS}/one")),
        call("PATCH", format!("{MAPS}/two")).body(
            "application/merge-patch+json",
            "{\"metadata\":{\"labels\":{\"value\":\"b\"}}}",
        ),
        post(MAPS, &map("last", "a")),
    ]
}

fn cleared() -> Step {
    call("DELETE", MAPS)
}

fn watched(query: &str) -> Step {
    get(format!("{MAPS}?watch=1&timeoutSeconds=40&{query}"))
        .until("\"name\":\"last\"")
        .meanwhile(changes())
}

fn from_now() -> Step {
    get(MAPS).keep("rv", "/metadata/resourceVersion")
}

fn events() -> Vec<Step> {
    let mut steps = Vec::new();
    for query in [
        "resourceVersion=<rv>",
        "resourceVersion=<rv>&allowWatchBookmarks=true",
        "resourceVersion=<rv>&labelSelector=value%3Da",
        "resourceVersion=<rv>&fieldSelector=metadata.name%3Dlast",
        "resourceVersion=0",
        "",
    ] {
        steps.extend([from_now(), watched(query), cleared()]);
    }
    let legacy = get("/api/v1/watch/namespaces/<ns>/configmaps?resourceVersion=<rv>")
        .until("\"name\":\"last\"")
        .meanwhile(changes());
    steps.extend([from_now(), legacy, cleared()]);
    let head_only = call("HEAD", format!("{MAPS}?watch=1&timeoutSeconds=1"));
    steps.push(head_only);
    steps
}

fn forms() -> Vec<Step> {
    let mut steps = Vec::new();
    for form in [TABLE, METADATA] {
        let form = watched("resourceVersion=<rv>").accept(form);
        steps.extend([from_now(), form, cleared()]);
    }
    for form in [
        "application/vnd.kubernetes.protobuf",
        "application/cbor-seq",
    ] {
        let mut form = watched("resourceVersion=<rv>").accept(form);
        form.read = Read::Until("last".to_owned());
        steps.extend([from_now(), form, cleared()]);
    }
    steps.push(watched("").accept("application/cbor").read(Read::Whole));
    steps.push(watched("").accept("application/yaml").read(Read::Whole));
    for step in &mut steps {
        if matches!(step.read, Read::Whole) && step.target.contains("watch=1") {
            step.target = step.target.replace("timeoutSeconds=40", "timeoutSeconds=1");
            step.meanwhile.clear();
        }
    }
    steps
}

fn widgets() -> Vec<Step> {
    const WIDGETS: &str = "/apis/shop.example/v1/namespaces/<ns>/widgets";
    let widget = |name: &str| {
        json!({
            "apiVersion": "shop.example/v1", "kind": "Widget",
            "metadata": { "name": name }, "spec": { "count": 1 },
        })
    };
    let seen = |query: &str| {
        get(format!("{WIDGETS}?watch=true&{query}"))
            .until("\"name\":\"last\"")
            .meanwhile(vec![
                post(WIDGETS, &widget("first")),
                call("DELETE", format!("{WIDGETS}/first")),
                post(WIDGETS, &widget("last")),
            ])
    };
    vec![
        get(WIDGETS).keep("rv", "/metadata/resourceVersion"),
        seen("resourceVersion=<rv>"),
        call("DELETE", WIDGETS),
        seen(INITIAL).accept(TABLE),
    ]
}

fn initial() -> Vec<Step> {
    let seen = |query: &str| {
        get(format!(
            "{FIXED}?watch=1&timeoutSeconds=40&labelSelector=parity&{query}"
        ))
        .until("initial-events-end")
    };
    vec![
        seen(INITIAL),
        seen(&format!("{INITIAL}&resourceVersion=0")),
        seen(INITIAL).accept("application/vnd.kubernetes.protobuf"),
        seen(INITIAL).accept(METADATA),
        // Packed, nothing can be found in it: it ends by itself.
        get(format!(
            "{FIXED}?watch=1&timeoutSeconds=1&labelSelector=parity&{INITIAL}"
        ))
        .header("accept-encoding", "gzip"),
        get(format!(
            "{FIXED}?watch=1&timeoutSeconds=1&labelSelector=parity&resourceVersion=0"
        )),
        get(format!(
            "{FIXED}?watch=1&timeoutSeconds=1&labelSelector=parity"
        )),
    ]
}

fn ending() -> Vec<Step> {
    vec![
        get(FIXED).keep("rv", "/metadata/resourceVersion"),
        get(format!(
            "{FIXED}?watch=1&timeoutSeconds=1&resourceVersion=<rv>"
        )),
        get(format!(
            "{FIXED}?watch=1&timeoutSeconds=1&timeout=1s&resourceVersion=<rv>"
        )),
        get(format!("{FIXED}/map-1?watch=1&timeoutSeconds=1")),
        // Everything before the cache began is gone: an event of type ERROR.
        get(format!(
            "{FIXED}?watch=1&timeoutSeconds=1&resourceVersion=1"
        )),
    ]
}

fn refused() -> Vec<Step> {
    vec![
        get(format!("{FIXED}?watch=1&sendInitialEvents=true")),
        get(format!("{FIXED}?watch=1&resourceVersionMatch=Exact")),
        get(format!("{FIXED}?watch=1&resourceVersion=x")),
        get(format!("{FIXED}?watch=1&timeoutSeconds=x")),
        get(format!("{FIXED}?watch=1&labelSelector==")),
        get("/api/v1/nodes?watch=1&timeoutSeconds=1"),
        get("/api/v1/namespaces/fixtures/nothings?watch=1"),
        get(format!("{FIXED}?watch=1&timeoutSeconds=1")).accept("application/xml"),
    ]
}

fn websocket() -> Vec<Step> {
    let asked = |query: &str| {
        get(format!("{FIXED}?watch=1&labelSelector=parity&{query}"))
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("origin", "http://kubernetes.default.svc")
    };
    vec![
        asked("resourceVersion=0").read(Read::Upgraded(Vec::new(), 400)),
        asked("resourceVersion=x"),
        get(format!("{FIXED}/map-1"))
            .header("connection", "Upgrade")
            .header("upgrade", "websocket"),
        get("/version")
            .header("connection", "upgrade")
            .header("upgrade", "h2c"),
    ]
}
