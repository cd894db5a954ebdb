//! One request as client-go sends it.
//!
//! `rest.Request` retries a 429 or 5xx that carries an integer `Retry-After`,
//! up to ten times, sleeping exactly as long as it says; a connection that
//! breaks during a GET after a second. The client's timeout covers all of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, timeout_at};

use crate::control_plane::ApiClient;
use crate::record::{Outcome, Record};

/// Retries of client-go's `rest.Request`.
const RETRIES: u32 = 10;
/// How long it waits before it sends a GET again whose connection broke.
const BROKEN: Duration = Duration::from_secs(1);
/// Bodies kept for the caller are not longer.
const KEPT: usize = 1 << 20;

/// A client and what it calls itself.
#[derive(Debug, Clone)]
pub struct Client {
    /// The connection.
    pub api: ApiClient,
    /// The `User-Agent`.
    pub agent: &'static str,
}

/// How long a client waits, and whether it tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Over all attempts, from when the request was due.
    pub timeout: Duration,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Call {
    /// The HTTP method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The body and its media type.
    pub body: Option<(Bytes, &'static str)>,
    /// The `Accept` header.
    pub accept: &'static str,
}

impl Call {
    /// A GET of JSON.
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            body: None,
            accept: "application/json",
        }
    }

    /// A request with a JSON body; a PATCH is a merge patch.
    pub fn json(method: Method, path: impl Into<String>, body: &serde_json::Value) -> Self {
        let media = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        Self {
            body: Some((Bytes::from(body.to_string()), media)),
            method,
            ..Self::get(path)
        }
    }

    /// The same, asking for another encoding.
    #[must_use]
    pub fn accepting(mut self, accept: &'static str) -> Self {
        self.accept = accept;
        self
    }

    fn request(&self, agent: &str) -> Option<Request<Bytes>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&*self.path)
            .header(ACCEPT, self.accept)
            .header(USER_AGENT, agent);
        if let Some((_, media)) = &self.body {
            request = request.header(CONTENT_TYPE, *media);
        }
        let body = self.body.as_ref().map(|(body, _)| body.clone());
        request.body(body.unwrap_or_default()).ok()
    }
}

/// How an attempt went on.
enum Step {
    Served(Bytes),
    Refused { status: u16, wait: Option<Duration> },
    Broken,
}

/// Sends a request that was due at `intended`, counting every attempt into
/// `record`, and the request when it ends. The beginning of a served answer's
/// body; `None` when it was not served.
pub async fn perform(
    client: &Client,
    call: &Call,
    patience: Patience,
    record: &Arc<Record>,
    population: usize,
    intended: Instant,
) -> Option<Bytes> {
    let answer = attempts(client, call, patience, record, population, intended).await;
    record.ended(population, intended);
    answer
}

async fn attempts(
    client: &Client,
    call: &Call,
    patience: Patience,
    record: &Arc<Record>,
    population: usize,
    intended: Instant,
) -> Option<Bytes> {
    let deadline = intended + patience.timeout;
    for retry in 0..=RETRIES {
        let attempt = record.attempt(population);
        let step = timeout_at(deadline, send(client, call, record, population)).await;
        let (outcome, wait) = match step {
            Ok(Step::Served(body)) => {
                attempt.end(Outcome::Served);
                return Some(body);
            }
            Ok(Step::Refused { status, wait }) => {
                let shed = status == StatusCode::TOO_MANY_REQUESTS.as_u16();
                let outcome = if shed { Outcome::Shed } else { Outcome::Failed };
                (outcome, wait)
            }
            Ok(Step::Broken) => (
                Outcome::Failed,
                (call.method == Method::GET).then_some(BROKEN),
            ),
            Err(_) => (Outcome::TimedOut, None),
        };
        attempt.end(outcome);
        match wait {
            // Waiting beyond the deadline has one end: client-go does not wait.
            Some(wait) if retry < RETRIES && Instant::now() + wait < deadline => sleep(wait).await,
            _ => return None,
        }
    }
    None
}

async fn send(client: &Client, call: &Call, record: &Record, population: usize) -> Step {
    let Some(request) = call.request(client.agent) else {
        return Step::Broken;
    };
    let Ok(response) = client.api.open(request).await else {
        return Step::Broken;
    };
    let (head, body) = response.into_parts();
    match drain(body, record, population).await {
        Some(kept) if head.status.is_success() => Step::Served(kept),
        Some(_) => Step::Refused {
            status: head.status.as_u16(),
            wait: retry_after(&head.headers),
        },
        None => Step::Broken,
    }
}

/// Reads a body to its end, counts it, and keeps its beginning.
async fn drain(mut body: Incoming, record: &Record, population: usize) -> Option<Bytes> {
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            record.received(population, data.len());
            if kept.len() + data.len() <= KEPT {
                kept.extend_from_slice(&data);
            }
        }
    }
    Some(kept.into())
}

/// The wait a server asks for; like client-go, seconds only.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u32 = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_whole_seconds_are_waited_for() {
        for (value, expected) in [
            ("3", Some(3)),
            ("0", Some(0)),
            ("1.5", None),
            ("-1", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            assert_eq!(retry_after(&headers).map(|wait| wait.as_secs()), expected);
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn patches_are_merge_patches() {
        let call = Call::json(Method::PATCH, "/x", &serde_json::json!({}));
        let request = call.request("test").expect("valid");
        let media = request.headers().get(CONTENT_TYPE);
        assert_eq!(
            media.and_then(|media| media.to_str().ok()),
            Some("application/merge-patch+json")
        );
    }
}
