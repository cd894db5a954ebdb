//! Whose token it is, when that cannot be verified here: the server is asked, in the background and with the token itself.
//!
//! A SelfSubjectReview needs no privilege beyond being authenticated, and tells the server's own view: user, groups, uid
//! and extras. It is asked only about tokens the server has just accepted, once per token and few minutes, a bounded number
//! at a time, and never while a request waits for it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use proxy_core::identity::{Identity, Source};
use serde::Deserialize;
use tower::Service as _;
use tracing::debug;

use crate::accept::worker::Worker;
use crate::attribute::Traffic;
use crate::clock;
use crate::identify::{Credential, Identified, bearer};
use crate::snapshot::Snapshot;
use crate::upstream::Outbound;
use crate::upstream::body::RequestBody;

/// Reviews of one worker under way at once.
const MOST_UNDER_WAY: u32 = 4;

/// An answer longer than this, in bytes, is not a review.
const LONGEST: usize = 256 * 1024;

const PATH: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const REVIEW: &[u8] = br#"{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}"#;

/// How many reviews a worker has under way.
#[derive(Debug, Default)]
pub(crate) struct Reviews(Cell<u32>);

/// The `Authorization` header of a request whose token we could not verify; kept until its answer is there.
pub(crate) fn token_to_learn(identified: &Identified, headers: &HeaderMap) -> Option<HeaderValue> {
    let verified_here = identified.identity.source() == Source::ServiceAccountToken;
    // With a second token the server may have meant that one.
    let only_one = bearer::of_websocket(headers).is_none();
    (identified.token.is_some() && !verified_here && only_one)
        .then(|| headers.get(AUTHORIZATION).cloned())
        .flatten()
}

/// Remembers what an answer says about the token it was asked with, and asks whose it is if nobody knows.
pub(crate) fn from_answer(
    worker: &Rc<Worker>,
    snapshot: &Arc<Snapshot>,
    identified: &Identified,
    token: Option<HeaderValue>,
    status: StatusCode,
    now: u64,
) {
    let Some(digest) = identified.token else {
        return;
    };
    let tokens = &worker.shared.tokens;
    if status == StatusCode::UNAUTHORIZED {
        return tokens.refused(digest, now);
    }
    // Only what the server says after authentication says something about the token.
    let Some(token) = token.filter(|_| past_authentication(status)) else {
        return;
    };
    tokens.works(digest, now);
    if worker.reviews.0.get() >= MOST_UNDER_WAY || !tokens.shall_ask(&digest, now) {
        return;
    }
    let under_way = UnderWay::start(worker);
    let snapshot = Arc::clone(snapshot);
    tokio::task::spawn_local(async move {
        let worker = &under_way.0;
        match review(worker, snapshot, token).await {
            Some(identity) => {
                worker
                    .shared
                    .tokens
                    .learned(digest, Arc::new(identity), clock::unix_seconds());
            }
            None => debug!("a review of a token brought no identity"),
        }
    });
}

/// 400, 413, 429 and 5xx may come from filters before the authenticator, or from no server at all.
fn past_authentication(status: StatusCode) -> bool {
    status.is_success() || matches!(status.as_u16(), 403 | 404 | 405 | 409 | 410 | 415 | 422)
}

struct UnderWay(Rc<Worker>);

impl UnderWay {
    fn start(worker: &Rc<Worker>) -> Self {
        worker.reviews.0.set(worker.reviews.0.get() + 1);
        Self(Rc::clone(worker))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0
            .reviews
            .0
            .set(self.0.reviews.0.get().saturating_sub(1));
    }
}

async fn review(
    worker: &Worker,
    snapshot: Arc<Snapshot>,
    mut token: HeaderValue,
) -> Option<Identity> {
    token.set_sensitive(true);
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(PATH);
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("kubernetes"));
    headers.insert(AUTHORIZATION, token);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("spillway/", env!("CARGO_PKG_VERSION"))),
    );
    let outbound = Outbound {
        head: request.into_parts().0,
        body: RequestBody::own(Bytes::from_static(REVIEW)),
        // On a connection that nobody shares: a wrong guess must not tear one down.
        credential: Credential::Unverified,
        traffic: Traffic::Short,
        snapshot,
    };
    let inbound = worker.upstream.clone().call(outbound).await.ok()?;
    if inbound.response.status() != StatusCode::CREATED {
        return None;
    }
    let body = Limited::new(inbound.response.into_body(), LONGEST)
        .collect()
        .await
        .ok()?
        .to_bytes();
    identity(&body)
}

#[derive(Deserialize)]
struct Review {
    status: ReviewStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReviewStatus {
    user_info: UserInfo,
}

#[derive(Deserialize)]
struct UserInfo {
    #[serde(default)]
    username: String,
    #[serde(default)]
    uid: Option<Box<str>>,
    #[serde(default)]
    groups: Vec<Box<str>>,
    #[serde(default)]
    extra: std::collections::BTreeMap<Box<str>, Vec<Box<str>>>,
}

/// Who a review says it is; `None` when it says nobody.
pub(crate) fn identity(body: &[u8]) -> Option<Identity> {
    let UserInfo {
        username,
        uid,
        groups,
        extra,
    } = serde_json::from_slice::<Review>(body)
        .ok()?
        .status
        .user_info;
    let extra = extra
        .into_iter()
        .flat_map(|(key, values)| values.into_iter().map(move |value| (key.clone(), value)))
        .collect();
    let identity = Identity::learned(&username, groups, uid.filter(|uid| !uid.is_empty()), extra);
    identity.is_verified().then_some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_becomes_the_identity_the_server_named() {
        let body = br#"{"kind":"SelfSubjectReview","status":{"userInfo":{"username":"jane@example.org","uid":"u1",
            "groups":["dev","system:authenticated"],"extra":{"team":["a","b"]}}}}"#;
        let identity = identity(body).expect("an identity");
        assert_eq!(identity.user(), "jane@example.org");
        assert_eq!(identity.source(), Source::Learned);
        assert!(identity.in_group("dev"));
        assert_eq!(identity.extra().len(), 2);
    }

    /// Else a bad token beside a good one would be taken for one that works.
    #[test]
    fn an_answer_to_two_tokens_says_nothing_about_either() {
        let identified = Identified {
            identity: Arc::new(Identity::unattributed()),
            credential: Credential::Unverified,
            token: Some(crate::identify::memory::Digest::of(b"t")),
            break_glass: false,
            stated: false,
        };
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer t"));
        assert!(token_to_learn(&identified, &headers).is_some());
        headers.insert("connection", HeaderValue::from_static("Upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        let protocols = "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.dG9rZW4";
        headers.insert(
            "sec-websocket-protocol",
            HeaderValue::from_static(protocols),
        );
        assert!(token_to_learn(&identified, &headers).is_none());
    }

    #[test]
    fn an_answer_that_names_nobody_is_nobody() {
        assert!(identity(b"{}").is_none());
        assert!(identity(br#"{"status":{"userInfo":{"username":"system:anonymous"}}}"#).is_none());
        assert!(identity(br#"{"status":{"userInfo":{}}}"#).is_none());
    }
}
