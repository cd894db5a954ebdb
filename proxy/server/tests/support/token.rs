//! Service-account tokens, good and bad.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::pki::AccountKeys;

pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const FAR: u64 = 4_000_000_000;

/// The claims of a bound token of `namespace/name`.
pub fn claims(namespace: &str, name: &str) -> Value {
    json!({
        "iss": ISSUER,
        "aud": [ISSUER],
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "exp": FAR,
        "nbf": 1_000_000_000,
        "iat": 1_000_000_000,
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": { "name": name, "uid": "11111111-2222-3333-4444-555555555555" },
        },
    })
}

/// `claims` with one of them replaced, or taken out for `Null`.
pub fn changed(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
        value => claims[name] = value,
    }
    claims
}

pub fn rs256(claims: &Value) -> String {
    let key = EncodingKey::from_rsa_pem(AccountKeys::get().rsa.serialize_pem().as_bytes())
        .expect("an RSA key");
    encode(&Header::new(Algorithm::RS256), claims, &key).expect("a token")
}

pub fn es256(claims: &Value) -> String {
    let key = EncodingKey::from_ec_pem(AccountKeys::get().ec.serialize_pem().as_bytes())
        .expect("an EC key");
    encode(&Header::new(Algorithm::ES256), claims, &key).expect("a token")
}

/// Signed with a key of the right kind that is not the cluster's.
pub fn foreign(claims: &Value) -> String {
    let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let key = EncodingKey::from_ec_pem(key.as_bytes()).expect("an EC key");
    encode(&Header::new(Algorithm::ES256), claims, &key).expect("a token")
}

/// The confusion attack: a symmetric signature made with the public key's text.
pub fn hs256_with_public_key(claims: &Value) -> String {
    let key = EncodingKey::from_secret(AccountKeys::get().rsa.public_key_pem().as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).expect("a token")
}

/// No signature at all.
pub fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!(
        "{}.{}.",
        part(&json!({ "alg": "none", "typ": "JWT" })),
        part(claims)
    )
}
