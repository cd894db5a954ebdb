//! Spillway as a child process, and what it says of itself.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::exposition::Exposition;
use super::upstream::{Upstream, stop};

/// How long it may take to be ready.
const READY: Duration = Duration::from_secs(20);
/// How long its metrics may take.
const SCRAPE: Duration = Duration::from_secs(2);

/// A running Spillway; dropping it stops it.
pub(crate) struct Proxy {
    child: Child,
    _lifeline: Option<ChildStdin>,
    /// The main lane.
    pub(crate) main: SocketAddr,
    /// The reserved lane.
    pub(crate) reserved: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
}

impl Proxy {
    /// Starts it in front of an upstream in a mode (`shadow`, `enforce`), with
    /// its configuration and its log in `dir`.
    pub(crate) async fn start(
        upstream: &Upstream,
        mode: &str,
        extra: &Value,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let [main, reserved, admin] = free_addresses()?;
        let mut config = json!({
            "pki": upstream.pki,
            "listen": {
                "main": [main.to_string()],
                "reserved": [reserved.to_string()],
                "admin": admin.to_string(),
            },
            "upstream": {
                "address": upstream.endpoint.address()?,
                "server_name": upstream.endpoint.server_name,
            },
            "reserved": { "check": { "enabled": "false" } },
            "admin": { "socket": "off" },
            "admission": { "mode": mode },
            "log": { "format": "text" },
        });
        merge(&mut config, extra);
        let file = dir.join(format!("spillway-{mode}.yaml"));
        // JSON is YAML.
        fs::write(&file, format!("{config:#}\n")).with_context(|| file.display().to_string())?;
        let log = dir.join(format!("spillway-{mode}.log"));
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        let mut child = Command::new(std::env::current_exe().context("own program")?)
            .args(["spillway", "run", "--exit-on-stdin-close", "--config"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("starting Spillway")?;
        let lifeline = child.stdin.take();
        let mut proxy = Self {
            child,
            _lifeline: lifeline,
            main,
            reserved,
            admin,
            log,
        };
        proxy.wait_until_ready().await?;
        Ok(proxy)
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            let ready = matches!(self.page("/readyz").await, Ok((200, _)));
            if ready {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("Spillway ended with {status}: {said}");
            }
            if Instant::now() >= deadline {
                bail!(
                    "Spillway was not ready after {READY:?}; its log: {}",
                    self.log.display()
                );
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// How to read its metrics without holding it.
    pub(crate) fn scraper(&self) -> Scraper {
        Scraper(self.admin)
    }

    /// Processor time it has used, seconds, and its resident memory, bytes.
    pub(crate) fn usage(&self) -> (Option<f64>, Option<u64>) {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default()
        };
        (cpu_seconds(&read("stat")), resident_bytes(&read("status")))
    }

    async fn page(&self, path: &str) -> anyhow::Result<(u16, String)> {
        page(self.admin, path).await
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// Reads the metrics of one Spillway.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scraper(SocketAddr);

impl Scraper {
    /// Its metrics now.
    pub(crate) async fn scrape(self) -> anyhow::Result<Exposition> {
        let (status, text) = page(self.0, "/metrics").await?;
        anyhow::ensure!(status == 200, "/metrics: status {status}");
        Ok(Exposition::parse(&text))
    }
}

async fn page(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let get = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path)
            .header(http::header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok((
            head.status.as_u16(),
            String::from_utf8_lossy(&body).into_owned(),
        ))
    };
    timeout(SCRAPE, get).await?
}

/// Three loopback ports that nobody listens on now.
fn free_addresses() -> anyhow::Result<[SocketAddr; 3]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free port");
    // Held together, so that they differ.
    let listeners = [bind()?, bind()?, bind()?];
    let [main, reserved, admin] = &listeners;
    Ok([
        main.local_addr()?,
        reserved.local_addr()?,
        admin.local_addr()?,
    ])
}

/// User and system time of `/proc/PID/stat`: its fields 14 and 15, in
/// hundredths of a second (USER_HZ).
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field, the name, may hold spaces; it ends at the last bracket.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

/// `VmRSS` of `/proc/PID/status`.
pub(crate) fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Puts the members of `extra` into `base`, object by object.
fn merge(base: &mut Value, extra: &Value) {
    match (base.as_object_mut(), extra.as_object()) {
        (Some(base), Some(extra)) => {
            for (key, value) in extra {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        _ => *base = extra.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_as_proc_writes_it() {
        let stat = "42 (spill way) S 1 1 1 0 -1 4 5 6 7 8 150 50 0 0 20 0 5 0 9 1 2";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(
            resident_bytes("VmPeak:\t 9 kB\nVmRSS:\t 12 kB\n"),
            Some(12 * 1024)
        );
        assert_eq!(cpu_seconds(""), None);
    }

    #[test]
    fn extra_settings_join_the_others() {
        let mut base = json!({"a": {"b": 1}, "c": [1]});
        merge(&mut base, &json!({"a": {"d": 2}, "c": [2]}));
        assert_eq!(base, json!({"a": {"b": 1, "d": 2}, "c": [2]}));
        merge(&mut base, &json!({}));
        assert_eq!(base["a"]["d"], 2);
    }
}
