//! What becomes of a request while a new policy is tried, told to whoever guards it, once.

use std::sync::Arc;

use http::StatusCode;
use proxy_core::admission::limits::Leases;

use super::Account;
use crate::classify::Judged;
use crate::policy::trial::{Outcome, Side, Tally};

/// Nothing, unless a policy is tried.
#[derive(Debug, Default)]
pub(super) struct OnTrial {
    guarded: Option<(Arc<Tally>, Side)>,
    /// What it would hold of the new policy's limits.
    rehearsed: Leases,
}

impl OnTrial {
    pub(super) fn delivered(&mut self) {
        self.rehearsed.delivered();
    }
}

impl Account {
    /// It has been judged, perhaps by the new policy.
    pub(crate) fn judged(&mut self, judged: &Judged<'_>, tenant: u64) {
        let Some((trial, own, other)) = judged.trial else {
            return;
        };
        let (side, guarded) = trial.note(tenant, own, other, &self.worker().shared.metrics);
        if guarded {
            self.trial.guarded = Some((Arc::clone(&trial.tally), side));
        }
        if trial.judges(tenant) {
            self.snapshot = Arc::clone(&trial.other);
        }
    }

    /// It would hold this under the new policy.
    pub(crate) fn rehearses(&mut self, leases: Leases) {
        self.trial.rehearsed = leases;
    }

    /// The server's answer, or one that it gave to another.
    pub(super) fn tell_guard(&mut self, status: StatusCode) {
        let failed = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        self.tell(match failed {
            true => Outcome::Failed,
            false => Outcome::Served,
        });
    }

    /// Our own answer.
    pub(super) fn tell_guard_of_ours(&mut self, status: u16) {
        self.tell(match (status, self.entry.refused.is_some()) {
            (403 | 429, true) => Outcome::Refused,
            (500.., _) => Outcome::Failed,
            _ => Outcome::Served,
        });
    }

    fn tell(&mut self, outcome: Outcome) {
        if let Some((tally, side)) = self.trial.guarded.take() {
            tally.answered(side, outcome, &self.worker().shared.metrics);
        }
    }
}
