//! Watches one ConfigMap for policies (`policy.from_cluster`).
//!
//! A read of the object, then a watch from its version, and from the beginning when that ends: what a reflector does, for
//! one object. Whatever goes wrong changes nothing about what is in force: not an outage, not a ConfigMap that is gone, and
//! not one that cannot be used. The last is said in the log, in a metric, by `spillway policy status`, and as an Event where
//! `admission.culprit_events` names a namespace for them.

mod object;

use std::sync::Arc;
use std::time::Duration;

use config::FromCluster;
use http::header::ACCEPT;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::events;
use super::own_call::{self, OwnCallError, USER, pause_after, varied};
use crate::clock;
use crate::policy::{self, Delivered};
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::upstream::body::RequestBody;
use object::{ConfigMap, Event, NotUsable};

/// After the first failure; doubles with each, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Between the end of a watch and the next look.
const PAUSE: Duration = Duration::from_secs(1);
/// A read, and the head of a watch, may take this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// For how long a watch is asked; varied, so that a cluster's proxies do not come together.
const WATCH_SECONDS: std::ops::Range<u32> = 240..480;
/// A watch that says nothing for so much longer is dead.
const GRACE: Duration = Duration::from_secs(30);
/// How often the configuration is looked at for another ConfigMap or another server.
const LOOK: Duration = Duration::from_secs(1);
/// An object longer than this, in bytes, is none: 1 MiB of data as JSON may write it, and its metadata.
const LONGEST: usize = 8 << 20;

/// Why the ConfigMap cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Call(#[from] OwnCallError),
    #[error("no answer within {PATIENCE:?}")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("there is no such ConfigMap")]
    None,
    #[error(
        "the apiserver answered {0}; user {USER} needs `get` and `watch` on it (deploy/rbac.yaml)"
    )]
    Forbidden(StatusCode),
    #[error("the apiserver answered {0}")]
    Status(StatusCode),
    #[error("what it answered is no ConfigMap of at most {LONGEST} bytes")]
    Unreadable,
}

/// Watches until `stop` turns true.
pub(crate) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut failures = 0_u32;
    loop {
        let snapshot = shared.snapshot.load_full();
        let pause = match snapshot.config.policy.from_cluster.clone() {
            None => LOOK,
            Some(source) => {
                let followed = tokio::select! {
                    followed = follow(&shared, &snapshot, &source) => followed,
                    () = replaced(&shared, &snapshot) => Ok(()),
                    _ = stop.wait_for(|stop| *stop) => return,
                };
                match followed {
                    Ok(()) => {
                        failures = 0;
                        PAUSE
                    }
                    Err(problem) => {
                        failures = failures.saturating_add(1);
                        unread(&shared, &source, &problem, failures);
                        pause_after(failures, FIRST_PAUSE, LONGEST_PAUSE)
                    }
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(varied(pause)) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Waits until the configuration names another ConfigMap or another server.
async fn replaced(shared: &Shared, snapshot: &Snapshot) {
    loop {
        tokio::time::sleep(LOOK).await;
        let now = shared.snapshot.load();
        let same = now.config.policy.from_cluster == snapshot.config.policy.from_cluster
            && now.config.upstream == snapshot.config.upstream;
        if !same {
            return;
        }
    }
}

/// The ConfigMap cannot be read: what was last taken stays.
fn unread(shared: &Shared, source: &FromCluster, problem: &ReadError, failures: u32) {
    let FromCluster { namespace, name } = source;
    if failures == 1 {
        warn!(namespace, name, %problem, "the policy ConfigMap cannot be read; the policy in force stays");
    }
    shared
        .policies
        .note_cluster(|view| view.problem = Some(problem.to_string()));
}

/// Reads the ConfigMap, and follows it until the watch ends.
async fn follow(
    shared: &Arc<Shared>,
    snapshot: &Snapshot,
    source: &FromCluster,
) -> Result<(), ReadError> {
    let FromCluster { namespace, name } = source;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let object =
        tokio::time::timeout(PATIENCE, read(snapshot, &format!("{path}/{name}"))).await??;
    found(shared, source, &object);
    let (version, seconds) = (
        &object.metadata.resource_version,
        fastrand::u32(WATCH_SECONDS),
    );
    let target = format!(
        "{path}?watch=true&fieldSelector=metadata.name%3D{name}&resourceVersion={version}\
         &allowWatchBookmarks=true&timeoutSeconds={seconds}"
    );
    let watching = tokio::time::timeout(PATIENCE, ask(snapshot, &target)).await??;
    let most = Duration::from_secs(seconds.into()) + GRACE;
    // However it ends, the object is read again.
    let _ = tokio::time::timeout(most, listen(shared, source, watching)).await;
    Ok(())
}

async fn read(snapshot: &Snapshot, target: &str) -> Result<ConfigMap, ReadError> {
    let mut body = ask(snapshot, target).await?;
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(OwnCallError::Broken)?.data_ref() {
            text.extend_from_slice(data);
        }
        if text.len() > LONGEST {
            return Err(ReadError::Unreadable);
        }
    }
    serde_json::from_slice(&text).map_err(|_| ReadError::Unreadable)
}

async fn ask(snapshot: &Snapshot, target: &str) -> Result<Incoming, ReadError> {
    let request = Request::get(target).header(ACCEPT, "application/json");
    let response = own_call::send(snapshot, &[], request, RequestBody::Empty).await?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        StatusCode::NOT_FOUND => Err(ReadError::None),
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Err(ReadError::Forbidden(status))
        }
        status => Err(ReadError::Status(status)),
    }
}

/// Takes events until the watch ends or one cannot be understood. `None`: it ended.
async fn listen(shared: &Arc<Shared>, source: &FromCluster, mut body: Incoming) -> Option<()> {
    let mut line = Vec::new();
    loop {
        let frame = body.frame().await?.ok()?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            if line.len() + piece.len() > LONGEST {
                return None;
            }
            line.extend_from_slice(piece);
            if line.ends_with(b"\n") {
                event(shared, source, serde_json::from_slice(&line).ok()?)?;
                line.clear();
            }
        }
    }
}

