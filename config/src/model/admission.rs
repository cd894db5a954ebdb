//! `admission`: the part of the model that decides who waits.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Cancel, Confine, HardLimit};
use crate::units::{ByteSize, DurationText, Percent, serialize_duration};

/// `admission`: what is admitted, queued and shed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Admission {
    /// `mode`: whether decisions are carried out. Default enforce.
    pub mode: Mode,
    /// `limit`: bounds of the tuner.
    pub limit: Limit,
    /// `probe`: the sensor of the tuner.
    pub probe: Probe,
    /// `queue`: how long and how many may wait.
    pub queue: Queue,
    /// `bytes`: response bytes in flight, 1MiB..=1TiB. Default 512MiB.
    pub bytes: ByteSize,
    /// `collapse`: when identical reads of one caller share a call. Default congested.
    pub collapse: Collapse,
    /// `stale`: last good answers for when the server is away.
    pub stale: Stale,
    /// `max_shed_share`: tenants lose at most this share of what they ask for, on average; 100% = no bound.
    ///
    /// The red button of a roll-out: with 5%, a wrong policy costs at most every
    /// twentieth request, and an overload above it reaches the server. Default 100%.
    pub max_shed_share: Percent,
    /// `enforced_tenants`: share of tenants, chosen by hash, for which `enforce` is
    /// carried out; for the others it is `shadow`. Default 100%.
    pub enforced_tenants: Percent,
    /// `classes`: replaces the class list, most important first; empty = the built-in
    /// classes with their built-in reserves. Default empty.
    pub classes: Vec<Class>,
    /// `rules`: tried before the built-in rules; the first match wins. Default none.
    pub rules: Vec<Rule>,
    /// `limits`: hard limits beside all of this. Default none.
    pub limits: Vec<HardLimit>,
    /// `state`: a folder in which run-time changes of the mode, measures and what was learned about costs survive a
    /// restart; a change needs one. Default none: they end with the process.
    pub state: Option<PathBuf>,
    /// `measures`: the file in which measures (`spillway quarantine`, `confine_culprit`)
    /// survive a restart; a change needs one. Default `measures.json` in `state`.
    pub measures: Option<PathBuf>,
    /// `confine_culprit`: confine whoever is behind an overload. Default none.
    pub confine_culprit: Option<Confine>,
    /// `cancel_culprit`: then break off what it has running. Default none.
    pub cancel_culprit: Option<Cancel>,
    /// `culprit_events`: the namespace in which a Kubernetes Event names the culprit, created
    /// as user `system:spillway`, who must be allowed to. Default none.
    pub culprit_events: Option<String>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            limit: Limit::default(),
            probe: Probe::default(),
            queue: Queue::default(),
            bytes: ByteSize::mebibytes(512),
            collapse: Collapse::default(),
            stale: Stale::default(),
            max_shed_share: Percent::HUNDRED,
            enforced_tenants: Percent::HUNDRED,
            classes: Vec::new(),
            rules: Vec::new(),
            limits: Vec::new(),
            state: None,
            measures: None,
            confine_culprit: None,
            cancel_culprit: None,
            culprit_events: None,
        }
    }
}

/// `admission.mode`: whether decisions are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A plain proxy: nothing is decided.
    Off,
    /// Decide and count, but admit everything.
    Shadow,
    /// Decide and carry it out.
    #[default]
    Enforce,
}

/// `admission.collapse`: when identical reads of one caller share a call to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Collapse {
    /// Never.
    Off,
    /// While something queues at the server, or waits for admission.
    #[default]
    Congested,
    /// Also on a calm server.
    Always,
}

/// `admission.stale`: last good answers to LISTs of `resourceVersion=0`, given to the same
/// user again while the server cannot be asked, with `Warning` and `X-Spillway-Stale`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Stale {
    /// `users`: who may have them, as `system:serviceaccount:kube-system:coredns`; one `*`
    /// at the end makes a prefix. Default none: nothing is kept.
    pub users: Vec<String>,
    /// `resources`: of what, as `endpointslices`; one `*` at the end makes a prefix.
    /// Default everything but secrets, which must be named.
    pub resources: Vec<String>,
    /// `bytes`: of all that is kept, 1MiB..=1TiB; one answer may take half. Default 64MiB.
    pub bytes: ByteSize,
    /// `max_age`: nothing older is given, 1s..=24h. Default 1h.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub max_age: Duration,
}

impl Default for Stale {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            resources: Vec::new(),
            bytes: ByteSize::mebibytes(64),
            max_age: Duration::from_secs(3_600),
        }
    }
}

/// `admission.limit`: outstanding work the tuner may allow, as server time (a request
/// that keeps the server busy for 20 ms costs 20ms). `min ≤ initial ≤ max`, or `initial: 0s`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Limit {
    /// `initial`: the limit at start, from where it grows quickly; 0s means 100ms for each core
    /// that Spillway sees, which is the server's host. Default 0s.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub initial: Duration,
    /// `min`: never below, 1ms or more. Default 50ms.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub min: Duration,
    /// `max`: never above, 10m or less. Default 30s.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub max: Duration,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            initial: Duration::ZERO,
            min: Duration::from_millis(50),
            max: Duration::from_secs(30),
        }
    }
}

