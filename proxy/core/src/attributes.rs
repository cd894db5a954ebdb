//! What is asked: method, path and query, read exactly as Kubernetes reads them,
//! plus what makes the request cheap or dear.
//!
//! [`parse`] follows `RequestInfoFactory.NewRequestInfo` of
//! `apiserver:pkg/endpoints/request/requestinfo.go` (1.37) with all its traps,
//! because the proxy must not be talked into a cheaper reading than the server's:
//! where the two could differ, the more expensive reading is taken. On the usual
//! path (no `%`, no selectors) nothing is allocated.

mod accept;
mod labels;
mod path;
mod query;
mod selector;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use thiserror::Error;

/// A request line the server itself would refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// A `%` in the path is not followed by two hex digits.
    #[error("the path holds a % that is not followed by two hex digits; write it as %25")]
    Escape,
    /// A control character in the path or the query.
    #[error("the path or the query holds a control character; escape it")]
    ControlCharacter,
    /// The path neither begins with a slash nor is `*`.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// `/api/v1/watch` or `…/proxy` with nothing behind it.
    #[error("the path ends after the verb `watch` or `proxy`; a resource must follow")]
    VerbWithoutResource,
    /// More than 10 000 query parameters.
    #[error("the query holds more than 10000 parameters")]
    TooManyParameters,
}

impl Malformed {
    /// The HTTP status the server answers such a request with.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::VerbWithoutResource => 500,
            _ => 400,
        }
    }
}

/// The Kubernetes verb of a resource request, or the lower-case HTTP method of
/// any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read a collection.
    List,
    /// Follow changes.
    Watch,
    /// Create an object, or call a creating subresource.
    Create,
    /// Replace an object.
    Update,
    /// Change an object.
    Patch,
    /// Delete an object.
    Delete,
    /// Delete a collection.
    DeleteCollection,
    /// The legacy path verb `/api/v1/proxy/…`.
    Proxy,
    /// HTTP POST outside the resource API.
    Post,
    /// HTTP PUT outside the resource API.
    Put,
    /// HTTP HEAD outside the resource API.
    Head,
    /// HTTP OPTIONS outside the resource API.
    Options,
    /// Any other method; Kubernetes has no verb for it on resources.
    Other,
}

impl Verb {
    /// Every verb that has a name, in the order of declaration.
    pub const NAMED: [Self; 13] = [
        Self::Get,
        Self::List,
        Self::Watch,
        Self::Create,
        Self::Update,
        Self::Patch,
        Self::Delete,
        Self::DeleteCollection,
        Self::Proxy,
        Self::Post,
        Self::Put,
        Self::Head,
        Self::Options,
    ];

    /// The name as RBAC and audit logs write it; empty for [`Verb::Other`].
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Proxy => "proxy",
            Self::Post => "post",
            Self::Put => "put",
            Self::Head => "head",
            Self::Options => "options",
            Self::Other => "",
        }
    }

    /// The verb of that name, exactly as [`Verb::as_str`] writes it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|verb| verb.as_str() == name)
    }

    /// Outside the resource API the verb is the method in lower case, even an
    /// invented one: `WATCH /healthz` counts as long-running at the server.
    fn of_method(method: &str) -> Self {
        if method == "GET" {
            return Self::Get;
        }
        Self::NAMED
            .into_iter()
            .find(|verb| verb.as_str().eq_ignore_ascii_case(method))
            .unwrap_or(Self::Other)
    }

    fn of_resource_method(method: &str) -> Self {
        match method {
            "GET" | "HEAD" => Self::Get,
            "POST" => Self::Create,
            "PUT" => Self::Update,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            _ => Self::Other,
        }
    }
}

/// Which state a read is content with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RvMode {
    /// No resourceVersion: the most recent state.
    #[default]
    Unset,
    /// `resourceVersion=0`: any state; a LIST then ignores its limit.
    Zero,
    /// A state at least as new as the one named; for a watch: from there on.
    NotOlderThan,
    /// Exactly the state named.
    Exact,
}

/// What a query says about the cost of a read. All of it is void (and the
/// dearest assumed) if the query does not decode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadShape {
    /// Which state is asked for.
    pub version: RvMode,
    /// The page size in objects, if positive. See
    /// [`Attributes::effective_limit`] for whether it is honoured.
    pub limit: Option<u64>,
    /// A later page of a LIST.
    pub has_continue: bool,
    /// `sendInitialEvents`, if given.
    pub send_initial_events: Option<bool>,
    /// `allowWatchBookmarks`.
    pub allow_watch_bookmarks: bool,
    /// `timeoutSeconds`: how long a watch wants to live.
    pub timeout_seconds: Option<i64>,
}

