//! Which headers cross the proxy, and which never do.

mod support;

use support::client::{Client, get, post, with, with_token};
use support::{POD, Payload, Seen, World, token, upstream};

/// What a client could write to be taken for somebody else.
const CLAIMS: [(&str, &str); 9] = [
    ("X-Remote-User", "admin"),
    ("x-remote-group", "system:masters"),
    ("X-REMOTE-UID", "1"),
    ("X-Remote-Extra-Scopes", "all"),
    ("X_Remote_User", "admin"),
    ("x_remote-group", "system:masters"),
    ("X-Remote_Extra_a", "b"),
    ("x-kubernetes-peer-proxied", "true"),
    ("Forwarded", "for=6.6.6.6"),
];

fn claiming(mut request: http::Request<Payload>) -> http::Request<Payload> {
    for (name, value) in CLAIMS {
        request = with(request, name, value);
    }
    request
}

async fn both(world: &World) -> [Client; 2] {
    [
        world.user("jane", &["dev"]).await,
        world.user_http1("jane", &["dev"]).await,
    ]
}

async fn seen(world: &World, client: &mut Client, request: http::Request<Payload>) -> Seen {
    let answer = client.call(request).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    world.upstream.last()
}

#[tokio::test]
async fn what_a_client_claims_to_be_never_arrives_on_either_protocol() {
    let world = World::new();
    for mut client in both(&world).await {
        let seen = seen(&world, &mut client, claiming(get(POD, "echo"))).await;
        assert_eq!(seen.values("x-remote-user"), ["jane"]);
        assert_eq!(seen.values("x-remote-group"), ["dev"]);
        let remote = seen.named("x-remote-");
        assert!(
            remote.iter().all(
                |name| ["x-remote-user", "x-remote-group"].contains(&&**name)
                    || name
                        .starts_with("x-remote-extra-authentication.kubernetes.io%2fcredential-id")
            ),
            "{remote:?}"
        );
        assert!(
            !seen.headers.keys().any(|name| name.as_str().contains('_')),
            "{:?}",
            seen.headers
        );
        assert_eq!(seen.value("x-kubernetes-peer-proxied"), None);
        assert_eq!(seen.value("forwarded"), None);
    }
}

