//! Two ways to one control plane, and programs that go both.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use load_tests::control_plane::{
    self, Auth, ControlPlane, GoProgram, KeyAlgorithm, Kubeconfig, Options, REQUIRE_VARIABLE,
    SERVER_NAME, Subject, TokenOptions, Who, write_kubeconfig,
};
use tokio::process::Command;

use crate::support::{Proxy, TestDir, unique, until};

/// The node of the fake kubelet.
pub(crate) const NODE: &str = "worker";

/// For a program's whole run: what it does itself gives up sooner.
pub(crate) const RUN: Duration = Duration::from_secs(300);

/// A control plane, and a proxy of the test's own before it.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) proxy: Proxy,
    dir: TestDir,
    pub(crate) plane: Arc<ControlPlane>,
}

/// Whose credentials a client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// An administrator's client certificate: asserted by the proxy.
    Certificate,
    /// A service account's token: passed on by the proxy.
    Token,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The control plane of this process' tests, with a node.
fn plane() -> Option<Arc<ControlPlane>> {
    static SHARED: Mutex<Weak<ControlPlane>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = shared.upgrade() {
        return Some(running);
    }
    let plane = Arc::new(control_plane::start_for_tests(Options {
        key_algorithm: KeyAlgorithm::EcdsaP256,
        fake_kubelet: Some(NODE.to_owned()),
        ..Options::default()
    })?);
    *shared = Arc::downgrade(&plane);
    Some(plane)
}

/// A Go program; `None`, with a line that says so, where it cannot be built.
pub(crate) fn go_program(which: GoProgram) -> Option<PathBuf> {
    match control_plane::go_program(which) {
        Ok(program) => Some(program),
        Err(control_plane::Error::Absent { reason }) if !required() => {
            eprintln!("skipped: {which:?} cannot be built here: {reason}");
            None
        }
        Err(error) => panic!("{which:?}: {error}"),
    }
}

/// Whether skipping is as bad as failing.
pub(crate) fn required() -> bool {
    std::env::var(REQUIRE_VARIABLE).is_ok_and(|value| value == "1")
}

impl Cluster {
    /// With a proxy of the default configuration.
    pub(crate) fn start() -> Result<Option<Self>> {
        Self::start_with(|_| ())
    }

    /// With a proxy whose configuration differs from the default.
    pub(crate) fn start_with(change: impl FnOnce(&mut config::Config)) -> Result<Option<Self>> {
        let Some(plane) = plane() else {
            return Ok(None);
        };
        Ok(Some(Self {
            proxy: Proxy::with(&plane, change)?,
            dir: TestDir::new()?,
            plane,
        }))
    }

    /// A namespace of the caller's own that pods can be created in.
    pub(crate) async fn namespace(&self) -> Result<String> {
        let name = format!("clients-{}", unique());
        let options = TokenOptions::default();
        self.plane
            .service_account_token(&name, "default", &options)
            .await?;
        Ok(name)
    }

    /// Credentials that may do everything.
    pub(crate) async fn credentials(&self, identity: Identity) -> Result<Auth> {
        if identity == Identity::Certificate {
            return Ok(Kubeconfig::read(&self.plane.kubeconfig(Who::Admin))?.auth);
        }
        let (namespace, name) = ("clients", "administrator");
        let options = TokenOptions::default();
        let token = self
            .plane
            .service_account_token(namespace, name, &options)
            .await?;
        let subject = Subject::ServiceAccount {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        self.plane
            .bind_cluster_role(&subject, "cluster-admin")
            .await?;
        let auth = Auth::Token(token);
        let client = self.plane.client_with(auth.clone())?;
        until("the server knows the role binding", async || {
            let answer = client.get("/api/v1/nodes").await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        Ok(auth)
    }

    /// The kubeconfigs of both ways, straight first.
    pub(crate) async fn ways(&self, identity: Identity) -> Result<[PathBuf; 2]> {
        let auth = self.credentials(identity).await?;
        let path = |way| {
            self.dir
                .path()
                .join(format!("{way}-{identity:?}-{}", unique()))
        };
        let (straight, through) = (path("straight"), path("through"));
        let (server, ca) = (self.plane.server(), self.plane.ca_pem()?);
        write_kubeconfig(&straight, server, Some(SERVER_NAME), &ca, &auth)?;
        self.proxy.kubeconfig(&through, &auth)?;
        Ok([straight, through])
    }

    /// A kubeconfig that leads through the proxy, once its credentials are known to
    /// the server.
    pub(crate) async fn through(&self, auth: Auth) -> Result<PathBuf> {
        let client = self.plane.client_with(auth.clone())?;
        until("the client may read", async || {
            let answer = client.get("/api/v1/configmaps?limit=1").await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        let path = self.dir.path().join(format!("through-{}", unique()));
        self.proxy.kubeconfig(&path, &auth)?;
        Ok(path)
    }

    /// Requests the proxy has answered so far.
    pub(crate) async fn requests(&self) -> Result<f64> {
        let metrics = self.proxy.metrics().await?;
        Ok(metrics.sum("spillway_requests_total", &[]))
    }

    /// As [`Cluster::same_in`], in namespaces of its own.
    pub(crate) async fn same(
        &self,
        program: &Path,
        identity: Identity,
        arguments: impl Fn(&Path, &str) -> Vec<String>,
    ) -> Result<String> {
        let namespaces = [&self.namespace().await?, &self.namespace().await?];
        self.same_in(program, identity, namespaces, arguments).await
    }

    /// Runs a program both ways at once, each in its namespace; `arguments` makes
    /// its command line. Both runs must succeed and say the same.
    pub(crate) async fn same_in(
        &self,
        program: &Path,
        identity: Identity,
        namespaces: [&String; 2],
        arguments: impl Fn(&Path, &str) -> Vec<String>,
    ) -> Result<String> {
        let [straight, through] = self.ways(identity).await?;
        let before = self.requests().await?;
        let [first, second] = namespaces;
        let straight = arguments(&straight, first);
        let through = arguments(&through, second);
        let (expected, said) = tokio::try_join!(run(program, &straight), run(program, &through))?;
        ensure!(expected.success, "straight: {expected:#?}");
        ensure!(said.success, "through the proxy: {said:#?}");
        ensure!(!said.stdout.is_empty(), "said nothing");
        let pairs = expected.stdout.lines().zip(said.stdout.lines());
        for (expected, said) in pairs {
            ensure!(said == expected, "\nthrough: {said}\nstraight: {expected}");
        }
        ensure!(
            said.stdout == expected.stdout,
            "{said:#?} but {expected:#?}"
        );
        let requests = self.requests().await? - before;
        ensure!(requests > 0.0, "nothing went through the proxy");
        Ok(said.stdout)
    }
}

/// Runs a program to its end.
pub(crate) async fn run(program: &Path, arguments: &[String]) -> Result<Ran> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(RUN, command.output())
        .await
        .with_context(|| format!("{} {arguments:?} did not end", program.display()))??;
    Ok(Ran {
        success: output.status.success(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
