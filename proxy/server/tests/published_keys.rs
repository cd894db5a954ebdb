//! The keys kube-apiserver publishes, beside those of the files.

mod support;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};
use support::client::{get, with_token};
use support::{POD, Page, Pki, Proxy, Upstream, World, eventually, token, upstream};

/// A signing key of the server that no file has.
struct Key {
    pair: KeyPair,
    id: &'static str,
}

impl Key {
    fn new(id: &'static str) -> Self {
        Self {
            pair: KeyPair::generate().expect("a key"),
            id,
        }
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.pair.der_bytes()[1..].split_at(32);
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        json!({ "use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.id, "x": x, "y": y })
    }

    fn token(&self, name: &str) -> String {
        let key = EncodingKey::from_ec_pem(self.pair.serialize_pem().as_bytes()).expect("a key");
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.id.to_owned());
        encode(&header, &token::claims("default", name), &key).expect("a token")
    }
}

fn set(keys: &[&Key]) -> String {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

fn fetches(page: &Page, result: &str) -> f64 {
    page.sum(
        "spillway_published_keys_fetches_total",
        &[("result", result)],
    )
}

async fn pool(world: &World, token: &str) -> String {
    let request = with_token(get(POD, "status 401"), token);
    let answer = world.stranger().await.call(request).await;
    assert_eq!(answer.status, 401);
    // The status says the token is bad, so that what is learned from answers stays out of this.
    world.upstream.last().pool().to_owned()
}

/// Asks until the token is verified: every question may be the one after which the keys are fetched.
async fn until_verified(world: &World, key: &Key, tries: &str) {
    let mut number = 0;
    let waiting = async {
        loop {
            number += 1;
            // Each time another token, as the memory of the last one's refusal would stand in the way.
            if pool(world, &key.token(&format!("{tries}-{number}"))).await == "tokens" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "a token of {} was never verified", key.id);
}

fn world(publish: &[&Key]) -> World {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    upstream.publish(set(publish));
    let proxy = Proxy::start(&pki, upstream.address(), |_| {});
    World {
        proxy,
        upstream,
        pki,
    }
}

#[tokio::test]
async fn a_token_of_a_key_only_the_server_has_is_verified_once_it_is_fetched() {
    let key = Key::new("new");
    let world = world(&[&key]);
    world
        .proxy
        .until("fetched", |page| fetches(page, "fetched") >= 1.0)
        .await;
    assert_eq!(pool(&world, &key.token("web")).await, "tokens");
    // The key of the file counts all the same, and nobody else's.
    assert_eq!(
        pool(&world, &token::es256(&token::claims("default", "web"))).await,
        "tokens"
    );
    assert_eq!(
        pool(&world, &Key::new("new").token("web")).await,
        "unverified"
    );
    // Asked for as somebody who may read it and nothing else, on a connection that may assert.
    let asked = world.upstream.fetches().pop().expect("a fetch");
    assert_eq!(asked.certificate.as_deref(), Some("front-proxy-client"));
    assert_eq!(asked.values("x-remote-user"), ["system:spillway"]);
    assert_eq!(
        asked.values("x-remote-group"),
        ["system:serviceaccounts", "system:authenticated"]
    );
}

#[tokio::test]
async fn a_token_that_names_a_new_key_has_it_fetched_but_not_on_its_own_time() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let world = world(&[&old]);
    world
        .proxy
        .until("fetched", |page| fetches(page, "fetched") >= 1.0)
        .await;
    world.upstream.publish(set(&[&old, &new]));
    // The first request does not wait.
    assert_eq!(pool(&world, &new.token("first")).await, "unverified");
    until_verified(&world, &new, "web").await;
    assert_eq!(pool(&world, &old.token("web")).await, "tokens");
}

#[tokio::test]
async fn however_many_unknown_keys_are_named_the_server_is_asked_rarely() {
    let world = world(&[]);
    world
        .proxy
        .until("fetched", |page| fetches(page, "fetched") >= 1.0)
        .await;
    let started = std::time::Instant::now();
    let key = Key::new("made-up");
    for number in 0..200 {
        pool(&world, &key.token(&number.to_string())).await;
    }
    let most = 2 + started.elapsed().as_secs() / 10;
    assert!(world.upstream.fetches().len() as u64 <= most);
}

#[tokio::test]
async fn a_failure_changes_nothing() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let world = world(&[&old]);
    world
        .proxy
        .until("fetched", |page| fetches(page, "fetched") >= 1.0)
        .await;
    for garbage in ["", "{}", "[1]", &"x".repeat(300 * 1024)] {
        world.upstream.publish(garbage);
        let before = world.upstream.fetches().len();
        let wanted = async {
            for number in 0.. {
                if world.upstream.fetches().len() > before {
                    return;
                }
                pool(&world, &new.token(&format!("{before}-{number}"))).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let wanted = tokio::time::timeout(Duration::from_secs(60), wanted).await;
        assert!(wanted.is_ok(), "nobody asked again");
        let name = format!("after-{before}");
        assert_eq!(pool(&world, &old.token(&name)).await, "tokens");
    }
    world
        .proxy
        .until("failures are counted", |page| {
            fetches(page, "failed") >= 4.0
        })
        .await;
}

#[tokio::test]
async fn a_key_the_server_no_longer_publishes_is_forgotten_with_what_it_said() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let world = world(&[&old]);
    world
        .proxy
        .until("fetched", |page| fetches(page, "fetched") >= 1.0)
        .await;
    let token = old.token("kept");
    let answer = world
        .stranger()
        .await
        .call(with_token(get(POD, "echo"), &token))
        .await;
    assert_eq!(answer.pool(), "tokens");
    world.upstream.publish(set(&[&new]));
    until_verified(&world, &new, "web").await;
    assert_eq!(pool(&world, &token).await, "unverified");
}

#[tokio::test]
async fn it_can_be_switched_off_and_is_off_without_keys_of_ones_own() {
    let key = Key::new("new");
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    upstream.publish(set(&[&key]));
    for switched in 0..2 {
        let proxy = Proxy::start(&pki, upstream.address(), |config| {
            if switched == 0 {
                config.service_accounts.published_keys = false;
            } else {
                config.service_accounts.keys.clear();
            }
        });
        let probes = upstream.probes();
        eventually("the proxy is at work", || upstream.probes() > probes + 20).await;
        assert_eq!(upstream.fetches().len(), 0);
        drop(proxy);
    }
}
