//! What is being protected: the model, a real control plane, or a cluster that
//! exists already.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Deserialize;

use crate::control_plane::{
    ApiClient, Auth, ClientOptions, ControlPlane, Kubeconfig, Options, Protocol, SERVER_NAME, Who,
};

/// How long the model may take to be ready, seeded included.
const READY: Duration = Duration::from_secs(60);

/// Simulated memory of the model, bytes. About as many full LISTs fit into it
/// as its stand-in for Priority and Fairness lets in at once, so that it dies of
/// a storm as small apiservers do.
const MODEL_MEMORY: &str = "1GiB";

/// Pods per namespace.
pub(crate) const PER_NAMESPACE: usize = 200;

/// What the model logs when it dies.
const DEATH: &str = "ran out of memory";

/// Where a server is reached and how it is known.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// `https://host:port`
    pub(crate) server: String,
    /// The name its certificate is verified by.
    pub(crate) server_name: String,
    /// The authority it is verified with, PEM.
    pub(crate) ca_pem: String,
}

impl Endpoint {
    /// The same cluster behind another address.
    pub(crate) fn at(&self, address: impl std::fmt::Display) -> Self {
        Self {
            server: format!("https://{address}"),
            ..self.clone()
        }
    }

    /// A client with a connection of its own.
    pub(crate) fn client(&self, auth: &Auth) -> anyhow::Result<ApiClient> {
        Ok(ApiClient::new(ClientOptions {
            server: self.server.clone(),
            server_name: self.server_name.clone(),
            ca_pem: self.ca_pem.clone(),
            auth: auth.clone(),
            protocol: Protocol::Negotiated,
        })?)
    }

    /// `host:port`
    pub(crate) fn address(&self) -> anyhow::Result<String> {
        let uri: http::Uri = self.server.parse().context("the server's URL")?;
        let authority = uri.authority().context("the server's URL has no host")?;
        Ok(match authority.port() {
            Some(_) => authority.to_string(),
            None => format!("{authority}:443"),
        })
    }
}

enum Backend {
    Model(Process),
    Real(Box<ControlPlane>),
    Existing,
}

/// A running upstream; dropping it stops it, unless it existed before.
pub(crate) struct Upstream {
    backend: Backend,
    pub(crate) endpoint: Endpoint,
    /// Who may do everything.
    pub(crate) admin: Auth,
    /// Who may do everything as an operator, by `kubeadm:cluster-admins`.
    pub(crate) operator: Auth,
    /// Directory with the certificates, as kubeadm lays them out.
    pub(crate) pki: PathBuf,
    /// One line on what it is.
    pub(crate) label: String,
    /// Cores it computes on; `None` when that is unknown.
    pub(crate) cores: Option<usize>,
    /// The cores this process had before it made room.
    affinity: Option<CpuSet>,
}

impl Upstream {
    /// Starts the model as a child process, in `dir`, with `pods` of `bytes` each
    /// in it.
    pub(crate) fn model(dir: &Path, pods: usize, bytes: usize) -> anyhow::Result<Self> {
        let process = Process::model(dir, pods, bytes)?;
        let admin = Kubeconfig::read(&dir.join("super-admin.conf"))?;
        let operator = Kubeconfig::read(&dir.join("admin.conf"))?;
        Ok(Self {
            endpoint: Endpoint {
                server: process.server.clone(),
                server_name: SERVER_NAME.to_owned(),
                ca_pem: admin.ca_pem,
            },
            backend: Backend::Model(process),
            admin: admin.auth,
            operator: operator.auth,
            pki: dir.join("pki"),
            label: format!(
                "the model apiserver, 1 simulated core, {MODEL_MEMORY} of simulated memory"
            ),
            cores: Some(1),
            affinity: None,
        })
    }

