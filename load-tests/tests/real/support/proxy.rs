//! A proxy in this process, in front of a control plane.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use config::Config;
use load_tests::control_plane::{
    ApiClient, Auth, ClientOptions, ControlPlane, Credentials, Error, Kubeconfig, Protocol,
    SERVER_NAME, Who, write_kubeconfig,
};
use proxy_server::run::{self, Running};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Frames, Raw};

/// A running proxy; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Proxy {
    running: Option<Running>,
    main: SocketAddr,
    reserved: SocketAddr,
    admin: SocketAddr,
    ca_pem: String,
}

impl Proxy {
    /// A proxy with the default configuration.
    pub(crate) fn before(plane: &ControlPlane) -> anyhow::Result<Self> {
        Self::with(plane, |_| ())
    }

    /// A proxy with a configuration that differs from the default.
    pub(crate) fn with(
        plane: &ControlPlane,
        change: impl FnOnce(&mut Config),
    ) -> anyhow::Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::with_pki(plane.pki_dir());
        config.listen.main = vec![any];
        config.listen.reserved = vec![any];
        config.listen.admin = any;
        config.listen.workers = 2;
        // Nothing of this machine, and no calls but the test's.
        config.admin.socket = None;
        config.reserved.check.enabled = false;
        let server = plane.server().trim_start_matches("https://");
        config.upstream.address = server.parse().context("the control plane's address")?;
        change(&mut config);
        Self::start(plane, config, None)
    }

    /// A proxy whose configuration is in a file, which it follows; `admission` is
    /// that section of it.
    #[allow(dead_code, reason = "for the tests of real_cluster.rs")]
    pub(crate) fn on_file(
        plane: &ControlPlane,
        file: &Path,
        admission: &str,
    ) -> anyhow::Result<Self> {
        let text = Self::text(plane, admission);
        std::fs::write(file, &text).context("writing the configuration")?;
        let config = Config::parse(&text, "the test's configuration")?;
        Self::start(plane, config, Some(file.to_owned()))
    }

    /// What such a file holds.
    #[allow(dead_code, reason = "for the tests of real_cluster.rs")]
    pub(crate) fn text(plane: &ControlPlane, admission: &str) -> String {
        format!(
            "pki: {}\n\
             listen: {{ main: [\"127.0.0.1:0\"], reserved: [\"127.0.0.1:0\"], admin: \"127.0.0.1:0\", workers: 2 }}\n\
             upstream: {{ address: \"{}\" }}\n\
             admission: {admission}\n",
            plane.pki_dir().display(),
            plane.server().trim_start_matches("https://"),
        )
    }

    fn start(plane: &ControlPlane, config: Config, file: Option<PathBuf>) -> anyhow::Result<Self> {
        let running = run::start(config, file).context("starting the proxy")?;
        let first = |addresses: &[SocketAddr]| addresses.first().copied().context("no address");
        Ok(Self {
            main: first(running.main())?,
            reserved: first(running.reserved())?,
            admin: running.admin(),
            ca_pem: plane.ca_pem()?,
            running: Some(running),
        })
    }

    /// The main lane's URL.
    pub(crate) fn server(&self) -> String {
        format!("https://{}", self.main)
    }

    /// Stops in order, and starts another on the same address.
    #[allow(dead_code, reason = "for the tests of real_clients.rs")]
    pub(crate) async fn restart(mut self, plane: &ControlPlane) -> anyhow::Result<Self> {
        let (main, running) = (self.main, self.running.take());
        tokio::task::spawn_blocking(move || drop(running)).await?;
        Self::with(plane, |config| config.listen.main = vec![main])
    }

    /// The main lane's address.
    pub(crate) fn main(&self) -> SocketAddr {
        self.main
    }

    /// The reserved lane's address.
    #[allow(dead_code, reason = "for the tests of real_cluster.rs")]
    pub(crate) fn reserved(&self) -> SocketAddr {
        self.reserved
    }

    /// A client of the main lane.
    pub(crate) fn client(&self, auth: Auth) -> Result<ApiClient, Error> {
        self.client_at(self.main, auth)
    }

    /// A client of the main lane with one of kubeadm's kubeconfigs.
    pub(crate) fn client_as(&self, plane: &ControlPlane, who: Who) -> Result<ApiClient, Error> {
        self.client(Kubeconfig::read(&plane.kubeconfig(who))?.auth)
    }

    /// A client of the reserved lane.
    pub(crate) fn reserved_client(&self, auth: Auth) -> Result<ApiClient, Error> {
        self.client_at(self.reserved, auth)
    }

    fn client_at(&self, address: SocketAddr, auth: Auth) -> Result<ApiClient, Error> {
        ApiClient::new(ClientOptions {
            server: format!("https://{address}"),
            server_name: SERVER_NAME.to_owned(),
            ca_pem: self.ca_pem.clone(),
            auth,
            protocol: Protocol::Negotiated,
        })
    }

    /// An HTTP/1.1 connection to the main lane.
    pub(crate) async fn raw(&self, credentials: Option<&Credentials>) -> anyhow::Result<Raw> {
        Raw::connect(self.main, &self.ca_pem, credentials).await
    }

    /// An HTTP/2 connection to the main lane, by hand.
    pub(crate) async fn frames(&self, credentials: Option<&Credentials>) -> anyhow::Result<Frames> {
        Frames::connect(self.main, &self.ca_pem, credentials).await
    }

    /// Writes a kubeconfig for the main lane.
    pub(crate) fn kubeconfig(&self, path: &Path, auth: &Auth) -> Result<(), Error> {
        let server = self.server();
        write_kubeconfig(path, &server, Some(SERVER_NAME), &self.ca_pem, auth)
    }

    /// See [`Running::block_main_lane`].
    pub(crate) fn block_main_lane(&self) -> Vec<std::sync::mpsc::Sender<()>> {
        self.running
            .as_ref()
            .map(Running::block_main_lane)
            .unwrap_or_default()
    }

    /// A page of the admin port: status and text.
    pub(crate) async fn page(&self, path: &str) -> anyhow::Result<(u16, String)> {
        page(self.admin, path).await
    }

    /// All metrics, now.
    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        metrics(self.admin).await
    }
}

/// All metrics of an admin port, now.
pub(crate) async fn metrics(admin: SocketAddr) -> anyhow::Result<Metrics> {
    Ok(Metrics(page(admin, "/metrics").await?.1))
}

/// A page of an admin port: status and text.
pub(crate) async fn page(admin: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    Ok((status.context("no status line")?, body.to_owned()))
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its grace for open requests is nothing a test waits for, least of all
        // on the thread that would have to end them.
        let running = self.running.take();
        std::thread::spawn(move || drop(running));
    }
}

/// A scrape.
#[derive(Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// The sum of a metric over all series whose labels include all of
    /// `labels`, each as `name="value"`.
    pub(crate) fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        self.0
            .lines()
            .filter(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}
