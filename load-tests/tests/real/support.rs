//! What the tests share: a control plane, proxies in front of it, and ways to
//! look at both.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use load_tests::control_plane::{Answer, ApiClient};
use serde_json::{Value, json};

#[path = "support/authority.rs"]
mod authority;
#[path = "support/frames.rs"]
mod frames;
#[path = "support/kubectl.rs"]
mod kubectl;
#[path = "support/kubelet.rs"]
mod kubelet;
#[path = "support/plane.rs"]
mod plane;
#[path = "support/process.rs"]
mod process;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/raw.rs"]
mod raw;

pub(crate) use authority::{Authority, cluster_authority, copy_pki, params, replace};
pub(crate) use frames::{End, Fields, Frames};
pub(crate) use kubectl::{Kubectl, NOBODY, normal};
pub(crate) use kubelet::Kubelet;
pub(crate) use plane::{AUDITED_NAMESPACE, Plane, own_plane, plane};
pub(crate) use process::{ProxyProcess, audited, spillway};
pub(crate) use proxy::{Proxy, page};
pub(crate) use raw::{CLIENT, Raw, RawAnswer};

/// Longer than anything these tests wait for takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Where a `SelfSubjectReview` is created: the request behind
/// `kubectl auth whoami`.
pub(crate) const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// The body of that request.
pub(crate) fn whoami_body() -> Value {
    json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" })
}

/// What the server says who the client is, or how it refuses to say it.
pub(crate) async fn whoami(client: &ApiClient) -> anyhow::Result<Value> {
    Ok(verdict(&client.post(WHOAMI, &whoami_body()).await?))
}

/// `status.userInfo` of a `SelfSubjectReview`, or what a refusal says.
pub(crate) fn verdict(answer: &Answer) -> Value {
    verdict_of(answer.status, &answer.json())
}

/// As [`verdict`], from the parts of an answer.
pub(crate) fn verdict_of(status: u16, body: &Value) -> Value {
    match body.pointer("/status/userInfo") {
        Some(user) if status == 201 => user.clone(),
        _ => json!({ "status": status, "reason": body["reason"], "message": body["message"] }),
    }
}

/// The name of the user in a [`verdict`].
pub(crate) fn username(verdict: &Value) -> &str {
    verdict["username"].as_str().unwrap_or_default()
}

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none after [`PATIENCE`].
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let asked = tokio::time::timeout(PATIENCE, asking).await;
    asked.unwrap_or_else(|_| panic!("waited for {PATIENCE:?} in vain: {what}"))
}

/// A number no other call of this process gets, for names of objects.
pub(crate) fn unique() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// A directory of a test's own, removed when dropped.
#[derive(Debug)]
pub(crate) struct TestDir(PathBuf);

impl TestDir {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let name = format!("spillway-real-{}-{}", std::process::id(), unique());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
