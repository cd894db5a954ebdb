//! The control thread: probes the apiserver, ticks the tuner, and reloads what changed.
//!
//! One thread of its own, so that neither lane can delay the sensors, and a scrape can delay nothing.

pub(crate) mod cluster_policy;
pub(crate) mod events;
pub(crate) mod host;
pub(crate) mod lane_check;
pub(crate) mod overload;
mod own_call;
pub(crate) mod policy_guard;
pub(crate) mod probe;
pub(crate) mod published_keys;
pub(crate) mod reload;
pub(crate) mod remedy;
pub(crate) mod scrape;
pub(crate) mod traces;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proxy_core::admission::{Memory, Signals, probe::Tracker};
use proxy_core::time::Time;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use crate::clock;
use crate::overrides;
use crate::shared::Shared;

/// The tuner's window.
const TICK: Duration = Duration::from_millis(100);

/// An overload's culprit is looked for this often.
const LOOK_TICKS: u32 = 10;

/// Histograms' raw samples are drained this often.
const UPKEEP_TICKS: u32 = 50;

/// Runs until `stop` turns true. Runs inside a `LocalSet`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    reloader: reload::Reloader,
    reserved: Vec<SocketAddr>,
    mut stop: watch::Receiver<bool>,
) {
    let tracker = probe::start(&shared, stop.clone());
    let _reader = host::start(&shared);
    let reloading =
        tokio::task::spawn_local(reload::run(reloader, Arc::clone(&shared), stop.clone()));
    let fetching = tokio::task::spawn_local(published_keys::run(Arc::clone(&shared), stop.clone()));
    let delivering =
        tokio::task::spawn_local(cluster_policy::run(Arc::clone(&shared), stop.clone()));
    let scraping = tokio::task::spawn_local(scrape::run(Arc::clone(&shared), stop.clone()));
    let checking =
        tokio::task::spawn_local(lane_check::run(reserved, Arc::clone(&shared), stop.clone()));
    let exporting = tokio::task::spawn_local(traces::run(Arc::clone(&shared), stop.clone()));
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = 0_u32;
    let mut was_down = None;
    let mut overloads = overload::Overloads::default();
    let mut remedy = remedy::Remedy::default();
    let mut events = events::Events::default();
    let mut policy_guard = policy_guard::PolicyGuard::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        let view = tick(&shared, &tracker);
        if was_down.replace(view.down) != Some(view.down) {
            let address = shared.snapshot.load().config.upstream.address;
            if view.down {
                warn!(%address, "the apiserver does not answer; calls get 503 with Retry-After until it does");
            } else if !view.blind {
                info!(%address, "the apiserver answers");
            }
        }
        remedy.tick(&shared, &view, clock::now());
        count = count.wrapping_add(1);
        if count.is_multiple_of(LOOK_TICKS) {
            overloads.look(&shared);
            end_mode_changes(&shared);
            remedy.look(&shared);
            events.look(&shared);
            if let Some(why) = policy_guard.look(&shared) {
                events::policy(&shared, "PolicyReturned", &why);
            }
            shared.history.look(&shared, clock::now());
        }
        if count.is_multiple_of(UPKEEP_TICKS) {
            shared.metrics.upkeep();
            shared.turn_delays();
        }
    }
    reloading.abort();
    fetching.abort();
    scraping.abort();
    delivering.abort();
    checking.abort();
    exporting.abort();
}

/// Ends the changes of the mode whose time is over.
fn end_mode_changes(shared: &Arc<Shared>) {
    let now = clock::unix_seconds();
    let over = |change: &overrides::ModeChange| change.until.is_some_and(|until| until <= now);
    if shared.overrides.with(|changes| changes.iter().any(over)) {
        let expired = shared.change_mode(|changes| overrides::expire(changes, now));
        // On a thread that may wait for the disk: this one may not. A successor keeps its own.
        if !shared.stopping.load(Ordering::Relaxed) {
            let shared = Arc::clone(shared);
            drop(tokio::task::spawn_blocking(move || {
                if let Err(problem) = shared.overrides.save() {
                    error!(target: "spillway::audit", event = "mode_not_kept", %problem, "changes of the mode could not be kept");
                }
            }));
        }
        for change in expired {
            warn!(target: "spillway::audit", event = "mode_expired", by = change.by, mode = change.mode.as_str(),
                  class = change.class.as_deref().unwrap_or("all"), "a change of the mode has expired");
        }
    }
}

/// The host's word on the server's memory, or else its own.
pub(crate) fn memory(shared: &Shared, now: Time) -> Option<Memory> {
    let sensed = shared.sensed.get(now).and_then(|reading| reading.memory);
    sensed.or_else(|| {
        let limit = shared.snapshot.load().config.upstream.memory_limit;
        shared.said.memory(limit, now)
    })
}

fn tick(
    shared: &Shared,
    tracker: &std::rc::Rc<std::cell::RefCell<Tracker>>,
) -> proxy_core::admission::probe::ProbeView {
    let now = clock::now();
    let view = tracker.borrow().view(now);
    let seen = &shared.signals;
    let signals = Signals {
        probe: view,
        upstream_429: seen.upstream_429.swap(0, Ordering::Relaxed),
        upstream_504: seen.upstream_504.swap(0, Ordering::Relaxed),
        connect_failures: seen.connect_failures.swap(0, Ordering::Relaxed),
        memory: memory(shared, now),
    };
    for (code, count) in [("429", signals.upstream_429), ("504", signals.upstream_504)] {
        if count > 0 {
            shared
                .metrics
                .counter("spillway_upstream_refusals_total", &[("code", code)])
                .increment(count.into());
        }
    }
    let target = shared.snapshot.load().settings.target;
    let calm = !view.blind && !view.down && view.excess < target / 4;
    shared.set_calm(calm, now);
    shared.down.store(view.down, Ordering::Relaxed);
    shared.engine.tick(&signals, now);
    let told = shared.ramp.tick(&view, target, now);
    for (waiters, begins) in [(told.begin, true), (told.refused, false)] {
        for waiter in waiters {
            // Whoever left meanwhile is told nothing.
            let _ = waiter.send(begins);
        }
    }
    if let Ok(mut probe) = shared.probe.lock() {
        *probe = view;
    }
    view
}
