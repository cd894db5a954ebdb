//! The identity that a client certificate carries, read as kube-apiserver reads it.
//!
//! Follows `CommonNameUserConversion` of `k8s.io/apiserver/pkg/authentication/request/x509`: the user is the common
//! name, every organisation is a group, the Kubernetes UID attribute is the uid, and the certificate's digest becomes
//! the `credential-id` extra.

use std::fmt::Write as _;

use proxy_core::identity::Identity;
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME};
use x509_parser::prelude::{ASN1Time, FromDer, Validity, X509Certificate, X509Name};

use super::revoked;

/// The subject attribute that carries a user's UID (AllowParsingUserUIDFromCertAuth).
const UID_ATTRIBUTE: &str = "1.3.6.1.4.1.57683.2";

/// The extra under which the server records which credential was used.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// What a certificate says, and for how long.
#[derive(Debug)]
pub(crate) struct CertificateIdentity {
    /// The common name; empty when there is none.
    pub(crate) common_name: Box<str>,
    /// `None` when the common name is empty: kube-apiserver has "no opinion" on such a certificate.
    pub(crate) identity: Option<Identity>,
    /// Its serial number, as the list of revoked ones writes it.
    pub(crate) serial: Box<str>,
    /// Unix seconds; the certificate says nothing before.
    pub(crate) not_before: u64,
    /// Unix seconds; the certificate says nothing after.
    pub(crate) not_after: u64,
}

/// Reads the leaf certificate `der`. `None` when it cannot be parsed or its UID attribute is malformed, which the
/// server treats as a failed authentication.
pub(crate) fn read(der: &[u8]) -> Option<CertificateIdentity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = Subject::of(certificate.subject())?;
    let (not_before, not_after) = seconds(certificate.validity());
    let identity = match &*subject.common_name {
        "" => None,
        user => {
            let extra = vec![(CREDENTIAL_ID.into(), credential_id(der).into())];
            let uid = one_uid(subject.uids)?;
            Some(Identity::certificate(
                user,
                subject.organisations,
                uid,
                extra,
            ))
        }
    };
    Some(CertificateIdentity {
        common_name: subject.common_name,
        identity,
        serial: revoked::serial(certificate.raw_serial()),
        not_before,
        not_after,
    })
}

/// From and until when `der` is valid, in Unix seconds. `None` when it cannot be parsed.
pub(crate) fn dates(der: &[u8]) -> Option<(u64, u64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(seconds(certificate.validity()))
}

fn seconds(validity: &Validity) -> (u64, u64) {
    let seconds = |time: ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    (seconds(validity.not_before), seconds(validity.not_after))
}

/// What of a subject becomes an identity.
#[derive(Default)]
struct Subject {
    common_name: Box<str>,
    organisations: Vec<Box<str>>,
    uids: Vec<Box<str>>,
}

impl Subject {
    /// `None` when an attribute holds no text: Go refuses to parse such a certificate at all.
    fn of(name: &X509Name<'_>) -> Option<Self> {
        let mut subject = Self::default();
        for attribute in name.iter_attributes() {
            let text = text(attribute.attr_value())?;
            let kind = attribute.attr_type();
            if *kind == OID_X509_COMMON_NAME {
                // Go keeps the last of several.
                subject.common_name = text;
            } else if *kind == OID_X509_ORGANIZATION_NAME {
                subject.organisations.push(text);
            } else if kind.to_id_string() == UID_ATTRIBUTE {
                subject.uids.push(text);
            }
        }
        Some(subject)
    }
}

/// `Some(None)`: no UID attribute. `None`: several, or an empty one, which is an error at the server.
#[allow(clippy::option_option)]
fn one_uid(uids: Vec<Box<str>>) -> Option<Option<Box<str>>> {
    let mut uids = uids.into_iter();
    let uid = uids.next();
    let sound = uids.next().is_none() && uid.as_ref().is_none_or(|uid| !uid.is_empty());
    sound.then_some(uid)
}

