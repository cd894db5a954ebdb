//! The objects of the demonstration.

use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cast::LABEL;

fn labels() -> Value {
    json!({ "app.kubernetes.io/part-of": LABEL })
}

pub(crate) fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name, "labels": labels() },
    })
}

pub(crate) fn service_account(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": name, "labels": labels() },
    })
}

pub(crate) fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": labels() },
    })
}

pub(crate) fn lease(name: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": { "name": name, "labels": labels() },
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": 40,
            "renewTime": micro_time(SystemTime::now()),
        },
    })
}

/// The merge patch that renews a lease.
pub(crate) fn renewal() -> Value {
    json!({ "spec": { "renewTime": micro_time(SystemTime::now()) } })
}

/// The merge patch of a kubelet's heartbeat on its node.
pub(crate) fn heartbeat() -> Value {
    json!({ "status": { "conditions": [{
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "kubelet is posting ready status",
        "lastHeartbeatTime": time(SystemTime::now()),
    }] } })
}

/// The merge patch of a pod's status.
pub(crate) fn pod_ready() -> Value {
    json!({ "status": {
        "phase": "Running",
        "conditions": [{
            "type": "Ready",
            "status": "True",
            "lastProbeTime": time(SystemTime::now()),
        }],
    } })
}

/// A merge patch that changes an annotation.
pub(crate) fn touch(index: u64) -> Value {
    json!({ "metadata": { "annotations": { "spillway-demo/turn": index.to_string() } } })
}

pub(crate) fn settings(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "labels": labels() },
        "data": { "settings": "currency=EUR\nretries=3\n" },
    })
}

/// One of many large objects, for what has to be worth a storm; different text
/// for each index.
pub(crate) fn large_settings(index: usize, bytes: usize) -> Value {
    let mut random = fastrand::Rng::with_seed(index as u64);
    let text: String = (0..bytes).map(|_| random.alphanumeric()).collect();
    let mut object = settings(&format!("bulk-{index}"));
    object["data"]["settings"] = Value::from(text);
    object
}

pub(crate) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "labels": labels() },
        "spec": {
            "clusterIP": "None",
            "selector": { "app": name },
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 }],
        },
    })
}

/// A turn other than the last makes a watch event.
pub(crate) fn endpoint_slice(name: &str, turn: u64) -> Value {
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": { "name": name, "labels": labels() },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [format!("10.1.0.{}", turn % 250 + 1)],
            "conditions": { "ready": true },
        }],
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
    });
    slice["metadata"]["labels"]["kubernetes.io/service-name"] = Value::from(name);
    slice
}

pub(crate) fn replica_set(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": { "name": name, "labels": labels() },
        "spec": {
            "replicas": 0,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "main", "image": "registry.invalid/main:1" }] },
            },
        },
    })
}

/// An event as controllers write them; the name is unique by `turn`.
pub(crate) fn event(namespace: &str, turn: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": format!("orders-0.{turn}"), "labels": labels() },
        "involvedObject": {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "namespace": namespace,
            "name": "orders-0",
        },
        "reason": "SuccessfulCreate",
        "message": "Created pod",
        "type": "Normal",
        "source": { "component": "replicaset-controller" },
        "firstTimestamp": time(SystemTime::now()),
        "lastTimestamp": time(SystemTime::now()),
        "count": 1,
    })
}

pub(crate) fn agent_pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": labels() },
        "spec": {
            "serviceAccountName": "telemetry-agent",
            "nodeName": node,
            "containers": [{ "name": "agent", "image": "registry.invalid/telemetry-agent:1" }],
        },
    })
}

/// The culprit. Its node selector matches no node, so that in a real cluster
/// it starts nothing; the storm is ours.
pub(crate) fn daemon_set() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "telemetry-agent", "labels": labels() },
        "spec": {
            "selector": { "matchLabels": { "app": "telemetry-agent" } },
            "template": {
                "metadata": { "labels": { "app": "telemetry-agent" } },
                "spec": {
                    "nodeSelector": { "spillway-demo/none": "true" },
                    "serviceAccountName": "telemetry-agent",
                    "containers": [{
                        "name": "agent",
                        "image": "registry.invalid/telemetry-agent:2",
                    }],
                },
            },
        },
    })
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": groups, "resources": resources, "verbs": verbs })
}

/// What telemetry and DNS read.
pub(crate) fn reader_rules() -> Value {
    json!([rule(
        &["", "discovery.k8s.io"],
        &[
            "pods",
            "configmaps",
            "services",
            "endpointslices",
            "namespaces",
            "nodes"
        ],
        &["get", "list", "watch"],
    ),])
}

/// What a workload does to its own settings.
pub(crate) fn writer_rules() -> Value {
    json!([
        rule(&[""], &["configmaps"], &["get", "patch"]),
        rule(&[""], &["services"], &["list"]),
    ])
}

/// What all stand-ins together do.
pub(crate) fn stand_in_rules() -> Value {
    json!([
        rule(
            &["", "discovery.k8s.io"],
            &[
                "pods",
                "configmaps",
                "services",
                "endpointslices",
                "namespaces",
                "nodes",
                "events"
            ],
            &["get", "list", "watch", "patch", "update", "create"],
        ),
        rule(
            &["coordination.k8s.io"],
            &["leases"],
            &["get", "update", "patch"]
        ),
        rule(
            &["apps"],
            &["replicasets", "daemonsets"],
            &["get", "patch", "delete"]
        ),
    ])
}

/// A role and its binding to service accounts (namespace, name).
pub(crate) fn cluster_role(name: &str, rules: Value, accounts: &[(&str, &str)]) -> (Value, Value) {
    let subjects: Vec<_> = accounts
        .iter()
        .map(|(namespace, account)| {
            json!({ "kind": "ServiceAccount", "namespace": namespace, "name": account })
        })
        .collect();
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": name, "labels": labels() },
        "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name, "labels": labels() },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": name,
        },
        "subjects": subjects,
    });
    (role, binding)
}

/// `metav1.Time`: seconds, UTC.
fn time(at: SystemTime) -> String {
    format!("{:.0}", timestamp(at))
}

/// `metav1.MicroTime`.
fn micro_time(at: SystemTime) -> String {
    format!("{:.6}", timestamp(at))
}

fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::try_from(at).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn times_are_written_as_kubernetes_reads_them() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_733_958_720, "2024-12-11T23:12:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
        ] {
            assert_eq!(time(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
        let at = UNIX_EPOCH + Duration::from_micros(1_000_042);
        assert_eq!(micro_time(at), "1970-01-01T00:00:01.000042Z");
    }
}
