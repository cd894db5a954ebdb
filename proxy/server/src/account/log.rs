//! One line for a finished request: always for use of the reserved lane, for refusals and failures at a bounded rate, for the
//! rest only at level `debug`. Never a token, a header's value or a query's value that could hold one.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use proxy_core::identity::Identity;
use tracing::{debug, info, warn};

use super::End;
use crate::accept::worker::Worker;
use crate::lane::Lane;
use crate::recent::put;
use crate::snapshot::Snapshot;

/// What is known about a request before it is sent.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) method: Method,
    /// Path without the query.
    pub(crate) path: http::uri::PathAndQuery,
    pub(crate) address: std::net::IpAddr,
    pub(crate) identity: Option<Arc<Identity>>,
    /// The server's audit id, from its answer.
    pub(crate) audit_id: Option<http::HeaderValue>,
    /// Why we answered it ourselves.
    pub(crate) refused: Option<String>,
    /// Another's call answered it.
    pub(crate) joined: bool,
    /// It came with a credential of the break-glass authority.
    pub(crate) break_glass: bool,
    /// What the client calls itself.
    pub(crate) user_agent: Option<http::HeaderValue>,
    /// The rule that gave it its class.
    pub(crate) rule: Option<proxy_core::classify::RuleId>,
    /// What it was admitted as.
    pub(crate) cost: Duration,
}

/// What is known at its end.
pub(crate) struct Finished<'a> {
    pub(crate) class: &'a str,
    pub(crate) verb: &'a str,
    pub(crate) status: u16,
    pub(crate) end: End,
    pub(crate) bytes: u64,
    pub(crate) waited: Option<Duration>,
    pub(crate) took: Duration,
}

/// Keeps what an operator may ask about by its audit id.
pub(crate) fn remember(worker: &Worker, entry: &Entry, snapshot: &Snapshot, of: &Finished<'_>) {
    worker.shared.recent.note(worker.number, |record| {
        let header = |value: &Option<http::HeaderValue>, place: &mut String| {
            let value = value.as_ref().and_then(|value| value.to_str().ok());
            put(place, value.unwrap_or_default());
        };
        header(&entry.audit_id, &mut record.audit_id);
        header(&entry.user_agent, &mut record.user_agent);
        put(&mut record.lane, worker.lane.name());
        put(&mut record.method, entry.method.as_str());
        put(&mut record.path, entry.path.path());
        put(&mut record.verb, of.verb);
        let user = entry.identity.as_ref();
        put(
            &mut record.user,
            user.map_or("", |identity| identity.user()),
        );
        put(&mut record.class, of.class);
        let rule = entry
            .rule
            .map_or("", |rule| snapshot.policy.rule_name(rule));
        put(&mut record.rule, rule);
        put(
            &mut record.refused,
            entry.refused.as_deref().unwrap_or_default(),
        );
        record.cost = entry.cost;
        record.status = of.status;
        record.waited = of.waited;
        record.took = of.took;
        record.bytes = of.bytes;
    });
}

/// How it ended, in words.
pub(super) fn end_of(entry: &Entry, finished: &Finished<'_>) -> &'static str {
    match finished.end {
        End::Gone => "client gone",
        End::Broken => "upstream broke off",
        End::Ended => "ended here",
        End::Answered => "answered here",
        End::Complete if entry.joined => "complete, from an identical call",
        End::Complete => "complete",
    }
}

pub(crate) fn write(worker: &Worker, entry: &Entry, snapshot: &Snapshot, finished: &Finished<'_>) {
    if let Some(access) = &worker.shared.access {
        access.write(worker, entry, snapshot, finished);
    }
    let user = entry
        .identity
        .as_ref()
        .map_or("", |identity| identity.user());
    let audit_id = entry
        .audit_id
        .as_ref()
        .and_then(|id| id.to_str().ok())
        .unwrap_or("");
    let refused = entry.refused.as_deref().unwrap_or("");
    let end = end_of(entry, finished);
    let waited_ms = super::access::millis(finished.waited.unwrap_or_default());
    let took_ms = super::access::millis(finished.took);
    let Finished {
        class,
        verb,
        status,
        bytes,
        ..
    } = *finished;
    let (method, path, address) = (entry.method.as_str(), entry.path.path(), entry.address);
    // Strangers knocking at the reserved lane must not push the lines about its real use out of the log.
    let turned_away = matches!(status, 401 | 403) && finished.end == End::Answered;
    if worker.lane == Lane::Reserved && !turned_away {
        let break_glass = entry.break_glass;
        let user_agent = super::access::text(entry.user_agent.as_ref());
        info!(target: "spillway::reserved", event = "reserved_lane_used", user, verb, method, path, status, audit_id, %address,
              user_agent, break_glass, end, refused, bytes, waited_ms, took_ms, "reserved lane used");
    } else if finished.end == End::Broken || !refused.is_empty() {
        if let Some(suppressed) = worker.throttle.pass(crate::clock::now()) {
            let lane = worker.lane.name();
            if status >= 500 || finished.end == End::Broken {
                warn!(target: "spillway::access", user, verb, method, path, status, audit_id, %address, class, end, lane,
                      refused, bytes, waited_ms, took_ms, suppressed, "request failed");
            } else {
                info!(target: "spillway::access", user, verb, method, path, status, audit_id, %address, class, end, lane,
                      refused, bytes, waited_ms, took_ms, suppressed, "request refused");
            }
        }
    } else {
        debug!(target: "spillway::access", user, verb, method, path, status, audit_id, %address, class, end, bytes,
               waited_ms, took_ms, "request");
    }
}
