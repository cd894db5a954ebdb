//! What a client may write into a request, and an operator into the configuration.

use std::net::{IpAddr, Ipv4Addr};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use config::{Change, Config, RequestHeader, RequestHeaders};
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use http::{Method, Request, Uri};
use proxy_core::attributes::{self, Attributes};
use proxy_core::identity::Identity;

use super::header_lines;
use crate::accept::tricks;
use crate::identify::bearer;
use crate::identify::request_header::{Stated, StatedIn};
use crate::traces::parent::{Hex, Parent};
use crate::upstream::{headers, upgrade};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// What of a request decides about it.
fn gist<'a>(read: &'a Attributes<'_>) -> impl PartialEq + std::fmt::Debug + use<'a> {
    (
        read.verb,
        read.is_resource,
        read.api_group.to_string(),
        read.namespace.to_string(),
        read.resource.to_string(),
        read.subresource.to_string(),
        read.name.to_string(),
    )
}

/// `METHOD TARGET`: read the same with what does not matter added.
pub(super) fn target(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b' ');
    let (Some(method), Some(target)) = (parts.next(), parts.next()) else {
        return;
    };
    let (Ok(method), Ok(uri)) = (Method::from_bytes(method), Uri::try_from(target)) else {
        return;
    };
    let Ok(read) = attributes::parse(method.as_str(), uri.path(), uri.query(), None) else {
        return;
    };
    // RequestInfo trims slashes before it looks at a path.
    if read.is_resource {
        let path = uri.path().trim_start_matches('/');
        let decoded = percent_decoded(path);
        assert!(decoded.starts_with(b"api/") || decoded.starts_with(b"apis/"));
    }
    // A parameter nobody knows changes nothing.
    let query = uri
        .query()
        .map_or_else(|| "zz=1".to_owned(), |query| format!("{query}&zz=1"));
    let more = attributes::parse(method.as_str(), uri.path(), Some(&query), None);
    let more = more.expect("still sound");
    assert_eq!(gist(&more), gist(&read));
    assert_eq!(
        (
            more.is_collection_read(),
            more.is_initial_state_watch(),
            more.effective_limit(),
            more.scope()
        ),
        (
            read.is_collection_read(),
            read.is_initial_state_watch(),
            read.effective_limit(),
            read.scope()
        )
    );
}

fn percent_decoded(path: &str) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut bytes = path.as_bytes();
    while let Some((byte, rest)) = bytes.split_first() {
        let hex = rest.get(..2).filter(|_| *byte == b'%');
        let hex = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        decoded.push(hex.unwrap_or(*byte));
        bytes = if hex.is_some() {
            rest.get(2..).unwrap_or_default()
        } else {
            rest
        };
    }
    decoded
}

fn names(custom: bool) -> headers::IdentityHeaders {
    let (mut to_server, mut stated) = (RequestHeaders::default(), RequestHeader::default());
    if custom {
        to_server.user = "X-Who".to_owned();
        to_server.extra_prefix = "X-More-".to_owned();
        to_server.uid = Some("X-Number".to_owned());
        stated.user_headers = vec!["X-Front-User".to_owned()];
        stated.extra_prefixes = vec!["X-Front-Extra-".to_owned()];
    }
    headers::IdentityHeaders::new(&to_server, &stated).expect("header names")
}

/// Whatever a client sends, the server sees our assertion once and nobody else's.
pub(super) fn headers(data: &[u8]) {
    let (flags, data) = data.split_first().unwrap_or((&0, data));
    let mut headers = header_lines(data);
    let names = names(flags & 1 != 0);
    let asserted = flags & 2 != 0;
    let upgrade = upgrade::wanted(&headers);
    headers::take_off(&mut headers, &names, upgrade, false);
    for name in headers.keys() {
        assert!(!names.claims_identity(name.as_str()), "{name}");
        let name = name.as_str();
        assert!(!matches!(
            name,
            "keep-alive" | "transfer-encoding" | "trailer" | "x-real-ip"
        ));
        assert!(name != "connection" || upgrade);
    }
    let credential = headers.get(AUTHORIZATION).cloned();
    let extra = vec![("k".into(), "v".into())];
    let identity = Identity::certificate("jane", vec!["dev".into()], Some("u".into()), extra);
    let assertion = names.assertion(&identity).expect("an assertion");
    let ours = assertion.clone();
    headers::put_on(&mut headers, CLIENT, asserted.then_some(assertion));
    let addresses: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    assert_eq!(addresses, ["192.0.2.7"]);
    let stated: Vec<_> = headers
        .iter()
        .filter(|(name, _)| names.claims_identity(name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if asserted {
        assert!(!headers.contains_key(AUTHORIZATION));
        assert_eq!(stated.len(), ours.len());
        assert!(ours.iter().all(|header| stated.contains(header)));
    } else {
        assert!(stated.is_empty());
        assert_eq!(headers.get(AUTHORIZATION).cloned(), credential);
    }
}

/// A `Connection` header never takes off who somebody is, or claims to be.
pub(super) fn connection(data: &[u8]) {
    let carried = [
        "authorization",
        "impersonate-user",
        "impersonate-group",
        "impersonate-extra-a",
    ];
    let mut headers = HeaderMap::new();
    for name in carried {
        headers.insert(name, HeaderValue::from_static("kept"));
    }
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(CONNECTION, value);
        }
    }
    headers.insert(HOST, HeaderValue::from_static("kubernetes"));
    let mut request = Request::new(());
    *request.headers_mut() = headers;
    let (mut head, ()) = request.into_parts();
    if tricks::refuse(&head).is_err() {
        return;
    }
    let upgrade = upgrade::wanted(&head.headers);
    headers::take_off(&mut head.headers, &names(false), upgrade, false);
    for name in carried {
        assert!(head.headers.contains_key(name), "{name}");
    }
    assert!(!upgrade);
    assert!(!head.headers.contains_key(CONNECTION));
}

