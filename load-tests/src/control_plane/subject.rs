//! Certificates whose subject has several organizations.
//!
//! Kubernetes reads each organization of a client certificate as a group, and
//! rcgen keeps one value per attribute. So rcgen makes the certificate with an
//! empty subject, and here the subject is put in and the signature made again.
//! What is handled is what rcgen wrote: DER (X.690) with short tags.

use rcgen::{Error, KeyPair, SigningKey};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const BIT_STRING: u8 = 0x03;

/// id-at-commonName and id-at-organizationName, encoded (RFC 5280, A.1).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];

/// Where the subject is in a TBSCertificate with an explicit version (RFC 5280,
/// 4.1): version, serial number, algorithm, issuer, validity, subject.
const SUBJECT: usize = 5;

/// The certificate with another subject, signed again by its issuer's key.
pub(super) fn replace(
    certificate: &[u8],
    common_name: &str,
    organizations: &[&str],
    issuer: &KeyPair,
) -> Result<Vec<u8>, Error> {
    let malformed = || Error::CouldNotParseCertificate;
    let outer = content(certificate).ok_or_else(malformed)?;
    let parts = elements(outer).ok_or_else(malformed)?;
    let [signed_part, algorithm, _] = parts[..] else {
        return Err(malformed());
    };
    let mut fields = elements(content(signed_part).ok_or_else(malformed)?).ok_or_else(malformed)?;
    let subject = name(common_name, organizations);
    *fields.get_mut(SUBJECT).ok_or_else(malformed)? = &subject;

    let signed_part = element(SEQUENCE, &fields.concat());
    // A bit string starts with how many bits of its last byte are unused.
    let mut signature = vec![0];
    signature.extend(issuer.sign(&signed_part)?);
    let signature = element(BIT_STRING, &signature);
    Ok(element(
        SEQUENCE,
        &[&signed_part, algorithm, &signature[..]].concat(),
    ))
}

fn name(common_name: &str, organizations: &[&str]) -> Vec<u8> {
    let mut attributes = attribute(COMMON_NAME, common_name);
    for organization in organizations {
        attributes.extend(attribute(ORGANIZATION, organization));
    }
    element(SEQUENCE, &attributes)
}

fn attribute(kind: &[u8], value: &str) -> Vec<u8> {
    let mut pair = element(OBJECT_IDENTIFIER, kind);
    pair.extend(element(UTF8_STRING, value.as_bytes()));
    element(SET, &element(SEQUENCE, &pair))
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut encoded = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => encoded.push(short),
        _ => {
            let length = content.len().to_be_bytes();
            let significant: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
            // At most eight bytes.
            encoded.push(0x80 | significant.len() as u8);
            encoded.extend(significant);
        }
    }
    encoded.extend(content);
    encoded
}

/// The length of the first element's header and of its content.
fn measure(encoded: &[u8]) -> Option<(usize, usize)> {
    let first = *encoded.get(1)?;
    if first < 0x80 {
        return Some((2, usize::from(first)));
    }
    let bytes = usize::from(first & 0x7f);
    let length = encoded.get(2..2 + bytes)?;
    let length = length.iter().try_fold(0_usize, |sum, byte| {
        sum.checked_mul(256)?.checked_add(usize::from(*byte))
    })?;
    Some((2 + bytes, length))
}

fn content(encoded: &[u8]) -> Option<&[u8]> {
    let (header, length) = measure(encoded)?;
    encoded.get(header..header.checked_add(length)?)
}

fn elements(mut encoded: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !encoded.is_empty() {
        let (header, length) = measure(encoded)?;
        let (element, rest) = encoded.split_at_checked(header.checked_add(length)?)?;
        found.push(element);
        encoded = rest;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_measures_as_it_is() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let encoded = element(SEQUENCE, &vec![7; length]);
            assert_eq!(content(&encoded).map(<[u8]>::len), Some(length));
            let twice = [encoded.clone(), encoded].concat();
            assert_eq!(elements(&twice).map(|found| found.len()), Some(2));
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_no_element() {
        assert_eq!(content(&[SEQUENCE, 3, 0, 0]), None);
        assert_eq!(elements(&[SEQUENCE, 0x82, 1]), None);
    }
}
