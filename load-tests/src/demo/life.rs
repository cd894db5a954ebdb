//! The normal life of a cluster: what goes on before, during and after the
//! storm.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::cast::{Cast, SMALL};
use super::objects;
use super::upstream::Endpoint;
use crate::control_plane::Auth;
use crate::generate::{Arrival, Call, Client, Patience, Schedule, Until, open_loop, perform};
use crate::record::{Current, Outcome, Population};

/// Everybody, by the class the built-in policy gives them.
pub(crate) static POPULATIONS: &[Population] = &[
    population("node-leases", "life-signs"),
    population("node-status", "life-signs"),
    population("leader-election", "life-signs"),
    population("controllers", "control-plane"),
    population("dns-informers", "control-plane"),
    population("person", "operators"),
    population("kubelets", "nodes"),
    population("shop-writes", "workload-writes"),
    population("shop-reads", "workload-reads"),
    population("telemetry", "bulk"),
    population("telemetry-small", "bulk"),
];

const NODE_LEASES: usize = 0;
const NODE_STATUS: usize = 1;
const LEADER_ELECTION: usize = 2;
const CONTROLLERS: usize = 3;
const DNS: usize = 4;
const PERSON: usize = 5;
const KUBELETS: usize = 6;
const SHOP_WRITES: usize = 7;
const SHOP_READS: usize = 8;
/// Index of the storm's LISTs of the bulk.
pub(crate) const TELEMETRY: usize = 9;
/// Index of its LISTs of something smaller.
pub(crate) const TELEMETRY_SMALL: usize = 10;

const fn population(name: &'static str, class: &'static str) -> Population {
    Population { name, class }
}

/// A kubelet renews its lease every ten seconds; this is how often each of the
/// demonstration's few nodes does, to have as many samples as a few hundred
/// nodes would give.
const RENEWALS_PER_NODE: f64 = 1.0;
/// Requests per second of the others, all their members together.
const NODE_STATUS_RATE: f64 = 5.0;
const KUBELET_RATE: f64 = 10.0;
const CONTROLLER_RATE: f64 = 10.0;
const DNS_LIST_RATE: f64 = 1.0;
const PERSON_RATE: f64 = 2.0;
const SHOP_WRITE_RATE: f64 = 10.0;
const SHOP_READ_RATE: f64 = 5.0;

/// Two components, each a GET and a PUT every two seconds.
const ELECTION_PERIOD: Duration = Duration::from_secs(2);

/// Half the renew deadline of client-go's leader election.
const ELECTION_PATIENCE: Patience = Patience {
    timeout: Duration::from_secs(5),
};
/// The kubelet's heartbeat client.
const PATIENCE: Patience = Patience {
    timeout: Duration::from_secs(10),
};

/// Requests under way of one population; more than its rate times its patience.
const IN_FLIGHT: usize = 2000;

/// Connections of one component.
const CONNECTIONS: usize = 2;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Normal life under way; ends when dropped.
pub(crate) struct Life {
    until: watch::Sender<Until>,
    tasks: JoinSet<()>,
}

