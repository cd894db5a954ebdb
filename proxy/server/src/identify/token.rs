//! Service-account tokens, verified locally so that their bearer can be classified.
//!
//! The token itself is always passed on untouched and the server decides whether it is still good; what is learned here
//! only says which class and tenant a request belongs to. A token that does not verify never raises anybody's priority.
//! Claims follow `k8s.io/kubernetes/pkg/serviceaccount/claims.go`.

use std::path::Path;

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation, decode, decode_header};
use proxy_core::identity::Identity;
use serde::Deserialize;

use super::tls::{MaterialError, read};

/// The tolerance on a token's dates, in seconds: go-jose's default, which the server uses.
const LEEWAY: u64 = 60;

/// Verifies service-account tokens with the cluster's public keys.
pub(crate) struct TokenVerifier {
    keys: Vec<(AlgorithmFamily, DecodingKey)>,
    issuers: Vec<String>,
}

/// What a verified token says, and until when (Unix seconds, tolerance included).
#[derive(Debug)]
pub(crate) struct VerifiedToken {
    pub(crate) identity: Identity,
    pub(crate) not_after: u64,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: KubernetesClaims,
}

#[derive(Deserialize)]
struct KubernetesClaims {
    namespace: String,
    serviceaccount: Reference,
    #[serde(default)]
    pod: Option<Reference>,
    #[serde(default)]
    node: Option<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    name: String,
    #[serde(default)]
    uid: Option<String>,
}

impl TokenVerifier {
    /// Reads the public keys of `files` (PEM, several blocks allowed). Tokens must come from one of `issuers`, which is
    /// also the audience they must be meant for (kube-apiserver's default for `--api-audiences`).
    ///
    /// # Errors
    /// [`MaterialError`] when a file cannot be read or holds no usable key.
    pub(crate) fn load<P: AsRef<Path>>(
        files: &[P],
        issuers: &[String],
    ) -> Result<Self, MaterialError> {
        let mut keys = Vec::new();
        for file in files {
            let file = file.as_ref();
            let text = String::from_utf8(read(file)?).map_err(|_| {
                MaterialError::unusable(file, "is not text; expected public keys in PEM form")
            })?;
            let before = keys.len();
            keys.extend(blocks(&text).filter_map(key));
            if keys.len() == before {
                return Err(MaterialError::unusable(
                    file,
                    "holds no usable public key; expected PEM blocks `BEGIN PUBLIC KEY` (RSA, P-256/384 or Ed25519)",
                ));
            }
        }
        Ok(Self {
            keys,
            issuers: issuers.to_vec(),
        })
    }

    /// The identity of `token` if one of the keys signed it, it comes from a known issuer for this server, and is
    /// within its dates; otherwise `None`.
    pub(crate) fn verify(&self, token: &str) -> Option<VerifiedToken> {
        let algorithm = decode_header(token).ok()?.alg;
        self.keys
            .iter()
            .filter(|(family, _)| *family == algorithm.family())
            .find_map(|(_, key)| decode::<Claims>(token, key, &self.validation(algorithm)).ok())
            .and_then(|verified| verified.claims.into_token())
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&self.issuers);
        validation.set_audience(&self.issuers);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation
    }
}

impl Claims {
    fn into_token(self) -> Option<VerifiedToken> {
        let Self {
            sub,
            exp,
            kubernetes,
        } = self;
        let KubernetesClaims {
            namespace,
            serviceaccount,
            pod,
            node,
        } = kubernetes;
        // The server refuses a token whose subject and private claims disagree; so do we.
        if sub != format!("system:serviceaccount:{namespace}:{}", serviceaccount.name) {
            return None;
        }
        let identity = Identity::service_account(
            &namespace,
            &serviceaccount.name,
            serviceaccount.uid.as_deref(),
            pod.as_ref().map(|pod| &*pod.name),
            node.as_ref().map(|node| &*node.name),
        );
        Some(VerifiedToken {
            identity,
            not_after: exp.saturating_add(LEEWAY),
        })
    }
}

/// The PEM blocks of `text`, markers included.
fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find("-----BEGIN ")?;
        let from = rest.get(start..)?;
        let end_mark = from.find("-----END ")?;
        let tail = from.get(end_mark + 9..)?;
        let length = end_mark + 9 + tail.find("-----")? + 5;
        rest = from.get(length..)?;
        from.get(..length)
    })
}

fn key(pem: &str) -> Option<(AlgorithmFamily, DecodingKey)> {
    let pem = pem.as_bytes();
    let key = DecodingKey::from_rsa_pem(pem)
        .or_else(|_| DecodingKey::from_ec_pem(pem))
        .or_else(|_| DecodingKey::from_ed_pem(pem))
        .ok()?;
    Some((key.family(), key))
}
