//! A policy that kubectl applies as a ConfigMap, on a real server, and what an outage does to it.

use std::path::Path;

use anyhow::{Result, ensure};
use config::{FromCluster, Mode};
use load_tests::control_plane::{Auth, ControlPlane, Kubeconfig, Who, write_kubeconfig};

use crate::support::{HOUR, Kubectl, Proxy, TestDir, own_plane, until};

const RBAC: &str = include_str!("../../../deploy/rbac.yaml");
const EXAMPLE: &str = include_str!("../../../deploy/policy/config-map.yaml");

/// Puts a person among the anonymous.
const MOVES: &str = "rules: [{ name: jane-last, class: unattributed, when: { users: [jane] } }]";
/// Reaches for what is not a policy's.
const REACHES: &str = "rules: [{ name: up, class: life-signs, when: { users: [jane] } }]";

fn config_map(policy: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: spillway-policy, namespace: kube-system }}\n\
         data:\n  policy.yaml: |\n    {policy}\n"
    )
}

fn proxy(plane: &ControlPlane, dir: &TestDir) -> Result<Proxy> {
    let file = dir.path().join("policy.json");
    Proxy::with(plane, |config| {
        config.admission.mode = Mode::Enforce;
        config.policy.file = Some(file);
        config.policy.from_cluster = Some(FromCluster::default());
    })
}

/// Starting and stopping block.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

async fn value(proxy: &Proxy, name: &str, label: &str) -> f64 {
    match proxy.metrics().await {
        Ok(metrics) => metrics.sum(name, &[label]),
        Err(_) => f64::NAN,
    }
}

async fn digest(proxy: &Proxy) -> f64 {
    value(proxy, "spillway_policy_digest", "policy=\"current\"").await
}

async fn updates(proxy: &Proxy, result: &str) -> f64 {
    let label = format!("result=\"{result}\"");
    value(proxy, "spillway_policy_cluster_updates_total", &label).await
}

/// Whether jane's requests are of the class of the anonymous.
async fn is_last(proxy: &Proxy, jane: &Auth) -> Result<bool> {
    let count = async || value(proxy, "spillway_requests_total", "class=\"unattributed\"").await;
    let before = count().await;
    proxy.client(jane.clone())?.get("/version").await?;
    let all = value(proxy, "spillway_requests_total", "lane=\"main\"").await;
    ensure!(all > 0.0);
    Ok(count().await > before)
}

async fn apply(kubectl: &Kubectl, admin: &Path, text: &str) -> Result<()> {
    let applied = kubectl.run(admin, &["apply", "-f", "-"], text).await?;
    ensure!(applied.code == Some(0), "{}", applied.stderr);
    Ok(())
}

#[tokio::test]
async fn a_config_map_steers_the_proxy_and_neither_mistakes_nor_outages_lose_its_policy()
-> Result<()> {
    let (Some(plane), Some(kubectl)) = (own_plane(), Kubectl::find()?) else {
        return Ok(());
    };
    let dir = TestDir::new()?;
    let admin = dir.path().join("admin.conf");
    let credentials = Kubeconfig::read(&plane.kubeconfig(Who::SuperAdmin))?.auth;
    write_kubeconfig(&admin, plane.server(), None, &plane.ca_pem()?, &credentials)?;
    let jane = Auth::Certificate(plane.client_certificate("jane", &["people"], HOUR)?);

    let running = proxy(&plane, &dir)?;
    apply(&kubectl, &admin, &config_map(MOVES)).await?;
    ensure!(
        updates(&running, "applied").await == 0.0,
        "nobody may read it yet"
    );
    apply(&kubectl, &admin, RBAC).await?;
    until("the policy is taken", async || {
        (digest(&running).await > 0.0).then_some(())
    })
    .await;
    assert!(is_last(&running, &jane).await?);
    let taken = digest(&running).await;

    apply(&kubectl, &admin, &config_map(REACHES)).await?;
    until("the mistake is refused", async || {
        (updates(&running, "refused").await == 1.0).then_some(())
    })
    .await;
    assert_eq!(digest(&running).await, taken);
    let deleted = [
        "delete",
        "configmap",
        "-n",
        "kube-system",
        "spillway-policy",
    ];
    assert_eq!(kubectl.run(&admin, &deleted, "").await?.code, Some(0));
    assert!(is_last(&running, &jane).await?);

    // The server is away, and the proxy starts anew.
    let plane = on_a_thread(move || {
        let mut plane = plane;
        drop(running);
        plane.stop();
        plane
    })
    .await?;
    let running = proxy(&plane, &dir)?;
    assert_eq!(
        digest(&running).await,
        taken,
        "from the disk, before anything else"
    );
    assert!(
        is_last(&running, &jane).await?,
        "refused by the outage, but judged"
    );

    // Back, the shipped example: another policy, and a candidate in shadow.
    let plane = on_a_thread(move || {
        let mut plane = plane;
        plane.restart().map(|()| plane)
    })
    .await??;
    apply(&kubectl, &admin, EXAMPLE).await?;
    until("the example is taken", async || {
        let shadow = value(&running, "spillway_policy_stage", "stage=\"shadow\"").await;
        (shadow == 1.0 && digest(&running).await != taken).then_some(())
    })
    .await;
    assert!(!is_last(&running, &jane).await?);
    drop(plane);
    Ok(())
}
