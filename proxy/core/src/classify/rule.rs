//! Rules as people write them.

/// A rule: requests that match go into a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, unique in the policy; appears in answers, logs and metrics.
    pub name: Box<str>,
    /// Which requests it is about.
    pub when: Match,
    /// The name of the class they go into.
    pub class: Box<str>,
}

impl Rule {
    /// A rule.
    #[must_use]
    pub fn new(name: &str, class: &str, when: Match) -> Self {
        Self {
            name: name.into(),
            when,
            class: class.into(),
        }
    }
}

/// The conditions of a rule. All of them must hold; an empty one always holds.
///
/// Each list is a set of alternatives. An entry that begins with `!` excludes
/// instead: a list holds if none of its excluding entries fits and, where it has
/// including ones, at least one of these does. `["system:*", "!system:node:*"]`
/// is every system user but the nodes.
///
/// Text is compared exactly, case included; one trailing `*` makes an entry a
/// prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// User names.
    pub users: Vec<String>,
    /// Groups; one membership is enough. `system:authenticated` is everybody
    /// verified.
    pub groups: Vec<String>,
    /// Service accounts as `namespace/name`, `namespace/*` or `*`. An including
    /// entry demands that it is a service account at all.
    pub service_accounts: Vec<String>,
    /// How the identity became known: `certificate`, `service-account`,
    /// `learned`, `request-header`, `anonymous`, `unattributed`.
    pub sources: Vec<String>,
    /// Whether it is a node (`system:node:NAME` in `system:nodes`).
    pub node: Option<bool>,
    /// User-Agent headers. Without a condition that names *who* (users, groups,
    /// service accounts, nodes, addresses), the rule can only lower.
    pub user_agents: Vec<String>,
    /// Peer addresses or networks, as `10.0.0.0/8`.
    pub addresses: Vec<String>,
    /// Kubernetes verbs, and outside the resource API lower-case methods.
    pub verbs: Vec<String>,
    /// API groups; `""` or `core` is the core group.
    pub api_groups: Vec<String>,
    /// Resources as `pods`, `pods/status`, `pods/*`, `*/scale` or `*`. Without
    /// a slash subresources are not meant, save for `*`.
    pub resources: Vec<String>,
    /// Namespaces of the request.
    pub namespaces: Vec<String>,
    /// Object names of the request.
    pub names: Vec<String>,
    /// How much is addressed: `named`, `namespaced`, `cluster`, `non-resource`.
    pub scopes: Vec<String>,
    /// What the read looks like: see [`SHAPES`].
    pub shapes: Vec<String>,
    /// Paths outside the resource API.
    pub non_resource: Vec<String>,
}

/// The shapes a rule can name.
///
/// | shape | a request that |
/// | --- | --- |
/// | `collection` | reads a collection: LIST, or a watch that begins with the state |
/// | `unlimited` | reads a collection with no page size the server honours |
/// | `paged` | LISTs with a page size the server honours, or a later page |
/// | `all-namespaces` | reads a collection across all namespaces or of a cluster-scoped resource |
/// | `initial-watch` | watches, beginning with the state |
/// | `watch-start` | watches from a resource version on: cheap to start |
/// | `from-etcd` | reads past the watch cache |
/// | `any-version` | reads a collection as it may have been (`resourceVersion=0`), as informers begin |
/// | `long-running` | has no deadline: watch, exec, log, port-forward |
/// | `dry-run` | stores nothing |
pub const SHAPES: [&str; 10] = [
    "collection",
    "unlimited",
    "paged",
    "all-namespaces",
    "initial-watch",
    "watch-start",
    "from-etcd",
    "any-version",
    "long-running",
    "dry-run",
];