/// `admission.probe`: the trivial call whose delay shows the server's queue.
/// `target < timeout` and `interval < timeout`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Probe {
    /// `path`: starts with `/`. Default `/livez/ping`, which the server exempts from its
    /// own queues.
    pub path: String,
    /// `interval`: between two probes, 5ms..=10s. Default 50ms.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// `timeout`: a probe that takes longer has failed, at most 1m. Default 2s.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// `target`: delay above the baseline that counts as queueing, 1ms or more.
    /// Default 20ms.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub target: Duration,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            path: "/livez/ping".to_owned(),
            interval: Duration::from_millis(50),
            timeout: Duration::from_secs(2),
            target: Duration::from_millis(20),
        }
    }
}

/// `admission.queue`: how long and how many may wait, per class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Queue {
    /// `short_deadline`: for calls on one object, 0ms..=`long_deadline`; four times that while nobody of their
    /// class was refused lately. Default 250ms.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub short_deadline: Duration,
    /// `long_deadline`: for LIST and the start of a WATCH, at most 1m; four times that while nobody of their class was
    /// refused lately, and always in classes 1 to 3; eight times where each takes seconds. Default 2s.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub long_deadline: Duration,
    /// `max_waiting`: requests that wait in one class, 0..=100000. Default 2000.
    #[schemars(range(min = 0, max = 100000))]
    pub max_waiting: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            short_deadline: Duration::from_millis(250),
            long_deadline: Duration::from_secs(2),
            max_waiting: 2000,
        }
    }
}

/// `admission.classes[]`: one class; its position in the list is its importance.
///
/// The last class is where anonymous and unverified clients stay, the one before it
/// takes everybody no rule wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Class {
    /// `name`: 1 to 40 lower-case letters, digits and `-`; the label of its metrics.
    /// Required.
    pub name: String,
    /// `reserve`: share of the limit that less important classes may never use.
    ///
    /// All reserves but the last together stay below 100%. Default 0%.
    #[schemars(default)]
    pub reserve: Percent,
    /// `guarantee`: share of the limit that this class may use whatever more important classes ask for, and one
    /// request at a time if that is more.
    ///
    /// All guarantees together are at most 50%. Not for the first class, which has a bound of its own. Default 0%:
    /// importance is strict, and a storm in a more important class can take everything but what is running.
    #[schemars(default)]
    pub guarantee: Percent,
    /// `max_shed_share`: its tenants lose at most this share of what they ask for, on average.
    ///
    /// `admission.max_shed_share` holds as well, whichever is lower. Default 50% for `control-plane`, `operators` and `nodes`,
    /// for all others 100%, which is no bound.
    #[schemars(with = "Option<Percent>")]
    pub max_shed_share: Percent,
}

impl Class {
    /// [`Self::max_shed_share`] of a class of this name when nothing is written: an own list of classes does not take the
    /// red button away from the built-in ones without saying so.
    #[must_use]
    pub fn usual_max_shed_share(name: &str) -> Percent {
        match name {
            "control-plane" | "operators" | "nodes" => Percent::from_basis_points(5_000),
            _ => Percent::HUNDRED,
        }
    }
}

/// `admission.rules[]`: requests that match `when` belong to `class`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Rule {
    /// `name`: formed as a class name; appears in `explain`, in logs and in metrics.
    /// `health`, `otherwise`, `unverified` and those of built-in rules are taken.
    /// Required.
    pub name: String,
    /// `when`: what must hold; empty = every request.
    #[schemars(default)]
    pub when: Match,
    /// `class`: the name of a class. Required.
    pub class: String,
}

/// `admission.rules[].when`: conditions on a request. All of them must hold; one that is
/// not written always holds.
///
/// Each list is a set of alternatives. An entry that begins with `!` excludes: a list
/// holds if no excluding entry fits and, where it has others, one of these does. Quote
/// such entries, an unquoted `!` is YAML's own. Texts are compared exactly; one `*` at
/// the end makes a prefix. Field names and syntax are those of the decision core.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Match {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// User names.
    pub users: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// Groups; one membership is enough.
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// Service accounts: `namespace/name`, `namespace/*` or `*`.
    pub service_accounts: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// How the identity became known: `certificate`, `request-header`,
    /// `service-account`, `learned`, `anonymous`, `unattributed`.
    pub sources: Vec<String>,
    /// Whether it is a node: `true`, `false`; not written = both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// User-Agent headers. A rule that names nobody else can only lower a request.
    pub user_agents: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// Client addresses or networks, as `10.0.0.0/8`.
    pub addresses: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// Verbs: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`,
    /// `deletecollection`, `proxy`; outside the resource API methods in lower case.
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// API groups; `""` or `core` is the core group.
    pub api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// Resources: `pods`, `pods/status`, `pods/*`, `*/scale` or `*`.
    pub resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// Namespaces of the request.
    pub namespaces: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// Object names of the request.
    pub names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// How much is addressed: `named`, `namespaced`, `cluster`, `non-resource`.
    pub scopes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// What it looks like: `collection`, `unlimited`, `paged`, `all-namespaces`,
    /// `initial-watch`, `watch-start`, `from-etcd`, `any-version`, `long-running`, `dry-run`.
    pub shapes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    /// Paths outside the resource API, `/metrics` or `/livez/*`.
    pub non_resource: Vec<String>,
}

impl Match {
    /// Whether no condition is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
