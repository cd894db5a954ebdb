//! The built-in policy: what a cluster without a configuration gets.
//!
//! The order of importance follows what a cluster cannot live without, not who
//! asks loudest: the signs of life, then what keeps it steered and connected,
//! then the people who repair it, then nodes, then workloads; and among the
//! requests of workloads, what touches one object before what touches all.

use super::{ClassSpec, Match, Rule};

/// Names of the built-in classes, most important first.
const CLASSES: [&str; 8] = [
    "life-signs",
    "control-plane",
    "operators",
    "nodes",
    "workload-writes",
    "workload-reads",
    "bulk",
    "unattributed",
];

/// Users that steer the cluster by certificates of their own.
const CORE_USERS: [&str; 6] = [
    "system:kube-controller-manager",
    "system:kube-scheduler",
    "system:cloud-controller-manager",
    "system:apiserver",
    "system:kube-proxy",
    "system:konnectivity-server",
];

/// Accounts in `kube-system` that the controller manager's loops use
/// (`--use-service-account-credentials`); the list of the server's own RBAC
/// bootstrap policy, and the loops that have no role of their own there.
const CONTROLLERS: [&str; 48] = [
    "attachdetach-controller",
    "bootstrap-signer",
    "certificate-controller",
    "cloud-provider",
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "daemon-set-controller",
    "deployment-controller",
    "device-taint-eviction-controller",
    "disruption-controller",
    "endpoint-controller",
    "endpointslice-controller",
    "endpointslicemirroring-controller",
    "ephemeral-volume-controller",
    "expand-controller",
    "generic-garbage-collector",
    "horizontal-pod-autoscaler",
    "job-controller",
    "kube-apiserver-serving-clustertrustbundle-publisher",
    "legacy-service-account-token-cleaner",
    "namespace-controller",
    "node-controller",
    "persistent-volume-binder",
    "pod-garbage-collector",
    "podcertificaterequestcleaner",
    "podcheckpoint-controller",
    "pv-protection-controller",
    "pvc-protection-controller",
    "replicaset-controller",
    "replication-controller",
    "resource-claim-controller",
    "resourcequota-controller",
    "root-ca-cert-publisher",
    "route-controller",
    "selinux-warning-controller",
    "service-account-controller",
    "service-cidrs-controller",
    "service-controller",
    "statefulset-controller",
    "storage-version-garbage-collector",
    "storage-version-migrator-controller",
    "taint-eviction-controller",
    "token-cleaner",
    "ttl-after-finished-controller",
    "ttl-controller",
    "validatingadmissionpolicy-status-controller",
    "vac-protection-controller",
    "volumeattributesclass-protection-controller",
];

/// The readers the data plane lives on, as `namespace/name`: name resolution,
/// service routing, pod networks, ingress. Named one by one: a telemetry agent
/// somebody deploys into `kube-system` must not rise with them.
const DATA_PLANE: [&str; 52] = [
    "kube-system/coredns",
    "kube-system/kube-dns",
    "kube-system/node-local-dns",
    "kube-system/kube-proxy",
    "kube-system/kube-vip",
    "kube-system/konnectivity-agent",
    "kube-system/cloud-controller-manager",
    "kube-system/aws-cloud-controller-manager",
    "kube-system/cloud-node-manager",
    "kube-system/openstack-cloud-controller-manager",
    // Pod networks.
    "kube-system/calico-node",
    "kube-system/calico-cni-plugin",
    "kube-system/calico-kube-controllers",
    "kube-system/calico-typha",
    "kube-system/canal",
    "calico-system/calico-node",
    "calico-system/calico-cni-plugin",
    "calico-system/calico-kube-controllers",
    "calico-system/calico-typha",
    "tigera-operator/tigera-operator",
    "kube-system/cilium",
    "kube-system/cilium-operator",
    "kube-system/cilium-envoy",
    "cilium/cilium",
    "cilium/cilium-operator",
    "kube-system/flannel",
    "kube-flannel/flannel",
    "kube-system/kindnet",
    "kube-system/aws-node",
    "kube-system/azure-cns",
    "kube-system/azure-npm",
    "kube-system/weave-net",
    "kube-system/antrea-agent",
    "kube-system/antrea-controller",
    "kube-system/kube-router",
    "kube-system/multus",
    "kube-system/ovn",
    "ovn-kubernetes/ovnkube-node",
    "ovn-kubernetes/ovnkube-cluster-manager",
    "metallb-system/controller",
    "metallb-system/speaker",
    // Ways in.
    "ingress-nginx/ingress-nginx",
    "kube-system/ingress-nginx",
    "kube-system/traefik",
    "traefik/traefik",
    "traefik/traefik-ingress-controller",
    "haproxy-controller/haproxy-kubernetes-ingress",
    "projectcontour/contour",
    "envoy-gateway-system/envoy-gateway",
    "istio-system/istiod",
    "nginx-ingress/nginx-ingress",
    "kong/kong-controller",
];

/// The built-in classes, most important first.
#[must_use]
pub fn default_classes() -> Vec<ClassSpec> {
    CLASSES.into_iter().map(ClassSpec::new).collect()
}

/// The built-in rules, in the order they are asked.
#[must_use]
pub fn default_rules() -> Vec<Rule> {
    let mut rules = life_signs();
    rules.extend(control_plane());
    rules.extend(operators());
    rules.extend(nodes());
    rules.extend(workloads());
    rules
}

