//! Every answer we make ourselves, in the form Kubernetes gives it.
//!
//! The one place where an [`Error`] becomes a status, a `Status` object and headers. What is shed gets 429 with an integer
//! Retry-After: client-go retries nothing without it and sleeps exactly what it says. Watches get 429 even when the server
//! is down, because a reflector answers any other refusal with a full LIST.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use proxy_core::admission::Level;
use proxy_core::attributes::Verb;
use serde::Serialize;

use crate::account::Body;
use crate::attribute::Facts;
use crate::error::{Error, Refused, UpstreamError};

/// Which class a refused request was in.
pub(crate) const CLASS: HeaderName = HeaderName::from_static("x-spillway-class");
/// Why it was refused.
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-spillway-reason");

/// The compound level beyond which requests are refused, class and user level.
const LEVEL: HeaderName = HeaderName::from_static("x-spillway-level");

/// Retry-After while the upstream is away: drawn from 1..=this, in seconds.
const UPSTREAM_AWAY_RETRY: u32 = 4;

/// What was asked for, as far as it matters for when to come back to a server that is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Watch,
    /// Whoever asks waits for the answer, and repeats the question unless told otherwise.
    Read,
    /// Nobody repeats it when the connection is refused, and all of them together when the server is back
    /// would be another outage. Of a lease neither: its holder has a rhythm of its own and no time to sleep.
    WriteOrLease,
}

impl Asked {
    pub(crate) fn of(facts: Option<&Facts>) -> Self {
        match facts {
            Some(facts) if facts.verb == Verb::Watch => Self::Watch,
            Some(facts) if matches!(facts.verb, Verb::Get | Verb::List) && !facts.lease => {
                Self::Read
            }
            _ => Self::WriteOrLease,
        }
    }
}

/// Turns a refusal or failure into the answer the client gets. `random` is any number, for the jitter of Retry-After.
pub(crate) fn error(error: &Error, asked: Asked, random: u32) -> Response<Body> {
    match error {
        Error::Refused(refused) => refusal(refused),
        // Retry-After would make client-go repeat it, whatever the method; a broken connection would not have.
        Error::Upstream(failure @ UpstreamError::Lost(_)) => {
            let code = StatusCode::GATEWAY_TIMEOUT;
            let mut response = status(code, &format!("spillway: {failure}"), None);
            response
                .headers_mut()
                .insert(REASON, HeaderValue::from_static(failure.kind()));
            response
        }
        Error::Upstream(failure) => {
            let code = if asked == Asked::Watch {
                StatusCode::TOO_MANY_REQUESTS
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            let repeats = asked != Asked::WriteOrLease || !failure.unreachable();
            let retry_after = repeats.then(|| 1 + random % UPSTREAM_AWAY_RETRY);
            let mut response = status(code, &format!("spillway: {failure}"), retry_after);
            response
                .headers_mut()
                .insert(REASON, HeaderValue::from_static(failure.kind()));
            response
        }
    }
}

fn refusal(refused: &Refused) -> Response<Body> {
    match refused {
        Refused::Malformed { status: code, .. } => {
            let mut response = status(*code, &refused.to_string(), None);
            // Whatever follows on this connection may be part of a trick.
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
        Refused::Unauthorized => status(StatusCode::UNAUTHORIZED, "Unauthorized", None),
        Refused::NotForTheReservedLane { .. } => {
            status(StatusCode::FORBIDDEN, &refused.to_string(), None)
        }
        // A reflector goes on from its last version after a 429, and begins anew after anything else.
        Refused::Stopping => own(refused, 1, "stopping"),
        Refused::TooManyTunnels => own(refused, 10, "tunnels"),
        Refused::ReservedLaneFull => {
            status(StatusCode::TOO_MANY_REQUESTS, &refused.to_string(), Some(1))
        }
        // Not 429: to come back later with the same request would not help, and a client that is told when repeats it.
        // A reflector logs it and begins anew at its own, growing pace.
        Refused::Denied { class, .. } => {
            in_class(refused, StatusCode::FORBIDDEN, None, "denied", class)
        }
        Refused::Limited {
            class, retry_after, ..
        } => too_many(refused, *retry_after, "rule", class),
        Refused::HeldBack {
            class, retry_after, ..
        } => too_many(refused, *retry_after, "quarantined", class),
        Refused::Ended { class, retry_after } => too_many(refused, *retry_after, "ended", class),
        Refused::Shed {
            reason,
            class,
            retry_after,
        } => too_many(refused, *retry_after, reason, class),
    }
}

/// An audit id for what the apiserver never sees, in the form of its own: with it, `spillway explain` finds the request.
pub(crate) fn audit_id() -> HeaderValue {
    let (a, b) = (fastrand::u64(..), fastrand::u64(..));
    let id = format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xfff,
        0x8000 | (b >> 48) & 0x3fff,
        b & 0xffff_ffff_ffff
    );
    HeaderValue::try_from(id).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

/// A 429 of admission.
fn too_many(refused: &Refused, retry_after: u32, why: &'static str, class: &str) -> Response<Body> {
    let code = StatusCode::TOO_MANY_REQUESTS;
    in_class(refused, code, Some(retry_after), why, class)
}

fn in_class(
    refused: &Refused,
    code: StatusCode,
    retry_after: Option<u32>,
    why: &'static str,
    class: &str,
) -> Response<Body> {
    let mut response = status(code, &refused.to_string(), retry_after);
    let headers = response.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(why));
    if let Ok(class) = HeaderValue::from_str(class) {
        headers.insert(CLASS, class);
    }
    response
}

/// Says beyond which level requests are refused, if any are: clients and layers that know it back off by themselves.
pub(crate) fn tell_level(headers: &mut HeaderMap, level: Option<Level>) {
    if let Some(level) = level
        && let Ok(value) = HeaderValue::try_from(level.to_string())
    {
        headers.insert(LEVEL, value);
    }
}

/// A 429 that has nothing to do with load.
fn own(refused: &Refused, retry_after: u32, why: &'static str) -> Response<Body> {
    let code = StatusCode::TOO_MANY_REQUESTS;
    let mut response = status(code, &refused.to_string(), Some(retry_after));
    response
        .headers_mut()
        .insert(REASON, HeaderValue::from_static(why));
    response
}

/// `metav1.Status`, its fields in the order in which Kubernetes writes them.
#[derive(Serialize)]
struct Status<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    metadata: Empty,
    status: &'static str,
    message: &'a str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    code: u16,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Details {
    #[serde(rename = "retryAfterSeconds")]
    retry_after_seconds: u32,
}

