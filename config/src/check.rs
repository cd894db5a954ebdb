//! Relations between keys. Values are known to be sound on their own when this runs;
//! a value already reported is not reported again for how it compares.

mod request_header;
mod traces;

use std::net::SocketAddr;

use crate::model::Config;
use crate::raw::{self, Scalar, at, at_value};
use crate::report::{At, Problems};
use crate::units::duration_text;

/// Notes every contradiction.
pub(crate) fn config(file: &raw::Config, config: &Config, problems: &mut Problems<'_>) {
    main_lane(file, config, problems);
    addresses(file, config, problems);
    reserved_lane(file, config, problems);
    key_pairs(file, problems);
    server_name(file, config, problems);
    request_headers(file, config, problems);
    request_header::check(file, config, problems);
    service_accounts(file, config, problems);
    tuner(file, config, problems);
    traces::check(file, config, problems);
}

fn main_lane(file: &raw::Config, config: &Config, problems: &mut Problems<'_>) {
    let listen = file.listen.as_ref();
    let list = listen.and_then(|listen| listen.value.main.as_ref());
    let written = list.map_or(0, |list| list.value.len());
    if config.listen.main.is_empty() && written == 0 {
        let place = at_value(list).or_else(|| at_value(listen));
        problems.add(
            place,
            "listen.main is missing: there is no address that is right on every node",
            "listen.main: [\"<node address>:6443\"]",
        );
    }
}

/// One address with its key and place.
struct Bound {
    key: &'static str,
    address: SocketAddr,
    at: Option<At>,
}

fn addresses(file: &raw::Config, config: &Config, problems: &mut Problems<'_>) {
    let empty = raw::Listen::default();
    let listen = file.listen.as_ref().map_or(&empty, |listen| &listen.value);
    let mut bound = Vec::new();
    let mut lane = |key, addresses: &[SocketAddr], list: Option<&raw::List>| {
        let places: Vec<Option<At>> = list
            .map(|list| {
                list.value
                    .iter()
                    .map(|value| at(&value.referenced))
                    .collect()
            })
            .unwrap_or_default();
        // A list with a wrong value has lost the pairing, and is reported already.
        let paired = places.len() == addresses.len();
        for (index, address) in addresses.iter().enumerate() {
            let own = places.get(index).copied().flatten().filter(|_| paired);
            let at = own.or_else(|| at_value(list));
            bound.push(Bound {
                key,
                address: *address,
                at,
            });
        }
    };
    lane("listen.main", &config.listen.main, listen.main.as_ref());
    lane(
        "listen.reserved",
        &config.listen.reserved,
        listen.reserved.as_ref(),
    );
    let admin = at_value(listen.admin.as_ref());
    bound.push(Bound {
        key: "listen.admin",
        address: config.listen.admin,
        at: admin,
    });
    if !config.listen.admin.ip().is_loopback() {
        problems.add(
            admin,
            "listen.admin: metrics and switches have no authentication and must stay on loopback",
            "a loopback address, as 127.0.0.1:9443",
        );
    }
    upstream_address(file, config, &bound, problems);
    for (index, one) in bound.iter().enumerate() {
        let earlier = bound.iter().take(index);
        if let Some(other) = earlier
            .into_iter()
            .find(|other| collide(one.address, other.address))
        {
            // The default lane beside main is placed where main stands.
            let place = one.at.or(other.at);
            problems.add(
                place,
                format!(
                    "{} {} collides with {} {}",
                    one.key, one.address, other.key, other.address
                ),
                "addresses that differ in port or, without wildcards, in address",
            );
        }
    }
}

/// The server keeps its port on loopback; whatever we bind must leave it alone.
fn upstream_address(
    file: &raw::Config,
    config: &Config,
    bound: &[Bound],
    problems: &mut Problems<'_>,
) {
    let upstream = config.upstream.address;
    let written = file.upstream.as_ref().and_then(|raw| raw.address.as_ref());
    if upstream.ip().is_unspecified() || upstream.port() == 0 {
        problems.add(
            at_value(written),
            format!("upstream.address: {upstream} cannot be dialled"),
            "the address kube-apiserver listens on, as 127.0.0.1:6443",
        );
        return;
    }
    for one in bound {
        // A wildcard takes our own host's addresses; a remote server's is not among them.
        let ours = one.address.ip() == upstream.ip() || upstream.ip().is_loopback();
        if ours && collide(one.address, upstream) {
            problems.add(
                one.at,
                format!(
                    "{} {} collides with upstream.address {upstream}, where kube-apiserver \
                     listens",
                    one.key, one.address
                ),
                format!(
                    "an address of the node, as <node address>:{}",
                    upstream.port()
                ),
            );
        }
    }
}

