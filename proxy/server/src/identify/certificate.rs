//! The identity that a client certificate carries, read as kube-apiserver reads it.
//!
//! Follows `CommonNameUserConversion` of `k8s.io/apiserver/pkg/authentication/request/x509`: the user is the common
//! name, every organisation is a group, the Kubernetes UID attribute is the uid, and the certificate's digest becomes
//! the `credential-id` extra.

use std::fmt::Write as _;

use proxy_core::identity::Identity;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// The subject attribute that carries a user's UID (AllowParsingUserUIDFromCertAuth).
const UID_ATTRIBUTE: &str = "1.3.6.1.4.1.57683.2";

/// The extra under which the server records which credential was used.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// What a certificate says, and for how long.
#[derive(Debug)]
pub(crate) struct CertificateIdentity {
    /// `None` when the common name is empty: kube-apiserver has "no opinion" on such a certificate.
    pub(crate) identity: Option<Identity>,
    /// Unix seconds; the certificate says nothing before.
    pub(crate) not_before: u64,
    /// Unix seconds; the certificate says nothing after.
    pub(crate) not_after: u64,
}

/// Reads the leaf certificate `der`. `None` when it cannot be parsed or its UID attribute is malformed, which the
/// server treats as a failed authentication.
pub(crate) fn read(der: &[u8]) -> Option<CertificateIdentity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let validity = certificate.validity();
    let uid = uid(subject)?;
    let identity = common_name(subject).map(|user| {
        let groups = subject
            .iter_organization()
            .filter_map(|o| o.as_str().ok())
            .map(Into::into)
            .collect();
        Identity::certificate(
            user,
            groups,
            uid,
            vec![(CREDENTIAL_ID.into(), credential_id(der).into())],
        )
    });
    Some(CertificateIdentity {
        identity,
        not_before: u64::try_from(validity.not_before.timestamp()).unwrap_or(0),
        not_after: u64::try_from(validity.not_after.timestamp()).unwrap_or(0),
    })
}

/// Go keeps the last common name of a subject that has several.
fn common_name<'a>(subject: &'a X509Name<'a>) -> Option<&'a str> {
    subject
        .iter_common_name()
        .last()
        .and_then(|cn| cn.as_str().ok())
        .filter(|cn| !cn.is_empty())
}

/// `Some(None)`: no UID attribute. `None`: several, or an empty one, which is an error at the server.
#[allow(clippy::option_option)]
fn uid(subject: &X509Name<'_>) -> Option<Option<Box<str>>> {
    let mut found = None;
    for attribute in subject.iter_attributes() {
        if attribute.attr_type().to_id_string() != UID_ATTRIBUTE {
            continue;
        }
        let value = attribute.as_str().ok().filter(|value| !value.is_empty())?;
        if found.replace(value.into()).is_some() {
            return None;
        }
    }
    Some(found)
}

fn credential_id(der: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
    let mut text = String::with_capacity("X509SHA256=".len() + 64);
    text.push_str("X509SHA256=");
    for byte in digest.as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, KeyPair};

    fn certificate(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.custom_extensions = Vec::<CustomExtension>::new();
        let key = KeyPair::generate().expect("key");
        params
            .self_signed(&key)
            .expect("certificate")
            .der()
            .to_vec()
    }

    #[test]
    fn user_is_the_common_name_and_groups_are_the_organisations() {
        let der = certificate(&[
            (DnType::CommonName, "jane"),
            (DnType::OrganizationName, "dev"),
        ]);
        let read = read(&der).expect("parsed");
        let identity = read.identity.expect("identity");
        assert_eq!(identity.user(), "jane");
        assert_eq!(
            identity.groups().iter().map(|g| &**g).collect::<Vec<_>>(),
            ["dev"]
        );
        let (key, value) = &identity.extra()[0];
        assert_eq!(&**key, CREDENTIAL_ID);
        assert!(
            value.starts_with("X509SHA256=") && value.len() == 75,
            "{value}"
        );
    }

    #[test]
    fn no_common_name_is_no_opinion() {
        let der = certificate(&[(DnType::OrganizationName, "dev")]);
        assert!(read(&der).expect("parsed").identity.is_none());
    }

    #[test]
    fn the_uid_attribute_is_read_and_an_empty_one_refused() {
        let oid = DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        let der = certificate(&[(DnType::CommonName, "jane"), (oid.clone(), "u-1")]);
        assert_eq!(
            read(&der)
                .expect("parsed")
                .identity
                .expect("identity")
                .uid(),
            Some("u-1")
        );
        let der = certificate(&[(DnType::CommonName, "jane"), (oid, "")]);
        assert!(read(&der).is_none());
    }

    #[test]
    fn garbage_is_refused() {
        assert!(read(b"not a certificate").is_none());
    }
}
