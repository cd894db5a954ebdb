//! What an operator is told about policies, and the gauges that say the same.

use serde_json::{Value, json};

use super::book::{Book, Kept};
use super::trial::Trial;
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// Moves of tenants shown.
const MOVERS: usize = 20;

/// All words for where a roll-out stands.
const STAGES: [&str; 6] = ["none", "shadow", "percent", "watched", "returned", "undone"];

/// Where the roll-out stands.
fn stage(book: &Book) -> &'static str {
    let returned = book
        .candidate
        .as_ref()
        .and_then(|staged| staged.returned.as_ref());
    match &book.candidate {
        _ if returned.is_some_and(|returned| returned.undone) => "undone",
        _ if returned.is_some() => "returned",
        Some(staged) if staged.stage.share().basis_points() == 0 => "shadow",
        Some(_) => "percent",
        None if book.is_watched() => "watched",
        None => "none",
    }
}

fn policy(kept: &Kept) -> Value {
    json!({ "digest": kept.digest(), "origin": kept.origin, "since": kept.since })
}

/// `spillway policy status`.
pub(crate) fn status(shared: &Shared) -> Value {
    let policies = &shared.policies;
    let (book, cluster) = (policies.book(), policies.cluster());
    let snapshot = shared.snapshot.load();
    let candidate = book.candidate.as_ref().map(|staged| {
        json!({
            "policy": policy(&staged.policy),
            "stage": staged.stage.to_string(),
            "since": staged.since,
            "returned": staged.returned,
        })
    });
    let previous = book.previous.as_ref().map(|previous| {
        json!({ "policy": previous.policy.as_ref().map(policy), "watched_until": previous.watched_until })
    });
    let source = snapshot.config.policy.from_cluster.as_ref().map(|source| {
        json!({
            "config_map": format!("{}/{}", source.namespace, source.name),
            "seen": cluster.seen,
            "resource_version": cluster.version,
            "problem": cluster.problem,
        })
    });
    let kept = match policies.kept() {
        Ok(kept) => json!(kept),
        Err(problem) => json!(problem),
    };
    json!({
        "stage": stage(&book),
        "current": book.current.as_ref().map(policy),
        "previous": previous,
        "candidate": candidate,
        "guard": snapshot.trial.as_deref().map(|trial| guard(trial, &snapshot)),
        "from_cluster": source,
        "kept": kept,
        "file": snapshot.config.policy.file,
    })
}

/// What the guard has seen since the new policy was staged.
fn guard(trial: &Trial, snapshot: &Snapshot) -> Value {
    let seen = trial.tally.seen();
    let side = |counts: proxy_core::rollout::Counts| json!({ "requests": counts.asked, "refused": counts.refused, "failed": counts.failed });
    let classes = snapshot.policy.classes().iter().enumerate();
    let protected = classes.filter(|(index, _)| trial.protected & (1 << index) != 0);
    let protected: Vec<&str> = protected.map(|(_, class)| &*class.name).collect();
    json!({
        "classes": protected,
        "tolerance_percent": snapshot.config.policy.guard.tolerance.fraction() * 100.0,
        "old": side(seen.old),
        "new": side(seen.new),
    })
}

/// `spillway policy diff`; `None` when nothing is compared.
pub(crate) fn diff(shared: &Shared) -> Option<Value> {
    let snapshot = shared.snapshot.load();
    let trial = snapshot.trial.as_deref()?;
    let book = shared.policies.book();
    let tally = &trial.tally;
    let name = |class| &*snapshot.class(class).name;
    let moves: Vec<Value> = tally
        .moves()
        .into_iter()
        .map(|(from, to, requests)| json!({ "from": name(from), "to": name(to), "requests": requests }))
        .collect();
    let movers = tally.movers(MOVERS);
    let movers: Vec<Value> = movers
        .iter()
        .map(|mover| {
            json!({
                "tenant": &*shared.names.of(mover.tenant),
                "from": name(mover.from),
                "to": name(mover.to),
                "requests": mover.requests,
                "judged_by_it": trial.judges(mover.tenant) == trial.other_is_new,
            })
        })
        .collect();
    let moved: u64 = tally.moves().iter().map(|(.., requests)| requests).sum();
    let limits: serde_json::Map<String, Value> = tally
        .differences()
        .into_iter()
        .map(|(name, requests)| (name.to_owned(), json!(requests)))
        .collect();
    Some(json!({
        "policy": trial.name,
        "stage": stage(&book),
        "compared": tally.compared(),
        "moved": moved,
        "moves": moves,
        "tenants": movers,
        "limits": limits,
    }))
}

/// Written when somebody looks.
pub(crate) fn refresh(shared: &Shared) {
    let book = shared.policies.book();
    let snapshot = shared.snapshot.load();
    let gauge = |name, labels: &[(&'static str, &str)], value: f64| {
        shared.metrics.gauge(name, labels).set(value)
    };
    let now = stage(&book);
    for name in STAGES {
        gauge(
            "spillway_policy_stage",
            &[("stage", name)],
            f64::from(u8::from(name == now)),
        );
    }
    let share = book
        .candidate
        .as_ref()
        .map_or(0.0, |staged| staged.stage.share().fraction());
    gauge("spillway_policy_candidate_ratio", &[], share);
    let candidate = book.candidate.as_ref().map(|staged| &staged.policy);
    for (policy, kept) in [("current", book.current.as_ref()), ("candidate", candidate)] {
        gauge(
            "spillway_policy_digest",
            &[("policy", policy)],
            kept.map_or(0.0, number),
        );
    }
    // Where there is nothing to be kept or taken nothing is wrong.
    let kept = shared.policies.kept().is_ok();
    gauge("spillway_policy_kept", &[], f64::from(u8::from(kept)));
    let cluster = shared.policies.cluster();
    let taken = snapshot.config.policy.from_cluster.is_none()
        || (cluster.problem.is_none() && cluster.seen > 0);
    gauge(
        "spillway_policy_cluster_up",
        &[],
        f64::from(u8::from(taken)),
    );
}

/// The digest as a number that a gauge can hold: 48 bits.
fn number(kept: &Kept) -> f64 {
    u64::from_str_radix(&kept.digest(), 16).map_or(0.0, |digest| digest as f64)
}
