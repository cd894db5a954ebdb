//! Writes: create, update, every kind of patch, delete, subresources; and what
//! is refused.

use serde_json::{Value, json};

use crate::transparency::call::{Over, Payload, Scenario, Step, call, get, post};
use crate::transparency::fixtures::deployment;
use crate::transparency::who::Who;

const MAPS: &str = "/api/v1/namespaces/<ns>/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/<ns>/deployments";
const PODS: &str = "/api/v1/namespaces/<ns>/pods";
const WIDGETS: &str = "/apis/shop.example/v1/namespaces/<ns>/widgets";

pub(super) fn scenarios() -> Vec<Scenario> {
    let writing = |name, steps| Scenario::new(name, Who::User, steps).in_own_namespace();
    let master = |name, steps| Scenario::new(name, Who::Masters, steps).in_own_namespace();
    vec![
        writing("create, update, conflict", objects()),
        writing("patches", patches()),
        writing("server-side apply", applies()),
        writing("dry runs and warnings", validation()),
        writing("deletions", deletions()),
        writing("bodies that are refused", refused()),
        writing("bodies and how they are sent", sent()),
        writing("deployments and their scale", scale()),
        master("pods and their subresources", pods()),
        master("a kind of its own", widgets()),
        master("namespaces", namespaces()),
        master("tokens and reviews", reviews()).over(Over::Http2),
    ]
}

fn map(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "labels": { "made": "here" } },
        "data": { "a": "1" },
    })
}

fn patch(target: impl Into<String>, kind: &str, body: &Value) -> Step {
    let kind = format!("application/{kind}");
    call("PATCH", target).body(&kind, body.to_string())
}

fn put(target: impl Into<String>, body: &Value) -> Step {
    call("PUT", target).json(body)
}

fn objects() -> Vec<Step> {
    let one = format!("{MAPS}/one");
    let versioned = |version: &str| {
        let mut map = map("one");
        map["metadata"]["resourceVersion"] = version.into();
        map
    };
    let generated = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "generateName": "some-" },
    });
    vec![
        post(MAPS, &map("one")).keep("rv", "/metadata/resourceVersion"),
        post(MAPS, &map("one")),
        get(one.as_str()),
        put(one.as_str(), &versioned("<rv>")),
        put(one.as_str(), &versioned("1")),
        put(one.as_str(), &map("one")),
        put(one.as_str(), &map("other")),
        put(format!("{MAPS}/none"), &map("none")),
        post(MAPS, &generated),
        post(MAPS, &json!({ "apiVersion": "v1", "kind": "ConfigMap" })),
        call("POST", MAPS)
            .body(
                "application/yaml",
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: yaml}\n",
            )
            .accept("application/yaml"),
        call("DELETE", one.as_str()),
        get(one.as_str()),
    ]
}

fn patches() -> Vec<Step> {
    let one = format!("{MAPS}/one");
    let web = format!("{DEPLOYMENTS}/web");
    let add = json!([{ "op": "add", "path": "/data/b", "value": "2" }]);
    let test = json!([{ "op": "test", "path": "/data/a", "value": "9" }]);
    let container = json!({ "spec": { "template": { "spec": { "containers": [
        { "name": "main", "image": "registry.invalid/main:2" },
    ] } } } });
    vec![
        post(MAPS, &map("one")),
        patch(one.as_str(), "json-patch+json", &add),
        patch(one.as_str(), "json-patch+json", &test),
        patch(one.as_str(), "json-patch+json", &json!({})),
        patch(
            one.as_str(),
            "merge-patch+json",
            &json!({ "data": { "a": null, "c": "3" } }),
        ),
        patch(
            one.as_str(),
            "merge-patch+json",
            &json!({ "data": { "c": "3" } }),
        ),
        patch(
            one.as_str(),
            "merge-patch+json",
            &json!({ "metadata": { "resourceVersion": "1" } }),
        ),
        patch(
            one.as_str(),
            "strategic-merge-patch+json",
            &json!({ "data": { "d": "4" } }),
        ),
        patch(one.as_str(), "json", &json!({})),
        patch(format!("{MAPS}/none"), "merge-patch+json", &json!({})),
        post(DEPLOYMENTS, &deployment("web")),
        patch(web.as_str(), "strategic-merge-patch+json", &container),
        patch(
            web.as_str(),
            "merge-patch+json",
            &json!({ "spec": { "replicas": -1 } }),
        ),
        patch(
            format!("{web}/status"),
            "merge-patch+json",
            &json!({ "status": { "replicas": 2 } }),
        ),
    ]
}

