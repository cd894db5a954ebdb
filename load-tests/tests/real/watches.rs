//! Thousands of watches, on a server that allows 100 streams per connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use load_tests::control_plane::{ApiClient, Auth, Who};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::{HOUR, PATIENCE, Plane, Proxy, plane, unique, until};

/// Watches of one client connection; the proxy allows more.
const PER_CONNECTION: usize = 100;

const LONG: [&str; 1] = ["traffic=\"long\""];

/// Opens a watch; while it is refused with 429, as an informer does: later.
/// Says how often that was.
async fn open(client: &ApiClient, path: &str) -> Result<(Incoming, u32)> {
    let deadline = Instant::now() + PATIENCE;
    let mut refused = 0;
    loop {
        let request = Request::get(path)
            .header("accept", "application/json")
            .body(Bytes::new())?;
        let response = client.open(request).await?;
        match response.status().as_u16() {
            200 => return Ok((response.into_body(), refused)),
            429 if Instant::now() < deadline => {
                refused += 1;
                let wait = response.headers().get("retry-after");
                let wait = wait.context("429 without Retry-After")?.to_str()?.parse()?;
                tokio::time::sleep(Duration::from_secs(wait)).await;
            }
            status => bail!("a watch got {status}"),
        }
    }
}

/// Reads a watch until an event is about `name`.
async fn sees(mut events: Incoming, name: &str) -> Result<Incoming> {
    let wanted = format!("\"name\":\"{name}\"");
    let mut line = Vec::new();
    loop {
        let frame = events.frame().await.context("the watch ended")??;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        line.extend_from_slice(&data);
        if String::from_utf8_lossy(&line).contains(&wanted) {
            return Ok(events);
        }
    }
}

/// `count` watches, of which `at_once` are being opened at any time.
async fn all_are_served(plane: &Plane, count: usize, at_once: usize) -> Result<()> {
    let proxy = Proxy::before(plane)?;
    let admin = plane.client(Who::SuperAdmin)?;
    let namespace = format!("watched-{}", unique());
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace },
    });
    let created = admin.post("/api/v1/namespaces", &object).await?;
    let created = created.accept("creating a namespace", &[])?.json();
    let version = created["metadata"]["resourceVersion"]
        .as_str()
        .context("no resource version")?;
    let collection = format!("/api/v1/namespaces/{namespace}/configmaps");
    let path = format!("{collection}?watch=1&timeoutSeconds=3000&resourceVersion={version}");
    let watcher = plane.client_certificate("watcher", &["kubeadm:cluster-admins"], HOUR)?;

    let started = Instant::now();
    let mut opening = JoinSet::new();
    let mut clients = Vec::new();
    let turn = Arc::new(Semaphore::new(at_once));
    for number in 0..count {
        if number % PER_CONNECTION == 0 {
            clients.push(proxy.client(Auth::Certificate(watcher.clone()))?);
        }
        let client = clients.last().context("no client")?.clone();
        let (path, turn) = (path.clone(), Arc::clone(&turn));
        opening.spawn(async move {
            let _turn = turn.acquire().await?;
            open(&client, &path).await
        });
    }
    let mut watches = Vec::with_capacity(count);
    let mut refusals = 0;
    while let Some(opened) = opening.join_next().await {
        let (watch, refused) = opened??;
        watches.push(watch);
        refusals += refused;
    }
    let opened = started.elapsed();

    // All are open; what happens now, each of them sees.
    let event = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "the-event" },
    });
    admin
        .post(&collection, &event)
        .await?
        .accept("creating", &[])?;
    let mut seeing = JoinSet::new();
    for watch in watches {
        seeing.spawn(async move {
            let seen = tokio::time::timeout(PATIENCE, sees(watch, "the-event"));
            seen.await.context("a watch never saw the event")?
        });
    }
    let mut watches = Vec::with_capacity(count);
    while let Some(seen) = seeing.join_next().await {
        watches.push(seen??);
    }
    eprintln!(
        "{count} watches: open after {opened:?} and {refusals} refusals, all saw an event after {:?}",
        started.elapsed()
    );

    let small = clients[0].get(&format!("{collection}/the-event")).await?;
    assert_eq!(small.status, 200);
    let other = proxy.client_as(plane, Who::Admin)?;
    assert_eq!(other.get("/version").await?.status, 200);

    let least = count / 100;
    until("the metrics show the watches", async || {
        let metrics = proxy.metrics().await.ok()?;
        let streams = metrics.sum("spillway_upstream_streams", &LONG);
        let connections = metrics.sum("spillway_upstream_connections", &LONG);
        (streams as usize == count && connections as usize > least).then_some(())
    })
    .await;

    drop((watches, clients));
    until("the streams of closed watches are given back", async || {
        let metrics = proxy.metrics().await.ok()?;
        let streams = metrics.sum("spillway_upstream_streams", &LONG);
        let in_flight = metrics.sum("spillway_lane_in_flight", &["lane=\"main\""]);
        (streams == 0.0 && in_flight == 0.0).then_some(())
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_thousand_watches_are_served_on_connections_of_a_hundred_streams() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    all_are_served(&plane, 1000, 100).await
}

#[tokio::test]
async fn five_thousand_watches_are_served_through_one_proxy() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    all_are_served(&plane, 5000, 100).await
}
