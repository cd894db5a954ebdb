//! Filling a control plane with objects, fast.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{ApiClient, Error, accounts};

/// The status of a POST of something that is already there.
const CONFLICT: u16 = 409;

/// What to fill it with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedKind {
    /// ConfigMaps with one long value.
    ConfigMaps,
    /// Pods like those of a Deployment, spread over made-up nodes; no kubelet
    /// picks them up.
    Pods,
}

/// How much of it. The objects are named by their index, so seeding again adds
/// only what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeedPlan {
    /// The kind of object.
    pub kind: SeedKind,
    /// Over how many namespaces (`seed-0`, `seed-1`, ...), at least one.
    pub namespaces: usize,
    /// How many objects, in all namespaces together.
    pub count: usize,
    /// How large each is as JSON when it is sent, bytes; about, and at least as
    /// large as its kind is by nature (about 2 kB for a pod). The server adds
    /// metadata of its own.
    pub bytes_each: usize,
    /// How many requests to keep under way; beyond the 100 streams of a
    /// connection they wait.
    pub concurrency: usize,
}

/// What seeding came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeedReport {
    /// Objects created, without those that were there.
    pub created: usize,
    /// How long it took.
    pub elapsed: Duration,
}

impl SeedReport {
    /// Objects created per second.
    pub fn rate(&self) -> f64 {
        self.created as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

/// Creates the objects of a plan, calling `progress` with how many are done
/// about a hundred times on the way. Use [`super::Who::SuperAdmin`], whom
/// priority and fairness does not hold back.
///
/// # Errors
/// At the first object the server does not take.
pub async fn seed(
    client: &ApiClient,
    plan: SeedPlan,
    mut progress: impl FnMut(usize),
) -> Result<SeedReport, Error> {
    let started = Instant::now();
    let namespaces = plan.namespaces.max(1);
    for namespace in 0..namespaces.min(plan.count) {
        let name = namespace_name(namespace);
        accounts::ensure_namespace(client, &name).await?;
        accounts::ensure_service_account(client, &name, "default").await?;
    }
    let next = Arc::new(AtomicUsize::new(0));
    let created = Arc::new(AtomicUsize::new(0));
    // One report per object; the workers wait when nobody reads them.
    let (done, mut reports) = tokio::sync::mpsc::channel(1024);
    let mut workers: JoinSet<Result<(), Error>> = JoinSet::new();
    for _ in 0..plan.concurrency.clamp(1, plan.count.max(1)) {
        let (client, next, created, done) =
            (client.clone(), next.clone(), created.clone(), done.clone());
        workers.spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= plan.count {
                    return Ok(());
                }
                if create(&client, plan, namespaces, index).await? {
                    created.fetch_add(1, Ordering::Relaxed);
                }
                let _ = done.send(()).await;
            }
        });
    }
    drop(done);
    let step = (plan.count / 100).max(1);
    let mut finished = 0;
    while reports.recv().await.is_some() {
        finished += 1;
        if finished % step == 0 || finished == plan.count {
            progress(finished);
        }
    }
    while let Some(worker) = workers.join_next().await {
        worker.map_err(|error| Error::Client(format!("a seeding task ended: {error}")))??;
    }
    Ok(SeedReport {
        created: created.load(Ordering::Relaxed),
        elapsed: started.elapsed(),
    })
}

fn namespace_name(index: usize) -> String {
    format!("seed-{index}")
}

/// Whether the object was created, and not there already.
async fn create(
    client: &ApiClient,
    plan: SeedPlan,
    namespaces: usize,
    index: usize,
) -> Result<bool, Error> {
    let namespace = namespace_name(index % namespaces);
    let (resource, object) = match plan.kind {
        SeedKind::ConfigMaps => ("configmaps", config_map(index, plan.bytes_each)),
        SeedKind::Pods => ("pods", pod(index, plan.bytes_each)),
    };
    let path = format!("/api/v1/namespaces/{namespace}/{resource}");
    let answer = client.post(&path, &object).await?;
    let status = answer.status;
    answer.accept(&format!("creating object {index} in {path}"), &[CONFLICT])?;
    Ok(status != CONFLICT)
}

