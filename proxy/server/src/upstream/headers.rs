//! What is taken off a request and what is put on it, in that order, on its way to the apiserver.
//!
//! The order is the point (CVE-2021-31999, CVE-2022-23652, CVE-2025-48865): hop-by-hop headers and everything that could
//! claim an identity go first; our own assertion is added last, when nothing can remove or duplicate it any more.

use std::fmt::Write as _;
use std::net::IpAddr;

use config::{RequestHeader, RequestHeaders};
use http::header::{
    self, AUTHORIZATION, CONNECTION, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use proxy_core::identity::Identity;

use crate::accept::tricks::starts_with_name;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const PEER_PROXIED: HeaderName = HeaderName::from_static("x-kubernetes-peer-proxied");

/// The identity headers of one apiserver, ready to use.
#[derive(Debug)]
pub(crate) struct IdentityHeaders {
    user: HeaderName,
    group: HeaderName,
    uid: Option<HeaderName>,
    extra_prefix: String,
    /// In which clients that may state identities do so, in lower case; prefixes among them.
    stated_in: Vec<String>,
    stated_prefixes: Vec<String>,
}

impl IdentityHeaders {
    /// `names` towards the server; `stated` by those in front of us. `None` if a configured name is not a header name
    /// (the configuration's own check refuses such names).
    pub(crate) fn new(names: &RequestHeaders, stated: &RequestHeader) -> Option<Self> {
        let lower = |names: &[String]| names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let stated_in = [
            &stated.user_headers,
            &stated.group_headers,
            &stated.uid_headers,
        ];
        let name = |text: &str| HeaderName::from_bytes(text.as_bytes()).ok();
        Some(Self {
            user: name(&names.user)?,
            group: name(&names.group)?,
            uid: match &names.uid {
                Some(uid) => Some(name(uid)?),
                None => None,
            },
            extra_prefix: names.extra_prefix.to_ascii_lowercase(),
            stated_in: stated_in
                .into_iter()
                .flat_map(|names| -> Vec<String> { lower(names) })
                .collect(),
            stated_prefixes: lower(&stated.extra_prefixes),
        })
    }

    /// The headers that assert `identity`; `None` if it cannot be written as headers.
    pub(crate) fn assertion(&self, identity: &Identity) -> Option<Vec<(HeaderName, HeaderValue)>> {
        let value = |text: &str| {
            // HTTP/1.1 drops whitespace around a value: the server would read another name.
            let same = !text.starts_with([' ', '\t']) && !text.ends_with([' ', '\t']);
            same.then(|| HeaderValue::from_bytes(text.as_bytes()).ok())
                .flatten()
        };
        let mut headers = Vec::with_capacity(2 + identity.groups().len() + identity.extra().len());
        headers.push((self.user.clone(), value(identity.user())?));
        for group in identity.groups() {
            headers.push((self.group.clone(), value(group)?));
        }
        if let (Some(name), Some(uid)) = (&self.uid, identity.uid()) {
            headers.push((name.clone(), value(uid)?));
        }
        for (key, extra) in identity.extra() {
            let name = format!("{}{}", self.extra_prefix, escape(key));
            headers.push((HeaderName::from_bytes(name.as_bytes()).ok()?, value(extra)?));
        }
        Some(headers)
    }

    /// Whether a header of that name could tell the server, or us, who somebody is.
    pub(crate) fn claims_identity(&self, name: &str) -> bool {
        starts_with_name(name.as_bytes(), "x-remote-")
            || starts_with_name(name.as_bytes(), &self.extra_prefix)
            || (self.stated_prefixes.iter()).any(|prefix| starts_with_name(name.as_bytes(), prefix))
            || [Some(&self.user), Some(&self.group), self.uid.as_ref()]
                .into_iter()
                .flatten()
                .map(HeaderName::as_str)
                .chain(self.stated_in.iter().map(String::as_str))
                .any(|own| name.len() == own.len() && starts_with_name(name.as_bytes(), own))
    }
}

/// Takes off everything that is for this hop only or that claims an identity. An upgrade keeps `Connection: upgrade` and
/// its `Upgrade` header. One that may state identities (`peer`) is believed also where the request came from, and that it
/// was passed on before.
pub(crate) fn take_off(
    headers: &mut HeaderMap,
    identity: &IdentityHeaders,
    upgrade: bool,
    peer: bool,
) {
    let mut doomed: Vec<HeaderName> = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for option in value.as_bytes().split(|byte| *byte == b',') {
            if let Ok(name) = HeaderName::from_bytes(option.trim_ascii()) {
                doomed.push(name);
            }
        }
    }
    doomed.extend(
        headers
            .keys()
            .filter(|name| identity.claims_identity(name.as_str()))
            .cloned(),
    );
    for name in doomed {
        if !(upgrade && name == UPGRADE) {
            headers.remove(name);
        }
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TRAILER,
        TRANSFER_ENCODING,
        X_REAL_IP,
        header::FORWARDED,
    ] {
        headers.remove(name);
    }
    if !peer {
        headers.remove(X_FORWARDED_FOR);
        headers.remove(PEER_PROXIED);
    }
    let mut te = headers.get_all(TE).iter();
    if te.next().is_some_and(|te| te != "trailers") || te.next().is_some() {
        headers.remove(TE);
    }
    if upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(UPGRADE);
    }
}

