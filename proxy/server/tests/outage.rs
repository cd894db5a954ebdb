//! The apiserver away: an answer that clients understand, soon, and nothing to restart afterwards.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use config::Config;
use support::client::{Client, get, post, with, with_token};
use support::{
    Answer, EXEC, POD, PODS, Page, Payload, Pki, Proxy, Upstream, WATCH, bounded, upstream,
};

/// An address nobody listens on: bound, so that nobody else takes it, and not listening.
struct Nobody(socket2::Socket);

impl Nobody {
    fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .expect("a port");
        Self(socket)
    }

    fn address(&self) -> SocketAddr {
        self.0
            .local_addr()
            .expect("an address")
            .as_socket()
            .expect("an IP address")
    }
}

fn assert_away(answer: &Answer, status: u16) {
    assert_eq!(answer.status, status, "{answer:?}");
    let seconds: u32 = answer
        .header("retry-after")
        .and_then(|text| text.parse().ok())
        .expect("whole seconds");
    assert!((1..=4).contains(&seconds), "{seconds}");
    let object = answer.json();
    assert_eq!(
        (&object["kind"], &object["code"]),
        (&"Status".into(), &status.into())
    );
    assert_eq!(object["details"]["retryAfterSeconds"], seconds);
}

/// As a connection that is refused: client-go repeats what has a Retry-After, whatever the method.
fn assert_fails(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("retry-after"), None);
    let object = answer.json();
    assert_eq!(object["reason"], "ServiceUnavailable");
    assert!(object["details"]["retryAfterSeconds"].is_null(), "{object}");
}

async fn user(pki: &Pki, proxy: &Proxy) -> Client {
    Client::http2(proxy.main(), &pki.tls().certificate(&pki.user("jane", &[]))).await
}

/// Every pool and the way of upgrades.
async fn every_way_is_away(pki: &Pki, proxy: &Proxy) {
    let mut client = user(pki, proxy).await;
    for path in [POD, PODS] {
        assert_away(&client.get(path, "echo").await, 503);
    }
    assert_away(&client.get(WATCH, "watch").await, 429);
    assert_fails(&client.call(post(PODS, "echo", Payload::empty())).await);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/leader";
    assert_fails(&client.get(lease, "echo").await);
    let mut stranger = Client::http2(proxy.main(), &pki.tls()).await;
    assert_away(&stranger.get(POD, "echo").await, 503);
    assert_away(
        &stranger.call(with_token(get(POD, "echo"), "opaque")).await,
        503,
    );
    let mut exec =
        Client::http1(proxy.main(), &pki.tls().certificate(&pki.user("jane", &[]))).await;
    let upgrade = with(
        with(get(EXEC, "tunnel"), "connection", "upgrade"),
        "upgrade",
        "SPDY/3.1",
    );
    assert_away(&exec.call(upgrade).await, 503);
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_503_and_429_for_watches() {
    let (pki, nobody) = (Pki::new(), Nobody::new());
    let proxy = Proxy::start(&pki, nobody.address(), |_| {});
    every_way_is_away(&pki, &proxy).await;
    proxy
        .until("noticed", |page| {
            page.sum("spillway_upstream_up", &[]) == 0.0
        })
        .await;
    proxy.until_idle().await;
}

#[tokio::test]
async fn readiness_follows_the_server_and_liveness_does_not() {
    let (pki, nobody) = (Pki::new(), Nobody::new());
    let proxy = Proxy::start(&pki, nobody.address(), |_| {});
    proxy
        .until("noticed", |page| {
            page.sum("spillway_upstream_up", &[]) == 0.0
        })
        .await;
    assert_eq!(support::page::get(proxy.admin(), "/readyz").await.0, 503);
    assert_eq!(support::page::get(proxy.admin(), "/livez").await.0, 200);
    let address = nobody.address();
    drop(nobody);
    let _upstream = Upstream::start(
        &pki,
        upstream::Settings {
            address: Some(address),
            ..upstream::Settings::default()
        },
    );
    proxy
        .until("noticed", |page| {
            page.sum("spillway_upstream_up", &[]) == 1.0
        })
        .await;
    assert_eq!(support::page::get(proxy.admin(), "/readyz").await.0, 200);
}

#[tokio::test]
async fn a_server_that_comes_up_is_used_at_once() {
    let (pki, nobody) = (Pki::new(), Nobody::new());
    let address = nobody.address();
    let proxy = Proxy::start(&pki, address, |_| {});
    let mut client = user(&pki, &proxy).await;
    assert_away(&client.get(POD, "echo").await, 503);
    drop(nobody);
    let _upstream = Upstream::start(
        &pki,
        upstream::Settings {
            address: Some(address),
            ..upstream::Settings::default()
        },
    );
    assert_eq!(client.get(POD, "echo").await.status, 200);
}

#[tokio::test]
async fn a_server_that_restarts_costs_what_was_in_flight_and_nothing_after() {
    let pki = Pki::new();
    let first = Upstream::start(&pki, upstream::Settings::default());
    let address = first.address();
    let proxy = Proxy::start(&pki, address, |_| {});
    let mut client = user(&pki, &proxy).await;
    assert_eq!(client.get(POD, "echo").await.status, 200);
    let mut other = client.again();
    let waiting = tokio::spawn(async move { other.get(POD, "silent").await });
    first.until_open(1).await;
    drop(first);
    assert_eq!(
        bounded("the one in flight", waiting)
            .await
            .expect("no panic")
            .status,
        503
    );
    let _second = Upstream::start(
        &pki,
        upstream::Settings {
            address: Some(address),
            ..upstream::Settings::default()
        },
    );
    bounded("back again", async {
        while client.get(POD, "echo").await.status != 200 {}
    })
    .await;
    for _ in 0..10 {
        assert_eq!(client.get(POD, "echo").await.status, 200);
    }
    proxy.until_idle().await;
}

#[tokio::test]
async fn a_watch_ends_cleanly_when_the_server_dies_and_other_answers_break() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let proxy = Proxy::start(&pki, upstream.address(), |_| {});
    let tls = pki.tls().certificate(&pki.user("jane", &[]));
    let mut watcher = Client::http2(proxy.main(), &tls).await;
    let mut old_watcher = Client::http1(proxy.main(), &tls).await;
    let mut reader = Client::http2(proxy.main(), &tls).await;
    let mut old_reader = Client::http1(proxy.main(), &tls).await;
    let watches = [
        watcher.send(get(WATCH, "watch")).await.expect("an answer"),
        old_watcher
            .send(get(WATCH, "watch"))
            .await
            .expect("an answer"),
    ];
    // Long-running too, but nothing in it says where it ends.
    let log = "/api/v1/namespaces/default/pods/web/log?follow=true";
    let reads = [
        reader
            .send(get(PODS, "gated-body 2"))
            .await
            .expect("an answer"),
        reader
            .send(get(log, "gated-body 2"))
            .await
            .expect("an answer"),
        old_reader
            .send(get(PODS, "gated-body 2"))
            .await
            .expect("an answer"),
    ];
    upstream.until_open(5).await;
    drop(upstream);
    for watch in watches {
        // A reset would make a reflector begin anew.
        assert_eq!(
            Answer::read(watch).await.text(),
            "{\"type\":\"BOOKMARK\"}\n"
        );
    }
    for read in reads {
        assert!(
            Answer::try_read(read).await.is_err(),
            "half an answer passed for a whole one"
        );
    }
    proxy.until_idle().await;
}

