//! Where a request's bearer token is, exactly as kube-apiserver finds it.
//!
//! Follows `bearertoken.go` and `websocket/protocol.go` of `k8s.io/apiserver/pkg/authentication/request`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};

/// The sub-protocol prefix under which browsers send a bearer token with a WebSocket.
const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// The token of an `Authorization` header.
pub(crate) fn of_header(value: &HeaderValue) -> Option<&[u8]> {
    let mut parts = value
        .as_bytes()
        .trim_ascii()
        .splitn(3, |byte| *byte == b' ');
    let scheme = parts.next()?;
    let token = parts.next()?;
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

/// The token among the sub-protocols of a request for a WebSocket. None for any other request: the server would not look
/// for one there, and take the request for an anonymous one.
pub(crate) fn of_websocket(headers: &HeaderMap) -> Option<Vec<u8>> {
    if !asks_for_websocket(headers) {
        return None;
    }
    let protocols = || {
        headers
            .get_all(SEC_WEBSOCKET_PROTOCOL)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
    };
    let mut tokens = protocols().filter_map(|name| name.strip_prefix(WEBSOCKET_BEARER.as_bytes()));
    let encoded = tokens.next()?;
    let another = tokens.next().is_some();
    // The server answers with one of the other protocols, so there must be one.
    let alone = protocols().all(|name| name.starts_with(WEBSOCKET_BEARER.as_bytes()));
    if another || alone {
        return None;
    }
    let token = URL_SAFE_NO_PAD.decode(encoded).ok()?;
    (!token.is_empty() && std::str::from_utf8(&token).is_ok()).then_some(token)
}

/// As `wsstream.IsWebSocketRequest` of what is passed on: `Connection` names `upgrade`, and that is to `websocket`.
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    upgrade
        && headers
            .get(UPGRADE)
            .is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(protocols: &[&str], more: &[(&'static str, &str)]) -> Option<Vec<u8>> {
        let mut headers = HeaderMap::new();
        for (name, value) in more {
            headers.append(*name, value.parse().expect("value"));
        }
        for protocol in protocols {
            headers.append(SEC_WEBSOCKET_PROTOCOL, protocol.parse().expect("value"));
        }
        of_websocket(&headers)
    }

    const UPGRADES: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", "WebSocket")];
    /// `token`.
    const GOOD: &str = "base64url.bearer.authorization.k8s.io.dG9rZW4";

    #[test]
    fn a_token_among_other_protocols_is_found() {
        let together = format!("v5.channel.k8s.io, {GOOD}");
        assert_eq!(
            asked(&[&together], &UPGRADES).as_deref(),
            Some(&b"token"[..])
        );
        let apart = asked(&[GOOD, "v5.channel.k8s.io"], &UPGRADES);
        assert_eq!(apart.as_deref(), Some(&b"token"[..]));
    }

    #[test]
    fn what_the_server_does_not_take_is_no_token() {
        let other = "v5.channel.k8s.io";
        let bad = format!("{GOOD}=");
        let not_text = "base64url.bearer.authorization.k8s.io._w";
        let empty = "base64url.bearer.authorization.k8s.io.";
        assert_eq!(asked(&[GOOD], &UPGRADES), None, "no other protocol");
        assert_eq!(asked(&[GOOD, GOOD, other], &UPGRADES), None, "two tokens");
        for wrong in [&*bad, not_text, empty] {
            assert_eq!(asked(&[wrong, other], &UPGRADES), None, "{wrong}");
        }
    }

    /// The server sees no token there; taken for one, the request would cost others their shared connection.
    #[test]
    fn a_request_for_anything_else_has_no_token_among_protocols() {
        let other = "v5.channel.k8s.io";
        assert_eq!(asked(&[GOOD, other], &[]), None);
        assert_eq!(asked(&[GOOD, other], &UPGRADES[..1]), None);
        assert_eq!(asked(&[GOOD, other], &UPGRADES[1..]), None);
        let spdy = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        assert_eq!(asked(&[GOOD, other], &spdy), None);
    }
}
