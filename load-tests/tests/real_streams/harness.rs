//! A pod to stream with, and every way to reach it.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use load_tests::control_plane::{
    self, Auth, ControlPlane, KeyAlgorithm, Kubeconfig, Options, SERVER_NAME, Subject,
    TokenOptions, Who, write_kubeconfig,
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::{HOUR, Kubectl, PATIENCE, Proxy, Raw, RawAnswer, TestDir, unique, until};

const NODE: &str = "worker";
const NAMESPACE: &str = "streams";

/// At this level kubectl logs when WebSocket did not work and it falls back to
/// SPDY, which would otherwise pass for a success.
pub(crate) const LOGGING: &str = "-v=4";

/// For a whole session, of which some move megabytes on a busy machine.
pub(crate) const SESSION: Duration = Duration::from_secs(180);

/// How kubectl frames the streams of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    WebSocket,
    Spdy,
}

/// One way to the pod: straight or through the proxy, as whom, and how.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) name: String,
    pub(crate) proxied: bool,
    pub(crate) protocol: Protocol,
    kubeconfig: PathBuf,
}

/// A pod of a test's own with a proxy of its own before the shared control
/// plane.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) pod: String,
    // `None` once it was stopped.
    proxy: Option<Proxy>,
    pub(crate) ways: Vec<Way>,
    kubectl: Kubectl,
    dir: TestDir,
    pub(crate) plane: Arc<ControlPlane>,
}

/// What a run of kubectl said, without what it logged about its own working.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    /// Whether WebSocket was refused and kubectl tried SPDY.
    pub(crate) fell_back: bool,
}

impl Said {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
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

impl Streams {
    /// With a proxy of the default configuration.
    pub(crate) async fn start() -> Result<Option<Self>> {
        Self::start_with(|plane, _| Proxy::before(plane)).await
    }

    /// With the proxy `start` starts; it gets a directory of the test's own.
    pub(crate) async fn start_with(
        start: impl FnOnce(&ControlPlane, &TestDir) -> Result<Proxy>,
    ) -> Result<Option<Self>> {
        let Some(kubectl) = Kubectl::find()? else {
            return Ok(None);
        };
        let Some(plane) = plane() else {
            return Ok(None);
        };
        let dir = TestDir::new()?;
        let mut streams = Self {
            pod: format!("pod-{}", unique()),
            proxy: Some(start(&plane, &dir)?),
            ways: Vec::new(),
            kubectl,
            dir,
            plane,
        };
        let plane = &streams.plane;
        plane.run_pod(NAMESPACE, &streams.pod, NODE).await?;
        let admin = Kubeconfig::read(&plane.kubeconfig(Who::Admin))?.auth;
        let account = account(plane).await?;
        for (who, auth) in [("admin", admin), ("account", account)] {
            for proxied in [false, true] {
                let place = if proxied { "proxied" } else { "straight" };
                let kubeconfig = streams.dir.path().join(format!("{place}-{who}.conf"));
                if proxied {
                    streams.proxy()?.kubeconfig(&kubeconfig, &auth)?;
                } else {
                    let ca = plane.ca_pem()?;
                    let name = Some(SERVER_NAME);
                    write_kubeconfig(&kubeconfig, plane.server(), name, &ca, &auth)?;
                }
                for protocol in [Protocol::WebSocket, Protocol::Spdy] {
                    streams.ways.push(Way {
                        name: format!("{place}, {who}, {protocol:?}"),
                        proxied,
                        protocol,
                        kubeconfig: kubeconfig.clone(),
                    });
                }
            }
        }
        Ok(Some(streams))
    }

