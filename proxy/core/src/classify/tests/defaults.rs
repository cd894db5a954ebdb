//! Who lands where without a configuration.

use super::{ADMIN, AGENT, class};
use crate::classify::{ClassId, Policy};

const NODE: &str = "certificate system:node:n system:nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces";

#[test]
fn the_default_policy_ranks_what_clusters_do() {
    let policy = Policy::default_policy();
    let node_lease = format!("PUT {LEASES}/kube-node-lease/leases/n");
    let own_lease = format!("PUT {LEASES}/monitoring/leases/agent");
    let lease_list = format!("GET {LEASES}/monitoring/leases");
    let lease_create = format!("POST {LEASES}/monitoring/leases");
    for (who, request, expected) in [
        // Signs of life.
        (NODE, node_lease.as_str(), "life-signs"),
        (NODE, "PATCH /api/v1/nodes/n/status", "life-signs"),
        (NODE, "GET /api/v1/nodes/n?resourceVersion=0", "life-signs"),
        (
            "certificate system:kube-scheduler",
            own_lease.as_str(),
            "life-signs",
        ),
        (AGENT, own_lease.as_str(), "life-signs"),
        (AGENT, lease_create.as_str(), "life-signs"),
        (AGENT, lease_list.as_str(), "workload-reads"),
        (AGENT, node_lease.as_str(), "workload-writes"),
        (AGENT, "GET /apis/coordination.k8s.io/v1/leases", "bulk"),
        (
            NODE,
            "POST /apis/authentication.k8s.io/v1/tokenreviews",
            "life-signs",
        ),
        (
            AGENT,
            "POST /apis/authorization.k8s.io/v1/subjectaccessreviews",
            "life-signs",
        ),
        (
            AGENT,
            "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "workload-writes",
        ),
        ("anonymous", "GET /livez", "life-signs"),
        ("unattributed", "GET /readyz/etcd?verbose", "life-signs"),
        (AGENT, "HEAD /healthz", "life-signs"),
        // Control and data plane.
        (
            "certificate system:kube-controller-manager",
            "GET /api/v1/pods",
            "control-plane",
        ),
        (
            "certificate system:kube-scheduler",
            "POST /api/v1/namespaces/a/pods/p/binding",
            "control-plane",
        ),
        (
            "account kube-system/deployment-controller",
            "GET /apis/apps/v1/replicasets",
            "control-plane",
        ),
        (
            "account kube-system/coredns",
            "GET /api/v1/services?watch=1",
            "control-plane",
        ),
        (
            "account kube-system/kube-proxy",
            "GET /apis/discovery.k8s.io/v1/endpointslices",
            "control-plane",
        ),
        (
            "account calico-system/calico-node",
            "GET /api/v1/pods",
            "control-plane",
        ),
        (
            "account ingress-nginx/ingress-nginx",
            "GET /api/v1/secrets",
            "control-plane",
        ),
        // A telemetry agent in kube-system is still a telemetry agent.
        ("account kube-system/telemetry", "GET /api/v1/pods", "bulk"),
        (
            "account kube-system/coredns-autoscaler",
            "GET /api/v1/nodes",
            "bulk",
        ),
        ("account monitoring/coredns", "GET /api/v1/nodes", "bulk"),
        // People.
        (ADMIN, "GET /api/v1/pods", "operators"),
        (
            "certificate root system:masters",
            "DELETE /apis/apps/v1/namespaces/a/daemonsets/d",
            "operators",
        ),
        (
            "certificate jane dev",
            "GET /api/v1/namespaces/a/pods",
            "operators",
        ),
        (
            "learned oidc:jane dev",
            "PATCH /apis/apps/v1/namespaces/a/deployments/d",
            "operators",
        ),
        ("learned system:monitor", "GET /api/v1/pods", "bulk"),
        (
            "certificate odd system:serviceaccounts",
            "GET /api/v1/pods",
            "bulk",
        ),
        (
            "learned system:serviceaccount:monitoring:agent system:serviceaccounts",
            "GET /api/v1/pods",
            "bulk",
        ),
        // Nodes.
        (
            NODE,
            "GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn&resourceVersion=0",
            "nodes",
        ),
        (NODE, "PATCH /api/v1/namespaces/a/pods/p/status", "nodes"),
        (
            NODE,
            "GET /api/v1/nodes?fieldSelector=metadata.name%3Dn&watch=1",
            "nodes",
        ),
        (NODE, "POST /api/v1/nodes", "nodes"),
        (
            "learned system:bootstrap:abc system:bootstrappers system:bootstrappers:kubeadm:default-node-token",
            "POST /apis/certificates.k8s.io/v1/certificatesigningrequests",
            "nodes",
        ),
        // Workloads.
        (AGENT, "POST /api/v1/namespaces/a/pods", "workload-writes"),
        (
            AGENT,
            "GET /api/v1/namespaces/a/configmaps/c",
            "workload-writes",
        ),
        (
            AGENT,
            "DELETE /api/v1/namespaces/a/pods/p",
            "workload-writes",
        ),
        (AGENT, "GET /apis/apps/v1", "workload-writes"),
        (AGENT, "GET /api/v1/namespaces/a/pods", "workload-reads"),
        (
            AGENT,
            "GET /api/v1/namespaces/a/pods?watch=1",
            "workload-reads",
        ),
        (
            AGENT,
            "GET /api/v1/pods?watch=1&resourceVersion=7",
            "workload-reads",
        ),
        (
            AGENT,
            "GET /api/v1/namespaces/a/pods/p/log?follow=1",
            "workload-reads",
        ),
        (AGENT, "GET /metrics", "workload-reads"),
        (AGENT, "GET /openapi/v2", "workload-reads"),
        // Nobody.
        ("anonymous", "GET /api/v1/pods", "unattributed"),
        ("anonymous", "GET /version", "unattributed"),
        ("anonymous", "GET /livezz", "unattributed"),
        ("anonymous", "POST /livez", "unattributed"),
        ("unattributed", node_lease.as_str(), "unattributed"),
        (
            "unattributed",
            "GET /api/v1/namespaces/kube-public/configmaps/cluster-info",
            "unattributed",
        ),
        (
            "learned system:anonymous",
            "GET /api/v1/nodes",
            "unattributed",
        ),
    ] {
        assert_eq!(class(&policy, who, request), expected, "{who}: {request}");
    }
}

