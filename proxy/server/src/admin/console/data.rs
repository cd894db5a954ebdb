//! The document the page asks for every second.

use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::{commands, status};
use crate::clock;
use crate::lane::Lane;
use crate::metrics;
use crate::sessions::Holder;
use crate::shared::Shared;

/// Tenants shown.
const TENANTS: usize = 25;

/// Everything there is to see now, and the points of the history after the one that `query` names (`since=NUMBER`).
pub(super) fn page(shared: &Shared, query: &str, session: Option<(Holder, Duration)>) -> Value {
    let since = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("since="))
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    let mut status = status::status(shared);
    let tenants = status.tenants.len();
    status.tenants.truncate(TENANTS);
    let snapshot = shared.snapshot.load();
    let config = &snapshot.config;
    let reserved = snapshot.classes.get(snapshot.reserved_class());
    let reserved = reserved.map(|class| class.metrics.tally.totals());
    let (admitted, refused) = reserved.unwrap_or_default();
    let in_use = |lane: Lane| {
        shared
            .lane(lane)
            .in_flight
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    json!({
        "host": host(),
        "status": status,
        "tenants": tenants,
        "mode": commands::mode_page(shared),
        "measures": shared.measures.list(),
        "reasons": metrics::reasons(),
        "history": shared.history.since(since),
        "probe_target": snapshot.settings.target.as_secs_f64() * 1e3,
        "reserved": {
            "on": !config.listen.reserved.is_empty(),
            "in_flight": in_use(Lane::Reserved),
            "max_in_flight": config.reserved.max_in_flight,
            "max_connections": config.reserved.max_connections,
            "admitted": admitted,
            "refused": refused,
        },
        "kept": config.admission.measures.is_some(),
        "session": session.map(|(holder, left)| json!({ "by": holder.name, "left": left.as_secs() })),
        "now": clock::unix_seconds(),
    })
}

/// Which node this is: there is a console on each.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| String::new(), |name| name.trim().to_owned())
}
