//! A small cluster's life and a storm, through Spillways in front of model apiservers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use load_tests::apiserver::{Certified, Costs, Model, Options, Running};
use load_tests::control_plane::{
    ApiClient, Auth, ClientOptions, Credentials, Protocol, SERVER_NAME,
};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// How long a Spillway may take to be up.
const START: Duration = Duration::from_secs(60);
/// Clients of the storm at each Spillway, one LIST under way each.
const STORM: usize = 12;
/// Between two requests of everybody else.
const PAUSE: Duration = Duration::from_millis(100);
/// Moves some of them, and would refuse the storm.
const POLICY: &str = "\
    rules:\n  - { name: readers, class: bulk, when: { service_accounts: [monitoring/reader] } }\n\
    limits:\n  - { name: no-storm, deny: true, when: { service_accounts: [monitoring/telemetry] } }\n";

/// A Spillway process in front of a model of its own, in one mode.
#[derive(Debug)]
pub(crate) struct Site {
    model: Running,
    _child: Child,
    file: PathBuf,
    config: String,
    main: SocketAddr,
    reserved: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Site {
    /// Starts both; everything they need is in `dir`, but the audit log.
    pub(crate) async fn start(dir: &Path, mode: &str, audit: &Path) -> Result<Self> {
        let dir = dir.join(mode);
        std::fs::create_dir_all(&dir)?;
        let model = Model::start(Options {
            // Dear enough that a dozen clients are a storm, and that the machine itself has little to do.
            costs: Costs::default().scaled(10.0),
            memory_limit: 1 << 40,
            ..Options::new(&dir)
        })?;
        model.seed("pods", &["ns-a", "ns-b"], 400, 3000)?;
        let config = format!(
            "pki: {}\n\
             listen: {{ main: [\"127.0.0.1:0\"], reserved: [\"127.0.0.1:0\"], admin: \"127.0.0.1:0\", workers: 1 }}\n\
             upstream: {{ address: \"{}\" }}\n\
             admission: {{ mode: {mode}, queue: {{ short_deadline: 100ms, long_deadline: 250ms }}, limits: [{{ name: strangers, when: {{ sources: [anonymous] }}, rate: 1/m }}] }}\n\
             log: {{ audit: {{ file: {} }} }}\n\
             admin: {{ socket: {} }}\n\
             reserved: {{ check: {{ interval: 1s }} }}\n",
            model.pki_dir().display(),
            model.server().trim_start_matches("https://"),
            audit.display(),
            dir.join("admin.sock").display(),
        );
        let file = dir.join("spillway.yaml");
        std::fs::write(&file, &config)?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_load-tests"))
            .args(["spillway", "run", "--exit-on-stdin-close", "--config"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting Spillway")?;
        let mut log = BufReader::new(child.stderr.take().context("no log")?).lines();
        let up = async {
            let mut said = Vec::new();
            while let Some(line) = log.next_line().await? {
                if line.contains("spillway is up") {
                    return Ok(line);
                }
                said.push(line);
            }
            anyhow::bail!("Spillway ended: {said:#?}")
        };
        let line = tokio::time::timeout(START, up).await??;
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        // main, reserved, admin: as the line says them.
        let mut found = line
            .split(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != ':')
            .filter_map(|word| word.parse().ok());
        let mut next = || found.next().with_context(|| line.clone());
        Ok(Self {
            main: next()?,
            reserved: next()?,
            admin: next()?,
            model,
            _child: child,
            file,
            config,
        })
    }

    fn client(&self, address: SocketAddr, auth: Auth) -> Result<ApiClient> {
        Ok(ApiClient::new(ClientOptions {
            server: format!("https://{address}"),
            server_name: SERVER_NAME.to_owned(),
            ca_pem: std::fs::read_to_string(self.model.pki_dir().join("ca.crt"))?,
            auth,
            protocol: Protocol::Negotiated,
        })?)
    }

    fn certificate(&self, user: &str, group: &str) -> Result<Auth> {
        let Certified { certificate, key } = self.model.client_certificate(user, &[group])?;
        Ok(Auth::Certificate(Credentials {
            cert_pem: certificate,
            key_pem: key,
        }))
    }

    /// Lets everybody begin; they go on until the set is dropped.
    pub(crate) fn live(&self, tasks: &mut JoinSet<()>) -> Result<()> {
        let token = |account| self.model.token("monitoring", account).map(Auth::Token);
        // One tenant with many connections, as an agent on every node.
        for _ in 0..STORM {
            let client = self.client(self.main, token("telemetry")?)?;
            tasks.spawn(again(client, "/api/v1/pods", Duration::from_millis(5)));
        }
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-0";
        let node = self.certificate("system:node:node-0", "system:nodes")?;
        let people = self.certificate("jane", "dev")?;
        let admin = self.certificate("admin", "system:masters")?;
        for (address, auth, path) in [
            (self.main, node.clone(), lease),
            (self.main, node, "/api/v1/nodes/node-0"),
            (self.main, people, "/api/v1/namespaces/ns-a/pods?limit=5"),
            (
                self.main,
                token("deployer")?,
                "/api/v1/namespaces/ns-a/pods/pod-0",
            ),
            (
                self.main,
                token("reader")?,
                "/api/v1/namespaces/ns-b/pods?limit=5",
            ),
            (self.main, Auth::Anonymous, "/version"),
            (self.reserved, admin, "/api/v1/namespaces"),
        ] {
            tasks.spawn(again(self.client(address, auth)?, path, PAUSE));
        }
        Ok(())
    }

    /// Writes a configuration that cannot be taken, or the good one again.
    pub(crate) fn configure(&self, good: bool) -> Result<()> {
        let text = if good {
            self.config.clone() + "# again\n"
        } else {
            "listen: nonsense\n".to_owned()
        };
        Ok(std::fs::write(&self.file, text)?)
    }

    /// Stages a policy, in shadow or for a share of the tenants.
    pub(crate) async fn stage(&self, percent: Option<&str>) -> Result<()> {
        let file = self.file.with_file_name("policy.yaml");
        std::fs::write(&file, POLICY)?;
        let output = Command::new(env!("CARGO_BIN_EXE_load-tests"))
            .args(["spillway", "policy", "stage"])
            .arg(&file)
            .args(
                percent
                    .into_iter()
                    .flat_map(|percent| ["--percent", percent]),
            )
            .arg("--socket")
            .arg(self.file.with_file_name("admin.sock"))
            .stdin(Stdio::null())
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{said}");
        Ok(())
    }

    /// The page for Prometheus.
    pub(crate) async fn metrics(&self) -> Result<String> {
        let mut stream = TcpStream::connect(self.admin).await?;
        let request = "GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        Ok(body.to_owned())
    }
}

/// The same GET again and again, honouring nothing: a storm does not.
async fn again(client: ApiClient, path: &'static str, pause: Duration) {
    loop {
        // A refusal is an answer; whatever fails is tried again.
        let _ = client.get(path).await;
        tokio::time::sleep(pause).await;
    }
}

/// The number of a sample as Prometheus writes it.
pub(crate) fn number(sample: &Value) -> f64 {
    let text = sample["value"][1].as_str().unwrap_or_default();
    text.parse().unwrap_or(f64::NAN)
}