    /// The four ways through the proxy: for what need not be tried
    /// in all eight.
    pub(crate) fn through_the_proxy(&self) -> impl Iterator<Item = &Way> + Clone {
        self.ways.iter().filter(|way| way.proxied)
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// A command line of kubectl.
    pub(crate) fn command(&self, way: &Way, arguments: &[&str]) -> Command {
        let options = ["--namespace", NAMESPACE];
        let mut command = self
            .kubectl
            .command(&way.kubeconfig, &[&options[..], arguments].concat());
        for (name, value) in way.environment() {
            command.env(name, value);
        }
        command.stdin(Stdio::piped());
        command
    }

    /// Runs kubectl to its end with `input` on its standard input.
    ///
    /// # Errors
    /// When it does not end, and when it fell back to another protocol than the
    /// one to be tried.
    pub(crate) async fn run(&self, way: &Way, arguments: &[&str], input: &[u8]) -> Result<Said> {
        let said = self.run_by_any_protocol(way, arguments, input).await?;
        ensure!(!said.fell_back, "no {:?}: {}", way.protocol, way.name);
        Ok(said)
    }

    /// As [`Streams::run`], but kubectl may fall back to SPDY.
    pub(crate) async fn run_by_any_protocol(
        &self,
        way: &Way,
        arguments: &[&str],
        input: &[u8],
    ) -> Result<Said> {
        let arguments = [&[LOGGING], arguments].concat();
        let mut child = self.command(way, &arguments).spawn()?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        let writing = async {
            // It need not read it all.
            let _ = stdin.write_all(input).await;
            drop(stdin);
        };
        let ((), output) = tokio::time::timeout(SESSION, async {
            tokio::join!(writing, child.wait_with_output())
        })
        .await
        .with_context(|| format!("kubectl {arguments:?} did not end: {}", way.name))?;
        let output = output?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let (log, stderr): (Vec<&str>, Vec<&str>) = stderr.lines().partition(|line| is_log(line));
        Ok(Said {
            code: output.status.code(),
            stdout: output.stdout,
            stderr: stderr.join("\n"),
            fell_back: fell_back(&log.join("\n")),
        })
    }

    /// `kubectl exec`, without a terminal.
    pub(crate) async fn exec(&self, way: &Way, command: &[&str], input: &[u8]) -> Result<Said> {
        let arguments = [&["exec", "-i", &self.pod, "--"], command].concat();
        self.run(way, &arguments, input).await
    }

    /// A session of `kubectl exec -- cat`, open until its input ends.
    pub(crate) async fn open(&self, way: &Way) -> Result<Open> {
        let mut child = self
            .command(way, &["exec", "-i", &self.pod, "--", "cat"])
            .stderr(Stdio::null())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut open = Open { child, lines };
        open.says("open").await.context(way.name.clone())?;
        Ok(open)
    }

    /// An exec session through the proxy on a connection of its own, by
    /// WebSocket and without kubectl, and the answer that began it.
    pub(crate) async fn upgraded(&self, query: &str) -> Result<(Raw, RawAnswer)> {
        let admin = self
            .plane
            .client_certificate("root", &["system:masters"], HOUR)?;
        let mut connection = self.proxy()?.raw(Some(&admin)).await?;
        let request = format!(
            "GET /api/v1/namespaces/{NAMESPACE}/pods/{}/exec?{query}&stdout=true HTTP/1.1\r\n\
             Host: kubernetes\r\n\
             Connection: Upgrade\r\n\
             Upgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
            self.pod
        );
        let answer = connection.ask(&request).await?;
        Ok((connection, answer))
    }

    /// How many sessions of a kind (`exec`, `portforward`, `logs`) of the test's
    /// pod there are where they end, in the kubelet.
    pub(crate) async fn at_the_kubelet(&self, kind: &str) -> Result<usize> {
        let straight = self.ways.iter().find(|way| !way.proxied);
        let straight = straight.context("no straight way")?;
        let said = self.exec(straight, &["sessions"], b"").await?.text();
        let line = said.lines().find_map(|line| line.strip_prefix(kind));
        let count: usize = line
            .with_context(|| format!("no {kind} in {said:?}"))?
            .trim()
            .parse()?;
        // This question is itself one.
        Ok(if kind == "exec" { count - 1 } else { count })
    }

    /// Requests the proxy has under way in its main lane.
    pub(crate) async fn in_flight(&self) -> Result<f64> {
        self.metric("spillway_lane_in_flight", &["lane=\"main\""])
            .await
    }

    /// The sum of a metric of the proxy; see `Metrics::sum`.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        Ok(self.proxy()?.metrics().await?.sum(name, labels))
    }

    fn proxy(&self) -> Result<&Proxy> {
        self.proxy.as_ref().context("the proxy was stopped")
    }

