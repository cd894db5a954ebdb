//! What the cost of a request depends on, as it follows from the request's attributes.

use crate::admission::Kind;
use crate::attributes::{self, Attributes};
use crate::hash::Hash;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// One object, read.
    Get,
    /// A collection, read.
    List,
    /// A watch that begins with the whole state: a LIST in cost.
    WatchInitial,
    /// A watch that resumes from a resource version.
    WatchResume,
    /// One object, written: create, update, patch, delete.
    Write,
    /// A collection, deleted.
    DeleteCollection,
    /// Anything else: exec, proxy, discovery, health.
    Other,
}

/// Of how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One object.
    Object,
    /// A collection in one namespace, or selected by a name or an indexed field.
    Namespace,
    /// A collection in the whole cluster.
    Cluster,
}

/// From where the server reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Its watch cache.
    Cache,
    /// etcd, or the cache after asking etcd how current it is.
    Etcd,
}

/// How the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// JSON, YAML or CBOR.
    Json,
    /// Protobuf.
    Protobuf,
    /// Metadata only, in any encoding.
    Metadata,
    /// Table, as kubectl asks for it.
    Table,
}

/// What the cost of a request depends on. Tenant-free: what one tenant's calls cost is
/// known for the next tenant's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Stable hash of group, resource and subresource, and of the namespace for
    /// collections in one.
    pub resource: u64,
    /// What is done.
    pub verb: Verb,
    /// Of how much.
    pub scope: Scope,
    /// From where.
    pub source: Source,
    /// How it is written.
    pub encoding: Encoding,
    /// Whether the client accepts gzip; large answers then cost several times the CPU.
    pub gzip: bool,
    /// Whether a label or field selector filters the output.
    pub selector: bool,
    /// Objects per page at most, where the server honours it; `None` otherwise.
    pub limit: Option<u32>,
}

impl Shape {
    /// Of a request; `gzip` says whether the client accepts that.
    #[must_use]
    pub fn of(attributes: &Attributes<'_>, gzip: bool) -> Self {
        Self {
            resource: resource(attributes),
            verb: verb(attributes),
            scope: match attributes.scope() {
                attributes::Scope::Cluster => Scope::Cluster,
                attributes::Scope::Namespaced => Scope::Namespace,
                attributes::Scope::Named | attributes::Scope::NonResource => Scope::Object,
            },
            source: match attributes.served_from() {
                attributes::Source::Cache => Source::Cache,
                attributes::Source::Etcd => Source::Etcd,
            },
            encoding: match attributes.encoding {
                attributes::Encoding::Json
                | attributes::Encoding::Cbor
                | attributes::Encoding::Other => Encoding::Json,
                attributes::Encoding::Protobuf => Encoding::Protobuf,
                attributes::Encoding::Table => Encoding::Table,
                attributes::Encoding::PartialMetadata { .. } => Encoding::Metadata,
            },
            gzip,
            selector: attributes.field_selector.is_some() || attributes.label_selector.is_some(),
            limit: attributes
                .effective_limit()
                .map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
        }
    }

    /// The `resource` of shapes of a resource's collections in the whole cluster.
    #[must_use]
    pub fn cluster_resource(group: &str, resource: &str) -> u64 {
        Hash::new()
            .text(group)
            .text(resource)
            .text("")
            .text("")
            .finish()
    }
}

impl Kind {
    /// Of a request: what touches a whole collection is long.
    #[must_use]
    pub fn of(attributes: &Attributes<'_>) -> Self {
        if attributes.is_collection_read() || attributes.verb == attributes::Verb::DeleteCollection
        {
            Self::Long
        } else {
            Self::Short
        }
    }
}

fn resource(attributes: &Attributes<'_>) -> u64 {
    let resource = Hash::new()
        .text(&attributes.api_group)
        .text(&attributes.resource)
        .text(&attributes.subresource);
    if Kind::of(attributes) == Kind::Long {
        return resource.text(&attributes.namespace).finish();
    }
    if attributes.is_resource {
        return resource.finish();
    }
    // Discovery, health, metrics, openapi: each its own, by the first two segments, so that
    // made-up paths share.
    let path = attributes.path.trim_start_matches('/');
    let end = path
        .match_indices('/')
        .nth(1)
        .map_or(path.len(), |(at, _)| at);
    resource.text(path.get(..end).unwrap_or(path)).finish()
}

fn verb(attributes: &Attributes<'_>) -> Verb {
    use attributes::Verb as Asked;
    match attributes.verb {
        _ if !attributes.is_resource => Verb::Other,
        Asked::List => Verb::List,
        Asked::Watch if attributes.is_initial_state_watch() => Verb::WatchInitial,
        Asked::Watch => Verb::WatchResume,
        Asked::Get => Verb::Get,
        Asked::DeleteCollection => Verb::DeleteCollection,
        Asked::Create | Asked::Update | Asked::Patch | Asked::Delete
            if !attributes.long_running =>
        {
            Verb::Write
        }
        _ => Verb::Other,
    }
}
