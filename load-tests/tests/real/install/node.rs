//! A control-plane node in small, with what of a kubelet matters here: whoever changes a manifest in its folder changes
//! which kube-apiserver and which Spillway run.
//!
//! Two loopback addresses stand for a node's: 127.0.0.1 for its loopback, 127.0.0.2 for its address. A kube-apiserver
//! without `--bind-address` listens on the latter here, and not on every address, because a test stays on this host.

use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use load_tests::control_plane::{self, ControlPlane, KeyAlgorithm, Options};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::TestDir;

/// What stands for the node's address.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What the server publishes as its endpoint: it refuses to publish a loopback address.
pub(crate) const PUBLISHED: &str = "192.0.2.1";

/// How often the folder is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// kubeadm 1.37.1 wrote it, for a node 192.0.2.10.
const MANIFEST: &str = include_str!("../../../../proxy/server/tests/install/kubeadm-1.37.yaml");

/// The node; dropping it stops everything on it.
pub(crate) struct Node {
    pub(crate) dir: Arc<TestDir>,
    pub(crate) port: u16,
    pub(crate) admin: SocketAddr,
    pub(crate) ca_pem: String,
    switches: Arc<Switches>,
    kubelet: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Switches {
    ended: AtomicBool,
    /// Spillway is killed and not started again.
    broken: AtomicBool,
}

impl Node {
    /// A node as kubeadm leaves it: kube-apiserver by itself, on the node's address. `None` where there is none to start.
    pub(crate) fn start() -> Result<Option<Self>> {
        let options = Options {
            bind: Some(NODE),
            extra_sans: vec![NODE.to_string()],
            key_algorithm: KeyAlgorithm::EcdsaP256,
            ..Options::default()
        };
        let Some(plane) = control_plane::start_for_tests(options) else {
            return Ok(None);
        };
        let dir = Arc::new(TestDir::new()?);
        let port = plane
            .server()
            .rsplit(':')
            .next()
            .context("a port")?
            .parse()?;
        let admin = free((Ipv4Addr::LOCALHOST, 0).into())?;
        let ca_pem = plane.ca_pem()?;
        lay_out(dir.path(), &plane, port, admin)?;
        let switches = Arc::new(Switches::default());
        let kubelet = vec![
            apiserver(dir.path().to_owned(), plane, Arc::clone(&switches)),
            spillway(dir.path().to_owned(), Arc::clone(&switches)),
        ];
        Ok(Some(Self {
            dir,
            port,
            admin,
            ca_pem,
            switches,
            kubelet,
        }))
    }

    /// A kubeconfig of kubeadm, as it was when the node was made.
    pub(crate) fn kubeconfig(&self, name: &str) -> PathBuf {
        self.dir.path().join("kubernetes").join(name)
    }

    /// The node's folder of manifests.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    /// Kills Spillway and keeps it from coming back; or lets it.
    pub(crate) fn break_spillway(&self, broken: bool) {
        self.switches.broken.store(broken, Ordering::SeqCst);
    }

