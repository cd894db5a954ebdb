//! Client certificates: accepted by the handshake, judged afterwards.
//!
//! kube-apiserver asks for a client certificate and never fails the handshake over it; its authenticators judge the
//! chain for each request, so that an expired or foreign certificate becomes a 401 and not a broken connection. rustls'
//! own verifier would refuse such a client at once, hence [`AcceptThenJudge`]: it checks only that the client holds the
//! private key of what it presents. [`ClientAuthority`] is the judge.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Accepts every client certificate whose private key the client proves to hold; says nothing about its chain.
#[derive(Debug)]
pub(crate) struct AcceptThenJudge {
    provider: Arc<CryptoProvider>,
    hints: Vec<DistinguishedName>,
}

impl AcceptThenJudge {
    /// `hints` are the names of the authorities offered to the client, so that it picks the right certificate.
    pub(crate) fn new(provider: Arc<CryptoProvider>, hints: Vec<DistinguishedName>) -> Self {
        Self { provider, hints }
    }
}

impl ClientCertVerifier for AcceptThenJudge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A set of certificate authorities that may vouch for clients: chain, validity dates and the `clientAuth` usage.
#[derive(Clone, Debug)]
pub(crate) struct ClientAuthority {
    anchors: Arc<[Anchor]>,
    hints: Arc<[DistinguishedName]>,
}

/// One authority. Judged one by one because Go, unlike webpki, asks for the dates of the authority as well.
#[derive(Debug)]
struct Anchor {
    judge: Arc<dyn ClientCertVerifier>,
    key: Vec<u8>,
    /// Unix seconds.
    not_before: i64,
    not_after: i64,
}

impl Anchor {
    fn new(
        certificate: &CertificateDer<'static>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let mut roots = RootCertStore::empty();
        roots
            .add(certificate.clone())
            .map_err(|error| error.to_string())?;
        let judge =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
                .build()
                .map_err(|error| error.to_string())?;
        let validity = parsed.validity();
        Ok(Self {
            judge,
            key: parsed.tbs_certificate.subject_pki.raw.to_vec(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }
}

impl ClientAuthority {
    /// # Errors
    /// A text when one of `certificates` cannot serve as a trust anchor, or there is none.
    pub(crate) fn new(
        certificates: &[CertificateDer<'static>],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let anchors: Vec<Anchor> = certificates
            .iter()
            .map(|certificate| Anchor::new(certificate, provider))
            .collect::<Result<_, _>>()?;
        if anchors.is_empty() {
            return Err("holds no certificate".to_owned());
        }
        let hints = anchors
            .iter()
            .flat_map(|anchor| anchor.judge.root_hint_subjects().iter().cloned())
            .collect();
        Ok(Self {
            anchors: anchors.into(),
            hints,
        })
    }

    /// Whether `chain` (leaf first, as the client sent it) is vouched for at `now` (Unix seconds).
    pub(crate) fn vouches_for(&self, chain: &[CertificateDer<'static>], now: u64) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return false;
        };
        let signed = i64::try_from(now).unwrap_or(i64::MAX);
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        self.anchors.iter().any(|anchor| {
            (anchor.not_before..=anchor.not_after).contains(&signed)
                && anchor
                    .judge
                    .verify_client_cert(leaf, intermediates, time)
                    .is_ok()
        })
    }

    /// Whether an authority of both has the same key.
    pub(crate) fn shares_a_key_with(&self, other: &Self) -> bool {
        self.anchors
            .iter()
            .any(|own| other.anchors.iter().any(|theirs| own.key == theirs.key))
    }

    /// Names of the authorities, to be offered to clients.
    pub(crate) fn hints(&self) -> &[DistinguishedName] {
        &self.hints
    }
}