#[tokio::test]
async fn a_token_or_no_credential_carries_no_claim_either() {
    let world = World::new();
    let account = token::rs256(&token::claims("default", "web"));
    let tls = world.pki.tls();
    for mut client in [
        Client::http2(world.proxy.main(), &tls).await,
        Client::http1(world.proxy.main(), &tls).await,
    ] {
        for request in [
            claiming(get(POD, "echo")),
            with_token(claiming(get(POD, "echo")), &account),
        ] {
            let seen = seen(&world, &mut client, request).await;
            assert_eq!(seen.certificate, None);
            assert_eq!(seen.named("x-remote-"), Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn custom_identity_headers_are_used_and_cannot_be_claimed() {
    let world = World::with(upstream::Settings::default(), |config| {
        let names = &mut config.upstream.request_headers;
        names.user = "X-Who".to_owned();
        names.group = "X-Team".to_owned();
        names.extra_prefix = "X-More-".to_owned();
        names.uid = Some("X-Number".to_owned());
    });
    for mut client in both(&world).await {
        let mut request = claiming(get(POD, "echo"));
        for name in [
            "x-who", "X_Who", "x-team", "x-number", "X-More-a", "x_more_a",
        ] {
            request = with(request, name, "forged");
        }
        let seen = seen(&world, &mut client, with(request, "x-who-else", "kept")).await;
        assert_eq!(seen.values("x-who"), ["jane"]);
        assert_eq!(seen.values("x-team"), ["dev"]);
        assert_eq!(seen.value("x-who-else"), Some("kept"));
        assert_eq!(seen.named("x-remote-"), Vec::<String>::new());
        assert!(
            seen.headers.values().all(|value| value != "forged"),
            "{:?}",
            seen.headers
        );
    }
}

#[tokio::test]
async fn identities_are_asserted_only_with_the_front_proxy_certificate_and_nothing_else_uses_it() {
    let world = World::new();
    let account = token::rs256(&token::claims("default", "web"));
    let mut jane = world.user("jane", &["dev"]).await;
    let mut bob = world.user_http1("bob", &[]).await;
    let mut stranger = world.stranger().await;
    for _ in 0..3 {
        jane.get(POD, "echo").await;
        bob.get(POD, "echo").await;
        stranger.get(POD, "echo").await;
        stranger.call(with_token(get(POD, "echo"), &account)).await;
        stranger.call(with_token(get(POD, "echo"), "opaque")).await;
    }
    let seen = world.upstream.seen();
    assert_eq!(seen.len(), 15);
    for one in &seen {
        let asserted = one.value("x-remote-user").is_some();
        assert_eq!(
            asserted,
            one.certificate.as_deref() == Some("front-proxy-client"),
            "{one:?}"
        );
        assert!(
            !(asserted && one.value("authorization").is_some()),
            "{one:?}"
        );
        let neighbours = seen
            .iter()
            .filter(|other| other.connection == one.connection);
        assert!(
            neighbours
                .into_iter()
                .all(|other| other.value("x-remote-user").is_some() == asserted),
            "{one:?}"
        );
    }
}

#[tokio::test]
async fn a_certificate_beats_a_token_and_the_token_stays_here() {
    let world = World::new();
    for mut client in both(&world).await {
        let seen = seen(&world, &mut client, with_token(get(POD, "echo"), "secret")).await;
        assert_eq!(seen.values("x-remote-user"), ["jane"]);
        assert_eq!(seen.value("authorization"), None);
    }
}

#[tokio::test]
async fn a_token_arrives_as_it_was_sent() {
    let world = World::new();
    let account = token::rs256(&token::claims("default", "web"));
    let mut client = world.stranger().await;
    let seen = seen(&world, &mut client, with_token(get(POD, "echo"), &account)).await;
    assert_eq!(
        seen.value("authorization"),
        Some(&*format!("Bearer {account}"))
    );
    assert_eq!(seen.pool(), "tokens");
}

#[tokio::test]
async fn headers_of_this_hop_stay_on_it() {
    let world = World::new();
    let mut client = world.user_http1("jane", &[]).await;
    let request = with(get(POD, "echo"), "connection", "x-hop, keep-alive");
    let request = with(
        with(with(request, "x-hop", "1"), "keep-alive", "timeout=5"),
        "proxy-connection",
        "keep-alive",
    );
    let request = with(
        with(request, "proxy-authorization", "Basic eDp5"),
        "x-stay",
        "1",
    );
    let seen = seen(&world, &mut client, request).await;
    for gone in [
        "connection",
        "x-hop",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
    ] {
        assert_eq!(seen.value(gone), None, "{gone}");
    }
    assert_eq!(seen.value("x-stay"), Some("1"));
}

#[tokio::test]
async fn a_connection_header_cannot_name_what_carries_identity() {
    let world = World::new();
    let options = [
        "X-Remote-User",
        "Impersonate-User",
        "impersonate-extra-a",
        "authorization",
        "x-forwarded-for",
        "X_Remote_Group",
    ];
    for option in options {
        let mut client = world.user_http1("jane", &[]).await;
        let request = with(get(POD, "echo"), "connection", &format!("close, {option}"));
        let answer = client
            .call(with(request, "impersonate-user", "admin"))
            .await;
        assert_eq!(answer.status, 400, "{option}");
        assert_eq!(answer.json()["kind"], "Status");
    }
    assert_eq!(world.upstream.seen().len(), 0);
}

#[tokio::test]
async fn impersonation_is_the_servers_to_judge() {
    let world = World::new();
    for mut client in both(&world).await {
        let request = with(
            with(get(POD, "echo"), "impersonate-user", "bob"),
            "impersonate-group",
            "dev",
        );
        let seen = seen(&world, &mut client, request).await;
        assert_eq!(seen.value("impersonate-user"), Some("bob"));
        assert_eq!(seen.value("impersonate-group"), Some("dev"));
        assert_eq!(seen.values("x-remote-user"), ["jane"]);
    }
}

#[tokio::test]
async fn the_clients_address_is_ours_to_tell() {
    let world = World::new();
    for mut client in both(&world).await {
        let request = with(
            with(get(POD, "echo"), "x-forwarded-for", "6.6.6.6"),
            "X-Forwarded-For",
            "7.7.7.7",
        );
        let seen = seen(&world, &mut client, with(request, "x-real-ip", "6.6.6.6")).await;
        assert_eq!(seen.values("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(seen.value("x-real-ip"), None);
    }
}

#[tokio::test]
async fn te_says_trailers_or_nothing() {
    let world = World::new();
    for mut client in both(&world).await {
        let kept = seen(
            &world,
            &mut client,
            with(get(POD, "echo"), "te", "trailers"),
        )
        .await;
        assert_eq!(kept.value("te"), Some("trailers"));
    }
    let mut client = world.user_http1("jane", &[]).await;
    let gone = seen(&world, &mut client, with(get(POD, "echo"), "te", "gzip")).await;
    assert_eq!(gone.value("te"), None);
}

#[tokio::test]
async fn several_te_headers_are_no_way_around_that() {
    let world = World::new();
    let mut client = world.user_http1("jane", &[]).await;
    let request = with(with(get(POD, "echo"), "te", "trailers"), "te", "gzip");
    let seen = seen(&world, &mut client, request).await;
    assert!(
        seen.values("te").iter().all(|value| *value == "trailers"),
        "{:?}",
        seen.values("te")
    );
}

#[tokio::test]
async fn trailers_of_an_answer_arrive() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    let answer = client
        .call(with(get(POD, "trailers"), "te", "trailers"))
        .await;
    assert_eq!(answer.text(), "body");
    assert_eq!(answer.trailers["x-checksum"], "42");
}

#[tokio::test]
async fn trailers_of_a_request_arrive() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    let (feed, body) = Payload::channel();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-checksum", "42".parse().expect("a value"));
    feed.try_send(Ok(http_body::Frame::data("body".into())))
        .expect("room");
    feed.try_send(Ok(http_body::Frame::trailers(trailers)))
        .expect("room");
    drop(feed);
    let answer = client.call(post(POD, "count", body)).await;
    assert_eq!(answer.json()["bytes"], 4);
    assert_eq!(
        answer.json()["trailers"],
        serde_json::json!([["x-checksum", "42"]])
    );
}

#[tokio::test]
async fn the_host_a_client_named_is_the_host_the_server_sees() {
    let world = World::new();
    let tls = world.pki.tls();
    // HTTP/1.1 to HTTP/2, HTTP/2 to HTTP/2, then both to HTTP/1.1, which strangers are given.
    let clients = [
        (world.user_http1("jane", &[]).await, true),
        (world.user("jane", &[]).await, true),
        (Client::http2(world.proxy.main(), &tls).await, false),
        (Client::http1(world.proxy.main(), &tls).await, false),
    ];
    for (mut client, http2) in clients {
        let seen = seen(
            &world,
            &mut client,
            with(get(POD, "echo"), "host", "api.example:8443"),
        )
        .await;
        assert_eq!(seen.http2, http2);
        assert_eq!(seen.host, "api.example:8443");
    }
}

#[tokio::test]
async fn what_clients_and_audit_need_passes_unchanged() {
    let world = World::new();
    let kept = [
        ("accept", "application/vnd.kubernetes.protobuf, */*"),
        ("accept-encoding", "gzip"),
        ("user-agent", "kubelet/v1.36.1"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("audit-id", "f0f0"),
        ("x-custom", "a, b"),
    ];
    for mut client in both(&world).await {
        let request = kept
            .iter()
            .fold(get(POD, "echo"), |request, (name, value)| {
                with(request, name, value)
            });
        let seen = seen(&world, &mut client, request).await;
        for (name, value) in kept {
            assert_eq!(seen.value(name), Some(value), "{name}");
        }
    }
}
