//! A proxy in a process of its own, to be stopped, killed and replaced.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use load_tests::control_plane::{Auth, ControlPlane, SERVER_NAME, write_kubeconfig};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use super::{PATIENCE, TestDir};

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
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (main, admin) = addresses.unwrap_or((any, any));
        let file = dir.path().join("spillway.yaml");
        let text = format!(
            "pki: {}\n\
             listen: {{ main: [\"{main}\"], reserved: [], admin: \"{admin}\", workers: 2, handover: {} }}\n\
             admin: {{ socket: off }}\n\
             upstream: {{ address: \"{}\" }}\n",
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
