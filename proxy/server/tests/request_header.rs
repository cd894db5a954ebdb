//! Identities that an authenticating proxy, an aggregator or a peer apiserver states in headers.

mod support;

use http::Request;
use support::client::{Client, get, with, with_token};
use support::pki::{Authority, Leaf};
use support::{POD, Pair, Payload, Pki, Proxy, Upstream, World, token, upstream};

/// A world in whose main lane clients of an authority of its own may state identities.
struct Stating {
    world: World,
    authority: Authority,
}

impl Stating {
    fn new() -> Self {
        Self::with(&["front"], |_| {})
    }

    fn with(allowed: &[&str], change: impl FnOnce(&mut config::Config)) -> Self {
        let pki = Pki::new();
        let authority = Authority::new("peers-ca");
        let path = pki.write("peers.crt", &authority.pem);
        let upstream = Upstream::start(&pki, upstream::Settings::default());
        let proxy = Proxy::start(&pki, upstream.address(), |config| {
            config.request_header.client_ca = Some(path);
            config.request_header.allowed_names =
                allowed.iter().map(|name| (*name).to_owned()).collect();
            change(config);
        });
        let world = World {
            proxy,
            upstream,
            pki,
        };
        Self { world, authority }
    }

    fn pair(&self, user: &str) -> Pair {
        self.authority.issue(&Leaf {
            user,
            ..Leaf::default()
        })
    }

    async fn client(&self, pair: &Pair) -> Client {
        let tls = self.world.pki.tls().certificate(pair);
        Client::http2(self.world.proxy.main(), &tls).await
    }

    async fn ask(&self, pair: &Pair, request: Request<Payload>) -> u16 {
        self.client(pair).await.call(request).await.status.as_u16()
    }
}

fn stating(user: &str) -> Request<Payload> {
    with(get(POD, "echo"), "x-remote-user", user)
}

#[tokio::test]
async fn a_peer_states_who_it_speaks_for_and_that_is_asserted() {
    let stating_world = Stating::new();
    let request = with(stating("jane"), "x-remote-group", "dev");
    let request = with(request, "x-remote-group", "ops");
    let request = with(request, "x-remote-extra-acme.com%2fProject%41", "a");
    let request = with(request, "x-remote-uid", "u-1");
    let request = with(request, "authorization", "Bearer something");
    let front = stating_world.pair("front");
    assert_eq!(stating_world.ask(&front, request).await, 200);
    let seen = stating_world.world.upstream.last();
    assert_eq!(seen.pool(), "asserted");
    assert_eq!(seen.values("x-remote-user"), ["jane"]);
    assert_eq!(seen.values("x-remote-group"), ["dev", "ops"]);
    // The peer's `%41` was a capital letter and stays one.
    assert_eq!(
        seen.value("x-remote-extra-acme.com%2fproject%41"),
        Some("a")
    );
    assert_eq!(
        seen.value("x-remote-uid"),
        None,
        "no uid header is configured"
    );
    assert_eq!(seen.value("authorization"), None);
    assert_eq!(seen.named("x-remote-extra-authentication"), [""; 0]);
}

#[tokio::test]
async fn one_connection_may_speak_for_many() {
    let stating_world = Stating::new();
    let mut client = stating_world.client(&stating_world.pair("front")).await;
    for user in ["jane", "bob", "system:serviceaccount:default:web"] {
        assert_eq!(client.call(stating(user)).await.status, 200);
        assert_eq!(
            stating_world.world.upstream.last().value("x-remote-user"),
            Some(user)
        );
    }
}

