//! kube-rs: single objects, watchers and stores, server-side apply, exec.

use std::path::Path;
use std::pin::pin;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{
    Api, AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Client, Config, ResourceExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Cluster, Identity, NODE};
use crate::support::{PATIENCE, until};

/// How many objects a store is to hold.
const OBJECTS: usize = 25;

async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn config_map(name: &str, data: Value) -> Result<ConfigMap> {
    let metadata = json!({ "name": name, "labels": { "made-by": "kube-rs" } });
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data,
    }))?)
}

/// How a call was refused.
fn refusal<T>(result: kube::Result<T>) -> Value {
    match result {
        Err(kube::Error::Api(status)) => json!([status.code, status.reason, status.message]),
        Err(other) => json!(other.to_string()),
        Ok(_) => Value::Null,
    }
}

async fn single_objects(api: &Api<ConfigMap>) -> Result<Vec<Value>> {
    let post = PostParams::default();
    let mut created = api
        .create(&post, &config_map("one", json!({ "a": "1" }))?)
        .await?;
    let again = refusal(api.create(&post, &config_map("one", json!({}))?).await);
    created.data = Some([("a".to_owned(), "2".to_owned())].into());
    let replaced = api.replace("one", &post, &created).await?;
    // What was read before is not what is there now.
    let stale = api.replace("one", &post, &created).await;
    let stale = refusal(stale)[1].clone();
    let apply = PatchParams::apply("other");
    let patch = Patch::Apply(config_map("one", json!({ "a": "3" }))?);
    let conflict = refusal(api.patch("one", &apply, &patch).await);
    let forced = api.patch("one", &apply.force(), &patch).await?;
    let missing = refusal(api.get("missing").await);
    let deleted = api
        .delete("one", &DeleteParams::default())
        .await?
        .is_right();
    Ok(vec![
        again,
        json!(replaced.data),
        stale,
        conflict,
        json!(forced.data),
        missing,
        json!(deleted),
    ])
}

/// A store that is kept by a watcher while objects come, change and go.
async fn a_store(api: &Api<ConfigMap>, config: watcher::Config) -> Result<Vec<Value>> {
    let (store, writer) = reflector::store();
    let stream = watcher(api.clone(), config.labels("made-by=kube-rs")).default_backoff();
    let reflecting = reflector(writer, stream).for_each(|_| std::future::ready(()));
    let churn = async {
        for i in 0..OBJECTS {
            let name = format!("object-{i}");
            let object = config_map(&name, json!({ "i": i.to_string() }))?;
            api.create(&PostParams::default(), &object).await?;
            let patch = Patch::Merge(json!({ "data": { "changed": "yes" } }));
            api.patch(&name, &PatchParams::default(), &patch).await?;
            if i % 5 == 0 {
                api.delete(&name, &DeleteParams::default()).await?;
            }
        }
        let mut pages = Vec::new();
        let mut truth = Vec::new();
        let mut parameters = ListParams::default().labels("made-by=kube-rs").limit(8);
        loop {
            let page = api.list(&parameters).await?;
            pages.push(page.items.len());
            truth.extend(
                page.items
                    .iter()
                    .map(|map| (map.name_any(), map.resource_version())),
            );
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => break,
            }
        }
        truth.sort();
        until("the store is what a LIST says", async || {
            let held = store.state();
            let mut held: Vec<_> = held
                .iter()
                .map(|map| (map.name_any(), map.resource_version()))
                .collect();
            held.sort();
            (held == truth).then_some(())
        })
        .await;
        anyhow::Ok(vec![json!(pages), json!(truth.len())])
    };
    tokio::select! {
        () = reflecting => anyhow::bail!("the watcher ended"),
        done = churn => done,
    }
}

/// One watch, from a version on.
async fn events(api: &Api<ConfigMap>) -> Result<Vec<Value>> {
    let before = api.list(&ListParams::default()).await?;
    let version = before.metadata.resource_version.context("no version")?;
    let parameters = WatchParams::default()
        .fields("metadata.name=watched")
        .timeout(60);
    let object = config_map("watched", json!({}))?;
    api.create(&PostParams::default(), &object).await?;
    api.delete("watched", &DeleteParams::default()).await?;
    let mut stream = pin!(api.watch(&parameters, &version).await?);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await?;
        seen.push(match event.context("the watch ended")?? {
            WatchEvent::Added(map) => json!(["added", map.name_any()]),
            WatchEvent::Deleted(map) => json!(["deleted", map.name_any()]),
            other => json!(format!("{other:?}")),
        });
    }
    Ok(seen)
}

