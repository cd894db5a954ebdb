//! Service-account tokens, verified locally so that their bearer can be classified.
//!
//! The token itself is always passed on untouched and the server decides whether it is still good; what is learned here
//! only says which class and tenant a request belongs to. A token that does not verify never raises anybody's priority.
//! Judged as `k8s.io/kubernetes/pkg/serviceaccount/jwt.go` and `claims.go` do, but for what needs the server's objects.
//! Written out here because JWT libraries leave out one of the algorithms the server signs with (ES512).

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proxy_core::identity::{Identity, ServiceAccount};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

use super::keys::{self, PublicKey};
use super::tls::{MaterialError, read};

/// The tolerance on a token's dates, in seconds: go-jose's default, which the server uses.
const LEEWAY: u64 = 60;

/// A longer token, in bytes, is not looked at. The server's own are a few kilobytes at most.
const LONGEST: usize = 16 * 1024;

/// Verifies service-account tokens with the cluster's public keys.
pub(crate) struct TokenVerifier {
    keys: Vec<PublicKey>,
    issuers: Vec<String>,
}

/// What a verified token says, and until when (Unix seconds, tolerance included).
#[derive(Debug)]
pub(crate) struct VerifiedToken {
    pub(crate) identity: Identity,
    pub(crate) not_after: u64,
}

/// Why a token is not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unverified {
    /// It is none of ours, or something is wrong with it.
    NotOurs,
    /// It says it is from one of our issuers, and names a key that we do not know (yet).
    UnknownKey,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515, section 4.1.11): the server understands none.
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    #[serde(deserialize_with = "one_or_several")]
    aud: Vec<String>,
    sub: String,
    /// Dates may be fractions (RFC 7519, section 2).
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    iat: Option<f64>,
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

fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Audience::deserialize(deserializer)? {
        Audience::One(one) => vec![one],
        Audience::Several(several) => several,
    })
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
            let found = keys::of_pem(&read(file)?);
            if found.is_empty() {
                return Err(MaterialError::unusable(
                    file,
                    "holds no usable public key; expected PEM blocks `BEGIN PUBLIC KEY` (RSA, P-256, P-384 or P-521)",
                ));
            }
            keys.extend(found);
        }
        Ok(Self::new(keys, issuers))
    }

    pub(crate) fn new(keys: Vec<PublicKey>, issuers: &[String]) -> Self {
        Self {
            keys,
            issuers: issuers.to_vec(),
        }
    }

    /// Whether there are keys of our own: without, tokens are not verified here at all.
    pub(crate) fn verifies(&self) -> bool {
        !self.keys.is_empty()
    }

    /// The identity of `token` if one of our keys or of the `published` ones signed it, it comes from a known issuer for
    /// this server, and is within its dates at `now` (Unix seconds).
    ///
    /// # Errors
    /// [`Unverified`]: nothing is known about the token then.
    pub(crate) fn verify(
        &self,
        token: &str,
        published: &[PublicKey],
        now: u64,
    ) -> Result<VerifiedToken, Unverified> {
        if !self.verifies() || token.len() > LONGEST {
            return Err(Unverified::NotOurs);
        }
        let parts = Parts::of(token).ok_or(Unverified::NotOurs)?;
        // First what costs nothing: most tokens that are not ours are from somebody else.
        if !self.issuers.contains(&parts.claims.iss) {
            return Err(Unverified::NotOurs);
        }
        let named = parts.header.kid.as_deref().filter(|kid| !kid.is_empty());
        let mut known = false;
        let mut candidates = self
            .keys
            .iter()
            .chain(published)
            .filter(|key| named.is_none_or(|id| key.id() == id));
        let signed = candidates.any(|key| {
            known = true;
            key.verifies(
                &parts.header.alg,
                parts.message.as_bytes(),
                &parts.signature,
            )
        });
        match (signed, known) {
            (true, _) => parts
                .claims
                .into_token(&self.issuers, now)
                .ok_or(Unverified::NotOurs),
            (false, true) => Err(Unverified::NotOurs),
            (false, false) => Err(Unverified::UnknownKey),
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl TokenVerifier {
    /// What claims say that somebody has signed; only for trying them out.
    pub(crate) fn of_signed_claims(&self, claims: &[u8], now: u64) -> Option<VerifiedToken> {
        let claims: Claims = serde_json::from_slice(claims).ok()?;
        claims.into_token(&self.issuers, now)
    }
}

/// A token taken apart (RFC 7515, section 7.1); nothing of it is verified.
struct Parts<'a> {
    header: Header,
    claims: Claims,
    message: &'a str,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Header = serde_json::from_slice(&decoded(header)?).ok()?;
        if header.crit.is_some() {
            return None;
        }
        Some(Self {
            header,
            claims: serde_json::from_slice(&decoded(claims)?).ok()?,
            message,
            signature: decoded(signature)?,
        })
    }
}

/// A date as whole seconds; fractions are cut off, as go-jose does.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "saturates, which is what is wanted"
)]
const fn seconds(date: f64) -> u64 {
    date as u64
}

impl Claims {
    /// The audience and the dates, and who it then is.
    fn into_token(self, audiences: &[String], now: u64) -> Option<VerifiedToken> {
        let not_after = seconds(self.exp).saturating_add(LEEWAY);
        let begun =
            |date: Option<f64>| date.is_none_or(|date| seconds(date) <= now.saturating_add(LEEWAY));
        let meant = self.aud.iter().any(|audience| audiences.contains(audience));
        if !meant || now > not_after || !begun(self.nbf) || !begun(self.iat) {
            return None;
        }
        let KubernetesClaims {
            namespace,
            serviceaccount,
            pod,
            node,
        } = self.kubernetes;
        // Subject and private claims must name the same account.
        let account = ServiceAccount::of_user(&self.sub)?;
        if account.namespace() != namespace || account.name() != serviceaccount.name {
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
            not_after,
        })
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
