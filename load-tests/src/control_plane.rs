//! A real Kubernetes control plane, kube-apiserver and etcd, to test against.
//!
//! It is started as a child process on the loopback interface, with the files
//! kubeadm lays out on a control-plane node: `pki/`, `admin.conf`,
//! `super-admin.conf`, `controller-manager.conf` and `scheduler.conf`. Where it
//! comes from is for [`Availability::detect`] to find out: the binaries of
//! `KUBEBUILDER_ASSETS`, or the program in `load-tests/kube-apiserver`, which
//! links both from their published Go modules.
//!
//! Starting, stopping and restarting block the calling thread; what speaks to
//! the server ([`ApiClient`], tokens, seeding) is async.
//!
//! ```no_run
//! use load_tests::control_plane::{self, Who};
//!
//! # async fn example() -> Result<(), control_plane::Error> {
//! let Some(plane) = control_plane::for_tests() else {
//!     return Ok(()); // skipped, and said so
//! };
//! let answer = plane.client(Who::Admin)?.get("/api/v1/namespaces").await?;
//! assert_eq!(answer.status, 200);
//! # Ok(())
//! # }
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

mod accounts;
mod assets;
mod availability;
mod client;
mod controllers;
mod error;
mod files;
mod kubeconfig;
mod pki;
mod pods;
mod process;
mod program;
mod seed;
mod subject;

pub use accounts::{BoundPod, Subject, TokenOptions};
pub use availability::{Availability, go_program};
pub use client::{Answer, ApiClient, Auth, ClientOptions, Protocol};
pub use controllers::Controllers;
pub use error::Error;

pub(crate) use client::tls_config;
pub use kubeconfig::{Kubeconfig, write_kubeconfig};
pub use pki::{Credentials, KeyAlgorithm};
pub use program::GoProgram;
pub use seed::{SeedKind, SeedPlan, SeedReport, seed};

use process::{Backend, Process};

/// The name in the serving certificate that clients verify: kubeadm's
/// certificates do not name the loopback address the server listens on.
pub const SERVER_NAME: &str = "kubernetes";

/// How a control plane is to be started. The default is what most tests want: a
/// temporary directory, any free port, kubeadm's flags.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Flags for kube-apiserver (`--name=value`), after and so above our own.
    pub extra_flags: Vec<String>,
    /// The loopback address it serves on; `None` for 127.0.0.1. With it the
    /// kubeconfigs change, too.
    pub bind: Option<std::net::Ipv4Addr>,
    /// The CPU to confine the control plane to, so that what it uses is not
    /// confused with what the proxy or the load uses.
    pub pin_to_core: Option<usize>,
    /// Where its files live; kept on drop, and reused with its port when it was
    /// used before. `None` makes a temporary directory, removed on drop.
    pub dir: Option<PathBuf>,
    /// Names and addresses for the serving certificate besides kubeadm's, such
    /// as `127.0.0.1`.
    pub extra_sans: Vec<String>,
    /// The algorithm of new keys; kubeadm's default is RSA-2048.
    pub key_algorithm: KeyAlgorithm,
    /// The name of a node whose kubelet has no containers but serves exec,
    /// attach, port-forward and logs of the pods of [`ControlPlane::run_pod`].
    /// Only the Go program has it: with `KUBEBUILDER_ASSETS` such a control
    /// plane is [`Error::Absent`].
    pub fake_kubelet: Option<String>,
    /// Whether there is an aggregated API (`mirror.spillway.test/v1`), and a Pod
    /// and a Service `mirror` in `default` to proxy to; the API server reaches
    /// them, and the fake kubelet, through an egress. Like the fake kubelet only
    /// in the Go program; for a new directory.
    pub aggregated_api: bool,
}

