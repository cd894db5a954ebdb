//! Those who cause it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{ACCEPT, USER_AGENT};
use http_body_util::BodyExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::found::Outcome;
use super::informers::{Informed, inform};
use super::scene::{Capacity, Scene, TEAMS, creation, team_list};
use crate::control_plane::Auth;
use crate::demo::life::TELEMETRY;
use crate::demo::upstream::Endpoint;
use crate::generate::{Arrival, Call, Client, Patience, Schedule, Until, open_loop, perform};
use crate::record::{Current, Outcome as Ended};

/// How long a culprit waits for one answer, retries included.
pub(super) const PATIENCE: Patience = Patience {
    timeout: Duration::from_secs(30),
};
const PODS: &str = "/api/v1/pods";
const WHALES: usize = 30;
/// Between a whale's LISTs.
const BREATH: Duration = Duration::from_millis(10);
/// What slow readers take of an answer of 15 MB, in twenty seconds.
const SIP: usize = 75 * 1024;
const BETWEEN_SIPS: Duration = Duration::from_millis(100);
/// Requests under way of everybody together.
const IN_FLIGHT: usize = 5_000;
/// Of what the server can do.
const STORM: f64 = 4.0;
const SLIGHTLY_OVER: f64 = 1.25;
const BUSY: f64 = 0.5;

/// What an operator's or a controller's informers are of.
const KINDS: [&str; 4] = [
    PODS,
    "/api/v1/services",
    "/apis/discovery.k8s.io/v1/endpointslices",
    "/api/v1/nodes",
];

/// Who may be made to cause it, connected.
pub(super) struct Setting {
    pub(super) agents: Vec<Client>,
    pub(super) teams: Vec<Client>,
    pub(super) manager: Client,
    pub(super) capacity: Capacity,
    pub(super) current: Current,
    pub(super) seed: u64,
}

/// Connections for all of them, open.
pub(super) async fn connect(
    who: &[Auth],
    endpoint: &Endpoint,
    agent: &'static str,
) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::new();
    for auth in who {
        let api = endpoint.client(auth)?;
        // A refusal, too, has made the connection.
        let _ = timeout(Duration::from_secs(5), api.get("/version")).await;
        clients.push(Client { api, agent });
    }
    Ok(clients)
}

/// It goes on until it is ended.
pub(super) struct Trouble {
    tasks: JoinSet<()>,
    until: watch::Sender<Until>,
    informed: Arc<Informed>,
    began: Instant,
    by_team: Arc<Vec<AtomicU64>>,
}

impl Trouble {
    pub(super) fn begin(scene: Scene, setting: Setting) -> Self {
        let mut trouble = Self {
            tasks: JoinSet::new(),
            until: watch::channel(Until::Running).0,
            informed: Arc::default(),
            began: Instant::now(),
            by_team: Arc::new((0..TEAMS).map(|_| AtomicU64::new(0)).collect()),
        };
        let current = setting.current;
        match scene {
            Scene::WhaleAttack => {
                for client in setting.agents.into_iter().take(WHALES) {
                    trouble.tasks.spawn(list_all(client, current.clone()));
                }
            }
            Scene::SlowReaders => {
                for client in setting.agents {
                    trouble.tasks.spawn(sip(client, current.clone()));
                }
            }
            Scene::CreateStorm => {
                let rate = STORM * setting.capacity.creations;
                trouble.teams(setting.teams, rate, setting.seed, &current, creation);
            }
            Scene::Outage => {
                let rate = BUSY * setting.capacity.creations;
                trouble.teams(setting.teams, rate, setting.seed, &current, creation);
            }
            Scene::TenantsSlightlyOver => {
                let rate = SLIGHTLY_OVER * setting.capacity.team_lists;
                trouble.teams(setting.teams, rate, setting.seed, &current, team_list);
            }
            Scene::ControllerRestart => {
                for client in setting.teams.into_iter().chain([setting.manager]) {
                    for kind in KINDS {
                        trouble.inform(client.clone(), kind, &current);
                    }
                }
            }
            Scene::ApiserverRestart => {
                for client in setting.agents {
                    trouble.inform(client, PODS, &current);
                }
            }
        }
        trouble
    }

