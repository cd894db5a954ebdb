//! A cluster that is not ours: saying what will be done, doing it in a
//! namespace of our own, and taking it away again.

use std::fs;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::cast::{OWN, each};
use super::objects;
use super::upstream::Upstream;
use crate::control_plane::ApiClient;
use crate::report::Plan;

/// Size of a large ConfigMap's text, bytes.
const BYTES: usize = 3000;
/// What does not go with the namespace.
const CLUSTER_WIDE: [&str; 2] = [
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/spillway-demo-stand-ins",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles/spillway-demo-stand-ins",
];

/// Says what will be done to a cluster, and goes on only if that is wanted:
/// `--yes`, or its host typed at a terminal.
pub(super) fn ask(url: &str, plan: &Plan, yes: bool) -> anyhow::Result<()> {
    let uri: http::Uri = url.parse().with_context(|| format!("{url}: not a URL"))?;
    let host = uri.host().with_context(|| format!("{url}: no host"))?;
    println!(
        "This puts REAL LOAD on the cluster at {url}:\n\
         - creates the namespace {OWN} with service accounts, {} ConfigMaps of 3 kB, leases,\n\
         \u{20} services, endpoint slices, replica sets (of 0 pods) and a DaemonSet that matches no\n\
         \u{20} node, and one ClusterRole with its binding;\n\
         - measures how many LISTs of all ConfigMaps of the cluster it can serve, and sends\n\
         \u{20} {} times as many, three times for at least {:.0} s, once straight to the cluster:\n\
         \u{20} EXPECT IT TO BE UNUSABLE meanwhile, for everybody;\n\
         - deletes all of that again.",
        plan.objects, plan.factor, plan.seconds_per_phase
    );
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("not without --yes: there is no terminal to confirm at");
    }
    print!("Type the host ({host}) to go on: ");
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    ensure!(line.trim() == host, "not confirmed");
    Ok(())
}

/// Creates the large ConfigMaps.
pub(super) async fn seed(admin: &ApiClient, count: usize) -> anyhow::Result<()> {
    super::cast::create(admin, "/api/v1/namespaces", &objects::namespace(OWN)).await?;
    each(count, |index| {
        let admin = admin.clone();
        async move {
            let path = format!("/api/v1/namespaces/{OWN}/configmaps");
            super::cast::create(&admin, &path, &objects::large_settings(index, BYTES)).await
        }
    })
    .await?;
    Ok(())
}

