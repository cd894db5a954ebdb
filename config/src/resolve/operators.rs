//! `admin` and what of `reserved` proves and ends the operators' access.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Values;
use crate::model::{Admin, Check};
use crate::raw;

impl Values<'_, '_> {
    pub(super) fn admin(&mut self, raw: &raw::Admin) -> Admin {
        let default = Admin::default();
        Admin {
            socket: self.read(
                "admin.socket",
                raw.socket.as_ref(),
                default.socket,
                "a path, or off",
                |text| match text {
                    "" => Err("the value is empty".to_owned()),
                    "off" => Ok(None),
                    // The system's bound on the address of a unix socket, less room for a temporary name.
                    long if long.len() > 90 => Err(format!("`{long}` is longer than 90 bytes")),
                    path => Ok(Some(PathBuf::from(path))),
                },
            ),
            group: raw
                .group
                .as_ref()
                .map(|group| self.text("admin.group", Some(group), String::new())),
        }
    }

    pub(super) fn check(&mut self, raw: &raw::Check, pki: &Path) -> Check {
        let default = Check::under(pki);
        Check {
            enabled: self.choice(
                "reserved.check.enabled",
                raw.enabled.as_ref(),
                default.enabled,
                &[("true", true), ("false", false)],
            ),
            interval: self.duration(
                "reserved.check.interval",
                raw.interval.as_ref(),
                default.interval,
                Duration::from_secs(1)..=Duration::from_secs(3600),
            ),
            certificate: self.path(
                "reserved.check.certificate",
                raw.certificate.as_ref(),
                default.certificate,
            ),
            key: self.path("reserved.check.key", raw.key.as_ref(), default.key),
        }
    }

    /// The list of revoked serial numbers: beside the authority, unless another place is named.
    pub(super) fn revoked(
        &mut self,
        raw: &raw::Reserved,
        client_ca: Option<&Path>,
    ) -> Option<PathBuf> {
        let beside = client_ca.and_then(Path::parent);
        match &raw.revoked {
            Some(path) => Some(self.path("reserved.revoked", Some(path), PathBuf::new())),
            None => beside.map(|folder| folder.join("revoked")),
        }
    }
}
