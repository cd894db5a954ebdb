use super::*;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519};
use serde_json::json;

fn point(pair: &KeyPair) -> Vec<u8> {
    use rcgen::PublicKeyData as _;
    pair.der_bytes().to_vec()
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn a_key_set_holds_the_keys_of_the_pem_file_under_the_ids_of_the_server() {
    let pairs = [
        ("P-256", KeyPair::generate().expect("key")),
        (
            "P-384",
            KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("key"),
        ),
        (
            "P-521",
            KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).expect("key"),
        ),
    ];
    let mut pem = String::new();
    let mut keys = Vec::new();
    for (curve, pair) in &pairs {
        pem.push_str(&pair.public_key_pem());
        let point = point(pair);
        let (x, y) = point[1..].split_at((point.len() - 1) / 2);
        let digest = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            &rcgen::PublicKeyData::subject_public_key_info(pair),
        );
        keys.push(json!({
            "use": "sig", "kty": "EC", "crv": curve, "kid": encoded(digest.as_ref()),
            "x": encoded(x), "y": encoded(y),
        }));
    }
    let document = json!({ "keys": keys }).to_string();
    let published = of_key_set(document.as_bytes()).expect("a key set");
    assert_eq!(published.len(), 3);
    assert_eq!(published, of_pem(pem.as_bytes()));
}

#[test]
fn keys_of_other_kinds_are_left_out() {
    let pair = KeyPair::generate().expect("key");
    let point = point(&pair);
    let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
    let good = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
    let with = |name: &str, value: serde_json::Value| {
        let mut key = good.clone();
        key[name] = value;
        key
    };
    let document = json!({ "keys": [
        good,
        with("use", json!("enc")),
        with("kty", json!("oct")),
        with("crv", json!("P-384")),
        with("crv", json!("secp256k1")),
        with("x", json!("AAAA")),
        with("y", json!("not base64!")),
        with("kid", json!(7)),
        { "kty": "RSA", "n": "", "e": "AQAB" },
        { "kty": "RSA", "n": "A".repeat(4096), "e": "AQAB" },
        "a text", null,
    ] });
    let keys = of_key_set(document.to_string().as_bytes()).expect("a key set");
    assert_eq!(keys.len(), 1);
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).expect("key");
    // The server reads RSA and EC keys only.
    assert!(of_pem(ed25519.public_key_pem().as_bytes()).is_empty());
    assert!(of_pem(pair.serialize_pem().as_bytes()).is_empty());
}

#[test]
fn what_is_no_key_set_is_told_from_an_empty_one() {
    for document in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"kind":"Status"}"#] {
        assert!(of_key_set(document.as_bytes()).is_none(), "{document}");
    }
    assert_eq!(of_key_set(br#"{"keys":[]}"#), Some(Vec::new()));
}

#[test]
fn a_long_document_gives_a_bounded_number_of_keys() {
    let pair = KeyPair::generate().expect("key");
    let pem = pair.public_key_pem().repeat(MOST_KEYS + 10);
    assert_eq!(of_pem(pem.as_bytes()).len(), MOST_KEYS);
}

#[test]
fn a_point_that_is_on_no_curve_verifies_nothing() {
    let zeros = encoded(&[0; 32]);
    let document = json!({ "keys": [
        { "kty": "EC", "crv": "P-256", "x": zeros, "y": zeros },
        { "kty": "RSA", "n": "AQ", "e": "AQ" },
    ] });
    let keys = of_key_set(document.to_string().as_bytes()).expect("a key set");
    for key in keys {
        for algorithm in ["ES256", "RS256", "PS512", "none", ""] {
            assert!(!key.verifies(algorithm, b"message", &[0; 64]));
            assert!(!key.verifies(algorithm, b"message", &[1]));
        }
    }
}
