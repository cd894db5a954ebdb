//! Tokens of every issuer the server takes: nobody becomes another, and the proxy finds out who it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use config::{Config, Match, Rule};
use load_tests::control_plane::{
    Auth, ControlPlane, Credentials, KeyAlgorithm, Options, TokenOptions, start_for_tests,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{Authority, Proxy, TestDir, params, until, username, whoami};

/// A class only requests get that are known to be from one of `users` or `groups`.
fn known(config: &mut Config, users: &[&str], groups: &[&str]) {
    let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let rule = |when| Rule {
        name: "known".to_owned(),
        class: "operators".to_owned(),
        when,
    };
    config.admission.rules = vec![
        rule(Match {
            users: texts(users),
            ..Match::default()
        }),
        Rule {
            name: "known-groups".to_owned(),
            ..rule(Match {
                groups: texts(groups),
                ..Match::default()
            })
        },
    ];
    config
        .admission
        .rules
        .retain(|rule| rule.when != Match::default());
}

async fn operators(proxy: &Proxy) -> Result<f64> {
    let page = proxy.metrics().await?;
    Ok(page.sum("spillway_requests_total", &["class=\"operators\""]))
}

/// Asks until the proxy has found out who this is; each time it must be the user it is without the proxy.
async fn until_known(plane: &ControlPlane, proxy: &Proxy, token: &str, user: &str) -> Result<()> {
    let auth = Auth::Token(token.to_owned());
    let straight = whoami(&plane.client_with(auth.clone())?).await?;
    assert_eq!(username(&straight), user, "{straight}");
    let client = proxy.client(auth)?;
    assert_eq!(whoami(&client).await?, straight);
    until("the proxy knows whose token it is", async || {
        assert_eq!(whoami(&client).await.ok()?, straight);
        (operators(proxy).await.ok()? > 0.0).then_some(())
    })
    .await;
    Ok(())
}

async fn refused(plane: &ControlPlane, proxy: &Proxy, token: &str) -> Result<()> {
    let before = operators(proxy).await?;
    let auth = Auth::Token(token.to_owned());
    let straight = whoami(&plane.client_with(auth.clone())?).await?;
    assert_eq!(straight["status"], 401, "{straight}");
    let client = proxy.client(auth)?;
    for _ in 0..20 {
        assert_eq!(whoami(&client).await?, straight);
    }
    assert!(
        operators(proxy).await? <= before,
        "a refused token is nobody's"
    );
    Ok(())
}

fn options(extra_flags: Vec<String>) -> Options {
    Options {
        extra_flags,
        key_algorithm: KeyAlgorithm::EcdsaP256,
        ..Options::default()
    }
}

#[tokio::test]
async fn static_tokens_are_learned_from_the_server() -> Result<()> {
    let dir = TestDir::new()?;
    let tokens = dir.path().join("tokens.csv");
    std::fs::write(
        &tokens,
        "static-token-of-jane,jane,u-1,\"dev,ops\"\nstatic-token-of-bob,bob,u-2\n",
    )?;
    let flags = vec![format!("--token-auth-file={}", tokens.display())];
    let Some(plane) = start_for_tests(options(flags)) else {
        return Ok(());
    };
    let proxy = Proxy::with(&plane, |config| known(config, &[], &["ops"]))?;
    refused(&plane, &proxy, "static-token-of-eve").await?;
    until_known(&plane, &proxy, "static-token-of-jane", "jane").await?;
    // Another user's token is another user's.
    let bob = proxy.client(Auth::Token("static-token-of-bob".to_owned()))?;
    assert_eq!(username(&whoami(&bob).await?), "bob");
    Ok(())
}

/// The server's own key is not in any file of the proxy's.
#[tokio::test]
async fn service_accounts_are_known_by_the_keys_the_server_publishes() -> Result<()> {
    for key_algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::Rsa2048] {
        let Some(plane) = start_for_tests(Options {
            key_algorithm,
            ..Options::default()
        }) else {
            return Ok(());
        };
        let dir = TestDir::new()?;
        let other = dir.path().join("other.pub");
        std::fs::write(&other, rcgen::KeyPair::generate()?.public_key_pem())?;
        let user = "system:serviceaccount:telemetry:agent";
        let proxy = Proxy::with(&plane, |config| {
            config.service_accounts.keys = vec![other];
            known(config, &[user], &[]);
        })?;
        until("the keys are fetched", async || {
            let page = proxy.metrics().await.ok()?;
            let name = "spillway_published_keys_fetches_total";
            (page.sum(name, &["result=\"fetched\""]) > 0.0).then_some(())
        })
        .await;
        let options = TokenOptions::default();
        let token = plane.service_account_token("telemetry", "agent", &options);
        let token = token.await?;
        let client = proxy.client(Auth::Token(token.clone()))?;
        assert_eq!(username(&whoami(&client).await?), user);
        // At once: nothing had to be learned.
        assert!(operators(&proxy).await? >= 1.0);
        let (message, signature) = token.rsplit_once('.').context("a token")?;
        let forged = format!("{message}.{}", signature.chars().rev().collect::<String>());
        refused(&plane, &proxy, &forged).await?;
    }
    Ok(())
}

/// An OpenID provider: discovery and keys over TLS, and tokens.
struct Issuer {
    url: String,
    key: EcdsaKeyPair,
    ca_pem: String,
}

