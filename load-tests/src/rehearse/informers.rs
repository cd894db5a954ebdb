//! Informers: LIST, WATCH from there, and when that breaks, again from where they were; LIST only when the server has
//! forgotten, as client-go's reflector does (`tools/cache/reflector.go`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{ACCEPT, RETRY_AFTER, USER_AGENT};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, sleep};

use super::trouble::PATIENCE;
use crate::demo::life::TELEMETRY;
use crate::generate::{Call, Client, perform};
use crate::record::{Current, Outcome};

/// The reflector's pauses.
const FIRST_PAUSE: Duration = Duration::from_millis(800);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where all of them are.
#[derive(Debug, Default)]
pub(super) struct Informed {
    /// How many there are.
    pub(super) all: AtomicUsize,
    /// How many watch now.
    pub(super) watching: AtomicUsize,
    /// LISTs that were answered.
    pub(super) lists: AtomicU64,
}

impl Informed {
    pub(super) fn complete(&self) -> bool {
        self.watching.load(Ordering::Relaxed) >= self.all.load(Ordering::Relaxed)
    }
}

/// Why a watch is over.
enum Ended {
    /// From where it was, after the reflector's pause.
    Broken,
    /// After what the server asked for.
    Refused(Duration),
    /// The server does not know that version any more.
    Forgotten,
}

/// Keeps informed of `path` until dropped.
pub(super) async fn inform(client: Client, path: String, current: Current, all: Arc<Informed>) {
    let mut version: Option<String> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(known) = &mut version else {
            let list = Call::get(format!("{path}?resourceVersion=0"));
            let record = current.get();
            let due = Instant::now();
            let body = perform(&client, &list, PATIENCE, &record, TELEMETRY, due).await;
            version = body.and_then(|body| version_in(&body));
            if version.is_some() {
                all.lists.fetch_add(1, Ordering::Relaxed);
                pause = FIRST_PAUSE;
            } else {
                pause = wait(pause).await;
            }
            continue;
        };
        match watch(&client, &path, known, &current, &all).await {
            Ended::Forgotten => version = None,
            Ended::Refused(after) => sleep(after).await,
            Ended::Broken => pause = wait(pause).await,
        }
    }
}

/// Waits, somewhere between once and twice as long; how long next time.
async fn wait(pause: Duration) -> Duration {
    sleep(pause.mul_f64(1.0 + fastrand::f64())).await;
    (pause * 2).min(LONGEST_PAUSE)
}

async fn watch(
    client: &Client,
    path: &str,
    version: &mut String,
    current: &Current,
    all: &Informed,
) -> Ended {
    let record = current.get();
    let attempt = record.attempt(TELEMETRY);
    let request = http::Request::get(format!(
        "{path}?watch=true&allowWatchBookmarks=true&resourceVersion={version}"
    ))
    .header(ACCEPT, "application/json")
    .header(USER_AGENT, client.agent)
    .body(Bytes::new());
    let Ok(request) = request else {
        return Ended::Forgotten;
    };
    let Ok(answer) = client.api.open(request).await else {
        attempt.end(Outcome::Failed);
        return Ended::Broken;
    };
    match answer.status() {
        StatusCode::OK => attempt.end(Outcome::Served),
        StatusCode::GONE => {
            attempt.end(Outcome::Failed);
            return Ended::Forgotten;
        }
        StatusCode::TOO_MANY_REQUESTS => {
            attempt.end(Outcome::Shed);
            let after = answer.headers().get(RETRY_AFTER);
            let after = after.and_then(|after| after.to_str().ok()?.parse().ok());
            return Ended::Refused(Duration::from_secs(after.unwrap_or(1)));
        }
        _ => {
            attempt.end(Outcome::Failed);
            return Ended::Broken;
        }
    }
    all.watching.fetch_add(1, Ordering::Relaxed);
    let ended = events(answer.into_body(), version).await;
    all.watching.fetch_sub(1, Ordering::Relaxed);
    ended
}

/// Follows a watch to its end.
async fn events(mut body: hyper::body::Incoming, version: &mut String) -> Ended {
    let mut line = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else {
            continue;
        };
        for byte in data {
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            if line.starts_with(br#"{"type":"ERROR""#) {
                return Ended::Forgotten;
            }
            if let Some(newer) = version_in(&line) {
                *version = newer;
            }
            line.clear();
        }
    }
    Ended::Broken
}

/// The first resource version in a text: a list's own, an event's object's. Lists are too long to keep, so what is here may
/// be no more than their beginning.
fn version_in(text: &[u8]) -> Option<String> {
    const KEY: &[u8] = br#""resourceVersion":""#;
    let at = text.windows(KEY.len()).position(|window| window == KEY)?;
    let rest = text.get(at + KEY.len()..)?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    let version = std::str::from_utf8(rest.get(..end)?).ok()?;
    (!version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lists_version_is_found_in_its_beginning_alone() {
        let list =
            br#"{"kind":"PodList","metadata":{"resourceVersion":"42"},"items":[{"metadata":{"reso"#;
        assert_eq!(version_in(list).as_deref(), Some("42"));
        assert_eq!(version_in(br#"{"resourceVersion":""}"#), None);
        assert_eq!(version_in(br#"{"resourceVersion":"4"#), None);
        assert_eq!(version_in(b""), None);
    }
}
