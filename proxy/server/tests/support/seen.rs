//! What arrived at the scripted apiserver.

use http::header::HOST;
use http::{HeaderMap, Request, Version};
use serde_json::{Value, json};

/// One request as the apiserver saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which connection, counted from 0.
    pub connection: usize,
    pub http2: bool,
    /// Common name of the client certificate.
    pub certificate: Option<String>,
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `Host` or `:authority`.
    pub host: String,
    pub headers: HeaderMap,
}

impl Seen {
    pub fn of<B>(request: &Request<B>, connection: usize, certificate: Option<String>) -> Self {
        let host = request
            .headers()
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default();
        Self {
            connection,
            http2: request.version() == Version::HTTP_2,
            certificate,
            method: request.method().to_string(),
            path: request
                .uri()
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            host: request
                .uri()
                .authority()
                .map_or_else(|| host.to_owned(), ToString::to_string),
            headers: request.headers().clone(),
        }
    }

    /// All values of a header.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().expect("a text"))
            .collect()
    }

    /// The one value of a header.
    pub fn value(&self, name: &str) -> Option<&str> {
        match self.values(name).as_slice() {
            [] => None,
            [value] => Some(value),
            several => panic!("{name}: {several:?}"),
        }
    }

    /// Headers whose name, with `_` read as `-`, starts with `prefix`.
    pub fn named(&self, prefix: &str) -> Vec<String> {
        let names = self
            .headers
            .keys()
            .map(|name| name.as_str().replace('_', "-"));
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    /// Which pool of the proxy it came from, by what only that pool does.
    pub fn pool(&self) -> &'static str {
        match (&self.certificate, self.http2) {
            (Some(_), _) => "asserted",
            (None, true) => "tokens",
            (None, false) => "unverified",
        }
    }

    pub fn json(&self) -> Value {
        json!({ "connection": self.connection, "pool": self.pool(), "path": self.path, "host": self.host })
    }
}
