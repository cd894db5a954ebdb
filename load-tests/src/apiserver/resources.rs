//! The resources the model serves.

/// One resource of the API.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resource {
    /// Unique: `plural` or `plural.group`.
    pub(super) key: &'static str,
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
    pub(super) singular: &'static str,
    pub(super) kind: &'static str,
    pub(super) namespaced: bool,
    /// `status` is a subresource: it is written through its own path only.
    pub(super) status: bool,
    /// Only POST: reviews, which are answered and not stored.
    pub(super) virtual_only: bool,
    pub(super) short: &'static [&'static str],
    /// In `kubectl get all`.
    pub(super) in_all: bool,
}

impl Resource {
    const fn new(
        group: &'static str,
        key: &'static str,
        plural: &'static str,
        singular: &'static str,
        kind: &'static str,
        short: &'static [&'static str],
    ) -> Self {
        Self {
            key,
            group,
            version: "v1",
            plural,
            singular,
            kind,
            namespaced: true,
            status: false,
            virtual_only: false,
            short,
            in_all: false,
        }
    }

    const fn core(
        plural: &'static str,
        singular: &'static str,
        kind: &'static str,
        short: &'static [&'static str],
    ) -> Self {
        Self::new("", plural, plural, singular, kind, short)
    }

    const fn review(
        group: &'static str,
        key: &'static str,
        plural: &'static str,
        singular: &'static str,
        kind: &'static str,
    ) -> Self {
        let mut review = Self::new(group, key, plural, singular, kind, &[]);
        review.virtual_only = true;
        review
    }

    const fn cluster(mut self) -> Self {
        self.namespaced = false;
        self
    }

    const fn with_status(mut self) -> Self {
        self.status = true;
        self
    }

    const fn all(mut self) -> Self {
        self.in_all = true;
        self
    }

    /// `v1` or `group/v1`.
    pub(super) fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }
}

/// `v1` or `group/v1`.
pub(super) fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

const APPS: &str = "apps";
const BATCH: &str = "batch";
const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";
const COORDINATION: &str = "coordination.k8s.io";
const DISCOVERY: &str = "discovery.k8s.io";
const NETWORKING: &str = "networking.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";

/// Everything served, grouped by API group.
pub(super) static RESOURCES: &[Resource] = &[
    Resource::core("configmaps", "configmap", "ConfigMap", &["cm"]),
    Resource::core("endpoints", "endpoints", "Endpoints", &["ep"]),
    Resource::core("events", "event", "Event", &["ev"]),
    Resource::core("namespaces", "namespace", "Namespace", &["ns"])
        .cluster()
        .with_status(),
    Resource::core("nodes", "node", "Node", &["no"])
        .cluster()
        .with_status(),
    Resource::core(
        "persistentvolumeclaims",
        "persistentvolumeclaim",
        "PersistentVolumeClaim",
        &["pvc"],
    )
    .with_status(),
    Resource::core(
        "persistentvolumes",
        "persistentvolume",
        "PersistentVolume",
        &["pv"],
    )
    .cluster()
    .with_status(),
    Resource::core("pods", "pod", "Pod", &["po"])
        .with_status()
        .all(),
    Resource::core("secrets", "secret", "Secret", &[]),
    Resource::core(
        "serviceaccounts",
        "serviceaccount",
        "ServiceAccount",
        &["sa"],
    ),
    Resource::core("services", "service", "Service", &["svc"])
        .with_status()
        .all(),
    Resource::new(
        APPS,
        "daemonsets.apps",
        "daemonsets",
        "daemonset",
        "DaemonSet",
        &["ds"],
    )
    .with_status()
    .all(),
    Resource::new(
        APPS,
        "deployments.apps",
        "deployments",
        "deployment",
        "Deployment",
        &["deploy"],
    )
    .with_status()
    .all(),
    Resource::new(
        APPS,
        "replicasets.apps",
        "replicasets",
        "replicaset",
        "ReplicaSet",
        &["rs"],
    )
    .with_status()
    .all(),
    Resource::new(
        APPS,
        "statefulsets.apps",
        "statefulsets",
        "statefulset",
        "StatefulSet",
        &["sts"],
    )
    .with_status()
    .all(),
    Resource::new(
        BATCH,
        "cronjobs.batch",
        "cronjobs",
        "cronjob",
        "CronJob",
        &["cj"],
    )
    .with_status()
    .all(),
    Resource::new(BATCH, "jobs.batch", "jobs", "job", "Job", &[])
        .with_status()
        .all(),
    Resource::review(
        AUTHENTICATION,
        "selfsubjectreviews",
        "selfsubjectreviews",
        "selfsubjectreview",
        "SelfSubjectReview",
    )
    .cluster(),
    Resource::review(
        AUTHENTICATION,
        "tokenreviews",
        "tokenreviews",
        "tokenreview",
        "TokenReview",
    )
    .cluster(),
    Resource::review(
        AUTHORIZATION,
        "localsubjectaccessreviews",
        "localsubjectaccessreviews",
        "localsubjectaccessreview",
        "LocalSubjectAccessReview",
    ),
    Resource::review(
        AUTHORIZATION,
        "selfsubjectaccessreviews",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
        "SelfSubjectAccessReview",
    )
    .cluster(),
    Resource::review(
        AUTHORIZATION,
        "selfsubjectrulesreviews",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
        "SelfSubjectRulesReview",
    )
    .cluster(),
    Resource::review(
        AUTHORIZATION,
        "subjectaccessreviews",
        "subjectaccessreviews",
        "subjectaccessreview",
        "SubjectAccessReview",
    )
    .cluster(),
    Resource::new(COORDINATION, "leases", "leases", "lease", "Lease", &[]),
    Resource::new(
        DISCOVERY,
        "endpointslices",
        "endpointslices",
        "endpointslice",
        "EndpointSlice",
        &[],
    ),
    Resource::new(
        NETWORKING,
        "ingresses",
        "ingresses",
        "ingress",
        "Ingress",
        &["ing"],
    )
    .with_status(),
    Resource::new(
        NETWORKING,
        "networkpolicies",
        "networkpolicies",
        "networkpolicy",
        "NetworkPolicy",
        &["netpol"],
    ),
    Resource::new(
        RBAC,
        "clusterrolebindings",
        "clusterrolebindings",
        "clusterrolebinding",
        "ClusterRoleBinding",
        &[],
    )
    .cluster(),
    Resource::new(
        RBAC,
        "clusterroles",
        "clusterroles",
        "clusterrole",
        "ClusterRole",
        &[],
    )
    .cluster(),
    Resource::new(
        RBAC,
        "rolebindings",
        "rolebindings",
        "rolebinding",
        "RoleBinding",
        &[],
    ),
    Resource::new(RBAC, "roles", "roles", "role", "Role", &[]),
];

/// A resource by its path.
pub(super) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| {
        resource.group == group && resource.version == version && resource.plural == plural
    })
}

/// A resource by plural name alone, the first group that has it.
pub(super) fn by_plural(plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| resource.plural == plural)
}

/// The API groups besides core, in order.
pub(super) fn groups() -> Vec<&'static str> {
    let mut groups: Vec<_> = RESOURCES
        .iter()
        .map(|resource| resource.group)
        .filter(|group| !group.is_empty())
        .collect();
    groups.dedup();
    groups
}
