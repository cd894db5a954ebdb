//! Who is refused when there is too much, how, and who is not.

use std::time::Duration;

use anyhow::{Context as _, Result};
use config::Mode;
use load_tests::control_plane::{
    Answer, ApiClient, Auth, SeedKind, SeedPlan, Subject, TokenOptions, Who, seed,
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{HOUR, Plane, Proxy, plane, unique, until};

/// Everything in all namespaces, past the watch cache.
const LIST: &str = "/api/v1/configmaps";
/// Such LISTs at once.
const BURST: usize = 60;

/// A proxy that allows next to nothing.
fn tight_proxy(plane: &Plane, mode: Mode) -> Result<Proxy> {
    Proxy::with(plane, |config| {
        let admission = &mut config.admission;
        admission.mode = mode;
        admission.limit.initial = Duration::from_millis(2);
        admission.limit.min = Duration::from_millis(1);
        admission.limit.max = Duration::from_millis(2);
        admission.queue.long_deadline = admission.queue.short_deadline;
        admission.queue.max_waiting = 2;
    })
}

/// A telemetry agent that may read everything, and something to read.
async fn telemetry(plane: &Plane) -> Result<Auth> {
    let token = plane
        .service_account_token("telemetry", "herd", &TokenOptions::default())
        .await?;
    let subject = Subject::ServiceAccount {
        namespace: "telemetry".to_owned(),
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
    let auth = Auth::Token(token);
    let straight = plane.client_with(auth.clone())?;
    until("the agent may read", async || {
        let answer = straight.get("/api/v1/configmaps?limit=1").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    Ok(auth)
}

async fn burst(client: &ApiClient) -> Result<Vec<Answer>> {
    let mut calls = JoinSet::new();
    for _ in 0..BURST {
        let client = client.clone();
        calls.spawn(async move { client.get(LIST).await });
    }
    let mut answers = Vec::new();
    while let Some(answer) = calls.join_next().await {
        answers.push(answer??);
    }
    Ok(answers)
}

/// A node that keeps its lease and status alive until it is told to stop; says
/// how it was answered.
async fn node_life(
    client: ApiClient,
    name: String,
    mut stop: tokio::sync::oneshot::Receiver<()>,
) -> Result<Vec<u16>> {
    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": name, "namespace": "kube-node-lease" },
        "spec": { "holderIdentity": name, "leaseDurationSeconds": 40 },
    });
    let created = client.post(LEASES, &lease).await?;
    let mut statuses = vec![created.status];
    let path = format!("{LEASES}/{name}");
    let renewal = json!({ "spec": { "leaseDurationSeconds": 40 } });
    while stop.try_recv().is_err() {
        statuses.push(client.patch(&path, &renewal).await?.status);
        statuses.push(client.get(&path).await?.status);
    }
    Ok(statuses)
}

fn assert_shed_well(answer: &Answer) {
    let headers = &answer.headers;
    let seconds = headers["retry-after"].to_str().unwrap_or_default();
    let seconds: u32 = seconds.parse().unwrap_or_default();
    assert!((1..=32).contains(&seconds), "{headers:?}");
    assert_eq!(headers["x-spillway-class"], "bulk");
    assert!(headers.contains_key("x-spillway-reason"), "{headers:?}");
    assert_eq!(headers["content-type"], "application/json");
    let body = answer.json();
    assert_eq!(body["kind"], "Status", "{body}");
    assert_eq!(body["reason"], "TooManyRequests", "{body}");
    assert_eq!(body["details"]["retryAfterSeconds"], seconds, "{body}");
}

#[tokio::test]
async fn a_herd_of_lists_is_shed_and_leases_are_served() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = tight_proxy(&plane, Mode::Enforce)?;
    let herd = proxy.client(telemetry(&plane).await?)?;
    let name = format!("worker-{}", unique());
    let node = format!("system:node:{name}");
    let node = plane.client_certificate(&node, &["system:nodes"], HOUR)?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let life = node_life(proxy.client(Auth::Certificate(node))?, name, stopped);
    let life = tokio::spawn(life);

    let (mut served, mut shed) = (0, 0);
    until("some of the herd is shed and some served", async || {
        for answer in burst(&herd).await.ok()? {
            match answer.status {
                200 => served += 1,
                // The server's own refusal; a shed one without the header shows below, in
                // the count.
                429 if !answer.headers.contains_key("x-spillway-class") => {}
                429 => {
                    assert_shed_well(&answer);
                    shed += 1;
                }
                status => panic!("status {status}"),
            }
        }
        (served > 0 && shed > 0).then_some(())
    })
    .await;
    stop.send(()).ok().context("the node is gone")?;
    let statuses = life.await??;
    assert!(statuses.len() >= 3, "{statuses:?}");
    assert!(
        statuses.iter().all(|status| (200..300).contains(status)),
        "{statuses:?}"
    );
    let metrics = proxy.metrics().await?;
    let counted = metrics.sum("spillway_shed_total", &["class=\"bulk\""]);
    assert_eq!(counted as usize, shed);
    assert_eq!(metrics.sum("spillway_shed_total", &[]) as usize, shed);
    Ok(())
}

#[tokio::test]
async fn the_shadow_counts_what_it_would_shed_and_refuses_nobody() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = tight_proxy(&plane, Mode::Shadow)?;
    let herd = proxy.client(telemetry(&plane).await?)?;
    let counted = until("the shadow sheds", async || {
        for answer in burst(&herd).await.ok()? {
            assert!(!answer.headers.contains_key("x-spillway-class"));
        }
        let metrics = proxy.metrics().await.ok()?;
        let counted = metrics.sum("spillway_shadow_shed_total", &["class=\"bulk\""]);
        (counted > 0.0).then_some(counted)
    })
    .await;
    let metrics = proxy.metrics().await?;
    assert_eq!(metrics.sum("spillway_shed_total", &[]), 0.0, "{counted}");
    Ok(())
}