impl Life {
    /// Begins it at an address.
    pub(crate) fn begin(
        cast: &Arc<Cast>,
        endpoint: &Endpoint,
        current: &Current,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let (until, _) = watch::channel(Until::Running);
        let mut life = Self {
            until,
            tasks: JoinSet::new(),
        };
        let connect = |auth: &Auth, agent: &'static str| -> anyhow::Result<Client> {
            let api = endpoint.client(auth)?;
            Ok(Client { api, agent })
        };
        let several = |auth: &Auth, agent: &'static str| -> anyhow::Result<Vec<Client>> {
            (0..CONNECTIONS).map(|_| connect(auth, agent)).collect()
        };
        let mut heartbeats = Vec::new();
        let mut kubelets = Vec::new();
        for node in &cast.nodes {
            heartbeats.push(connect(&node.auth, "kubelet/v1.36.0 heartbeat")?);
            kubelets.push(connect(&node.auth, "kubelet/v1.36.0")?);
        }
        let controllers = vec![
            connect(
                &cast.deployments,
                "kube-controller-manager/v1.36.0 deployment-controller",
            )?,
            connect(
                &cast.slices,
                "kube-controller-manager/v1.36.0 endpointslice-controller",
            )?,
            connect(&cast.manager, "kube-controller-manager/v1.36.0")?,
        ];
        let dns = several(&cast.dns, "coredns/v1.12.0")?;
        let orders = several(&cast.orders, "orders/v1.0.0")?;
        // Each call of a person is a kubectl of its own, with a connection of
        // its own.
        let person: Vec<_> = (0..32)
            .map(|_| connect(&cast.person, "kubectl/v1.36.0"))
            .collect::<Result<_, _>>()?;

        let runs: [(usize, f64, Vec<Client>, Plan); 8] = [
            (
                NODE_LEASES,
                RENEWALS_PER_NODE * cast.nodes.len() as f64,
                heartbeats.clone(),
                |cast, turn| {
                    let node = member(&cast.nodes, turn)?;
                    Some(Call::json(Method::PATCH, &node.lease, &objects::renewal()))
                },
            ),
            (NODE_STATUS, NODE_STATUS_RATE, heartbeats, |cast, turn| {
                let node = member(&cast.nodes, turn)?;
                let patch = if cast.stand_ins {
                    objects::renewal()
                } else {
                    objects::heartbeat()
                };
                Some(Call::json(Method::PATCH, &node.status, &patch))
            }),
            (KUBELETS, KUBELET_RATE, kubelets, |cast, turn| {
                let node = member(&cast.nodes, turn)?;
                Some(if turn % 2 == 0 {
                    Call::get(&node.pod)
                } else if cast.stand_ins {
                    Call::json(Method::PATCH, &node.pod_status, &objects::touch(turn))
                } else {
                    Call::json(Method::PATCH, &node.pod_status, &objects::pod_ready())
                })
            }),
            (CONTROLLERS, CONTROLLER_RATE, controllers, |cast, turn| {
                Some(controller_call(cast, turn))
            }),
            (DNS, DNS_LIST_RATE, dns.clone(), |_, turn| {
                Some(Call::get(format!("{}?resourceVersion=0", informed(turn))))
            }),
            (PERSON, PERSON_RATE, person, |cast, turn| {
                Some(kubectl_call(cast, turn))
            }),
            (
                SHOP_WRITES,
                SHOP_WRITE_RATE,
                orders.clone(),
                |cast, turn| {
                    let path = format!(
                        "/api/v1/namespaces/{}/configmaps/orders-{}",
                        cast.shop,
                        turn as usize % SMALL
                    );
                    Some(if turn.is_multiple_of(2) {
                        Call::get(path)
                    } else {
                        Call::json(Method::PATCH, path, &objects::touch(turn))
                    })
                },
            ),
            (SHOP_READS, SHOP_READ_RATE, orders, |cast, _| {
                Some(Call::get(format!(
                    "/api/v1/namespaces/{}/services",
                    cast.shop
                )))
            }),
        ];
        for (population, rate, clients, plan) in runs {
            let seed = seed.wrapping_add(population as u64);
            life.spawn_open_loop(cast, current, population, rate, seed, clients, plan);
        }
        for leader in &cast.leaders {
            let client = connect(&leader.auth, "leader-election")?;
            let (lease, current) = (leader.lease.clone(), current.clone());
            life.spawn_until(|until| elect(client, lease, current, until));
        }
        for (turn, client) in dns.into_iter().enumerate() {
            let (path, current) = (informed(turn as u64), current.clone());
            life.spawn_until(|until| inform(client, path, current, until));
        }
        Ok(life)
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one caller, which reads as a table"
    )]
    fn spawn_open_loop(
        &mut self,
        cast: &Arc<Cast>,
        current: &Current,
        population: usize,
        rate: f64,
        seed: u64,
        clients: Vec<Client>,
        plan: Plan,
    ) {
        let (cast, current, until) = (cast.clone(), current.clone(), self.until.subscribe());
        let clients = Arc::new(clients);
        let dropped = current.clone();
        let schedule = Schedule::poisson(Instant::now(), rate, seed);
        let issue = move |arrival: Arrival| {
            let (cast, clients, record) = (cast.clone(), clients.clone(), current.get());
            async move {
                let Some(client) = member(&clients, arrival.index) else {
                    return;
                };
                let Some(call) = plan(&cast, arrival.index) else {
                    return;
                };
                if population == PERSON {
                    client.api.disconnect().await;
                }
                perform(
                    client,
                    &call,
                    PATIENCE,
                    &record,
                    population,
                    arrival.intended,
                )
                .await;
            }
        };
        let overflow = move |arrival: Arrival| {
            let record = dropped.get();
            record.attempt(population).end(Outcome::Failed);
            record.ended(population, arrival.intended);
        };
        self.tasks
            .spawn(open_loop(schedule, IN_FLIGHT, until, issue, overflow));
    }

    /// Runs something until no more requests are to begin.
    fn spawn_until<Work>(&mut self, work: impl FnOnce(watch::Receiver<Until>) -> Work)
    where
        Work: Future<Output = ()> + Send + 'static,
    {
        let until = self.until.subscribe();
        let mut ended = until.clone();
        let work = work(until);
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                _ = ended.wait_for(|until| *until != Until::Running) => {}
            }
        });
    }

    /// Begins nothing new, and waits for what is under way, but not longer than
    /// `patience`.
    pub(crate) async fn end(mut self, patience: Duration) {
        self.until.send_replace(Until::Drained);
        let drained = timeout(patience, async {
            while self.tasks.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            self.until.send_replace(Until::Killed);
            self.tasks.shutdown().await;
        }
    }
}

/// What to ask for at a turn.
type Plan = fn(&Cast, u64) -> Option<Call>;

/// Whose turn it is.
fn member<T>(members: &[T], turn: u64) -> Option<&T> {
    let count = members.len().max(1) as u64;
    members.get(usize::try_from(turn % count).unwrap_or(0))
}

