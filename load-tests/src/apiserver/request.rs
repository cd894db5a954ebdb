//! What a request asks for: Kubernetes' `RequestInfo` and the list options,
//! read the way `apiserver/pkg/endpoints/request/requestinfo.go` reads them.

use http::Method;
use percent_encoding::percent_decode_str;

use super::status::ApiError;

/// The verb of a request, as the server derives it from method and shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
    /// A path outside the resource grammar: health, version, discovery.
    NonResource,
    /// `proxy` or a method Kubernetes does not know.
    Other,
}

impl Verb {
    /// The verb's name in RBAC and in statistics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::NonResource => "nonresource",
            Self::Other => "other",
        }
    }
}

/// One request's place in the API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) namespace: Option<String>,
    pub(super) resource: String,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

/// A request line taken apart.
#[derive(Debug)]
pub(super) struct Info {
    pub(super) verb: Verb,
    /// Decoded path.
    pub(super) path: String,
    /// Only for resource requests.
    pub(super) target: Target,
    pub(super) query: Query,
}

impl Info {
    /// Reads method and URI. Fails with 400 for a path that is not UTF-8
    /// once decoded.
    pub(super) fn parse(method: &Method, uri: &http::Uri) -> Result<Self, ApiError> {
        let path = percent_decode_str(uri.path())
            .decode_utf8()
            .map_err(|_| ApiError::bad_request("the request path is not valid UTF-8"))?
            .into_owned();
        let query = Query::parse(uri.query().unwrap_or(""));
        let mut info = Self {
            verb: Verb::NonResource,
            path,
            target: Target::default(),
            query,
        };
        info.resolve(method);
        Ok(info)
    }

    fn resolve(&mut self, method: &Method) {
        let mut parts = self.path.trim_matches('/').split('/').map(str::to_owned);
        let mut target = Target::default();
        let prefix = parts.next().unwrap_or_default();
        let rest: Vec<String> = match prefix.as_str() {
            "api" => parts.collect(),
            "apis" => {
                target.group = parts.next().unwrap_or_default();
                parts.collect()
            }
            _ => return,
        };
        let mut rest = rest.into_iter();
        let (Some(version), Some(first)) = (rest.next(), rest.next()) else {
            return;
        };
        target.version = version;
        let mut verb = match *method {
            Method::GET | Method::HEAD => Verb::Get,
            Method::POST => Verb::Create,
            Method::PUT => Verb::Update,
            Method::PATCH => Verb::Patch,
            Method::DELETE => Verb::Delete,
            _ => Verb::Other,
        };
        let mut first = first;
        if first == "proxy" || first == "watch" {
            let Some(next) = rest.next() else { return };
            verb = if first == "watch" {
                Verb::Watch
            } else {
                Verb::Other
            };
            first = next;
        }
        if first == "namespaces" {
            let namespace = rest.next();
            let third = rest.next();
            match third {
                Some(third) if third != "status" && third != "finalize" => {
                    target.namespace = namespace;
                    target.resource = third;
                    target.name = rest.next().filter(|name| !name.is_empty());
                    target.subresource = rest.next();
                }
                subresource => {
                    target.resource = first;
                    target.name = namespace.filter(|name| !name.is_empty());
                    target.subresource = subresource;
                }
            }
        } else {
            target.resource = first;
            target.name = rest.next().filter(|name| !name.is_empty());
            target.subresource = rest.next();
        }
        if target.name.is_none() {
            verb = match verb {
                Verb::Get if self.query.flag("watch") => Verb::Watch,
                Verb::Get => Verb::List,
                Verb::Delete => Verb::DeleteCollection,
                verb => verb,
            };
        } else if verb == Verb::Get && self.query.flag("watch") {
            // `GET …/name?watch=1` watches that one object.
            verb = Verb::Watch;
        }
        self.verb = verb;
        self.target = target;
    }
}

/// Query parameters, decoded; only the first value of a name counts.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(raw: &str) -> Self {
        let decode = |text: &str| {
            percent_decode_str(&text.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        Self(
            raw.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(have, _)| have == name)
            .map(|(_, value)| value.as_str())
    }

    /// Kubernetes' boolean codec: absent, `0` and `false` are false and
    /// everything else, the empty string included, is true.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.get(name) {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "invalid value {text:?} for query parameter {name:?}: expected a number"
                ))
            }),
        }
    }
}

