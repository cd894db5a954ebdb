//! Who takes part: every client with the identity it has in a real cluster.
//!
//! Nodes and core components get client certificates of the cluster's
//! authority, everybody else a service-account token by TokenRequest, bound to a
//! pod where a pod would have it. In a cluster that existed before there is no
//! authority to sign with: there, service accounts in a namespace of our own
//! stand in for nodes and components, and rules in Spillway's configuration give
//! them the classes of those they stand in for.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::objects;
use super::upstream::Upstream;
use crate::control_plane::{ApiClient, Auth, client_certificate};

/// Certificates and tokens outlive the longest run.
const VALIDITY: Duration = Duration::from_secs(6 * 3600);
/// Requests under way while the stage is set.
const WIDTH: usize = 16;

/// Where the storm comes from.
pub(crate) const TELEMETRY: &str = "telemetry";
/// Where ordinary work goes on.
pub(crate) const SHOP: &str = "shop";
/// The one namespace of our own in a cluster that existed before.
pub(crate) const OWN: &str = "spillway-demo";
/// On everything the demonstration creates.
pub(crate) const LABEL: &str = "spillway-demo";

const CONFLICT: u16 = 409;

/// Objects of each small kind that ordinary work is done on.
pub(crate) const SMALL: usize = 20;

/// A kubelet.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) auth: Auth,
    /// Path of its lease.
    pub(crate) lease: String,
    /// Path it writes its status to.
    pub(crate) status: String,
    /// Path of an object of its own: the telemetry agent's pod.
    pub(crate) pod: String,
    /// Path of that object's status.
    pub(crate) pod_status: String,
}

/// A component that keeps a lease as the leader.
#[derive(Debug, Clone)]
pub(crate) struct Leader {
    pub(crate) auth: Auth,
    pub(crate) lease: String,
}

/// Everybody.
#[derive(Debug, Clone)]
pub(crate) struct Cast {
    /// Stand-ins instead of nodes and components.
    pub(crate) stand_ins: bool,
    /// Where ordinary work goes on.
    pub(crate) shop: &'static str,
    pub(crate) nodes: Vec<Node>,
    pub(crate) leaders: Vec<Leader>,
    pub(crate) manager: Auth,
    pub(crate) deployments: Auth,
    pub(crate) slices: Auth,
    pub(crate) dns: Auth,
    pub(crate) person: Auth,
    pub(crate) operator: Auth,
    pub(crate) orders: Auth,
    pub(crate) agents: Vec<Auth>,
    /// Path of the DaemonSet that is the culprit.
    pub(crate) daemon_set: String,
    /// What the culprit LISTs, again and again.
    pub(crate) bulk_path: &'static str,
}

/// Creates what they need and hands out their credentials.
pub(crate) async fn assemble(
    upstream: &Upstream,
    nodes: usize,
    agents: usize,
) -> anyhow::Result<Cast> {
    let admin = upstream.endpoint.client(&upstream.admin)?;
    if upstream.is_existing() {
        stand_ins(&admin, nodes, agents).await
    } else {
        real_ones(upstream, &admin, nodes, agents).await
    }
}

