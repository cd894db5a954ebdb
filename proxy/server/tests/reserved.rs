//! The reserved lane: for the listed alone, whatever the main lane does.

mod support;

use support::client::{Client, get, with_token};
use support::pki::{Authority, Leaf};
use support::{POD, PODS, Pair, WATCH, World, bounded, eventually, token, upstream};

async fn with(world: &World, pair: &Pair) -> Client {
    Client::http2(world.proxy.reserved(), &world.pki.tls().certificate(pair)).await
}

async fn admin(world: &World) -> Client {
    with(
        world,
        &world
            .pki
            .user("kubernetes-admin", &["kubeadm:cluster-admins"]),
    )
    .await
}

#[tokio::test]
async fn the_listed_may_use_it_and_nobody_else() {
    let world = World::with(upstream::Settings::default(), |config| {
        config.reserved.users = vec!["jane".to_owned()];
        config.reserved.service_accounts = vec!["argocd/controller".to_owned()];
    });
    for (user, groups, status) in [
        ("kubernetes-admin", &["kubeadm:cluster-admins"][..], 200),
        ("root", &["system:masters"], 200),
        ("jane", &[], 200),
        ("bob", &["dev"], 403),
        ("system:node:n1", &["system:nodes"], 403),
    ] {
        let answer = with(&world, &world.pki.user(user, groups))
            .await
            .get(POD, "echo")
            .await;
        assert_eq!(answer.status, status, "{user}");
    }
    for (namespace, name, status) in [
        ("argocd", "controller", 200),
        ("default", "controller", 403),
    ] {
        let token = token::rs256(&token::claims(namespace, name));
        let mut client = Client::http2(world.proxy.reserved(), &world.pki.tls()).await;
        assert_eq!(
            client
                .call(with_token(get(POD, "echo"), &token))
                .await
                .status,
            status,
            "{namespace}/{name}"
        );
    }
}

#[tokio::test]
async fn nobody_in_particular_gets_401() {
    let world = World::new();
    let expired = world.pki.ca.issue(&Leaf {
        user: "root",
        groups: &["system:masters"],
        expired: true,
        ..Leaf::default()
    });
    assert_eq!(
        with(&world, &expired).await.get(POD, "echo").await.status,
        401
    );
    let mut stranger = Client::http2(world.proxy.reserved(), &world.pki.tls()).await;
    assert_eq!(stranger.get(POD, "echo").await.status, 401);
    assert_eq!(
        stranger
            .call(with_token(get(POD, "echo"), "opaque"))
            .await
            .status,
        401
    );
    assert_eq!(world.upstream.seen().len(), 0);
}

#[tokio::test]
async fn a_break_glass_certificate_opens_this_lane_and_no_other() {
    let authority = Authority::new("break-glass");
    let pem = authority.pem.clone();
    let world = World::with(upstream::Settings::default(), move |config| {
        let path = config.pki.join("break-glass.crt");
        std::fs::write(&path, pem).expect("written");
        config.reserved.client_ca = Some(path);
    });
    let pair = authority.issue(&Leaf {
        user: "on-call",
        ..Leaf::default()
    });
    assert_eq!(with(&world, &pair).await.get(POD, "echo").await.status, 200);
    let seen = world.upstream.last();
    assert_eq!(seen.values("x-remote-user"), ["on-call"]);
    assert_eq!(seen.certificate.as_deref(), Some("front-proxy-client"));
    let mut main = Client::http2(world.proxy.main(), &world.pki.tls().certificate(&pair)).await;
    assert_eq!(main.get(POD, "echo").await.status, 401);
    let expired = authority.issue(&Leaf {
        user: "on-call",
        expired: true,
        ..Leaf::default()
    });
    assert_eq!(
        with(&world, &expired).await.get(POD, "echo").await.status,
        401
    );
}

