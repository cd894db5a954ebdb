//! What the operator has ordered, asked before the engine: measures first, then hard limits.
//!
//! Not a judgement about load, so it is carried out whether or not the server has room. Nobody is exempt outside the
//! reserved lane. In `shadow` limits are counted and not carried out; what an operator has ordered about somebody by name
//! (a measure that is not the proxy's own) is carried out there, too. In `off` nothing is.

use std::sync::Arc;
use std::time::Duration;

use proxy_core::admission::limits::{Asked, Exceeded, Leases, Why};
use proxy_core::admission::{Ask, Mode, retry_after};
use proxy_core::classify::{ClassId, Classified};

use crate::accept::worker::Worker;
use crate::attribute::Facts;
use crate::clock;
use crate::error::Refused;
use crate::lane::Lane;
use crate::measures::HeldBack;
use crate::metrics::Ordered;
use crate::policy::trial::Trial;
use crate::snapshot::Snapshot;

/// Who found too many there already comes back within so many seconds; the same as for too many tunnels.
const SPREAD: u32 = 10;

/// What the request holds of limits while it lasts.
///
/// # Errors
/// [`Refused::Denied`], [`Refused::Limited`], [`Refused::HeldBack`].
pub(crate) fn obey(
    worker: &Worker,
    snapshot: &Snapshot,
    facts: &Facts,
    asked: &Asked<'_>,
    unix: u64,
) -> Result<Leases, Refused> {
    let shared = &worker.shared;
    if worker.lane == Lane::Reserved || (snapshot.limits.is_empty() && shared.measures.is_empty()) {
        return Ok(Leases::none());
    }
    let mode = shared.engine.mode_of(asked.class, asked.identity.tenant());
    if mode == Mode::Off {
        return Ok(Leases::none());
    }
    let now = clock::now();
    let class = snapshot.class(asked.class);
    let refused = |why: Ordered, carried_out: bool| {
        class.metrics.ordered(&shared.metrics, why, !carried_out);
        // The engine never hears of it otherwise, and who is refused everything would seem to ask for nothing.
        if carried_out {
            shared.engine.withheld(&Ask {
                class: asked.class,
                cost: shared.costs.estimate(&facts.shape),
                kind: facts.kind,
                tenant: asked.identity.tenant(),
                instance: asked.instance,
                shape: facts.shape.hash(),
            });
        }
        carried_out
    };
    if !shared.measures.is_empty() {
        let work = || shared.costs.estimate(&facts.shape).work();
        if let Some(held) = shared.measures.judge(asked, &class.name, work, now, unix)
            && refused(Ordered::Quarantined, held.ordered || mode == Mode::Enforce)
        {
            return Err(held_back(&held, &class.name, facts, unix));
        }
    }
    match snapshot.limits.take(asked, now) {
        Ok(leases) => Ok(leases),
        Err(exceeded) => {
            let why = match exceeded.why {
                Why::Denied => Ordered::Denied,
                Why::Bound(_) | Why::Rate(_) | Why::Time(_) => Ordered::Rule,
            };
            shared
                .metrics
                .counter(
                    "spillway_limit_refused_total",
                    &[
                        ("limit", snapshot.limits.name(exceeded.limit)),
                        ("bound", bound(exceeded.why)),
                        (
                            "carried_out",
                            if mode == Mode::Enforce {
                                "true"
                            } else {
                                "false"
                            },
                        ),
                    ],
                )
                .increment(1);
            if refused(why, mode == Mode::Enforce) {
                Err(exceeds(snapshot, asked.class, facts, exceeded))
            } else {
                Ok(Leases::none())
            }
        }
    }
}

/// What the request would hold under a policy that is tried in shadow, if it were the one in force; `obeyed` is what the one
/// in force says.
pub(crate) fn rehearse(
    worker: &Worker,
    trial: &Trial,
    asked: &Asked<'_>,
    other: Classified,
    obeyed: &Result<Leases, Refused>,
) -> Leases {
    let mode = worker
        .shared
        .engine
        .mode_of(other.class, asked.identity.tenant());
    if mode != Mode::Enforce || matches!(obeyed, Err(Refused::HeldBack { .. })) {
        return Leases::none();
    }
    let asked = Asked {
        class: other.class,
        ..*asked
    };
    trial.rehearse(&asked, obeyed.is_err(), &worker.shared.metrics)
}

/// Which bound it was, as configuration and metrics call it.
const fn bound(why: Why) -> &'static str {
    match why {
        Why::Bound(bound) => bound.as_str(),
        Why::Rate(_) => "rate",
        Why::Time(_) => "server_time",
        Why::Denied => "deny",
    }
}

fn exceeds(snapshot: &Snapshot, class: ClassId, facts: &Facts, exceeded: Exceeded) -> Refused {
    let configured = snapshot.written_limits.get(exceeded.limit);
    let limit = configured.map_or("", |limit| &limit.name).into();
    let message = configured.and_then(|limit| limit.message.as_deref());
    let class = Arc::clone(&snapshot.class(class).name);
    match exceeded.why {
        Why::Denied => Refused::Denied {
            limit,
            class,
            message: message.unwrap_or(INSTEAD).into(),
        },
        Why::Bound(_) => Refused::Limited {
            limit,
            class,
            bound: bound(exceeded.why),
            message: message.map(Into::into),
            retry_after: draw(facts, Duration::ZERO, SPREAD),
        },
        Why::Rate(wait) | Why::Time(wait) => Refused::Limited {
            limit,
            class,
            bound: bound(exceeded.why),
            message: message.map(Into::into),
            retry_after: draw(facts, wait, SPREAD),
        },
    }
}

/// What a client that asked for too much is told when the limit has no words of its own.
const INSTEAD: &str =
    "ask for pages (limit=500 and continue), for one namespace, or for resourceVersion=0";

fn held_back(held: &HeldBack, class: &Arc<str>, facts: &Facts, unix: u64) -> Refused {
    let left = Duration::from_secs(held.expires.saturating_sub(unix));
    let wait = held.wait.map_or(left, |wait| wait.min(left));
    Refused::HeldBack {
        measure: held.id,
        class: Arc::clone(class),
        minutes: left.as_secs().div_ceil(60),
        retry_after: draw(facts, wait, SPREAD),
    }
}

/// Whole seconds until one should come back: after `wait`, but told at most half a minute, and spread over `spread`, so
/// that those refused together do not come back together. Clients sleep exactly what they are told. Leases are told 1.
fn draw(facts: &Facts, wait: Duration, spread: u32) -> u32 {
    if facts.lease {
        return 1;
    }
    let most = retry_after::MAX_SECONDS;
    let wait = u32::try_from(wait.as_secs()).unwrap_or(most);
    let least = wait.min(most - spread);
    least + fastrand::u32(1..=spread)
}
