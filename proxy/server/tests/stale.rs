//! Last good answers while the apiserver is away: who gets which, and who does not.

mod support;

use std::time::Duration;

use config::Config;
use support::client::{Client, get, with};
use support::{Answer, Pki, Proxy, Upstream, upstream};

const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices?resourceVersion=0";
const SECRETS: &str = "/api/v1/secrets?resourceVersion=0";

struct World {
    proxy: Proxy,
    pki: Pki,
}

impl World {
    async fn client(&self, user: &str, groups: &[&str]) -> Client {
        // Another certificate each time, as after a restart.
        let tls = self.pki.tls().certificate(&self.pki.user(user, groups));
        Client::http2(self.proxy.main(), &tls).await
    }

    async fn down(&self) {
        self.proxy
            .until("the outage is known", |page| {
                page.sum("spillway_upstream_up", &[]) == 0.0
            })
            .await;
    }
}

/// A proxy that was up, asked for `paths` by the DNS server's user, and whose server then went away.
async fn outage(paths: &[&str], change: impl FnOnce(&mut Config)) -> World {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let proxy = Proxy::start(&pki, upstream.address(), |config| {
        config.admission.stale.users = vec!["dns*".to_owned()];
        change(config);
    });
    let world = World { proxy, pki };
    let mut client = world.client("dns", &["nodes", "dns"]).await;
    for path in paths {
        let answer = client.get(path, "sized 3").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-spillway-stale"), None);
    }
    world.proxy.until_idle().await;
    drop(upstream);
    world
}

fn assert_stale(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        support::body::digest(&answer.body),
        support::pattern_digest(3)
    );
    let age: u64 = answer
        .header("x-spillway-stale")
        .and_then(|age| age.parse().ok())
        .expect("its age");
    assert!(age < 120);
    let warning = answer.header("warning").expect("a warning");
    assert!(warning.starts_with("110 "), "{warning}");
}

#[tokio::test]
async fn the_same_user_is_given_its_last_answer_while_the_server_is_away() {
    let world = outage(&[SLICES], |_| {}).await;
    // At once, before the probe has noticed, and afterwards.
    let mut client = world.client("dns", &["dns", "nodes"]).await;
    assert_stale(&client.get(SLICES, "sized 3").await);
    world.down().await;
    assert_stale(&client.get(SLICES, "sized 3").await);
    let page = world.proxy.metrics().await;
    assert_eq!(page.sum("spillway_stale_total", &[]), 2.0);
}

#[tokio::test]
async fn nobody_is_given_what_somebody_else_or_another_question_was_answered() {
    let world = outage(&[SLICES], |_| {}).await;
    world.down().await;
    for (user, groups) in [
        ("dns-b", &["nodes", "dns"][..]),
        ("dns", &["nodes"]),
        ("jane", &["nodes", "dns"]),
    ] {
        let mut client = world.client(user, groups).await;
        let answer = client.get(SLICES, "sized 3").await;
        assert_eq!(answer.status, 503, "{user} {groups:?}");
    }
    let mut client = world.client("dns", &["nodes", "dns"]).await;
    for path in [
        "/apis/discovery.k8s.io/v1/endpointslices",
        "/apis/discovery.k8s.io/v1/endpointslices?resourceVersion=0&limit=1",
        "/apis/discovery.k8s.io/v1/endpointslices/one?resourceVersion=0",
    ] {
        assert_eq!(client.get(path, "sized 3").await.status, 503, "{path}");
    }
    let watch = "/apis/discovery.k8s.io/v1/endpointslices?resourceVersion=0&watch=1";
    assert_eq!(client.get(watch, "sized 3").await.status, 429);
    let accept = with(get(SLICES, "sized 3"), "accept", "application/yaml");
    assert_eq!(client.call(accept).await.status, 503);
}

#[tokio::test]
async fn secrets_are_kept_only_when_they_are_named() {
    for (resources, status) in [(vec![], 503), (vec!["secrets".to_owned()], 200)] {
        let world = outage(&[SECRETS], |config| {
            config.admission.stale.resources = resources;
        })
        .await;
        let mut client = world.client("dns", &["nodes", "dns"]).await;
        assert_eq!(client.get(SECRETS, "sized 3").await.status, status);
    }
}

#[tokio::test]
async fn unless_somebody_is_named_nothing_is_kept() {
    let world = outage(&[SLICES], |config| config.admission.stale.users.clear()).await;
    let mut client = world.client("dns", &["nodes", "dns"]).await;
    assert_eq!(client.get(SLICES, "sized 3").await.status, 503);
    let page = world.proxy.metrics().await;
    assert_eq!(page.sum("spillway_stale_bytes", &[]), 0.0);
}

#[tokio::test]
async fn nothing_older_than_configured_is_given() {
    let world = outage(&[SLICES], |config| {
        config.admission.stale.max_age = Duration::ZERO;
    })
    .await;
    world.down().await;
    let mut client = world.client("dns", &["nodes", "dns"]).await;
    assert_eq!(client.get(SLICES, "sized 3").await.status, 503);
}