/// Whether two listeners cannot exist side by side. Port 0 is any free port.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip(), other.ip());
    let covers = |wide: std::net::IpAddr, narrow: std::net::IpAddr| {
        // `[::]` takes IPv4 too unless the host says otherwise.
        wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
    };
    one.port() == other.port() && one.port() != 0 && (a == b || covers(a, b) || covers(b, a))
}

fn reserved_lane(file: &raw::Config, config: &Config, problems: &mut Problems<'_>) {
    let Some(raw) = &file.reserved else { return };
    let reserved = &config.reserved;
    let written = [
        ("client_ca", at_value(raw.client_ca.as_ref())),
        ("users", at_value(raw.users.as_ref())),
        ("groups", at_value(raw.groups.as_ref())),
        ("service_accounts", at_value(raw.service_accounts.as_ref())),
    ];
    let places: Vec<Option<At>> = written.iter().map(|(_, place)| *place).collect();
    if problems.known_at(&places) {
        return;
    }
    let listen = file.listen.as_ref();
    let lane = listen.and_then(|listen| listen.value.reserved.as_ref());
    if lane.is_some_and(|lane| lane.value.is_empty()) {
        for (key, place) in written.iter().filter(|(_, place)| place.is_some()) {
            problems.add(
                *place,
                format!("reserved.{key} admits to a lane that `listen.reserved: []` switches off"),
                "the lane with an address, or off without this key",
            );
        }
    } else if reserved.client_ca.is_none()
        && reserved.users.is_empty()
        && reserved.groups.is_empty()
        && reserved.service_accounts.is_empty()
    {
        problems.add(
            places.iter().flatten().next().copied(),
            "reserved: nobody may use the lane",
            "at least one of client_ca, users, groups, service_accounts; or listen.reserved: []",
        );
    }
}

/// A certificate of one pair with the key of another fails at start, or worse at renewal.
fn key_pairs(file: &raw::Config, problems: &mut Problems<'_>) {
    let tls = file.tls.as_ref();
    let front_proxy = file
        .upstream
        .as_ref()
        .and_then(|raw| raw.front_proxy.as_ref());
    let check = file.reserved.as_ref().and_then(|raw| raw.check.as_ref());
    let pairs = [
        (
            "reserved.check",
            check.and_then(|raw| raw.certificate.as_ref()),
            check.and_then(|raw| raw.key.as_ref()),
        ),
        (
            "tls",
            tls.and_then(|raw| raw.certificate.as_ref()),
            tls.and_then(|raw| raw.key.as_ref()),
        ),
        (
            "upstream.front_proxy",
            front_proxy.and_then(|raw| raw.certificate.as_ref()),
            front_proxy.and_then(|raw| raw.key.as_ref()),
        ),
    ];
    for (section, certificate, key) in pairs {
        let (given, missing) = match (certificate, key) {
            (Some(certificate), None) => (certificate, "key"),
            (None, Some(key)) => (key, "certificate"),
            _ => continue,
        };
        problems.add(
            at_value(Some(given)),
            format!("{section}: {section}.{missing} is missing beside this"),
            "both `certificate` and `key`, or neither",
        );
    }
}

fn server_name(file: &raw::Config, config: &Config, problems: &mut Problems<'_>) {
    let written = file
        .upstream
        .as_ref()
        .and_then(|raw| raw.server_name.as_ref());
    let name = &config.upstream.server_name;
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let sound = name.parse::<std::net::IpAddr>().is_ok()
        || (name.len() <= 253 && name.split('.').all(label));
    if !sound {
        problems.add(
            at_value(written),
            format!("upstream.server_name: `{name}` cannot stand in a certificate"),
            "a DNS name or an IP address, without port",
        );
    }
}