#[tokio::test]
async fn switched_off_it_neither_refuses_nor_counts() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = tight_proxy(&plane, Mode::Off)?;
    let herd = proxy.client(telemetry(&plane).await?)?;
    for answer in burst(&herd).await? {
        assert!(!answer.headers.contains_key("x-spillway-class"));
    }
    let metrics = proxy.metrics().await?;
    assert!(metrics.sum("spillway_requests_total", &["class=\"bulk\""]) >= BURST as f64);
    assert_eq!(metrics.sum("spillway_shadow_shed_total", &[]), 0.0);
    assert_eq!(metrics.sum("spillway_shed_total", &[]), 0.0);
    Ok(())
}

/// The server answers 504 after three seconds, which is no sign of an overload.
#[tokio::test]
async fn asking_for_a_version_that_is_not_there_yet_slows_nobody_down() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let client = proxy.client_as(&plane, Who::SuperAdmin)?;
    let mut calls = JoinSet::new();
    for _ in 0..5 {
        let client = client.clone();
        let path = "/api/v1/configmaps?resourceVersion=99999999999&limit=1";
        calls.spawn(async move { client.get(path).await });
    }
    while let Some(answer) = calls.join_next().await {
        let answer = answer??;
        assert_eq!(answer.status, 504, "{answer:?}");
        assert_eq!(answer.json()["reason"], "Timeout");
    }
    // The control loop has looked at least once more when the next probe is in.
    let metrics = proxy.metrics().await?;
    let probes = metrics.sum("spillway_probes_total", &[]);
    let metrics = until("ten more probes", async || {
        let metrics = proxy.metrics().await.ok()?;
        (metrics.sum("spillway_probes_total", &[]) > probes + 10.0).then_some(metrics)
    })
    .await;
    assert_eq!(metrics.sum("spillway_upstream_refusals_total", &[]), 0.0);
    Ok(())
}
