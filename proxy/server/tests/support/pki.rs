//! A cluster's keys, made fresh for each test, in kubeadm's layout.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};

use super::client::Tls;

/// A directory that goes when the test ends.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("spillway-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file in the temporary directory");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// What to put into a certificate.
#[derive(Clone, Default)]
pub struct Leaf<'a> {
    pub user: &'a str,
    /// At most two.
    pub groups: &'a [&'a str],
    /// For a server of these names; otherwise for a client.
    pub names: &'a [&'a str],
    /// Ended years ago.
    pub expired: bool,
    /// Begins in a future century.
    pub not_yet_valid: bool,
}

/// Something that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params
            .self_signed(&key)
            .expect("a self-signed certificate")
            .pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    pub fn issue(&self, leaf: &Leaf<'_>) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = leaf.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("sound names");
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, leaf.user);
        // A name holds one attribute of each kind, so the second organisation is written by its number.
        let kinds = [
            DnType::OrganizationName,
            DnType::CustomDnType(vec![2, 5, 4, 10]),
        ];
        assert!(leaf.groups.len() <= kinds.len(), "at most two groups");
        for (kind, group) in kinds.into_iter().zip(leaf.groups) {
            params.distinguished_name.push(kind, *group);
        }
        params.extended_key_usages = vec![match leaf.names {
            [] => ExtendedKeyUsagePurpose::ClientAuth,
            _ => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        (params.not_before, params.not_after) = match (leaf.expired, leaf.not_yet_valid) {
            (true, _) => (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1)),
            (_, true) => (date_time_ymd(2101, 1, 1), date_time_ymd(2102, 1, 1)),
            _ => (date_time_ymd(2001, 1, 1), date_time_ymd(2101, 1, 1)),
        };
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("a signed certificate")
            .pem();
        Pair {
            certificate,
            key: key.serialize_pem(),
        }
    }
}

/// The keys of service accounts, one of each kind a cluster may use. One set per process: RSA keys take long to make.
pub struct AccountKeys {
    pub rsa: KeyPair,
    pub ec: KeyPair,
}

impl AccountKeys {
    pub fn get() -> &'static Self {
        static KEYS: OnceLock<AccountKeys> = OnceLock::new();
        KEYS.get_or_init(|| Self {
            rsa: KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
                .expect("an RSA key"),
            ec: KeyPair::generate().expect("a P-256 key"),
        })
    }
}

/// Everything in the pki directory, and the authorities to make more.
pub struct Pki {
    pub directory: Directory,
    pub ca: Authority,
    pub front_proxy_ca: Authority,
}

impl Pki {
    pub fn new() -> Self {
        let pki = Self {
            directory: Directory::new(),
            ca: Authority::new("kubernetes"),
            front_proxy_ca: Authority::new("front-proxy-ca"),
        };
        pki.write_serving(&pki.ca);
        pki.write("ca.crt", &pki.ca.pem);
        let front_proxy = pki.front_proxy_ca.issue(&Leaf {
            user: "front-proxy-client",
            ..Leaf::default()
        });
        pki.write("front-proxy-client.crt", &front_proxy.certificate);
        pki.write("front-proxy-client.key", &front_proxy.key);
        let keys = AccountKeys::get();
        pki.write(
            "sa.pub",
            &format!("{}{}", keys.rsa.public_key_pem(), keys.ec.public_key_pem()),
        );
        pki
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        self.directory.write(name, text)
    }

    /// A new serving certificate for the apiserver's names, signed by `authority`.
    pub fn write_serving(&self, authority: &Authority) {
        let serving = serving(authority);
        self.write("apiserver.crt", &serving.certificate);
        self.write("apiserver.key", &serving.key);
    }

    /// A client certificate of the cluster's own authority.
    pub fn user(&self, user: &str, groups: &[&str]) -> Pair {
        self.ca.issue(&Leaf {
            user,
            groups,
            ..Leaf::default()
        })
    }

    /// How a client of this cluster connects, without a certificate so far.
    pub fn tls(&self) -> Tls {
        Tls::trusting(&self.ca.pem)
    }
}

/// A serving certificate for the apiserver's names.
pub fn serving(authority: &Authority) -> Pair {
    authority.issue(&Leaf {
        user: "kube-apiserver",
        names: &["kubernetes", "localhost", "127.0.0.1"],
        ..Leaf::default()
    })
}