/// A `Status` object with the reason that Kubernetes gives this code, byte for byte as kube-apiserver writes one.
pub(crate) fn status(code: StatusCode, message: &str, retry_after: Option<u32>) -> Response<Body> {
    let object = Status {
        kind: "Status",
        api_version: "v1",
        metadata: Empty {},
        status: "Failure",
        message,
        reason: reason(code),
        details: retry_after.map(|seconds| Details {
            retry_after_seconds: seconds,
        }),
        code: code.as_u16(),
    };
    // Writing to memory does not fail.
    let mut text = serde_json::to_vec(&object).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Body::local(Bytes::from(text)));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// `metav1.StatusReason` for the codes we use.
fn reason(code: StatusCode) -> &'static str {
    match code {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::TOO_MANY_REQUESTS => "TooManyRequests",
        // "The request may have been carried out": what apierrors.IsTimeout asks for.
        StatusCode::GATEWAY_TIMEOUT => "Timeout",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        StatusCode::INTERNAL_SERVER_ERROR => "InternalError",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn object(response: Response<Body>) -> serde_json::Value {
        let bytes = response
            .into_body()
            .collect()
            .await
            .expect("local body")
            .to_bytes();
        serde_json::from_slice(&bytes).expect("a Status object")
    }

    #[tokio::test]
    async fn what_is_shed_gets_a_status_that_clients_understand() {
        let shed = Refused::Shed {
            reason: "queue_full",
            class: "bulk".into(),
            retry_after: 7,
        };
        let response = error(&shed.into(), Asked::Read, 0);
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "7");
        assert_eq!(response.headers()["x-spillway-class"], "bulk");
        assert_eq!(response.headers()["x-spillway-reason"], "queue_full");
        let object = object(response).await;
        assert_eq!(object["kind"], "Status");
        assert_eq!(object["reason"], "TooManyRequests");
        assert_eq!(object["details"]["retryAfterSeconds"], 7);
        assert_eq!(object["code"], 429);
    }

    #[tokio::test]
    async fn an_upstream_that_is_away_is_503_but_429_for_watches() {
        let away = || Error::from(UpstreamError::Unreachable("connection refused".into()));
        for random in 0..50 {
            let response = error(&away(), Asked::Read, random);
            assert_eq!(response.status(), 503);
            let retry: u32 = response.headers()["retry-after"]
                .to_str()
                .expect("text")
                .parse()
                .expect("integer");
            assert!((1..=UPSTREAM_AWAY_RETRY).contains(&retry));
        }
        let watch = error(&away(), Asked::Watch, 0);
        assert_eq!(watch.status(), 429);
        assert_eq!(watch.headers()["retry-after"], "1");
    }

    #[tokio::test]
    async fn a_write_that_could_not_be_sent_fails_as_it_does_without_a_proxy() {
        let away = Error::from(UpstreamError::Unreachable("connection refused".into()));
        let response = error(&away, Asked::WriteOrLease, 0);
        assert_eq!(response.status(), 503);
        assert!(!response.headers().contains_key("retry-after"));
        assert!(object(response).await["details"].is_null());
        // The server is there: there will be room in a moment.
        let full = error(&UpstreamError::NoStream.into(), Asked::WriteOrLease, 0);
        assert_eq!(full.headers()["retry-after"], "1");
    }
}
