//! Certificate authorities and files that are replaced under a running proxy.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use load_tests::control_plane::{ControlPlane, Credentials};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

use super::HOUR;

/// A certificate authority that can sign.
pub(crate) struct Authority {
    pub(crate) ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// One whose certificate and key are at hand.
    pub(crate) fn from_files(ca_pem: &str, key_pem: &str) -> anyhow::Result<Self> {
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(ca_pem, KeyPair::from_pem(key_pem)?)?,
            ca_pem: ca_pem.to_owned(),
        })
    }

    /// One that nobody knows yet.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        Self::ending(name, SystemTime::now() + HOUR)
    }

    /// One that nobody knows yet, until a date.
    pub(crate) fn ending(name: &str, end: SystemTime) -> anyhow::Result<Self> {
        let mut params = params(name, HOUR);
        params.not_after = end.into();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        let key = KeyPair::generate()?;
        let ca_pem = params.self_signed(&key)?.pem();
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key)?;
        Ok(Self { ca_pem, issuer })
    }

    /// A client certificate of a user in one group.
    pub(crate) fn client(&self, user: &str, group: &str) -> anyhow::Result<Credentials> {
        let mut params = params(user, HOUR);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(&params)
    }

    /// A serving certificate for the names kube-apiserver is verified by.
    pub(crate) fn serving(&self, subject: &str) -> anyhow::Result<Credentials> {
        let mut params = params(subject, HOUR);
        params.subject_alt_names =
            CertificateParams::new(["kubernetes".to_owned()])?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    /// Another authority below this one.
    pub(crate) fn intermediate(&self, name: &str) -> anyhow::Result<Self> {
        let mut params = params(name, HOUR);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
        let key = KeyPair::generate()?;
        let ca_pem = params.signed_by(&key, &self.issuer)?.pem();
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key)?;
        Ok(Self { ca_pem, issuer })
    }

    /// A certificate with these contents.
    pub(crate) fn sign(&self, params: &CertificateParams) -> anyhow::Result<Credentials> {
        let key = KeyPair::generate()?;
        Ok(Credentials {
            cert_pem: params.signed_by(&key, &self.issuer)?.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

/// The cluster's own authority.
pub(crate) fn cluster_authority(plane: &ControlPlane) -> anyhow::Result<Authority> {
    let key = std::fs::read_to_string(plane.pki_dir().join("ca.key"))?;
    Authority::from_files(&plane.ca_pem()?, &key)
}

/// The contents of a certificate that is valid from a minute ago.
pub(crate) fn params(name: &str, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(60)).into();
    params.not_after = (now + validity).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

/// Copies a cluster's certificates and keys to where a test may replace them.
pub(crate) fn copy_pki(plane: &ControlPlane, to: &Path) -> anyhow::Result<()> {
    for file in std::fs::read_dir(plane.pki_dir())? {
        let file = file?;
        if file.file_type()?.is_file() {
            std::fs::copy(file.path(), to.join(file.file_name()))?;
        }
    }
    Ok(())
}

/// Replaces a file as a whole, by renaming another over it.
pub(crate) fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, text).with_context(|| format!("writing {}", next.display()))?;
    std::fs::rename(&next, path).with_context(|| format!("replacing {}", path.display()))
}
