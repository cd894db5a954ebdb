//! The resolved configuration: plain values, nothing left open.
//!
//! What a file may leave out has been filled in by the time these types exist, so
//! the rest of the program never asks "and if it is not set?". The file's own shape,
//! with its optional keys and positions, lives in `raw.rs` and stays private.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::units::{ByteSize, DurationText, serialize_duration};

mod admission;
mod limits;
mod log;
mod operators;
mod policy;
mod request_header;
mod traces;

pub use admission::{Admission, Class, Collapse, Limit, Match, Mode, Probe, Queue, Rule, Stale};
pub use limits::{Cancel, Confine, HardLimit, Per, Period, Rate};
pub use log::{AccessLog, AuditLog, Format, Level, Log};
pub use operators::{Admin, Check, DEFAULT_SOCKET};
pub use policy::{FromCluster, Guard, Policies, PolicyDocument};
pub use request_header::RequestHeader;
pub use traces::Traces;

/// Where kubeadm keeps the cluster's certificates: the default of [`Config::pki`].
pub const DEFAULT_PKI: &str = "/etc/kubernetes/pki";

/// The port of the reserved lane when `listen.reserved` is not written.
pub const DEFAULT_RESERVED_PORT: u16 = 7443;

/// The built-in classes, most important first. The position is the importance.
///
/// `reserved` is a lane and not a class, so it is not listed.
pub const DEFAULT_CLASSES: [&str; 8] = [
    "life-signs",
    "control-plane",
    "operators",
    "nodes",
    "workload-writes",
    "workload-reads",
    "bulk",
    "unattributed",
];

/// Everything an operator may say, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Config {
    /// `pki`: folder the default paths below are taken from. Default `/etc/kubernetes/pki`.
    pub pki: PathBuf,
    /// `listen`: addresses, threads and connection caps.
    pub listen: Listen,
    /// `tls`: what clients see.
    pub tls: Tls,
    /// `upstream`: the one kube-apiserver behind this proxy.
    pub upstream: Upstream,
    /// `service_accounts`: how service-account tokens are verified locally.
    pub service_accounts: ServiceAccounts,
    /// `request_header`: who may state another's identity in headers.
    pub request_header: RequestHeader,
    /// `reserved`: who may use the reserved lane, and how much of it.
    pub reserved: Reserved,
    /// `admin`: the unix socket that the commands talk to.
    pub admin: Admin,
    /// `admission`: what is admitted, queued and shed.
    pub admission: Admission,
    /// `policy`: policies that are staged or delivered beside this file.
    pub policy: Policies,
    /// `log`: what is written to standard error, and the files of who did what.
    pub log: Log,
    /// `traces`: spans of requests, sent to a collector.
    pub traces: Traces,
}

impl Config {
    /// The defaults with every path taken from `pki`.
    ///
    /// `listen.main` and `listen.reserved` are empty, see [`Listen::main`].
    #[must_use]
    pub fn with_pki(pki: impl Into<PathBuf>) -> Self {
        let pki = pki.into();
        Self {
            listen: Listen::default(),
            tls: Tls::under(&pki),
            upstream: Upstream::under(&pki),
            service_accounts: ServiceAccounts::under(&pki),
            request_header: RequestHeader::default(),
            reserved: Reserved::under(&pki),
            admin: Admin::default(),
            admission: Admission::default(),
            policy: Policies::default(),
            log: Log::default(),
            traces: Traces::default(),
            pki,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::with_pki(DEFAULT_PKI)
    }
}

/// `listen`: addresses, threads and connection caps. Changes need a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Listen {
    /// `listen.main`: addresses of the main lane.
    ///
    /// The one key without a default value. kube-apiserver keeps port 6443 on loopback
    /// while the proxy takes the same port on the node's own addresses, so a wildcard
    /// would collide and no other address can be guessed. The defaults leave it empty,
    /// and a file that does not say it is refused. Port 0 is any free port.
    #[schemars(with = "Vec<String>")]
    pub main: Vec<SocketAddr>,
    /// `listen.reserved`: addresses of the reserved lane; empty switches the lane off.
    ///
    /// Default: the addresses of `main` on port 7443.
    #[schemars(with = "Vec<String>")]
    pub reserved: Vec<SocketAddr>,
    /// `listen.admin`: metrics, health and switches over plain HTTP; loopback only.
    ///
    /// Default `127.0.0.1:9443`.
    #[schemars(with = "String")]
    pub admin: SocketAddr,
    /// `listen.workers`: threads of the main lane, 0..=256; 0 means one per core, at most 8.
    ///
    /// Default 0.
    #[schemars(range(min = 0, max = 256))]
    pub workers: usize,
    /// `listen.max_connections`: open client connections of the main lane, 1..=1000000.
    ///
    /// Default 20000.
    #[schemars(range(min = 1, max = 1000000))]
    pub max_connections: u32,
    /// `listen.max_handshakes`: TLS handshakes in progress per worker, 1..=65536.
    ///
    /// Default 256.
    #[schemars(range(min = 1, max = 65536))]
    pub max_handshakes: u32,
    /// `listen.max_tunnels`: exec, attach and port-forward sessions of the main lane, 1..=100000.
    ///
    /// Default 1000. The reserved lane's are bounded by its connections.
    #[schemars(range(min = 1, max = 100000))]
    pub max_tunnels: u32,
    /// `listen.tunnel_idle`: a session on which nothing moved for so long is closed, 1m..=24h.
    ///
    /// Default 4h, the kubelet's own bound.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub tunnel_idle: Duration,
    /// `listen.grace`: how long what is open may take to end when the process stops, 1s..=10m.
    ///
    /// Default 10s. Whoever stops the process must wait longer before killing it.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub grace: Duration,
    /// `listen.handover`: the unix socket through which a starting process takes over the
    /// listening sockets of the running one. Default none: not offered, not tried.
    pub handover: Option<PathBuf>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            main: Vec::new(),
            reserved: Vec::new(),
            admin: SocketAddr::from(([127, 0, 0, 1], 9443)),
            workers: 0,
            max_connections: 20_000,
            max_handshakes: 256,
            max_tunnels: 1000,
            tunnel_idle: Duration::from_secs(4 * 3600),
            grace: Duration::from_secs(10),
            handover: None,
        }
    }
}

