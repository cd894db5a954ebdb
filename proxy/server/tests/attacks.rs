//! Clients that mean harm, or are broken: refused, and nobody else's problem.

mod support;

use support::body::CHUNK;
use support::client::{Client, get, with};
use support::{Answer, POD, WATCH, World, bounded, eventually, upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Writes `text` inside TLS as HTTP/1.1 of jane's; what came back until the proxy closed.
async fn raw(world: &World, text: &str) -> String {
    let tls = world.pki.tls().certificate(&world.pki.user("jane", &[]));
    let mut stream = tls
        .connect(world.proxy.main(), "http/1.1")
        .await
        .expect("TLS");
    // Refused before it was read to its end, the rest may no longer be taken.
    let _ = stream.write_all(text.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = bounded("the end of the connection", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

#[tokio::test]
async fn what_is_no_sound_request_is_refused_before_the_server_sees_it() {
    let world = World::new();
    let bad = [
        (
            "two hosts",
            "GET /api HTTP/1.1\r\nHost: kubernetes\r\nHost: evil\r\n\r\n",
        ),
        ("no host", "GET /api HTTP/1.1\r\nX: y\r\n\r\n"),
        ("empty host", "GET /api HTTP/1.1\r\nHost:\r\n\r\n"),
        (
            "host with a path",
            "GET /api HTTP/1.1\r\nHost: kubernetes/../x\r\n\r\n",
        ),
        (
            "host with a user",
            "GET /api HTTP/1.1\r\nHost: admin@kubernetes\r\n\r\n",
        ),
        (
            "host with a space",
            "GET /api HTTP/1.1\r\nHost: kuber netes\r\n\r\n",
        ),
        (
            "two lengths",
            "POST /api HTTP/1.1\r\nHost: k\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        ),
        (
            "no length",
            "POST /api HTTP/1.1\r\nHost: k\r\nContent-Length: -1\r\n\r\nab",
        ),
        (
            "list of lengths",
            "POST /api HTTP/1.1\r\nHost: k\r\nContent-Length: 1, 2\r\n\r\nab",
        ),
        (
            "signed length",
            "POST /api HTTP/1.1\r\nHost: k\r\nContent-Length: +2\r\n\r\nab",
        ),
        (
            "unknown coding",
            "POST /api HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked not last",
            "POST /api HTTP/1.1\r\nHost: k\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        ),
        (
            "space before colon",
            "GET /api HTTP/1.1\r\nHost: k\r\nX-Remote-User : admin\r\n\r\n",
        ),
        (
            "folded line",
            "GET /api HTTP/1.1\r\nHost: k\r\nX: a\r\n Impersonate-User: admin\r\n\r\n",
        ),
        (
            "control in a value",
            "GET /api HTTP/1.1\r\nHost: k\r\nX: a\u{1}b\r\n\r\n",
        ),
        (
            "control in a path",
            "GET /a\u{1}pi HTTP/1.1\r\nHost: k\r\n\r\n",
        ),
        ("no HTTP at all", "HELO kubernetes\r\n\r\n"),
        ("another version", "GET /api HTTP/3.7\r\nHost: k\r\n\r\n"),
    ];
    for (what, text) in bad {
        let answer = raw(&world, text).await;
        let refused =
            answer.is_empty() || status(&answer).is_some_and(|status| (400..500).contains(&status));
        assert!(refused, "{what}: {answer}");
        assert_eq!(
            world.upstream.seen().len(),
            0,
            "{what}: {:?}",
            world.upstream.seen()
        );
    }
}

#[tokio::test]
async fn a_connect_request_opens_no_tunnel() {
    let world = World::new();
    let target = world.upstream.address();
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\nGET / HTTP/1.1\r\n\r\n");
    let answer = raw(&world, &head).await;
    assert!(
        world.upstream.seen().is_empty(),
        "{:?}",
        world.upstream.seen()
    );
    assert!(
        status(&answer).is_none_or(|status| (400..500).contains(&status)),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_has_one_length_and_what_follows_is_this_clients_own() {
    let world = World::new();
    let smuggled =
        "GET /smuggled HTTP/1.1\r\nHost: k\r\nX-Remote-User: admin\r\nConnection: close\r\n\r\n";
    let text = format!(
        "POST {POD} HTTP/1.1\r\nHost: k\r\nX-Script: count\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
        5 + smuggled.len()
    );
    let answer = raw(&world, &text).await;
    assert!(status(&answer).is_some(), "{answer}");
    for seen in world.upstream.seen() {
        assert_eq!(seen.values("x-remote-user"), ["jane"]);
        assert!(
            seen.value("content-length").is_none() || seen.value("transfer-encoding").is_none(),
            "{seen:?}"
        );
        assert!(
            seen.method != "POST"
                || seen
                    .value("content-length")
                    .is_none_or(|length| length == "0"),
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn headers_beyond_any_reason_are_refused() {
    let world = World::new();
    let long = "x".repeat(128 * 1024);
    let answer = raw(
        &world,
        &format!("GET {POD} HTTP/1.1\r\nHost: k\r\nX-Long: {long}\r\n\r\n"),
    )
    .await;
    assert_eq!(status(&answer), Some(431), "{answer}");
    let mut client = world.user("jane", &[]).await;
    if let Ok(response) = client.send(with(get(POD, "echo"), "x-long", &long)).await {
        assert_eq!(response.status(), 431);
    }
    let many = (0..5_000).fold(String::new(), |many, number| {
        many + &format!("x-{number}: y\r\n")
    });
    let answer = raw(
        &world,
        &format!("GET {POD} HTTP/1.1\r\nHost: k\r\n{many}\r\n"),
    )
    .await;
    assert_eq!(status(&answer), Some(431), "{answer}");
    assert_eq!(world.upstream.seen().len(), 0);
    assert_eq!(
        world.user("jane", &[]).await.get(POD, "echo").await.status,
        200
    );
}

#[tokio::test]
async fn a_large_token_with_many_groups_still_fits() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    let mut request = with(get(POD, "echo"), "x-large", &"x".repeat(16 * 1024));
    for number in 0..300 {
        request = with(request, "impersonate-group", &format!("group-{number}"));
    }
    assert_eq!(client.call(request).await.status, 200);
    assert_eq!(world.upstream.last().values("impersonate-group").len(), 300);
}

#[tokio::test]
async fn handshakes_that_never_end_give_way_to_those_that_do() {
    let world = World::with(upstream::Settings::default(), |config| {
        config.listen.max_handshakes = 2
    });
    let mut open = world.user("jane", &[]).await;
    // Its handshake is over for the proxy, too.
    assert_eq!(open.get(POD, "echo").await.status, 200);
    let address = world.proxy.main();
    let mut silent = [
        TcpStream::connect(address).await.expect("TCP"),
        TcpStream::connect(address).await.expect("TCP"),
    ];
    let connected =
        |page: &support::Page| page.sum("spillway_lane_connections", &[("lane", "main")]) == 3.0;
    world.proxy.until("both are there", connected).await;
    // Refused while they are young, for they may mean it; then one of them has to go.
    bounded("room for a third", async {
        while world.pki.tls().connect(address, "h2").await.is_err() {}
    })
    .await;
    let displaced = [("lane", "main"), ("reason", "handshake_displaced")];
    let page = world.proxy.metrics().await;
    assert!(page.sum("spillway_refused_connections_total", &displaced) >= 1.0);
    assert_eq!(open.get(POD, "echo").await.status, 200);
    let ended = bounded("the end of the first", silent[0].read(&mut [0])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn connections_beyond_the_bound_are_closed() {
    let world = World::with(upstream::Settings::default(), |config| {
        config.listen.max_connections = 2
    });
    let mut first = world.user("jane", &[]).await;
    // Known by now, and no stranger that would have to make room.
    assert_eq!(first.get(POD, "echo").await.status, 200);
    let second = world.user("jane", &[]).await;
    assert!(
        world
            .pki
            .tls()
            .connect(world.proxy.main(), "h2")
            .await
            .is_err(),
        "a third connection"
    );
    assert_eq!(first.get(POD, "echo").await.status, 200);
    second.breaker().break_off();
    bounded("room again", async {
        while world
            .pki
            .tls()
            .connect(world.proxy.main(), "h2")
            .await
            .is_err()
        {}
    })
    .await;
}

/// Whoever reaches the reserved lane's port can open connections; that must not keep operators out.
#[tokio::test]
async fn a_lane_full_of_strangers_lets_an_operator_in() {
    let world = World::with(upstream::Settings::default(), |config| {
        config.reserved.max_connections = 16;
    });
    let address = world.proxy.reserved();
    let mut strangers = Vec::new();
    for _ in 0..40 {
        // Refused or not: they stay as long as they are let.
        if let Ok(stream) = world.pki.tls().connect(address, "h2").await {
            strangers.push(stream);
        }
    }
    assert!(strangers.len() >= 4, "only {}", strangers.len());
    let tls = world
        .pki
        .tls()
        .certificate(&world.pki.user("root", &["system:masters"]));
    let head = format!("GET {POD} HTTP/1.1\r\nHost: k\r\nConnection: close\r\n\r\n");
    let answer = bounded("an operator is answered", async {
        loop {
            let Ok(mut stream) = tls.connect(address, "http/1.1").await else {
                continue;
            };
            let mut answer = String::new();
            if stream.write_all(head.as_bytes()).await.is_ok()
                && stream.read_to_string(&mut answer).await.is_ok()
                && !answer.is_empty()
            {
                return answer;
            }
        }
    })
    .await;
    assert_eq!(status(&answer), Some(200), "{answer}");
}

#[tokio::test]
async fn garbage_in_place_of_tls_is_dropped() {
    let world = World::new();
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: k\r\n\r\n"[..],
        &[0; 512],
        &[0x16, 3, 1, 0xff, 0xff, 1],
    ] {
        let mut stream = TcpStream::connect(world.proxy.main()).await.expect("TCP");
        stream.write_all(garbage).await.expect("sent");
        stream.shutdown().await.expect("half closed");
        let _ = bounded("its end", stream.read_to_end(&mut Vec::new())).await;
    }
    assert_eq!(
        world.user("jane", &[]).await.get(POD, "echo").await.status,
        200
    );
    world
        .proxy
        .until("gone", |page| {
            page.sum("spillway_lane_connections", &[]) <= 1.0
        })
        .await;
}

#[tokio::test]
async fn a_thousand_opened_and_cancelled_streams_close_nobodys_connection() {
    let world = World::new();
    let mut victim = world.user("victim", &[]).await;
    let mut watch = victim
        .send(get(WATCH, "gated-body 2"))
        .await
        .expect("a head");
    let mut seen = 0;
    while seen < CHUNK {
        let frame = bounded("a frame", http_body_util::BodyExt::frame(&mut watch)).await;
        seen += frame
            .expect("more")
            .expect("a frame")
            .data_ref()
            .map_or(0, bytes::Bytes::len);
    }
    // Two connections: one would use up what it may cancel.
    let mallories = [
        world.user("mallory", &[]).await,
        world.user("mallory", &[]).await,
    ];
    for round in 0..44 {
        let mallory = &mallories[round % 2];
        let opening: Vec<_> = (0..25)
            .map(|_| {
                let mut client = mallory.again();
                tokio::spawn(
                    async move { client.send(get(WATCH, "watch")).await.expect("an answer") },
                )
            })
            .collect();
        let mut open = Vec::new();
        for task in opening {
            open.push(bounded("a watch", task).await.expect("no panic"));
        }
        assert!(
            open.iter().all(|response| response.status() == 200),
            "round {round}"
        );
        drop(open);
        world.upstream.until_open(1).await;
    }
    let requests = world.upstream.seen();
    let shared = requests
        .iter()
        .filter(|request| request.connection == requests[0].connection)
        .count();
    assert!(
        shared > 1_000,
        "only {shared} on the connection of the victim"
    );
    world.upstream.let_through(1);
    assert_eq!(Answer::read(watch).await.body.len(), CHUNK);
}

#[tokio::test]
async fn streams_cancelled_in_a_burst_harm_only_who_sent_them() {
    let world = World::new();
    let mut victim = world.user("victim", &[]).await;
    let first = victim.get(POD, "echo").await.connection();
    for _ in 0..5 {
        let mallory = world.user("mallory", &[]).await;
        let burst: Vec<_> = (0..100)
            .map(|_| {
                let mut client = mallory.again();
                tokio::spawn(async move { client.send_patiently(get(POD, "silent")).await.is_ok() })
            })
            .collect();
        tokio::task::yield_now().await;
        burst.iter().for_each(|task| task.abort());
        assert_eq!(victim.get(POD, "echo").await.status, 200);
    }
    world.upstream.until_open(0).await;
    world.proxy.until_idle().await;
    assert_eq!(victim.get(POD, "echo").await.connection(), first);
}

#[tokio::test]
async fn a_client_that_floods_one_connection_gets_all_its_answers() {
    let world = World::new();
    let client = world.user("jane", &[]).await;
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let mut client = client.again();
            tokio::spawn(async move {
                client
                    .send_patiently(get(POD, "echo"))
                    .await
                    .map(|answer| answer.status())
            })
        })
        .collect();
    for call in calls {
        assert_eq!(
            bounded("an answer", call)
                .await
                .expect("no panic")
                .expect("an answer"),
            200
        );
    }
    eventually("all answered", || world.upstream.open() == 0).await;
}

#[tokio::test]
async fn the_spelling_of_a_path_does_not_change_who_asks_for_what() {
    let world = World::new();
    let mut client: Client = world.user("jane", &[]).await;
    for path in [
        "/api/v1//namespaces/default/pods",
        "/api/v1/namespaces/..%2f..%2fx/pods",
        "//api/v1/pods",
        "/%61pi/v1/pods",
    ] {
        let answer = client.get(path, "echo").await;
        if answer.status == 200 {
            assert_eq!(
                world.upstream.last().path,
                path,
                "passed on as it came, or refused"
            );
        } else {
            assert!(
                (300..500).contains(&answer.status.as_u16()),
                "{path}: {answer:?}"
            );
        }
    }
}
