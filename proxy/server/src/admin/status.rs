//! Everything an operator wants to see at once, as one document.

use std::sync::atomic::Ordering;
use std::time::Duration;

use proxy_core::admission::BoundView;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{TUNER_STATES, tenants};
use crate::clock;
use crate::control::lane_check::CheckView;
use crate::lane::Lane;
use crate::overrides::{ModeChange, ModeName};
use crate::shared::Shared;

/// See the module. Durations are in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) pid: u32,
    /// Unix seconds.
    pub(crate) at: u64,
    /// Rises with every reload.
    pub(crate) generation: u64,
    pub(crate) mode: ModeName,
    pub(crate) enforced_percent: f32,
    pub(crate) mode_changes: Vec<ModeChange>,
    pub(crate) tuner: String,
    pub(crate) reason: String,
    /// The limit: outstanding short work.
    pub(crate) short: Bound,
    /// The breadth: outstanding long work.
    pub(crate) long: Bound,
    pub(crate) bytes: u64,
    pub(crate) bytes_budget: u64,
    pub(crate) probe_delay_ms: f64,
    pub(crate) probe_baseline_ms: f64,
    /// Whether the apiserver answers.
    pub(crate) upstream: bool,
    pub(crate) level: Option<String>,
    pub(crate) lanes: Vec<LaneStatus>,
    pub(crate) classes: Vec<ClassStatus>,
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) culprit: Option<Value>,
    pub(crate) reserved_check: Option<CheckView>,
}

/// A bound, and what is held against it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) ceiling_ms: f64,
    pub(crate) outstanding_ms: f64,
    pub(crate) running: u64,
    pub(crate) waiting: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LaneStatus {
    pub(crate) lane: String,
    pub(crate) up: bool,
    pub(crate) connections: u64,
    pub(crate) in_flight: u64,
    pub(crate) tunnels: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ClassStatus {
    pub(crate) class: String,
    pub(crate) mode: ModeName,
    pub(crate) enforced_percent: f32,
    pub(crate) short: Bound,
    pub(crate) long: Bound,
    pub(crate) oldest_wait_ms: f64,
    /// Refused since the start; in shadow: that would have been.
    pub(crate) shed: u64,
    /// Waited since the start.
    pub(crate) queued: u64,
    pub(crate) served_per_second: f32,
}

/// Who asks for how much.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tenant {
    pub(crate) tenant: String,
    pub(crate) class: String,
    pub(crate) kind: String,
    pub(crate) shape: Option<String>,
    pub(crate) instances: u32,
    pub(crate) requests_per_second: f32,
    pub(crate) demand_cores: f32,
    pub(crate) refused_ratio: f32,
    pub(crate) share_ratio: f32,
    pub(crate) surging_since: Option<u64>,
    pub(crate) user_level: u8,
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn bound(view: &BoundView) -> Bound {
    Bound {
        ceiling_ms: ms(view.ceiling),
        outstanding_ms: ms(view.outstanding),
        running: view.running,
        waiting: view.waiting,
    }
}

/// What there is to see now.
pub(super) fn status(shared: &Shared) -> Status {
    let snapshot = shared.snapshot.load();
    let view = shared.engine.view(clock::now());
    let page = tenants::page(shared);
    let probe = shared.probe.lock().map(|probe| *probe).ok();
    let named = snapshot.classes.iter().zip(&view.classes);
    let classes = named.map(|(class, seen)| ClassStatus {
        class: class.name.to_string(),
        mode: seen.mode.into(),
        enforced_percent: seen.enforced_tenants * 100.0,
        short: bound(&seen.short),
        long: bound(&seen.long),
        oldest_wait_ms: ms(seen.oldest_wait),
        shed: seen.shed,
        queued: seen.queued,
        served_per_second: seen.served_per_second,
    });
    let state = TUNER_STATES
        .iter()
        .find(|(state, _)| *state == view.state)
        .map_or("", |(_, name)| *name);
    let tenants = page.get("tenants").cloned().unwrap_or_default();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        at: clock::unix_seconds(),
        generation: snapshot.generation,
        mode: view.mode.into(),
        enforced_percent: snapshot.settings.enforced_tenants * 100.0,
        mode_changes: shared.overrides.all(),
        tuner: state.to_owned(),
        reason: view.reason.words().to_owned(),
        short: bound(&view.limit),
        long: bound(&view.breadth),
        bytes: view.bytes,
        bytes_budget: view.bytes_budget,
        probe_delay_ms: probe.map_or(0.0, |probe| ms(probe.excess)),
        probe_baseline_ms: probe.map_or(0.0, |probe| ms(probe.baseline)),
        upstream: probe.is_some_and(|probe| !probe.down),
        level: shared.engine.level().map(|level| level.to_string()),
        lanes: Lane::ALL.map(|lane| lane_status(shared, lane)).into(),
        classes: classes.collect(),
        tenants: serde_json::from_value(tenants).unwrap_or_default(),
        culprit: page.get("culprit").filter(|page| !page.is_null()).cloned(),
        reserved_check: shared.lane_check.view(),
    }
}

fn lane_status(shared: &Shared, lane: Lane) -> LaneStatus {
    let state = shared.lane(lane);
    LaneStatus {
        lane: lane.name().to_owned(),
        up: state.up.load(Ordering::Relaxed) == 1,
        connections: state.connections.load(Ordering::Relaxed),
        in_flight: state.in_flight.load(Ordering::Relaxed),
        tunnels: state.tunnels.load(Ordering::Relaxed),
    }
}