#[test]
fn every_shape_of_a_telemetry_storm_is_bulk() {
    // A DaemonSet that reads everything, on every node, as it starts.
    let policy = Policy::default_policy();
    for request in [
        "GET /api/v1/pods",
        "HEAD /api/v1/pods",
        "GET /api/v1/pods/",
        "GET /api/v1%2Fpods",
        "GET /api/v1/pods?resourceVersion=0",
        "GET /api/v1/pods?limit=500",
        "GET /api/v1/pods?limit=500&continue=abc",
        "GET /api/v1/pods?limit=1&resourceVersion=0",
        "GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn",
        "GET /api/v1/pods?fieldSelector=metadata.name%3Dp",
        "GET /api/v1/pods?labelSelector=app",
        "GET /api/v1/pods?limit=nonsense",
        "GET /api/v1/pods?watch=1",
        "GET /api/v1/pods?watch=1&resourceVersion=0",
        "GET /api/v1/pods?watch=1&resourceVersion=00",
        "GET /api/v1/pods?watch&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
        "GET /api/v1/pods?watch=1&resourceVersion=7&sendInitialEvents=1",
        "GET /api/v1/watch/pods",
        "GET /api/v1/namespaces//pods",
        "GET /api/v1/nodes",
        "GET /api/v1/namespaces",
        "GET /apis/apps/v1/replicasets?resourceVersionMatch=Exact&resourceVersion=7",
        "DELETE /api/v1/namespaces/a/pods",
    ] {
        assert_eq!(class(&policy, AGENT, request), "bulk", "{request}");
    }
}

#[test]
fn the_constants_name_the_built_in_classes() {
    let policy = Policy::default_policy();
    for (id, name) in [
        (ClassId::LIFE_SIGNS, "life-signs"),
        (ClassId::CONTROL_PLANE, "control-plane"),
        (ClassId::OPERATORS, "operators"),
        (ClassId::NODES, "nodes"),
        (ClassId::WORKLOAD_WRITES, "workload-writes"),
        (ClassId::WORKLOAD_READS, "workload-reads"),
        (ClassId::BULK, "bulk"),
        (ClassId::UNATTRIBUTED, "unattributed"),
    ] {
        assert_eq!(policy.class_name(id), name);
        assert_eq!(policy.class_named(name), Some(id));
    }
    assert_eq!(policy.classes().len(), 8);
}