/// Tokens are found where they were written, whole.
pub(super) fn bearer(data: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(data)
        && let Some(token) = bearer::of_header(&value)
    {
        assert!(!token.is_empty() && !token.contains(&b' '));
        assert!(data.windows(token.len()).any(|part| part == token));
        assert!(
            data.trim_ascii()
                .to_ascii_lowercase()
                .starts_with(b"bearer ")
        );
    }
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
    assert_eq!(
        bearer::of_websocket(&headers),
        None,
        "no request for a WebSocket"
    );
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Some(token) = bearer::of_websocket(&headers) {
        let written = URL_SAFE_NO_PAD.encode(&token);
        assert!(
            data.windows(written.len())
                .any(|part| part == written.as_bytes())
        );
        assert!(std::str::from_utf8(&token).is_ok_and(|token| !token.is_empty()));
    }
}

/// What a peer states is passed on so that the server reads the same, or not at all.
pub(super) fn request_header(data: &[u8]) {
    let usual = RequestHeader {
        uid_headers: vec!["X-Remote-Uid".to_owned()],
        ..RequestHeader::default()
    };
    let to_server = RequestHeaders {
        uid: Some("X-Remote-Uid".to_owned()),
        ..RequestHeaders::default()
    };
    let names = StatedIn::new(&usual);
    let Stated::Somebody(identity) = names.read(&header_lines(data)) else {
        return;
    };
    assert!(!identity.user().is_empty());
    let ours = headers::IdentityHeaders::new(&to_server, &usual).expect("header names");
    let Some(assertion) = ours.assertion(&identity) else {
        return;
    };
    let mut passed_on = HeaderMap::new();
    for (name, value) in assertion {
        assert!(ours.claims_identity(name.as_str()));
        passed_on.append::<HeaderName>(name, value);
    }
    match names.read(&passed_on) {
        Stated::Somebody(again) => {
            let sorted = |identity: &Identity| {
                let mut extra = identity.extra().to_vec();
                extra.sort();
                extra
            };
            assert_eq!(again.user(), identity.user());
            assert_eq!(again.groups(), identity.groups());
            assert_eq!(again.uid(), identity.uid());
            assert_eq!(sorted(&again), sorted(&identity));
        }
        other => panic!("stated as {other:?}"),
    }
}

/// What is read of a `traceparent` was written so, in the one way there is.
pub(super) fn traceparent(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append("traceparent", value);
        }
    }
    let Some(parent) = Parent::of(&headers) else {
        return;
    };
    let written = format!("-{}-{}-", Hex(parent.trace), Hex(parent.span));
    let value = headers.get("traceparent").map(HeaderValue::as_bytes);
    let value = value.expect("the one that was read");
    assert_eq!(value.get(2..53), Some(written.as_bytes()));
    assert!(parent.trace != [0; 16] && parent.span != [0; 8]);
    let flags = value.get(54).copied().unwrap_or_default();
    assert_eq!(parent.sampled, b"13579bdf".contains(&flags));
}

/// A configuration is refused with a reason, or is sound: its rules compile, and it is no change of itself.
pub(super) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Config::parse(text, "config.yaml") {
        Err(report) => assert!(!report.to_string().is_empty()),
        Ok(config) => {
            assert!(Change::between(&config, &config).is_empty());
            assert!(!config.listen.main.is_empty());
            if let Err(problem) = crate::snapshot::policy(&config) {
                panic!("accepted, but {problem}");
            }
        }
    }
}
