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
    judge: Arc<dyn ClientCertVerifier>,
}

impl ClientAuthority {
    /// # Errors
    /// A text when the authorities cannot serve as trust anchors (for instance an empty set).
    pub(crate) fn new(
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        WebPkiClientVerifier::builder_with_provider(roots, provider)
            .build()
            .map(|judge| Self { judge })
            .map_err(|error| error.to_string())
    }

    /// Whether `chain` (leaf first, as the client sent it) is vouched for at `now` (Unix seconds).
    pub(crate) fn vouches_for(&self, chain: &[CertificateDer<'static>], now: u64) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return false;
        };
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        self.judge
            .verify_client_cert(leaf, intermediates, now)
            .is_ok()
    }

    /// Names of the authorities, to be offered to clients.
    pub(crate) fn hints(&self) -> &[DistinguishedName] {
        self.judge.root_hint_subjects()
    }
}
