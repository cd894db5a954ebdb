//! Fetches the keys kube-apiserver verifies service-account tokens with, from `/openid/v1/jwks`, in the background.
//!
//! Once at the start, about every half hour, after a reload, and soon after a token came that names a key nobody knows.
//! A failure changes nothing: the keys last fetched stay, and those of the files count always.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use proxy_core::identity::Identity;
use proxy_core::time::Time;
use tokio::sync::watch;
use tracing::{debug, info};

use crate::clock;
use crate::identify::keys::{self, PublicKey};
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::upstream::body::RequestBody;

/// Between fetches that worked: the server itself calls its answer good for an hour. Varied by a quarter either way, so
/// that a cluster's proxies do not ask together.
const EVERY: Duration = Duration::from_secs(30 * 60);

/// After the first failure; doubles with each, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// However many tokens name unknown keys, the server is asked at most this often.
const WANTED_AT_MOST_EVERY: Duration = Duration::from_secs(10);

/// One fetch may take this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// An answer longer than this, in bytes, is not a key set.
const LONGEST: usize = 256 * 1024;

const PATH: &str = "/openid/v1/jwks";

/// The user name fetches show in the apiserver's audit log.
const USER: &str = "system:spillway";

/// Whom the server lets read its keys: `system:service-account-issuer-discovery` is bound to it.
const GROUP: &str = "system:serviceaccounts";

/// Why a fetch brought nothing.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Upstream(#[from] crate::error::UpstreamError),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("it took longer than {PATIENCE:?}")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("the apiserver answered {0}")]
    Status(StatusCode),
    #[error("the answer is no key set of at most {LONGEST} bytes")]
    NoKeySet,
}

/// Fetches until `stop` turns true.
pub(crate) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut failures = 0_u32;
    loop {
        let snapshot = shared.snapshot.load_full();
        let accounts = &snapshot.config.service_accounts;
        let mut pause = Duration::MAX;
        if accounts.published_keys && snapshot.tokens.verifies() {
            pause = match fetch(&snapshot).await {
                Ok(keys) => {
                    failures = 0;
                    fetched(&shared, keys);
                    varied(EVERY)
                }
                Err(problem) => {
                    if failures == 0 {
                        info!(%problem, path = PATH, "the apiserver's own keys for service-account tokens cannot be had; \
                                                      the keys of the files count, and the ones last fetched");
                    } else {
                        debug!(%problem, failures, "fetching the apiserver's keys failed again");
                    }
                    count(&shared, "failed");
                    failures = failures.saturating_add(1);
                    varied(pause_after(failures))
                }
            };
        } else {
            shared.published_keys.set(Vec::new());
        }
        let asked = clock::now();
        tokio::select! {
            () = due(&shared, snapshot.generation, asked, pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Waits for whatever comes first: the end of `pause`, a reload, or a wish for a key.
async fn due(shared: &Shared, generation: u64, asked: Time, pause: Duration) {
    let mut looks = tokio::time::interval(Duration::from_secs(1));
    let mut wanted = false;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = shared.published_keys.wanted() => wanted = true,
        }
        let passed = clock::now().saturating_since(asked);
        if passed >= pause
            || (wanted && passed >= WANTED_AT_MOST_EVERY)
            || shared.snapshot.load().generation != generation
        {
            return;
        }
    }
}

fn pause_after(failures: u32) -> Duration {
    let doubled = 1_u32
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE)
}

fn varied(pause: Duration) -> Duration {
    pause.mul_f64(fastrand::f64().mul_add(0.5, 0.75))
}

fn fetched(shared: &Shared, keys: Vec<PublicKey>) {
    count(shared, "fetched");
    let number = keys.len();
    if shared.published_keys.set(keys) {
        // What the old keys said about tokens may no longer hold.
        shared.tokens.clear();
        info!(
            keys = number,
            "the apiserver's keys for service-account tokens are in force"
        );
    }
}

async fn fetch(snapshot: &Snapshot) -> Result<Vec<PublicKey>, FetchError> {
    tokio::time::timeout(PATIENCE, ask(snapshot)).await?
}

async fn ask(snapshot: &Snapshot) -> Result<Vec<PublicKey>, FetchError> {
    let mut sender = snapshot.endpoint.http1(true).await?;
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = Method::GET;
    *request.uri_mut() = Uri::from_static(PATH);
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("kubernetes"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/jwk-set+json"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("spillway/", env!("CARGO_PKG_VERSION"))),
    );
    let groups = vec![GROUP.into(), "system:authenticated".into()];
    let identity = Identity::certificate(USER, groups, None, Vec::new());
    let assertion = snapshot.identity_headers.assertion(&identity);
    headers.extend(assertion.into_iter().flatten());
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let body = Limited::new(response.into_body(), LONGEST)
        .collect()
        .await
        .map_err(|_| FetchError::NoKeySet)?
        .to_bytes();
    keys::of_key_set(&body).ok_or(FetchError::NoKeySet)
}

fn count(shared: &Shared, result: &'static str) {
    shared
        .metrics
        .counter(
            "spillway_published_keys_fetches_total",
            &[("result", result)],
        )
        .increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_repeated_ever_more_slowly_but_not_forever() {
        assert_eq!(pause_after(1), FIRST_PAUSE);
        assert_eq!(pause_after(3), FIRST_PAUSE * 4);
        assert_eq!(pause_after(30), LONGEST_PAUSE);
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }

    #[test]
    fn pauses_differ_between_proxies_by_a_quarter_at_most() {
        for _ in 0..100 {
            let pause = varied(EVERY);
            assert!(
                pause >= EVERY * 3 / 4 && pause <= EVERY * 5 / 4,
                "{pause:?}"
            );
        }
    }
}