/// How the answer will be encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// JSON, the default.
    #[default]
    Json,
    /// Kubernetes protobuf.
    Protobuf,
    /// CBOR.
    Cbor,
    /// A table, as kubectl prints it; computed per request, never streamed.
    Table,
    /// Metadata only.
    PartialMetadata {
        /// As protobuf; else as JSON (or CBOR).
        protobuf: bool,
    },
    /// Anything else, YAML among it.
    Other,
}

/// How much of the API a request addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// No resource at all: discovery, health, metrics.
    NonResource,
    /// One object, or its subresource.
    Named,
    /// The collection of one namespace.
    Namespaced,
    /// A collection across all namespaces, or of a cluster-scoped resource.
    Cluster,
}

/// Where the server answers from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Its watch cache.
    Cache,
    /// etcd.
    Etcd,
}

/// A request as Kubernetes' RequestInfo describes it, and what it will cost.
///
/// Absent strings are empty, as in RequestInfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// What is to be done.
    pub verb: Verb,
    /// Whether the request addresses a resource of the API.
    pub is_resource: bool,
    /// The whole path, decoded.
    pub path: Cow<'a, str>,
    /// The API group; empty for the core group.
    pub api_group: Cow<'a, str>,
    /// The API version.
    pub api_version: Cow<'a, str>,
    /// The namespace; also set for requests to the Namespace object itself.
    pub namespace: Cow<'a, str>,
    /// The resource, in plural.
    pub resource: Cow<'a, str>,
    /// The subresource.
    pub subresource: Cow<'a, str>,
    /// The object's name, from the path or pinned by a field selector.
    pub name: Cow<'a, str>,
    /// The name was pinned by `fieldSelector=metadata.name=…`.
    pub name_from_selector: bool,
    /// `resource[/name[/subresource[/…]]]`, RequestInfo's Parts joined.
    pub parts: Cow<'a, str>,
    /// The server sets no deadline and holds no seat for its duration: watches,
    /// exec, attach, log, port-forward, proxies, profiles.
    pub long_running: bool,
    /// The raw field selector of a collection request.
    pub field_selector: Option<Cow<'a, str>>,
    /// The raw label selector of a collection request.
    pub label_selector: Option<Cow<'a, str>>,
    /// What the query says about the cost of a read.
    pub read: ReadShape,
    /// How the answer will be encoded.
    pub encoding: Encoding,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// The client's own deadline (`?timeout=`), not capped.
    pub timeout: Option<Duration>,
}

/// Reads a request line. `path` is the raw path, `query` what follows its `?`,
/// `accept` the `Accept` header.
///
/// # Errors
///
/// [`Malformed`] for what the server itself refuses before it looks at who asks.
pub fn parse<'a>(
    method: &str,
    path: &'a str,
    query: Option<&'a str>,
    accept: Option<&str>,
) -> Result<Attributes<'a>, Malformed> {
    let parameters = query::Parameters::read(query)?;
    let encoding = accept::encoding(accept);
    match path::decode(path)? {
        Cow::Borrowed(path) => {
            let located = path::locate(method, path)?;
            Ok(assemble(
                path,
                &located,
                parameters,
                encoding,
                Cow::Borrowed,
            ))
        }
        Cow::Owned(path) => {
            let located = path::locate(method, &path)?;
            let own = |part: &str| Cow::Owned(part.to_owned());
            Ok(assemble(&path, &located, parameters, encoding, own))
        }
    }
}

