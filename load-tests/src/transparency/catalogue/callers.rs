//! The same questions by everybody.

use serde_json::{Value, json};

use crate::transparency::call::{Over, Scenario, Step, call, get, gets, post};
use crate::transparency::who::{NODE, Who};

const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const MAY_I: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

pub(super) fn scenarios() -> Vec<Scenario> {
    let name = |who| match who {
        Who::User => "asked by a user",
        Who::Masters => "asked by system:masters",
        Who::Node => "asked by a node",
        Who::Account => "asked by a service account",
        Who::StaticToken => "asked with a static token",
        Who::Bootstrap => "asked with a bootstrap token",
        Who::Anonymous => "asked by nobody",
        Who::Impersonator => "asked by an admin",
        Who::BadToken => "asked with an invalid token",
        Who::Expired => "asked with an expired certificate",
        Who::Stranger => "asked with a foreign certificate",
        Who::StrangerWithToken => "asked with a foreign certificate and a token",
    };
    let mut all: Vec<_> = Who::ALL
        .into_iter()
        .map(|who| Scenario::new(name(who), who, questions()))
        .collect();
    all.push(Scenario::new("a node's own work", Who::Node, node()));
    all.push(Scenario::new(
        "impersonation",
        Who::Impersonator,
        impersonation(),
    ));
    all.push(Scenario::new(
        "impersonation without the right to it",
        Who::User,
        presumption(),
    ));
    all.push(Scenario::new(
        "two credentials at once",
        Who::User,
        two_credentials(),
    ));
    all.push(Scenario::new("odd credentials", Who::Anonymous, odd_credentials()).over(Over::Http1));
    all.push(Scenario::new("what a client claims", Who::User, claims()));
    all
}

pub(super) fn whoami() -> Step {
    let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
    post(WHOAMI, &body)
}

fn may_i(verb: &str, resource: &str) -> Step {
    let attributes = json!({ "namespace": "fixtures", "verb": verb, "resource": resource });
    let body = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": attributes },
    });
    post(MAY_I, &body)
}

fn rules() -> Step {
    let body = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview",
        "spec": { "namespace": "fixtures" },
    });
    post(
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        &body,
    )
    .volatile("in an order of chance")
}

fn questions() -> Vec<Step> {
    let mut steps = vec![whoami(), may_i("list", "configmaps"), rules()];
    steps.extend(gets([
        "/version",
        "/livez",
        "/apis",
        "/openapi/v3",
        "/metrics/slis",
        "/api/v1/namespaces/fixtures/configmaps/map-1",
        "/api/v1/namespaces/fixtures/configmaps?labelSelector=parity",
        "/api/v1/namespaces/fixtures/secrets/secret",
        "/api/v1/namespaces/fixtures/configmaps?watch=1&timeoutSeconds=1&resourceVersion=0&labelSelector=parity",
        "/api/v1/nodes/worker",
        "/nope",
    ]));
    if let Some(step) = steps.iter_mut().find(|step| step.target == "/metrics/slis") {
        step.volatile = Some("numbers that count, also this call");
    }
    steps.push(
        get("/api/v1/namespaces/fixtures/configmaps/map-1")
            .accept("application/vnd.kubernetes.protobuf"),
    );
    steps.push(call(
        "DELETE",
        "/api/v1/namespaces/fixtures/configmaps/none",
    ));
    steps
}