/// Lays out a `pki/` for a Spillway that has only what the cluster shows to
/// everybody (its authority, its token keys), and gives the stand-ins the
/// classes of those they stand in for.
pub(super) async fn settings(upstream: &Upstream) -> anyhow::Result<Value> {
    let pki = &upstream.pki;
    fs::create_dir_all(pki).with_context(|| pki.display().to_string())?;
    let admin = upstream.endpoint.client(&upstream.admin)?;
    // The only media type this path has.
    let ask = http::Request::get("/openid/v1/jwks")
        .header(http::header::ACCEPT, "application/jwk-set+json")
        .body(bytes::Bytes::new())?;
    let keys = admin.request(ask).await?;
    let keys = keys.accept("reading the token keys", &[])?;
    let about = admin.get("/.well-known/openid-configuration").await?;
    let about = about.accept("reading the token issuer", &[])?.json();
    let issuer = about["issuer"]
        .as_str()
        .context("the cluster names no issuer")?;
    let keys = public_keys(&keys.json())?;
    ensure!(!keys.is_empty(), "the cluster shows no RSA token key");
    let write = |name: &str, text: &str| {
        let file = pki.join(name);
        fs::write(&file, text).with_context(|| file.display().to_string())
    };
    write("sa.pub", &keys)?;

    // What Spillway serves with, verified by the same name as the cluster; and
    // a front-proxy certificate nobody trusts, for identities that are not
    // used here.
    let authority = upstream.endpoint.ca_pem.clone();
    let own = rcgen::generate_simple_self_signed(vec![upstream.endpoint.server_name.clone()])?;
    let (certificate, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    write("ca.crt", &authority)?;
    write("serving.crt", &certificate)?;
    write("serving.key", &key)?;
    Ok(json!({
        "tls": {
            "certificate": pki.join("serving.crt"),
            "key": pki.join("serving.key"),
        },
        "upstream": { "front_proxy": {
            "certificate": pki.join("serving.crt"),
            "key": pki.join("serving.key"),
        } },
        "service_accounts": { "issuers": [issuer] },
        "reserved": { "service_accounts": [format!("{OWN}/operator")] },
        "admission": { "rules": rules() },
    }))
}

fn rules() -> Value {
    let rule = |account: &str, class: &str| {
        json!({
            "name": format!("demo-{account}"),
            "when": { "service_accounts": [format!("{OWN}/{account}")] },
            "class": class,
        })
    };
    let leases = json!({
        "name": "demo-leases",
        "when": {
            "service_accounts": [format!("{OWN}/kubelet"), format!("{OWN}/controllers")],
            "resources": ["leases"],
            "verbs": ["get", "update", "patch"],
        },
        "class": "life-signs",
    });
    json!([
        leases,
        rule("kubelet", "nodes"),
        rule("controllers", "control-plane"),
        rule("dns", "control-plane"),
        rule("person", "operators"),
        rule("operator", "operators"),
    ])
}

/// Removes everything, and waits until the namespace is gone.
pub(super) async fn clean_up(upstream: &Upstream) -> anyhow::Result<()> {
    const LONGEST: Duration = Duration::from_secs(300);
    let admin = upstream.endpoint.client(&upstream.admin)?;
    let namespace = format!("/api/v1/namespaces/{OWN}");
    let own = [namespace.as_str()];
    let deadline = Instant::now() + LONGEST;
    for path in CLUSTER_WIDE.into_iter().chain(own) {
        loop {
            let deleted = admin.delete(path).await;
            if deleted.is_ok_and(|answer| answer.status < 300 || answer.status == 404) {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "could not delete {path}: do it by hand"
            );
            sleep(Duration::from_secs(2)).await;
        }
    }
    while Instant::now() < deadline {
        if admin
            .get(&namespace)
            .await
            .is_ok_and(|answer| answer.status == 404)
        {
            return Ok(());
        }
        sleep(Duration::from_secs(2)).await;
    }
    bail!("the namespace {OWN} is still being deleted; look after it")
}

/// The RSA keys of a JSON Web Key Set (RFC 7517), as PEM.
fn public_keys(set: &Value) -> anyhow::Result<String> {
    let mut pem = String::new();
    for key in set["keys"].as_array().into_iter().flatten() {
        if key["kty"] != "RSA" {
            continue;
        }
        let number = |name: &str| {
            let text = key[name]
                .as_str()
                .with_context(|| format!("a token key without {name}"))?;
            BASE64_URL_SAFE_NO_PAD
                .decode(text)
                .with_context(|| format!("a token key's {name}"))
        };
        let der = rsa_public_key(&number("n")?, &number("e")?);
        let text = BASE64_STANDARD.encode(der);
        pem.push_str("-----BEGIN PUBLIC KEY-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem.push_str("-----END PUBLIC KEY-----\n");
    }
    Ok(pem)
}

/// SubjectPublicKeyInfo (RFC 5280) of an RSA key (RFC 8017), DER.
fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    /// AlgorithmIdentifier: rsaEncryption, NULL.
    const ALGORITHM: [u8; 15] = [
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    const INTEGER: u8 = 0x02;
    const BIT_STRING: u8 = 0x03;
    const SEQUENCE: u8 = 0x30;
    // A leading zero keeps a number with its highest bit set positive; without
    // need DER forbids it.
    let integer = |number: &[u8]| {
        let negative = number.first().is_some_and(|first| *first >= 0x80);
        let sign: &[u8] = if negative { &[0] } else { &[] };
        tagged(INTEGER, &[sign, number].concat())
    };
    let key = tagged(SEQUENCE, &[integer(modulus), integer(exponent)].concat());
    let bits = tagged(BIT_STRING, &[vec![0], key].concat());
    tagged(SEQUENCE, &[ALGORITHM.to_vec(), bits].concat())
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut der = vec![tag];
    match length {
        0..0x80 => der.push(length as u8),
        0x80..0x100 => der.extend([0x81, length as u8]),
        _ => der.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    der.extend_from_slice(content);
    der
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::SubjectPublicKeyInfoDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn a_key_of_a_key_set_becomes_the_key_it_was() {
        use rcgen::PublicKeyData as _;
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key");
        let expected = pair.subject_public_key_info();
        // 24 bytes of headers, sign byte, 256 bytes of modulus, 5 of exponent.
        let end = expected.len();
        let (modulus, exponent) = (&expected[end - 261..end - 5], &expected[end - 3..]);
        let set = json!({ "keys": [
            { "kty": "EC" },
            {
                "kty": "RSA",
                "n": BASE64_URL_SAFE_NO_PAD.encode(modulus),
                "e": BASE64_URL_SAFE_NO_PAD.encode(exponent),
            },
        ] });
        let pem = public_keys(&set).expect("readable");
        let read = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        assert_eq!(read.as_ref(), expected);
        assert!(public_keys(&json!({ "keys": [{ "kty": "RSA" }] })).is_err());
    }

    #[test]
    fn told_to_it_goes_on_without_asking() {
        let plan = Plan::default();
        assert!(ask("https://10.0.0.1:6443", &plan, true).is_ok());
        assert!(ask("not a url", &plan, true).is_err());
    }
}