    /// Starts a real control plane in `dir`. With two cores or more it gets the
    /// first to itself, and this thread and what it starts the others: so call
    /// it before there are other threads.
    pub(crate) fn kube_apiserver(dir: &Path) -> anyhow::Result<Self> {
        let own = sched_getaffinity(None).context("own affinity")?;
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|i| own.is_set(*i)).collect();
        let pinned = match cores.as_slice() {
            [first, _, ..] => Some(*first),
            _ => None,
        };
        let plane = ControlPlane::start(Options {
            pin_to_core: pinned,
            dir: Some(dir.to_owned()),
            ..Options::default()
        })?;
        let mut label = format!("a real kube-apiserver {} with etcd", plane.version());
        if let Some(first) = pinned {
            let mut rest = own;
            rest.unset(first);
            sched_setaffinity(None, &rest).context("leaving a core to the apiserver")?;
            label.push_str(&format!(
                ", alone on core {first}; clients and Spillway on {} other(s)",
                cores.len() - 1
            ));
        } else {
            label.push_str(", sharing one core with clients and Spillway");
        }
        Ok(Self {
            endpoint: Endpoint {
                server: plane.server().to_owned(),
                server_name: SERVER_NAME.to_owned(),
                ca_pem: plane.ca_pem()?,
            },
            admin: Kubeconfig::read(&plane.kubeconfig(Who::SuperAdmin))?.auth,
            operator: Kubeconfig::read(&plane.kubeconfig(Who::Admin))?.auth,
            pki: plane.pki_dir(),
            backend: Backend::Real(Box::new(plane)),
            label,
            cores: Some(1),
            affinity: pinned.map(|_| own),
        })
    }

    /// A cluster that exists already; `dir` is for files of our own about it.
    pub(crate) fn existing(url: &str, kubeconfig: &Path, dir: &Path) -> anyhow::Result<Self> {
        let config = Kubeconfig::read(kubeconfig)?;
        let uri: http::Uri = url.parse().with_context(|| format!("{url}: not a URL"))?;
        ensure!(
            uri.scheme_str() == Some("https"),
            "{url}: only https is possible"
        );
        let host = uri.host().with_context(|| format!("{url}: no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            backend: Backend::Existing,
            endpoint: Endpoint {
                server: url.trim_end_matches('/').to_owned(),
                server_name: config.server_name.unwrap_or_else(|| host.to_owned()),
                ca_pem: config.ca_pem,
            },
            admin: config.auth.clone(),
            operator: config.auth,
            pki: dir.join("pki"),
            label: format!("the cluster at {url}"),
            cores: None,
            affinity: None,
        })
    }

    /// Whether it was there before us, and so has no authority we could sign
    /// with.
    pub(crate) fn is_existing(&self) -> bool {
        matches!(self.backend, Backend::Existing)
    }

    /// Whether it is the model.
    pub(crate) fn is_model(&self) -> bool {
        matches!(self.backend, Backend::Model(_))
    }

    /// This cluster behind a Spillway. In front of a cluster whose authority is
    /// not ours it serves with a certificate of its own.
    pub(crate) fn behind(&self, address: std::net::SocketAddr) -> Endpoint {
        let mut endpoint = self.endpoint.at(address);
        if self.is_existing() {
            let own = std::fs::read_to_string(self.pki.join("serving.crt"));
            endpoint.ca_pem.push_str(&own.unwrap_or_default());
        }
        endpoint
    }

    /// How often the model has run out of memory so far.
    pub(crate) fn deaths(&self) -> u64 {
        match &self.backend {
            Backend::Model(process) => {
                let said = std::fs::read_to_string(&process.log).unwrap_or_default();
                said.lines().filter(|line| line.contains(DEATH)).count() as u64
            }
            Backend::Real(_) | Backend::Existing => 0,
        }
    }

    /// Process of a real one that was started here.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.backend {
            Backend::Real(plane) => plane.pid(),
            Backend::Model(_) | Backend::Existing => None,
        }
    }

    /// Stops a real one that was started here, and starts it again after `away`. Blocks this task's thread while it stops
    /// and starts.
    pub(crate) async fn fail(&mut self, away: Duration) -> anyhow::Result<()> {
        let affinity = self.affinity;
        let Backend::Real(plane) = &mut self.backend else {
            bail!("only a kube-apiserver that was started here is stopped");
        };
        tokio::task::block_in_place(|| plane.stop());
        tokio::time::sleep(away).await;
        tokio::task::block_in_place(|| relaunch(plane, affinity))
    }

    /// Starts it again if its process has ended; whether it had.
    pub(crate) fn revive(&mut self) -> anyhow::Result<bool> {
        match &mut self.backend {
            Backend::Model(process) => {
                if process.is_running() {
                    return Ok(false);
                }
                bail!(
                    "the model apiserver has ended; its log: {}",
                    process.log.display()
                )
            }
            Backend::Real(plane) => {
                let gone = plane
                    .pid()
                    .is_none_or(|pid| !Path::new("/proc").join(pid.to_string()).exists());
                if !gone {
                    return Ok(false);
                }
                relaunch(plane, self.affinity)?;
                Ok(true)
            }
            Backend::Existing => Ok(false),
        }
    }
}

/// Starts a real one anew, on a thread that may use the apiserver's core, too.
fn relaunch(plane: &mut ControlPlane, affinity: Option<CpuSet>) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                if let Some(affinity) = affinity {
                    sched_setaffinity(None, &affinity)
                        .context("taking the apiserver's core back")?;
                }
                plane.restart().context("starting the apiserver again")
            })
            .join()
            .unwrap_or_else(|_| bail!("the thread that restarts it panicked"))
    })
}

/// A child process that ends with us.
struct Process {
    child: Child,
    _lifeline: Option<ChildStdin>,
    server: String,
    log: PathBuf,
}

#[derive(Deserialize)]
struct Ready {
    server: String,
}

impl Process {
    fn model(dir: &Path, pods: usize, bytes: usize) -> anyhow::Result<Self> {
        let namespaces = pods.div_ceil(PER_NAMESPACE);
        let log = dir.join("apiserver.log");
        let mut child = Command::new(std::env::current_exe().context("own program")?)
            .args(["apiserver", "--exit-on-stdin-close"])
            .args(["--memory-limit", MODEL_MEMORY])
            .args(["--objects", &format!("pods={pods}x{bytes}@{namespaces}")])
            .arg("--dir")
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).with_context(|| log.display().to_string())?)
            .spawn()
            .context("starting the model apiserver")?;
        let lifeline = child.stdin.take();
        let answers = child.stdout.take();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            if let Some(answers) = answers
                && BufReader::new(answers).read_line(&mut line).is_ok()
            {
                let _ = sender.send(line);
            }
        });
        let mut process = Self {
            child,
            _lifeline: lifeline,
            server: String::new(),
            log,
        };
        let line = lines.recv_timeout(READY).unwrap_or_default();
        let ready: Ready = serde_json::from_str(&line).with_context(|| {
            format!(
                "the model apiserver did not start; its log: {}",
                process.log.display()
            )
        })?;
        process.server = ready.server;
        Ok(process)
    }

    fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// Ends a child of ours and waits for it.
pub(super) fn stop(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}
