//! Scenarios: what an overload looks like, as YAML. Unknown keys are refused.

mod builtin;

use serde::Deserialize;
use thiserror::Error;

use crate::units::{Size, Span};

/// Why a scenario cannot be run.
#[derive(Debug, Error)]
pub enum WrongScenario {
    /// It is not what a scenario looks like; says where and what was expected.
    #[error("scenario {name}: {message}")]
    Unreadable {
        /// The file or the built-in scenario.
        name: String,
        /// The parser's message, with line and column.
        message: String,
    },
    /// It can be read and makes no sense.
    #[error("scenario {name}: {what}")]
    Senseless {
        /// Its name.
        name: String,
        /// What, and what to do.
        what: String,
    },
}

/// A scenario; see `load-tests/scenarios`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What it is about, for people.
    pub about: String,
    /// How long it lasts.
    pub length: Span,
    /// What happens before is not counted.
    #[serde(default)]
    pub warm_up: Span,
    /// The cluster and its everyday life.
    #[serde(default)]
    pub cluster: Cluster,
    /// The server.
    pub server: Server,
    /// Who else sends what.
    #[serde(default)]
    pub clients: Vec<Clients>,
    /// What happens to the server and to the proxy.
    #[serde(default)]
    pub events: Vec<Happening>,
    /// What the proxy gets wrong.
    #[serde(default)]
    pub faults: Faults,
    /// What must hold.
    pub expect: Expect,
}

/// The cluster.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Nodes: they renew leases, report status, read their objects and watch. 0: no everyday life at all.
    #[serde(default)]
    pub nodes: u64,
    /// Pods per node: how long a LIST of all pods is.
    #[serde(default)]
    pub pods_per_node: u64,
    /// What the everyday life takes of the server, 0..1; the nodes' leases and status reports are as many as there are
    /// nodes, and the rest fills up to this.
    #[serde(default)]
    pub everyday: f64,
}

/// The server.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Cores.
    pub cores: usize,
    /// The memory it may use.
    #[serde(default = "sixteen_gib")]
    pub memory: Size,
    /// What of it is live when nothing goes on.
    #[serde(default = "two_gib")]
    pub base: Size,
    /// Live memory per byte of an answer under way.
    #[serde(default = "per_answer_byte")]
    pub per_answer_byte: f64,
    /// Mean latency of etcd.
    #[serde(default = "etcd_latency")]
    pub etcd_latency: Span,
    /// Writes etcd can make durable per second.
    #[serde(default = "writes_per_second")]
    pub writes_per_second: f64,
    /// How long it takes to be ready again after it was killed.
    #[serde(default = "restart")]
    pub restart: Span,
}

fn sixteen_gib() -> Size {
    Size(16 << 30)
}

fn two_gib() -> Size {
    Size(2 << 30)
}

fn per_answer_byte() -> f64 {
    2.5
}

fn etcd_latency() -> Span {
    Span(std::time::Duration::from_millis(2))
}

fn writes_per_second() -> f64 {
    10_000.0
}

fn restart() -> Span {
    Span(std::time::Duration::from_secs(6))
}

/// Who somebody is, from verified credentials.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Who {
    /// `namespace/name`; with several tenants, each has a number behind its name.
    ServiceAccount(String),
    /// A user with a certificate.
    User(String),
    /// A user of `system:masters`.
    Admin(String),
    /// The nodes.
    Node,
    /// Nobody.
    Anonymous,
}

/// When and how often they send.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Demand {
    /// So many requests per second, whatever becomes of the earlier ones (Poisson).
    PerSecond(f64),
    /// The same as a share of the server: 1 is as much work as all its cores can do.
    Load(f64),
    /// Each client once in so long, at a moment of its own.
    Every(Span),
    /// Each client again so long after its last one ended.
    Again(Span),
    /// Informers: they have listed, and watch; when the watch breaks they watch again, and when the server has
    /// forgotten where they were, they list.
    Informer(Informer),
    /// Leader election: renew every 2 s, lost after 10 s without.
    Leader(Leader),
    /// Kubelets renewing their leases every 10 s.
    Heartbeat(Empty),
}

