//! A control plane from the binaries of `KUBEBUILDER_ASSETS`. What the Go
//! program does by itself (certificates, kubeconfigs, readiness, the first role
//! binding) is done here for them.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process::{self, Process, READY_TIMEOUT, Ready};
use super::{
    ApiClient, Auth, ClientOptions, Error, Kubeconfig, Options, Protocol, SERVER_NAME, Who,
    accounts, files, kubeconfig, pki,
};

/// Free ports are picked below Linux' ephemeral ones, so that no outgoing
/// connection takes the port between two runs.
const FREE_PORTS: std::ops::Range<u16> = 20_000..32_000;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) fn launch(
    binaries: &Path,
    dir: &Path,
    options: &Options,
) -> Result<(Process, Ready), Error> {
    let pki_dir = dir.join("pki");
    pki::ensure(&pki_dir, options.key_algorithm, &options.extra_sans)?;
    let port = settle_port(dir)?;
    let bind = options.bind.unwrap_or(Ipv4Addr::LOCALHOST);
    let server = format!("https://{bind}:{port}");
    write_kubeconfigs(dir, &server)?;

    let mut etcd = spawn(etcd_command(binaries, dir), dir, options)?;
    let apiserver = match spawn(
        apiserver_command(binaries, dir, port, options),
        dir,
        options,
    ) {
        Ok(apiserver) => apiserver,
        Err(error) => {
            process::stop(&mut etcd);
            return Err(error);
        }
    };
    let mut children = vec![apiserver, etcd];
    let lifeline = match watchdog(&children) {
        Ok(mut watchdog) => {
            let lifeline = watchdog.stdin.take();
            children.push(watchdog);
            lifeline
        }
        Err(error) => {
            drop(Process::new(children, None));
            return Err(error);
        }
    };
    let mut process = Process::new(children, lifeline);
    let version = in_a_runtime(wait_until_ready(dir, &mut process))?;
    Ok((process, Ready { server, version }))
}

fn spawn(mut command: Command, dir: &Path, options: &Options) -> Result<Child, Error> {
    let log = process::log_file(dir)?;
    let errors = log.try_clone().map_err(files::failed(dir))?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    process::spawn(&mut command, options.pin_to_core)
}