fn node() -> Vec<Step> {
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": NODE },
        "spec": { "holderIdentity": NODE, "leaseDurationSeconds": 40 },
    });
    let merge = |target: String, body: &Value| {
        call("PATCH", target).body("application/merge-patch+json", body.to_string())
    };
    vec![
        post(leases, &lease),
        merge(
            format!("{leases}/{NODE}"),
            &json!({ "spec": { "leaseDurationSeconds": 41 } }),
        ),
        call("DELETE", format!("{leases}/{NODE}")),
        get(format!("/api/v1/nodes/{NODE}?resourceVersion=0")),
        get("/api/v1/nodes/another"),
        merge(
            format!("/api/v1/nodes/{NODE}/status"),
            &json!({ "status": { "phase": "Running" } }),
        ),
        merge(
            format!("/api/v1/nodes/{NODE}"),
            &json!({ "metadata": { "labels": { "node-restriction.kubernetes.io/x": "y" } } }),
        ),
        get("/api/v1/pods?fieldSelector=spec.nodeName%3Dworker&resourceVersion=0"),
        get("/api/v1/pods"),
        get("/api/v1/namespaces/fixtures/pods/pod"),
        get("/api/v1/services?limit=500&resourceVersion=0"),
    ]
}

fn impersonation() -> Vec<Step> {
    let as_jane = |step: Step| step.header("impersonate-user", "jane");
    vec![
        as_jane(whoami()),
        as_jane(whoami())
            .header("impersonate-group", "developers")
            .header("impersonate-group", "a group: ü, 2")
            .header("impersonate-extra-reason", "why")
            .header("impersonate-extra-reason", "and why else")
            .header("impersonate-extra-shop.example%2fscope", "view")
            .header("impersonate-uid", "17"),
        as_jane(get("/api/v1/namespaces/fixtures/secrets/secret")),
        as_jane(get("/api/v1/namespaces/fixtures/configmaps/map-1"))
            .header("impersonate-group", "developers"),
        whoami().header("impersonate-user", "system:serviceaccount:accounts:agent"),
        whoami()
            .header("impersonate-user", "system:node:worker")
            .header("impersonate-group", "system:nodes"),
        whoami().header("impersonate-user", "system:anonymous"),
        whoami().header("impersonate-group", "developers"),
        whoami().header("impersonate-extra-reason", "why"),
        whoami().header("impersonate-uid", "17"),
        whoami().header("impersonate-user", ""),
        as_jane(get("/version")),
    ]
}

fn presumption() -> Vec<Step> {
    vec![
        whoami().header("impersonate-user", "kubernetes-admin"),
        whoami().header("impersonate-user", "jane"),
        get("/version")
            .header("impersonate-user", "jane")
            .header("impersonate-group", "system:masters"),
        get("/version").header("impersonate-user", "system:serviceaccount:accounts:agent"),
    ]
}

fn two_credentials() -> Vec<Step> {
    vec![
        whoami().header("authorization", "Bearer nobody-knows-this-one"),
        whoami().header("authorization", "Basic amFuZTp4"),
        whoami().header("authorization", "Bearer statictoken0123456789"),
    ]
}

fn odd_credentials() -> Vec<Step> {
    let with = |value: &str| whoami().header("authorization", value);
    vec![
        with("Basic amFuZTp4"),
        with("Bearer"),
        with("Bearer "),
        with("bearer statictoken0123456789"),
        with("Bearer  statictoken0123456789"),
        with("Bearer statictoken0123456789 and more"),
        with("  Bearer statictoken0123456789"),
        with("Bearer a.b.c"),
        with(
            "Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2t1YmVybmV0ZXMuZGVmYXVsdC5zdmMuY2x1c3Rlci5sb2NhbCJ9.",
        ),
        with("Bearer nobody").header("authorization", "Bearer statictoken0123456789"),
        whoami().header("authorization", "Negotiate x"),
    ]
}

fn claims() -> Vec<Step> {
    vec![
        whoami()
            .header("x-remote-user", "root")
            .header("x-remote-group", "system:masters")
            .header("x-remote-extra-a", "b")
            .header("x-remote-uid", "0"),
        get("/version").header("x-forwarded-for", "203.0.113.7"),
        get("/version").header("x-real-ip", "203.0.113.8"),
        get("/version").header("forwarded", "for=203.0.113.9"),
        get("/version")
            .header("x-forwarded-proto", "http")
            .header("x-forwarded-host", "other.example"),
        get("/version").header("via", "1.1 somewhere"),
    ]
}
