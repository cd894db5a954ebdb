//! The policies of `config/examples/cookbook` put requests where `docs/cookbook.md` says they do.

use std::net::IpAddr;

use proxy_core::attributes::parse;
use proxy_core::classify::{Client, Policy};
use proxy_core::identity::Identity;

use super::policy;

const ELSEWHERE: &str = "10.0.0.7";

/// The policy of an example.
fn recipe(name: &str) -> Policy {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../config/examples/cookbook/"
    );
    let text = std::fs::read_to_string(format!("{folder}{name}.yaml")).expect("an example");
    let config = config::Config::parse(&text, name).unwrap_or_else(|report| panic!("{report}"));
    policy(&config).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// `NAMESPACE/NAME` is a service account, `USER GROUP` one with a certificate.
fn identity(who: &str) -> Identity {
    match who.split_once(' ') {
        Some((user, group)) => Identity::certificate(user, vec![group.into()], None, Vec::new()),
        None => {
            let (namespace, name) = who.split_once('/').expect("an account");
            Identity::service_account(namespace, name, None, Some("pod"), Some("node"))
        }
    }
}

fn class(policy: &Policy, who: &str, request: &str, from: &str) -> String {
    let (method, target) = request.split_once(' ').expect("METHOD TARGET");
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let attributes = parse(method, path, query, None).expect("a request");
    let client = Client {
        user_agent: None,
        address: from.parse::<IpAddr>().expect("an address"),
    };
    let classified = policy.classify(&attributes, &identity(who), &client);
    policy.class_name(classified.class).to_owned()
}

/// (who, what, the class it is meant to land in).
fn lands(name: &str, cases: &[(&str, &str, &str)]) {
    let policy = recipe(name);
    for (who, request, meant) in cases {
        assert_eq!(
            class(&policy, who, request, ELSEWHERE),
            *meant,
            "{name}: {who}: {request}"
        );
    }
}

const SERVICES: &str = "GET /api/v1/services?limit=500&resourceVersion=0";
const ALL_PODS: &str = "GET /api/v1/pods";
const SOME_PODS: &str = "GET /api/v1/namespaces/a/pods";
const ONE_POD: &str = "GET /api/v1/namespaces/a/pods/p";
const UNDO: &str = "PATCH /apis/apps/v1/namespaces/a/daemonsets/d";
const RESUMED: &str = "GET /api/v1/pods?watch=1&resourceVersion=7";
const ADMIN: &str = "kubernetes-admin kubeadm:cluster-admins";

#[test]
fn dns_reads_what_it_resolves_as_control_plane_and_nothing_else() {
    let slices = "GET /apis/discovery.k8s.io/v1/endpointslices?watch=1&resourceVersion=7";
    lands(
        "coredns",
        &[
            ("dns/coredns", SERVICES, "control-plane"),
            ("dns/coredns", slices, "control-plane"),
            ("dns/node-local-dns", SERVICES, "control-plane"),
            ("dns/coredns", "GET /api/v1/secrets", "bulk"),
            (
                "dns/coredns",
                "POST /api/v1/namespaces/a/pods",
                "workload-writes",
            ),
            ("dns/other", SERVICES, "bulk"),
            ("kube-system/coredns", SERVICES, "control-plane"),
        ],
    );
}

#[test]
fn a_roll_back_goes_before_nodes_and_its_caches_before_telemetry() {
    let policy = recipe("argo-cd");
    let names: Vec<&str> = policy.classes().iter().map(|class| &*class.name).collect();
    let place = |wanted: &str| {
        names
            .iter()
            .position(|name| *name == wanted)
            .expect("a class")
    };
    assert!(place("operators") < place("rollback") && place("rollback") < place("nodes"));
    lands(
        "argo-cd",
        &[
            ("argocd/argocd-application-controller", UNDO, "rollback"),
            ("argocd/argocd-application-controller", ONE_POD, "rollback"),
            ("flux-system/helm-controller", UNDO, "rollback"),
            (
                "argocd/argocd-application-controller",
                ALL_PODS,
                "workload-reads",
            ),
            (
                "argocd/argocd-application-controller",
                RESUMED,
                "workload-reads",
            ),
            ("argocd/argocd-server", UNDO, "workload-writes"),
            (
                "other/argocd-application-controller",
                UNDO,
                "workload-writes",
            ),
            (ADMIN, UNDO, "operators"),
        ],
    );
}