    /// Asks the proxy to stop; it does so in its own time.
    pub(crate) fn stop_the_proxy(&mut self) {
        self.proxy = None;
    }

    /// Waits until there are exactly so many sessions of a kind at the kubelet
    /// and requests in the proxy.
    pub(crate) async fn are_open(&self, kind: &str, sessions: usize, requests: usize) {
        until("the sessions are open, and no others", async || {
            let there = self.at_the_kubelet(kind).await.ok()?;
            let here = self.in_flight().await.ok()?;
            (there == sessions && here == requests as f64).then_some(())
        })
        .await;
    }

    /// Waits until neither the proxy nor the kubelet has anything left of the
    /// sessions there were.
    pub(crate) async fn nothing_is_left(&self) {
        until("the kubelet has no session left", async || {
            for kind in ["exec", "attach", "portforward", "logs"] {
                if self.at_the_kubelet(kind).await.ok()? > 0 {
                    return None;
                }
            }
            Some(())
        })
        .await;
        until("the proxy has no request left", async || {
            (self.in_flight().await.ok()? == 0.0).then_some(())
        })
        .await;
    }
}

impl Way {
    /// What makes kubectl take the protocol.
    pub(crate) fn environment(&self) -> [(&'static str, String); 3] {
        let websockets = (self.protocol == Protocol::WebSocket).to_string();
        [
            ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets.clone()),
            ("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets),
            ("KUBECONFIG", self.kubeconfig.display().to_string()),
        ]
    }
}

/// A session that sends back lines.
#[derive(Debug)]
pub(crate) struct Open {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Open {
    /// Sends a line and waits until it is back.
    pub(crate) async fn says(&mut self, word: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("the input is closed")?;
        stdin.write_all(format!("{word}\n").as_bytes()).await?;
        let mut line = String::new();
        let reading = tokio::time::timeout(PATIENCE, self.lines.read_line(&mut line));
        reading.await.context("the line did not come back")??;
        ensure!(line.trim_end() == word, "{line:?} instead of {word:?}");
        Ok(())
    }

    /// Ends the input and waits for the session to end as it should.
    pub(crate) async fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        let ending = async {
            self.lines.read_to_string(&mut rest).await?;
            self.child.wait().await
        };
        let status = tokio::time::timeout(PATIENCE, ending).await;
        let status = status.context("the session did not end")??;
        ensure!(
            status.success() && rest.is_empty(),
            "{status}, after {rest:?}"
        );
        Ok(())
    }

    /// Leaves without a word.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// A service account that may do what an editor may.
async fn account(plane: &ControlPlane) -> Result<Auth> {
    let name = "operator";
    let options = TokenOptions::default();
    let token = plane.service_account_token(NAMESPACE, name, &options);
    let auth = Auth::Token(token.await?);
    let subject = Subject::ServiceAccount {
        namespace: NAMESPACE.to_owned(),
        name: name.to_owned(),
    };
    plane.bind_cluster_role(&subject, "edit").await?;
    let client = plane.client_with(auth.clone())?;
    for (verb, subresource) in [
        ("create", "exec"),
        ("create", "portforward"),
        ("get", "log"),
    ] {
        let question = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": {
                "namespace": NAMESPACE, "verb": verb, "resource": "pods", "subresource": subresource,
            } },
        });
        until(
            "the server's authorizer knows the role binding",
            async || {
                let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
                let answer = client.post(path, &question).await.ok()?.json();
                (answer.pointer("/status/allowed")? == true).then_some(())
            },
        )
        .await;
    }
    Ok(auth)
}

/// Whether kubectl logged a line: klog's start with the level and the date.
fn is_log(line: &str) -> bool {
    line.strip_prefix(['I', 'W', 'E'])
        .is_some_and(|rest| rest.len() > 4 && rest.bytes().take(4).all(|c| c.is_ascii_digit()))
}

/// Whether kubectl logged that it gave up WebSocket for SPDY.
pub(crate) fn fell_back(log: &str) -> bool {
    log.to_ascii_lowercase().contains("fallback")
}

/// So many bytes, the same each time, that no compression makes fewer.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(length as u64);
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

/// What the pod's `sha256` says of bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("{hex} {}\n", bytes.len())
}
