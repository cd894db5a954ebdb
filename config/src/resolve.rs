//! Text values to plain values: defaults filled in, units and ranges judged.
//!
//! A value that cannot be read leaves its default behind and a problem in the report,
//! so that one run names every wrong value.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{
    Admission, CgroupSource, Config, DEFAULT_PKI, DEFAULT_RESERVED_PORT, KeyPair, Limit, Listen,
    Mode, Probe, Queue, RequestHeader, RequestHeaders, Reserved, ServiceAccounts, Tls, Upstream,
};
use crate::origin::Origins;
use crate::raw::{self, Scalar};
use crate::report::Problems;
use crate::units::parse_percent;
use crate::{limits, patterns, rules};

mod degrade;
mod log;
mod operators;
mod policy;
mod traces;
mod values;

pub(crate) use policy::in_order;
pub(crate) use values::{Values, unknown};

/// A section that may be missing, as one in which every key is.
macro_rules! or_empty {
    ($section:expr) => {
        $section.as_ref().unwrap_or(&Default::default())
    };
}

/// Resolves a whole file.
pub(crate) fn config(file: &raw::Config, problems: &mut Problems<'_>) -> (Config, Origins) {
    let mut values = Values {
        problems,
        origins: Origins::default(),
        within: "admission.",
    };
    let pki = values.path("pki", file.pki.as_ref(), PathBuf::from(DEFAULT_PKI));
    let no_listen = raw::Listen::default();
    let listen = file
        .listen
        .as_ref()
        .map_or(&no_listen, |listen| &listen.value);
    let admission = values.admission(or_empty!(file.admission));
    let config = Config {
        listen: values.listen(listen),
        tls: values.tls(or_empty!(file.tls), &pki),
        upstream: values.upstream(or_empty!(file.upstream), &pki),
        service_accounts: values.service_accounts(or_empty!(file.service_accounts), &pki),
        request_header: values.request_header(or_empty!(file.request_header)),
        reserved: values.reserved(or_empty!(file.reserved), &pki),
        admin: values.admin(or_empty!(file.admin)),
        policy: values.policies(or_empty!(file.policy), &admission.classes),
        admission,
        log: values.log(or_empty!(file.log)),
        traces: values.traces(or_empty!(file.traces)),
        pki,
    };
    (config, values.origins)
}

impl Values<'_, '_> {
    fn listen(&mut self, raw: &raw::Listen) -> Listen {
        let default = Listen::default();
        let main = self.addresses("listen.main", raw.main.as_ref());
        let reserved = match &raw.reserved {
            Some(_) => self.addresses("listen.reserved", raw.reserved.as_ref()),
            None => reserved_beside(&main),
        };
        Listen {
            main,
            reserved,
            admin: self.address("listen.admin", raw.admin.as_ref(), default.admin),
            workers: self.number("listen.workers", raw.workers.as_ref(), 0, 0..=256) as usize,
            max_connections: self.number(
                "listen.max_connections",
                raw.max_connections.as_ref(),
                default.max_connections,
                1..=1_000_000,
            ),
            max_handshakes: self.number(
                "listen.max_handshakes",
                raw.max_handshakes.as_ref(),
                default.max_handshakes,
                1..=65_536,
            ),
            max_tunnels: self.number(
                "listen.max_tunnels",
                raw.max_tunnels.as_ref(),
                default.max_tunnels,
                1..=100_000,
            ),
            tunnel_idle: self.duration(
                "listen.tunnel_idle",
                raw.tunnel_idle.as_ref(),
                default.tunnel_idle,
                Duration::from_secs(60)..=Duration::from_secs(24 * 3600),
            ),
            grace: self.duration(
                "listen.grace",
                raw.grace.as_ref(),
                default.grace,
                Duration::from_secs(1)..=Duration::from_secs(600),
            ),
            handover: raw
                .handover
                .as_ref()
                .map(|path| self.path("listen.handover", Some(path), PathBuf::new())),
        }
    }

    fn tls(&mut self, raw: &raw::Tls, pki: &Path) -> Tls {
        let default = Tls::under(pki);
        Tls {
            certificate: self.path(
                "tls.certificate",
                raw.certificate.as_ref(),
                default.certificate,
            ),
            key: self.path("tls.key", raw.key.as_ref(), default.key),
            client_ca: self.path("tls.client_ca", raw.client_ca.as_ref(), default.client_ca),
        }
    }