/// How old a list may be (`resourceVersion` and `resourceVersionMatch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Parameter absent: the newest state.
    Current,
    /// `0`: whatever the cache holds; limits are ignored.
    Any,
    /// At least this version.
    NotOlderThan(u64),
    /// Exactly this version.
    Exact(u64),
}

/// `metav1.ListOptions` as far as the model serves them.
#[derive(Debug)]
pub(super) struct ListOptions {
    pub(super) freshness: Freshness,
    pub(super) limit: Option<u64>,
    pub(super) continue_token: Option<String>,
    pub(super) labels: Option<String>,
    pub(super) fields: Option<String>,
    pub(super) bookmarks: bool,
    pub(super) send_initial_events: bool,
    pub(super) timeout_seconds: Option<u64>,
}

impl ListOptions {
    /// Reads the options; 400 for numbers that are none and for combinations
    /// Kubernetes refuses.
    pub(super) fn parse(query: &Query) -> Result<Self, ApiError> {
        let text = |name| query.get(name).filter(|value| !value.is_empty());
        let version = query.number("resourceVersion")?;
        let limit = query.number("limit")?.filter(|&limit| limit > 0);
        let exact = match text("resourceVersionMatch") {
            None => version.is_some_and(|version| version > 0) && limit.is_some(),
            Some("Exact") => true,
            Some("NotOlderThan") => false,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "resourceVersionMatch: unsupported value {other:?}: expected Exact or NotOlderThan"
                )));
            }
        };
        let freshness = match version {
            None => Freshness::Current,
            Some(0) => Freshness::Any,
            Some(version) if exact => Freshness::Exact(version),
            Some(version) => Freshness::NotOlderThan(version),
        };
        Ok(Self {
            freshness,
            limit: limit.filter(|_| freshness != Freshness::Any),
            continue_token: text("continue").map(str::to_owned),
            labels: text("labelSelector").map(str::to_owned),
            fields: text("fieldSelector").map(str::to_owned),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.flag("sendInitialEvents"),
            timeout_seconds: query.number("timeoutSeconds")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, uri: &str) -> Info {
        Info::parse(&method, &uri.parse().unwrap()).unwrap()
    }

    #[test]
    fn paths_resolve_as_kubernetes_does() {
        let pods = info(Method::GET, "/api/v1/namespaces/a/pods?limit=5");
        assert_eq!(pods.verb, Verb::List);
        assert_eq!(pods.target.namespace.as_deref(), Some("a"));
        assert_eq!(pods.target.resource, "pods");
        let status = info(Method::PATCH, "/api/v1/nodes/n1/status");
        assert_eq!(status.verb, Verb::Patch);
        assert_eq!(status.target.subresource.as_deref(), Some("status"));
        let namespace = info(Method::GET, "/api/v1/namespaces/a");
        assert_eq!(namespace.verb, Verb::Get);
        assert_eq!(namespace.target.resource, "namespaces");
        let lease = info(
            Method::PUT,
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1",
        );
        assert_eq!(lease.target.group, "coordination.k8s.io");
        assert_eq!(lease.verb, Verb::Update);
        assert_eq!(
            info(Method::DELETE, "/api/v1/namespaces/a/pods").verb,
            Verb::DeleteCollection
        );
        assert_eq!(info(Method::GET, "/apis/apps/v1").verb, Verb::NonResource);
        assert_eq!(info(Method::GET, "/api/v1/watch/pods").verb, Verb::Watch);
    }

    #[test]
    fn an_empty_watch_parameter_is_a_watch() {
        assert_eq!(info(Method::GET, "/api/v1/pods?watch=").verb, Verb::Watch);
        assert_eq!(
            info(Method::GET, "/api/v1/pods?watch=FALSE").verb,
            Verb::List
        );
        assert_eq!(
            info(Method::GET, "/api/v1/pods?watch=0&watch=1").verb,
            Verb::List
        );
    }

    #[test]
    fn version_zero_ignores_the_limit_and_a_limit_makes_a_version_exact() {
        let options = |raw| ListOptions::parse(&Query::parse(raw)).unwrap();
        let any = options("resourceVersion=0&limit=500");
        assert_eq!((any.freshness, any.limit), (Freshness::Any, None));
        assert_eq!(
            options("resourceVersion=7&limit=5").freshness,
            Freshness::Exact(7)
        );
        assert_eq!(
            options("resourceVersion=7&limit=5&resourceVersionMatch=NotOlderThan").freshness,
            Freshness::NotOlderThan(7)
        );
        assert!(ListOptions::parse(&Query::parse("limit=x")).is_err());
    }
}