/// A text of any of ASN.1's kinds, as `parseASN1String` of Go's `crypto/x509` reads it.
fn text(value: &Any<'_>) -> Option<Box<str>> {
    let utf8 = |sound: fn(&u8) -> bool| {
        let all = value.data.iter().all(sound);
        let text = std::str::from_utf8(value.data).ok();
        text.filter(|_| all).map(Into::into)
    };
    match value.tag() {
        Tag::Utf8String => utf8(|_| true),
        Tag::Ia5String => utf8(u8::is_ascii),
        Tag::NumericString => utf8(|byte| byte.is_ascii_digit() || *byte == b' '),
        Tag::PrintableString => {
            utf8(|byte| byte.is_ascii_alphanumeric() || b"'()+,-./ :=?*&".contains(byte))
        }
        Tag::TeletexString => {
            let latin1: String = value.data.iter().map(|byte| char::from(*byte)).collect();
            Some(latin1.into())
        }
        Tag::BmpString => ucs2(value.data),
        _ => None,
    }
}

fn ucs2(data: &[u8]) -> Option<Box<str>> {
    let (points, []) = data.as_chunks::<2>() else {
        return None;
    };
    let points = points.strip_suffix(&[[0, 0]]).unwrap_or(points);
    let text: Option<String> = points
        .iter()
        .map(|point| match u16::from_be_bytes(*point) {
            0xfffe | 0xffff | 0xfdd0..=0xfdef => None,
            point => char::from_u32(point.into()),
        })
        .collect();
    text.map(Into::into)
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
    fn several_uids_are_refused_but_not_of_one_without_a_name() {
        let uid = || DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        let nameless = certificate(&[(uid(), "")]);
        let read = read(&nameless).expect("the name is asked first, as by the server");
        assert!(read.identity.is_none());
        assert!(one_uid(vec!["a".into(), "b".into()]).is_none());
        assert_eq!(one_uid(vec!["a".into()]), Some(Some("a".into())));
        assert_eq!(one_uid(Vec::new()), Some(None));
    }

    #[test]
    fn an_empty_organisation_is_a_group_as_it_is_for_the_server() {
        let der = certificate(&[(DnType::CommonName, "jane"), (DnType::OrganizationName, "")]);
        let identity = read(&der).expect("parsed").identity.expect("identity");
        assert_eq!(identity.groups(), ["".into()]);
    }

    #[test]
    fn texts_are_read_as_go_reads_them() {
        let read = |tag, data: &[u8]| {
            let value = Any::from_tag_and_data(tag, data);
            text(&value).map(String::from)
        };
        let good: [(Tag, &[u8], &str); 6] = [
            (Tag::Utf8String, "größe".as_bytes(), "größe"),
            (Tag::PrintableString, b"system:masters", "system:masters"),
            (Tag::Ia5String, b"jane@example.org", "jane@example.org"),
            (Tag::TeletexString, b"gr\xf6\xdfe", "größe"),
            (Tag::BmpString, b"\0j\x20\xac\0\0", "j€"),
            (Tag::NumericString, b"1 2", "1 2"),
        ];
        for (tag, data, expected) in good {
            assert_eq!(read(tag, data).as_deref(), Some(expected), "{tag}");
        }
        let bad: [(Tag, &[u8]); 8] = [
            (Tag::Utf8String, b"\xff"),
            (Tag::PrintableString, b"jane@example.org"),
            (Tag::Ia5String, b"gr\xf6"),
            (Tag::BmpString, b"\0j\0"),
            (Tag::BmpString, b"\xd8\0\xdc\0"),
            (Tag::BmpString, b"\xff\xff"),
            (Tag::NumericString, b"1a"),
            (Tag::BitString, b"\0a"),
        ];
        for (tag, data) in bad {
            assert_eq!(read(tag, data), None, "{tag} {data:?}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert!(read(b"not a certificate").is_none());
    }
}