    fn upstream(&mut self, raw: &raw::Upstream, pki: &Path) -> Upstream {
        let default = Upstream::under(pki);
        let no_pair = raw::KeyPair::default();
        let pair = raw.front_proxy.as_ref().unwrap_or(&no_pair);
        Upstream {
            address: self.address("upstream.address", raw.address.as_ref(), default.address),
            server_name: self.text(
                "upstream.server_name",
                raw.server_name.as_ref(),
                default.server_name,
            ),
            ca: self.path("upstream.ca", raw.ca.as_ref(), default.ca),
            front_proxy: KeyPair {
                certificate: self.path(
                    "upstream.front_proxy.certificate",
                    pair.certificate.as_ref(),
                    default.front_proxy.certificate,
                ),
                key: self.path(
                    "upstream.front_proxy.key",
                    pair.key.as_ref(),
                    default.front_proxy.key,
                ),
            },
            request_headers: self.request_headers(or_empty!(raw.request_headers)),
            streams_per_connection: self.number(
                "upstream.streams_per_connection",
                raw.streams_per_connection.as_ref(),
                default.streams_per_connection,
                1..=1000,
            ),
            max_connections: self.number(
                "upstream.max_connections",
                raw.max_connections.as_ref(),
                default.max_connections,
                1..=65_536,
            ),
            connect_timeout: self.duration(
                "upstream.connect_timeout",
                raw.connect_timeout.as_ref(),
                default.connect_timeout,
                millis(10)..=seconds(60),
            ),
            cgroup: self.read(
                "upstream.cgroup",
                raw.cgroup.as_ref(),
                default.cgroup,
                "auto, off, or a folder, as /sys/fs/cgroup/kubepods.slice/...",
                |text| match text {
                    "auto" => Ok(CgroupSource::Auto),
                    "off" => Ok(CgroupSource::Off),
                    path if path.starts_with('/') => Ok(CgroupSource::Folder(path.into())),
                    other => Err(format!("`{other}` is not an absolute path")),
                },
            ),
            memory_limit: raw.memory_limit.as_ref().map(|limit| {
                self.bytes(
                    "upstream.memory_limit",
                    Some(limit),
                    crate::ByteSize::mebibytes(1 << 20),
                )
            }),
        }
    }

    fn request_headers(&mut self, raw: &raw::RequestHeaders) -> RequestHeaders {
        let default = RequestHeaders::default();
        let mut header = |key: &str, value: Option<&Scalar>, default: String| {
            let key = format!("upstream.request_headers.{key}");
            self.read(&key, value, default, HEADER_NAME, header_name)
        };
        RequestHeaders {
            user: header("user", raw.user.as_ref(), default.user),
            group: header("group", raw.group.as_ref(), default.group),
            extra_prefix: header(
                "extra_prefix",
                raw.extra_prefix.as_ref(),
                default.extra_prefix,
            ),
            uid: raw
                .uid
                .as_ref()
                .map(|uid| header("uid", Some(uid), String::new())),
        }
    }

    fn service_accounts(&mut self, raw: &raw::ServiceAccounts, pki: &Path) -> ServiceAccounts {
        let default = ServiceAccounts::under(pki);
        let keys = match &raw.keys {
            Some(_) => self
                .texts("service_accounts.keys", raw.keys.as_ref())
                .into_iter()
                .map(PathBuf::from)
                .collect(),
            None => default.keys,
        };
        let issuers = match &raw.issuers {
            Some(_) => self.texts("service_accounts.issuers", raw.issuers.as_ref()),
            // Without keys there is nothing an issuer could be compared on.
            None if keys.is_empty() => Vec::new(),
            None => default.issuers,
        };
        ServiceAccounts {
            keys,
            issuers,
            published_keys: self.choice(
                "service_accounts.published_keys",
                raw.published_keys.as_ref(),
                default.published_keys,
                &[("true", true), ("false", false)],
            ),
        }
    }

    fn request_header(&mut self, raw: &raw::RequestHeader) -> RequestHeader {
        let default = RequestHeader::default();
        let mut headers = |key: &str, list: Option<&raw::List>, default: Vec<String>| match list {
            Some(_) => self.list(
                &format!("request_header.{key}"),
                list,
                HEADER_NAME,
                header_name,
            ),
            None => default,
        };
        let user_headers = headers(
            "user_headers",
            raw.user_headers.as_ref(),
            default.user_headers,
        );
        let group_headers = headers(
            "group_headers",
            raw.group_headers.as_ref(),
            default.group_headers,
        );
        let uid_headers = headers("uid_headers", raw.uid_headers.as_ref(), default.uid_headers);
        let extra_prefixes = headers(
            "extra_prefixes",
            raw.extra_prefixes.as_ref(),
            default.extra_prefixes,
        );
        RequestHeader {
            client_ca: raw
                .client_ca
                .as_ref()
                .map(|path| self.path("request_header.client_ca", Some(path), PathBuf::new())),
            allowed_names: self.texts("request_header.allowed_names", raw.allowed_names.as_ref()),
            user_headers,
            group_headers,
            uid_headers,
            extra_prefixes,
        }
    }

