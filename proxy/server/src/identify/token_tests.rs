use super::*;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, RsaEncoding, RsaKeyPair,
};
use serde_json::{Value, json};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const NOW: u64 = 1_800_000_000;

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A cluster with one key of a kind, and how it signs.
struct Signer {
    key: PublicKey,
    algorithm: &'static str,
    sign: Sign,
}

fn encoded(part: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

fn only(keys: Value) -> PublicKey {
    let document = json!({ "keys": [keys] }).to_string();
    let mut keys = keys::of_key_set(document.as_bytes()).expect("a key set");
    keys.pop().expect("a key")
}

fn elliptic(algorithm: &'static str, crv: &str, how: &'static EcdsaSigningAlgorithm) -> Signer {
    let pair = EcdsaKeyPair::generate(how).expect("key");
    let point = pair.public_key().as_ref()[1..].to_vec();
    let (x, y) = point.split_at(point.len() / 2);
    Signer {
        key: only(
            json!({ "kty": "EC", "kid": algorithm, "crv": crv, "x": encoded(x), "y": encoded(y) }),
        ),
        algorithm,
        sign: Box::new(move |message| {
            let signature = pair.sign(&SystemRandom::new(), message).expect("signature");
            signature.as_ref().to_vec()
        }),
    }
}

fn rsa(algorithm: &'static str, how: &'static dyn RsaEncoding) -> Signer {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("key");
    let public = pair.public_key();
    let (n, e) = (public.modulus(), public.exponent());
    let (n, e) = (
        n.big_endian_without_leading_zero(),
        e.big_endian_without_leading_zero(),
    );
    Signer {
        key: only(json!({ "kty": "RSA", "kid": algorithm, "n": encoded(n), "e": encoded(e) })),
        algorithm,
        sign: Box::new(move |message| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(how, &SystemRandom::new(), message, &mut signature)
                .expect("signature");
            signature
        }),
    }
}

fn es256() -> Signer {
    elliptic(
        "ES256",
        "P-256",
        &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
    )
}

impl Signer {
    fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            encoded(header.to_string()),
            encoded(claims.to_string())
        );
        let signature = (self.sign)(message.as_bytes());
        format!("{message}.{}", encoded(signature))
    }

    fn header(&self) -> Value {
        json!({ "alg": self.algorithm, "kid": self.key.id() })
    }

    fn token(&self, claims: &Value) -> String {
        self.token_with(&self.header(), claims)
    }

    fn verifier(&self) -> TokenVerifier {
        TokenVerifier::new(vec![self.key.clone()], &[ISSUER.to_owned()])
    }

    fn verify(&self, token: &str) -> Result<VerifiedToken, Unverified> {
        self.verifier().verify(token, &[], NOW)
    }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": [ISSUER], "sub": "system:serviceaccount:default:web",
        "exp": NOW + 3600, "nbf": NOW - 10, "iat": NOW - 10,
        "kubernetes.io": {
            "namespace": "default",
            "serviceaccount": { "name": "web", "uid": "u-1" },
            "pod": { "name": "web-7", "uid": "u-2" },
            "node": { "name": "worker-1" },
            "warnafter": NOW + 3000,
        },
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().expect("object").remove(name)),
        value => claims[name] = value,
    }
    claims
}

#[test]
fn every_algorithm_the_server_takes_is_verified_and_no_key_verifies_another() {
    let signers = [
        rsa("RS256", &signature::RSA_PKCS1_SHA256),
        rsa("RS384", &signature::RSA_PKCS1_SHA384),
        rsa("RS512", &signature::RSA_PKCS1_SHA512),
        rsa("PS256", &signature::RSA_PSS_SHA256),
        rsa("PS384", &signature::RSA_PSS_SHA384),
        rsa("PS512", &signature::RSA_PSS_SHA512),
        es256(),
        elliptic(
            "ES384",
            "P-384",
            &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        ),
        elliptic(
            "ES512",
            "P-521",
            &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
        ),
    ];
    for signer in &signers {
        let verified = signer.verify(&signer.token(&claims()));
        let verified = verified.unwrap_or_else(|why| panic!("{}: {why:?}", signer.algorithm));
        assert_eq!(
            verified.identity.user(),
            "system:serviceaccount:default:web"
        );
        assert_eq!(verified.identity.pod(), Some("web-7"));
        assert_eq!(verified.identity.node(), Some("worker-1"));
        assert_eq!(verified.not_after, NOW + 3600 + LEEWAY);
        for other in &signers {
            if other.algorithm == signer.algorithm {
                continue;
            }
            // The other's algorithm, and the other's key under this one's name.
            let header = json!({ "alg": other.algorithm, "kid": signer.key.id() });
            for token in [
                signer.token_with(&header, &claims()),
                other.token_with(&header, &claims()),
            ] {
                assert_eq!(signer.verify(&token).err(), Some(Unverified::NotOurs));
            }
        }
    }
}

#[test]
fn a_symmetric_signature_with_the_public_key_is_none() {
    let signer = rsa("RS256", &signature::RSA_PKCS1_SHA256);
    let pem = rcgen::KeyPair::generate().expect("key").public_key_pem();
    let verifier = TokenVerifier::new(keys::of_pem(pem.as_bytes()), &[ISSUER.to_owned()]);
    for algorithm in [
        "HS256", "HS384", "HS512", "none", "None", "", "rs256", "EdDSA",
    ] {
        let message = format!(
            "{}.{}",
            encoded(json!({ "alg": algorithm }).to_string()),
            encoded(claims().to_string())
        );
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, pem.as_bytes());
        let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
        for signature in [encoded(tag.as_ref()), String::new()] {
            let token = format!("{message}.{signature}");
            assert!(verifier.verify(&token, &[], NOW).is_err(), "{algorithm}");
            assert!(signer.verify(&token).is_err(), "{algorithm}");
        }
    }
}