impl Issuer {
    async fn start() -> Result<Self> {
        let authority = Authority::new("issuer-ca")?;
        let mut serving = params("issuer", crate::support::HOUR);
        serving.subject_alt_names =
            rcgen::CertificateParams::new(["127.0.0.1".to_owned()])?.subject_alt_names;
        serving.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let Credentials { cert_pem, key_pem } = authority.sign(&serving)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(cert_pem.as_bytes())?],
                PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?,
            )?;
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let url = format!("https://{}", listener.local_addr()?);
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| anyhow::anyhow!("no key"))?;
        let point = key.public_key().as_ref()[1..].to_vec();
        let (x, y) = point.split_at(32);
        let [x, y] = [x, y].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
        let discovery = json!({ "issuer": url, "jwks_uri": format!("{url}/keys"),
            "id_token_signing_alg_values_supported": ["ES256"] });
        let keys = json!({ "keys": [{ "use": "sig", "alg": "ES256", "kid": "k", "kty": "EC", "crv": "P-256", "x": x, "y": y }] });
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, discovery, keys) =
                    (acceptor.clone(), discovery.to_string(), keys.to_string());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut request = vec![0; 8192];
                    let read = stream.read(&mut request).await.unwrap_or(0);
                    let asks_for_keys = request[..read].starts_with(b"GET /keys");
                    let body = if asks_for_keys { keys } else { discovery };
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Ok(Self {
            url,
            key,
            ca_pem: authority.ca_pem,
        })
    }

    fn token(&self, claims: &Value) -> Result<String> {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!(
            "{}.{}",
            part(&json!({ "alg": "ES256", "kid": "k" })),
            part(claims)
        );
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes());
        let signature = signature.map_err(|_| anyhow::anyhow!("no signature"))?;
        Ok(format!(
            "{message}.{}",
            BASE64_URL_SAFE_NO_PAD.encode(signature)
        ))
    }
}

#[tokio::test]
async fn people_with_openid_tokens_are_learned_from_the_server() -> Result<()> {
    let issuer = Issuer::start().await?;
    let dir = TestDir::new()?;
    let ca = dir.path().join("issuer-ca.crt");
    std::fs::write(&ca, &issuer.ca_pem)?;
    let flags = vec![
        format!("--oidc-issuer-url={}", issuer.url),
        format!("--oidc-ca-file={}", ca.display()),
        "--oidc-client-id=kubernetes".to_owned(),
        "--oidc-signing-algs=ES256".to_owned(),
        "--oidc-username-claim=sub".to_owned(),
        "--oidc-username-prefix=oidc:".to_owned(),
        "--oidc-groups-claim=groups".to_owned(),
        "--oidc-groups-prefix=oidc:".to_owned(),
    ];
    let starting = tokio::task::spawn_blocking(move || start_for_tests(options(flags)));
    let Some(plane) = starting.await? else {
        return Ok(());
    };
    let proxy = Proxy::with(&plane, |config| known(config, &[], &["oidc:on-call"]))?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs();
    let claims = |sub: &str, exp: u64| {
        json!({ "iss": issuer.url, "aud": "kubernetes", "sub": sub, "groups": ["on-call", "dev"],
            "iat": now - 10, "exp": exp })
    };
    let jane = issuer.token(&claims("jane", now + 3600))?;
    let auth = Auth::Token(jane.clone());
    let straight = plane.client_with(auth)?;
    until("the server knows the issuer", async || {
        let known = whoami(&straight).await.ok()?;
        (username(&known) == "oidc:jane").then_some(())
    })
    .await;
    refused(&plane, &proxy, &issuer.token(&claims("eve", now - 3600))?).await?;
    let foreign = Issuer {
        url: issuer.url.clone(),
        key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| anyhow::anyhow!("no key"))?,
        ca_pem: String::new(),
    };
    refused(&plane, &proxy, &foreign.token(&claims("eve", now + 3600))?).await?;
    until_known(&plane, &proxy, &jane, "oidc:jane").await?;
    // A service account's name from another issuer is that issuer's, prefix and all.
    let posing = claims("system:serviceaccount:kube-system:root", now + 3600);
    let posing = proxy.client(Auth::Token(issuer.token(&posing)?))?;
    let posing = whoami(&posing).await?;
    assert_eq!(
        username(&posing),
        "oidc:system:serviceaccount:kube-system:root"
    );
    Ok(())
}

/// A token the server has taken back loses its standing, however well it was known.
#[tokio::test]
async fn a_token_that_was_taken_back_is_nobodys() -> Result<()> {
    let Some(plane) = crate::support::plane() else {
        return Ok(());
    };
    let user = "system:bootstrap:fedcba";
    let proxy = Proxy::with(&plane, |config| known(config, &[user], &[]))?;
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": { "name": "bootstrap-token-fedcba", "namespace": "kube-system" },
        "stringData": { "token-id": "fedcba", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true" },
    });
    let admin = plane.client(load_tests::control_plane::Who::SuperAdmin)?;
    admin
        .post(secrets, &secret)
        .await?
        .accept("creating a bootstrap token", &[409])?;
    let token = "fedcba.0123456789abcdef";
    let straight = plane.client_with(Auth::Token(token.to_owned()))?;
    until("the server knows the bootstrap token", async || {
        (username(&whoami(&straight).await.ok()?) == user).then_some(())
    })
    .await;
    until_known(&plane, &proxy, token, user).await?;
    let path = format!("{secrets}/bootstrap-token-fedcba");
    admin.delete(&path).await?.accept("deleting it", &[])?;
    let client = proxy.client(Auth::Token(token.to_owned()))?;
    until("the token is refused", async || {
        (whoami(&client).await.ok()?["status"] == 401).then_some(())
    })
    .await;
    // The proxy may go by its connection's memory for two seconds more.
    until("its standing is gone", async || {
        let before = operators(&proxy).await.ok()?;
        whoami(&client).await.ok()?;
        (operators(&proxy).await.ok()? <= before).then_some(())
    })
    .await;
    Ok(())
}