    fn reserved(&mut self, raw: &raw::Reserved, pki: &Path) -> Reserved {
        let default = Reserved::default();
        let client_ca = raw
            .client_ca
            .as_ref()
            .map(|path| self.path("reserved.client_ca", Some(path), PathBuf::new()));
        Reserved {
            revoked: self.revoked(raw, client_ca.as_deref()),
            client_ca,
            users: self.texts("reserved.users", raw.users.as_ref()),
            groups: match &raw.groups {
                Some(_) => self.texts("reserved.groups", raw.groups.as_ref()),
                None => default.groups,
            },
            service_accounts: self.list(
                "reserved.service_accounts",
                raw.service_accounts.as_ref(),
                patterns::SERVICE_ACCOUNT,
                |text| patterns::service_account(text).map(|()| text.to_owned()),
            ),
            max_in_flight: self.number(
                "reserved.max_in_flight",
                raw.max_in_flight.as_ref(),
                default.max_in_flight,
                1..=10_000,
            ),
            max_connections: self.number(
                "reserved.max_connections",
                raw.max_connections.as_ref(),
                default.max_connections,
                1..=100_000,
            ),
            check: self.check(or_empty!(raw.check), pki),
        }
    }

    fn admission(&mut self, raw: &raw::Admission) -> Admission {
        let default = Admission::default();
        let classes = rules::classes(self, raw);
        Admission {
            mode: self.choice(
                "admission.mode",
                raw.mode.as_ref(),
                default.mode,
                &[
                    ("off", Mode::Off),
                    ("shadow", Mode::Shadow),
                    ("enforce", Mode::Enforce),
                ],
            ),
            limit: self.limit(or_empty!(raw.limit)),
            probe: self.probe(or_empty!(raw.probe)),
            queue: self.queue(or_empty!(raw.queue)),
            bytes: self.bytes("admission.bytes", raw.bytes.as_ref(), default.bytes),
            collapse: self.collapse(raw.collapse.as_ref()),
            stale: self.stale(or_empty!(raw.stale)),
            max_shed_share: self.read(
                "admission.max_shed_share",
                raw.max_shed_share.as_ref(),
                default.max_shed_share,
                "0% to 100%",
                parse_percent,
            ),
            enforced_tenants: self.read(
                "admission.enforced_tenants",
                raw.enforced_tenants.as_ref(),
                default.enforced_tenants,
                "0% to 100%",
                parse_percent,
            ),
            rules: rules::rules(self, raw, &classes),
            limits: limits::limits(self, raw, &classes),
            state: limits::state(self, raw),
            measures: limits::measures(self, raw),
            confine_culprit: limits::confine(self, raw),
            cancel_culprit: limits::cancel(self, raw),
            culprit_events: limits::events(self, raw),
            classes,
        }
    }

    fn limit(&mut self, raw: &raw::Limit) -> Limit {
        let default = Limit::default();
        let mut bound = |key: &str, value: Option<&Scalar>, default, least| {
            let range = millis(least)..=seconds(600);
            self.duration(&format!("admission.limit.{key}"), value, default, range)
        };
        Limit {
            initial: bound("initial", raw.initial.as_ref(), default.initial, 0),
            min: bound("min", raw.min.as_ref(), default.min, 1),
            max: bound("max", raw.max.as_ref(), default.max, 1),
        }
    }

    fn probe(&mut self, raw: &raw::Probe) -> Probe {
        let default = Probe::default();
        Probe {
            path: self.read(
                "admission.probe.path",
                raw.path.as_ref(),
                default.path,
                "a path, as /livez/ping",
                |text| {
                    let clean = text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
                    if text.starts_with('/') && clean {
                        Ok(text.to_owned())
                    } else {
                        Err(format!("`{text}` is not a path of the server"))
                    }
                },
            ),
            interval: self.duration(
                "admission.probe.interval",
                raw.interval.as_ref(),
                default.interval,
                millis(5)..=seconds(10),
            ),
            timeout: self.duration(
                "admission.probe.timeout",
                raw.timeout.as_ref(),
                default.timeout,
                millis(10)..=seconds(60),
            ),
            target: self.duration(
                "admission.probe.target",
                raw.target.as_ref(),
                default.target,
                millis(1)..=seconds(10),
            ),
        }
    }

    fn queue(&mut self, raw: &raw::Queue) -> Queue {
        let default = Queue::default();
        Queue {
            short_deadline: self.duration(
                "admission.queue.short_deadline",
                raw.short_deadline.as_ref(),
                default.short_deadline,
                Duration::ZERO..=seconds(60),
            ),
            long_deadline: self.duration(
                "admission.queue.long_deadline",
                raw.long_deadline.as_ref(),
                default.long_deadline,
                Duration::ZERO..=seconds(60),
            ),
            max_waiting: self.number(
                "admission.queue.max_waiting",
                raw.max_waiting.as_ref(),
                default.max_waiting,
                0..=100_000,
            ),
        }
    }
}

/// The reserved lane beside the main lane: the same addresses, another port.
fn reserved_beside(main: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut lane: Vec<SocketAddr> = Vec::with_capacity(main.len());
    for address in main {
        let address = SocketAddr::new(address.ip(), DEFAULT_RESERVED_PORT);
        if !lane.contains(&address) {
            lane.push(address);
        }
    }
    lane
}

/// What a header's name is accepted as.
const HEADER_NAME: &str = "a header name, as X-Remote-User";

fn header_name(text: &str) -> Result<String, String> {
    if is_token(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not a header name"))
    }
}

/// A token of RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

const fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}
