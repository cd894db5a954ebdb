//! exec, attach, port-forward: a tunnel only where the server agreed to one.

mod support;

use http::Request;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use support::body::chunk;
use support::client::{Breaker, Client, get, with, with_token};
use support::{EXEC, POD, Payload, World, bounded, token};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const TAIL: &[u8] = b"that was all";

fn upgrade(script: &str, protocol: &str) -> Request<Payload> {
    with(
        with(get(EXEC, script), "connection", "Upgrade"),
        "upgrade",
        protocol,
    )
}

/// A tunnel of jane's.
async fn tunnel(world: &World, script: &str) -> (TokioIo<Upgraded>, Breaker) {
    let mut client = world.user_http1("jane", &["dev"]).await;
    let breaker = client.breaker();
    let response = client
        .send(upgrade(script, "SPDY/3.1"))
        .await
        .expect("an answer");
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
    (
        TokioIo::new(
            bounded("the tunnel", hyper::upgrade::on(response))
                .await
                .expect("a tunnel"),
        ),
        breaker,
    )
}

#[tokio::test]
async fn a_mebibyte_each_way_and_the_clients_half_close_arrives() {
    let world = World::new();
    let (io, _) = tunnel(&world, "tunnel").await;
    let (mut down, mut up) = tokio::io::split(io);
    let sending = tokio::spawn(async move {
        for number in 0..16 {
            up.write_all(&chunk(number)).await.expect("sent");
        }
        up.shutdown().await.expect("half closed");
        up
    });
    let mut received = Vec::new();
    bounded("everything back", down.read_to_end(&mut received))
        .await
        .expect("a clean end");
    let expected: Vec<u8> = (0..16)
        .flat_map(|number| chunk(number).to_vec())
        .chain(TAIL.iter().copied())
        .collect();
    assert!(received == expected, "{} bytes", received.len());
    sending.await.expect("no panic");
    world.upstream.until_open(0).await;
    world.proxy.until_idle().await;
}

#[tokio::test]
async fn the_servers_half_close_arrives_and_the_client_talks_on() {
    let world = World::new();
    let (mut io, _) = tunnel(&world, "tunnel-talk").await;
    let mut heard = Vec::new();
    bounded("the server's word", io.read_to_end(&mut heard))
        .await
        .expect("a clean half close");
    assert_eq!(heard, b"hello");
    for number in 0..16 {
        bounded("talking on", io.write_all(&chunk(number)))
            .await
            .expect("sent");
    }
    io.shutdown().await.expect("closed");
    support::eventually("a mebibyte upstream", || {
        world.upstream.received() == 1 << 20
    })
    .await;
    world.upstream.until_open(0).await;
    world.proxy.until_idle().await;
}

#[tokio::test]
async fn a_client_that_vanishes_ends_its_tunnel() {
    let world = World::new();
    let (_io, breaker) = tunnel(&world, "tunnel").await;
    world.upstream.until_open(1).await;
    breaker.break_off();
    world.upstream.until_open(0).await;
    world.proxy.until_idle().await;
}

#[tokio::test]
async fn an_open_tunnel_holds_no_permit() {
    let world = World::with(support::upstream::Settings::default(), |config| {
        config.admission.mode = config::Mode::Enforce;
    });
    let (_io, _breaker) = tunnel(&world, "tunnel").await;
    let page = world
        .proxy
        .until("no permit held", |page| {
            page.sum("spillway_running_requests", &[]) == 0.0
        })
        .await;
    assert_eq!(
        page.sum("spillway_lane_in_flight", &[("lane", "main")]),
        1.0
    );
}