/// What must arrive or the cluster falls apart by itself. Single objects only:
/// whoever LISTs leases is looking, not living.
fn life_signs() -> Vec<Rule> {
    let leases = || Match {
        verbs: list(&["get", "create", "update", "patch"]),
        api_groups: list(&["coordination.k8s.io"]),
        resources: list(&["leases"]),
        ..Match::default()
    };
    vec![
        Rule::new(
            "node-leases",
            "life-signs",
            Match {
                node: Some(true),
                namespaces: list(&["kube-node-lease"]),
                ..leases()
            },
        ),
        Rule::new(
            "node-status",
            "life-signs",
            Match {
                node: Some(true),
                verbs: list(&["get", "update", "patch"]),
                api_groups: list(&["core"]),
                resources: list(&["nodes/status"]),
                ..Match::default()
            },
        ),
        // The kubelet reads its node before it writes the status.
        Rule::new(
            "node-get",
            "life-signs",
            Match {
                node: Some(true),
                verbs: list(&["get"]),
                api_groups: list(&["core"]),
                resources: list(&["nodes"]),
                ..Match::default()
            },
        ),
        // Losing an election restarts a controller, which re-LISTs everything:
        // holds for every operator, wherever its lease lives. The leases of the
        // nodes are nobody else's, save for the controllers below.
        Rule::new(
            "leader-election",
            "life-signs",
            Match {
                namespaces: list(&["!kube-node-lease"]),
                node: Some(false),
                ..leases()
            },
        ),
        Rule::new(
            "authentication-reviews",
            "life-signs",
            Match {
                verbs: list(&["create"]),
                api_groups: list(&["authentication.k8s.io"]),
                resources: list(&["tokenreviews"]),
                ..Match::default()
            },
        ),
        Rule::new(
            "authorization-reviews",
            "life-signs",
            Match {
                verbs: list(&["create"]),
                api_groups: list(&["authorization.k8s.io"]),
                resources: list(&["subjectaccessreviews", "localsubjectaccessreviews"]),
                ..Match::default()
            },
        ),
    ]
}

fn control_plane() -> Vec<Rule> {
    let controllers = CONTROLLERS
        .into_iter()
        .map(|name| format!("kube-system/{name}"));
    vec![
        Rule::new(
            "core-components",
            "control-plane",
            Match {
                users: list(&CORE_USERS),
                ..Match::default()
            },
        ),
        Rule::new(
            "controllers",
            "control-plane",
            Match {
                service_accounts: controllers.collect(),
                ..Match::default()
            },
        ),
        Rule::new(
            "data-plane",
            "control-plane",
            Match {
                service_accounts: list(&DATA_PLANE),
                ..Match::default()
            },
        ),
    ]
}

fn operators() -> Vec<Rule> {
    vec![
        Rule::new(
            "administrators",
            "operators",
            Match {
                groups: list(&["system:masters", "kubeadm:cluster-admins"]),
                ..Match::default()
            },
        ),
        // Whoever holds a certificate or a token of an identity provider and is
        // none of the system's own is taken for a person.
        Rule::new(
            "people",
            "operators",
            Match {
                sources: list(&["certificate", "learned"]),
                users: list(&["!system:*"]),
                groups: list(&["!system:nodes", "!system:serviceaccounts"]),
                ..Match::default()
            },
        ),
    ]
}

fn nodes() -> Vec<Rule> {
    vec![
        Rule::new(
            "nodes",
            "nodes",
            Match {
                groups: list(&["system:nodes"]),
                ..Match::default()
            },
        ),
        Rule::new(
            "joining-nodes",
            "nodes",
            Match {
                groups: list(&["system:bootstrappers", "system:bootstrappers:*"]),
                ..Match::default()
            },
        ),
    ]
}

/// Everybody else who is verified: service accounts above all.
fn workloads() -> Vec<Rule> {
    vec![
        // A page size does not help: whoever reads everything in pages reads
        // everything, and past the cache at that.
        Rule::new(
            "bulk-reads",
            "bulk",
            Match {
                shapes: list(&["all-namespaces"]),
                ..Match::default()
            },
        ),
        Rule::new(
            "bulk-deletes",
            "bulk",
            Match {
                verbs: list(&["deletecollection"]),
                ..Match::default()
            },
        ),
        // An initial-state watch of one namespace costs what a LIST of it costs,
        // and informers choose between the two freely: same class.
        Rule::new(
            "collection-reads",
            "workload-reads",
            Match {
                verbs: list(&["list", "watch"]),
                ..Match::default()
            },
        ),
        Rule::new(
            "logs",
            "workload-reads",
            Match {
                verbs: list(&["get"]),
                resources: list(&["pods/log"]),
                ..Match::default()
            },
        ),
        // Megabytes each, computed for the asker.
        Rule::new(
            "dear-paths",
            "workload-reads",
            Match {
                non_resource: list(&["/metrics*", "/openapi/*", "/debug/*", "/logs*"]),
                ..Match::default()
            },
        ),
        Rule::new("single-objects", "workload-writes", Match::default()),
    ]
}

fn list(entries: &[&str]) -> Vec<String> {
    entries.iter().map(|entry| (*entry).to_owned()).collect()
}
