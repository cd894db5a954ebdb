//! What makes two reads the same.

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use http::{Method, request};
use proxy_core::attributes::{Attributes, RvMode, Verb};

use crate::identify::{Credential, Identified};
use crate::snapshot::Snapshot;

/// Headers that say who sent a request and what it belongs to, and change nothing of its answer. The token is compared by
/// its digest.
const IGNORED: [&str; 11] = [
    "baggage",
    "host",
    "kubectl-command",
    "kubectl-session",
    "traceparent",
    "tracestate",
    "user-agent",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

/// Keys longer than this are not worth keeping.
pub(in crate::upstream) const LONGEST: usize = 16 * 1024;

/// Caller, URL and headers, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    bytes: Box<[u8]>,
    any_state: bool,
}

impl Key {
    /// The key of a read that may be shared; `None` for everything else.
    pub(crate) fn of(
        head: &request::Parts,
        attributes: &Attributes<'_>,
        identified: &Identified,
        snapshot: &Snapshot,
    ) -> Option<Self> {
        let read = matches!(attributes.verb, Verb::Get | Verb::List);
        let simple = attributes.is_resource && !attributes.long_running;
        if !(read && simple && head.method == Method::GET) {
            return None;
        }
        let any_state = matches!(attributes.read.version, RvMode::Zero | RvMode::NotOlderThan);
        let mut bytes = Vec::with_capacity(512);
        caller(identified, snapshot, &mut bytes)?;
        // An earlier configuration may have asserted identities otherwise.
        bytes.extend_from_slice(&snapshot.generation.to_le_bytes());
        put(&mut bytes, head.uri.path_and_query()?.as_str().as_bytes());
        headers(&head.headers, &mut bytes);
        (bytes.len() <= LONGEST).then(|| Self {
            bytes: bytes.into(),
            any_state,
        })
    }

    /// Whether an answer may be older than the call.
    pub(super) const fn any_state(&self) -> bool {
        self.any_state
    }

    #[cfg(test)]
    pub(super) fn made_up(text: &str, any_state: bool) -> Self {
        Self {
            bytes: text.as_bytes().into(),
            any_state,
        }
    }
}

/// Nobody whom nobody vouches for shares with anybody.
fn caller(identified: &Identified, snapshot: &Snapshot, bytes: &mut Vec<u8>) -> Option<()> {
    match (identified.credential, &identified.token) {
        (Credential::Asserted, _) => {
            bytes.push(1);
            let assertion = snapshot.identity_headers.assertion(&identified.identity)?;
            for (name, value) in assertion {
                put(bytes, name.as_str().as_bytes());
                put(bytes, value.as_bytes());
            }
        }
        (Credential::Token, Some(digest)) => {
            bytes.push(2);
            put(bytes, digest.as_bytes());
        }
        _ => return None,
    }
    bytes.push(0);
    Some(())
}

/// Of all headers that may change an answer.
pub(in crate::upstream) fn headers(headers: &HeaderMap, bytes: &mut Vec<u8>) {
    let counts = |name: &HeaderName| name != AUTHORIZATION && !IGNORED.contains(&name.as_str());
    let mut names: Vec<&HeaderName> = headers.keys().filter(|name| counts(name)).collect();
    names.sort_unstable_by_key(|name| name.as_str());
    for name in names {
        for value in headers.get_all(name) {
            put(bytes, name.as_str().as_bytes());
            put(bytes, value.as_bytes());
        }
    }
}

/// With its length before it, so that no two lists of parts make the same bytes.
pub(in crate::upstream) fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
    bytes.extend_from_slice(part);
}
