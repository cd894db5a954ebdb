//! Looks once a second at what a new policy does to protected classes, and gives it up when that is too much.

use std::sync::Arc;

use proxy_core::rollout::{Break, Counts, Guard, GuardSettings, Harm};
use tracing::error;

use crate::clock;
use crate::policy::{self, trial::Tally};
use crate::shared::Shared;

/// The guard of the policy that is tried now, if anybody is judged by it.
#[derive(Debug, Default)]
pub(crate) struct PolicyGuard {
    watching: Option<(Arc<Tally>, Guard)>,
    /// What the old policy saw while nobody was judged by the new one.
    before: Option<(Arc<Tally>, Counts)>,
}

impl PolicyGuard {
    /// To be called about once a second. Why a policy was given up, if one was.
    pub(crate) fn look(&mut self, shared: &Shared) -> Option<String> {
        policy::settle(shared);
        let snapshot = shared.snapshot.load_full();
        let Some(trial) = snapshot.trial.as_deref() else {
            *self = Self::default();
            return None;
        };
        let (seen, now) = (trial.tally.seen(), clock::now());
        if !trial.is_judging() {
            self.watching = None;
            self.before = Some((Arc::clone(&trial.tally), seen.old));
            return None;
        }
        let same = |tally: &Arc<Tally>| Arc::ptr_eq(tally, &trial.tally);
        let Some((_, guard)) = self.watching.as_mut().filter(|(tally, _)| same(tally)) else {
            let before = self.before.take().filter(|(tally, _)| same(tally));
            let before = before.map(|(_, counts)| counts).unwrap_or_default();
            let settings = GuardSettings {
                tolerance: snapshot.config.policy.guard.tolerance.fraction(),
            };
            let guard = Guard::new(settings, before, seen, now);
            self.watching = Some((Arc::clone(&trial.tally), guard));
            return None;
        };
        let broken = guard.look(seen, now)?;
        self.watching = None;
        let why = said(&broken);
        if !policy::give_up(shared, &why) {
            return None;
        }
        error!(target: "spillway::audit", event = "policy_given_up", policy = trial.name, why,
               "a new policy was given up; the old one is in force for everybody");
        let harm = match broken.harm {
            Harm::Refusals => "refusals",
            Harm::Errors => "errors",
        };
        let returns = shared
            .metrics
            .counter("spillway_policy_returns_total", &[("harm", harm)]);
        returns.increment(1);
        Some(why)
    }
}

fn said(broken: &Break) -> String {
    let what = match broken.harm {
        Harm::Refusals => "were refused",
        Harm::Errors => "failed",
    };
    format!(
        "{:.1}% of {} requests of protected classes {what} within a minute, against {:.1}% under the old policy",
        broken.new * 100.0,
        broken.asked,
        broken.old * 100.0
    )
}
