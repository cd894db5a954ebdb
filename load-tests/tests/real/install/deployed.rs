//! `deploy/rbac.yaml` on the real server; and Spillway with its eyes shut.

use std::time::Duration;

use anyhow::{Context as _, Result};
use http::Request;
use load_tests::control_plane::{
    Answer, ApiClient, Auth, SeedKind, SeedPlan, Subject, TokenOptions, Who, seed,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{HOUR, PATIENCE, Plane, Proxy, plane, until};

const RBAC: &str = include_str!("../../../../deploy/rbac.yaml");

/// Where objects of a kind are created.
fn collection(object: &Value) -> Result<String> {
    let version = object["apiVersion"].as_str().context("no apiVersion")?;
    let resource = match object["kind"].as_str() {
        Some("ClusterRole") => "clusterroles",
        Some("ClusterRoleBinding") => "clusterrolebindings",
        Some("Role") => "roles",
        Some("RoleBinding") => "rolebindings",
        Some("FlowSchema") => "flowschemas",
        other => anyhow::bail!("{other:?} is not expected in deploy/rbac.yaml"),
    };
    Ok(match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/apis/{version}/namespaces/{namespace}/{resource}"),
        None => format!("/apis/{version}/{resource}"),
    })
}

async fn apply(plane: &Plane) -> Result<()> {
    let admin = plane.client(Who::SuperAdmin)?;
    for text in RBAC.split("\n---\n").skip(1) {
        let object: Value = serde_saphyr::from_str(text)?;
        let path = collection(&object)?;
        // A field the server does not know is an error.
        let target = format!("{path}?fieldValidation=Strict");
        let answer = admin.post(&target, &object).await?;
        assert!(
            matches!(answer.status, 201 | 409),
            "{path}: {}",
            answer.json()
        );
    }
    Ok(())
}

/// The uid of what priority and fairness knows by this name.
async fn uid(plane: &Plane, resource: &str, name: &str) -> Result<String> {
    let path = format!("/apis/flowcontrol.apiserver.k8s.io/v1/{resource}/{name}");
    let object = plane.client(Who::SuperAdmin)?.get(&path).await?.json();
    let uid = object["metadata"]["uid"].as_str();
    Ok(uid.with_context(|| format!("{path}: {object}"))?.to_owned())
}

/// Asks until priority and fairness puts the call where it should, by the header that says so.
async fn lands(what: &str, client: &ApiClient, path: &str, header: &str, wanted: &str) {
    let started = std::time::Instant::now();
    until(what, async || {
        let answer = client.get(path).await.ok()?;
        let place = answer.headers.get(header);
        let is_there = answer.status == 200 && place.is_some_and(|place| place == wanted);
        let late = !is_there && started.elapsed() > PATIENCE / 2;
        assert!(
            !late,
            "{what}: {} from {place:?}, not {wanted}",
            answer.status
        );
        is_there.then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_shipped_rules_exempt_the_probe_and_let_a_rollback_happen() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    apply(&plane).await?;
    let exempt = uid(&plane, "prioritylevelconfigurations", "exempt").await?;
    let break_glass = uid(&plane, "flowschemas", "spillway-break-glass").await?;
    let as_user = |name: &str, groups: &[&str]| {
        plane.client_with(Auth::Certificate(
            plane.client_certificate(name, groups, HOUR)?,
        ))
    };
    let probe = as_user("system:spillway-probe", &[])?;
    // By the server's own schema `probes`, or by ours where that was changed.
    let level = "x-kubernetes-pf-prioritylevel-uid";
    lands("the probe is exempt", &probe, "/livez/ping", level, &exempt).await;
    let ours = as_user("system:spillway", &[])?;
    until("published keys can be read", async || {
        let keys = Request::get("/openid/v1/jwks").header("accept", "application/jwk-set+json");
        let answer = ours
            .request(keys.body(bytes::Bytes::new()).ok()?)
            .await
            .ok()?;
        (answer.status == 200).then_some(())
    })
    .await;

    let policies = "/api/v1/namespaces/kube-system/configmaps";
    let status = async |path: &str| Ok::<_, anyhow::Error>(ours.get(path).await?.status);
    until("the policy may be read, and is not there", async || {
        let status = status(&format!("{policies}/spillway-policy")).await.ok()?;
        (status == 404).then_some(())
    })
    .await;
    assert_eq!(status(&format!("{policies}/other")).await?, 403);
    assert_eq!(status(policies).await?, 403);

    let operator = as_user("jane", &["spillway:rollback"])?;
    let nodes = "/api/v1/nodes";
    let schema = "x-kubernetes-pf-flowschema-uid";
    lands(
        "the operator is exempt",
        &operator,
        nodes,
        schema,
        &break_glass,
    )
    .await;
    lands("the operator is exempt", &operator, nodes, level, &exempt).await;
    for (path, status) in [
        ("/apis/apps/v1/daemonsets", 200),
        ("/api/v1/pods", 200),
        ("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", 200),
        ("/api/v1/namespaces/kube-system/secrets", 403),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            403,
        ),
    ] {
        assert_eq!(operator.get(path).await?.status, status, "{path}");
    }
    // The rollback itself: a culprit is scaled down and deleted.
    let admin = plane.client(Who::SuperAdmin)?;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let culprit = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "culprit" },
        "spec": {
            "selector": { "matchLabels": { "app": "culprit" } },
            "template": {
                "metadata": { "labels": { "app": "culprit" } },
                "spec": { "containers": [{ "name": "main", "image": "registry.invalid/culprit:1" }] },
            },
        },
    });
    assert_eq!(admin.post(deployments, &culprit).await?.status, 201);
    let scale = format!("{deployments}/culprit/scale");
    assert_eq!(
        operator
            .patch(&scale, &json!({ "spec": { "replicas": 0 } }))
            .await?
            .status,
        200
    );
    let delete = Request::delete(format!("{deployments}/culprit")).body(bytes::Bytes::new())?;
    assert_eq!(operator.request(delete).await?.status, 200);
    // And nobody is made an administrator by it.
    let other = as_user("joe", &["spillway:break-glass"])?;
    assert_eq!(other.get(nodes).await?.status, 403);
    Ok(())
}

