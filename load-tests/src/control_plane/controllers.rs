//! Kubernetes' own controllers, as clients of a control plane.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::{self, Process};
use super::{ControlPlane, Error, GoProgram, Kubeconfig, Who, availability, files, kubeconfig};

/// How many lines of a log an error shows.
const LOG_LINES: usize = 30;

/// A running kube-controller-manager and kube-scheduler; dropping it stops both.
/// Like every client, they reach the control plane by an address of the caller's
/// choice, such as a proxy's.
#[derive(Debug)]
pub struct Controllers {
    running: Vec<(&'static str, Process)>,
    dir: PathBuf,
}

impl Controllers {
    /// Starts both with the flags kubeadm gives them and the identities of its
    /// kubeconfigs, with `server` (`https://HOST:PORT`) for an address. Their
    /// files are in `dir`, which exists. They are not waited for: what they do
    /// shows in the cluster.
    ///
    /// # Errors
    /// [`Error::Absent`] without `go` to build them with; otherwise what failed.
    pub fn start(plane: &ControlPlane, server: &str, dir: &Path) -> Result<Self, Error> {
        let program = availability::go_program(GoProgram::Controllers)?;
        let mut controllers = Self {
            running: Vec::new(),
            dir: dir.to_owned(),
        };
        for (name, who) in [
            ("kube-controller-manager", Who::ControllerManager),
            ("kube-scheduler", Who::Scheduler),
        ] {
            let own = Kubeconfig::read(&plane.kubeconfig(who))?;
            let path = dir.join(who.file_name());
            let server_name = own.server_name.as_deref();
            kubeconfig::write_kubeconfig(&path, server, server_name, &own.ca_pem, &own.auth)?;
            let mut command = Command::new(&program);
            command.arg(name).args(common_flags(&path));
            if who == Who::ControllerManager {
                command.args(manager_flags(&plane.pki_dir()));
            }
            let log = files::append(&controllers.log(name))?;
            let errors = log.try_clone().map_err(files::failed(dir))?;
            command.stdin(Stdio::piped()).stdout(log).stderr(errors);
            let mut child = process::spawn(&mut command, None)?;
            // They end with standard input, and so with us.
            let lifeline = child.stdin.take();
            let process = Process::new(vec![child], lifeline);
            controllers.running.push((name, process));
        }
        Ok(controllers)
    }

    /// What one of them logged: `kube-controller-manager` or `kube-scheduler`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Whether both still run. Either ends itself when it loses its lease.
    ///
    /// # Errors
    /// [`Error::Start`] with the end of the log of the one that does not.
    pub fn check(&mut self) -> Result<(), Error> {
        for (name, process) in &mut self.running {
            if let Some(problem) = process.ended() {
                return Err(Error::Start {
                    program: (*name).to_owned(),
                    problem,
                    log: files::tail(&self.dir.join(format!("{name}.log")), LOG_LINES),
                });
            }
        }
        Ok(())
    }
}

/// kubeadm's flags of both. They serve nothing here, so that two of them do not
/// want the same port.
fn common_flags(kubeconfig: &Path) -> Vec<String> {
    let mut flags: Vec<String> = ["", "authentication-", "authorization-"]
        .iter()
        .map(|purpose| format!("--{purpose}kubeconfig={}", kubeconfig.display()))
        .collect();
    flags.extend(["--leader-elect=true", "--secure-port=0"].map(str::to_owned));
    flags
}

fn manager_flags(pki: &Path) -> Vec<String> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.join(name).display());
    vec![
        file("client-ca-file", "ca.crt"),
        file("cluster-signing-cert-file", "ca.crt"),
        file("cluster-signing-key-file", "ca.key"),
        file("requestheader-client-ca-file", "front-proxy-ca.crt"),
        file("root-ca-file", "ca.crt"),
        file("service-account-private-key-file", "sa.key"),
        "--cluster-name=kubernetes".to_owned(),
        "--controllers=*,bootstrapsigner,tokencleaner".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
    ]
}
