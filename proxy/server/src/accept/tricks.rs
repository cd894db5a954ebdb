//! Requests that are refused before anything is made of them: those that try to trick a proxy.

use http::header::{CONNECTION, EXPECT, HOST, HeaderMap};
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
    refuse_protected_connection_options(&head.headers)?;
    if head.version < Version::HTTP_2 {
        refuse_unknown_expectations(head)?;
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

/// Refuses what Go's server refuses: a client that expects something else than `100-continue` would wait for it with its
/// body, and the server for the body.
fn refuse_unknown_expectations(head: &request::Parts) -> Result<(), Refused> {
    let known = |expected: &http::HeaderValue| {
        let expected = expected.as_bytes();
        expected.is_empty() || expected.eq_ignore_ascii_case(b"100-continue")
    };
    match head.headers.get(EXPECT) {
        Some(expected) if head.version == Version::HTTP_11 && !known(expected) => {
            Err(Refused::Malformed {
                status: http::StatusCode::EXPECTATION_FAILED,
                what: "the only expectation that can be met is 100-continue".to_owned(),
            })
        }
        _ => Ok(()),
    }
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