#[tokio::test]
async fn each_upgrade_has_a_connection_of_its_own() {
    let world = World::new();
    world.user("jane", &[]).await.get(POD, "echo").await;
    let mut tunnels = Vec::new();
    for _ in 0..3 {
        tunnels.push(tunnel(&world, "tunnel").await);
    }
    let mut refused = world.user_http1("jane", &[]).await;
    assert_eq!(
        refused.call(upgrade("no-tunnel", "SPDY/3.1")).await.status,
        403
    );
    let mut connections: Vec<_> = world
        .upstream
        .seen()
        .iter()
        .map(|seen| seen.connection)
        .collect();
    connections.sort_unstable();
    connections.dedup();
    assert_eq!(connections.len(), 5);
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_and_never_a_tunnel() {
    let world = World::new();
    let tls = world.pki.tls().certificate(&world.pki.user("jane", &[]));
    let mut stream = tls
        .connect(world.proxy.main(), "http/1.1")
        .await
        .expect("TLS");
    let head = |script: &str| {
        format!(
            "GET {EXEC} HTTP/1.1\r\nHost: kubernetes\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Script: {script}\r\n\r\n"
        )
    };
    // What follows must be read as a request of this client's, not piped to the server in the proxy's name.
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: kubernetes\r\nX-Remote-User: admin\r\nConnection: close\r\n\r\n";
    stream
        .write_all(format!("{}{smuggled}", head("no-tunnel")).as_bytes())
        .await
        .expect("sent");
    let mut answers = Vec::new();
    let _ = bounded("the answers", stream.read_to_end(&mut answers)).await;
    let answers = String::from_utf8_lossy(&answers);
    assert!(answers.starts_with("HTTP/1.1 403 "), "{answers}");
    assert!(answers.contains("no exec for you"), "{answers}");
    for seen in world.upstream.seen() {
        assert_eq!(seen.values("x-remote-user"), ["jane"]);
        assert_eq!(seen.certificate.as_deref(), Some("front-proxy-client"));
        assert!(
            seen.path != "/smuggled" || seen.http2,
            "on the connection of the refused upgrade: {seen:?}"
        );
    }
}

#[tokio::test]
async fn the_identity_is_asserted_on_the_tunnels_request_too() {
    let world = World::new();
    let mut client = world.user_http1("jane", &["dev"]).await;
    let request = with(
        with_token(upgrade("tunnel", "SPDY/3.1"), "secret"),
        "x-remote-user",
        "admin",
    );
    assert_eq!(client.send(request).await.expect("an answer").status(), 101);
    let seen = world.upstream.last();
    assert!(!seen.http2);
    assert_eq!(seen.certificate.as_deref(), Some("front-proxy-client"));
    assert_eq!(seen.values("x-remote-user"), ["jane"]);
    assert_eq!(seen.values("x-remote-group"), ["dev"]);
    assert_eq!(seen.value("authorization"), None);
    assert_eq!(seen.value("connection"), Some("upgrade"));
    assert_eq!(seen.value("upgrade"), Some("SPDY/3.1"));
    assert_eq!(seen.host, "kubernetes:6443");
}

#[tokio::test]
async fn a_tunnel_by_token_carries_the_token_and_no_certificate() {
    let world = World::new();
    let account = token::rs256(&token::claims("default", "web"));
    let mut client = Client::http1(world.proxy.main(), &world.pki.tls()).await;
    let request = with_token(upgrade("tunnel", "websocket"), &account);
    assert_eq!(client.send(request).await.expect("an answer").status(), 101);
    let seen = world.upstream.last();
    assert_eq!(seen.certificate, None);
    assert_eq!(
        seen.value("authorization"),
        Some(&*format!("Bearer {account}"))
    );
}

#[tokio::test]
async fn an_upgrade_to_http2_is_not_one() {
    let world = World::new();
    let mut client = world.user_http1("jane", &[]).await;
    let request = with(
        with(get(POD, "echo"), "connection", "Upgrade, HTTP2-Settings"),
        "upgrade",
        "h2c",
    );
    let answer = client
        .call(with(request, "http2-settings", "AAMAAABkAAQAAP__"))
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(world.upstream.last().value("upgrade"), None);
}

#[tokio::test]
async fn a_tunnel_on_which_nothing_moves_is_closed_and_one_in_use_is_not() {
    let world = World::with(support::upstream::Settings::default(), |config| {
        config.listen.tunnel_idle = std::time::Duration::from_secs(3);
    });
    let (mut used, _) = tunnel(&world, "tunnel").await;
    let (mut idle, _) = tunnel(&world, "tunnel").await;
    world.upstream.until_open(2).await;
    let mut end = Vec::new();
    let mut ending = std::pin::pin!(idle.read_to_end(&mut end));
    let mut back = [0];
    loop {
        used.write_all(b"x").await.expect("sent");
        used.read_exact(&mut back).await.expect("back");
        // Well within the bound, however busy the machine.
        let pause = std::time::Duration::from_millis(100);
        if tokio::time::timeout(pause, &mut ending).await.is_ok() {
            break;
        }
    }
    used.write_all(b"y").await.expect("sent");
    used.read_exact(&mut back).await.expect("still open");
    assert_eq!(&back, b"y");
    world.upstream.until_open(1).await;
}

#[tokio::test]
async fn tunnels_are_counted_and_bounded_and_the_reserved_lanes_are_its_own() {
    let world = World::with(support::upstream::Settings::default(), |config| {
        config.listen.max_tunnels = 2;
    });
    let open = [
        tunnel(&world, "tunnel").await,
        tunnel(&world, "tunnel").await,
    ];
    let page = world.proxy.metrics().await;
    assert_eq!(page.sum("spillway_tunnels", &[("lane", "main")]), 2.0);
    let mut one_more = world.user_http1("jane", &["dev"]).await;
    let refused = one_more.call(upgrade("tunnel", "SPDY/3.1")).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("x-spillway-reason"), Some("tunnels"));
    // It is no other request's bound.
    assert_eq!(one_more.get(POD, "echo").await.status, 200);
    let admin = world.pki.user("root", &["system:masters"]);
    let mut reserved =
        Client::http1(world.proxy.reserved(), &world.pki.tls().certificate(&admin)).await;
    let session = reserved.send(upgrade("tunnel", "SPDY/3.1")).await;
    assert_eq!(session.expect("an answer").status(), 101);
    drop(open);
    world
        .proxy
        .until("no tunnel of the main lane", |page| {
            page.sum("spillway_tunnels", &[("lane", "main")]) == 0.0
        })
        .await;
    let (_io, _breaker) = tunnel(&world, "tunnel").await;
}
