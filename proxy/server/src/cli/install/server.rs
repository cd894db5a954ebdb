//! Asks kube-apiserver for its release, as Spillway would: with the front-proxy certificate, a name of its own asserted.
//! And asks through Spillway, as a stranger would.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use proxy_core::identity::Identity;
use serde::Deserialize;

use super::Stage;
use super::finding::Findings;
use crate::snapshot::Snapshot;
use crate::upstream::body::RequestBody;

/// The minor release every test here runs against.
const TESTED: u32 = 37;
/// The first with everything Spillway asks for: `SelfSubjectReview` in `authentication.k8s.io/v1`.
const FIRST: u32 = 28;

const PATIENCE: Duration = Duration::from_secs(5);
const LONGEST: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    #[serde(default)]
    git_version: String,
    #[serde(default)]
    minor: String,
}

/// Asks, and judges what comes. Before a take-over kube-apiserver may be on the node's address only.
pub(super) fn look(snapshot: &Snapshot, stage: Stage, found: &mut Findings) {
    const CHECK: &str = "apiserver.version";
    let mut addresses = vec![snapshot.config.upstream.address];
    if stage == Stage::Before {
        addresses.extend(&snapshot.config.listen.main);
    }
    let mut answer = Err("nobody was asked".to_owned());
    for address in addresses {
        answer = ask(snapshot, address, Ask::Version);
        if answer.is_ok() {
            break;
        }
    }
    match answer {
        Err(problem) => found.fail(
            CHECK,
            problem,
            "is kube-apiserver up? If it is and refuses, look at the findings about certificates.front-proxy",
        ),
        Ok((StatusCode::OK, body)) => match serde_json::from_slice::<Version>(&body) {
            Ok(version) => judge(&version, found),
            Err(_) => found.warn(CHECK, "the answer is no version", "who listens there? See listening.apiserver"),
        },
        Ok((status, _)) => found.fail(
            CHECK,
            format!("the identity Spillway asserts is refused: {status}"),
            "see certificates.front-proxy and apiserver.requestheader; /version must be open to system:authenticated",
        ),
    }
}

/// Goes the whole way, as a balancer's health check does.
pub(super) fn through(snapshot: &Snapshot, found: &mut Findings) {
    const CHECK: &str = "spillway.path";
    let Some(address) = snapshot.config.listen.main.first().copied() else {
        return;
    };
    match ask(snapshot, address, Ask::Readyz) {
        Err(problem) => found.fail(
            CHECK,
            problem,
            "is Spillway up? Look at its log, and at listening.spillway",
        ),
        // Refused by kube-apiserver is answered, too: anonymous access may be off.
        Ok((status, _)) if status.is_success() || status.is_client_error() => {
            found.ok(CHECK, format!("GET /readyz at {address}: {status}"));
        }
        Ok((status, _)) => found.fail(
            CHECK,
            format!("GET /readyz at {address}: {status}"),
            "is kube-apiserver up and ready behind it? See apiserver.version",
        ),
    }
}

/// What is asked, and as whom.
#[derive(Clone, Copy)]
enum Ask {
    /// `/version`, with the front-proxy certificate.
    Version,
    /// `/readyz`, as nobody.
    Readyz,
}

fn judge(version: &Version, found: &mut Findings) {
    const CHECK: &str = "apiserver.version";
    let said = format!(
        "{}, and it believes what Spillway asserts",
        version.git_version
    );
    // Some builds say `37+`.
    let digits: String = version
        .minor
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    match digits.parse::<u32>() {
        Ok(TESTED) => found.ok(CHECK, said),
        Ok(minor) if minor < FIRST => found.fail(
            CHECK,
            format!("{}: older than 1.{FIRST}", version.git_version),
            format!("upgrade Kubernetes; this Spillway is tested with 1.{TESTED}"),
        ),
        Ok(_) => found.warn(
            CHECK,
            format!("{said}; this Spillway is tested with 1.{TESTED}"),
            "begin with admission.mode: shadow, and use the Spillway that was tested with this release when there is one",
        ),
        Err(_) => found.warn(CHECK, format!("minor release `{}`", version.minor), "compare it by hand"),
    }
}

fn ask(
    snapshot: &Snapshot,
    address: SocketAddr,
    ask: Ask,
) -> Result<(StatusCode, Vec<u8>), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|problem| problem.to_string())?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(PATIENCE, send(snapshot, address, ask))
            .await
            .unwrap_or_else(|_| Err(format!("{address}: no answer within {PATIENCE:?}")))
    })
}

async fn send(
    snapshot: &Snapshot,
    address: SocketAddr,
    ask: Ask,
) -> Result<(StatusCode, Vec<u8>), String> {
    let mut endpoint = snapshot.endpoint.clone();
    endpoint.address = address;
    let as_us = matches!(ask, Ask::Version);
    let mut sender = endpoint
        .http1(as_us)
        .await
        .map_err(|error| error.to_string())?;
    let mut request = Request::new(RequestBody::Empty);
    *request.uri_mut() = Uri::from_static(if as_us { "/version" } else { "/readyz" });
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("kubernetes"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("spillway-install/", env!("CARGO_PKG_VERSION"))),
    );
    if as_us {
        let groups = vec!["system:authenticated".into()];
        let identity = Identity::certificate("system:spillway", groups, None, Vec::new());
        headers.extend(
            snapshot
                .identity_headers
                .assertion(&identity)
                .into_iter()
                .flatten(),
        );
    }
    let said = |error: &dyn std::fmt::Display| format!("{address}: {error}");
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| said(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST)
        .collect()
        .await
        .map_err(|error| said(&error))?;
    Ok((status, body.to_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn a_release_nobody_tested_is_said_and_one_too_old_refused() {
        for (minor, verdict) in [
            ("37", Verdict::Ok),
            ("37+", Verdict::Ok),
            ("36", Verdict::Warn),
            ("38", Verdict::Warn),
            ("", Verdict::Warn),
            ("27", Verdict::Fail),
        ] {
            let mut found = Findings::default();
            let version = Version {
                git_version: format!("v1.{minor}.0"),
                minor: minor.to_owned(),
            };
            judge(&version, &mut found);
            assert_eq!(found.worst(), verdict, "{minor}");
        }
    }
}
