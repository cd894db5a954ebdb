//! What somebody shows to prove who they are, and the files and answers it is judged by.

use std::sync::OnceLock;

use proxy_core::identity::ServiceAccount;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::account::learn;
use crate::identify::certificate;
use crate::identify::keys::{self, MOST_KEYS};
use crate::identify::tls::provider;
use crate::identify::token::TokenVerifier;
use crate::identify::verify::ClientAuthority;

/// A time at which the corpus's certificates and tokens are good.
const NOW: u64 = 1_800_000_000;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A key nobody has the other half of any more.
const LOST_KEY: &[u8] = include_bytes!("../../../fuzz/lost-key.pub");

/// An authority nobody has the key of any more.
const LOST_AUTHORITY: &[u8] = include_bytes!("../../../fuzz/lost-authority.crt");

fn verifier() -> &'static TokenVerifier {
    static VERIFIER: OnceLock<TokenVerifier> = OnceLock::new();
    VERIFIER.get_or_init(|| TokenVerifier::new(keys::of_pem(LOST_KEY), &[ISSUER.to_owned()]))
}

fn authority() -> &'static ClientAuthority {
    static AUTHORITY: OnceLock<ClientAuthority> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let root = CertificateDer::from_pem_slice(LOST_AUTHORITY).expect("a certificate");
        ClientAuthority::new(&[root], &provider()).expect("an authority")
    })
}

/// A token: none verifies, since nobody can sign one.
pub(super) fn token(data: &[u8]) {
    if let Ok(token) = std::str::from_utf8(data) {
        assert!(verifier().verify(token, &[], NOW).is_err());
    }
}

/// Claims, once signed, make only the service account they name.
pub(super) fn claims(data: &[u8]) {
    let Some(token) = verifier().of_signed_claims(data, NOW) else {
        return;
    };
    assert!(token.not_after >= NOW);
    let account = token.identity.as_service_account().expect("an account");
    assert_eq!(
        ServiceAccount::of_user(token.identity.user()).as_ref(),
        Some(account)
    );
    let own = format!("system:serviceaccounts:{}", account.namespace());
    let groups = ["system:serviceaccounts", &own, "system:authenticated"];
    assert!(
        token
            .identity
            .groups()
            .iter()
            .map(|group| &**group)
            .eq(groups)
    );
}

/// A certificate names whom it names, and is vouched for by nobody who did not sign it.
pub(super) fn certificate(data: &[u8]) {
    let der = CertificateDer::from(data.to_vec());
    let chain = [der.clone(), der];
    assert!(!authority().vouches_for(&chain, NOW));
    assert!(!authority().vouches_for(&chain[..1], NOW));
    let _ = ClientAuthority::new(&chain[..1], &provider()).map(|own| own.vouches_for(&chain, NOW));
    let read = certificate::read(data);
    if let Some(read) = &read {
        assert_eq!(
            certificate::dates(data),
            Some((read.not_before, read.not_after))
        );
        assert_eq!(read.identity.is_some(), !read.common_name.is_empty());
    }
    if let Some(identity) = read.and_then(|read| read.identity) {
        assert!(identity.uid().is_none_or(|uid| !uid.is_empty()));
        assert_eq!(identity.extra().len(), 1);
    }
}

/// Files of keys and certificates: read or refused, and never more than a bounded number of keys.
pub(super) fn pem(data: &[u8]) {
    assert!(keys::of_pem(data).len() <= MOST_KEYS);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(data)
        .filter_map(Result::ok)
        .collect();
    if let Ok(own) = ClientAuthority::new(&chain, &provider()) {
        assert!(!chain.is_empty());
        assert!(own.shares_a_key_with(&own));
        own.vouches_for(&chain, NOW);
    }
    let _ = PrivateKeyDer::from_pem_slice(data);
}

/// A key set: bounded, and none of its keys has signed what nobody signed.
pub(super) fn key_set(data: &[u8]) {
    let Some(found) = keys::of_key_set(data) else {
        return;
    };
    assert!(found.len() <= MOST_KEYS);
    for key in found.iter().take(2) {
        assert!(!key.verifies("none", b"", b""));
        assert!(!key.verifies("HS256", b"message", &[7; 32]));
        for (algorithm, length) in [("ES256", 64), ("ES512", 132), ("RS256", 256)] {
            // What a key of one's own making takes for a signature is its maker's affair; it only must not panic.
            let _ = key.verifies(algorithm, b"message", &vec![7; length]);
        }
    }
}

/// A review names somebody, or nobody.
pub(super) fn review(data: &[u8]) {
    if let Some(identity) = learn::identity(data) {
        assert!(identity.is_verified());
        assert!(!identity.user().is_empty());
        assert_ne!(identity.user(), "system:anonymous");
    }
}

/// Whether claims are good, once signed.
#[cfg(test)]
pub(super) fn are_good(claims: &[u8]) -> bool {
    verifier().of_signed_claims(claims, NOW).is_some()
}
