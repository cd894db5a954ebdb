//! Who is calling, and which upstream connections may carry it.

mod support;

use http::Request;
use serde_json::{Value, json};
use support::client::{Client, get, with, with_token};
use support::pki::{Authority, Leaf};
use support::{POD, Pair, Payload, World, token, upstream};

/// The pool that carries `request` on a fresh connection without a certificate.
async fn pool(world: &World, request: Request<Payload>) -> String {
    let answer = world.stranger().await.call(request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.pool()
}

fn pod(token: &str) -> Request<Payload> {
    with_token(get(POD, "echo"), token)
}

async fn status_with(world: &World, pair: &Pair, request: Request<Payload>) -> u16 {
    let tls = world.pki.tls().certificate(pair);
    Client::http2(world.proxy.main(), &tls)
        .await
        .call(request)
        .await
        .status
        .as_u16()
}

#[tokio::test]
async fn a_certificate_of_the_cluster_is_asserted_with_all_its_groups() {
    let world = World::new();
    let answer = world
        .user("jane", &["dev", "ops"])
        .await
        .get(POD, "echo")
        .await;
    assert_eq!(answer.pool(), "asserted");
    let seen = world.upstream.last();
    assert_eq!(seen.values("x-remote-user"), ["jane"]);
    assert_eq!(seen.values("x-remote-group"), ["dev", "ops"]);
    let credential = seen.value("x-remote-extra-authentication.kubernetes.io%2fcredential-id");
    assert!(
        credential.is_some_and(|id| id.starts_with("X509SHA256=") && id.len() == 75),
        "{credential:?}"
    );
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_401_and_not_a_broken_handshake() {
    let world = World::new();
    let foreign = Authority::new("kubernetes");
    let bad = [
        world.pki.ca.issue(&Leaf {
            user: "jane",
            expired: true,
            ..Leaf::default()
        }),
        world.pki.ca.issue(&Leaf {
            user: "jane",
            not_yet_valid: true,
            ..Leaf::default()
        }),
        // An authority of the same name, and one the server trusts for something else.
        foreign.issue(&Leaf {
            user: "jane",
            ..Leaf::default()
        }),
        world.pki.front_proxy_ca.issue(&Leaf {
            user: "front-proxy-client",
            ..Leaf::default()
        }),
        // A server's certificate is no client's.
        support::pki::serving(&world.pki.ca),
    ];
    for pair in &bad {
        assert_eq!(status_with(&world, pair, get(POD, "echo")).await, 401);
    }
    assert_eq!(world.upstream.seen().len(), 0);
}

#[tokio::test]
async fn a_token_helps_a_certificate_that_is_not_good() {
    let world = World::new();
    let pair = world.pki.ca.issue(&Leaf {
        user: "jane",
        expired: true,
        ..Leaf::default()
    });
    let token = token::rs256(&token::claims("default", "web"));
    assert_eq!(status_with(&world, &pair, pod(&token)).await, 200);
    assert_eq!(world.upstream.last().pool(), "tokens");
}

#[tokio::test]
async fn a_certificate_without_a_name_is_nobody() {
    let world = World::new();
    let pair = world.pki.ca.issue(&Leaf {
        groups: &["system:masters"],
        ..Leaf::default()
    });
    // Not the anonymous: to the server's request-header authenticator it is a bad certificate.
    assert_eq!(status_with(&world, &pair, get(POD, "echo")).await, 401);
    assert_eq!(world.upstream.seen().len(), 0);
    let token = token::rs256(&token::claims("default", "web"));
    assert_eq!(status_with(&world, &pair, pod(&token)).await, 200);
}

/// The server breaks off HTTP/2 connections on which anybody is anonymous, however that was authenticated.
#[tokio::test]
async fn a_certificate_of_nobody_goes_over_connections_the_server_may_close() {
    let world = World::new();
    let anonymous = world.pki.user("system:anonymous", &[]);
    let unauthenticated = world.pki.user("jane", &["system:unauthenticated"]);
    for pair in [anonymous, unauthenticated] {
        assert_eq!(status_with(&world, &pair, get(POD, "echo")).await, 200);
        let seen = world.upstream.last();
        assert_eq!((seen.pool(), seen.http2), ("asserted", false));
    }
}

/// The server looks for one in requests for a WebSocket only, and breaks off HTTP/2 connections of the anonymous.
#[tokio::test]
async fn a_token_among_sub_protocols_counts_only_with_a_websocket() {
    let world = World::new();
    let token = token::rs256(&token::claims("default", "web"));
    let protocols = format!(
        "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.{}",
        base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &token)
    );
    let request = || with(get(POD, "echo"), "sec-websocket-protocol", &protocols);
    assert_eq!(pool(&world, request()).await, "unverified");
    let pair = world.pki.ca.issue(&Leaf {
        user: "jane",
        expired: true,
        ..Leaf::default()
    });
    assert_eq!(status_with(&world, &pair, request()).await, 401);
}

#[tokio::test]
async fn nobody_at_all_goes_over_connections_the_server_may_close() {
    let world = World::new();
    assert_eq!(pool(&world, get("/version", "echo")).await, "unverified");
    assert_eq!(world.upstream.last().value("authorization"), None);
}

#[tokio::test]
async fn a_service_account_signed_by_the_cluster_goes_to_the_tokens_pool_at_once() {
    let world = World::new();
    for token in [
        token::rs256(&token::claims("default", "web")),
        token::es256(&token::claims("default", "web")),
    ] {
        assert_eq!(pool(&world, pod(&token)).await, "tokens");
    }
}

#[tokio::test]
async fn a_token_with_anything_wrong_is_nobodys_until_the_server_takes_it() {
    let world = World::new();
    let good = || token::claims("default", "web");
    let other = |name, value| token::rs256(&token::changed(good(), name, value));
    let bad = [
        ("issuer", other("iss", json!("https://evil.example"))),
        ("no issuer", other("iss", Value::Null)),
        ("audience", other("aud", json!(["vault"]))),
        ("no audience", other("aud", Value::Null)),
        ("expired", other("exp", json!(1_000_000_000))),
        ("no end", other("exp", Value::Null)),
        ("not yet valid", other("nbf", json!(3_999_999_999_u64))),
        (
            "subject",
            other("sub", json!("system:serviceaccount:kube-system:admin")),
        ),
        ("no private claims", other("kubernetes.io", Value::Null)),
        ("no signature", token::unsigned(&good())),
        ("symmetric", token::hs256_with_public_key(&good())),
        ("foreign key", token::foreign(&good())),
        (
            "cut short",
            token::rs256(&good()).split_at(300).0.to_owned(),
        ),
        ("no token at all", "x".to_owned()),
    ];
    for (what, token) in bad {
        assert_eq!(pool(&world, pod(&token)).await, "unverified", "{what}");
        assert_eq!(
            world.upstream.last().value("authorization"),
            Some(&*format!("Bearer {token}")),
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_changed_payload_is_found_out() {
    let world = World::new();
    let token = token::rs256(&token::claims("default", "web"));
    let other = token::rs256(&token::claims("kube-system", "admin"));
    let (mut parts, others): (Vec<&str>, Vec<&str>) =
        (token.split('.').collect(), other.split('.').collect());
    parts[1] = others[1];
    assert_eq!(pool(&world, pod(&parts.join("."))).await, "unverified");
}

#[tokio::test]
async fn a_token_the_server_took_moves_to_the_tokens_pool() {
    let world = World::new();
    assert_eq!(pool(&world, pod("opaque")).await, "unverified");
    assert_eq!(pool(&world, pod("opaque")).await, "tokens");
    assert_eq!(pool(&world, pod("another")).await, "unverified");
}

#[tokio::test]
async fn a_forbidden_token_is_a_token_all_the_same() {
    let world = World::new();
    let mut client = world.stranger().await;
    assert_eq!(
        client
            .call(with_token(get(POD, "status 403"), "opaque"))
            .await
            .status,
        403
    );
    assert_eq!(pool(&world, pod("opaque")).await, "tokens");
}

#[tokio::test]
async fn a_token_the_server_refuses_stays_away_from_connections_of_others() {
    let world = World::new();
    for _ in 0..3 {
        let mut client = world.stranger().await;
        assert_eq!(
            client
                .call(with_token(get(POD, "status 401"), "guess"))
                .await
                .status,
            401
        );
        assert_eq!(world.upstream.last().pool(), "unverified");
    }
}

#[tokio::test]
async fn a_refusal_is_remembered_of_a_token_that_was_believed() {
    let world = World::new();
    let account = token::rs256(&token::claims("default", "gone"));
    for (token, first) in [(&*account, "tokens"), ("opaque", "unverified")] {
        assert_eq!(pool(&world, pod(token)).await, first);
        let mut client = world.stranger().await;
        assert_eq!(
            client
                .call(with_token(get(POD, "status 401"), token))
                .await
                .status,
            401
        );
        assert_eq!(world.upstream.last().pool(), "tokens");
        assert_eq!(
            pool(&world, pod(token)).await,
            "unverified",
            "refused, and no longer believed"
        );
    }
}

#[tokio::test]
async fn whose_an_unknown_token_is_the_server_says_and_that_decides_its_class() {
    let settings = upstream::Settings {
        reviewed_as: Some("system:kube-scheduler"),
        ..upstream::Settings::default()
    };
    let world = World::with(settings, |_| {});
    let of_class =
        |page: &support::Page, class| page.sum("spillway_requests_total", &[("class", class)]);
    assert_eq!(pool(&world, pod("opaque")).await, "unverified");
    world
        .proxy
        .until("unattributed", |page| of_class(page, "unattributed") == 1.0)
        .await;
    // The answer to the review is on its way; from then on, the class stays.
    support::bounded("attributed", async {
        while of_class(&world.proxy.metrics().await, "control-plane") == 0.0 {
            pool(&world, pod("opaque")).await;
        }
    })
    .await;
    let before = world.proxy.metrics().await;
    for _ in 0..5 {
        assert_eq!(pool(&world, pod("opaque")).await, "tokens");
    }
    let more = of_class(&before, "control-plane") + 5.0;
    world
        .proxy
        .until("attributed for good", |page| {
            of_class(page, "control-plane") == more
        })
        .await;
    let reviews = world.upstream.reviews();
    assert_eq!(reviews.len(), 1, "asked once: {reviews:?}");
    assert_eq!(reviews[0].value("authorization"), Some("Bearer opaque"));
    assert_eq!(reviews[0].named("x-remote-"), Vec::<String>::new());
    assert_eq!(reviews[0].certificate, None);
}

#[tokio::test]
async fn the_server_is_not_asked_about_tokens_it_refused_or_we_verified() {
    let world = World::new();
    pool(&world, pod(&token::rs256(&token::claims("default", "web")))).await;
    let mut client = world.stranger().await;
    assert_eq!(
        client
            .call(with_token(get(POD, "status 401"), "guess"))
            .await
            .status,
        401
    );
    world.user("jane", &[]).await.get(POD, "echo").await;
    // Asked for certain, and after all that.
    pool(&world, pod("opaque")).await;
    support::eventually("a review", || !world.upstream.reviews().is_empty()).await;
    let reviews = world.upstream.reviews();
    assert!(
        reviews
            .iter()
            .all(|review| review.value("authorization") == Some("Bearer opaque")),
        "{reviews:?}"
    );
}

/// kube-apiserver answers some requests before it authenticates anybody: `?timeout=x` is 400 in its filter for deadlines.
#[tokio::test]
async fn an_answer_that_says_nothing_about_the_token_makes_nobody_trusted() {
    let world = World::new();
    for status in [400, 413, 429, 500, 503, 504] {
        let token = format!("garbage-{status}");
        let mut client = world.stranger().await;
        let request = get("/api/v1/pods?timeout=x", &format!("status {status}"));
        assert_eq!(
            client.call(with_token(request, &token)).await.status,
            status
        );
        assert_eq!(
            pool(&world, pod(&token)).await,
            "unverified",
            "after {status}"
        );
    }
}

#[tokio::test]
async fn a_websockets_protocol_may_carry_the_token() {
    use base64::Engine as _;
    let world = World::new();
    let token = token::rs256(&token::claims("default", "web"));
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&token);
    let protocols = format!("v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.{encoded}");
    for (protocols, unattributed) in [(&*protocols, 0.0), ("v5.channel.k8s.io", 1.0)] {
        let request = with(get(support::EXEC, "status 403"), "connection", "Upgrade");
        let request = with(request, "upgrade", "websocket");
        let request = with(request, "sec-websocket-protocol", protocols);
        let mut client = Client::http1(world.proxy.main(), &world.pki.tls()).await;
        assert_eq!(client.call(request).await.status, 403);
        let seen = world.upstream.last();
        assert_eq!(seen.value("sec-websocket-protocol"), Some(protocols));
        let of_class = [("class", "unattributed")];
        let page = world.proxy.until("counted", |page| {
            page.sum("spillway_requests_total", &[]) >= 1.0 + unattributed
        });
        let page = page.await;
        assert_eq!(page.sum("spillway_requests_total", &of_class), unattributed);
    }
}

#[tokio::test]
async fn two_callers_on_one_connection_are_told_apart() {
    let world = World::new();
    let mut client = world.stranger().await;
    let tokens = [
        token::rs256(&token::claims("a", "a")),
        token::rs256(&token::claims("b", "b")),
    ];
    for _ in 0..3 {
        for token in &tokens {
            assert_eq!(client.call(pod(token)).await.pool(), "tokens");
            assert_eq!(
                world.upstream.last().value("authorization"),
                Some(&*format!("Bearer {token}"))
            );
        }
        assert_eq!(client.get(POD, "echo").await.pool(), "unverified");
        assert_eq!(world.upstream.last().value("authorization"), None);
    }
}

#[tokio::test]
async fn both_versions_of_tls_are_spoken() {
    let world = World::new();
    let pair = world.pki.user("jane", &[]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let tls = world.pki.tls().certificate(&pair).version(version);
        for mut client in [
            Client::http1(world.proxy.main(), &tls).await,
            Client::http2(world.proxy.main(), &tls).await,
        ] {
            assert_eq!(client.get(POD, "echo").await.pool(), "asserted");
        }
    }
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let world = World::new();
    let pair = world.pki.user("jane", &[]);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        // One configuration, so that a session could be found again.
        let config = world
            .pki
            .tls()
            .certificate(&pair)
            .version(version)
            .resuming()
            .config("http/1.1");
        for _ in 0..3 {
            let stream = support::client::connect(world.proxy.main(), config.clone())
                .await
                .expect("TLS");
            let kind = stream.get_ref().1.handshake_kind();
            assert_eq!(kind, Some(rustls::HandshakeKind::Full), "{version:?}");
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream))
                    .await
                    .expect("HTTP/1.1");
            tokio::spawn(connection);
            let request = with(get(POD, "echo"), "host", "kubernetes");
            let answer =
                support::Answer::read(sender.send_request(request).await.expect("an answer")).await;
            assert_eq!(answer.pool(), "asserted");
        }
    }
}

#[tokio::test]
async fn a_client_must_hold_the_key_of_what_it_shows() {
    let world = World::new();
    let (jane, mallory) = (world.pki.user("jane", &[]), world.pki.user("mallory", &[]));
    let mixed = Pair {
        certificate: jane.certificate,
        key: mallory.key,
    };
    let result = support::client::connect_mixed(&world.pki, world.proxy.main(), &mixed).await;
    assert!(result.is_err(), "the handshake must fail");
}

#[tokio::test]
async fn keys_may_be_left_out_and_then_no_token_is_verified() {
    let world = World::with(upstream::Settings::default(), |config| {
        config.service_accounts.keys.clear()
    });
    let token = token::rs256(&token::claims("default", "web"));
    assert_eq!(pool(&world, pod(&token)).await, "unverified");
    assert_eq!(
        pool(&world, pod(&token)).await,
        "tokens",
        "the server took it"
    );
}
