//! Requests that are refused before anything is made of them: those that try to trick a proxy.

use http::header::{CONNECTION, EXPECT, HOST, HeaderMap, TRANSFER_ENCODING};
use http::{Version, request};

use crate::error::Refused;

/// Refuses what a proxy must not pass on, before anything is made of it.
///
/// # Errors
/// [`Refused::Malformed`].
pub(crate) fn refuse(head: &request::Parts) -> Result<(), Refused> {
    if head.method == http::Method::CONNECT {
        return Err(Refused::Malformed {
            status: http::StatusCode::METHOD_NOT_ALLOWED,
            what: "CONNECT is not a method of the Kubernetes API".to_owned(),
        });
    }
    if head
        .uri
        .scheme_str()
        .is_some_and(|scheme| !matches!(scheme, "https" | "http"))
    {
        return Err(Refused::bad_request("the scheme is not one of HTTP"));
    }
    refuse_protected_connection_options(&head.headers)?;
    refuse_other_codings(&head.headers)?;
    refuse_other_expectations(&head.headers)?;
    if head.version < Version::HTTP_2 {
        if head.uri.path_and_query().is_none() {
            // `GET name` would otherwise be read as a host and sent on as `GET /`.
            return Err(Refused::bad_request("the request target is not a path"));
        }
        let mut hosts = head.headers.get_all(HOST).iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(Refused::bad_request("more than one Host header"));
        }
        let named = host.is_some_and(|host| {
            http::uri::Authority::try_from(host.as_bytes())
                .is_ok_and(|authority| !authority.as_str().contains('@'))
        });
        if !named
            && (host.is_some() || head.version == Version::HTTP_11)
            && head.uri.authority().is_none()
        {
            return Err(Refused::bad_request("missing or malformed Host header"));
        }
    }
    Ok(())
}

/// Refuses every transfer coding but `chunked`, said once. hyper takes anything whose last word is `chunked`; what came
/// before would be lost on the way to the server, which refuses such requests too.
///
/// # Errors
/// [`Refused::Malformed`], a 501 as Go answers.
fn refuse_other_codings(headers: &HeaderMap) -> Result<(), Refused> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    if coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none() {
        return Ok(());
    }
    Err(Refused::Malformed {
        status: http::StatusCode::NOT_IMPLEMENTED,
        what: "a transfer coding other than chunked".to_owned(),
    })
}

/// Refuses what a client expects before it sends its body, unless it is to be told to go on.
///
/// # Errors
/// [`Refused::Malformed`], a 417 as Go answers.
fn refuse_other_expectations(headers: &HeaderMap) -> Result<(), Refused> {
    let mut expected = headers.get_all(EXPECT).iter();
    if expected.all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Ok(());
    }
    Err(Refused::Malformed {
        status: http::StatusCode::EXPECTATION_FAILED,
        what: "an expectation other than 100-continue".to_owned(),
    })
}

/// Names that a `Connection` header must not name: removing them on a client's word would change who it is.
const PROTECTED: [&str; 5] = [
    "x-remote-",
    "impersonate-",
    "authorization",
    "x-forwarded-",
    "x-real-ip",
];

/// Refuses requests whose `Connection` header names a header that carries identity.
///
/// # Errors
/// [`Refused::Malformed`], a 400.
fn refuse_protected_connection_options(headers: &HeaderMap) -> Result<(), Refused> {
    for value in headers.get_all(CONNECTION) {
        for option in value.as_bytes().split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            if PROTECTED.iter().any(|name| starts_with_name(option, name)) {
                return Err(Refused::bad_request(
                    "the Connection header names a header that carries identity",
                ));
            }
        }
    }
    Ok(())
}

/// Whether `name` starts with `prefix` (lower case), with `_` read as `-` and in any case: servers and proxies exist that
/// treat them alike.
pub(crate) fn starts_with_name(name: &[u8], prefix: &str) -> bool {
    name.len() >= prefix.len()
        && name.iter().zip(prefix.bytes()).all(|(byte, wanted)| {
            let byte = if *byte == b'_' {
                b'-'
            } else {
                byte.to_ascii_lowercase()
            };
            byte == wanted
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn map(headers: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("name");
            map.append(name, value.parse().expect("value"));
        }
        map
    }

    #[test]
    fn a_body_is_chunked_once_or_not_at_all() {
        for sound in [
            map(&[]),
            map(&[("transfer-encoding", "chunked")]),
            map(&[("transfer-encoding", "Chunked")]),
        ] {
            assert!(refuse_other_codings(&sound).is_ok(), "{sound:?}");
        }
        for bad in [
            map(&[("transfer-encoding", "gzip, chunked")]),
            map(&[("transfer-encoding", "chunked, chunked")]),
            map(&[("transfer-encoding", "identity")]),
            map(&[
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "chunked"),
            ]),
        ] {
            let refused = refuse_other_codings(&bad).expect_err("a second coding");
            assert!(matches!(refused, Refused::Malformed { status, .. } if status == 501));
        }
    }

    #[test]
    fn connection_cannot_name_a_header_that_carries_identity() {
        for option in [
            "X-Remote-User",
            "close, impersonate-user",
            "AUTHORIZATION",
            "x_forwarded_for",
            "keep-alive,X-Remote-Extra-a",
        ] {
            assert!(
                refuse_protected_connection_options(&map(&[("connection", option)])).is_err(),
                "{option}"
            );
        }
        assert!(
            refuse_protected_connection_options(&map(&[("connection", "keep-alive, x-hop")]))
                .is_ok()
        );
    }
}