fn assemble<'p, 'a>(
    path: &'p str,
    located: &path::Located<'p>,
    parameters: query::Parameters<'a>,
    encoding: Encoding,
    keep: impl Fn(&'p str) -> Cow<'a, str>,
) -> Attributes<'a> {
    let mut verb = located.verb;
    let mut name = keep(located.name);
    let mut name_from_selector = false;
    let options = parameters.list_options();
    if located.is_resource && verb == Verb::Get && name.is_empty() {
        verb = if options.watch {
            Verb::Watch
        } else {
            Verb::List
        };
        if let Some(pinned) = options.name.as_deref().filter(|pinned| !pinned.is_empty()) {
            name = Cow::Owned(pinned.to_owned());
            name_from_selector = true;
        }
    }
    if located.is_resource && verb == Verb::Delete && name.is_empty() {
        verb = Verb::DeleteCollection;
    }
    let read = parameters.read_shape(verb, options.decoded, options.limit);
    let dry_run = parameters.dry_run();
    let timeout = parameters.timeout();
    let selects = located.is_resource
        && !located.verb_in_path
        && matches!(verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
    let (field_selector, label_selector) = if selects {
        parameters.into_selectors()
    } else {
        (None, None)
    };
    Attributes {
        verb,
        is_resource: located.is_resource,
        path: keep(path),
        api_group: keep(located.api_group),
        api_version: keep(located.api_version),
        namespace: keep(located.namespace),
        resource: keep(located.resource),
        subresource: keep(located.subresource),
        name,
        name_from_selector,
        parts: keep(located.parts),
        long_running: is_long_running(verb, located, path),
        field_selector,
        label_selector,
        read,
        encoding,
        dry_run,
        timeout,
    }
}

/// kube-apiserver's predicate (`apiserver:pkg/server/filters/longrunning.go`).
fn is_long_running(verb: Verb, located: &path::Located<'_>, path: &str) -> bool {
    matches!(verb, Verb::Watch | Verb::Proxy)
        || if located.is_resource {
            matches!(
                located.subresource,
                "attach" | "exec" | "proxy" | "log" | "portforward"
            )
        } else {
            path.starts_with("/debug/pprof/")
        }
}

impl Attributes<'_> {
    /// How much of the API the request addresses.
    ///
    /// Differs from RequestInfo in one point, to the dearer side: a name pinned
    /// by a selector *without* a namespace spares the server the scan only if
    /// the resource is cluster-scoped. For any other (`GET /api/v1/pods?
    /// fieldSelector=metadata.name=x`) it cannot build the key and reads the
    /// whole collection, though APF charges one object.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let spared = !self.name_from_selector
            || !self.namespace.is_empty()
            || is_cluster_scoped(&self.api_group, &self.resource);
        if !self.is_resource {
            Scope::NonResource
        } else if !self.name.is_empty() && spared {
            Scope::Named
        } else if !self.namespace.is_empty() {
            Scope::Namespaced
        } else {
            Scope::Cluster
        }
    }

    /// A LIST, or a watch that begins with the state of a collection: it costs
    /// as much as the collection is large. False for single objects.
    #[must_use]
    pub fn is_collection_read(&self) -> bool {
        self.is_resource
            && self.scope() != Scope::Named
            && (self.verb == Verb::List || self.is_initial_state_watch())
    }

    /// A watch that first sends the whole state: no resourceVersion, `0`, or
    /// `sendInitialEvents`.
    #[must_use]
    pub fn is_initial_state_watch(&self) -> bool {
        self.is_resource
            && self.verb == Verb::Watch
            && (matches!(self.read.version, RvMode::Unset | RvMode::Zero)
                || self.read.send_initial_events == Some(true))
    }

    /// The page size the server will honour, in objects: none for
    /// `resourceVersion=0`, where the cache ignores the limit, nor for watches.
    #[must_use]
    pub fn effective_limit(&self) -> Option<u64> {
        match (self.verb, self.read.version) {
            // A continued LIST carries its version in the token.
            (Verb::List, RvMode::Zero) if !self.read.has_continue => None,
            (Verb::List, _) => self.read.limit,
            _ => None,
        }
    }

    /// Where a server of 1.34 or newer answers from
    /// (`apiserver:pkg/storage/cacher/delegator.go`). Exact and continued LISTs
    /// may be served from a snapshot of the cache; etcd is assumed.
    #[must_use]
    pub fn served_from(&self) -> Source {
        match self.verb {
            Verb::Watch => Source::Cache,
            Verb::List if self.read.has_continue => Source::Etcd,
            Verb::List if self.read.version != RvMode::Exact => Source::Cache,
            Verb::Get if matches!(self.read.version, RvMode::Zero | RvMode::NotOlderThan) => {
                Source::Cache
            }
            _ => Source::Etcd,
        }
    }

    /// Whether the request may change stored state.
    #[must_use]
    pub const fn mutating(&self) -> bool {
        !matches!(
            self.verb,
            Verb::Get | Verb::List | Verb::Watch | Verb::Head | Verb::Options
        )
    }
}

/// Cluster-scoped resources that clients read by a pinned name: kubelets their
/// own node above all. An unknown one counts as namespaced, the dearer reading.
fn is_cluster_scoped(group: &str, resource: &str) -> bool {
    match group {
        "" => matches!(resource, "nodes" | "namespaces" | "persistentvolumes"),
        "admissionregistration.k8s.io"
        | "apiregistration.k8s.io"
        | "apiextensions.k8s.io"
        | "flowcontrol.apiserver.k8s.io"
        | "node.k8s.io" => true,
        "certificates.k8s.io" => matches!(
            resource,
            "certificatesigningrequests" | "clustertrustbundles"
        ),
        "scheduling.k8s.io" => resource == "priorityclasses",
        "networking.k8s.io" => {
            matches!(resource, "ingressclasses" | "ipaddresses" | "servicecidrs")
        }
        "rbac.authorization.k8s.io" => matches!(resource, "clusterroles" | "clusterrolebindings"),
        "resource.k8s.io" => matches!(resource, "deviceclasses" | "resourceslices"),
        "storage.k8s.io" => matches!(
            resource,
            "csidrivers"
                | "csinodes"
                | "storageclasses"
                | "volumeattachments"
                | "volumeattributesclasses"
        ),
        _ => false,
    }
}