fn applies() -> Vec<Step> {
    let one = format!("{MAPS}/applied");
    let apply = |query: &str, body: &str| {
        call("PATCH", format!("{one}?{query}")).body("application/apply-patch+yaml", body)
    };
    let yaml = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: applied\ndata:\n  a: {value}\n"
        )
    };
    let mut written = map("applied");
    written["data"]["a"] = "\"3\"".into();
    vec![
        apply("fieldManager=first", &yaml("'1'")),
        apply("fieldManager=first", &yaml("'1'")),
        apply("fieldManager=second", &yaml("'2'")),
        apply("fieldManager=second&force=true", &yaml("'2'")),
        apply("", &yaml("'1'")),
        apply("fieldManager=first&dryRun=All&force=true", &yaml("'4'")),
        apply("fieldManager=first", "not: [valid"),
        apply("fieldManager=first&force=maybe", &yaml("'1'")),
        apply(
            "fieldManager=first&fieldValidation=Strict&force=true",
            &format!("{}nope: 1\n", yaml("'1'")),
        ),
        call("PATCH", format!("{one}?fieldManager=first"))
            .body("application/apply-patch+cbor", "\u{1}"),
        get(one.as_str()),
    ]
}

fn validation() -> Vec<Step> {
    let mut unknown = map("unknown");
    unknown["nope"] = "1".into();
    unknown["data"]["twice"] = "1".into();
    let twice = "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"twice\"},\
                 \"data\":{\"a\":\"1\",\"a\":\"2\"}}";
    let mut warned = deployment("warned");
    warned["spec"]["template"]["metadata"]["annotations"] =
        json!({ "seccomp.security.alpha.kubernetes.io/pod": "runtime/default" });
    let containers = &mut warned["spec"]["template"]["spec"]["containers"][0];
    containers["env"] = json!([{ "name": "A", "value": "1" }, { "name": "A", "value": "2" }]);
    let mut invalid = deployment("invalid");
    invalid["spec"]["replicas"] = json!(-3);
    invalid["spec"]["selector"]["matchLabels"]["app"] = "another".into();
    let with = |query: &str, body: &Value| post(format!("{MAPS}?{query}"), body);
    vec![
        with("dryRun=All", &map("one")),
        get(format!("{MAPS}/one")),
        with("dryRun=Some", &map("one")),
        with("fieldValidation=Warn&dryRun=All", &unknown),
        with("fieldValidation=Strict&dryRun=All", &unknown),
        with("fieldValidation=Ignore&dryRun=All", &unknown),
        with("fieldValidation=Perhaps", &unknown),
        call("POST", format!("{MAPS}?fieldValidation=Warn&dryRun=All"))
            .body("application/json", twice),
        post(DEPLOYMENTS, &warned),
        post(DEPLOYMENTS, &invalid),
        with("fieldManager=%00", &map("one")),
        with("fieldManager=me&dryRun=All&pretty=true", &map("one")),
        post(MAPS, &map("Not_A_Name")),
        post(MAPS, &deployment("one")),
        with("timeout=1s&dryRun=All", &map("one")),
        with("timeout=bad", &map("one")),
    ]
}

fn deletions() -> Vec<Step> {
    let finalized = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "kept", "finalizers": ["shop.example/kept"] },
    });
    let options = |options: Value| {
        let mut all = json!({ "apiVersion": "v1", "kind": "DeleteOptions" });
        if let (Some(all), Some(options)) = (all.as_object_mut(), options.as_object()) {
            all.extend(options.clone());
        }
        all
    };
    let delete = |name: &str, body: Value| call("DELETE", format!("{MAPS}/{name}")).json(&body);
    let wrong_uid = options(json!({ "preconditions": { "uid": "0" } }));
    let right_uid = options(json!({ "preconditions": { "uid": "<uid>" } }));
    vec![
        post(MAPS, &map("one")).keep("uid", "/metadata/uid"),
        delete("one", wrong_uid),
        delete("one", options(json!({ "dryRun": ["All"] }))),
        delete("one", options(json!({ "propagationPolicy": "Sideways" }))),
        delete("one", right_uid),
        delete("one", options(json!({}))),
        post(MAPS, &finalized),
        call(
            "DELETE",
            format!("{MAPS}/kept?propagationPolicy=Foreground&gracePeriodSeconds=0"),
        ),
        call("DELETE", format!("{MAPS}/kept")),
        patch(
            format!("{MAPS}/kept"),
            "merge-patch+json",
            &json!({ "metadata": { "finalizers": [] } }),
        ),
        post(MAPS, &map("two")),
        post(MAPS, &map("three")),
        call("DELETE", format!("{MAPS}?labelSelector=made%3Dhere")).accept("application/json"),
        call("DELETE", format!("{MAPS}?labelSelector=%3D%3D%3D")),
        call("DELETE", MAPS).json(&options(
            json!({ "orphanDependents": true, "propagationPolicy": "Orphan" }),
        )),
        call("DELETE", format!("{MAPS}/none")).body("application/json", "nonsense"),
        get(MAPS),
    ]
}