    /// `deploy/take-over.sh` on this node.
    pub(crate) fn take_over(&self, arguments: &[&str]) -> tokio::process::Command {
        let dir = self.dir.path();
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let mut command = tokio::process::Command::new("bash");
        command
            .arg(deploy.join("take-over.sh"))
            .args(arguments)
            .env("SPILLWAY", dir.join("spillway"))
            .env("CONFIG", dir.join("spillway.yaml"))
            .env("POD", deploy.join("static-pod.yaml"))
            .env("MANIFESTS", self.manifests())
            .env("KUBECONFIGS", dir.join("kubernetes"))
            .env("PATCHES", deploy.join("kubeadm/patches"))
            .env("STATE", dir.join("state"))
            .env("PORT", self.port.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.switches.ended.store(true, Ordering::SeqCst);
        for thread in self.kubelet.drain(..) {
            let _ = thread.join();
        }
    }
}

/// An address nobody has.
fn free(address: SocketAddr) -> Result<SocketAddr> {
    Ok(TcpListener::bind(address)?.local_addr()?)
}

fn lay_out(dir: &Path, plane: &ControlPlane, port: u16, admin: SocketAddr) -> Result<()> {
    let pki = plane.pki_dir().display().to_string();
    let (kubernetes, manifests) = (dir.join("kubernetes"), dir.join("manifests"));
    for folder in [&kubernetes, &manifests, &dir.join("bin")] {
        std::fs::create_dir(folder)?;
    }
    for name in [
        "admin.conf",
        "super-admin.conf",
        "controller-manager.conf",
        "scheduler.conf",
    ] {
        std::fs::copy(plane.dir().join(name), kubernetes.join(name))?;
    }
    let manifest = MANIFEST
        .replace("192.0.2.10", &NODE.to_string())
        .replace("6443", &port.to_string())
        .replace("/etc/kubernetes/pki", &pki);
    std::fs::write(manifests.join("kube-apiserver.yaml"), manifest)?;

    let reserved = free((NODE, 0).into())?;
    let config = format!(
        "pki: {pki}\n\
         listen: {{ main: [\"{NODE}:{port}\"], reserved: [\"{reserved}\"], admin: \"{admin}\", workers: 2, grace: 5s }}\n\
         admin: {{ socket: off }}\n\
         upstream: {{ address: \"127.0.0.1:{port}\" }}\n"
    );
    std::fs::write(dir.join("spillway.yaml"), config)?;

    // A process is called as the file it was started from.
    let binary = dir.join("bin/spillway");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_load-tests"), &binary)?;
    let script = dir.join("spillway");
    std::fs::write(
        &script,
        format!("#!/bin/sh\nexec {} spillway \"$@\"\n", binary.display()),
    )?;
    std::fs::set_permissions(&script, Permissions::from_mode(0o755))?;
    Ok(())
}

/// The flag's value in force.
fn flag<'a>(manifest: &'a str, name: &str) -> Option<&'a str> {
    let flags = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- --"));
    flags
        .filter_map(|flag| flag.strip_prefix(name)?.strip_prefix('='))
        .next_back()
}

/// Runs the kube-apiserver that the manifest describes.
fn apiserver(dir: PathBuf, mut plane: ControlPlane, switches: Arc<Switches>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let file = dir.join("manifests/kube-apiserver.yaml");
        let mut running = std::fs::read_to_string(&file).unwrap_or_default();
        while !switches.ended.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
            let Ok(manifest) = std::fs::read_to_string(&file) else {
                continue;
            };
            if manifest == running {
                continue;
            }
            let bind = flag(&manifest, "bind-address").and_then(|bind| bind.parse().ok());
            match plane.restart_at(bind.unwrap_or(NODE), Vec::new()) {
                Ok(()) => running = manifest,
                // As a kubelet: again, and again.
                Err(error) => eprintln!("kube-apiserver did not start: {error}"),
            }
        }
    })
}

/// Runs Spillway while there is a manifest of it.
fn spillway(dir: PathBuf, switches: Arc<Switches>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let manifest = dir.join("manifests/spillway.yaml");
        let mut child: Option<Child> = None;
        while !switches.ended.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
            let broken = switches.broken.load(Ordering::SeqCst);
            let wanted = manifest.exists() && !broken;
            if child
                .as_mut()
                .is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
            {
                child = None;
            }
            match (&mut child, wanted) {
                (None, true) => child = run(&dir).ok(),
                (Some(running), false) => {
                    if broken {
                        let _ = running.kill();
                    } else {
                        terminate(running);
                    }
                    let _ = running.wait();
                    child = None;
                }
                _ => {}
            }
        }
        if let Some(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
        }
    })
}

fn run(dir: &Path) -> Result<Child> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("spillway.log"))?;
    let child = Command::new(dir.join("spillway"))
        .args(["run", "--exit-on-stdin-close", "--config"])
        .arg(dir.join("spillway.yaml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    Ok(child)
}

fn terminate(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
}
