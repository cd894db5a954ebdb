//! One call through the reserved lane, as an operator's tool would make it: TLS, a client certificate, a review of oneself.
//!
//! A `SelfSubjectReview` stores nothing and is answered with who the apiserver takes the caller for: the lane, the
//! assertion of the identity and the server, proven by one call.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::identify::tls::{certificates, private_key, provider};

const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const BODY: &[u8] = br#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
/// The longest answer read.
const MOST_BYTES: usize = 64 << 10;

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Called {
    pub(crate) status: u16,
    /// Whom the apiserver takes the caller for; empty where it did not say.
    pub(crate) user: String,
    /// The message of a refusal.
    pub(crate) message: String,
}

/// Trusts one certificate and no other: the proxy's own, when it calls itself.
#[derive(Debug)]
pub(crate) struct Pinned(CertificateDer<'static>);

impl Pinned {
    /// The first certificate of a file.
    ///
    /// # Errors
    /// A text about the file.
    pub(crate) fn certificate(path: &Path) -> Result<Self, String> {
        let chain = certificates(path).map_err(|problem| problem.to_string())?;
        let first = chain.into_iter().next();
        Ok(Self(first.ok_or("the serving certificate is missing")?))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General(
                "the lane shows another certificate than tls.certificate".to_owned(),
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A client with the certificate and key of two files.
///
/// # Errors
/// A text about the file that cannot be used.
pub(crate) fn pinned(server: Pinned, client: (&Path, &Path)) -> Result<ClientConfig, String> {
    let chain = certificates(client.0).map_err(|problem| problem.to_string())?;
    let key = private_key(client.1).map_err(|problem| problem.to_string())?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|problem| problem.to_string())?;
    builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(server))
        .with_client_auth_cert(chain, key)
        .map_err(|problem| format!("{}: {problem}", client.0.display()))
}

/// A client that trusts the authorities of a PEM text and shows the certificate of another.
///
/// # Errors
/// A text about what cannot be used.
pub(crate) fn trusting(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(ca) {
        let authority = authority.map_err(|problem| format!("the cluster's CA: {problem}"))?;
        roots
            .add(authority)
            .map_err(|problem| format!("the cluster's CA: {problem}"))?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(|problem| format!("the client certificate: {problem}"))?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|problem| format!("the client's key: {problem}"))?;
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|problem| problem.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|problem| format!("the client certificate: {problem}"))
}

/// Makes the call. Runs inside a `LocalSet`.
///
/// # Errors
/// A text about what did not work on the way.
pub(crate) async fn call(
    address: SocketAddr,
    client: ClientConfig,
    server_name: &str,
    patience: Duration,
) -> Result<Called, String> {
    let name = ServerName::try_from(server_name.to_owned())
        .map_err(|_| format!("`{server_name}` is no server name"))?;
    let work = async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|problem| format!("{address} cannot be connected to: {problem}"))?;
        let tls = TlsConnector::from(Arc::new(client)).connect(name, stream);
        let stream = tls
            .await
            .map_err(|problem| format!("TLS with {address} failed: {problem}"))?;
        let broken = |problem: hyper::Error| format!("{address} did not answer: {problem}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let driver = tokio::task::spawn_local(connection);
        let mut request = Request::new(Full::new(Bytes::from_static(BODY)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = http::Uri::from_static(REVIEW);
        let headers = request.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
        if let Ok(host) = http::HeaderValue::from_str(server_name) {
            headers.insert(HOST, host);
        }
        headers.insert(
            http::header::USER_AGENT,
            http::HeaderValue::from_static(concat!("spillway/", env!("CARGO_PKG_VERSION"))),
        );
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MOST_BYTES)
            .collect()
            .await;
        driver.abort();
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |pointer| {
            let found = body.pointer(pointer).and_then(serde_json::Value::as_str);
            found.unwrap_or_default().to_owned()
        };
        Ok(Called {
            status,
            user: text("/status/userInfo/username"),
            message: text("/message"),
        })
    };
    tokio::time::timeout(patience, work)
        .await
        .unwrap_or_else(|_| Err(format!("{address} did not answer within {patience:?}")))
}
