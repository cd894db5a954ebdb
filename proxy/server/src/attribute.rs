//! Stage 3: what is asked, as Kubernetes reads it.
//!
//! [`read`] borrows from the request; [`Facts`] is the little that later stages keep of it.

use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap};
use http::{StatusCode, request};
use proxy_core::admission::Kind;
use proxy_core::admission::cost::Shape;
use proxy_core::attributes::{self, Attributes, RvMode, Verb};

use crate::error::Refused;

/// Reads a request's attributes.
///
/// # Errors
/// [`Refused::Malformed`] with the status the server itself would give.
pub(crate) fn read(head: &request::Parts) -> Result<Attributes<'_>, Refused> {
    let accept = head
        .headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok());
    attributes::parse(
        head.method.as_str(),
        head.uri.path(),
        head.uri.query(),
        accept,
    )
    .map_err(|malformed| {
        let status = StatusCode::from_u16(malformed.status()).unwrap_or(StatusCode::BAD_REQUEST);
        Refused::Malformed {
            status,
            what: malformed.to_string(),
        }
    })
}

/// What kind of traffic a request is, so that kinds do not share connections: a storm of LISTs or a loop of cancels must
/// not close or fill the connections that short calls use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Single objects and other short calls.
    Short,
    /// Collections.
    Bulk,
    /// Watches, logs: answers that last.
    Long,
}

impl Traffic {
    /// All kinds, in the order of their index.
    pub(crate) const ALL: [Self; 3] = [Self::Short, Self::Bulk, Self::Long];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Bulk => "bulk",
            Self::Long => "long",
        }
    }
}

/// What is kept of a request's attributes.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) verb: Verb,
    /// The server sets no deadline for it and its duration is no latency.
    pub(crate) long_running: bool,
    /// A watch that begins with the whole state.
    pub(crate) initial_state: bool,
    /// Which upstream connections it shares.
    pub(crate) traffic: Traffic,
    /// Which bound it is held against and how long it may wait.
    pub(crate) kind: Kind,
    /// What its cost is learned by.
    pub(crate) shape: Shape,
    /// A lease: its Retry-After is never above 1 s, or leaders lose their seat.
    pub(crate) lease: bool,
    /// Somebody behind the server answers: a pod, a service, a node. What they say is not about the server.
    pub(crate) relayed: bool,
    /// The client itself may have made the server time out: it wants a state that there may not be yet (the server waits
    /// 3 s for it, then 504), or sets a short deadline.
    pub(crate) own_timeout: bool,
}

/// Deadlines that clients choose are evidence of a slow server from this on.
const DEADLINE: Duration = Duration::from_secs(10);

impl Facts {
    pub(crate) fn of(attributes: &Attributes<'_>, headers: &HeaderMap) -> Self {
        let initial_state = attributes.is_initial_state_watch();
        let kind = Kind::of(attributes);
        Self {
            verb: attributes.verb,
            long_running: attributes.long_running,
            initial_state,
            traffic: match (attributes.long_running, kind) {
                (true, _) => Traffic::Long,
                (false, Kind::Long) => Traffic::Bulk,
                (false, Kind::Short) => Traffic::Short,
            },
            kind,
            shape: Shape::of(attributes, accepts_gzip(headers)),
            lease: attributes.resource == "leases" && attributes.api_group == "coordination.k8s.io",
            relayed: attributes.subresource == "proxy" || attributes.verb == Verb::Proxy,
            own_timeout: matches!(
                attributes.read.version,
                RvMode::NotOlderThan | RvMode::Exact
            ) || attributes.timeout.is_some_and(|timeout| timeout < DEADLINE),
        }
    }
}

/// Whether the client accepts gzip, in whatever words.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT_ENCODING).is_some_and(|value| {
        value
            .as_bytes()
            .windows(4)
            .any(|window| window.eq_ignore_ascii_case(b"gzip"))
    })
}