#[tokio::test]
async fn names_of_ones_own_are_read_and_never_passed_on() {
    let stating_world = Stating::with(&[], |config| {
        let stated = &mut config.request_header;
        stated.user_headers = vec!["X-First".to_owned(), "X-Second".to_owned()];
        stated.group_headers = vec!["X-Team".to_owned()];
        stated.uid_headers = vec!["X-Id".to_owned()];
        stated.extra_prefixes = vec!["X-More-".to_owned()];
        config.upstream.request_headers.uid = Some("X-Remote-Uid".to_owned());
    });
    let request = with(get(POD, "echo"), "x-second", "jane");
    let request = with(request, "x-team", "dev");
    let request = with(request, "x-id", "u-1");
    let request = with(request, "x-more-k", "v");
    let request = with(request, "x-remote-user", "root");
    let request = with(request, "x-remote-extra-k", "w");
    // No name is listed, so any certificate of the authority may.
    assert_eq!(
        stating_world
            .ask(&stating_world.pair("anything"), request)
            .await,
        200
    );
    let seen = stating_world.world.upstream.last();
    assert_eq!(seen.values("x-remote-user"), ["jane"]);
    assert_eq!(seen.values("x-remote-group"), ["dev"]);
    assert_eq!(seen.values("x-remote-uid"), ["u-1"]);
    assert_eq!(seen.values("x-remote-extra-k"), ["v"]);
    // And from one who may not, they are taken off under any name.
    let mut jane = stating_world.world.user("eve", &[]).await;
    let request = with(get(POD, "echo"), "x-second", "root");
    let request = with(with(request, "x_team", "system:masters"), "x_more_k", "v");
    assert_eq!(jane.call(request).await.status, 200);
    let seen = stating_world.world.upstream.last();
    assert_eq!(seen.values("x-remote-user"), ["eve"]);
    for prefix in ["x-first", "x-second", "x-team", "x-id", "x-more-"] {
        assert_eq!(seen.named(prefix), [""; 0], "{prefix}");
    }
}

#[tokio::test]
async fn a_peer_that_states_nobody_is_itself_and_that_is_nobody() {
    let stating_world = Stating::new();
    let front = stating_world.pair("front");
    for request in [
        get(POD, "echo"),
        stating(""),
        with(get(POD, "echo"), "x-remote-group", "system:masters"),
    ] {
        assert_eq!(stating_world.ask(&front, request).await, 401);
    }
    assert_eq!(stating_world.world.upstream.seen().len(), 0);
    let token = token::rs256(&token::claims("default", "web"));
    let status = stating_world
        .ask(&front, with_token(get(POD, "echo"), &token))
        .await;
    assert_eq!(status, 200);
    assert_eq!(stating_world.world.upstream.last().pool(), "tokens");
}

#[tokio::test]
async fn only_a_listed_name_of_that_authority_may_state_anybody() {
    let stating_world = Stating::new();
    let world = &stating_world.world;
    let expired = stating_world.authority.issue(&Leaf {
        user: "front",
        expired: true,
        ..Leaf::default()
    });
    let impostor = Authority::new("peers-ca");
    let of = |authority: &Authority| {
        authority.issue(&Leaf {
            user: "front",
            ..Leaf::default()
        })
    };
    for (what, pair) in [
        ("another name", stating_world.pair("other")),
        ("an expired certificate", expired),
        (
            "a server's",
            support::pki::serving(&stating_world.authority),
        ),
        ("an authority of that name", of(&impostor)),
        ("the proxy's own", of(&world.pki.front_proxy_ca)),
    ] {
        assert_eq!(
            stating_world.ask(&pair, stating("root")).await,
            401,
            "{what}"
        );
        // As for the server: the certificate is nothing, the token may be something.
        let token = token::rs256(&token::claims("default", "web"));
        let status = stating_world
            .ask(&pair, with_token(stating("root"), &token))
            .await;
        assert_eq!(status, 200, "{what}");
        let seen = world.upstream.last();
        assert_eq!(
            (seen.pool(), seen.value("x-remote-user")),
            ("tokens", None),
            "{what}"
        );
    }
    // The cluster's own clients, whatever their name, are who they are.
    let mut front = world.user("front", &["dev"]).await;
    assert_eq!(front.call(stating("root")).await.status, 200);
    assert_eq!(world.upstream.last().values("x-remote-user"), ["front"]);
    let mut nobody = world.stranger().await;
    assert_eq!(nobody.call(stating("root")).await.status, 200);
    assert_eq!(world.upstream.last().value("x-remote-user"), None);
}

#[tokio::test]
async fn the_reserved_lane_believes_nobody_about_others() {
    let stating_world = Stating::new();
    let tls = stating_world
        .world
        .pki
        .tls()
        .certificate(&stating_world.pair("front"));
    let mut client = Client::http2(stating_world.world.proxy.reserved(), &tls).await;
    let request = with(stating("root"), "x-remote-group", "system:masters");
    assert_eq!(client.call(request).await.status, 401);
}

#[tokio::test]
async fn a_stated_nobody_goes_over_connections_the_server_may_close() {
    let stating_world = Stating::new();
    let front = stating_world.pair("front");
    let request = with(
        stating("system:anonymous"),
        "x-remote-group",
        "system:unauthenticated",
    );
    assert_eq!(stating_world.ask(&front, request).await, 200);
    let seen = stating_world.world.upstream.last();
    assert_eq!((seen.pool(), seen.http2), ("asserted", false));
    assert_eq!(seen.values("x-remote-user"), ["system:anonymous"]);
    assert_eq!(stating_world.ask(&front, stating("jane")).await, 200);
    assert!(stating_world.world.upstream.last().http2);
}

