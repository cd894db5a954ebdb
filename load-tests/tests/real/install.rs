//! The take-over of a node, rehearsed with the script and the manifest an operator uses; and what stays open when
//! Spillway is gone or blind.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use load_tests::control_plane::{ApiClient, ClientOptions, Kubeconfig, Protocol, SERVER_NAME};
use serde_json::{Value, json};

use crate::support::{PATIENCE, page, until};

#[path = "install/deployed.rs"]
mod deployed;
#[path = "install/node.rs"]
mod node;

use node::{NODE, Node, PUBLISHED};

/// An operation that is not done by then was disturbed.
const BOUND: Duration = Duration::from_secs(150);
/// A call that has no answer by then is made again.
const CALL: Duration = Duration::from_secs(20);
/// The bound of either way.
const FIVE_MINUTES: Duration = Duration::from_secs(300);

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn client(node: &Node, host: &str, who: &str) -> Result<ApiClient> {
    let config = Kubeconfig::read(&node.kubeconfig(who))?;
    Ok(ApiClient::new(ClientOptions {
        server: format!("https://{host}:{}", node.port),
        server_name: SERVER_NAME.to_owned(),
        ca_pem: node.ca_pem.clone(),
        auth: config.auth,
        protocol: Protocol::Negotiated,
    })?)
}

/// What clients saw.
#[derive(Debug, Default)]
struct Seen {
    /// Calls that were made again: no connection, or told to come back.
    retries: AtomicU32,
    /// The longest an operation took with all its retries, ms.
    longest: AtomicU32,
    created: AtomicU32,
    events: AtomicU32,
    /// How often the watcher had to read everything again.
    lists: AtomicU32,
    /// What a client could not live with.
    wrong: Mutex<Option<String>>,
}

impl Seen {
    /// Runs a client; what it ends with is not lost.
    async fn keep(self: Arc<Self>, client: impl Future<Output = Result<()>>) {
        if let Err(wrong) = client.await
            && let Ok(mut kept) = self.wrong.lock()
        {
            *kept = Some(format!("{wrong:#}"));
        }
    }

    fn assert_nothing_wrong(&self) {
        let wrong = self.wrong.lock().expect("no client panicked");
        assert!(wrong.is_none(), "{wrong:?}; {self:?}");
    }

    /// Changes made, changes seen.
    fn counts(&self) -> (u32, u32) {
        (
            self.created.load(Ordering::SeqCst),
            self.events.load(Ordering::SeqCst),
        )
    }
}

