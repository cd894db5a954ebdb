//! A proxy in a process of its own, to be stopped, killed and replaced.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use load_tests::control_plane::{
    ApiClient, Auth, ClientOptions, ControlPlane, Protocol, SERVER_NAME, write_kubeconfig,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::proxy::{Metrics, metrics};
use super::{PATIENCE, TestDir};

/// Where [`spillway`] finds the process whose files are in `dir`.
const SOCKET: &str = "admin.sock";
/// Where [`audited`] does.
const AUDIT: &str = "audit.log";

/// A running `spillway run`; it and its successors end when this is dropped.
#[derive(Debug)]
pub(crate) struct ProxyProcess {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    pub(crate) main: SocketAddr,
    pub(crate) admin: SocketAddr,
    ca_pem: String,
}

impl ProxyProcess {
    /// Starts one; everything it needs is in `dir`, where a second one finds the
    /// first. The addresses of the first are `None`: any.
    pub(crate) async fn start(
        plane: &ControlPlane,
        dir: &TestDir,
        addresses: Option<(SocketAddr, SocketAddr)>,
    ) -> Result<Self> {
        Self::configured(plane, dir, addresses, "admin: { socket: off }\n").await
    }

    /// As [`Self::start`], with a socket for commands, an audit log, and `more` sections of the configuration.
    pub(crate) async fn with_socket(
        plane: &ControlPlane,
        dir: &TestDir,
        addresses: Option<(SocketAddr, SocketAddr)>,
        more: &str,
    ) -> Result<Self> {
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (socket, audit) = (at(SOCKET), at(AUDIT));
        let sections =
            format!("admin: {{ socket: {socket} }}\nlog: {{ audit: {{ file: {audit} }} }}\n{more}");
        Self::configured(plane, dir, addresses, &sections).await
    }

    async fn configured(
        plane: &ControlPlane,
        dir: &TestDir,
        addresses: Option<(SocketAddr, SocketAddr)>,
        more: &str,
    ) -> Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (main, admin) = addresses.unwrap_or((any, any));
        let file = dir.path().join("spillway.yaml");
        let text = format!(
            "pki: {}\n\
             listen: {{ main: [\"{main}\"], reserved: [], admin: \"{admin}\", workers: 2, handover: {} }}\n\
             upstream: {{ address: \"{}\" }}\n\
             {more}",
            plane.pki_dir().display(),
            dir.path().join("handover.sock").display(),
            plane.server().trim_start_matches("https://"),
        );
        std::fs::write(&file, text).context("writing the configuration")?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_load-tests"))
            .args(["spillway", "run", "--exit-on-stdin-close", "--config"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting Spillway")?;
        let log = BufReader::new(child.stderr.take().context("no log")?).lines();
        let mut process = Self {
            child,
            log,
            main,
            admin,
            ca_pem: plane.ca_pem()?,
        };
        let line = process.until_line("spillway is up").await?;
        let mut found = line
            .split(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != ':')
            .filter_map(|word| word.parse().ok());
        process.main = found.next().context("no main address")?;
        process.admin = found.next().context("no admin address")?;
        Ok(process)
    }

    /// Reads its log, and that of its successors, up to a line with `text`.
    pub(crate) async fn until_line(&mut self, text: &str) -> Result<String> {
        let reading = async {
            let mut read = Vec::new();
            while let Some(line) = self.log.next_line().await? {
                if line.contains(text) {
                    return Ok(line);
                }
                read.push(line);
            }
            anyhow::bail!("the log ended without `{text}`: {read:#?}")
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        read.with_context(|| format!("no line with `{text}`"))?
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.child.id().context("it has ended")?;
        let pid = Pid::from_raw(i32::try_from(id)?).context("a process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until it has ended as it should.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = status.context("it does not end")??;
        ensure!(status.success(), "{status}");
        Ok(())
    }

    /// A client of the main lane.
    pub(crate) fn client(&self, auth: Auth) -> Result<ApiClient> {
        Ok(ApiClient::new(ClientOptions {
            server: format!("https://{}", self.main),
            server_name: SERVER_NAME.to_owned(),
            ca_pem: self.ca_pem.clone(),
            auth,
            protocol: Protocol::Negotiated,
        })?)
    }

    /// All metrics, now.
    pub(crate) async fn metrics(&self) -> Result<Metrics> {
        metrics(self.admin).await
    }

    /// Writes a kubeconfig for the main lane.
    pub(crate) fn kubeconfig(&self, path: &Path, auth: &Auth) -> Result<()> {
        let server = format!("https://{}", self.main);
        Ok(write_kubeconfig(
            path,
            &server,
            Some(SERVER_NAME),
            &self.ca_pem,
            auth,
        )?)
    }
}

/// Runs `spillway arguments…` against the process whose files are in `dir`; the JSON it prints.
pub(crate) async fn spillway(dir: &TestDir, arguments: &[&str]) -> Result<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_load-tests"))
        .arg("spillway")
        .args(arguments)
        .arg("--socket")
        .arg(dir.path().join(SOCKET))
        .args(["-o", "json"])
        .stdin(Stdio::null())
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What is in the audit log of the process whose files are in `dir`.
pub(crate) fn audited(dir: &TestDir) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.path().join(AUDIT)).unwrap_or_default();
    let lines = text.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}