/// LISTs at once.
const BURST: usize = 60;

async fn burst(client: &ApiClient) -> Result<Vec<Answer>> {
    let mut calls = JoinSet::new();
    for _ in 0..BURST {
        let client = client.clone();
        calls.spawn(async move { client.get("/api/v1/configmaps").await });
    }
    let mut answers = Vec::new();
    while let Some(answer) = calls.join_next().await {
        answers.push(answer??);
    }
    Ok(answers)
}

fn shed(answers: &[Answer]) -> usize {
    let ours = answers
        .iter()
        .filter(|answer| answer.headers.contains_key("x-spillway-class"));
    ours.count()
}

/// Somebody who may read everything, and something to read.
async fn reader(plane: &Plane) -> Result<Auth> {
    let token = plane
        .service_account_token("blind", "herd", &TokenOptions::default())
        .await?;
    let subject = Subject::ServiceAccount {
        namespace: "blind".to_owned(),
        name: "herd".to_owned(),
    };
    plane.bind_cluster_role(&subject, "view").await?;
    let plan = SeedPlan {
        kind: SeedKind::ConfigMaps,
        namespaces: 2,
        count: 400,
        bytes_each: 3000,
        concurrency: 16,
    };
    seed(&plane.client(Who::SuperAdmin)?, plan, |_| ()).await?;
    Ok(Auth::Token(token))
}

#[tokio::test]
async fn when_its_probe_is_not_answered_it_refuses_nobody() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    // A watch never ends: a probe that is neither answered nor refused. The probe must be allowed to.
    let user = Subject::User("system:spillway-probe".to_owned());
    plane.bind_cluster_role(&user, "view").await?;
    let auth = reader(&plane).await?;
    let probe = Auth::Certificate(plane.client_certificate("system:spillway-probe", &[], HOUR)?);
    let (probe, straight) = (plane.client_with(probe)?, plane.client_with(auth.clone())?);
    until("both may read", async || {
        let probe = probe
            .get("/api/v1/namespaces/default/configmaps")
            .await
            .ok()?;
        let reader = straight.get("/api/v1/configmaps?limit=1").await.ok()?;
        ((probe.status, reader.status) == (200, 200)).then_some(())
    })
    .await;
    // Both have room for next to nothing until they have seen more.
    let tight = |admission: &mut config::Admission| {
        admission.limit.initial = Duration::from_millis(2);
        admission.limit.min = Duration::from_millis(1);
        admission.queue.long_deadline = admission.queue.short_deadline;
        admission.queue.max_waiting = 2;
    };
    let sighted = Proxy::with(&plane, |config| {
        tight(&mut config.admission);
        // Or it may find in time that there is room for all; and each read is to be a call of its own.
        config.admission.limit.max = config.admission.limit.initial;
        config.admission.collapse = config::Collapse::Off;
    })?;
    let blind = Proxy::with(&plane, |config| {
        tight(&mut config.admission);
        config.admission.probe.path = "/api/v1/namespaces/default/configmaps?watch=1".to_owned();
        config.admission.probe.timeout = Duration::from_secs(60);
        // How large the answers are, it does not know either, and each is a call of its own.
        config.admission.collapse = config::Collapse::Off;
    })?;
    let client = sighted.client(auth.clone())?;
    until("whoever sees refuses some of the burst", async || {
        (shed(&burst(&client).await.ok()?) > 0).then_some(())
    })
    .await;

    let client = blind.client(auth)?;
    until("it notices that it is blind", async || {
        let metrics = blind.metrics().await.ok()?;
        (metrics.sum("spillway_tuner_state", &["state=\"fail_open\""]) == 1.0).then_some(())
    })
    .await;
    let answers = burst(&client).await?;
    assert_eq!(shed(&answers), 0);
    // The server may still refuse for itself.
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer.status, 200 | 429))
    );
    Ok(())
}