fn config_map(index: usize, bytes: usize) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": format!("settings-{index}"),
            "labels": { "app": application(index), "part-of": "seed" },
        },
        "data": { "settings": "" },
    });
    let missing = bytes.saturating_sub(object.to_string().len());
    object["data"]["settings"] = Value::from(filler(index, missing));
    object
}

fn pod(index: usize, bytes: usize) -> Value {
    let app = application(index);
    let hash = format!("{:08x}", (index as u32).wrapping_mul(0x9e37_79b9));
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("{app}-{hash}-{index}"),
            "labels": {
                "app.kubernetes.io/name": app,
                "app.kubernetes.io/instance": format!("{app}-production"),
                "app.kubernetes.io/managed-by": "seed",
                "pod-template-hash": hash,
                "tier": if index.is_multiple_of(3) { "backend" } else { "frontend" },
            },
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": "8080",
                "seed/padding": "",
            },
            "ownerReferences": [{
                "apiVersion": "apps/v1",
                "kind": "ReplicaSet",
                "name": format!("{app}-{hash}"),
                "uid": format!("00000000-0000-4000-8000-{index:012x}"),
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "nodeName": format!("node-{}", index % 200),
            "serviceAccountName": "default",
            "terminationGracePeriodSeconds": 30,
            "containers": [container(&app), sidecar()],
            "volumes": [
                { "name": "settings", "configMap": { "name": format!("{app}-settings") } },
                { "name": "scratch", "emptyDir": { "sizeLimit": "256Mi" } },
            ],
            "tolerations": [{
                "key": "dedicated", "operator": "Equal", "value": app, "effect": "NoSchedule",
            }],
        },
    });
    let missing = bytes.saturating_sub(object.to_string().len());
    object["metadata"]["annotations"]["seed/padding"] = Value::from(filler(index, missing));
    object
}

fn container(app: &str) -> Value {
    json!({
        "name": "main",
        "image": format!("registry.invalid/shop/{app}:v2.14.3"),
        "args": ["--listen=:8080", "--log-format=json", "--shutdown-delay=5s"],
        "env": [
            { "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
            { "name": "POD_IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
            { "name": "DATABASE_URL", "valueFrom": {
                "secretKeyRef": { "name": format!("{app}-database"), "key": "url" } } },
            { "name": "FEATURES", "value": "checkout,search,recommendations" },
        ],
        "ports": [
            { "name": "http", "containerPort": 8080 },
            { "name": "metrics", "containerPort": 9090 },
        ],
        "resources": {
            "requests": { "cpu": "250m", "memory": "256Mi" },
            "limits": { "memory": "512Mi" },
        },
        "readinessProbe": { "httpGet": { "path": "/ready", "port": "http" }, "periodSeconds": 5 },
        "livenessProbe": { "httpGet": { "path": "/live", "port": "http" }, "periodSeconds": 10 },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [
            { "name": "settings", "mountPath": "/etc/settings", "readOnly": true },
            { "name": "scratch", "mountPath": "/tmp" },
        ],
    })
}

fn sidecar() -> Value {
    json!({
        "name": "log-forwarder",
        "image": "registry.invalid/platform/log-forwarder:1.9.0",
        "resources": { "requests": { "cpu": "10m", "memory": "32Mi" } },
        "volumeMounts": [{ "name": "scratch", "mountPath": "/logs" }],
    })
}

/// One of 50 applications.
fn application(index: usize) -> String {
    format!("app-{:02}", index % 50)
}

/// Text that does not compress to nothing and is the same for the same index.
fn filler(index: usize, bytes: usize) -> String {
    let mut random = fastrand::Rng::with_seed(index as u64);
    (0..bytes).map(|_| random.alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_as_large_as_asked() {
        for (index, bytes) in [(0, 3000), (17, 4000), (49_999, 3500)] {
            assert_eq!(config_map(index, bytes).to_string().len(), bytes);
            assert_eq!(pod(index, bytes).to_string().len(), bytes);
        }
    }

    #[test]
    fn a_pod_is_about_two_kilobytes_by_nature() {
        let bytes = pod(1234, 0).to_string().len();
        assert!((1500..3000).contains(&bytes), "{bytes} bytes");
    }

    #[test]
    fn seeding_again_makes_the_same_objects() {
        assert_eq!(pod(7, 3000), pod(7, 3000));
        assert_ne!(pod(7, 3000), pod(8, 3000));
    }
}
