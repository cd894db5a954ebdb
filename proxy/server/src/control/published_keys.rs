//! Fetches the keys kube-apiserver verifies service-account tokens with, from `/openid/v1/jwks`, in the background.
//!
//! Once at the start, about every half hour, after a reload, and soon after a token came that names a key nobody knows.
//! A failure changes nothing: the keys last fetched stay, and those of the files count always.

use std::sync::Arc;
use std::time::Duration;

use http::header::ACCEPT;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use proxy_core::time::Time;
use tokio::sync::watch;
use tracing::{debug, info};

use super::own_call::{self, OwnCallError, pause_after, varied};
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

/// Whom the server lets read its keys: `system:service-account-issuer-discovery` is bound to it.
const GROUP: &str = "system:serviceaccounts";

/// Why a fetch brought nothing.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Call(#[from] OwnCallError),
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
                    varied(pause_after(failures, FIRST_PAUSE, LONGEST_PAUSE))
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
    let request = Request::get(PATH).header(ACCEPT, "application/jwk-set+json");
    let response = own_call::send(snapshot, &[GROUP], request, RequestBody::Empty).await?;
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