/// `tls`: what clients see. The files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Tls {
    /// `tls.certificate`: PEM chain shown to clients. Default `<pki>/apiserver.crt`.
    pub certificate: PathBuf,
    /// `tls.key`: PEM private key of it. Default `<pki>/apiserver.key`.
    pub key: PathBuf,
    /// `tls.client_ca`: PEM bundle that client certificates must chain to.
    ///
    /// Default `<pki>/ca.crt`.
    pub client_ca: PathBuf,
}

impl Tls {
    /// The defaults under one folder.
    #[must_use]
    pub fn under(pki: &Path) -> Self {
        Self {
            certificate: pki.join("apiserver.crt"),
            key: pki.join("apiserver.key"),
            client_ca: pki.join("ca.crt"),
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self::under(Path::new(DEFAULT_PKI))
    }
}

/// A certificate and its private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct KeyPair {
    /// PEM certificate chain.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
}

/// `upstream.cgroup`: where the server's memory and CPU are seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CgroupSource {
    /// Of the process that listens on `upstream.address`.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// The folder of a cgroup of version 2.
    Folder(PathBuf),
}

impl Serialize for CgroupSource {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Off => serializer.serialize_str("off"),
            Self::Folder(path) => path.serialize(serializer),
        }
    }
}

/// `upstream`: the one kube-apiserver behind this proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Upstream {
    /// `upstream.address`: where it listens. Default `127.0.0.1:6443`.
    #[schemars(with = "String")]
    pub address: SocketAddr,
    /// `upstream.server_name`: name its certificate is verified against; never empty.
    ///
    /// Default `kubernetes`: kubeadm's serving certificate does not name loopback.
    pub server_name: String,
    /// `upstream.ca`: PEM bundle its certificate must chain to. Default `<pki>/ca.crt`.
    pub ca: PathBuf,
    /// `upstream.front_proxy`: the client certificate that lets us assert identities.
    ///
    /// Default `<pki>/front-proxy-client.crt` and `.key`.
    pub front_proxy: KeyPair,
    /// `upstream.request_headers`: the headers those identities travel in.
    pub request_headers: RequestHeaders,
    /// `upstream.streams_per_connection`: HTTP/2 streams we put on one connection, 1..=1000.
    ///
    /// Default 80, below the 100 kube-apiserver advertises unless told otherwise. The
    /// peer's own limit holds as well, whichever is lower.
    #[schemars(range(min = 1, max = 1000))]
    pub streams_per_connection: u32,
    /// `upstream.max_connections`: connections per pool and worker, 1..=65536. Default 1024.
    #[schemars(range(min = 1, max = 65536))]
    pub max_connections: u32,
    /// `upstream.connect_timeout`: TCP and TLS together, 10ms..=1m. Default 2s.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub connect_timeout: Duration,
    /// `upstream.cgroup`: where the server's memory and CPU are seen: `auto`, `off`, or the
    /// folder of its cgroup (version 2). Default `auto`: the process that listens on
    /// `upstream.address`, which in a container takes `hostPID`, the right to look at it
    /// (root, or SYS_PTRACE) and the host's `/sys/fs/cgroup`. What is not found bounds
    /// nothing.
    #[schemars(with = "String")]
    pub cgroup: CgroupSource,
    /// `upstream.memory_limit`: what the server may use where no cgroup says so,
    /// 1MiB..=1TiB. Default none: the host's memory.
    pub memory_limit: Option<ByteSize>,
}