/// Whose kubeconfig, of those kubeadm writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// `kubernetes-admin` in `kubeadm:cluster-admins`: cluster administrator by
    /// a ClusterRoleBinding, and subject to priority and fairness.
    Admin,
    /// In `system:masters`: above RBAC, and exempt from priority and fairness.
    SuperAdmin,
    /// `system:kube-controller-manager`.
    ControllerManager,
    /// `system:kube-scheduler`.
    Scheduler,
}

impl Who {
    fn file_name(self) -> &'static str {
        match self {
            Self::Admin => "admin.conf",
            Self::SuperAdmin => "super-admin.conf",
            Self::ControllerManager => "controller-manager.conf",
            Self::Scheduler => "scheduler.conf",
        }
    }
}

/// A running control plane; dropping it stops it.
#[derive(Debug)]
pub struct ControlPlane {
    dir: PathBuf,
    temporary: bool,
    backend: Backend,
    options: Options,
    // `None` only while it is stopped.
    process: Option<Process>,
    server: String,
    version: String,
}

impl ControlPlane {
    /// Starts a control plane and waits until it is ready, which takes a few
    /// seconds, or minutes when the program has to be built first.
    ///
    /// # Errors
    /// [`Error::Absent`] when this machine has none to start; otherwise what
    /// failed, with the end of the log.
    pub fn start(options: Options) -> Result<Self, Error> {
        let backend = availability::prepare(Availability::detect())?;
        let needs_program = options.fake_kubelet.is_some() || options.aggregated_api;
        if let (Backend::Assets(dir), true) = (&backend, needs_program) {
            return Err(Error::Absent {
                reason: format!(
                    "the fake kubelet and the aggregated API are in the Go program only, and \
                     KUBEBUILDER_ASSETS={} is set",
                    dir.display()
                ),
            });
        }
        let (dir, temporary) = match &options.dir {
            Some(dir) => (dir.clone(), false),
            None => (temporary_dir(), true),
        };
        files::create_private_dir(&dir)?;
        let mut plane = Self {
            dir,
            temporary,
            backend,
            options,
            process: None,
            server: String::new(),
            version: String::new(),
        };
        plane.launch()?;
        Ok(plane)
    }

    /// The server's URL, `https://127.0.0.1:PORT`.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The release the server says it is, such as `v1.37.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The directory with everything of this control plane.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory with its certificates and keys, named as kubeadm does.
    pub fn pki_dir(&self) -> PathBuf {
        self.dir.join("pki")
    }

    /// The file with what it logged.
    pub fn log(&self) -> PathBuf {
        self.dir.join(process::LOG_FILE)
    }

    /// The kubeconfig of one of kubeadm's clients.
    pub fn kubeconfig(&self, who: Who) -> PathBuf {
        self.dir.join(who.file_name())
    }

    /// The process id of the kube-apiserver (and etcd, unless it came from
    /// `KUBEBUILDER_ASSETS`); `None` while stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// The PEM of the cluster's certificate authority.
    ///
    /// # Errors
    /// When `pki/ca.crt` cannot be read.
    pub fn ca_pem(&self) -> Result<String, Error> {
        files::read(&self.pki_dir().join("ca.crt"))
    }

    /// Stops it and waits until it is gone; harmless when it is stopped.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again in the same directory and on the same port, stopping it
    /// first if it runs: the data, the identities and the address stay.
    ///
    /// # Errors
    /// As [`ControlPlane::start`].
    pub fn restart(&mut self) -> Result<(), Error> {
        self.stop();
        self.launch()
    }

    /// As [`ControlPlane::restart`], on another address and with other flags of
    /// the caller's (`--name=value`): as when somebody changes its manifest.
    ///
    /// # Errors
    /// As [`ControlPlane::start`].
    pub fn restart_at(
        &mut self,
        bind: std::net::Ipv4Addr,
        extra_flags: Vec<String>,
    ) -> Result<(), Error> {
        self.stop();
        self.options.bind = Some(bind);
        self.options.extra_flags = extra_flags;
        self.launch()
    }

