//! The console: a page for the worst hour, without anything from elsewhere.
//!
//! Whoever reaches the admin port may look. The switches need a session ([`crate::sessions`]), and are then carried out as
//! the commands of the socket are, in the name of whoever got the ticket. All that could be refused is refused before a
//! byte of a body is read, so that nobody can occupy the port with slow bodies.

mod data;

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use proxy_core::time::Time;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::commands::{self, Caller, Problem};
use super::{Page, guard, text};
use crate::clock;
use crate::sessions::Holder;
use crate::shared::Shared;

/// The longest body.
const MOST_BYTES: usize = 16 << 10;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Refused attempts are logged at most this often.
const COMPLAIN: Duration = Duration::from_secs(1);

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
/// Path, kind and content of what the page is made of.
const FILES: [(&str, &str, &str); 7] = [
    (
        "/console",
        "text/html; charset=utf-8",
        include_str!("console/page.html"),
    ),
    (
        "/console/style.css",
        "text/css; charset=utf-8",
        include_str!("console/style.css"),
    ),
    (
        "/console/model.js",
        JAVASCRIPT,
        include_str!("console/model.js"),
    ),
    (
        "/console/charts.js",
        JAVASCRIPT,
        include_str!("console/charts.js"),
    ),
    (
        "/console/switches.js",
        JAVASCRIPT,
        include_str!("console/switches.js"),
    ),
    (
        "/console/page.js",
        JAVASCRIPT,
        include_str!("console/page.js"),
    ),
    (
        "/console/icon.svg",
        "image/svg+xml",
        include_str!("console/icon.svg"),
    ),
];

/// Whether this path is the console's.
pub(super) fn serves(path: &str) -> bool {
    path == "/" || path == "/console" || path.starts_with("/console/")
}

/// Answers a request for a path of the console.
pub(super) async fn answer(shared: &Shared, request: Request<Incoming>) -> Page {
    if !guard::is_local(&request) {
        return guard::not_local();
    }
    let page = match *request.method() {
        Method::GET | Method::HEAD => look(shared, &request),
        Method::POST => switch(shared, request)
            .await
            .unwrap_or_else(|problem| refusal(&problem)),
        _ => {
            let mut page = text(StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD and POST");
            let allowed = HeaderValue::from_static("GET, HEAD, POST");
            page.headers_mut().insert(ALLOW, allowed);
            page
        }
    };
    guard::shield(page)
}

fn look(shared: &Shared, request: &Request<Incoming>) -> Page {
    let path = request.uri().path();
    if path == "/" {
        let mut page = text(StatusCode::FOUND, "/console");
        let there = HeaderValue::from_static("/console");
        page.headers_mut().insert(LOCATION, there);
        return page;
    }
    if path == "/console/data" {
        if guard::is_of_another_site(request) {
            return text(StatusCode::FORBIDDEN, "only for the console's own page");
        }
        let session = guard::secret(request);
        let session = session.and_then(|secret| shared.sessions.holder(secret, clock::now()));
        return super::json(&data::page(
            shared,
            request.uri().query().unwrap_or_default(),
            session,
        ));
    }
    let found = FILES.iter().find(|(file, ..)| *file == path);
    let Some((_, kind, content)) = found else {
        return text(StatusCode::NOT_FOUND, "the console is at /console");
    };
    let mut page = Response::new(Full::new(Bytes::from_static(content.as_bytes())));
    page.headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    page
}

/// # Errors
/// With what to do next.
async fn switch(shared: &Shared, request: Request<Incoming>) -> Result<Page, Problem> {
    let path = request.uri().path().to_owned();
    if !guard::is_of_own_page(&request) {
        complain(&path, "not from the console's own page");
        return Err(Problem::forbidden(
            "only the console's own page may do that",
        ));
    }
    let now = clock::now();
    let locked = || {
        complain(&path, "no ticket or session");
        Problem::locked()
    };
    let secret = guard::secret(&request).ok_or_else(locked)?.to_owned();
    if path == "/console/session" {
        let opened = shared.sessions.open(&secret, now);
        let (session, holder, lasts) = opened.ok_or_else(locked)?;
        info!(target: "spillway::audit", event = "console_unlocked", by = %name(&holder), seconds = lasts.as_secs(), "the console's switches are unlocked");
        return Ok(super::json(&json!({ "session": session })));
    }
    let (holder, _) = shared.sessions.holder(&secret, now).ok_or_else(locked)?;
    if path == "/console/lock" {
        shared.sessions.end(&secret, now);
        info!(target: "spillway::audit", event = "console_locked", by = %name(&holder), "the console's switches are locked");
        return Ok(super::json(&Value::Null));
    }
    let command = match path.as_str() {
        "/console/mode" => "/mode",
        "/console/quarantine" => "/quarantine",
        "/console/quarantine/remove" => "/quarantine/remove",
        _ => return Err(Problem::not_found("there is no such switch")),
    };
    let body = Limited::new(request.into_body(), MOST_BYTES).collect();
    let body = match tokio::time::timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => return Err(Problem::request("the request's body did not arrive")),
    };
    let caller = Caller {
        uid: holder.uid,
        pid: holder.pid,
        console: Some(holder.name),
    };
    commands::post(shared, &caller, command, &body).map(|page| super::json(&page))
}

fn name(holder: &Holder) -> String {
    format!("{}, uid {}", holder.name, holder.uid)
}

/// Says in the log that somebody tried; whoever tries often cannot fill it.
fn complain(path: &str, why: &str) {
    static LAST: Mutex<Option<Time>> = Mutex::new(None);
    let now = clock::now();
    let Ok(mut last) = LAST.lock() else { return };
    if last.is_none_or(|last| now.saturating_since(last) >= COMPLAIN) {
        *last = Some(now);
        let path: String = path.chars().take(64).collect();
        warn!(target: "spillway::audit", event = "console_refused", path, why, "a switch of the console was refused");
    }
}

fn refusal(problem: &Problem) -> Page {
    let mut page = super::json(&json!({ "error": problem.error, "next": problem.next }));
    *page.status_mut() = problem.status;
    if problem.status == StatusCode::UNAUTHORIZED {
        page.headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_asks_for_nothing_from_elsewhere() {
        let all: usize = FILES.iter().map(|(.., content)| content.len()).sum();
        assert!(all < 60 << 10, "{all} bytes");
        for (path, _, content) in FILES {
            let foreign = content
                .replace("http://www.w3.org/2000/svg", "")
                .replace("http://127.0.0.1:9443", "");
            for outside in ["http:", "https:", "//cdn", "@import", "url(", "data:"] {
                assert!(!foreign.contains(outside), "{path} has {outside}");
            }
            // What would turn text into markup.
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
            ] {
                assert!(!content.contains(sink), "{path} has {sink}");
            }
        }
    }
}
