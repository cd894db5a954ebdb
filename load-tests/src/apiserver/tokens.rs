//! Bound service-account tokens: RS256 JWTs signed with `sa.key`.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

use super::Error;
use super::clock;

/// kubeadm's default issuer, also the API server's own audience.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Longer tokens are refused unread.
const MAX_TOKEN: usize = 16 * 1024;

/// A named object: name and UID.
pub(super) type Bound<'a> = (&'a str, &'a str);

/// Whom a token is for.
pub(super) struct Subject<'a> {
    pub(super) namespace: &'a str,
    pub(super) account: Bound<'a>,
    /// The pod it is bound to, and the pod's node.
    pub(super) pod: Option<Bound<'a>>,
    pub(super) node: Option<Bound<'a>>,
}

/// Signs and verifies tokens.
pub(super) struct Tokens {
    key: RsaKeyPair,
    public: Vec<u8>,
    header: String,
}

impl Tokens {
    /// Uses an RSA key of at least 2048 bits.
    pub(super) fn new(key: &KeyPair) -> Result<Self, Error> {
        let spki = key.subject_public_key_info();
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, &spki));
        let key = RsaKeyPair::from_pkcs8(key.serialized_der())
            .map_err(|error| Error::TokenKey(error.to_string()))?;
        Ok(Self {
            public: key.public_key().as_ref().to_vec(),
            header: URL_SAFE_NO_PAD.encode(json!({"alg": "RS256", "kid": id}).to_string()),
            key,
        })
    }

    /// Issues a token. `now` in Unix seconds, `lifetime` in seconds.
    pub(super) fn issue(
        &self,
        subject: &Subject<'_>,
        audiences: &[String],
        now: u64,
        lifetime: u64,
    ) -> Result<String, Error> {
        let Subject {
            namespace,
            account,
            pod,
            node,
        } = *subject;
        let reference = |(name, uid): Bound<'_>| json!({"name": name, "uid": uid});
        let mut kubernetes = json!({
            "namespace": namespace,
            "serviceaccount": reference(account),
        });
        if let Some(pod) = pod {
            kubernetes["pod"] = reference(pod);
        }
        if let Some(node) = node {
            kubernetes["node"] = reference(node);
        }
        let claims = json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{}", account.0),
            "aud": audiences,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime,
            "jti": clock::uuid(),
            "kubernetes.io": kubernetes,
        });
        let signed = format!(
            "{}.{}",
            self.header,
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                signed.as_bytes(),
                &mut signature,
            )
            .map_err(|error| Error::TokenKey(error.to_string()))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that is ours, current and meant for us.
    pub(super) fn verify(&self, token: &str, now: u64) -> Option<Value> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (_, claims) = signed.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public)
            .verify(signed.as_bytes(), &signature)
            .ok()?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let current = claims["nbf"].as_u64()? <= now && now < claims["exp"].as_u64()?;
        let ours = claims["iss"] == ISSUER
            && claims["aud"]
                .as_array()?
                .iter()
                .any(|audience| audience == ISSUER);
        (current && ours).then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_current_and_untouched_tokens_verify() {
        let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let tokens = Tokens::new(&key).unwrap();
        let audiences = [ISSUER.to_owned()];
        let subject = Subject {
            namespace: "ns",
            account: ("sa", "u1"),
            pod: Some(("p", "u2")),
            node: None,
        };
        let issue = |audiences: &[String]| tokens.issue(&subject, audiences, 100, 60).unwrap();
        let token = issue(&audiences);
        let claims = tokens.verify(&token, 120).unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:ns:sa");
        assert_eq!(claims["kubernetes.io"]["pod"]["name"], "p");
        assert!(tokens.verify(&token, 160).is_none(), "expired");
        assert!(tokens.verify(&token, 99).is_none(), "not yet");
        let mut forged: Vec<_> = token.split('.').collect();
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"system:serviceaccount:ns:other"}"#);
        forged[1] = &claims;
        assert!(tokens.verify(&forged.join("."), 120).is_none());
        assert!(tokens.verify(&issue(&["other".to_owned()]), 120).is_none());
        for junk in ["", ".", "a.b", "a.b.c"] {
            assert!(tokens.verify(junk, 120).is_none());
        }
    }
}
