//! A policy that comes as a ConfigMap, on a real server: from stage to stage, and over mistakes and outages.

use std::path::Path;

use anyhow::{Result, ensure};
use load_tests::control_plane::{ApiClient, Auth, ControlPlane, Who};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{HOUR, Kubectl, ProxyProcess, TestDir, own_plane, spillway, until};

const RBAC: &str = include_str!("../../../deploy/rbac.yaml");
const EXAMPLE: &str = include_str!("../../../deploy/policy/config-map.yaml");

const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";
const CONFIG_MAP: &str = "/api/v1/namespaces/kube-system/configmaps/spillway-policy";
const EVENTS: &str = "/api/v1/namespaces/kube-system/events";

/// Puts a person among the anonymous.
const MOVES: &str = "rules: [{ name: jane-last, class: unattributed, when: { users: [jane] } }]\n";
/// Reaches for what is not a policy's.
const REACHES: &str = "rules:\n  - { name: up, class: life-signs, when: { users: [jane] } }\n";

/// What a proxy is told of policies.
fn sections(dir: &TestDir) -> String {
    let file = dir.path().join("kept/policy.json");
    format!(
        "policy: {{ file: {}, from_cluster: {{ namespace: kube-system, name: spillway-policy }} }}\n\
         admission: {{ mode: enforce, culprit_events: kube-system }}\n",
        file.display()
    )
}

async fn kubectl(kubectl: &Kubectl, admin: &Path, arguments: &[&str], input: &str) -> Result<()> {
    let ran = kubectl.run(admin, arguments, input).await?;
    ensure!(ran.code == Some(0), "{arguments:?}: {}", ran.stderr);
    Ok(())
}

/// Writes the ConfigMap, whether or not it is there.
async fn write(admin: &ApiClient, data: Value) -> Result<()> {
    let object = json!({ "metadata": { "name": "spillway-policy" }, "data": data });
    let found = admin.put(CONFIG_MAP, &object).await?;
    if found.status == 404 {
        admin
            .post(CONFIG_MAPS, &object)
            .await?
            .accept("creating", &[])?;
    } else {
        found.accept("replacing", &[])?;
    }
    Ok(())
}

async fn status(dir: &TestDir) -> Result<Value> {
    spillway(dir, &["policy", "status"]).await
}

/// `spillway policy status`, once it `holds`.
async fn once(dir: &TestDir, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    until(what, async || {
        let page = status(dir).await.ok()?;
        holds(&page).then_some(page)
    })
    .await
}

/// Waits for what `spillway policy status` says is wrong with the ConfigMap.
async fn problem(dir: &TestDir, text: &str) -> String {
    let said = |page: &Value| page["from_cluster"]["problem"].as_str().map(str::to_owned);
    let page = once(dir, text, |page| {
        said(page).is_some_and(|problem| problem.contains(text))
    })
    .await;
    said(&page).unwrap_or_default()
}

/// Whether a request of jane's is put among those of the anonymous. `answer`: what becomes of it.
async fn is_last(proxy: &ProxyProcess, jane: &Auth, answer: u16) -> Result<bool> {
    const COUNTED: &str = "spillway_requests_total";
    let before = proxy.metrics().await?;
    let got = proxy.client(jane.clone())?.get("/version").await?;
    ensure!(got.status == answer, "{}: {}", got.status, got.json());
    let all = ["lane=\"main\""];
    let after = until("the request is counted", async || {
        let now = proxy.metrics().await.ok()?;
        (now.sum(COUNTED, &all) > before.sum(COUNTED, &all)).then_some(now)
    })
    .await;
    let last = ["class=\"unattributed\""];
    Ok(after.sum(COUNTED, &last) > before.sum(COUNTED, &last))
}

/// Starting and stopping block.
async fn on_a_thread(
    mut plane: ControlPlane,
    work: fn(&mut ControlPlane) -> Result<()>,
) -> Result<ControlPlane> {
    tokio::task::spawn_blocking(move || work(&mut plane).map(|()| plane)).await?
}