/// Nothing to say about it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// How informers come back.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Informer {
    /// Whether they begin with a LIST when they are first there, or watch already.
    #[serde(default)]
    pub starts_with_list: bool,
}

/// What hangs on a leader.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leader {
    /// Informers (by name) that list everything anew when the leader has lost its seat and starts again.
    #[serde(default)]
    pub relist: Option<String>,
}

/// What clients do when they are refused.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Patience {
    /// client-go: sleep exactly what Retry-After says, up to ten times; without it, an error.
    #[default]
    ClientGo,
    /// Each request is another client's: a refused one does not come back.
    None,
    /// Ignores Retry-After: again after 100 ms, for ever.
    Rude,
}

/// How much work requests are.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// All the same.
    #[default]
    Fixed,
    /// Exponentially distributed.
    Exponential,
}

/// A population of clients that send the same.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    /// Its name.
    pub name: String,
    /// Who they are.
    pub who: Who,
    /// Method and target, as in `GET /api/v1/pods?resourceVersion=0`; classified by the default policy.
    pub call: String,
    /// `Accept`: protobuf instead of JSON.
    #[serde(default)]
    pub protobuf: bool,
    /// Core time of one; if not given, it follows from the objects.
    #[serde(default)]
    pub work: Option<Span>,
    /// Bytes of the answer; likewise.
    #[serde(default)]
    pub bytes: Option<Size>,
    /// Objects in the answer: 14 kB of JSON each, 12 ns of core time per byte; half of both in protobuf.
    #[serde(default)]
    pub objects: Option<u64>,
    /// All pods of the cluster.
    #[serde(default)]
    pub all_pods: bool,
    /// How the work is distributed.
    #[serde(default)]
    pub spread: Spread,
    /// When and how often.
    pub demand: Demand,
    /// How many clients; all nodes if not given and `per_node` is set.
    #[serde(default)]
    pub count: Option<u64>,
    /// So many on each node.
    #[serde(default)]
    pub per_node: Option<u64>,
    /// Among how many tenants they are divided.
    #[serde(default = "one")]
    pub tenants: u64,
    /// When refused.
    #[serde(default)]
    pub patience: Patience,
    /// After this long they give up; built in: 10 s, LISTs 60 s.
    #[serde(default)]
    pub gives_up: Option<Span>,
    /// An answer later than this is of no use; built in: 1 s, LISTs 10 s.
    #[serde(default)]
    pub in_time: Option<Span>,
    /// How long they take to read the answer.
    #[serde(default)]
    pub reads_for: Span,
    /// From when.
    #[serde(default)]
    pub from: Span,
    /// Until when.
    #[serde(default)]
    pub until: Option<Span>,
    /// Within how long all of them arrive.
    #[serde(default)]
    pub within: Option<Span>,
    /// Through the reserved lane.
    #[serde(default)]
    pub reserved: bool,
    /// They cause the overload: what they lose is not held against anybody.
    #[serde(default)]
    pub culprit: bool,
}

const fn one() -> u64 {
    1
}

/// Something that happens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Happening {
    /// When.
    pub at: Span,
    /// What.
    #[serde(rename = "do")]
    pub what: Act,
}

/// What can happen.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// The server has so many cores from now on.
    Cores(usize),
    /// Nothing runs for so long.
    Pause(Span),
    /// The server is unreachable for so long and then there as before.
    Outage(Span),
    /// The server is killed; back after its time to restart, with an empty watch history.
    Crash(Empty),
    /// etcd answers nothing for so long.
    EtcdStall(Span),
    /// The proxy's clock jumps ahead.
    ClockJump(Span),
    /// The proxy's control thread stands still: no probe, no tick.
    ControlStall(Span),
}

/// What goes wrong all the time.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    /// Standard deviation of the logarithm of a factor on every estimate.
    #[serde(default)]
    pub estimates: f64,
    /// Stop-the-world pauses: one in this time in the mean.
    #[serde(default)]
    pub pause_every: Option<Span>,
    /// Their mean length (exponential).
    #[serde(default)]
    pub pause: Span,
    /// etcd is compacted this often.
    #[serde(default)]
    pub compaction_every: Option<Span>,
    /// And stalls meanwhile for this long.
    #[serde(default)]
    pub compaction: Span,
}

