//! Stage 4: how important a request is, by the policy in force.

use std::net::IpAddr;

use http::header::{HeaderMap, USER_AGENT};
use proxy_core::attributes::Attributes;
use proxy_core::classify::{Classified, Client};
use proxy_core::identity::Identity;

use crate::snapshot::Snapshot;

/// The class of a request and the rule that says so.
pub(crate) fn classify(
    attributes: &Attributes<'_>,
    identity: &Identity,
    headers: &HeaderMap,
    address: IpAddr,
    snapshot: &Snapshot,
) -> Classified {
    let client = client(headers, address);
    snapshot.policy.classify(attributes, identity, &client)
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
