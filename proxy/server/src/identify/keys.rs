//! The public keys that service-account tokens are verified with: from PEM files and from a JSON Web Key Set.
//!
//! A key goes by the id the server gives it (`keyIDFromPublicKey` of `k8s.io/kubernetes/pkg/serviceaccount/jwt.go`: the
//! digest of its DER form), or by the id a key set names it with. What a key may sign is decided by the key alone: a
//! token's own word on its algorithm only has to agree.

use aws_lc_rs::signature::{
    self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use serde::Deserialize;
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey as Parsed;

/// Keys of one document that are looked at; a cluster has one, or two while it changes them.
pub(crate) const MOST_KEYS: usize = 64;

/// Bytes of an RSA modulus or an elliptic point: 8192 bits.
const LONGEST_NUMBER: usize = 1024;

/// One public key, and the id tokens name it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey {
    id: Box<str>,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// An uncompressed point.
    Elliptic {
        curve: Curve,
        point: Vec<u8>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// Bytes of one coordinate.
    const fn coordinate(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// The algorithm of RFC 7518, section 3.4, and how to verify it.
    const fn algorithm(self) -> (&'static str, &'static dyn VerificationAlgorithm) {
        match self {
            Self::P256 => ("ES256", &signature::ECDSA_P256_SHA256_FIXED),
            Self::P384 => ("ES384", &signature::ECDSA_P384_SHA384_FIXED),
            Self::P521 => ("ES512", &signature::ECDSA_P521_SHA512_FIXED),
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "P-256" => Some(Self::P256),
            "P-384" => Some(Self::P384),
            "P-521" => Some(Self::P521),
            _ => None,
        }
    }

    fn of_point(length: usize) -> Option<Self> {
        [Self::P256, Self::P384, Self::P521]
            .into_iter()
            .find(|curve| length == 1 + 2 * curve.coordinate())
    }
}

impl PublicKey {
    /// The id tokens name it by.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The same key under another id.
    #[cfg(test)]
    pub(crate) fn named(self, id: &str) -> Self {
        Self {
            id: id.into(),
            ..self
        }
    }

    /// Whether `signed` is this key's signature of `message` under the algorithm of that name (RFC 7518, section 3.1).
    /// An algorithm that is not one of this key's is no signature.
    pub(crate) fn verifies(&self, algorithm: &str, message: &[u8], signed: &[u8]) -> bool {
        match &self.material {
            Material::Elliptic { curve, point } => {
                let (name, how) = curve.algorithm();
                name == algorithm
                    && UnparsedPublicKey::new(how, point)
                        .verify(message, signed)
                        .is_ok()
            }
            Material::Rsa { modulus, exponent } => {
                let how = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                let (n, e) = (modulus, exponent);
                RsaPublicKeyComponents { n, e }
                    .verify(how, message, signed)
                    .is_ok()
            }
        }
    }

    /// From a SubjectPublicKeyInfo: RSA, P-256, P-384 or P-521, the kinds the server signs with.
    fn of_info(der: &[u8]) -> Option<Self> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let material = match info.parsed().ok()? {
            Parsed::RSA(key) => Material::rsa(key.modulus, key.exponent)?,
            Parsed::EC(point) => Material::elliptic(None, point.data())?,
            _ => return None,
        };
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
        let id = URL_SAFE_NO_PAD.encode(digest).into();
        Some(Self { id, material })
    }
}

impl Material {
    /// `None` for a number out of bounds; whether it is a sound key is found out when it verifies.
    fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let plain = |number: &[u8]| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            let number = number.get(zeros..).unwrap_or_default().to_vec();
            (!number.is_empty() && number.len() <= LONGEST_NUMBER).then_some(number)
        };
        Some(Self::Rsa {
            modulus: plain(modulus)?,
            exponent: plain(exponent)?,
        })
    }

    fn elliptic(curve: Option<Curve>, point: &[u8]) -> Option<Self> {
        let of_length = Curve::of_point(point.len())?;
        let sound = point.first() == Some(&4) && curve.is_none_or(|curve| curve == of_length);
        sound.then(|| Self::Elliptic {
            curve: of_length,
            point: point.to_vec(),
        })
    }
}

/// The usable keys of PEM text: public keys and certificates, as the server's key files may hold.
pub(crate) fn of_pem(text: &[u8]) -> Vec<PublicKey> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(text)
        .filter_map(Result::ok)
        .take(MOST_KEYS)
        .filter_map(|(kind, der)| match kind {
            SectionKind::PublicKey => PublicKey::of_info(&der),
            SectionKind::Certificate => {
                let (_, certificate) = X509Certificate::from_der(&der).ok()?;
                PublicKey::of_info(certificate.tbs_certificate.subject_pki.raw)
            }
            _ => None,
        })
        .collect()
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: String,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

/// The usable signing keys of a JSON Web Key Set (RFC 7517); keys of other kinds or for other uses are left out.
/// `None` when the document is no key set.
pub(crate) fn of_key_set(document: &[u8]) -> Option<Vec<PublicKey>> {
    let KeySet { keys } = serde_json::from_slice(document).ok()?;
    let usable = keys.into_iter().take(MOST_KEYS).filter_map(|key| {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        jwk.into_key()
    });
    Some(usable.collect())
}

impl Jwk {
    fn into_key(self) -> Option<PublicKey> {
        if self.usage.is_some_and(|usage| usage != "sig") {
            return None;
        }
        let number = |text: Option<String>| {
            let text = text.filter(|text| text.len() <= 2 * LONGEST_NUMBER)?;
            URL_SAFE_NO_PAD.decode(text).ok()
        };
        let material = match &*self.kty {
            "RSA" => Material::rsa(&number(self.n)?, &number(self.e)?)?,
            "EC" => {
                let curve = Curve::named(&self.crv?)?;
                let (x, y) = (number(self.x)?, number(self.y)?);
                let full = x.len() == curve.coordinate() && y.len() == curve.coordinate();
                let point = [&[4][..], &x, &y].concat();
                full.then(|| Material::elliptic(Some(curve), &point))??
            }
            _ => return None,
        };
        Some(PublicKey {
            id: self.kid.into(),
            material,
        })
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
