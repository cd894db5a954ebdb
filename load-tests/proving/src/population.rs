//! Who sends what, ready to run: the scenario's clients and the cluster's everyday life.

use proxy_core::hash::mix;
use proxy_core::identity::Identity;

use crate::call::{self, Call, Takes};
use crate::everyday;
use crate::scenario::{Clients, Demand, Patience, Scenario, Spread, Who, WrongScenario};
use crate::units::Span;

/// How they send.
#[derive(Clone, Debug)]
pub enum Sends {
    /// So many per second (Poisson).
    PerSecond(f64),
    /// Each once in so many µs.
    Every(u64),
    /// Each again so many µs after its last one ended.
    Again(u64),
    /// Informers; what they watch with.
    Informer {
        /// The watch.
        watch: Box<Call>,
        /// Whether they have yet to list.
        starts_with_list: bool,
    },
    /// Leaders; which population lists anew when one is lost.
    Leader(Option<usize>),
    /// Leases of nodes.
    Heartbeat,
}

/// A population.
#[derive(Clone, Debug)]
pub struct Population {
    /// Its name.
    pub name: String,
    /// What it sends.
    pub call: Call,
    /// When.
    pub sends: Sends,
    /// Clients, where it has a number of them.
    pub count: u32,
    /// The tenants they belong to.
    pub tenants: Vec<u64>,
    /// When refused.
    pub patience: Patience,
    /// They give up after this, µs.
    pub gives_up: u64,
    /// An answer later than this is of no use, µs.
    pub in_time: u64,
    /// Time they take to read an answer, µs.
    pub reads_for: u64,
    /// From when, µs.
    pub from: u64,
    /// Until when, µs.
    pub until: u64,
    /// Within how long they all arrive, µs.
    pub within: u64,
    /// Through the reserved lane.
    pub reserved: bool,
    /// They cause the overload.
    pub culprit: bool,
}

impl Population {
    /// Whose a client is.
    #[must_use]
    pub fn tenant(&self, client: u32) -> u64 {
        self.tenants
            .get(client as usize % self.tenants.len().max(1))
            .copied()
            .unwrap_or(0)
    }

    /// Which instance of its tenant it is.
    #[must_use]
    pub fn instance(&self, client: u32) -> u64 {
        mix(self.tenant(client) ^ mix(u64::from(client)))
    }
}

/// Everybody of a scenario, the everyday life first.
///
/// # Errors
/// [`WrongScenario`] when a call cannot be read.
pub fn of(scenario: &Scenario) -> Result<Vec<Population>, WrongScenario> {
    let everyday = everyday::of(scenario);
    let all: Vec<&Clients> = everyday.iter().chain(&scenario.clients).collect();
    let mut populations = Vec::with_capacity(all.len());
    for clients in &all {
        populations.push(population(scenario, clients, &all)?);
    }
    Ok(populations)
}

fn identity(who: &Who, nth: u64) -> Identity {
    let numbered = |name: &str| {
        if nth == 0 {
            name.to_owned()
        } else {
            format!("{name}-{nth}")
        }
    };
    match who {
        Who::ServiceAccount(account) => {
            let (namespace, name) = account.split_once('/').unwrap_or(("default", account));
            Identity::service_account(namespace, &numbered(name), None, None, None)
        }
        Who::User(user) => Identity::certificate(&numbered(user), Vec::new(), None, Vec::new()),
        Who::Admin(user) => Identity::certificate(
            &numbered(user),
            vec!["system:masters".into()],
            None,
            Vec::new(),
        ),
        Who::Node => Identity::certificate(
            "system:node:n",
            vec!["system:nodes".into()],
            None,
            Vec::new(),
        ),
        Who::Anonymous => Identity::anonymous(),
    }
}

