//! A Kubernetes Event that names the culprit of an overload, where people look first; as far as the API answers.
//!
//! Created with the front-proxy certificate as user `system:spillway`, who has no right to it unless it is granted:
//! `create` on `events` in the namespace of `admission.culprit_events`. At most one a minute about a culprit, one at a time.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use proxy_core::admission::Culprit;
use proxy_core::time::Time;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::own_call::{self, OwnCallError, USER};
use crate::clock;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::upstream::body::RequestBody;

/// About one culprit.
const EVERY: Duration = Duration::from_secs(60);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(10);
/// An overloaded server takes its time, but need not be waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of a message, in characters; kube-apiserver takes 1024 bytes.
const LONGEST_MESSAGE: usize = 250;
/// Culprits remembered.
const MOST: usize = 64;

/// Why there is no Event.
#[derive(Debug, thiserror::Error)]
enum EventError {
    #[error(transparent)]
    Call(#[from] OwnCallError),
    #[error("it took longer than {PATIENCE:?}")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error(
        "the apiserver answered {0}; user {USER} needs `create` on `events` in the namespace of admission.culprit_events"
    )]
    Status(StatusCode),
}

/// What was told when.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// (tenant, not before).
    told: Vec<(u64, Time)>,
    under_way: Rc<Cell<Option<bool>>>,
    busy: bool,
}

impl Events {
    /// To be called about once a second, inside a `LocalSet`.
    pub(crate) fn look(&mut self, shared: &Arc<Shared>) {
        let now = clock::now();
        if self.busy {
            match self.under_way.take() {
                None => return,
                Some(told) => {
                    self.busy = false;
                    if let (false, Some(last)) = (told, self.told.last_mut()) {
                        last.1 = now + AGAIN;
                    }
                }
            }
        }
        let Some(culprit) = shared.engine.culprit() else {
            return;
        };
        let snapshot = shared.snapshot.load_full();
        let Some(namespace) = snapshot.config.admission.culprit_events.clone() else {
            return;
        };
        let tenant = culprit.tenant.tenant;
        if self
            .told
            .iter()
            .any(|(told, until)| *told == tenant && *until > now)
        {
            return;
        }
        self.told
            .retain(|(told, until)| *told != tenant && *until > now);
        if self.told.len() >= MOST {
            return;
        }
        self.told.push((tenant, now + EVERY));
        self.busy = true;
        let (shared, done) = (Arc::clone(shared), Rc::clone(&self.under_way));
        let event = event(&shared, &snapshot, &culprit, &namespace);
        tokio::task::spawn_local(async move {
            let sent = tokio::time::timeout(PATIENCE, send(&snapshot, &namespace, &event)).await;
            let sent = sent.map_err(EventError::from).flatten();
            let result = if sent.is_ok() { "created" } else { "failed" };
            shared
                .metrics
                .counter("spillway_culprit_events_total", &[("result", result)])
                .increment(1);
            match sent {
                Ok(()) => info!(namespace, "an Event names the culprit"),
                Err(problem) => {
                    warn!(namespace, %problem, "no Event could be created about the culprit")
                }
            }
            done.set(Some(result == "created"));
        });
    }
}

fn event(shared: &Shared, snapshot: &Snapshot, culprit: &Culprit, namespace: &str) -> Value {
    let tenant = &culprit.tenant;
    let name = shared.names.of(tenant.tenant);
    let shape = tenant.shape.map(|shape| shared.names.of(shape));
    let message = format!(
        "The API server is overloaded, and {name} is behind it: {} in class {}, {} instances, {:.0} % of all server time \
         asked for, since {}",
        shape.as_deref().unwrap_or("various requests"),
        snapshot.class(tenant.class).name,
        tenant.instances,
        f64::from(tenant.share) * 100.0,
        clock::rfc3339(clock::to_unix(tenant.since.unwrap_or(culprit.overload))),
    );
    // An Event lies in the namespace of what it is about.
    let about = json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "User", "name": &*name, "namespace": namespace });
    document(
        snapshot,
        namespace,
        ("spillway-culprit-", "OverloadCulprit"),
        &about,
        &message,
    )
}

/// `(beginning of its name, reason)`.
fn document(
    snapshot: &Snapshot,
    namespace: &str,
    (name, reason): (&str, &str),
    about: &Value,
    message: &str,
) -> Value {
    let now = clock::rfc3339(clock::unix_seconds());
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "generateName": name, "namespace": namespace },
        "involvedObject": about,
        "type": "Warning",
        "reason": reason,
        "message": message,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": { "component": "spillway" },
        "reportingComponent": "spillway",
        "reportingInstance": snapshot.config.listen.main.first().map(ToString::to_string).unwrap_or_default(),
    })
}

/// Tells of a policy, where `admission.culprit_events` names a namespace for Events. Once, whether or not it arrives.
/// Inside a `LocalSet`.
pub(crate) fn policy(shared: &Arc<Shared>, reason: &'static str, message: &str) {
    let snapshot = shared.snapshot.load_full();
    let Some(namespace) = snapshot.config.admission.culprit_events.clone() else {
        return;
    };
    let source = snapshot.config.policy.from_cluster.as_ref();
    let name = source.map_or("spillway-policy", |source| &source.name);
    let about =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": name, "namespace": namespace });
    let message: String = message.chars().take(LONGEST_MESSAGE).collect();
    let event = document(
        &snapshot,
        &namespace,
        ("spillway-policy-", reason),
        &about,
        &message,
    );
    tokio::task::spawn_local(async move {
        let sent = tokio::time::timeout(PATIENCE, send(&snapshot, &namespace, &event)).await;
        if let Err(problem) = sent.map_err(EventError::from).flatten() {
            warn!(namespace, reason, %problem, "no Event could be created about a policy");
        }
    });
}

async fn send(snapshot: &Snapshot, namespace: &str, event: &Value) -> Result<(), EventError> {
    let body = RequestBody::own(Bytes::from(event.to_string()));
    let request = Request::post(format!("/api/v1/namespaces/{namespace}/events"))
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/json");
    let response = own_call::send(snapshot, &[], request, body).await?;
    let status = response.status();
    let _ = Limited::new(response.into_body(), 64 * 1024)
        .collect()
        .await;
    if status == StatusCode::CREATED {
        Ok(())
    } else {
        Err(EventError::Status(status))
    }
}