async fn a_lease(api: &Api<Lease>) -> Result<Vec<Value>> {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": "lease" },
        "spec": { "holderIdentity": "first", "leaseDurationSeconds": 10 },
    });
    let lease: Lease = serde_json::from_value(lease)?;
    api.create(&PostParams::default(), &lease).await?;
    let patch = Patch::Merge(json!({ "spec": { "holderIdentity": "second" } }));
    let taken = api.patch("lease", &PatchParams::default(), &patch).await?;
    let holder = taken.spec.and_then(|spec| spec.holder_identity);
    Ok(vec![json!(holder)])
}

/// Commands in a pod, by WebSocket.
async fn sessions(api: &Api<Pod>) -> Result<Vec<Value>> {
    let mut process = api
        .exec(
            "pod",
            ["report", "to-out", "to-err", "3"],
            &AttachParams::default(),
        )
        .await?;
    let (mut out, mut errors) = (String::new(), String::new());
    let mut stdout = process.stdout().context("no output")?;
    let mut stderr = process.stderr().context("no errors")?;
    let status = process.take_status().context("no status")?;
    stdout.read_to_string(&mut out).await?;
    stderr.read_to_string(&mut errors).await?;
    let status = status.await.context("it did not end")?;
    let said = vec![json!([out, errors, status.message])];
    process.join().await?;

    let parameters = AttachParams::default().stdin(true);
    let mut process = api.exec("pod", ["cat"], &parameters).await?;
    let mut stdin = process.stdin().context("no input")?;
    let mut stdout = process.stdout().context("no output")?;
    let line = b"there and back\n";
    stdin.write_all(line).await?;
    let mut back = vec![0; line.len()];
    stdout.read_exact(&mut back).await?;
    ensure!(back == line, "{back:?}");
    process.abort();
    Ok(said)
}

async fn use_it(kubeconfig: &Path, namespace: &str) -> Result<Vec<Value>> {
    let client = client(kubeconfig).await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut said = vec![json!(client.apiserver_version().await?.git_version)];
    said.extend(single_objects(&maps).await?);
    said.extend(events(&maps).await?);
    said.extend(a_store(&maps, watcher::Config::default()).await?);
    maps.delete_collection(
        &DeleteParams::default(),
        &ListParams::default().labels("made-by=kube-rs"),
    )
    .await?;
    said.extend(a_store(&maps, watcher::Config::default().streaming_lists()).await?);
    said.extend(a_lease(&leases).await?);
    said.extend(sessions(&pods).await?);
    let said = serde_json::to_string(&said)?.replace(namespace, "NAMESPACE");
    Ok(serde_json::from_str(&said)?)
}

async fn it_is_the_same(identity: Identity) -> Result<()> {
    let Some(cluster) = Cluster::start()? else {
        return Ok(());
    };
    let [straight, through] = cluster.ways(identity).await?;
    let (first, second) = (cluster.namespace().await?, cluster.namespace().await?);
    for namespace in [&first, &second] {
        cluster.plane.run_pod(namespace, "pod", NODE).await?;
    }
    let both = async { tokio::try_join!(use_it(&straight, &first), use_it(&through, &second)) };
    let (expected, said) = tokio::time::timeout(3 * PATIENCE, both).await??;
    assert_eq!(said, expected);
    let text = serde_json::to_string(&said)?;
    assert!(
        text.contains("[\"to-out") && text.contains("[8,8,4],20"),
        "{text}"
    );
    assert!(
        text.contains("Conflict") && text.contains("AlreadyExists"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn kube_rs_gets_the_same_with_a_certificate() -> Result<()> {
    it_is_the_same(Identity::Certificate).await
}

#[tokio::test]
async fn kube_rs_gets_the_same_with_a_token() -> Result<()> {
    it_is_the_same(Identity::Token).await
}
