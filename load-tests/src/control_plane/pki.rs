//! Certificates and keys: client certificates for made-up users, and, for the
//! binaries of `KUBEBUILDER_ASSETS`, the whole of kubeadm's `pki/`.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

use super::{Error, files, subject};

/// How far in the past validity starts, for clocks that are a little apart.
const CLOCK_SKEW: Duration = Duration::from_secs(60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// The address the server publishes as its own. It must not be a loopback one;
/// this is reserved for documentation (RFC 5737), so it leads nowhere.
pub(super) const ADVERTISE_ADDRESS: &str = "192.0.2.1";
/// The first address of [`SERVICE_SUBNET`]: the `kubernetes` Service.
const FIRST_SERVICE_ADDRESS: &str = "10.96.0.1";
/// kubeadm's default.
pub(super) const SERVICE_SUBNET: &str = "10.96.0.0/12";

/// The algorithm of a cluster's keys, of those kubeadm offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyAlgorithm {
    /// kubeadm's default.
    #[default]
    Rsa2048,
    /// Much cheaper to sign with.
    EcdsaP256,
}

impl KeyAlgorithm {
    fn generate(self) -> Result<KeyPair, rcgen::Error> {
        KeyPair::generate_for(match self {
            Self::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
            Self::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        })
    }
}

/// A client certificate and its private key.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// The private key, PEM.
    pub key_pem: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

/// Signs a client certificate with the CA in `pki_dir`.
pub(super) fn client_certificate(
    pki_dir: &Path,
    common_name: &str,
    groups: &[&str],
    validity: Duration,
) -> Result<Credentials, Error> {
    let mut params = unnamed();
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + validity).into();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyAlgorithm::EcdsaP256.generate()?;
    let authority = authority(pki_dir, "ca")?;
    let certificate = params.signed_by(&key, &authority)?;
    let named = subject::replace(certificate.der(), common_name, groups, authority.key())?;
    Ok(Credentials {
        cert_pem: certificate_pem(&named),
        key_pem: key.serialize_pem(),
    })
}

/// PEM (RFC 7468): base64 in lines of 64 characters.
fn certificate_pem(der: &[u8]) -> String {
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    // 48 bytes make 64 characters.
    for line in der.chunks(48) {
        pem.push_str(&BASE64_STANDARD.encode(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Lays out `pki/` as kubeadm does, unless it is there.
pub(super) fn ensure(
    pki_dir: &Path,
    algorithm: KeyAlgorithm,
    extra_sans: &[String],
) -> Result<(), Error> {
    // Written last, so its presence says that the rest is there.
    let service_account_key = pki_dir.join("sa.key");
    if service_account_key.exists() {
        return Ok(());
    }
    files::create_private_dir(pki_dir)?;
    create_authority(pki_dir, "ca", "kubernetes", algorithm)?;
    create_authority(pki_dir, "front-proxy-ca", "front-proxy-ca", algorithm)?;

    let cluster = authority(pki_dir, "ca")?;
    let mut serving = long_lived(named("kube-apiserver"), 1);
    serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut names = vec![
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        "kubernetes.default.svc.cluster.local".to_owned(),
        FIRST_SERVICE_ADDRESS.to_owned(),
        ADVERTISE_ADDRESS.to_owned(),
    ];
    let host = files::read(Path::new("/proc/sys/kernel/hostname"))?;
    names.push(host.trim().to_lowercase());
    names.extend_from_slice(extra_sans);
    serving.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
    write(pki_dir, "apiserver", &issue(&cluster, serving, algorithm)?)?;

    let client = |common_name: &str| {
        let mut params = long_lived(named(common_name), 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params
    };
    let mut kubelet_client = client("kube-apiserver-kubelet-client");
    kubelet_client
        .distinguished_name
        .push(DnType::OrganizationName, "kubeadm:cluster-admins");
    write(
        pki_dir,
        "apiserver-kubelet-client",
        &issue(&cluster, kubelet_client, algorithm)?,
    )?;
    let front_proxy = authority(pki_dir, "front-proxy-ca")?;
    write(
        pki_dir,
        "front-proxy-client",
        &issue(&front_proxy, client("front-proxy-client"), algorithm)?,
    )?;

    let key = algorithm.generate()?;
    files::write_private(&pki_dir.join("sa.pub"), &key.public_key_pem())?;
    files::write_private(&service_account_key, &key.serialize_pem())
}

fn unnamed() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = unnamed();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

fn long_lived(mut params: CertificateParams, years: u32) -> CertificateParams {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + YEAR * years).into();
    params
}

fn create_authority(
    pki_dir: &Path,
    name: &str,
    common_name: &str,
    algorithm: KeyAlgorithm,
) -> Result<(), Error> {
    let mut params = long_lived(named(common_name), 10);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    let key = algorithm.generate()?;
    let credentials = Credentials {
        cert_pem: params.self_signed(&key)?.pem(),
        key_pem: key.serialize_pem(),
    };
    write(pki_dir, name, &credentials)
}

fn authority(pki_dir: &Path, name: &str) -> Result<Issuer<'static, KeyPair>, Error> {
    let key = KeyPair::from_pem(&files::read(&pki_dir.join(format!("{name}.key")))?)?;
    let certificate = files::read(&pki_dir.join(format!("{name}.crt")))?;
    Ok(Issuer::from_ca_cert_pem(&certificate, key)?)
}

fn issue(
    authority: &Issuer<'_, KeyPair>,
    params: CertificateParams,
    algorithm: KeyAlgorithm,
) -> Result<Credentials, Error> {
    let key = algorithm.generate()?;
    Ok(Credentials {
        cert_pem: params.signed_by(&key, authority)?.pem(),
        key_pem: key.serialize_pem(),
    })
}

fn write(pki_dir: &Path, name: &str, credentials: &Credentials) -> Result<(), Error> {
    let file = |extension: &str| pki_dir.join(format!("{name}.{extension}"));
    files::write_private(&file("crt"), &credentials.cert_pem)?;
    files::write_private(&file("key"), &credentials.key_pem)
}