/// A shell that waits for this process to end and then ends the servers: they
/// do not watch their standard input themselves. A stop in order stops it last,
/// when there is nothing left for it to do.
fn watchdog(children: &[Child]) -> Result<Child, Error> {
    let script = "while read -r _; do :; done; kill \"$@\"; sleep 10; kill -9 \"$@\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "watchdog"])
        .args(children.iter().map(|child| child.id().to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    process::spawn(&mut command, None)
}

fn etcd_command(binaries: &Path, dir: &Path) -> Command {
    let mut command = Command::new(binaries.join("etcd"));
    command
        .arg("--data-dir")
        .arg(dir.join("etcd"))
        .arg(format!("--listen-client-urls={}", socket_url(dir)))
        // Must be named, must be host:port for etcd before 3.6, and is used by
        // nobody.
        .arg("--advertise-client-urls=http://127.0.0.1:2379")
        .arg("--listen-peer-urls=http://127.0.0.1:0")
        .arg("--unsafe-no-fsync")
        .arg("--quota-backend-bytes=8589934592")
        .arg("--log-level=warn");
    command
}

/// kubeadm's flags; `serverFlags` of the Go program has the same.
fn apiserver_command(binaries: &Path, dir: &Path, port: u16, options: &Options) -> Command {
    let pki = |name: &str| dir.join("pki").join(name).display().to_string();
    let mut command = Command::new(binaries.join("kube-apiserver"));
    command.args([
        format!("--advertise-address={}", pki::ADVERTISE_ADDRESS),
        "--allow-privileged=true".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        format!(
            "--bind-address={}",
            options.bind.unwrap_or(Ipv4Addr::LOCALHOST)
        ),
        format!("--client-ca-file={}", pki("ca.crt")),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--enable-bootstrap-token-auth=true".to_owned(),
        format!("--etcd-servers={}", socket_url(dir)),
        format!(
            "--kubelet-client-certificate={}",
            pki("apiserver-kubelet-client.crt")
        ),
        format!(
            "--kubelet-client-key={}",
            pki("apiserver-kubelet-client.key")
        ),
        "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname".to_owned(),
        format!("--proxy-client-cert-file={}", pki("front-proxy-client.crt")),
        format!("--proxy-client-key-file={}", pki("front-proxy-client.key")),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        format!(
            "--requestheader-client-ca-file={}",
            pki("front-proxy-ca.crt")
        ),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        format!("--secure-port={port}"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", pki("sa.pub")),
        format!("--service-account-signing-key-file={}", pki("sa.key")),
        format!("--service-cluster-ip-range={}", pki::SERVICE_SUBNET),
        format!("--tls-cert-file={}", pki("apiserver.crt")),
        format!("--tls-private-key-file={}", pki("apiserver.key")),
    ]);
    command.args(&options.extra_flags);
    command
}

fn socket_url(dir: &Path) -> String {
    format!("unix://{}", dir.join("etcd.sock").display())
}

/// The port used before in this directory, or a free one.
fn settle_port(dir: &Path) -> Result<u16, Error> {
    let file = dir.join("port");
    if let Some(port) = files::read(&file)
        .ok()
        .and_then(|text| text.trim().parse().ok())
    {
        return Ok(port);
    }
    let mut last = None;
    for _ in 0..64 {
        let port = fastrand::u16(FREE_PORTS);
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(_) => {
                files::write_private(&file, &format!("{port}\n"))?;
                return Ok(port);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(Error::System {
        action: "looking for a free port on 127.0.0.1",
        source: last.unwrap_or_else(|| std::io::Error::other("none tried")),
    })
}

fn write_kubeconfigs(dir: &Path, server: &str) -> Result<(), Error> {
    let pki_dir = dir.join("pki");
    let ca_pem = files::read(&pki_dir.join("ca.crt"))?;
    let clients: [(Who, &str, &[&str]); 4] = [
        (Who::Admin, "kubernetes-admin", &["kubeadm:cluster-admins"]),
        (
            Who::SuperAdmin,
            "kubernetes-super-admin",
            &["system:masters"],
        ),
        (
            Who::ControllerManager,
            "system:kube-controller-manager",
            &[],
        ),
        (Who::Scheduler, "system:kube-scheduler", &[]),
    ];
    for (who, common_name, groups) in clients {
        let path = dir.join(who.file_name());
        if Kubeconfig::read(&path).is_ok_and(|config| config.server == server) {
            continue;
        }
        let credentials = pki::client_certificate(&pki_dir, common_name, groups, YEAR)?;
        let auth = Auth::Certificate(credentials);
        kubeconfig::write_kubeconfig(&path, server, Some(SERVER_NAME), &ca_pem, &auth)?;
    }
    Ok(())
}

/// Waits for /readyz, does what kubeadm does first, and says which release it
/// is.
async fn wait_until_ready(dir: &Path, process: &mut Process) -> Result<String, Error> {
    let config = Kubeconfig::read(&dir.join(Who::SuperAdmin.file_name()))?;
    let client = ApiClient::new(ClientOptions {
        server: config.server,
        server_name: SERVER_NAME.to_owned(),
        ca_pem: config.ca_pem,
        auth: config.auth,
        protocol: Protocol::Negotiated,
    })?;
    let failed = |problem| process::not_started("kube-apiserver or etcd", dir, problem);
    let deadline = Instant::now() + READY_TIMEOUT;
    while !is_ready(&client).await {
        if let Some(problem) = process.ended() {
            return Err(failed(problem));
        }
        if Instant::now() >= deadline {
            return Err(failed(format!("not ready after {READY_TIMEOUT:?}")));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    accounts::bind_admins(&client).await?;
    let version = client
        .get("/version")
        .await?
        .accept("asking for the version", &[])?;
    let version = version.json();
    Ok(version["gitVersion"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

async fn is_ready(client: &ApiClient) -> bool {
    let asked = tokio::time::timeout(Duration::from_secs(2), client.get("/readyz"));
    matches!(asked.await, Ok(Ok(answer)) if answer.status == 200 && answer.json() == Value::Null)
}

/// Runs a future to its end on a thread and runtime of its own: the caller may
/// itself be in a runtime, where blocking on one is not possible.
fn in_a_runtime<T: Send>(
    future: impl Future<Output = Result<T, Error>> + Send,
) -> Result<T, Error> {
    let action = "running the client that waits for readiness";
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|source| Error::System { action, source })?
                .block_on(future)
        });
        thread.join().unwrap_or_else(|_| {
            Err(Error::System {
                action,
                source: std::io::Error::other("it panicked"),
            })
        })
    })
}