#[tokio::test]
async fn it_works_while_every_thread_of_the_main_lane_is_blocked() {
    let world = World::with(upstream::Settings::default(), |config| {
        config.listen.workers = 2
    });
    let mut main = world.user("jane", &[]).await;
    assert_eq!(main.get(POD, "echo").await.status, 200);
    let blocked = world.proxy.block_main_lane();
    assert_eq!(blocked.len(), 2);
    let mut stuck = main.again();
    let waiting = tokio::spawn(async move { stuck.get(POD, "echo").await });
    let mut admin = admin(&world).await;
    for _ in 0..20 {
        assert_eq!(admin.get(POD, "echo").await.status, 200);
        assert_eq!(admin.get(PODS, "stream 4").await.status, 200);
    }
    world.proxy.metrics().await;
    assert!(!waiting.is_finished(), "the main lane was not blocked");
    drop(blocked);
    assert_eq!(
        bounded("the main lane again", waiting)
            .await
            .expect("no panic")
            .status,
        200
    );
}

#[tokio::test]
async fn it_has_upstream_connections_of_its_own() {
    let world = World::new();
    let mut root = world.user("root", &["system:masters"]).await;
    let mut admin = admin(&world).await;
    let mut connections = (Vec::new(), Vec::new());
    for _ in 0..5 {
        connections.0.push(root.get(POD, "echo").await.connection());
        connections
            .1
            .push(admin.get(POD, "echo").await.connection());
    }
    assert!(
        connections
            .0
            .iter()
            .all(|connection| !connections.1.contains(connection)),
        "{connections:?}"
    );
}

#[tokio::test]
async fn requests_beyond_its_bound_are_429_and_its_watches_count() {
    let world = World::with(upstream::Settings::default(), |config| {
        config.reserved.max_in_flight = 3
    });
    let mut client = admin(&world).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let watch = client.send(get(WATCH, "watch")).await.expect("an answer");
        assert_eq!(watch.status(), 200);
        open.push(watch);
    }
    let answer = client.get(POD, "echo").await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), Some("1"));
    open.pop();
    world.upstream.until_open(2).await;
    bounded("a place again", async {
        while client.get(POD, "echo").await.status != 200 {}
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_its_bound_are_closed_and_the_main_lane_has_its_own() {
    let world = World::with(upstream::Settings::default(), |config| {
        config.reserved.max_connections = 2
    });
    let mut first = admin(&world).await;
    // Known by now, and no stranger that would have to make room.
    assert_eq!(first.get(POD, "echo").await.status, 200);
    let second = admin(&world).await;
    assert!(
        world
            .pki
            .tls()
            .connect(world.proxy.reserved(), "h2")
            .await
            .is_err(),
        "a third connection"
    );
    let page = world.proxy.metrics().await;
    let labels = [("lane", "reserved"), ("reason", "max_connections")];
    assert_eq!(page.sum("spillway_refused_connections_total", &labels), 1.0);
    assert_eq!(
        world.user("jane", &[]).await.get(POD, "echo").await.status,
        200
    );
    second.breaker().break_off();
    let one = |page: &support::Page| {
        page.sum("spillway_lane_connections", &[("lane", "reserved")]) == 1.0
    };
    world.proxy.until("one connection left", one).await;
    assert_eq!(admin(&world).await.get(POD, "echo").await.status, 200);
}

#[tokio::test]
async fn without_addresses_there_is_no_such_lane() {
    let world = World::with(upstream::Settings::default(), |config| {
        config.listen.reserved.clear()
    });
    assert_eq!(
        world.user("jane", &[]).await.get(POD, "echo").await.status,
        200
    );
    assert_eq!(
        world
            .proxy
            .metrics()
            .await
            .sum("spillway_lane_up", &[("lane", "reserved")]),
        0.0
    );
}

#[tokio::test]
async fn what_it_carries_is_counted_as_its_own() {
    let world = World::new();
    admin(&world).await.get(POD, "echo").await;
    let labels = [
        ("lane", "reserved"),
        ("class", "reserved"),
        ("verb", "get"),
        ("code", "2xx"),
    ];
    world
        .proxy
        .until("counted", |page| {
            page.sum("spillway_requests_total", &labels) == 1.0
        })
        .await;
    eventually("answered", || world.upstream.open() == 0).await;
}
