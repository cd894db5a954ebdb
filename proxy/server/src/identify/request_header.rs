//! Identities that a client states in headers because it may: an aggregator, a peer apiserver, an authenticating proxy.
//!
//! Follows `headerrequest/requestheader.go` of `k8s.io/apiserver/pkg/authentication/request`. Who may is decided by the
//! client's certificate alone: it must chain to an authority of its own, never to the one of ordinary clients.

use std::borrow::Cow;

use config::RequestHeader;
use http::header::{HeaderMap, HeaderName};
use proxy_core::identity::Identity;
use rustls::pki_types::CertificateDer;

use super::tls::{self, MaterialError};
use super::verify::ClientAuthority;

/// Who may state identities, and in which headers.
#[derive(Debug)]
pub(crate) struct RequestHeaderPeers {
    authority: ClientAuthority,
    allowed_names: Vec<String>,
    names: StatedIn,
}

/// The headers identities are stated in.
#[derive(Debug)]
pub(crate) struct StatedIn {
    user: Vec<HeaderName>,
    group: Vec<HeaderName>,
    uid: Vec<HeaderName>,
    /// In lower case.
    extra_prefixes: Vec<String>,
}

/// What the headers of one request state.
#[derive(Debug)]
pub(crate) enum Stated {
    /// No user: the client speaks for itself.
    Nothing,
    /// This one.
    Somebody(Identity),
    /// Somebody whom we could not pass on as stated: better nobody than somebody else.
    Unreadable,
}

impl RequestHeaderPeers {
    /// `None` when nobody may state identities.
    ///
    /// # Errors
    /// [`MaterialError`] when the authority's file cannot be used, or shares a key with one of `others` (each with its
    /// place in the configuration): certificates of ordinary clients could state any identity then.
    pub(crate) fn load(
        config: &RequestHeader,
        others: &[(&'static str, Option<&ClientAuthority>)],
    ) -> Result<Option<Self>, MaterialError> {
        let Some(path) = &config.client_ca else {
            return Ok(None);
        };
        let authority = tls::client_authority(path)?;
        for (key, other) in others {
            if other.is_some_and(|other| authority.shares_a_key_with(other)) {
                let problem = format!(
                    "shares an authority with {key}: each client certificate of it could state any identity; \
                     expected an authority of its own"
                );
                return Err(MaterialError::unusable(path, problem));
            }
        }
        Ok(Some(Self {
            authority,
            allowed_names: config.allowed_names.clone(),
            names: StatedIn::new(config),
        }))
    }

    pub(crate) fn authority(&self) -> &ClientAuthority {
        &self.authority
    }

    /// Whether the client with this `chain`, its common name read, may state identities at `now` (Unix seconds).
    /// No names listed means any, as for the server.
    pub(crate) fn may_state(
        &self,
        chain: &[CertificateDer<'static>],
        common_name: &str,
        now: u64,
    ) -> bool {
        let named = self.allowed_names.is_empty()
            || self.allowed_names.iter().any(|name| name == common_name);
        named && self.authority.vouches_for(chain, now)
    }

    pub(crate) fn stated(&self, headers: &HeaderMap) -> Stated {
        self.names.read(headers)
    }
}

impl StatedIn {
    /// Names that are no header names are left out; the configuration's own check refuses them.
    pub(crate) fn new(config: &RequestHeader) -> Self {
        let names = |texts: &[String]| {
            let names = texts
                .iter()
                .map(|text| HeaderName::from_bytes(text.as_bytes()));
            names.filter_map(Result::ok).collect()
        };
        Self {
            user: names(&config.user_headers),
            group: names(&config.group_headers),
            uid: names(&config.uid_headers),
            extra_prefixes: config
                .extra_prefixes
                .iter()
                .map(|prefix| prefix.to_ascii_lowercase())
                .collect(),
        }
    }

    /// What `headers` state. Whether they may is for the caller to know.
    pub(crate) fn read(&self, headers: &HeaderMap) -> Stated {
        let Ok(user) = first(headers, &self.user) else {
            return Stated::Unreadable;
        };
        if user.is_empty() {
            return Stated::Nothing;
        }
        let rest = || {
            let uid = first(headers, &self.uid).ok()?;
            let uid = (!uid.is_empty()).then(|| uid.into());
            Some(Identity::request_header(
                user,
                self.groups(headers)?,
                uid,
                self.extra(headers)?,
            ))
        };
        rest().map_or(Stated::Unreadable, Stated::Somebody)
    }

    fn groups(&self, headers: &HeaderMap) -> Option<Vec<Box<str>>> {
        let values = self.group.iter().flat_map(|name| headers.get_all(name));
        values
            .filter(|value| !value.is_empty())
            .map(|value| text(value.as_bytes()).map(Into::into))
            .collect()
    }

    fn extra(&self, headers: &HeaderMap) -> Option<Vec<(Box<str>, Box<str>)>> {
        let mut extra = Vec::new();
        for prefix in &self.extra_prefixes {
            for (name, value) in headers {
                if let Some(key) = name.as_str().strip_prefix(&**prefix) {
                    extra.push((unescaped(key)?.into(), text(value.as_bytes())?.into()));
                }
            }
        }
        Some(extra)
    }
}

/// Texts only: names that are not UTF-8 could not be passed on as they are.
fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

/// The first value that is not empty, looking at the first value of each header: empty when there is none.
fn first<'a>(headers: &'a HeaderMap, names: &[HeaderName]) -> Result<&'a str, ()> {
    let mut values = names.iter().filter_map(|name| headers.get(name));
    let value = values.find(|value| !value.is_empty());
    value.map_or(Ok(""), |value| text(value.as_bytes()).ok_or(()))
}

/// An extra's key with its %XX decoded, as `url.PathUnescape` does; as it is when it is malformed. `None` when it is no
/// text then.
fn unescaped(key: &str) -> Option<Cow<'_, str>> {
    if !key.contains('%') {
        return Some(key.into());
    }
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let mut decoded = Vec::with_capacity(key.len());
    let mut bytes = key.as_bytes();
    while let Some((byte, rest)) = bytes.split_first() {
        bytes = rest;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let (Some(high), Some(low)) = (digit(rest.first()), digit(rest.get(1))) else {
            return Some(key.into());
        };
        decoded.push(u8::try_from(high * 16 + low).ok()?);
        bytes = rest.get(2..).unwrap_or_default();
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

#[cfg(test)]
#[path = "request_header_tests.rs"]
mod tests;