/// Puts on the client's true address, behind those a believed one named, and, for an asserted identity, the assertion in place of any token.
pub(crate) fn put_on(
    headers: &mut HeaderMap,
    address: IpAddr,
    assertion: Option<Vec<(HeaderName, HeaderValue)>>,
) {
    let mut text = String::with_capacity(40);
    for before in headers.get_all(X_FORWARDED_FOR) {
        if let Ok(before) = before.to_str() {
            let _ = write!(text, "{before}, ");
        }
    }
    let _ = write!(text, "{}", address.to_canonical());
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(X_FORWARDED_FOR, value);
    }
    if let Some(assertion) = assertion {
        headers.remove(AUTHORIZATION);
        for (name, value) in assertion {
            headers.append(name, value);
        }
    }
}

/// Takes hop-by-hop headers off an answer.
pub(crate) fn take_off_answer(headers: &mut HeaderMap) {
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Escapes an extra's key as client-go's `headerKeyEscape` does: every byte that is not an HTTP token character, and
/// `%`, becomes %XX. Capital letters too: a header's name would lose them.
fn escape(key: &str) -> String {
    let mut escaped = String::with_capacity(key.len() + 8);
    for byte in key.bytes() {
        let token =
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$&'*+-.^_`|~".contains(&byte);
        if token {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity_headers() -> IdentityHeaders {
        IdentityHeaders::new(&RequestHeaders::default(), &RequestHeader::default()).expect("names")
    }

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).expect("name"),
                value.parse().expect("value"),
            );
        }
        map
    }

    #[test]
    fn inbound_identity_headers_are_taken_off_in_any_spelling() {
        let mut headers = map(&[
            ("X-Remote-User", "root"),
            ("x-remote-group", "system:masters"),
            ("X_Remote_Group", "system:masters"),
            ("X-REMOTE-EXTRA-scopes", "all"),
            ("x-remote_uid", "0"),
            ("accept", "application/json"),
        ]);
        take_off(&mut headers, &identity_headers(), false, false);
        assert_eq!(headers, map(&[("accept", "application/json")]));
    }

    #[test]
    fn custom_identity_header_names_are_taken_off_too() {
        let names = RequestHeaders {
            user: "X-Who".into(),
            extra_prefix: "X-More-".into(),
            ..RequestHeaders::default()
        };
        let mut headers = map(&[
            ("x-who", "root"),
            ("x_more_scopes", "all"),
            ("x-who-else", "kept"),
        ]);
        take_off(
            &mut headers,
            &IdentityHeaders::new(&names, &RequestHeader::default()).expect("names"),
            false,
            false,
        );
        assert_eq!(headers, map(&[("x-who-else", "kept")]));
    }

    #[test]
    fn headers_named_by_connection_go_with_it() {
        let mut headers = map(&[
            ("connection", "x-hop, keep-alive"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("x-stay", "1"),
        ]);
        take_off(&mut headers, &identity_headers(), false, false);
        assert_eq!(headers, map(&[("x-stay", "1")]));
    }

    #[test]
    fn an_upgrade_keeps_its_upgrade_header() {
        let mut headers = map(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]);
        take_off(&mut headers, &identity_headers(), true, false);
        assert_eq!(
            headers,
            map(&[("connection", "upgrade"), ("upgrade", "SPDY/3.1")])
        );
    }

    #[test]
    fn names_that_a_server_would_read_as_others_are_not_asserted() {
        let names = identity_headers();
        for name in [" root", "root ", "root\t", "ro\not"] {
            let as_user = Identity::certificate(name, vec!["dev".into()], None, Vec::new());
            let as_group = Identity::certificate("jane", vec![name.into()], None, Vec::new());
            assert!(names.assertion(&as_user).is_none(), "{name:?}");
            assert!(names.assertion(&as_group).is_none(), "{name:?}");
        }
    }

    #[test]
    fn an_assertion_replaces_the_token_and_the_address_is_ours() {
        let mut headers = map(&[
            ("authorization", "Bearer t"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
        ]);
        let identity = Identity::certificate(
            "jane",
            vec!["dev".into(), "ops".into()],
            None,
            vec![(
                "authentication.kubernetes.io/credential-id".into(),
                "X509SHA256=00".into(),
            )],
        );
        let names = identity_headers();
        take_off(&mut headers, &names, false, false);
        put_on(
            &mut headers,
            "10.1.2.3".parse().expect("address"),
            names.assertion(&identity),
        );
        let expected = map(&[
            ("x-forwarded-for", "10.1.2.3"),
            ("x-remote-user", "jane"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "ops"),
            (
                "x-remote-extra-authentication.kubernetes.io%2Fcredential-id",
                "X509SHA256=00",
            ),
        ]);
        assert_eq!(headers, expected);
    }
}