fn controller_call(cast: &Cast, turn: u64) -> Call {
    let namespace = cast.shop;
    // In step with the three clients.
    let name = format!("orders-{}", turn as usize / 3 % SMALL);
    match turn % 3 {
        0 => Call::json(
            Method::PATCH,
            format!("/apis/apps/v1/namespaces/{namespace}/replicasets/{name}"),
            &objects::touch(turn),
        ),
        1 => Call::json(
            Method::PUT,
            format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}"),
            &objects::endpoint_slice(&name, turn),
        ),
        _ => {
            let unique = format!("{turn:x}-{:016x}", fastrand::u64(..));
            Call::json(
                Method::POST,
                format!("/api/v1/namespaces/{namespace}/events"),
                &objects::event(namespace, &unique),
            )
        }
    }
}

fn kubectl_call(cast: &Cast, turn: u64) -> Call {
    let namespace = cast.shop;
    match turn % 4 {
        0 => Call::get("/api"),
        1 => Call::get("/apis"),
        2 => {
            Call::get(format!("/api/v1/namespaces/{namespace}/services?limit=500")).accepting(TABLE)
        }
        _ => Call::get(format!(
            "/apis/apps/v1/namespaces/{namespace}/replicasets/orders-0"
        )),
    }
}

/// What DNS is informed of.
fn informed(turn: u64) -> &'static str {
    if turn.is_multiple_of(2) {
        "/api/v1/services"
    } else {
        "/apis/discovery.k8s.io/v1/endpointslices"
    }
}

/// Keeps a lease as client-go's leader election does: GET, then PUT of what was
/// read, every two seconds.
async fn elect(client: Client, lease: String, current: Current, until: watch::Receiver<Until>) {
    let mut due = Instant::now();
    while *until.borrow() == Until::Running {
        tokio::time::sleep_until(due).await;
        let record = current.get();
        let get = Call::get(&lease);
        let read = perform(
            &client,
            &get,
            ELECTION_PATIENCE,
            &record,
            LEADER_ELECTION,
            due,
        )
        .await;
        let read = read.and_then(|body| serde_json::from_slice::<Value>(&body).ok());
        if let Some(mut object) = read {
            object["spec"]["renewTime"] = objects::renewal()["spec"]["renewTime"].clone();
            let put = Call::json(Method::PUT, &lease, &object);
            let due = Instant::now();
            perform(
                &client,
                &put,
                ELECTION_PATIENCE,
                &record,
                LEADER_ELECTION,
                due,
            )
            .await;
        }
        // The next turn is due whenever this one ends.
        due += ELECTION_PERIOD;
    }
}

/// Keeps a watch as a reflector does: LIST, WATCH from there, and again with a
/// pause when it breaks.
async fn inform(
    client: Client,
    path: &'static str,
    current: Current,
    until: watch::Receiver<Until>,
) {
    const PAUSE: Duration = Duration::from_millis(800);
    let mut version: Option<String> = None;
    while *until.borrow() == Until::Running {
        let record = current.get();
        if version.is_none() {
            let list = Call::get(format!("{path}?resourceVersion=0"));
            let body = perform(&client, &list, PATIENCE, &record, DNS, Instant::now()).await;
            version = body.and_then(|body| list_version(&body));
        }
        if let Some(version) = &mut version {
            // A watch is served when it begins; it lasts until it breaks.
            watch_from(&client, path, version, &current).await;
        }
        sleep(PAUSE).await;
    }
}

fn list_version(body: &[u8]) -> Option<String> {
    let list: Value = serde_json::from_slice(body).ok()?;
    Some(list["metadata"]["resourceVersion"].as_str()?.to_owned())
}

/// Counts the events of one watch until it breaks.
async fn watch_from(client: &Client, path: &str, version: &str, current: &Current) {
    let record = current.get();
    let attempt = record.attempt(DNS);
    let started = Instant::now();
    let request = http::Request::get(format!(
        "{path}?watch=true&allowWatchBookmarks=true&resourceVersion={version}"
    ))
    .header(http::header::ACCEPT, "application/json")
    .header(http::header::USER_AGENT, client.agent)
    .body(Bytes::new());
    let Ok(request) = request else { return };
    let opened = timeout(PATIENCE.timeout, client.api.open(request)).await;
    record.ended(DNS, started);
    let mut body = match opened {
        Ok(Ok(answer)) if answer.status().is_success() => {
            attempt.end(Outcome::Served);
            answer.into_body()
        }
        Ok(Ok(answer)) if answer.status() == http::StatusCode::TOO_MANY_REQUESTS => {
            attempt.end(Outcome::Shed);
            return;
        }
        Ok(_) => return attempt.end(Outcome::Failed),
        Err(_) => return attempt.end(Outcome::TimedOut),
    };
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            let events = data.iter().filter(|byte| **byte == b'\n').count();
            current.get().delivered(DNS, events as u64);
        }
    }
}
