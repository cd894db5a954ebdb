//! kube-apiserver's flags and probes against the configuration.

use std::net::IpAddr;

use config::Config;

use super::finding::{Findings, Verdict};
use super::manifest::Pod;
use super::{Stage, names};

/// Everything the manifest says that Spillway depends on.
pub(super) fn look(pod: &Pod, config: &Config, stage: Stage, found: &mut Findings) {
    bind_address(pod, config, stage, found);
    advertise_address(pod, config, found);
    ports(pod, config, found);
    probes(pod, config, stage, found);
    request_headers(pod, config, found);
    peers(pod, config, found);
    if pod.flag("endpoint-reconciler-type") == Some("none") {
        found.warn(
            "apiserver.endpoints",
            "--endpoint-reconciler-type=none: kube-apiserver does not publish its endpoint",
            "make sure that whoever publishes the endpoints of default/kubernetes names Spillway's address and port",
        );
    }
}

fn bind_address(pod: &Pod, config: &Config, stage: Stage, found: &mut Findings) {
    const CHECK: &str = "apiserver.bind-address";
    let wanted = config.upstream.address.ip();
    if !wanted.is_loopback() {
        return found.fail(
            CHECK,
            format!("upstream.address is {wanted}, not a loopback address"),
            "set upstream.address to 127.0.0.1:6443 (or [::1]:6443): clients must not reach kube-apiserver beside Spillway",
        );
    }
    let text = pod.flag("bind-address").unwrap_or("0.0.0.0 (the default)");
    match (stage, pod.address("bind-address")) {
        (_, Some(bind)) if bind == wanted => found.ok(CHECK, text),
        (Stage::Before, bind) if bind.is_none_or(|bind| !bind.is_loopback()) => found.ok(
            CHECK,
            format!("{text}; the take-over makes it {wanted}"),
        ),
        (_, Some(bind)) if bind.is_loopback() => found.fail(
            CHECK,
            format!("{bind}, but upstream.address is {}", config.upstream.address),
            "make the two the same",
        ),
        _ => found.fail(
            CHECK,
            format!("{text}: Spillway cannot take the port, and clients go around it"),
            format!(
                "set --bind-address={wanted} (deploy/take-over.sh does); if kubeadm took it back, upgrade with --patches"
            ),
        ),
    }
}

fn advertise_address(pod: &Pod, config: &Config, found: &mut Findings) {
    const CHECK: &str = "apiserver.advertise-address";
    let main = &config.listen.main;
    let port = pod.secure_port();
    match pod.address("advertise-address") {
        None => found.fail(
            CHECK,
            "not set: from a loopback --bind-address kube-apiserver cannot tell what to publish as its endpoint",
            "set --advertise-address to the node's address",
        ),
        Some(address) if main.iter().any(|own| own.ip() == address && own.port() == port) => found.ok(
            CHECK,
            format!("{address}:{port} is published as endpoint, and the main lane listens there"),
        ),
        Some(address) => found.fail(
            CHECK,
            format!(
                "{address}:{port} is published as endpoint, but listen.main is {}: pods would reach nobody",
                names(main)
            ),
            format!("add \"{address}:{port}\" to listen.main"),
        ),
    }
}

fn ports(pod: &Pod, config: &Config, found: &mut Findings) {
    const CHECK: &str = "apiserver.secure-port";
    let (port, upstream) = (pod.secure_port(), config.upstream.address.port());
    if port == upstream {
        found.ok(CHECK, format!("{port}, as upstream.address"));
    } else {
        found.fail(
            CHECK,
            format!(
                "{port}, but upstream.address is {}",
                config.upstream.address
            ),
            "make the two ports the same",
        );
    }
    if !pod.host_network() {
        found.fail(
            "apiserver.host-network",
            "the pod has a network of its own: its loopback is not the node's",
            "set hostNetwork: true",
        );
    }
}

fn probes(pod: &Pod, config: &Config, stage: Stage, found: &mut Findings) {
    const CHECK: &str = "apiserver.probes";
    let hosts = pod.probe_hosts();
    if hosts.is_empty() {
        return found.warn(
            CHECK,
            "kube-apiserver has no probes",
            "give it kubeadm's, asking 127.0.0.1",
        );
    }
    let is_loopback = |host: Option<&str>| {
        host == Some("localhost")
            || host
                .and_then(|host| host.parse::<IpAddr>().ok())
                .is_some_and(|host| host == config.upstream.address.ip())
    };
    let wrong: Vec<String> = hosts
        .iter()
        .filter(|(_, host)| !is_loopback(*host))
        .map(|(name, host)| format!("{name} asks {}", host.unwrap_or("the pod's address")))
        .collect();
    match (wrong.is_empty(), stage) {
        (true, _) => found.ok(CHECK, "the kubelet asks kube-apiserver itself"),
        (false, Stage::Before) => found.ok(
            CHECK,
            format!("{}; the take-over makes it {}", wrong.join(", "), config.upstream.address.ip()),
        ),
        (false, Stage::Installed) => found.fail(
            CHECK,
            format!(
                "{}: that is Spillway, and the kubelet would kill a healthy kube-apiserver because its proxy is not",
                wrong.join(", ")
            ),
            format!(
                "set their httpGet.host to {} (deploy/take-over.sh does; deploy/kubeadm/patches keeps it over upgrades)",
                config.upstream.address.ip()
            ),
        ),
    }
}

fn request_headers(pod: &Pod, config: &Config, found: &mut Findings) {
    const CHECK: &str = "apiserver.requestheader";
    let wanted = &config.upstream.request_headers;
    let mut sound = true;
    let mut one = |flag: &str, header: &str, key: &str| {
        let listed = pod.list(flag);
        // Header names have no case.
        if listed.iter().any(|name| name.eq_ignore_ascii_case(header)) {
            return;
        }
        sound = false;
        found.fail(
            CHECK,
            format!("--{flag} is [{}], without {header}: identities that Spillway asserts are not read", listed.join(", ")),
            format!("add {header} to the flag, or set upstream.request_headers.{key} to one that is listed"),
        );
    };
    one("requestheader-username-headers", &wanted.user, "user");
    one("requestheader-group-headers", &wanted.group, "group");
    one(
        "requestheader-extra-headers-prefix",
        &wanted.extra_prefix,
        "extra_prefix",
    );
    if let Some(uid) = &wanted.uid {
        one("requestheader-uid-headers", uid, "uid");
    }
    if sound {
        found.ok(
            CHECK,
            format!(
                "{}, {}, {}* are read",
                wanted.user, wanted.group, wanted.extra_prefix
            ),
        );
    }
    if let (None, Some(uid)) = (&wanted.uid, pod.flag("requestheader-uid-headers")) {
        found.warn(
            CHECK,
            format!("--requestheader-uid-headers={uid}, but upstream.request_headers.uid is not set: uids of certificates are lost"),
            format!("set upstream.request_headers.uid to {uid}"),
        );
    }
}

/// Other apiservers of the cluster come with the front-proxy certificate, to the address that is Spillway's now.
fn peers(pod: &Pod, config: &Config, found: &mut Findings) {
    let Some(ca) = pod.flag("peer-ca-file") else {
        return;
    };
    let verdict = match config.request_header.client_ca {
        Some(_) => return found.ok("apiserver.peers", "peer apiservers may state identities"),
        None => Verdict::Warn,
    };
    found.add(
        "apiserver.peers",
        verdict,
        format!("--peer-ca-file={ca}: other apiservers come to Spillway's address and state identities, and it believes none"),
        "set request_header.client_ca to the front-proxy CA and request_header.allowed_names to [front-proxy-client]",
    );
}
