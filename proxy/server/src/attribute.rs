//! Stage 3: what is asked, as Kubernetes reads it.
//!
//! [`read`] borrows from the request; [`Facts`] is the little that later stages keep of it.

use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap};
use http::{StatusCode, request};
use proxy_core::admission::Kind;
use proxy_core::admission::cost::{self, Shape};
use proxy_core::attributes::{self, Attributes, Encoding, RvMode, Scope, Source, Verb};
use proxy_core::hash::Hash;

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
        let collection = attributes.is_collection_read();
        let heavy = collection || attributes.verb == Verb::DeleteCollection;
        Self {
            verb: attributes.verb,
            long_running: attributes.long_running,
            initial_state,
            traffic: match (attributes.long_running, heavy) {
                (true, _) => Traffic::Long,
                (false, true) => Traffic::Bulk,
                (false, false) => Traffic::Short,
            },
            kind: if heavy { Kind::Long } else { Kind::Short },
            shape: shape(attributes, headers),
            lease: attributes.resource == "leases" && attributes.api_group == "coordination.k8s.io",
            relayed: attributes.subresource == "proxy" || attributes.verb == Verb::Proxy,
            own_timeout: matches!(
                attributes.read.version,
                RvMode::NotOlderThan | RvMode::Exact
            ) || attributes.timeout.is_some_and(|timeout| timeout < DEADLINE),
        }
    }
}

/// What a request's cost depends on.
fn shape(attributes: &Attributes<'_>, headers: &HeaderMap) -> Shape {
    let collection = attributes.is_collection_read() || attributes.verb == Verb::DeleteCollection;
    let mut resource = Hash::new()
        .text(&attributes.api_group)
        .text(&attributes.resource)
        .text(&attributes.subresource);
    if collection {
        resource = resource.text(&attributes.namespace);
    } else if !attributes.is_resource {
        // Discovery, health, metrics, openapi: each its own, by the first two segments, so that made-up paths share.
        let path = attributes.path.trim_start_matches('/');
        let end = path
            .match_indices('/')
            .nth(1)
            .map_or(path.len(), |(at, _)| at);
        resource = resource.text(path.get(..end).unwrap_or(path));
    }
    Shape {
        resource: resource.finish(),
        verb: match attributes.verb {
            _ if !attributes.is_resource => cost::Verb::Other,
            Verb::List => cost::Verb::List,
            Verb::Watch if attributes.is_initial_state_watch() => cost::Verb::WatchInitial,
            Verb::Watch => cost::Verb::WatchResume,
            Verb::Get => cost::Verb::Get,
            Verb::DeleteCollection => cost::Verb::DeleteCollection,
            Verb::Create | Verb::Update | Verb::Patch | Verb::Delete
                if !attributes.long_running =>
            {
                cost::Verb::Write
            }
            _ => cost::Verb::Other,
        },
        scope: match attributes.scope() {
            Scope::Cluster => cost::Scope::Cluster,
            Scope::Namespaced => cost::Scope::Namespace,
            Scope::Named | Scope::NonResource => cost::Scope::Object,
        },
        source: match attributes.served_from() {
            Source::Cache => cost::Source::Cache,
            Source::Etcd => cost::Source::Etcd,
        },
        encoding: match attributes.encoding {
            Encoding::Json | Encoding::Cbor | Encoding::Other => cost::Encoding::Json,
            Encoding::Protobuf => cost::Encoding::Protobuf,
            Encoding::Table => cost::Encoding::Table,
            Encoding::PartialMetadata { .. } => cost::Encoding::Metadata,
        },
        gzip: headers.get(ACCEPT_ENCODING).is_some_and(|value| {
            value
                .as_bytes()
                .windows(4)
                .any(|window| window.eq_ignore_ascii_case(b"gzip"))
        }),
        selector: attributes.field_selector.is_some() || attributes.label_selector.is_some(),
        limit: attributes
            .effective_limit()
            .map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
    }
}