#[test]
fn a_token_names_its_key_or_any_may_have_signed() {
    let signer = es256();
    let nameless = signer.token_with(&json!({ "alg": "ES256" }), &claims());
    assert!(signer.verify(&nameless).is_ok());
    let empty = signer.token_with(&json!({ "alg": "ES256", "kid": "" }), &claims());
    assert!(signer.verify(&empty).is_ok());
    let other = signer.token_with(&json!({ "alg": "ES256", "kid": "other" }), &claims());
    assert_eq!(signer.verify(&other).err(), Some(Unverified::UnknownKey));
}

#[test]
fn an_unknown_key_is_only_asked_for_on_behalf_of_our_issuer() {
    let signer = es256();
    let header = json!({ "alg": "ES256", "kid": "other" });
    let foreign = signer.token_with(&header, &with("iss", json!("https://accounts.example.org")));
    assert_eq!(signer.verify(&foreign).err(), Some(Unverified::NotOurs));
    let wrongly_signed = es256().token_with(&signer.header(), &claims());
    assert_eq!(
        signer.verify(&wrongly_signed).err(),
        Some(Unverified::NotOurs)
    );
}

#[test]
fn published_keys_count_beside_those_of_the_files() {
    let (file, new) = (es256(), es256());
    let published = new.key.clone().named("new");
    let header = json!({ "alg": "ES256", "kid": "new" });
    let token = new.token_with(&header, &claims());
    let verifier = file.verifier();
    assert_eq!(
        verifier.verify(&token, &[], NOW).err(),
        Some(Unverified::UnknownKey)
    );
    let published = [published];
    assert!(verifier.verify(&token, &published, NOW).is_ok());
    assert!(
        verifier
            .verify(&file.token(&claims()), &published, NOW)
            .is_ok()
    );
    let off = TokenVerifier::new(Vec::new(), &[ISSUER.to_owned()]);
    assert_eq!(
        off.verify(&token, &published, NOW).err(),
        Some(Unverified::NotOurs)
    );
}

#[test]
fn a_token_with_anything_wrong_is_not_ours() {
    let signer = es256();
    let account = |namespace: &str, name: &str| json!({ "namespace": namespace, "serviceaccount": { "name": name } });
    for (what, claims) in [
        ("issuer", with("iss", json!("https://evil.example"))),
        ("no issuer", with("iss", Value::Null)),
        ("audience", with("aud", json!(["vault"]))),
        ("no audience", with("aud", Value::Null)),
        ("empty audience", with("aud", json!([]))),
        ("ended", with("exp", json!(NOW - LEEWAY - 1))),
        ("no end", with("exp", Value::Null)),
        ("an end that is none", with("exp", json!("soon"))),
        ("not begun", with("nbf", json!(NOW + LEEWAY + 1))),
        ("from the future", with("iat", json!(NOW + LEEWAY + 1))),
        (
            "subject",
            with("sub", json!("system:serviceaccount:kube-system:admin")),
        ),
        (
            "another kind of subject",
            with("sub", json!("system:admin")),
        ),
        ("no private claims", with("kubernetes.io", Value::Null)),
        (
            "account",
            with("kubernetes.io", account("default", "admin")),
        ),
        (
            "namespace",
            with("kubernetes.io", account("kube-system", "web")),
        ),
    ] {
        let verified = signer.verify(&signer.token(&claims));
        assert_eq!(verified.err(), Some(Unverified::NotOurs), "{what}");
    }
    let odd = json!({ "alg": "ES256", "crit": ["exp"] });
    assert!(signer.verify(&signer.token_with(&odd, &claims())).is_err());
}

#[test]
fn dates_have_the_servers_tolerance() {
    let signer = es256();
    for claims in [
        with("exp", json!(NOW - LEEWAY)),
        with("nbf", json!(NOW + LEEWAY)),
        with("iat", json!(NOW + LEEWAY)),
        with("nbf", Value::Null),
        with("iat", Value::Null),
        with("exp", json!(1.8e9 + 0.5)),
        with("aud", json!(ISSUER)),
    ] {
        assert!(signer.verify(&signer.token(&claims)).is_ok(), "{claims}");
    }
}

#[test]
fn what_is_no_token_is_refused_whatever_its_form() {
    let signer = es256();
    let good = signer.token(&claims());
    let long = with("pad", json!("x".repeat(LONGEST)));
    let (message, signature) = good.rsplit_once('.').expect("a token");
    for bad in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "...".to_owned(),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}="),
        format!(" {good}"),
        format!("{message}."),
        format!("{message}.{}", encoded([0; 64])),
        format!("{message}.{}", &signature[..signature.len() - 4]),
        good.replacen('.', "..", 1),
        signer.token(&long),
        "{\"payload\":\"e30\"}".to_owned(),
    ] {
        assert_eq!(
            signer.verify(&bad).err(),
            Some(Unverified::NotOurs),
            "{bad}"
        );
    }
}
