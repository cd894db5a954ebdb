//! Stage 4: how important a request is, by the policy in force.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{HeaderMap, USER_AGENT};
use proxy_core::attributes::Attributes;
use proxy_core::classify::{Classified, Client};
use proxy_core::identity::Identity;

use crate::lane::Lane;
use crate::policy::trial::Trial;
use crate::snapshot::Snapshot;

/// A judgement, and the snapshot with the policy that made it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judged<'a> {
    pub(crate) snapshot: &'a Arc<Snapshot>,
    /// The class of the request and the rule that says so.
    pub(crate) classified: Classified,
    /// While a new policy is tried: what the policy in force says, and what the other does.
    pub(crate) trial: Option<(&'a Trial, Classified, Classified)>,
}

impl Judged<'_> {
    /// Whether a limit asks for the server time of the request.
    pub(crate) fn want_work(&self) -> bool {
        let rehearsed = self.trial.map(|(trial, ..)| &trial.other.limits);
        self.snapshot.limits.want_work() || rehearsed.is_some_and(|limits| limits.want_work())
    }
}

/// Judges a request by the policy in force, or by the one that is tried, where that judges its tenant.
pub(crate) fn classify<'a>(
    attributes: &Attributes<'_>,
    identity: &Identity,
    headers: &HeaderMap,
    address: IpAddr,
    lane: Lane,
    snapshot: &'a Arc<Snapshot>,
) -> Judged<'a> {
    let client = client(headers, address);
    let own = snapshot.policy.classify(attributes, identity, &client);
    let trial = snapshot.trial.as_deref().filter(|_| lane == Lane::Main);
    let trial = trial.map(|trial| {
        let other = &trial.other.policy;
        (trial, own, other.classify(attributes, identity, &client))
    });
    let (snapshot, classified) = match trial {
        Some((trial, _, other)) if trial.judges(identity.tenant()) => (&trial.other, other),
        _ => (snapshot, own),
    };
    Judged {
        snapshot,
        classified,
        trial,
    }
}

/// What the connection and the headers say about the client.
pub(crate) fn client(headers: &HeaderMap, address: IpAddr) -> Client<'_> {
    Client {
        user_agent: headers
            .get(USER_AGENT)
            .and_then(|value| value.to_str().ok()),
        address,
    }
}
