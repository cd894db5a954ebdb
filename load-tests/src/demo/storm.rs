//! The storm: telemetry agents that LIST everything, and the operator who ends
//! it.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::cast::Cast;
use super::life::{TELEMETRY, TELEMETRY_SMALL};
use super::upstream::Endpoint;
use crate::generate::{Arrival, Call, Client, Patience, Schedule, Until, open_loop, perform};
use crate::record::{Current, Outcome, Record};
use crate::report::Rollback;

/// Requests of the storm under way, those that sleep before a retry included.
const IN_FLIGHT: usize = 10_000;
/// How long an agent waits for one LIST, retries included.
pub(crate) const PATIENCE: Patience = Patience {
    timeout: Duration::from_secs(30),
};
/// How long an operator waits for one try.
const TRY: Duration = Duration::from_secs(10);
/// How long between tries.
const PAUSE: Duration = Duration::from_secs(1);
/// Of ten LISTs, one is of something smaller than the bulk.
const OTHERS: [&str; 3] = [
    "/api/v1/services",
    "/api/v1/nodes",
    "/apis/discovery.k8s.io/v1/endpointslices",
];

const AGENT: &str = "telemetry-agent/2.0.0";

/// The agents, each with a connection of its own.
#[derive(Clone)]
pub(crate) struct Agents(Arc<Vec<Client>>, &'static str);

impl Agents {
    pub(crate) fn connect(cast: &Cast, endpoint: &Endpoint) -> anyhow::Result<Self> {
        let clients: anyhow::Result<Vec<_>> = cast
            .agents
            .iter()
            .map(|auth| {
                let api = endpoint.client(auth)?;
                Ok(Client { api, agent: AGENT })
            })
            .collect();
        Ok(Self(Arc::new(clients?), cast.bulk_path))
    }

    /// The LIST of a turn: all namespaces, from the cache and from the newest
    /// data in turns.
    fn call(&self, turn: u64) -> (usize, Call) {
        let (population, path) = match OTHERS.get((turn / 10 % 3) as usize) {
            Some(other) if turn % 10 == 9 => (TELEMETRY_SMALL, *other),
            _ => (TELEMETRY, self.1),
        };
        let path = if turn.is_multiple_of(2) {
            format!("{path}?resourceVersion=0")
        } else {
            path.to_owned()
        };
        (population, Call::get(path))
    }

    async fn list(
        &self,
        turn: u64,
        (population, call): (usize, Call),
        record: &Arc<Record>,
        intended: Instant,
    ) {
        let index = turn % self.0.len().max(1) as u64;
        if let Some(client) = self.0.get(usize::try_from(index).unwrap_or(0)) {
            perform(client, &call, PATIENCE, record, population, intended).await;
        }
    }

    /// LISTs of the bulk, one after the other by each of the first `width`
    /// agents, for `time`; those under way then are finished.
    pub(crate) async fn in_turns(&self, width: usize, time: Duration, current: &Current) {
        let end = Instant::now() + time;
        let mut tasks = tokio::task::JoinSet::new();
        for agent in 0..width {
            let (agents, current) = (self.clone(), current.clone());
            tasks.spawn(async move {
                let mut fresh = false;
                while Instant::now() < end {
                    let path = agents.1;
                    let call = Call::get(if fresh {
                        path.to_owned()
                    } else {
                        format!("{path}?resourceVersion=0")
                    });
                    fresh = !fresh;
                    let record = current.get();
                    agents
                        .list(agent as u64, (TELEMETRY, call), &record, Instant::now())
                        .await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Opens every agent's connection, so that the storm is one of requests and
    /// not only of handshakes.
    pub(crate) async fn greet(&self) {
        let mut tasks = tokio::task::JoinSet::new();
        for client in self.0.iter().cloned() {
            if tasks.len() >= 32 {
                tasks.join_next().await;
            }
            tasks.spawn(async move {
                let path = "/version";
                let _ = tokio::time::timeout(Duration::from_secs(5), client.api.get(path)).await;
            });
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// A storm under way.
pub(crate) struct Storm {
    until: watch::Sender<Until>,
    task: JoinHandle<()>,
}

impl Storm {
    /// Agents LIST at `rate` requests per second, all together, whatever becomes
    /// of them.
    pub(crate) fn begin(agents: &Agents, rate: f64, seed: u64, current: &Current) -> Self {
        let (until, receiver) = watch::channel(Until::Running);
        let (agents, current, dropped) = (agents.clone(), current.clone(), current.clone());
        let issue = move |arrival: Arrival| {
            let (agents, record) = (agents.clone(), current.get());
            async move {
                let call = agents.call(arrival.index);
                agents
                    .list(arrival.index, call, &record, arrival.intended)
                    .await;
            }
        };
        let overflow = move |arrival: Arrival| {
            let record = dropped.get();
            record.attempt(TELEMETRY).end(Outcome::Failed);
            record.ended(TELEMETRY, arrival.intended);
        };
        let schedule = Schedule::poisson(Instant::now(), rate, seed);
        let task = tokio::spawn(open_loop(schedule, IN_FLIGHT, receiver, issue, overflow));
        Self { until, task }
    }

    /// The kubelets kill the agents.
    pub(crate) async fn end(self) {
        self.until.send_replace(Until::Killed);
        // A panic in it has been reported.
        let _ = self.task.await;
    }
}

/// The operator deletes the DaemonSet, trying until it is gone or until
/// `give_up` has passed; `since` is when the storm began.
pub(crate) async fn roll_back(
    cast: &Cast,
    endpoint: &Endpoint,
    since: Instant,
    give_up: Duration,
) -> anyhow::Result<Rollback> {
    let began = Instant::now();
    let deadline = began + give_up;
    let mut rollback = Rollback {
        began_after_seconds: (began - since).as_secs_f64(),
        ..Rollback::default()
    };
    while Instant::now() < deadline {
        rollback.tries += 1;
        // Each try is a kubectl of its own.
        let operator = endpoint.client(&cast.operator)?;
        let request = http::Request::builder()
            .method(Method::DELETE)
            .uri(&*cast.daemon_set)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::USER_AGENT, "kubectl/v1.36.0")
            .body(bytes::Bytes::new())?;
        let start = Instant::now();
        let until = deadline.min(start + TRY);
        let answer = timeout_at(until, operator.request(request)).await;
        let pause = match answer {
            // Gone already: an earlier try arrived although its answer did not.
            Ok(Ok(answer)) if (200..300).contains(&answer.status) || answer.status == 404 => {
                rollback.succeeded = true;
                rollback.call_seconds = Some(start.elapsed().as_secs_f64());
                rollback.after_storm_start_seconds = Some(since.elapsed().as_secs_f64());
                return Ok(rollback);
            }
            Ok(Ok(answer)) => {
                rollback.failures.push(format!("status {}", answer.status));
                let after = answer.headers.get(http::header::RETRY_AFTER);
                let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
                after.map_or(PAUSE, Duration::from_secs)
            }
            Ok(Err(error)) => {
                rollback.failures.push(error.to_string());
                PAUSE
            }
            Err(_) => {
                let waited = start.elapsed().as_secs_f64();
                rollback
                    .failures
                    .push(format!("no answer in {waited:.1} s"));
                Duration::ZERO
            }
        };
        sleep_until((Instant::now() + pause).min(deadline)).await;
    }
    Ok(rollback)
}

/// How long the kubelets take to kill the agents.
pub(crate) async fn agents_are_killed() {
    sleep(Duration::from_secs(1)).await;
}