fn refused() -> Vec<Step> {
    let with = |kind: &str, body: &str| call("POST", MAPS).body(kind, body);
    let text = map("one").to_string();
    vec![
        with("application/json", ""),
        with("application/json", "{"),
        with("application/json", "[]"),
        with("application/json", "null"),
        with(
            "application/json",
            "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v9\"}",
        ),
        with("text/plain", &text),
        with("application/xml", "<a/>"),
        with("application/vnd.kubernetes.protobuf", "k8s\u{0}nonsense"),
        with("application/cbor", "\u{1}nonsense"),
        with("application/json; charset=utf-8; dryRun=x", &text),
        with("", &text),
        call("POST", MAPS).payload(Payload::Sized(text.clone())),
        with("application/json", &text).header("content-encoding", "gzip"),
        call("POST", MAPS).header("content-type", "application/json"),
        call("PUT", format!("{MAPS}/one")),
        call("PATCH", format!("{MAPS}/one")),
        call("POST", format!("{MAPS}/one")).json(&map("one")),
    ]
}

fn sent() -> Vec<Step> {
    let text = map("pieces").to_string();
    let (first, second) = text.split_at(20);
    let pieces = Payload::Pieces(vec![first.to_owned(), second.to_owned()]);
    let json = |step: Step| step.header("content-type", "application/json");
    let large = |query: &str| {
        let path = format!("{MAPS}{query}");
        json(call("POST", path))
    };
    let mut fits = map("fits");
    fits["data"]["text"] = "x".repeat(900 << 10).into();
    vec![
        json(call("POST", MAPS)).payload(pieces.clone()),
        json(call("PUT", format!("{MAPS}/pieces"))).payload(pieces),
        json(call("POST", MAPS)).payload(Payload::Pieces(Vec::new())),
        post(MAPS, &map("expected")).header("expect", "100-continue"),
        post("/api/v1/namespaces/<ns>/nothings", &map("expected")).header("expect", "100-continue"),
        post(MAPS, &map("odd"))
            .header("expect", "a-miracle")
            .refused("an expectation nobody can meet"),
        post(MAPS, &fits),
        large("").payload(Payload::Large(4 << 20)),
        get(format!("{MAPS}/pieces")),
        large("?pretty=true").payload(Payload::Large(16 << 20)),
        call("GET", format!("{MAPS}/pieces")).body("application/json", "{\"ignored\":true}"),
        call("DELETE", format!("{MAPS}/pieces")).payload(Payload::Sized("{}".to_owned())),
    ]
}

fn scale() -> Vec<Step> {
    let web = format!("{DEPLOYMENTS}/web");
    let scale = format!("{web}/scale");
    let sized = |count: u32| {
        json!({
            "apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": { "name": "web", "namespace": "<ns>" }, "spec": { "replicas": count },
        })
    };
    vec![
        post(DEPLOYMENTS, &deployment("web")),
        get(scale.as_str()),
        get(scale.as_str()).accept("application/json;as=Table;v=v1;g=meta.k8s.io"),
        put(scale.as_str(), &sized(5)),
        patch(
            scale.as_str(),
            "merge-patch+json",
            &json!({ "spec": { "replicas": 7 } }),
        ),
        get(web.as_str()).accept("application/json;as=Table;v=v1;g=meta.k8s.io,application/json"),
        call("DELETE", scale.as_str()),
        put(format!("{web}/status"), &deployment("web")),
        call("DELETE", format!("{web}?propagationPolicy=Background")),
    ]
}