impl Upstream {
    /// The defaults under one folder.
    #[must_use]
    pub fn under(pki: &Path) -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 6443)),
            server_name: "kubernetes".to_owned(),
            ca: pki.join("ca.crt"),
            front_proxy: KeyPair {
                certificate: pki.join("front-proxy-client.crt"),
                key: pki.join("front-proxy-client.key"),
            },
            request_headers: RequestHeaders::default(),
            streams_per_connection: 80,
            max_connections: 1024,
            connect_timeout: Duration::from_secs(2),
            cgroup: CgroupSource::Auto,
            memory_limit: None,
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self::under(Path::new(DEFAULT_PKI))
    }
}

/// `upstream.request_headers`: must agree with kube-apiserver's `--requestheader-*` flags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct RequestHeaders {
    /// `user`: `--requestheader-username-headers`. Default `X-Remote-User`.
    pub user: String,
    /// `group`: `--requestheader-group-headers`. Default `X-Remote-Group`.
    pub group: String,
    /// `extra_prefix`: `--requestheader-extra-headers-prefix`. Default `X-Remote-Extra-`.
    pub extra_prefix: String,
    /// `uid`: `--requestheader-uid-headers`; none = the uid is not sent. Default none,
    /// as the server does not read it unless told to.
    pub uid: Option<String>,
}

impl Default for RequestHeaders {
    fn default() -> Self {
        Self {
            user: "X-Remote-User".to_owned(),
            group: "X-Remote-Group".to_owned(),
            extra_prefix: "X-Remote-Extra-".to_owned(),
            uid: None,
        }
    }
}

/// `service_accounts`: how service-account tokens are verified locally, for
/// classification only; the token itself passes through untouched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct ServiceAccounts {
    /// `keys`: PEM public keys (or certificates); empty = tokens are not verified here.
    ///
    /// Default `<pki>/sa.pub`.
    pub keys: Vec<PathBuf>,
    /// `issuers`: accepted `iss` claims; not empty when there are keys.
    ///
    /// Default `https://kubernetes.default.svc.cluster.local`.
    pub issuers: Vec<String>,
    /// `published_keys`: also the keys kube-apiserver publishes at `/openid/v1/jwks`,
    /// fetched in the background, so that a key it begins to sign with is known before
    /// it is in one of the files. The files' keys always count. Without effect when
    /// `keys` is empty. Default true.
    pub published_keys: bool,
}

impl ServiceAccounts {
    /// The defaults under one folder.
    #[must_use]
    pub fn under(pki: &Path) -> Self {
        Self {
            keys: vec![pki.join("sa.pub")],
            issuers: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
            published_keys: true,
        }
    }
}

impl Default for ServiceAccounts {
    fn default() -> Self {
        Self::under(Path::new(DEFAULT_PKI))
    }
}

/// `reserved`: who may use the reserved lane, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Reserved {
    /// `client_ca`: PEM bundle of the break-glass CA; any valid client certificate of it
    /// may use the lane. Default none.
    pub client_ca: Option<PathBuf>,
    /// `revoked`: file of serial numbers of that CA that are refused, one per line, as
    /// `spillway break-glass revoke` writes it. It need not exist.
    ///
    /// Default `revoked` in the folder of `client_ca`.
    pub revoked: Option<PathBuf>,
    /// `users`: names that may use the lane with the cluster's own credentials. Default none.
    pub users: Vec<String>,
    /// `groups`: groups that may. Default `system:masters`, `kubeadm:cluster-admins`.
    pub groups: Vec<String>,
    /// `service_accounts`: `namespace/name` that may. Default none.
    pub service_accounts: Vec<String>,
    /// `max_in_flight`: requests of the lane at once, 1..=10000. Default 64.
    #[schemars(range(min = 1, max = 10000))]
    pub max_in_flight: u32,
    /// `max_connections`: open client connections of the lane, 1..=100000. Default 256.
    #[schemars(range(min = 1, max = 100000))]
    pub max_connections: u32,
    /// `check`: a call through the lane now and then that proves it works.
    pub check: Check,
}

impl Reserved {
    /// The defaults under one folder.
    #[must_use]
    pub fn under(pki: &Path) -> Self {
        Self {
            check: Check::under(pki),
            ..Self::default()
        }
    }
}

impl Default for Reserved {
    fn default() -> Self {
        Self {
            client_ca: None,
            revoked: None,
            users: Vec::new(),
            groups: vec![
                "system:masters".to_owned(),
                "kubeadm:cluster-admins".to_owned(),
            ],
            service_accounts: Vec::new(),
            max_in_flight: 64,
            max_connections: 256,
            check: Check::default(),
        }
    }
}