    fn inform(&mut self, client: Client, path: &str, current: &Current) {
        let informed = self.informed.clone();
        // Here and not by the task, which may not have begun when somebody asks whether all watch.
        informed.all.fetch_add(1, Ordering::Relaxed);
        self.tasks
            .spawn(inform(client, path.to_owned(), current.clone(), informed));
    }

    /// Teams in turns, `rate` requests per second together, whatever becomes of them.
    fn teams(
        &mut self,
        clients: Vec<Client>,
        rate: f64,
        seed: u64,
        current: &Current,
        call: fn(u64) -> Call,
    ) {
        let clients = Arc::new(clients);
        let (current, dropped, served) = (current.clone(), current.clone(), self.by_team.clone());
        let issue = move |arrival: Arrival| {
            let (clients, record, served) = (clients.clone(), current.get(), served.clone());
            async move {
                let team = usize::try_from(arrival.index).unwrap_or(0) % TEAMS;
                let Some(client) = clients.get(team) else {
                    return;
                };
                let call = call(arrival.index);
                let due = arrival.intended;
                let answer = perform(client, &call, PATIENCE, &record, TELEMETRY, due).await;
                if let (Some(_), Some(served)) = (answer, served.get(team)) {
                    served.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let overflow = move |arrival: Arrival| {
            let record = dropped.get();
            record.attempt(TELEMETRY).end(Ended::Failed);
            record.ended(TELEMETRY, arrival.intended);
        };
        let schedule = Schedule::poisson(Instant::now(), rate, seed);
        let until = self.until.subscribe();
        self.tasks
            .spawn(open_loop(schedule, IN_FLIGHT, until, issue, overflow));
    }

    /// Waits until every informer watches, at most `longest`.
    pub(super) async fn settled(&self, longest: Duration) {
        let complete = async {
            while !self.informed.complete() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        // Who does not get there is seen in what is found.
        let _ = timeout(longest, complete).await;
    }

    /// From here on time and LISTs count.
    pub(super) fn strikes(&mut self) {
        self.began = Instant::now();
        self.informed.lists.store(0, Ordering::Relaxed);
    }

    /// Ends it, at once.
    pub(super) async fn end(mut self) -> Outcome {
        let all = self.informed.all.load(Ordering::Relaxed);
        let outcome = Outcome {
            seconds: self.began.elapsed().as_secs_f64(),
            informers: all,
            watching: self.informed.watching.load(Ordering::Relaxed),
            lists: self.informed.lists.load(Ordering::Relaxed),
            served_by_team: self
                .by_team
                .iter()
                .map(|served| served.load(Ordering::Relaxed))
                .collect(),
        };
        self.until.send_replace(Until::Killed);
        self.tasks.shutdown().await;
        outcome
    }
}

/// One whole LIST after the other.
async fn list_all(client: Client, current: Current) {
    let call = Call::get(format!("{PODS}?resourceVersion=0"));
    loop {
        let record = current.get();
        perform(&client, &call, PATIENCE, &record, TELEMETRY, Instant::now()).await;
        sleep(BREATH).await;
    }
}

/// One LIST after the other, each read as slowly as if it took twenty seconds.
async fn sip(client: Client, current: Current) {
    loop {
        let record = current.get();
        let attempt = record.attempt(TELEMETRY);
        let request = http::Request::get(format!("{PODS}?resourceVersion=0"))
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, client.agent)
            .body(bytes::Bytes::new());
        let Ok(request) = request else { return };
        let due = Instant::now();
        let outcome = match client.api.open(request).await {
            Ok(answer) if answer.status().is_success() => {
                let mut body = answer.into_body();
                let mut debt = 0;
                let whole = loop {
                    match body.frame().await {
                        Some(Ok(frame)) => {
                            let read = frame.data_ref().map_or(0, bytes::Bytes::len);
                            record.received(TELEMETRY, read);
                            debt += read;
                            sleep(BETWEEN_SIPS.mul_f64((debt / SIP) as f64)).await;
                            debt %= SIP;
                        }
                        Some(Err(_)) => break false,
                        None => break true,
                    }
                };
                if whole { Ended::Served } else { Ended::Failed }
            }
            Ok(answer) if answer.status() == http::StatusCode::TOO_MANY_REQUESTS => Ended::Shed,
            _ => Ended::Failed,
        };
        attempt.end(outcome);
        record.ended(TELEMETRY, due);
        // Whoever was refused asks again soon: these know no Retry-After.
        sleep(BETWEEN_SIPS).await;
    }
}