async fn real_ones(
    upstream: &Upstream,
    admin: &ApiClient,
    nodes: usize,
    agents: usize,
) -> anyhow::Result<Cast> {
    for namespace in [TELEMETRY, SHOP] {
        create(admin, "/api/v1/namespaces", &objects::namespace(namespace)).await?;
    }
    for (namespace, account) in [
        (TELEMETRY, "telemetry-agent"),
        (TELEMETRY, "default"),
        (SHOP, "orders"),
        (SHOP, "default"),
        ("kube-system", "coredns"),
        ("kube-system", "deployment-controller"),
        ("kube-system", "endpointslice-controller"),
    ] {
        account_exists(admin, namespace, account).await?;
    }
    let readers = [(TELEMETRY, "telemetry-agent"), ("kube-system", "coredns")];
    grant(admin, "readers", objects::reader_rules(), &readers).await?;
    grant(
        admin,
        "orders",
        objects::writer_rules(),
        &[(SHOP, "orders")],
    )
    .await?;
    small_objects(admin, SHOP).await?;

    let sign = |name: &str, groups: &[&str]| {
        client_certificate(&upstream.pki, name, groups, VALIDITY).map(Auth::Certificate)
    };
    let mut cast_nodes = Vec::new();
    for index in 0..nodes {
        let name = format!("demo-node-{index}");
        cast_nodes.push(Node {
            auth: sign(&format!("system:node:{name}"), &["system:nodes"])?,
            lease: format!("{LEASES}/kube-node-lease/leases/{name}"),
            status: format!("/api/v1/nodes/{name}/status"),
            pod: format!("/api/v1/namespaces/{TELEMETRY}/pods/telemetry-agent-{index}"),
            pod_status: format!(
                "/api/v1/namespaces/{TELEMETRY}/pods/telemetry-agent-{index}/status"
            ),
        });
    }
    let mut leaders = Vec::new();
    for name in ["kube-controller-manager", "kube-scheduler"] {
        let leases = format!("{LEASES}/kube-system/leases");
        create(admin, &leases, &objects::lease(name)).await?;
        leaders.push(Leader {
            auth: sign(&format!("system:{name}"), &[])?,
            lease: format!("{leases}/{name}"),
        });
    }
    let tokens = each(nodes.max(agents), |index| {
        let admin = admin.clone();
        async move {
            if index < nodes {
                let name = format!("demo-node-{index}");
                create(&admin, "/api/v1/nodes", &objects::node(&name)).await?;
                let leases = format!("{LEASES}/kube-node-lease/leases");
                create(&admin, &leases, &objects::lease(&name)).await?;
            }
            let node = format!("demo-node-{}", index % nodes.max(1));
            let pod = format!("telemetry-agent-{index}");
            let pods = format!("/api/v1/namespaces/{TELEMETRY}/pods");
            create(&admin, &pods, &objects::agent_pod(&pod, &node)).await?;
            bound_token(&admin, TELEMETRY, "telemetry-agent", Some(&pod)).await
        }
    })
    .await?;
    Ok(Cast {
        stand_ins: false,
        shop: SHOP,
        nodes: cast_nodes,
        leaders,
        manager: sign("system:kube-controller-manager", &[])?,
        deployments: bound_token(admin, "kube-system", "deployment-controller", None).await?,
        slices: bound_token(admin, "kube-system", "endpointslice-controller", None).await?,
        dns: bound_token(admin, "kube-system", "coredns", None).await?,
        person: upstream.operator.clone(),
        operator: upstream.operator.clone(),
        orders: bound_token(admin, SHOP, "orders", None).await?,
        agents: tokens.into_iter().take(agents).collect(),
        daemon_set: format!("/apis/apps/v1/namespaces/{TELEMETRY}/daemonsets/telemetry-agent"),
        bulk_path: "/api/v1/pods",
    })
}

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces";

async fn stand_ins(admin: &ApiClient, nodes: usize, agents: usize) -> anyhow::Result<Cast> {
    create(admin, "/api/v1/namespaces", &objects::namespace(OWN)).await?;
    for account in STAND_INS {
        account_exists(admin, OWN, account).await?;
    }
    let accounts = STAND_INS.map(|account| (OWN, account));
    grant(admin, "stand-ins", objects::stand_in_rules(), &accounts).await?;
    small_objects(admin, OWN).await?;
    let leases = format!("{LEASES}/{OWN}/leases");
    let maps = format!("/api/v1/namespaces/{OWN}/configmaps");
    each(nodes, |index| {
        let (admin, leases, maps) = (admin.clone(), leases.clone(), maps.clone());
        async move {
            create(&admin, &leases, &objects::lease(&format!("node-{index}"))).await?;
            create(&admin, &leases, &objects::lease(&format!("status-{index}"))).await?;
            create(&admin, &maps, &objects::settings(&format!("pod-{index}"))).await
        }
    })
    .await?;
    for name in ["controller-manager", "scheduler"] {
        create(admin, &leases, &objects::lease(name)).await?;
    }
    let token = |account: &'static str| bound_token(admin, OWN, account, None);
    let kubelet = token("kubelet").await?;
    let controllers = token("controllers").await?;
    let agent = token("telemetry-agent").await?;
    Ok(Cast {
        stand_ins: true,
        shop: OWN,
        nodes: (0..nodes)
            .map(|index| Node {
                auth: kubelet.clone(),
                lease: format!("{leases}/node-{index}"),
                status: format!("{leases}/status-{index}"),
                pod: format!("{maps}/pod-{index}"),
                pod_status: format!("{maps}/pod-{index}"),
            })
            .collect(),
        leaders: ["controller-manager", "scheduler"]
            .map(|name| Leader {
                auth: controllers.clone(),
                lease: format!("{leases}/{name}"),
            })
            .to_vec(),
        manager: controllers.clone(),
        deployments: controllers.clone(),
        slices: controllers,
        dns: token("dns").await?,
        person: token("person").await?,
        operator: token("operator").await?,
        orders: token("orders").await?,
        agents: vec![agent; agents],
        daemon_set: format!("/apis/apps/v1/namespaces/{OWN}/daemonsets/telemetry-agent"),
        bulk_path: "/api/v1/configmaps",
    })
}

