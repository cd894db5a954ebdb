//! What the proxy does by itself about the culprit of an overload: confine it, and as the last step break off what it has
//! running. Both only if the configuration says so, and only where decisions are carried out.

use std::sync::Arc;
use std::time::Duration;

use proxy_core::admission::limits::{Bucket, Rate};
use proxy_core::admission::probe::ProbeView;
use proxy_core::admission::{Culprit, Mode};
use proxy_core::classify::ClassId;
use proxy_core::time::Time;
use tracing::{error, warn};

use crate::clock;
use crate::measures::{Action, ITSELF, Measures, NewMeasure, Target};
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// Culprits of one overload.
const MOST: usize = 16;

/// A culprit of the present overload.
#[derive(Debug)]
struct Suspect {
    tenant: u64,
    class: ClassId,
    /// What confines it, and until when, in Unix seconds.
    confined: Option<u64>,
}

/// What has been done.
#[derive(Debug, Default)]
pub(crate) struct Remedy {
    suspects: Vec<Suspect>,
    /// Since when the server queues.
    queues: Option<Time>,
    endings: Bucket,
    ended: u64,
}

impl Remedy {
    /// To be called about once a second: ends measures whose time is over, and confines.
    pub(crate) fn look(&mut self, shared: &Shared) {
        let unix = clock::unix_seconds();
        shared.measures.set_capacity(shared.engine.work_rate());
        if shared.measures.sweep(unix) > 0 {
            save(shared);
        }
        if self.ended > 0 {
            warn!(target: "spillway::audit", event = "lists_broken_off", ended = self.ended, "LISTs of the culprit were broken off to relieve the server");
            self.ended = 0;
        }
        let Some(culprit) = shared.engine.culprit() else {
            self.suspects.clear();
            return;
        };
        let (tenant, class) = (culprit.tenant.tenant, culprit.tenant.class);
        let known = |suspect: &Suspect| suspect.tenant == tenant && suspect.class == class;
        if !self.suspects.iter().any(known) && self.suspects.len() < MOST {
            self.suspects.push(Suspect {
                tenant,
                class,
                confined: None,
            });
        }
        let Some(suspect) = self.suspects.iter_mut().find(|suspect| known(suspect)) else {
            return;
        };
        // One that an operator has removed stays removed for this overload.
        if suspect.confined.is_none_or(|until| until <= unix)
            && let Some(until) = confine(shared, &culprit, unix)
        {
            suspect.confined = Some(until);
            save(shared);
        }
    }

    /// To be called at every tick: breaks off at most one LIST.
    pub(crate) fn tick(&mut self, shared: &Shared, probe: &ProbeView, now: Time) {
        let snapshot = shared.snapshot.load();
        let calm = probe.blind || probe.down || probe.excess <= snapshot.settings.target;
        if calm || self.suspects.is_empty() {
            self.queues = None;
            return;
        }
        let queues = *self.queues.get_or_insert(now);
        let Some(cancel) = &snapshot.config.admission.cancel_culprit else {
            return;
        };
        if now.saturating_since(queues) < cancel.after {
            return;
        }
        let unix = clock::unix_seconds();
        let rate = Rate::new(cancel.rate.count(), cancel.rate.period(), 1);
        for suspect in &self.suspects {
            // Only of whom nothing new is let in: else what is ended begins anew.
            let name = shared.names.of(suspect.tenant);
            let held = shared.measures.on_tenant(&name, unix);
            let long_enough =
                held.is_some_and(|since| unix.saturating_sub(since) >= cancel.after.as_secs());
            let enforced = shared.engine.mode_of(suspect.class, suspect.tenant) == Mode::Enforce;
            if !(long_enough && enforced && shared.running.has(suspect.tenant)) {
                continue;
            }
            if self.endings.take(rate, now).is_ok() && shared.running.end_newest(suspect.tenant) {
                self.ended += 1;
                shared
                    .metrics
                    .counter("spillway_culprit_ended_total", &[])
                    .increment(1);
            }
            return;
        }
    }
}

/// Confines the culprit, if it is time; until when.
fn confine(shared: &Shared, culprit: &Culprit, unix: u64) -> Option<u64> {
    let snapshot = shared.snapshot.load();
    let confine = snapshot.config.admission.confine_culprit.as_ref()?;
    let lasted = clock::now().saturating_since(culprit.overload);
    let tenant = culprit.tenant.tenant;
    // Without the name there is nobody to confine; it is noted again with its next request.
    let name = shared.names.known(tenant)?;
    if lasted < confine.after
        || culprit.tenant.class == ClassId(0)
        || shared.engine.mode_of(culprit.tenant.class, tenant) != Mode::Enforce
    {
        return None;
    }
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a share needs no more precision"
    )]
    let share = confine.share.fraction() as f32;
    let measure = NewMeasure {
        target: target(&name, &snapshot, culprit),
        action: Action::Slow(share),
        reason: reason(shared, culprit, lasted),
        author: ITSELF.to_owned(),
        seconds: confine.period.as_secs(),
    };
    match shared.measures.take(measure, unix) {
        Ok(measure) => {
            shared
                .metrics
                .counter(
                    "spillway_measures_total",
                    &[("what", "taken"), ("by", ITSELF)],
                )
                .increment(1);
            Some(measure.expires)
        }
        Err(problem) => {
            error!(target: "spillway::audit", event = "culprit_not_confined", %problem, "the culprit could not be confined");
            // Not again every second.
            Some(unix + 60)
        }
    }
}

/// The tenant, in the class in which it overloads the server: its other requests go on.
fn target(tenant: &str, snapshot: &Snapshot, culprit: &Culprit) -> Target {
    Target {
        tenant: Some(tenant.to_owned()),
        class: Some(snapshot.class(culprit.tenant.class).name.to_string()),
        ..Target::default()
    }
}

fn reason(shared: &Shared, culprit: &Culprit, lasted: Duration) -> String {
    let tenant = &culprit.tenant;
    let shape = tenant.shape.map(|shape| shared.names.of(shape));
    let shape = shape.as_deref().unwrap_or("various requests");
    // Made of what clients ask for: it may hold anything.
    let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
    let shape: String = shape.chars().take(80).map(printable).collect();
    format!(
        "culprit of an overload of {} s: {shape}; {} instances, {:.0} % of the demand",
        lasted.as_secs(),
        tenant.instances,
        f64::from(tenant.share) * 100.0
    )
}

/// Keeps what is in force, on a thread that may wait for the disk: this one may not.
fn save(shared: &Shared) {
    // A successor keeps its own.
    if shared.stopping.load(std::sync::atomic::Ordering::Relaxed) {
        return;
    }
    let measures: Arc<Measures> = Arc::clone(&shared.measures);
    drop(tokio::task::spawn_blocking(move || {
        if let Err(problem) = measures.save() {
            error!(target: "spillway::audit", event = "measures_not_kept", %problem, "measures could not be kept");
        }
    }));
}