/// `None` when the watch is over.
fn event(shared: &Arc<Shared>, source: &FromCluster, event: Event) -> Option<()> {
    match event {
        Event::Added(object) | Event::Modified(object) => found(shared, source, &object),
        Event::Deleted(_) => {
            unread(shared, source, &ReadError::None, 1);
        }
        Event::Bookmark(_) => {}
        Event::Error(_) => return None,
    }
    Some(())
}

/// What to do with the ConfigMap as it is now.
fn found(shared: &Arc<Shared>, source: &FromCluster, object: &ConfigMap) {
    let origin = format!("ConfigMap {}/{}", source.namespace, source.name);
    let delivered = object.delivered(origin);
    let outcome = delivered
        .map_err(|problem: NotUsable| problem.to_string())
        .and_then(|delivered| take(shared, &delivered));
    let (problem, version) = (outcome.as_ref().err(), &object.metadata.resource_version);
    let told = shared.policies.cluster();
    shared.policies.note_cluster(|view| {
        view.seen = clock::unix_seconds();
        view.version.clone_from(version);
        view.problem = problem.cloned();
    });
    let count = |result| {
        let updates = shared.metrics.counter(
            "spillway_policy_cluster_updates_total",
            &[("result", result)],
        );
        updates.increment(1);
    };
    match outcome {
        Ok(true) => {
            count("applied");
            info!(version, "the policy of the ConfigMap is in force");
        }
        Ok(false) => {}
        // Said once for each version.
        Err(_) if told.version == *version && told.problem.as_ref() == problem => {}
        Err(problem) => {
            count("refused");
            error!(
                version,
                problem, "the policy ConfigMap cannot be used; the policy in force stays"
            );
            events::policy(shared, "PolicyRefused", &problem);
        }
    }
}

/// Whether there was anything new in it.
fn take(shared: &Shared, delivered: &Delivered) -> Result<bool, String> {
    if !shared.policies.is_new(delivered) {
        return Ok(false);
    }
    policy::take(shared, delivered).map(|()| true)
}