/// What a call takes that is as large as so many objects (measured on a real server: 14 kB of JSON per pod, 12 ns per byte;
/// protobuf half of the time and 0.4 of the bytes).
fn of_objects(objects: u64, protobuf: bool) -> (f64, u64) {
    let json = objects * 14_000;
    if protobuf {
        (500.0 + json as f64 * 0.006, json * 2 / 5)
    } else {
        (500.0 + json as f64 * 0.012, json)
    }
}

fn population(
    scenario: &Scenario,
    clients: &Clients,
    all: &[&Clients],
) -> Result<Population, WrongScenario> {
    let wrong = |what: String| WrongScenario::Senseless {
        name: scenario.name.clone(),
        what,
    };
    let cluster = &scenario.cluster;
    let objects = if clients.all_pods {
        Some(cluster.nodes * cluster.pods_per_node)
    } else {
        clients.objects
    };
    let (work, bytes) = objects.map_or((0.0, 4_000), |objects| {
        of_objects(objects, clients.protobuf)
    });
    let takes = Takes {
        work: clients.work.map_or(work, |work| work.micros() as f64),
        spread: clients.spread,
        bytes: clients.bytes.map_or(bytes, |bytes| bytes.0),
    };
    let first = identity(&clients.who, 0);
    let unreadable = || {
        wrong(format!(
            "clients {}: {:?} is not METHOD /path",
            clients.name, clients.call
        ))
    };
    let call = call::read(&clients.call, clients.protobuf, &first, takes).ok_or_else(unreadable)?;
    let long = call.kind == proxy_core::admission::Kind::Long;
    let seconds = |seconds: u64| seconds * 1_000_000;
    let capacity = scenario.server.cores as f64 * 1e6;
    let count = match (clients.count, clients.per_node) {
        (Some(count), _) => count,
        (None, Some(each)) => each * cluster.nodes,
        (None, None) if matches!(clients.who, Who::Node) => cluster.nodes,
        (None, None) => 1,
    };
    let mut gives_up = clients.gives_up.map(Span::micros);
    let sends = match &clients.demand {
        Demand::PerSecond(rate) => Sends::PerSecond(*rate),
        Demand::Load(share) => Sends::PerSecond(share * capacity / call.work),
        Demand::Every(period) => Sends::Every(period.micros().max(1)),
        Demand::Again(pause) => Sends::Again(pause.micros()),
        Demand::Informer(informer) => {
            let (target, _) = clients.call.split_once('?').unwrap_or((&clients.call, ""));
            let watch =
                format!("{target}?watch=true&resourceVersion=1000&allowWatchBookmarks=true");
            let takes = Takes {
                work: 500.0,
                spread: Spread::Fixed,
                bytes: 4_000,
            };
            let watch =
                call::read(&watch, clients.protobuf, &first, takes).ok_or_else(unreadable)?;
            Sends::Informer {
                watch: Box::new(watch),
                starts_with_list: informer.starts_with_list,
            }
        }
        Demand::Leader(leader) => {
            gives_up = gives_up.or_else(|| Some(seconds(5)));
            let named = |name: &String| all.iter().position(|other| other.name == *name);
            Sends::Leader(leader.relist.as_ref().and_then(named))
        }
        Demand::Heartbeat(_) => Sends::Heartbeat,
    };
    Ok(Population {
        name: clients.name.clone(),
        sends,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        tenants: (0..clients.tenants)
            .map(|nth| identity(&clients.who, nth).tenant())
            .collect(),
        patience: clients.patience,
        gives_up: gives_up.unwrap_or_else(|| seconds(if long { 60 } else { 10 })),
        in_time: clients
            .in_time
            .map_or_else(|| seconds(if long { 10 } else { 1 }), Span::micros),
        reads_for: clients.reads_for.micros(),
        from: clients.from.micros(),
        until: clients.until.map_or(u64::MAX, Span::micros),
        within: clients.within.map_or(0, Span::micros),
        reserved: clients.reserved,
        culprit: clients.culprit,
        call,
    })
}
