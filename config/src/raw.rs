//! The file as written: every key optional, every value text with its position.
//!
//! Values stay text here, because a wrong value should be reported together with all
//! other wrong values, while serde stops at the first. What serde does judge is the
//! frame: which keys exist, and whether a node is a scalar, a list or a mapping.
//! The keys are documented at their namesakes in `model.rs`; a test holds the two
//! together.

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::report::At;

/// One value and where it stands.
pub(crate) type Scalar = Spanned<String>;
/// A list and where it starts.
pub(crate) type List = Spanned<Vec<Scalar>>;

/// Where something stands; none for nodes made up by the parser.
pub(crate) fn at(location: &Location) -> Option<At> {
    (location.line() > 0).then(|| At {
        line: location.line(),
        column: location.column(),
        width: location.span().len().max(1),
    })
}

/// Where a value stands, if it was written at all.
pub(crate) fn at_value<T>(value: Option<&Spanned<T>>) -> Option<At> {
    value.and_then(|value| at(&value.referenced))
}

macro_rules! section {
    ($name:ident { $($key:ident: $kind:ty,)* }) => {
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name { $(pub(crate) $key: Option<$kind>,)* }
    };
}

section!(Config {
    pki: Scalar,
    listen: Spanned<Listen>,
    tls: Tls,
    upstream: Upstream,
    service_accounts: ServiceAccounts,
    request_header: RequestHeader,
    reserved: Reserved,
    admin: Admin,
    admission: Admission,
    policy: Policies,
    log: Log,
    traces: Traces,
});

section!(Listen {
    main: List,
    reserved: List,
    admin: Scalar,
    workers: Scalar,
    max_connections: Scalar,
    max_handshakes: Scalar,
    max_tunnels: Scalar,
    tunnel_idle: Scalar,
    grace: Scalar,
    handover: Scalar,
});

section!(Tls {
    certificate: Scalar,
    key: Scalar,
    client_ca: Scalar,
});

section!(KeyPair {
    certificate: Scalar,
    key: Scalar,
});

section!(Upstream {
    address: Scalar,
    server_name: Scalar,
    ca: Scalar,
    front_proxy: KeyPair,
    request_headers: RequestHeaders,
    streams_per_connection: Scalar,
    max_connections: Scalar,
    connect_timeout: Scalar,
    cgroup: Scalar,
    memory_limit: Scalar,
});

section!(RequestHeaders {
    user: Scalar,
    group: Scalar,
    extra_prefix: Scalar,
    uid: Scalar,
});

section!(ServiceAccounts {
    keys: List,
    issuers: List,
    published_keys: Scalar,
});

section!(RequestHeader {
    client_ca: Scalar,
    allowed_names: List,
    user_headers: List,
    group_headers: List,
    uid_headers: List,
    extra_prefixes: List,
});

section!(Admin {
    socket: Scalar,
    group: Scalar,
});

section!(Check {
    enabled: Scalar,
    interval: Scalar,
    certificate: Scalar,
    key: Scalar,
});

section!(Reserved {
    client_ca: Scalar,
    revoked: Scalar,
    users: List,
    groups: List,
    service_accounts: List,
    max_in_flight: Scalar,
    max_connections: Scalar,
    check: Check,
});

section!(Admission {
    mode: Scalar,
    limit: Limit,
    probe: Probe,
    queue: Queue,
    bytes: Scalar,
    collapse: Scalar,
    stale: Stale,
    max_shed_share: Scalar,
    enforced_tenants: Scalar,
    classes: Spanned<Vec<Spanned<Class>>>,
    rules: Vec<Spanned<Rule>>,
    limits: Vec<Spanned<HardLimit>>,
    state: Scalar,
    measures: Scalar,
    confine_culprit: Spanned<Confine>,
    cancel_culprit: Spanned<Cancel>,
    culprit_events: Scalar,
});

section!(PolicyDocument {
    rules: Vec<Spanned<Rule>>,
    limits: Vec<Spanned<HardLimit>>,
});

section!(Policies {
    file: Scalar,
    highest_class: Scalar,
    guard: Guard,
    from_cluster: Spanned<FromCluster>,
});

section!(Guard {
    classes: List,
    tolerance: Scalar,
    watch: Scalar,
});

section!(FromCluster {
    namespace: Scalar,
    name: Scalar,
});

section!(HardLimit {
    name: Scalar,
    when: Match,
    class: Scalar,
    per: Scalar,
    concurrency: Scalar,
    rate: Scalar,
    burst: Scalar,
    server_time: Scalar,
    watches: Scalar,
    sessions: Scalar,
    deny: Scalar,
    message: Scalar,
});

section!(Confine {
    after: Scalar,
    share: Scalar,
    r#for: Scalar,
});

section!(Cancel {
    after: Scalar,
    rate: Scalar,
});

section!(Stale {
    users: List,
    resources: List,
    bytes: Scalar,
    max_age: Scalar,
});

section!(Limit {
    initial: Scalar,
    min: Scalar,
    max: Scalar,
});

section!(Probe {
    path: Scalar,
    interval: Scalar,
    timeout: Scalar,
    target: Scalar,
});

section!(Queue {
    short_deadline: Scalar,
    long_deadline: Scalar,
    max_waiting: Scalar,
});

section!(Class {
    name: Scalar,
    reserve: Scalar,
    guarantee: Scalar,
    max_shed_share: Scalar,
});

section!(Rule {
    name: Scalar,
    when: Match,
    class: Scalar,
});

/// The conditions of a rule: lists all of them, but for `node`.
macro_rules! conditions {
    ($($field:ident)*) => {
        section!(Match { node: Scalar, $($field: List,)* });

        impl Match {
            /// Every list with its key.
            pub(crate) fn lists(&self) -> Vec<(&'static str, Option<&List>)> {
                vec![$((stringify!($field), self.$field.as_ref()),)*]
            }
        }

        /// The resolved conditions from the values of each list.
        pub(crate) fn conditions(
            node: Option<bool>,
            mut values: impl FnMut(&'static str) -> Vec<String>,
        ) -> crate::model::Match {
            crate::model::Match { node, $($field: values(stringify!($field)),)* }
        }
    };
}

conditions!(
    users groups service_accounts sources user_agents addresses verbs api_groups
    resources namespaces names scopes shapes non_resource
);

section!(Log {
    level: Scalar,
    format: Scalar,
    access: AccessLog,
    audit: AuditLog,
});

section!(AccessLog {
    file: Scalar,
    sample: Scalar,
    max_size: Scalar,
    keep: Scalar,
});

section!(AuditLog {
    file: Scalar,
    max_size: Scalar,
    keep: Scalar,
});

section!(Traces {
    endpoint: Scalar,
    ca: Scalar,
    sample: Scalar,
    asked: Scalar,
    most: Scalar,
    queue: Scalar,
});
