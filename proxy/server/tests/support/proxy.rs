//! The real proxy, in this process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use config::{Config, Mode};
use proxy_server::run::{Running, StartError, start};

use super::{BOUND, Page, Pki, bounded};

/// A running proxy; stops in the background when dropped, so that no test waits for its grace period.
pub struct Proxy(Option<Running>);

impl Proxy {
    /// Admission off, one worker, free loopback ports, then `change`.
    pub fn start(pki: &Pki, upstream: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        Self::try_start(pki, upstream, change).expect("the proxy starts")
    }

    pub fn try_start(
        pki: &Pki,
        upstream: SocketAddr,
        change: impl FnOnce(&mut Config),
    ) -> Result<Self, StartError> {
        let mut config = config(pki, upstream);
        change(&mut config);
        start(config, None).map(|running| Self(Some(running)))
    }

    /// From a file, which is watched.
    pub fn from_file(file: PathBuf) -> Self {
        let text = std::fs::read_to_string(&file).expect("the configuration file");
        let config = Config::parse(&text, "config.yaml").expect("a good configuration");
        Self(Some(start(config, Some(file)).expect("the proxy starts")))
    }

    fn running(&self) -> &Running {
        self.0.as_ref().expect("running")
    }

    pub fn main(&self) -> SocketAddr {
        self.running().main()[0]
    }

    pub fn reserved(&self) -> SocketAddr {
        self.running().reserved()[0]
    }

    pub fn admin(&self) -> SocketAddr {
        self.running().admin()
    }

    pub fn block_main_lane(&self) -> Vec<std::sync::mpsc::Sender<()>> {
        self.running().block_main_lane()
    }

    pub async fn metrics(&self) -> Page {
        Page::fetch(self.admin()).await
    }

    /// Waits until the metrics page says so.
    pub async fn until(&self, what: &str, holds: impl Fn(&Page) -> bool) -> Page {
        let mut last = None;
        let waiting = async {
            loop {
                let page = self.metrics().await;
                if holds(&page) {
                    return page;
                }
                last = Some(page);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(BOUND, waiting).await {
            Ok(page) => page,
            Err(_) => panic!("{what}: never; the last page was {last:#?}"),
        }
    }

    /// Waits until no request is in flight and no permit is held.
    pub async fn until_idle(&self) {
        self.until("nothing in flight", |page| {
            page.sum("spillway_lane_in_flight", &[]) == 0.0
                && page.sum("spillway_running_requests", &[]) == 0.0
                && page.sum("spillway_waiting_requests", &[]) == 0.0
        })
        .await;
    }

    /// Stops it as the process would, and waits.
    pub async fn stop(mut self) {
        let running = self.0.take();
        let (done, stopped) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            drop(running);
            let _ = done.send(());
        });
        bounded("the proxy stops", stopped).await.expect("stopped");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let running = self.0.take();
        std::thread::spawn(move || drop(running));
    }
}

/// The configuration all tests begin with.
pub fn config(pki: &Pki, upstream: SocketAddr) -> Config {
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::with_pki(pki.path());
    config.listen.main = vec![free];
    config.listen.reserved = vec![free];
    config.listen.admin = free;
    config.listen.workers = 1;
    config.admin.socket = None;
    config.upstream.address = upstream;
    config.admission.mode = Mode::Off;
    config
}

/// The same as a file's text.
pub fn config_text(pki: &Pki, upstream: SocketAddr, more: &str) -> String {
    format!(
        "pki: {}\nlisten: {{ main: [\"127.0.0.1:0\"], reserved: [\"127.0.0.1:0\"], admin: \"127.0.0.1:0\", workers: 1 }}\n\
         admin: {{ socket: off }}\nupstream: {{ address: \"{upstream}\" }}\n{more}",
        pki.path().display()
    )
}
