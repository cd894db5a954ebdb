//! Calls of this process's own to its apiserver, as `system:spillway`: its keys, its metrics, Events, policies.
//!
//! Each on a connection of its own, so that none waits behind clients' requests; asserted with the front-proxy
//! certificate, so that the server's audit log and its rights tell them from everybody else's.

use std::time::Duration;

use http::header::{HOST, HeaderValue, USER_AGENT};
use http::request::Builder;
use http::{Request, Response};
use hyper::body::Incoming;
use proxy_core::identity::Identity;

use crate::error::UpstreamError;
use crate::snapshot::Snapshot;
use crate::upstream::body::RequestBody;

/// The user name such calls show in the apiserver's audit log.
pub(super) const USER: &str = "system:spillway";

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum OwnCallError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the request cannot be written: {0}")]
    Request(#[from] http::Error),
    #[error("user {USER} cannot be asserted")]
    Unasserted,
}

/// Sends `request` with `body` as a member of `groups`, beside `system:authenticated`; the answer's head.
///
/// # Errors
/// [`OwnCallError`]; any status is an answer. Nothing bounds the time but the caller.
pub(super) async fn send(
    snapshot: &Snapshot,
    groups: &[&str],
    request: Builder,
    body: RequestBody,
) -> Result<Response<Incoming>, OwnCallError> {
    let mut request: Request<RequestBody> = request.body(body)?;
    let agent = concat!("spillway/", env!("CARGO_PKG_VERSION"));
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("kubernetes"));
    headers.insert(USER_AGENT, HeaderValue::from_static(agent));
    let groups = groups.iter().chain(&["system:authenticated"]);
    let groups = groups.map(|group| (*group).into()).collect();
    let identity = Identity::certificate(USER, groups, None, Vec::new());
    let assertion = snapshot.identity_headers.assertion(&identity);
    headers.extend(assertion.ok_or(OwnCallError::Unasserted)?);
    let mut sender = snapshot.endpoint.http1(true).await?;
    Ok(sender.send_request(request).await?)
}

/// How long to wait after so many failures in a row: `first`, then twice as long each time, up to `longest`.
pub(super) fn pause_after(failures: u32, first: Duration, longest: Duration) -> Duration {
    let doubled = 1_u32
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u32::MAX);
    first.saturating_mul(doubled).min(longest)
}

/// A quarter more or less, so that a cluster's proxies do not come together.
pub(super) fn varied(pause: Duration) -> Duration {
    pause.mul_f64(fastrand::f64().mul_add(0.5, 0.75))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_however_often_it_failed() {
        let pause = |failures| {
            pause_after(failures, Duration::from_secs(1), Duration::from_secs(60)).as_secs()
        };
        assert_eq!(
            [0, 1, 2, 4, 7, 40, u32::MAX].map(pause),
            [1, 1, 2, 8, 60, 60, 60]
        );
        for _ in 0..1_000 {
            let varied = varied(Duration::from_secs(100)).as_secs_f64();
            assert!((75.0..=125.0).contains(&varied), "{varied}");
        }
    }
}
