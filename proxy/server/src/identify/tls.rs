//! Everything TLS is built from: files to keys, authorities and the two lanes' server configurations.
//!
//! rustls is configured only here, in `upstream/connect.rs` and in `traces/collector.rs`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{RootCertStore, ServerConfig};

use super::verify::{AcceptThenJudge, ClientAuthority};

/// Why key material could not be used. Names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// The file could not be read.
    #[error("{path}: cannot be read: {source}; check that the path is right and that this process may read it", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was read, but does not hold what is wanted.
    #[error("{path}: {problem}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what is expected.
        problem: String,
    },
}

impl MaterialError {
    pub(crate) fn unusable(path: &Path, problem: impl Into<String>) -> Self {
        Self::Unusable {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}

/// The one cryptography provider: aws-lc-rs.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    use std::sync::OnceLock;
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, MaterialError> {
    std::fs::read(path).map_err(|source| MaterialError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

/// All certificates of a PEM file, in order; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let text = read(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| {
            MaterialError::unusable(path, format!("is not a PEM file of certificates: {error}"))
        })?;
    if chain.is_empty() {
        return Err(MaterialError::unusable(
            path,
            "holds no certificate; expected PEM blocks `BEGIN CERTIFICATE`",
        ));
    }
    Ok(chain)
}

/// The private key of a PEM file (PKCS #8, PKCS #1 or SEC 1).
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, MaterialError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| {
        MaterialError::unusable(path, format!("holds no private key in PEM form: {error}"))
    })
}

/// Trust anchors from a PEM bundle.
pub(crate) fn roots(path: &Path) -> Result<Arc<RootCertStore>, MaterialError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| {
            MaterialError::unusable(path, format!("holds an unusable authority: {error}"))
        })?;
    }
    Ok(Arc::new(store))
}

/// The authorities of a PEM bundle as judges of client certificates.
pub(crate) fn client_authority(path: &Path) -> Result<ClientAuthority, MaterialError> {
    ClientAuthority::new(&certificates(path)?, &provider()).map_err(|problem| {
        MaterialError::unusable(path, format!("holds an unusable authority: {problem}"))
    })
}

/// The server side of a lane: the apiserver's own certificate, h2 and HTTP/1.1, TLS 1.2 and 1.3, client certificates
/// asked for and judged later.
///
/// Session resumption is off: a resumed session restores the stored client certificate without another check.
pub(crate) fn server_config(
    certificate: &Path,
    key: &Path,
    authorities: &[&ClientAuthority],
) -> Result<Arc<ServerConfig>, MaterialError> {
    let chain = certificates(certificate)?;
    let private = private_key(key)?;
    let hints = authorities
        .iter()
        .flat_map(|authority| authority.hints().iter().cloned())
        .collect();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| MaterialError::unusable(certificate, error.to_string()))?
        .with_client_cert_verifier(Arc::new(AcceptThenJudge::new(provider(), hints)))
        .with_single_cert(chain, private)
        .map_err(|error| {
            let problem = format!("does not go with the key {}: {error}", key.display());
            MaterialError::unusable(certificate, problem)
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// When the first certificate of `path` ends, in Unix seconds.
pub(crate) fn expiry(path: &Path) -> Result<u64, MaterialError> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let chain = certificates(path)?;
    let leaf = chain.first().map_or(&[][..], |leaf| leaf.as_ref());
    let (_, parsed) = X509Certificate::from_der(leaf)
        .map_err(|error| MaterialError::unusable(path, format!("cannot be parsed: {error}")))?;
    Ok(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0))
}