    fn launch(&mut self) -> Result<(), Error> {
        let (process, ready) = Process::launch(&self.backend, &self.dir, &self.options)?;
        self.server = ready.server;
        self.version = ready.version;
        self.process = Some(process);
        Ok(())
    }

    /// Signs a client certificate with the cluster's CA: `common_name` becomes
    /// the user (`system:node:NAME` for a node) and `groups` its groups
    /// (`system:nodes`). Valid from a minute ago for `validity` from now.
    ///
    /// # Errors
    /// When the CA cannot be read, or cannot sign.
    pub fn client_certificate(
        &self,
        common_name: &str,
        groups: &[&str],
        validity: Duration,
    ) -> Result<Credentials, Error> {
        pki::client_certificate(&self.pki_dir(), common_name, groups, validity)
    }

    /// A client with the credentials of one of kubeadm's kubeconfigs.
    ///
    /// # Errors
    /// When the kubeconfig cannot be read or is not usable.
    pub fn client(&self, who: Who) -> Result<ApiClient, Error> {
        let config = Kubeconfig::read(&self.kubeconfig(who))?;
        self.client_with(config.auth)
    }

    /// A client with any credentials, HTTP/2 if the server agrees.
    ///
    /// # Errors
    /// When the credentials are not usable for TLS.
    pub fn client_with(&self, auth: Auth) -> Result<ApiClient, Error> {
        ApiClient::new(ClientOptions {
            server: self.server.clone(),
            server_name: SERVER_NAME.to_owned(),
            ca_pem: self.ca_pem()?,
            auth,
            protocol: Protocol::Negotiated,
        })
    }
}

/// Signs a client certificate with the authority of a directory laid out as
/// `/etc/kubernetes/pki`; see [`ControlPlane::client_certificate`].
///
/// # Errors
/// When the CA cannot be read, or cannot sign.
pub fn client_certificate(
    pki_dir: &Path,
    common_name: &str,
    groups: &[&str],
    validity: Duration,
) -> Result<Credentials, Error> {
    pki::client_certificate(pki_dir, common_name, groups, validity)
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop();
        if self.temporary {
            // A directory in use or already gone is no reason to fail.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// A directory nobody else uses. Short, because the path of a unix socket in it
/// may have 107 bytes.
fn temporary_dir() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = std::process::id();
    std::env::temp_dir().join(format!("spillway-plane-{id}-{count}"))
}

/// When set to `1`, a test without a control plane fails instead of being
/// skipped.
pub const REQUIRE_VARIABLE: &str = "SPILLWAY_REQUIRE_REAL_CLUSTER";

/// The control plane the tests of this process share: started by the first that
/// asks, stopped when the last one lets go. `None`, with a line that says so,
/// when this machine has none.
///
/// # Panics
/// When there is one but it does not start, and when there is none although
/// `SPILLWAY_REQUIRE_REAL_CLUSTER=1` says there must be: a test run that
/// silently tested nothing is worse than a failed one.
pub fn for_tests() -> Option<Arc<ControlPlane>> {
    static SHARED: Mutex<Weak<ControlPlane>> = Mutex::new(Weak::new());
    // A test that failed to start one leaves nothing half done behind.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return Some(running);
    }
    let plane = Arc::new(start_for_tests(Options::default())?);
    *shared = Arc::downgrade(&plane);
    Some(plane)
}

/// Like [`for_tests`], but a control plane of the test's own, for tests that
/// restart it or give it other flags.
///
/// # Panics
/// As [`for_tests`].
pub fn start_for_tests(options: Options) -> Option<ControlPlane> {
    let required = std::env::var(REQUIRE_VARIABLE).is_ok_and(|value| value == "1");
    match ControlPlane::start(options) {
        Ok(plane) => Some(plane),
        Err(Error::Absent { reason }) if !required => {
            eprintln!("skipped: no real control plane here: {reason}");
            None
        }
        Err(error) => panic!("the control plane to test against did not start: {error}"),
    }
}