/// The service accounts of [`OWN`].
pub(crate) const STAND_INS: [&str; 8] = [
    "kubelet",
    "controllers",
    "dns",
    "person",
    "operator",
    "orders",
    "telemetry-agent",
    "default",
];

/// What ordinary work is done on.
async fn small_objects(admin: &ApiClient, namespace: &str) -> anyhow::Result<()> {
    let core = format!("/api/v1/namespaces/{namespace}");
    for index in 0..SMALL {
        let name = format!("orders-{index}");
        create(
            admin,
            &format!("{core}/configmaps"),
            &objects::settings(&name),
        )
        .await?;
        create(admin, &format!("{core}/services"), &objects::service(&name)).await?;
        let replicas = format!("/apis/apps/v1/namespaces/{namespace}/replicasets");
        create(admin, &replicas, &objects::replica_set(&name)).await?;
        let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
        create(admin, &slices, &objects::endpoint_slice(&name, 0)).await?;
    }
    Ok(())
}

/// Creates an object unless it is there.
pub(crate) async fn create(admin: &ApiClient, path: &str, object: &Value) -> anyhow::Result<()> {
    let action = format!("creating {} at {path}", object["kind"]);
    admin
        .post(path, object)
        .await?
        .accept(&action, &[CONFLICT])?;
    Ok(())
}

pub(crate) async fn account_exists(
    admin: &ApiClient,
    namespace: &str,
    name: &str,
) -> anyhow::Result<()> {
    let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    create(admin, &accounts, &objects::service_account(name)).await
}

/// Gives service accounts a cluster role of their own.
pub(crate) async fn grant(
    admin: &ApiClient,
    name: &str,
    rules: Value,
    accounts: &[(&str, &str)],
) -> anyhow::Result<()> {
    const GROUP: &str = "/apis/rbac.authorization.k8s.io/v1";
    let name = format!("spillway-demo-{name}");
    let (role, binding) = objects::cluster_role(&name, rules, accounts);
    create(admin, &format!("{GROUP}/clusterroles"), &role).await?;
    create(admin, &format!("{GROUP}/clusterrolebindings"), &binding).await
}

/// A token by TokenRequest.
pub(crate) async fn bound_token(
    admin: &ApiClient,
    namespace: &str,
    account: &str,
    pod: Option<&str>,
) -> anyhow::Result<Auth> {
    let mut spec = json!({ "expirationSeconds": VALIDITY.as_secs() });
    if let Some(pod) = pod {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let found = admin
            .get(&path)
            .await?
            .accept(&format!("reading {path}"), &[])?;
        spec["boundObjectRef"] = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "name": pod,
            "uid": found.json()["metadata"]["uid"],
        });
    }
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": spec,
    });
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let action = format!("asking for a token of {namespace}/{account}");
    let answer = admin.post(&path, &request).await?.accept(&action, &[])?;
    let answer = answer.json();
    let token = answer["status"]["token"].as_str();
    Ok(Auth::Token(
        token
            .with_context(|| format!("{action}: none in the answer"))?
            .to_owned(),
    ))
}

/// Does something for every index below `count`, a few at a time; results in
/// order.
pub(crate) async fn each<Make, Work, T>(count: usize, make: Make) -> anyhow::Result<Vec<T>>
where
    Make: Fn(usize) -> Work,
    Work: Future<Output = anyhow::Result<T>> + Send + 'static,
    T: Send + 'static,
{
    let width = Arc::new(Semaphore::new(WIDTH));
    let mut tasks = JoinSet::new();
    for index in 0..count {
        let turn = width.clone().acquire_owned().await?;
        let work = make(index);
        tasks.spawn(async move {
            let done = work.await;
            drop(turn);
            (index, done)
        });
    }
    let mut results = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        let (index, result) = done?;
        results.push((index, result?));
    }
    results.sort_unstable_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}
