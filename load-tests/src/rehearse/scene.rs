//! What goes wrong, and what it needs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::control_plane::{ApiClient, Auth};
use crate::demo::cast::{account_exists, bound_token, create, each, grant};
use crate::demo::objects;
use crate::demo::upstream::Upstream;
use crate::generate::Call;

/// A scenario of the proving ground, by its name there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Scene {
    /// Thirty clients of one account list all pods, one whole LIST after the other.
    WhaleAttack,
    /// A hundred clients ask for whole LISTs and take twenty seconds to read each.
    SlowReaders,
    /// Ten pipelines create objects at four times what the server can do.
    CreateStorm,
    /// Ten teams list their own namespaces at a quarter too much together, equal shares each.
    TenantsSlightlyOver,
    /// A controller manager and ten operators list and watch anew, all at once.
    ControllerRestart,
    /// The server is restarted under a hundred informers of all pods.
    ApiserverRestart,
    /// The server is away for ten seconds, at a good load of writes.
    #[value(name = "outage-10s")]
    Outage,
}

impl Scene {
    /// As in `load-tests/scenarios`.
    pub(super) fn name(self) -> String {
        use clap::ValueEnum as _;
        let name = self.to_possible_value();
        name.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// How long the server is stopped before it is started again; `None` when it is not.
    pub(super) fn away(self) -> Option<Duration> {
        match self {
            Self::ApiserverRestart => Some(Duration::ZERO),
            Self::Outage => Some(Duration::from_secs(10)),
            _ => None,
        }
    }

    pub(super) fn stops_the_server(self) -> bool {
        self.away().is_some()
    }

    /// Whether it is over when everybody watches again, not at a fixed time.
    pub(super) fn ends_by_itself(self) -> bool {
        matches!(self, Self::ControllerRestart | Self::ApiserverRestart)
    }
}

/// Teams, each with an account and a namespace of its own, and what is in it.
pub(super) const TEAMS: usize = 10;
/// ConfigMaps in a team's namespace.
const EACH: usize = 200;
/// Where pipelines create.
const PIPELINES: &str = "pipelines";
/// How wide capacity is measured, and for how long.
const WIDTH: usize = 16;
const MEASURED: Duration = Duration::from_secs(3);

/// Ten equal tenants.
pub(super) struct Teams {
    pub(super) members: Vec<Auth>,
}

impl Teams {
    /// Creates their namespaces, accounts, rights and objects.
    pub(super) async fn found(upstream: &Upstream) -> anyhow::Result<Self> {
        let admin = upstream.endpoint.client(&upstream.admin)?;
        let names: Vec<String> = (0..TEAMS).map(team).collect();
        for name in names.iter().map(String::as_str).chain([PIPELINES]) {
            create(&admin, "/api/v1/namespaces", &objects::namespace(name)).await?;
        }
        let mut accounts = Vec::new();
        for name in &names {
            account_exists(&admin, name, "member").await?;
            accounts.push((name.as_str(), "member"));
        }
        grant(&admin, "teams", objects::stand_in_rules(), &accounts).await?;
        each(TEAMS * EACH, |index| {
            let admin = admin.clone();
            async move {
                let path = maps(&team(index % TEAMS));
                create(&admin, &path, &objects::large_settings(index, 1000)).await
            }
        })
        .await?;
        let mut members = Vec::new();
        for name in &names {
            members.push(bound_token(&admin, name, "member", None).await?);
        }
        Ok(Self { members })
    }
}

fn team(index: usize) -> String {
    format!("team-{index}")
}

fn maps(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

/// What a team asks for: all of its own.
pub(super) fn team_list(index: u64) -> Call {
    let index = usize::try_from(index).unwrap_or(0) % TEAMS;
    Call::get(maps(&team(index)))
}

/// What a pipeline asks for.
pub(super) fn creation(index: u64) -> Call {
    let mut object = objects::large_settings(usize::try_from(index).unwrap_or(0), 1000);
    object["metadata"] = json!({ "generateName": "job-" });
    Call::json(Method::POST, maps(PIPELINES), &object)
}

/// What the server does beside nothing, straight.
#[derive(Debug, Clone)]
pub(super) struct Capacity {
    pub(super) creations: f64,
    pub(super) team_lists: f64,
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "measured straight, {WIDTH} at a time: {:.0} creations/s, {:.0} LISTs/s of {EACH} ConfigMaps",
            self.creations, self.team_lists
        )
    }
}

impl Capacity {
    /// Measures it, for a few seconds.
    pub(super) async fn measure(upstream: &Upstream, teams: &Teams) -> anyhow::Result<Self> {
        let mut clients = Vec::new();
        for member in &teams.members {
            clients.push(upstream.endpoint.client(member)?);
        }
        Ok(Self {
            creations: rate(&clients, creation).await,
            team_lists: rate(&clients, team_list).await,
        })
    }
}

/// How many per second are answered well.
async fn rate(clients: &[ApiClient], call: fn(u64) -> Call) -> f64 {
    let (turn, served) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for client in clients.iter().cycle().take(WIDTH) {
        let (client, turn, served) = (client.clone(), turn.clone(), served.clone());
        tasks.spawn(async move {
            loop {
                let call = call(turn.fetch_add(1, Ordering::Relaxed));
                let body = call.body.as_ref();
                let body: Option<Value> =
                    body.and_then(|(body, _)| serde_json::from_slice(body).ok());
                let answer = match body {
                    Some(body) => client.post(&call.path, &body).await,
                    None => client.get(&call.path).await,
                };
                if answer.is_ok_and(|answer| answer.status < 300) {
                    served.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let began = Instant::now();
    sleep(MEASURED).await;
    let served = served.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    tasks.shutdown().await;
    served
}
