//! What the people who run the control plane reach the proxy by, and what proves that their lane works.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::units::{DurationText, serialize_duration};

/// Where the commands find the running process when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/spillway/admin.sock";

/// `admin`: the unix socket that the commands talk to. Its file permissions are its guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Admin {
    /// `admin.socket`: a path; `off` = none. Default `/run/spillway/admin.sock`.
    #[serde(serialize_with = "or_off")]
    #[schemars(with = "String")]
    pub socket: Option<PathBuf>,
    /// `admin.group`: a group, by name or number, that may use it beside the process's own
    /// user (mode 0660). Default none (mode 0600).
    pub group: Option<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            socket: Some(PathBuf::from(DEFAULT_SOCKET)),
            group: None,
        }
    }
}

pub(super) fn or_off<S: Serializer>(
    path: &Option<PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => path.serialize(serializer),
        None => serializer.serialize_str("off"),
    }
}

/// `reserved.check`: a call through the reserved lane now and then, so that it is known to
/// work before somebody needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Check {
    /// `enabled`: whether calls are made. Default true.
    pub enabled: bool,
    /// `interval`: between two calls, 1s..=1h. Default 1m.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// `certificate`: PEM client certificate of somebody the lane is kept for.
    ///
    /// Default `<pki>/apiserver-kubelet-client.crt`, which kubeadm makes a member of
    /// `kubeadm:cluster-admins`.
    pub certificate: PathBuf,
    /// `key`: PEM private key of it. Default `<pki>/apiserver-kubelet-client.key`.
    pub key: PathBuf,
}

impl Check {
    /// The defaults under one folder.
    #[must_use]
    pub fn under(pki: &Path) -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(60),
            certificate: pki.join("apiserver-kubelet-client.crt"),
            key: pki.join("apiserver-kubelet-client.key"),
        }
    }
}

impl Default for Check {
    fn default() -> Self {
        Self::under(Path::new(super::DEFAULT_PKI))
    }
}