#[tokio::test]
async fn what_could_not_be_passed_on_as_stated_is_refused() {
    let stating_world = Stating::new();
    let mut client = stating_world.client(&stating_world.pair("front")).await;
    for (name, value) in [
        ("x-remote-user", &b"j\xe4ne"[..]),
        ("x-remote-group", b"\xff"),
        ("x-remote-extra-%ff", b"v"),
    ] {
        let mut request = get(POD, "echo");
        let value = http::HeaderValue::from_bytes(value).expect("a value");
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
        request.headers_mut().insert(name, value);
        let user = http::HeaderValue::from_static("jane");
        request.headers_mut().entry("x-remote-user").or_insert(user);
        assert_eq!(client.call(request).await.status, 401);
    }
    assert_eq!(stating_world.world.upstream.seen().len(), 0);
}

#[tokio::test]
async fn a_peer_is_believed_where_the_request_came_from_and_nobody_else_is() {
    let stating_world = Stating::new();
    let request = |user| {
        let request = with(stating(user), "x-forwarded-for", "198.51.100.6");
        with(request, "x-kubernetes-peer-proxied", "true")
    };
    let front = stating_world.pair("front");
    assert_eq!(stating_world.ask(&front, request("jane")).await, 200);
    let seen = stating_world.world.upstream.last();
    assert_eq!(seen.values("x-forwarded-for"), ["198.51.100.6, 127.0.0.1"]);
    assert_eq!(seen.value("x-kubernetes-peer-proxied"), Some("true"));
    let mut eve = stating_world.world.user("eve", &[]).await;
    assert_eq!(eve.call(request("jane")).await.status, 200);
    let seen = stating_world.world.upstream.last();
    assert_eq!(seen.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.value("x-kubernetes-peer-proxied"), None);
}

#[tokio::test]
async fn without_an_authority_nobody_may_state_anything() {
    let world = World::new();
    let pair = world.pki.front_proxy_ca.issue(&Leaf {
        user: "front-proxy-client",
        ..Leaf::default()
    });
    let tls = world.pki.tls().certificate(&pair);
    let mut client = Client::http2(world.proxy.main(), &tls).await;
    assert_eq!(client.call(stating("root")).await.status, 401);
    assert_eq!(world.upstream.seen().len(), 0);
}

/// Otherwise every client certificate of the cluster could be anybody.
#[tokio::test]
async fn an_authority_that_clients_have_too_is_refused_at_the_start() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let other = Authority::new("other");
    let both = pki.write("both.crt", &format!("{}{}", other.pem, pki.ca.pem));
    let problem = Proxy::try_start(&pki, upstream.address(), |config| {
        config.request_header.client_ca = Some(both);
    });
    let problem = problem.err().map(|problem| problem.to_string());
    assert!(
        problem
            .as_deref()
            .is_some_and(|text| text.contains("tls.client_ca")),
        "{problem:?}"
    );
}

#[tokio::test]
async fn a_removed_authority_is_no_longer_believed_on_open_connections() {
    let stating_world = Stating::new();
    let world = &stating_world.world;
    let mut old = stating_world.client(&stating_world.pair("front")).await;
    assert_eq!(old.call(stating("jane")).await.status, 200);
    let next = Authority::new("peers-ca");
    let applied =
        |page: &support::Page| page.sum("spillway_config_reloads_total", &[("result", "applied")]);
    world.pki.write(
        "peers.crt",
        &format!("{}{}", stating_world.authority.pem, next.pem),
    );
    world.proxy.until("both", |page| applied(page) >= 1.0).await;
    let new = next.issue(&Leaf {
        user: "front",
        ..Leaf::default()
    });
    let mut new = stating_world.client(&new).await;
    assert_eq!(new.call(stating("jane")).await.status, 200);
    assert_eq!(old.call(stating("jane")).await.status, 200);
    world.pki.write("peers.crt", &next.pem);
    world
        .proxy
        .until("the new alone", |page| applied(page) >= 2.0)
        .await;
    assert_eq!(old.call(stating("jane")).await.status, 401);
    assert_eq!(new.call(stating("jane")).await.status, 200);
}