/// Reads, or creates `object`, until there is an answer, as client-go does with what tells it to come back. Says whether
/// an earlier try may have been carried out.
async fn persist(
    seen: &Seen,
    client: &ApiClient,
    path: &str,
    object: Option<&Value>,
) -> Result<(u16, Value, bool)> {
    let started = Instant::now();
    let mut perhaps_done = false;
    loop {
        ensure!(
            started.elapsed() < BOUND,
            "{path}: not answered within {BOUND:?}"
        );
        let call = async {
            match object {
                None => client.get(path).await,
                Some(object) => client.post(path, object).await,
            }
        };
        match tokio::time::timeout(CALL, call).await {
            Ok(Ok(answer)) if matches!(answer.status, 429 | 503) => {}
            Ok(Err(_)) | Err(_) => perhaps_done = true,
            // 500 is kube-apiserver's own, of what it was at when it lost its storage.
            Ok(Ok(answer)) if matches!(answer.status, 500 | 504) => perhaps_done = true,
            Ok(Ok(answer)) => {
                let took = u32::try_from(started.elapsed().as_millis())?;
                seen.longest.fetch_max(took, Ordering::SeqCst);
                return Ok((answer.status, answer.json(), perhaps_done));
            }
        }
        seen.retries.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Creates objects one after the other and reads each back: none is lost, none is wrong.
async fn work(client: ApiClient, seen: Arc<Seen>, stop: Arc<AtomicBool>) -> Result<()> {
    while !stop.load(Ordering::SeqCst) {
        let number = seen.created.load(Ordering::SeqCst);
        let name = format!("change-{number}");
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": name, "labels": { "rehearsal": "yes" } },
            "data": { "number": number.to_string() },
        });
        let (status, body, perhaps_done) = persist(&seen, &client, MAPS, Some(&object)).await?;
        let is_done = status == 201 || status == 409 && perhaps_done;
        ensure!(is_done, "creating {name}: {status}: {body}");
        let path = format!("{MAPS}/{name}");
        let (status, body, _) = persist(&seen, &client, &path, None).await?;
        ensure!(status == 200, "reading {name}: {status}: {body}");
        ensure!(
            body["data"]["number"] == json!(number.to_string()),
            "{body}"
        );
        seen.created.store(number + 1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Watches as a reflector does: on from the last version; from the beginning only when told that it is gone. Every object
/// is to come exactly once and in order.
async fn watch(client: ApiClient, seen: Arc<Seen>, stop: Arc<AtomicBool>) -> Result<()> {
    let mut version = list(&client, &seen).await?;
    while !(stop.load(Ordering::SeqCst) && seen.counts().0 == seen.counts().1) {
        let target = format!(
            "{MAPS}?watch=1&labelSelector=rehearsal%3Dyes&timeoutSeconds=5&allowWatchBookmarks=true&resourceVersion={version}"
        );
        let opened = client.open(Request::get(target).body(Bytes::new())?);
        let mut body = match tokio::time::timeout(CALL, opened).await {
            Ok(Ok(answer)) if answer.status() == 200 => answer.into_body(),
            Ok(Ok(answer)) if answer.status() == 410 => {
                version = list(&client, &seen).await?;
                continue;
            }
            Ok(Ok(answer)) => {
                let status = answer.status().as_u16();
                ensure!(matches!(status, 429 | 500 | 503 | 504), "watch: {status}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            _ => continue,
        };
        let mut rest = Vec::new();
        while let Ok(Some(Ok(frame))) = tokio::time::timeout(CALL, body.frame()).await {
            rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let event = serde_json::from_slice(&line)?;
                version = match happened(&event, &seen)? {
                    Some(version) => version,
                    // The new server's cache does not reach back so far.
                    None => list(&client, &seen).await?,
                };
            }
        }
    }
    Ok(())
}

/// Reads everything, and says from which version on to watch.
async fn list(client: &ApiClient, seen: &Seen) -> Result<String> {
    let path = format!("{MAPS}?labelSelector=rehearsal%3Dyes");
    let (status, body, _) = persist(seen, client, &path, None).await?;
    ensure!(status == 200, "list: {status}: {body}");
    let items = body["items"].as_array().context("no items")?;
    let mut numbers: Vec<u32> = Vec::new();
    for item in items {
        numbers.push(
            item["data"]["number"]
                .as_str()
                .context("no number")?
                .parse()?,
        );
    }
    numbers.sort_unstable();
    let count = u32::try_from(numbers.len())?;
    ensure!(
        numbers == (0..count).collect::<Vec<_>>(),
        "something is lost: {numbers:?}"
    );
    ensure!(
        count >= seen.events.load(Ordering::SeqCst),
        "the past was forgotten: {count}"
    );
    seen.events.store(count, Ordering::SeqCst);
    seen.lists.fetch_add(1, Ordering::SeqCst);
    Ok(body["metadata"]["resourceVersion"]
        .as_str()
        .context("no version")?
        .to_owned())
}

/// The version after an event; none when the watcher has to begin anew.
fn happened(event: &Value, seen: &Seen) -> Result<Option<String>> {
    let object = &event["object"];
    if event["type"] == "ERROR" {
        let code = object["code"].as_u64().unwrap_or_default();
        ensure!(matches!(code, 410 | 429 | 500 | 503 | 504), "{event}");
        return Ok(None);
    }
    if event["type"] == "ADDED" {
        let expected = seen.events.load(Ordering::SeqCst);
        ensure!(
            object["data"]["number"] == json!(expected.to_string()),
            "expected {expected}: {event}"
        );
        seen.events.store(expected + 1, Ordering::SeqCst);
    }
    let version = object["metadata"]["resourceVersion"].as_str();
    Ok(Some(version.context("no version")?.to_owned()))
}

/// What kube-proxy sends pods to.
async fn assert_published(node: &Node, client: &ApiClient) {
    let wanted = json!([{
        "addresses": [{ "ip": PUBLISHED }],
        "ports": [{ "name": "https", "port": node.port, "protocol": "TCP" }],
    }]);
    until(
        "the node is an endpoint of the kubernetes Service",
        async || {
            let path = "/api/v1/namespaces/default/endpoints/kubernetes";
            let endpoints = client.get(path).await.ok()?.json();
            (endpoints["subsets"] == wanted).then_some(())
        },
    )
    .await;
}

/// Runs the script; its output is this test's.
async fn script(node: &Node, arguments: &[&str]) -> Result<(Option<i32>, Duration, String)> {
    let started = Instant::now();
    let run = node.take_over(arguments).output();
    let output = tokio::time::timeout(FIVE_MINUTES, run)
        .await
        .context("longer than five minutes")??;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    eprintln!("{said}");
    Ok((output.status.code(), started.elapsed(), said))
}

async fn metric(node: &Node, name: &str) -> Option<f64> {
    let page = page(node.admin, "/metrics").await.ok()?.1;
    Some(
        page.lines()
            .filter(|line| line.starts_with(name))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum(),
    )
}

/// Lets the clients do ten more things.
async fn go_on(seen: &Seen) {
    let before = seen.counts();
    until("the clients go on", async || {
        seen.assert_nothing_wrong();
        let now = seen.counts();
        (now.0 >= before.0 + 10 && now.1 >= before.1 + 10).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_taken_over_and_given_back_and_its_clients_go_on() -> Result<()> {
    let Some(node) = tokio::task::spawn_blocking(Node::start).await?? else {
        return Ok(());
    };
    let address = NODE.to_string();
    let admin = client(&node, &address, "super-admin.conf")?;
    let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let worker = tokio::spawn(Arc::clone(&seen).keep(work(
        admin.clone(),
        Arc::clone(&seen),
        Arc::clone(&stop),
    )));
    let other = client(&node, &address, "super-admin.conf")?;
    let watcher =
        tokio::spawn(Arc::clone(&seen).keep(watch(other, Arc::clone(&seen), Arc::clone(&stop))));
    go_on(&seen).await;
    assert_published(&node, &admin).await;
    let manifest = node.manifests().join("kube-apiserver.yaml");
    let before = std::fs::read_to_string(&manifest)?;

    // Said, and not done.
    let (code, _, said) = script(&node, &["forward", "--dry-run"]).await?;
    assert_eq!(code, Some(0));
    assert!(said.contains("+    - --bind-address=127.0.0.1"), "{said}");
    assert_eq!(std::fs::read_to_string(&manifest)?, before);

    let (code, took, _) = script(&node, &["forward"]).await?;
    assert_eq!(code, Some(0));
    let forward = (
        took,
        seen.retries.swap(0, Ordering::SeqCst),
        seen.longest.swap(0, Ordering::SeqCst),
    );
    go_on(&seen).await;
    assert_published(&node, &admin).await;
    let through = metric(&node, "spillway_requests_total")
        .await
        .context("no metrics")?;
    assert!(through > 0.0, "nothing came through Spillway");
    let (code, _, said) = script(&node, &["status"]).await?;
    assert_eq!(code, Some(0), "{said}");
    // A second time it changes nothing.
    let behind = std::fs::read_to_string(&manifest)?;
    assert_eq!(script(&node, &["forward"]).await?.0, Some(0));
    assert_eq!(std::fs::read_to_string(&manifest)?, behind);

    // The way around: Spillway is gone, and whoever is on the node still has the server.
    let localhost = client(&node, "127.0.0.1", "super-admin.conf")?;
    node.break_spillway(true);
    until("nobody listens on the node's address", async || {
        let connected = tokio::net::TcpStream::connect((NODE, node.port)).await;
        connected.is_err().then_some(())
    })
    .await;
    assert_eq!(localhost.get(MAPS).await?.status, 200);
    node.break_spillway(false);
    go_on(&seen).await;
    let _ = (
        seen.retries.swap(0, Ordering::SeqCst),
        seen.longest.swap(0, Ordering::SeqCst),
    );

    let (code, took, _) = script(&node, &["back"]).await?;
    assert_eq!(code, Some(0));
    go_on(&seen).await;
    let back = (
        took,
        seen.retries.load(Ordering::SeqCst),
        seen.longest.load(Ordering::SeqCst),
    );
    assert_published(&node, &admin).await;
    assert_eq!(
        std::fs::read_to_string(&manifest)?,
        before,
        "the manifest is the one from before"
    );
    assert!(
        metric(&node, "spillway").await.is_none(),
        "Spillway still runs"
    );
    assert_eq!(script(&node, &["back"]).await?.0, Some(0));

    stop.store(true, Ordering::SeqCst);
    tokio::time::timeout(2 * PATIENCE, worker).await??;
    tokio::time::timeout(2 * PATIENCE, watcher).await??;
    seen.assert_nothing_wrong();
    let (created, events) = seen.counts();
    assert_eq!(created, events, "changes made and changes seen");
    eprintln!(
        "{created} changes, {} times everything was read",
        seen.lists.load(Ordering::SeqCst)
    );
    for (way, (took, retries, longest)) in [("forward", forward), ("back", back)] {
        eprintln!(
            "{way}: {took:?}; {retries} calls made again; the longest operation took {longest} ms"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_over_that_does_not_come_up_is_undone() -> Result<()> {
    let Some(node) = tokio::task::spawn_blocking(Node::start).await?? else {
        return Ok(());
    };
    let manifest = node.manifests().join("kube-apiserver.yaml");
    let before = std::fs::read_to_string(&manifest)?;
    node.break_spillway(true);
    let mut command = node.take_over(&["forward"]);
    let output =
        tokio::time::timeout(FIVE_MINUTES, command.env("PATIENCE", "30").output()).await??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("FAIL listening.spillway"), "{said}");
    assert_eq!(std::fs::read_to_string(&manifest)?, before);
    assert!(!node.manifests().join("spillway.yaml").exists());
    let admin = client(&node, &NODE.to_string(), "super-admin.conf")?;
    until("the server is on the node's address again", async || {
        (admin.get("/readyz").await.ok()?.status == 200).then_some(())
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_not_ready_for_it_is_not_touched() -> Result<()> {
    let Some(node) = tokio::task::spawn_blocking(Node::start).await?? else {
        return Ok(());
    };
    let manifest = node.manifests().join("kube-apiserver.yaml");
    let before = std::fs::read_to_string(&manifest)?;
    // The front-proxy certificate would not be believed.
    let wrong = before.replace(
        "allowed-names=front-proxy-client",
        "allowed-names=aggregator",
    );
    let copy = node.dir.path().join("elsewhere");
    std::fs::create_dir(&copy)?;
    std::fs::write(copy.join("kube-apiserver.yaml"), &wrong)?;
    let mut command = node.take_over(&["forward"]);
    let output = command.env("MANIFESTS", &copy).output().await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("FAIL certificates.front-proxy"), "{said}");
    assert_eq!(
        std::fs::read_to_string(copy.join("kube-apiserver.yaml"))?,
        wrong
    );
    assert_eq!(std::fs::read_dir(&copy)?.count(), 1);
    Ok(())
}
