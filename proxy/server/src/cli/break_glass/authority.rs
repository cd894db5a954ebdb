//! The break-glass authority: made once, signs for hours.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SerialNumber,
};

use super::super::admin_client::Failed;
use super::{failed, journal};
use crate::identify::revoked;

/// The authority outlives the cluster's upgrades; what it signs does not outlive a day.
const LASTS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A certificate begins a little earlier, for clocks that differ.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// A signed credential, as PEM.
pub(super) struct Signed {
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) serial: String,
}

/// See the module.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

fn paths(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join("ca.crt"), dir.join("ca.key"))
}

fn wrong(problem: impl std::fmt::Display) -> Failed {
    failed(
        format!("the certificate could not be made: {problem}"),
        "this is a mistake of ours; please report it",
    )
}

impl Authority {
    /// Makes one in `dir`.
    ///
    /// # Errors
    /// When there is one already, or it cannot be written.
    pub(super) fn create(dir: &Path) -> Result<(), Failed> {
        let (certificate, key) = paths(dir);
        if let Some(there) = [&certificate, &key].into_iter().find(|path| path.exists()) {
            return Err(failed(
                format!(
                    "{} exists; an authority is never overwritten",
                    there.display()
                ),
                "use it (spillway break-glass issue), or make another: --dir FOLDER",
            ));
        }
        journal::folder(dir)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "spillway break-glass");
        let now = SystemTime::now();
        params.not_before = (now - SKEW).into();
        params.not_after = (now + LASTS).into();
        let pair = KeyPair::generate().map_err(wrong)?;
        let made = params.self_signed(&pair).map_err(wrong)?;
        journal::write_new(&key, &pair.serialize_pem(), 0o600)?;
        journal::write_new(&certificate, &made.pem(), 0o644)
    }

    /// Opens the one in `dir`.
    ///
    /// # Errors
    /// When there is none or it cannot be read.
    pub(super) fn open(dir: &Path) -> Result<Self, Failed> {
        let (certificate, key) = paths(dir);
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|problem| {
                let next = if problem.kind() == std::io::ErrorKind::PermissionDenied {
                    "run this with sudo: the key is root's alone"
                } else {
                    "make the authority (spillway break-glass init), or name its folder: --dir FOLDER"
                };
                failed(format!("{}: cannot be read: {problem}", path.display()), next)
            })
        };
        let unusable = |problem: rcgen::Error| {
            failed(
                format!("{}: cannot be used: {problem}", dir.display()),
                "ca.crt and ca.key must be those of spillway break-glass init",
            )
        };
        let pair = KeyPair::from_pem(&read(&key)?).map_err(unusable)?;
        let issuer = Issuer::from_ca_cert_pem(&read(&certificate)?, pair).map_err(unusable)?;
        Ok(Self {
            issuer,
            certificate,
        })
    }

    /// Signs a client certificate for `name`, in `group` and in the one that marks such access.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn issue(
        &self,
        name: &str,
        group: Option<&str>,
        mark: &str,
        lasts: Duration,
    ) -> Result<Signed, Failed> {
        let mut number = [0; 16];
        aws_lc_rs::rand::fill(&mut number).map_err(wrong)?;
        // Positive, and of full length.
        number[0] = number[0] & 0x7f | 0x40;
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&number));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, mark);
        if let Some(group) = group {
            // The builder keeps one value of each kind; the same kind by its number makes room for a second.
            let organization = DnType::CustomDnType(vec![2, 5, 4, 10]);
            params.distinguished_name.push(organization, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let now = SystemTime::now();
        params.not_before = (now - SKEW).into();
        params.not_after = (now + lasts).into();
        let pair = KeyPair::generate().map_err(wrong)?;
        let made = params.signed_by(&pair, &self.issuer).map_err(|problem| {
            failed(
                format!("{}: cannot sign: {problem}", self.certificate.display()),
                "is it the authority of spillway break-glass init?",
            )
        })?;
        Ok(Signed {
            certificate: made.pem(),
            key: pair.serialize_pem(),
            serial: revoked::serial(&number).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::identify::certificate;

    #[test]
    fn a_certificate_names_the_person_both_groups_and_its_end() {
        let dir = std::env::temp_dir().join(format!("spillway-authority-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Authority::create(&dir).expect("made");
        let hour = Duration::from_secs(3600);
        let signed = Authority::open(&dir)
            .and_then(|authority| authority.issue("jane", Some("rollback"), "mark", hour))
            .expect("signed");
        let _ = std::fs::remove_dir_all(&dir);
        let der = CertificateDer::from_pem_slice(signed.certificate.as_bytes()).expect("PEM");
        let read = certificate::read(&der).expect("a certificate");
        let identity = read.identity.expect("somebody");
        assert_eq!(identity.user(), "jane");
        let mut groups: Vec<&str> = identity.groups().iter().map(|group| &**group).collect();
        groups.sort_unstable();
        assert_eq!(groups, ["mark", "rollback"]);
        assert_eq!(*read.serial, *signed.serial);
        let lasts = read.not_after - read.not_before;
        assert!((3_600..=3_600 + 301).contains(&lasts), "{lasts}");
    }
}