#[tokio::test]
async fn a_config_map_steers_the_proxy_and_neither_mistakes_nor_outages_lose_its_policy()
-> Result<()> {
    let (Some(plane), Some(program)) = (own_plane(), Kubectl::find()?) else {
        return Ok(());
    };
    let dir = TestDir::new()?;
    let root = plane.kubeconfig(Who::SuperAdmin);
    let admin = plane.client(Who::SuperAdmin)?;
    let jane = Auth::Certificate(plane.client_certificate("jane", &["people"], HOUR)?);
    let mut proxy = ProxyProcess::with_socket(&plane, &dir, None, &sections(&dir)).await?;
    let addresses = Some((proxy.main, proxy.admin));

    // Nobody has allowed it to read; then as docs/policies.md and docs/limits.md say.
    problem(&dir, "deploy/rbac.yaml").await;
    let role = "-n kube-system create role spillway-events --verb=create --resource=events";
    let binding = "-n kube-system create rolebinding spillway-events --role=spillway-events --user=system:spillway";
    write(
        &admin,
        json!({ "policy.yaml": "", "candidate.yaml": MOVES, "stage": "shadow" }),
    )
    .await?;
    kubectl(&program, &root, &["apply", "-f", "-"], RBAC).await?;
    for command in [role, binding] {
        let words: Vec<_> = command.split(' ').collect();
        kubectl(&program, &root, &words, "").await?;
    }

    once(&dir, "in shadow", |page| page["stage"] == "shadow").await;
    assert!(
        !is_last(&proxy, &jane, 200).await?,
        "nobody is judged by it"
    );
    let diff = spillway(&dir, &["policy", "diff"]).await?;
    assert_eq!(diff["tenants"][0]["tenant"], "jane", "{diff}");
    assert_eq!(diff["tenants"][0]["to"], "unattributed", "{diff}");
    write(
        &admin,
        json!({ "policy.yaml": "", "candidate.yaml": MOVES, "stage": "100%" }),
    )
    .await?;
    once(&dir, "for everybody", |page| page["stage"] == "percent").await;
    assert!(is_last(&proxy, &jane, 200).await?);
    write(&admin, json!({ "policy.yaml": MOVES })).await?;
    let page = once(&dir, "promoted", |page| page["stage"] == "watched").await;
    let taken = page["current"]["digest"].clone();
    assert_eq!(page["kept"], true, "{page}");
    assert!(is_last(&proxy, &jane, 200).await?);

    // A mistake: refused whole, with the place, and told where people look. The policy stays.
    write(&admin, json!({ "policy.yaml": REACHES })).await?;
    let said = problem(&dir, "life-signs").await;
    assert!(said.contains("policy.yaml:2:"), "{said}");
    let event = until("an Event tells of it", async || {
        let list = admin.get(EVENTS).await.ok()?.json();
        let mut events = list["items"].as_array()?.iter();
        events
            .find(|event| event["reason"] == "PolicyRefused")
            .cloned()
    })
    .await;
    assert_eq!(
        event["involvedObject"]["name"], "spillway-policy",
        "{event}"
    );
    assert!(
        event["message"].to_string().contains("life-signs"),
        "{event}"
    );
    assert_eq!(status(&dir).await?["current"]["digest"], taken);
    assert!(is_last(&proxy, &jane, 200).await?);
    let metrics = proxy.metrics().await?;
    assert_eq!(metrics.sum("spillway_policy_cluster_up", &[]), 0.0);

    // Nor does it go with the object.
    admin.delete(CONFIG_MAP).await?.accept("deleting", &[])?;
    problem(&dir, "no such ConfigMap").await;
    assert!(is_last(&proxy, &jane, 200).await?);

    // The server is away, and the proxy starts anew.
    proxy.signal(Signal::TERM)?;
    proxy.ended().await?;
    let plane = on_a_thread(plane, |plane| {
        plane.stop();
        Ok(())
    })
    .await?;
    let proxy = ProxyProcess::with_socket(&plane, &dir, addresses, &sections(&dir)).await?;
    let page = status(&dir).await?;
    assert_eq!(page["current"]["digest"], taken, "{page}");
    assert!(
        is_last(&proxy, &jane, 503).await?,
        "judged by what is on disk"
    );

    // Back, with the shipped example: another policy, and a candidate in shadow.
    let plane = on_a_thread(plane, |plane| Ok(plane.restart()?)).await?;
    kubectl(&program, &root, &["apply", "-f", "-"], EXAMPLE).await?;
    let page = once(&dir, "the example is taken", |page| {
        page["stage"] == "shadow"
    })
    .await;
    assert_ne!(page["current"]["digest"], taken, "{page}");
    until("the server is back", async || {
        is_last(&proxy, &jane, 200).await.ok().filter(|last| !last)
    })
    .await;
    drop(plane);
    Ok(())
}
