//! A kubeadm-like PKI on disk: the same file names, made anew where they are
//! missing and read back where they are not.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256,
};

use super::Error;

const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// Clocks of other hosts may be behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub struct Certified {
    /// One certificate.
    pub certificate: String,
    /// PKCS #8.
    pub key: String,
}

/// What a leaf certificate is for.
enum Usage<'a> {
    Server(&'a [&'a str]),
    Client,
}

/// The model's certificate authorities.
pub(super) struct Pki {
    dir: PathBuf,
    ca: Issuer<'static, KeyPair>,
    /// `ca.crt`, `front-proxy-ca.crt`.
    pub(super) client_ca: String,
    pub(super) front_proxy_ca: String,
    /// The serving certificate.
    pub(super) server: Certified,
    /// `sa.key`.
    pub(super) token_key: KeyPair,
}

impl Pki {
    /// Makes or reads `dir/pki`. Fails when a file cannot be written or holds
    /// no key or certificate.
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        let pki = dir.join("pki");
        fs::create_dir_all(&pki).map_err(|error| Error::file(&pki, error))?;
        let (ca, client_ca) = authority(&pki.join("ca"), "kubernetes")?;
        let (front_proxy, front_proxy_ca) =
            authority(&pki.join("front-proxy-ca"), "front-proxy-ca")?;
        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
            "127.0.0.1",
        ];
        let server = leaf(&pki.join("apiserver"), || {
            sign(&ca, "kube-apiserver", &[], Usage::Server(&names))
        })?;
        leaf(&pki.join("apiserver-kubelet-client"), || {
            let groups = ["kubeadm:cluster-admins"];
            sign(&ca, "kube-apiserver-kubelet-client", &groups, Usage::Client)
        })?;
        leaf(&pki.join("front-proxy-client"), || {
            sign(&front_proxy, "front-proxy-client", &[], Usage::Client)
        })?;
        let token_key = token_key(&pki)?;
        Ok(Self {
            dir: dir.to_owned(),
            ca,
            client_ca,
            front_proxy_ca,
            server,
            token_key,
        })
    }

    /// A client certificate of the cluster CA: user `name`, groups `groups`,
    /// of which the first two are used.
    pub(super) fn client(&self, name: &str, groups: &[&str]) -> Result<Certified, Error> {
        sign(&self.ca, name, groups, Usage::Client)
    }

    /// Writes kubeadm's kubeconfigs for `server`, new at every start because
    /// the port may have changed.
    pub(super) fn write_kubeconfigs(&self, server: &str) -> Result<(), Error> {
        for (file, user, groups) in [
            (
                "admin.conf",
                "kubernetes-admin",
                &["kubeadm:cluster-admins"][..],
            ),
            (
                "super-admin.conf",
                "kubernetes-super-admin",
                &["system:masters"],
            ),
            (
                "controller-manager.conf",
                "system:kube-controller-manager",
                &[],
            ),
            ("scheduler.conf", "system:kube-scheduler", &[]),
        ] {
            let client = self.client(user, groups)?;
            let text = kubeconfig(server, &self.client_ca, user, &client);
            write(&self.dir.join(file), &text, true)?;
        }
        Ok(())
    }
}

/// A kubeconfig with everything embedded.
fn kubeconfig(server: &str, ca: &str, user: &str, client: &Certified) -> String {
    let ca = STANDARD.encode(ca);
    let certificate = STANDARD.encode(&client.certificate);
    let key = STANDARD.encode(&client.key);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: kubernetes\n  cluster:\n    server: {server}\n    certificate-authority-data: {ca}\ncontexts:\n- name: {user}@kubernetes\n  context:\n    cluster: kubernetes\n    user: {user}\ncurrent-context: {user}@kubernetes\nusers:\n- name: {user}\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n"
    )
}

fn authority(base: &Path, name: &str) -> Result<(Issuer<'static, KeyPair>, String), Error> {
    let made = leaf(base, || {
        let key = KeyPair::generate()?;
        let mut params = params(name, &[], CA_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        Ok(Certified {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        })
    })?;
    let issuer = Issuer::from_ca_cert_pem(&made.certificate, KeyPair::from_pem(&made.key)?)?;
    Ok((issuer, made.certificate))
}

/// Reads `base.crt` and `base.key`, or makes and writes them.
fn leaf(base: &Path, make: impl FnOnce() -> Result<Certified, Error>) -> Result<Certified, Error> {
    let (certificate, key) = (base.with_extension("crt"), base.with_extension("key"));
    if certificate.exists() && key.exists() {
        return Ok(Certified {
            certificate: read(&certificate)?,
            key: read(&key)?,
        });
    }
    let made = make()?;
    write(&certificate, &made.certificate, false)?;
    write(&key, &made.key, true)?;
    Ok(made)
}

fn token_key(pki: &Path) -> Result<KeyPair, Error> {
    let (private, public) = (pki.join("sa.key"), pki.join("sa.pub"));
    if private.exists() && public.exists() {
        return Ok(KeyPair::from_pem(&read(&private)?)?);
    }
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
    write(&private, &key.serialize_pem(), true)?;
    write(&public, &key.public_key_pem(), false)?;
    Ok(key)
}

fn params(name: &str, groups: &[&str], lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    // The builder keeps one value per attribute type; the same attribute
    // spelled as an OID makes room for a second group.
    let organization = DnType::CustomDnType(vec![2, 5, 4, 10]);
    for (group, kind) in groups.iter().zip([DnType::OrganizationName, organization]) {
        subject.push(kind, *group);
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + lifetime).into();
    params
}

fn sign(
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    groups: &[&str],
    usage: Usage<'_>,
) -> Result<Certified, Error> {
    let key = KeyPair::generate()?;
    let mut params = params(name, groups, LEAF_LIFETIME);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    match usage {
        Usage::Server(names) => {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        }
        Usage::Client => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
    }
    Ok(Certified {
        certificate: params.signed_by(&key, issuer)?.pem(),
        key: key.serialize_pem(),
    })
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| Error::file(path, error))
}

fn write(path: &Path, text: &str, secret: bool) -> Result<(), Error> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(if secret { 0o600 } else { 0o644 })
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Error::file(path, error))
}
