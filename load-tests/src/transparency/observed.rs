//! What a client can see of an answer.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::compare::unnamed;

/// How long an answer may take before it counts as none.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// An answer, or that there was none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// 0 without an answer.
    pub(super) status: u16,
    /// The words after the status, which only HTTP/1.1 has; and its version.
    pub(super) status_line: Option<String>,
    /// As they were sent, in order; in HTTP/1.1 in their own spelling.
    pub(super) headers: Vec<(String, String)>,
    /// Its contents, chunks joined.
    pub(super) body: Bytes,
    /// What came after the contents.
    pub(super) trailers: Vec<(String, String)>,
    /// 1xx answers before it; only seen by HTTP/1.1.
    pub(super) interim: Vec<u16>,
    /// How it ended.
    pub(super) end: End,
}

/// How an answer ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum End {
    /// There is none, or not yet all of it.
    #[default]
    Missing,
    /// As it should.
    Complete,
    /// The client had seen enough.
    Left,
    /// Broken off.
    Broken(String),
}

impl Observed {
    /// The first value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as one JSON value, if it is one.
    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Where the answer to a request that only the API server answers can be
    /// found in the audit log.
    pub(super) fn audit_id(&self) -> Option<&str> {
        self.header("audit-id")
    }

    /// Puts names in place of what is another value in every run.
    pub(super) fn forget(&mut self, variables: &BTreeMap<&'static str, String>) {
        for (_, value) in &mut self.headers {
            *value = unnamed(value, variables);
        }
        if let Ok(text) = std::str::from_utf8(&self.body) {
            self.body = unnamed(text, variables).into();
        } else if let Some(namespace) = variables.get("ns") {
            self.body = replaced(&self.body, namespace.as_bytes(), b"<ns>").into();
        }
    }

    /// Refused by admission control: the proxy's, not for what was asked but
    /// for how much is going on.
    pub(super) fn is_shed(&self) -> bool {
        self.header("x-spillway-class").is_some()
    }
}

fn replaced(bytes: &[u8], value: &[u8], name: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(value.len()).position(|window| window == value) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(name);
        rest = &rest[at + value.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}
