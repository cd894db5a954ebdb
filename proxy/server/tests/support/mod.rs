//! A small world for black-box tests: keys, a scripted apiserver, the real proxy between, and clients.
//!
//! Nothing here measures time. Whatever is awaited has a bound, which only turns a hang into a failure.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "every test file uses its own part of it"
)]

pub mod body;
pub mod client;
pub mod collector;
pub mod frames;
pub mod page;
pub mod pki;
pub mod process;
pub mod proxy;
pub mod seen;
pub mod token;
pub mod upstream;

use std::future::Future;
use std::time::Duration;

pub use body::{Payload, pattern_digest};
pub use client::{Answer, Client, Tls};
pub use page::Page;
pub use pki::{Leaf, Pair, Pki};
pub use proxy::Proxy;
pub use seen::Seen;
pub use upstream::Upstream;

/// Any error, as bodies and services want it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long anything may take before a test counts as hung.
pub const BOUND: Duration = Duration::from_secs(30);

/// Paths that differ in how the proxy treats them.
pub const POD: &str = "/api/v1/namespaces/default/pods/web";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const WATCH: &str = "/api/v1/namespaces/default/pods?watch=true&resourceVersion=7";
pub const EXEC: &str = "/api/v1/namespaces/default/pods/web/exec?command=sh&stdin=true&stdout=true";

/// Awaits `work`; panics naming `what` when it hangs.
pub async fn bounded<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(BOUND, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: nothing happened within {BOUND:?}"),
    }
}

/// Waits until `holds` says so; panics naming `what` when it never does.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    bounded(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Keys, an apiserver and a proxy in front of it. Fields are dropped in this order.
pub struct World {
    pub proxy: Proxy,
    pub upstream: Upstream,
    pub pki: Pki,
}

impl World {
    /// Admission off, one worker, everything on free loopback ports.
    pub fn new() -> Self {
        Self::with(upstream::Settings::default(), |_| {})
    }

    /// As [`World::new`], with another apiserver and after `change` to the configuration.
    pub fn with(settings: upstream::Settings, change: impl FnOnce(&mut config::Config)) -> Self {
        let pki = Pki::new();
        let upstream = Upstream::start(&pki, settings);
        let proxy = Proxy::start(&pki, upstream.address(), change);
        Self {
            proxy,
            upstream,
            pki,
        }
    }

    /// HTTP/2 to the main lane as `user` of `groups`.
    pub async fn user(&self, user: &str, groups: &[&str]) -> Client {
        let tls = self.pki.tls().certificate(&self.pki.user(user, groups));
        Client::http2(self.proxy.main(), &tls).await
    }

    /// HTTP/1.1 to the main lane as `user` of `groups`.
    pub async fn user_http1(&self, user: &str, groups: &[&str]) -> Client {
        let tls = self.pki.tls().certificate(&self.pki.user(user, groups));
        Client::http1(self.proxy.main(), &tls).await
    }

    /// To the main lane without a certificate.
    pub async fn stranger(&self) -> Client {
        Client::http2(self.proxy.main(), &self.pki.tls()).await
    }
}