#[test]
fn telemetry_reads_in_bulk_and_prometheus_is_left_alone() {
    lands(
        "telemetry",
        &[
            ("monitoring/agent", ALL_PODS, "bulk"),
            ("monitoring/agent", SOME_PODS, "bulk"),
            ("monitoring/agent", RESUMED, "bulk"),
            ("monitoring/agent", ONE_POD, "workload-writes"),
            ("monitoring/prometheus", SOME_PODS, "workload-reads"),
            ("shop/cart", SOME_PODS, "workload-reads"),
        ],
    );
}

#[test]
fn the_culprit_goes_to_the_bottom_with_all_it_asks() {
    let agent = "monitoring/telemetry-agent";
    let lease = "PUT /apis/coordination.k8s.io/v1/namespaces/monitoring/leases/l";
    lands(
        "worst-hour",
        &[
            (agent, ALL_PODS, "unattributed"),
            (agent, ONE_POD, "unattributed"),
            (agent, lease, "unattributed"),
            ("monitoring/other", ONE_POD, "workload-writes"),
            (ADMIN, ALL_PODS, "operators"),
        ],
    );
}

#[test]
fn pipelines_stay_below_what_runs_whatever_credentials_they_use() {
    lands(
        "ci",
        &[
            ("ci/deploy", UNDO, "builds"),
            ("gitlab-runner/job", SOME_PODS, "builds"),
            ("ci/deploy", ALL_PODS, "bulk"),
            ("ci-bot ci", UNDO, "builds"),
            ("jane dev", UNDO, "operators"),
            ("shop/cart", UNDO, "workload-writes"),
        ],
    );
    let policy = recipe("ci");
    assert_eq!(class(&policy, ADMIN, UNDO, "198.51.100.9"), "builds");
    let kubelet = "system:node:n system:nodes";
    assert_eq!(class(&policy, kubelet, ONE_POD, "198.51.100.9"), "nodes");
}

#[test]
fn collections_of_large_custom_resources_are_bulk_for_accounts_only() {
    let reports = "GET /apis/aquasecurity.github.io/v1alpha1/namespaces/a/vulnerabilityreports";
    let report = "GET /apis/aquasecurity.github.io/v1alpha1/namespaces/a/vulnerabilityreports/r";
    lands(
        "large-custom-resources",
        &[
            ("shop/cart", reports, "bulk"),
            ("shop/cart", report, "workload-writes"),
            ("shop/cart", SOME_PODS, "workload-reads"),
            (
                "kube-system/generic-garbage-collector",
                reports,
                "control-plane",
            ),
            (ADMIN, reports, "operators"),
        ],
    );
}

/// The page shows every recipe, as it is.
#[test]
fn the_cookbook_shows_the_rules_of_every_recipe() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../config/examples/cookbook"
    );
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cookbook.md");
    let page = std::fs::read_to_string(page).expect("docs/cookbook.md");
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("a file");
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(
            page.contains(&name),
            "docs/cookbook.md does not name {name}"
        );
        let text = std::fs::read_to_string(entry.path()).expect("a file");
        let (classes, rules) = text.split_once("  rules:\n").unwrap_or((&text, ""));
        let rules = rules.lines().filter(|line| line.starts_with("    - name:"));
        let guaranteed = classes.lines().filter(|line| line.contains("guarantee:"));
        let shown: Vec<&str> = rules.chain(guaranteed).collect();
        assert!(!shown.is_empty(), "{name} has nothing to show");
        for line in shown {
            assert!(
                page.contains(line.trim()),
                "docs/cookbook.md lacks {line} of {name}"
            );
        }
    }
}

#[test]
fn reads_are_guaranteed_a_tenth_and_nobody_else_anything() {
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../config/examples/cookbook/"
    );
    let text = std::fs::read_to_string(format!("{folder}guaranteed-reads.yaml")).expect("it");
    let config = config::Config::parse(&text, "it").unwrap_or_else(|report| panic!("{report}"));
    let policy = policy(&config).expect("a policy");
    let settings = super::settings(&config, &policy);
    assert_eq!(settings.check(), Ok(()));
    for (class, settings) in policy.classes().iter().zip(&settings.classes) {
        let expected = if &*class.name == "workload-reads" {
            0.1
        } else {
            0.0
        };
        assert!(
            (settings.guarantee - expected).abs() < 1e-6,
            "{}",
            class.name
        );
    }
}
