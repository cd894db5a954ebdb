//! The control plane the tests share, with an audit log.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use anyhow::Context as _;
use load_tests::control_plane::{self, ControlPlane, KeyAlgorithm, Options};
use serde_json::Value;

use super::TestDir;

/// Requests about ConfigMaps of this namespace are in the audit log, and no
/// others.
pub(crate) const AUDITED_NAMESPACE: &str = "audited";

/// A control plane that writes an audit log.
#[derive(Debug)]
pub(crate) struct Plane {
    // Stopped before its files go.
    plane: ControlPlane,
    dir: TestDir,
}

impl Deref for Plane {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        &self.plane
    }
}

impl Plane {
    fn start() -> anyhow::Result<Option<Self>> {
        let dir = TestDir::new()?;
        let policy = dir.path().join("audit-policy.yaml");
        let text = format!(
            "apiVersion: audit.k8s.io/v1\n\
             kind: Policy\n\
             omitStages: [RequestReceived]\n\
             rules:\n\
             - level: Metadata\n  \
               namespaces: [{AUDITED_NAMESPACE}]\n  \
               resources: [{{ group: '', resources: [configmaps] }}]\n\
             - level: None\n"
        );
        std::fs::write(&policy, text).context("writing the audit policy")?;
        let options = Options {
            extra_flags: vec![
                format!("--audit-policy-file={}", policy.display()),
                format!("--audit-log-path={}", audit_log(&dir).display()),
            ],
            key_algorithm: KeyAlgorithm::EcdsaP256,
            ..Options::default()
        };
        let plane = control_plane::start_for_tests(options);
        Ok(plane.map(|plane| Self { plane, dir }))
    }

    /// The audit event of a request, once it is written.
    pub(crate) fn audited(&self, request_uri: &str) -> Option<Value> {
        self.all_audited()
            .into_iter()
            .find(|event| event["requestURI"] == request_uri)
    }

    /// Every audit event so far.
    pub(crate) fn all_audited(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(audit_log(&self.dir)).unwrap_or_default();
        log.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

fn audit_log(dir: &TestDir) -> PathBuf {
    dir.path().join("audit.log")
}

/// The control plane the tests of this process share, or `None` with a line
/// that says why; as [`control_plane::for_tests`], with an audit log.
pub(crate) fn plane() -> Option<Arc<Plane>> {
    static SHARED: Mutex<Weak<Plane>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return Some(running);
    }
    let started = Plane::start().expect("a place for the audit log");
    let plane = Arc::new(started?);
    *shared = Arc::downgrade(&plane);
    Some(plane)
}

/// A control plane of a test's own, to be stopped and started.
pub(crate) fn own_plane() -> Option<ControlPlane> {
    control_plane::start_for_tests(Options {
        key_algorithm: KeyAlgorithm::EcdsaP256,
        ..Options::default()
    })
}
