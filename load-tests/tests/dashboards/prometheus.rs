//! A real Prometheus on loopback, for as long as a test lasts.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::repository;

/// How long it may take to listen.
const START: Duration = Duration::from_secs(60);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// A running one; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Prometheus {
    _child: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one that scrapes `targets` (instance, address) and evaluates our rules every second.
    pub(crate) async fn start(dir: &Path, targets: &[(&str, SocketAddr)]) -> Result<Self> {
        let rules = ["rules", "alerts"].map(|kind| {
            let file = format!("deploy/prometheus/spillway.{kind}.yaml");
            repository(&file).canonicalize()
        });
        let mut rule_files = Vec::new();
        for file in rules {
            rule_files.push(file?);
        }
        let scrapes: Vec<Value> = targets
            .iter()
            .map(|(name, address)| {
                serde_json::json!({ "targets": [address.to_string()], "labels": { "instance": name } })
            })
            .collect();
        let config = serde_json::json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": rule_files,
            "scrape_configs": [{ "job_name": "spillway", "static_configs": scrapes }],
        });
        let file = dir.join("prometheus.json");
        std::fs::write(&file, config.to_string())?;
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.join("tsdb").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting Prometheus")?;
        let mut log = BufReader::new(child.stderr.take().context("no log")?).lines();
        let listening = async {
            let mut said = Vec::new();
            while let Some(line) = log.next_line().await? {
                if line.contains("Listening on") {
                    let (_, address) = line.rsplit_once("address=").context("no address")?;
                    return Ok(address.trim_matches('"').parse()?);
                }
                said.push(line);
            }
            bail!("Prometheus ended: {said:#?}")
        };
        let address = tokio::time::timeout(START, listening).await??;
        // So that it never waits for somebody to read what it says.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Ok(Self {
            _child: child,
            address,
        })
    }

    /// What an expression yields now: its samples, or what is wrong with it.
    pub(crate) async fn query(&self, expr: &str) -> Result<Vec<Value>> {
        let expr = utf8_percent_encode(expr, NON_ALPHANUMERIC);
        let data = self.api(&format!("query?query={expr}")).await?;
        Ok(match &data["result"] {
            // A scalar is a pair of time and value.
            Value::Array(_) if data["resultType"] == "scalar" => vec![data["result"].clone()],
            Value::Array(samples) => samples.clone(),
            other => bail!("no result: {other}"),
        })
    }

    /// All rules with what became of their last evaluation.
    pub(crate) async fn rules(&self) -> Result<Vec<Value>> {
        let data = self.api("rules").await?;
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        Ok(rules.flatten().cloned().collect())
    }

    async fn api(&self, what: &str) -> Result<Value> {
        let asked = async {
            let mut stream = TcpStream::connect(self.address).await?;
            // HTTP/1.0, so that the answer is not in chunks and ends with the connection.
            let head = format!("GET /api/v1/{what} HTTP/1.0\r\nHost: prometheus\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(ANSWER, asked).await??;
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        let value: Value = serde_json::from_str(body).with_context(|| body.to_owned())?;
        ensure!(value["status"] == "success", "{}", value["error"]);
        Ok(value["data"].clone())
    }
}