fn pods() -> Vec<Step> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "free" },
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{ "name": "main", "image": "registry.invalid/main:1" }],
        },
    });
    let one = format!("{PODS}/free");
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": { "name": "free" },
        "target": { "apiVersion": "v1", "kind": "Node", "name": "worker" },
    });
    let eviction = |options: Value| {
        json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": { "name": "free" }, "deleteOptions": options,
        })
    };
    let debugging = json!({ "spec": { "ephemeralContainers": [
        { "name": "debug", "image": "registry.invalid/debug:1" },
    ] } });
    vec![
        post(PODS, &pod),
        get(format!("{one}/log")),
        get(format!("{one}/status")),
        post(format!("{one}/binding"), &binding),
        post(format!("{one}/binding"), &binding),
        patch(
            format!("{one}/status"),
            "strategic-merge-patch+json",
            &json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } }),
        ),
        patch(
            format!("{one}/ephemeralcontainers"),
            "strategic-merge-patch+json",
            &debugging,
        ),
        patch(
            format!("{one}/resize"),
            "merge-patch+json",
            &json!({ "spec": {} }),
        ),
        post(
            format!("{one}/eviction"),
            &eviction(json!({ "dryRun": ["All"] })),
        ),
        post(
            format!("{one}/eviction"),
            &eviction(json!({ "preconditions": { "uid": "0" } })),
        ),
        call("POST", format!("{one}/exec?command=true&stdout=true")),
        post(
            format!("{one}/eviction"),
            &eviction(json!({ "gracePeriodSeconds": 0 })),
        ),
        call("DELETE", format!("{one}?gracePeriodSeconds=0")),
        post(format!("{PODS}/none/eviction"), &eviction(json!({}))),
    ]
}

fn widgets() -> Vec<Step> {
    let widget = |spec: Value| {
        json!({
            "apiVersion": "shop.example/v1", "kind": "Widget",
            "metadata": { "name": "nut" }, "spec": spec,
        })
    };
    let one = format!("{WIDGETS}/nut");
    vec![
        post(WIDGETS, &widget(json!({ "count": 1, "colour": "green" }))),
        post(WIDGETS, &widget(json!({ "count": -1 }))),
        post(WIDGETS, &widget(json!({ "count": 1, "nope": true }))),
        get("/apis/shop.example/v2/namespaces/<ns>/widgets/nut"),
        patch(
            one.as_str(),
            "merge-patch+json",
            &json!({ "spec": { "count": 2 } }),
        ),
        patch(
            one.as_str(),
            "strategic-merge-patch+json",
            &json!({ "spec": { "count": 2 } }),
        ),
        patch(
            format!("{one}/status"),
            "merge-patch+json",
            &json!({ "status": { "count": 2 } }),
        ),
        get(format!("{one}/scale")),
        get(one.as_str()).accept("application/vnd.kubernetes.protobuf,application/json"),
        get(one.as_str()).accept("application/vnd.kubernetes.protobuf"),
        get(WIDGETS).accept("application/json;as=Table;v=v1;g=meta.k8s.io"),
        call("DELETE", WIDGETS),
    ]
}

fn namespaces() -> Vec<Step> {
    let finalized = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "<ns>" }, "spec": { "finalizers": ["kubernetes", "shop.example/x"] },
    });
    vec![
        get("/api/v1/namespaces/<ns>"),
        get("/api/v1/namespaces/<ns>/"),
        get("/api/v1/namespaces/<ns>/status"),
        put("/api/v1/namespaces/<ns>/finalize", &finalized),
        patch(
            "/api/v1/namespaces/<ns>",
            "merge-patch+json",
            &json!({ "metadata": { "labels": { "x": "y" } } }),
        ),
        call("DELETE", "/api/v1/namespaces/<ns>"),
        post(MAPS, &map("late")),
    ]
}

fn reviews() -> Vec<Step> {
    const AUTHENTICATION: &str = "/apis/authentication.k8s.io/v1";
    const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";
    let access = |kind: &str, spec: Value| json!({ "apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec });
    let may = json!({ "namespace": "<ns>", "verb": "list", "resource": "pods" });
    let token = |spec: Value| json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
    let tokens = "/api/v1/namespaces/<ns>/serviceaccounts/default/token";
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": "<token>" },
    });
    vec![
        post(tokens, &token(json!({ "expirationSeconds": 600 }))).keep("token", "/status/token"),
        post(tokens, &token(json!({ "expirationSeconds": 1 }))),
        post(tokens, &token(json!({ "audiences": ["other"] }))),
        post(format!("{AUTHENTICATION}/tokenreviews"), &review),
        post(
            format!("{AUTHORIZATION}/subjectaccessreviews"),
            &access(
                "SubjectAccessReview",
                json!({ "user": "jane", "groups": ["developers"], "resourceAttributes": may }),
            ),
        ),
        post(
            format!("{AUTHORIZATION}/subjectaccessreviews"),
            &access("SubjectAccessReview", json!({ "resourceAttributes": may })),
        ),
        post(
            format!("{AUTHORIZATION}/namespaces/<ns>/localsubjectaccessreviews"),
            &access(
                "LocalSubjectAccessReview",
                json!({ "user": "jane", "resourceAttributes": may }),
            ),
        ),
    ]
}