/// How soon somebody is to be served.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Within {
    /// Who.
    pub clients: String,
    /// How soon.
    pub p99: Span,
}

/// What must hold, of everybody but the culprits; what is not given is not asked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Least share of calls of classes 0 to 3 that are answered in time.
    #[serde(default)]
    pub important: Option<f64>,
    /// Least share of all calls but the culprits' that are answered in time.
    #[serde(default)]
    pub kept: Option<f64>,
    /// Least work answered in time, as a share of the smaller of what was asked for and what the server can do.
    #[serde(default)]
    pub useful: Option<f64>,
    /// Slowest 99th percentile of any class from 0 to 3.
    #[serde(default)]
    pub slowest: Option<Span>,
    /// Calls of these clients are answered within this long (99th percentile), whatever was in between.
    #[serde(default)]
    pub within: Vec<Within>,
    /// Most times the server is killed for its memory; built in: 0.
    #[serde(default)]
    pub killed: u64,
    /// Most nodes that are taken for dead; built in: 0.
    #[serde(default)]
    pub nodes_lost: u64,
    /// Most leaders that lose their seat; built in: 0.
    #[serde(default)]
    pub leaders_lost: u64,
}

impl Scenario {
    /// The names of the built-in scenarios, in the order they are run.
    pub fn names() -> impl Iterator<Item = &'static str> {
        builtin::names()
    }

    /// The built-in scenario of that name; `None` if there is none.
    ///
    /// # Errors
    /// [`WrongScenario`]; a test reads them all.
    pub fn builtin(name: &str) -> Option<Result<Self, WrongScenario>> {
        builtin::builtin(name)
    }

    /// Reads a scenario; `name` is for messages.
    ///
    /// # Errors
    /// [`WrongScenario`]: what is wrong, where, and what was expected.
    pub fn read(name: &str, yaml: &str) -> Result<Self, WrongScenario> {
        let scenario: Self =
            serde_saphyr::from_str(yaml).map_err(|error| WrongScenario::Unreadable {
                name: name.into(),
                message: error.to_string(),
            })?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), WrongScenario> {
        let wrong = |what: String| {
            Err(WrongScenario::Senseless {
                name: self.name.clone(),
                what,
            })
        };
        if !(1..=crate::server::cpu::MOST_CORES).contains(&self.server.cores) {
            return wrong(format!(
                "server.cores: {} is not between 1 and 256",
                self.server.cores
            ));
        }
        if self.warm_up >= self.length {
            return wrong("warm_up: nothing is counted; make it shorter than length".into());
        }
        if !(0.0..=1.0).contains(&self.cluster.everyday) {
            return wrong(format!(
                "cluster.everyday: {} is not a share between 0 and 1",
                self.cluster.everyday
            ));
        }
        if let Some(within) = self.expect.within.iter().find(|within| {
            self.clients
                .iter()
                .all(|clients| clients.name != within.clients)
        }) {
            return wrong(format!(
                "expect.within: there are no clients {}",
                within.clients
            ));
        }
        for clients in &self.clients {
            let name = &clients.name;
            let sized = clients.work.is_some() || clients.objects.is_some() || clients.all_pods;
            if !sized {
                return wrong(format!(
                    "clients {name}: give work, objects or all_pods: true"
                ));
            }
            if clients.tenants == 0 || clients.count == Some(0) {
                return wrong(format!("clients {name}: count and tenants begin at 1"));
            }
            if clients.per_node.is_some() && self.cluster.nodes == 0 {
                return wrong(format!("clients {name}: per_node, and cluster.nodes is 0"));
            }
            if let Demand::Leader(Leader {
                relist: Some(other),
            }) = &clients.demand
                && !self.clients.iter().any(|clients| clients.name == *other)
            {
                return wrong(format!(
                    "clients {name}: demand.leader.relist: there are no clients {other}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