fn short_timeout(config: &mut Config) {
    config.upstream.connect_timeout = Duration::from_millis(200);
}

/// Accepts connections, as the kernel does for a process that is stopped, and says nothing.
fn black_hole() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_after_the_connect_timeout() {
    let (pki, hole) = (Pki::new(), black_hole());
    let proxy = Proxy::start(&pki, hole.local_addr().expect("an address"), short_timeout);
    every_way_is_away(&pki, &proxy).await;
    let answer = user(&pki, &proxy).await.get(POD, "echo").await;
    assert_eq!(answer.header("x-spillway-reason"), Some("connect_timeout"));
}

#[tokio::test]
async fn those_who_wait_for_a_connection_fail_with_it() {
    let (pki, hole) = (Pki::new(), black_hole());
    let proxy = Proxy::start(&pki, hole.local_addr().expect("an address"), short_timeout);
    let client = user(&pki, &proxy).await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let mut client = client.again();
            tokio::spawn(async move { client.get(POD, "echo").await })
        })
        .collect();
    for call in calls {
        assert_away(&bounded("an answer", call).await.expect("no panic"), 503);
    }
    // Counted, not timed: had each tried by itself, one after the other, there would be as many failures to connect.
    let page = proxy.metrics().await;
    let own = page.sum(
        "spillway_upstream_errors_total",
        &[("kind", "connect_timeout")],
    );
    let joint = page.sum("spillway_upstream_errors_total", &[("kind", "unreachable")]);
    assert!(
        own <= 5.0 && own + joint == 50.0,
        "{own} tried, {joint} waited"
    );
}

#[tokio::test]
async fn nobody_waits_longer_because_others_keep_coming() {
    let (pki, hole) = (Pki::new(), black_hole());
    let proxy = Proxy::start(&pki, hole.local_addr().expect("an address"), short_timeout);
    let client = user(&pki, &proxy).await;
    // Somebody new tries as soon as somebody gave up.
    let coming: Vec<_> = (0..4)
        .map(|_| {
            let mut client = client.again();
            tokio::spawn(async move {
                loop {
                    client.get(POD, "echo").await;
                }
            })
        })
        .collect();
    let tried = |page: &Page| {
        page.sum(
            "spillway_upstream_errors_total",
            &[("kind", "connect_timeout")],
        )
    };
    proxy
        .until("an attempt failed", |page| tried(page) >= 1.0)
        .await;
    for _ in 0..5 {
        let before = tried(&proxy.metrics().await);
        let mut one = client.again();
        assert_away(&one.get(POD, "echo").await, 503);
        let attempts = tried(&proxy.metrics().await) - before;
        assert!(
            attempts <= 3.0,
            "a request sat through {attempts} attempts to connect"
        );
    }
    coming.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn a_server_that_is_not_ours_is_not_talked_to() {
    let (pki, other) = (Pki::new(), Pki::new());
    let upstream = Upstream::start(&other, upstream::Settings::default());
    let proxy = Proxy::start(&pki, upstream.address(), |_| {});
    let answer = user(&pki, &proxy).await.get(POD, "echo").await;
    assert_away(&answer, 503);
    assert_eq!(answer.header("x-spillway-reason"), Some("tls"));
    assert_eq!(upstream.seen().len(), 0);
}

#[tokio::test]
async fn the_process_stops_though_clients_stay_and_watches_are_open() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let proxy = Proxy::start(&pki, upstream.address(), |_| {});
    let mut client = user(&pki, &proxy).await;
    let _watch = client.send(get(WATCH, "watch")).await.expect("an answer");
    proxy.stop().await;
    upstream.until_open(0).await;
}