fn request_headers(file: &raw::Config, config: &Config, problems: &mut Problems<'_>) {
    let upstream = file.upstream.as_ref();
    let Some(raw) = upstream.and_then(|raw| raw.request_headers.as_ref()) else {
        return;
    };
    let headers = &config.upstream.request_headers;
    let mut named: Vec<(&str, &str, Option<&Scalar>)> = vec![
        ("user", &headers.user, raw.user.as_ref()),
        ("group", &headers.group, raw.group.as_ref()),
    ];
    if let Some(uid) = &headers.uid {
        named.push(("uid", uid, raw.uid.as_ref()));
    }
    let prefix = headers.extra_prefix.to_ascii_lowercase();
    for (index, (key, name, value)) in named.iter().enumerate() {
        let lower = name.to_ascii_lowercase();
        for (other, name, other_value) in named.iter().take(index) {
            if name.eq_ignore_ascii_case(&lower) {
                problems.add(
                    at_value(*value).or_else(|| at_value(*other_value)),
                    format!("upstream.request_headers: {other} and {key} are the same header"),
                    "a header of its own for each",
                );
            }
        }
        if !prefix.is_empty() && lower.starts_with(&prefix) {
            problems.add(
                at_value(raw.extra_prefix.as_ref()).or_else(|| at_value(*value)),
                format!("upstream.request_headers: extra_prefix also covers the {key} header"),
                "a prefix that no other identity header starts with",
            );
        }
    }
}

fn service_accounts(file: &raw::Config, config: &Config, problems: &mut Problems<'_>) {
    let Some(raw) = &file.service_accounts else {
        return;
    };
    let (keys, issuers) = (raw.keys.as_ref(), raw.issuers.as_ref());
    let length = |list: Option<&raw::List>| list.map_or(0, |list| list.value.len());
    let accounts = &config.service_accounts;
    if accounts.issuers.is_empty() && length(issuers) == 0 && !accounts.keys.is_empty() {
        problems.add(
            at_value(issuers),
            "service_accounts.issuers is empty, but there are keys to verify tokens with",
            "the value of --service-account-issuer, or `keys: []` to switch verification off",
        );
    }
    if keys.is_some() && length(keys) == 0 && length(issuers) > 0 {
        problems.add(
            at_value(issuers),
            "service_accounts.issuers is given, but `keys: []` switches verification off",
            "issuers with keys, or neither",
        );
    }
}

/// A relation `left < right` (or `≤`) between two durations of the file.
struct Order<'a> {
    section: &'static str,
    left: (&'static str, std::time::Duration, Option<&'a Scalar>),
    right: (&'static str, std::time::Duration, Option<&'a Scalar>),
    or_equal: bool,
}

impl Order<'_> {
    fn check(&self, problems: &mut Problems<'_>) {
        let (left, a, left_value) = self.left;
        let (right, b, right_value) = self.right;
        let places = [at_value(left_value), at_value(right_value)];
        if a < b || (self.or_equal && a == b) || problems.known_at(&places) {
            return;
        }
        let section = self.section;
        let relation = if self.or_equal {
            "at most"
        } else {
            "less than"
        };
        let (a, b) = (duration_text(a), duration_text(b));
        problems.add(
            places.into_iter().flatten().next(),
            format!("{section}: {left} ({a}) must be {relation} {right} ({b})"),
            "",
        );
    }
}

fn tuner(file: &raw::Config, config: &Config, problems: &mut Problems<'_>) {
    let admission = file.admission.as_ref();
    let (no_limit, no_probe, no_queue) = Default::default();
    let limit: &raw::Limit = admission
        .and_then(|raw| raw.limit.as_ref())
        .unwrap_or(&no_limit);
    let probe: &raw::Probe = admission
        .and_then(|raw| raw.probe.as_ref())
        .unwrap_or(&no_probe);
    let queue: &raw::Queue = admission
        .and_then(|raw| raw.queue.as_ref())
        .unwrap_or(&no_queue);
    let set = &config.admission;
    let min = ("min", set.limit.min, limit.min.as_ref());
    let initial = ("initial", set.limit.initial, limit.initial.as_ref());
    let max = ("max", set.limit.max, limit.max.as_ref());
    // Zero: by the number of cores, within these.
    let by_cores = set.limit.initial.is_zero() && !problems.known_at(&[at_value(initial.2)]);
    let from = if by_cores { max } else { initial };
    let interval = ("interval", set.probe.interval, probe.interval.as_ref());
    let target = ("target", set.probe.target, probe.target.as_ref());
    let timeout = ("timeout", set.probe.timeout, probe.timeout.as_ref());
    let short = (
        "short_deadline",
        set.queue.short_deadline,
        queue.short_deadline.as_ref(),
    );
    let long = (
        "long_deadline",
        set.queue.long_deadline,
        queue.long_deadline.as_ref(),
    );
    for (section, left, right, or_equal) in [
        ("admission.limit", min, from, true),
        ("admission.limit", from, max, true),
        ("admission.probe", interval, timeout, false),
        ("admission.probe", target, timeout, false),
        ("admission.queue", short, long, true),
    ] {
        Order {
            section,
            left,
            right,
            or_equal,
        }
        .check(problems);
    }
}
