//! Certificates and keys: whether kube-apiserver and Spillway believe the same, and whether clients will believe them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use config::Config;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::finding::Findings;
use super::manifest::Pod;
use crate::identify::{certificate, tls};

/// Certificates that end within this many days should be renewed.
const SOON_DAYS: u64 = 30;
const DAY: u64 = 24 * 3600;

/// Compares the files of the manifest's flags with those of the configuration. `hosts` are what clients call the server.
pub(super) fn look(pod: &Pod, config: &Config, hosts: &[String], now: u64, found: &mut Findings) {
    serving(pod, config, hosts, now, found);
    front_proxy(pod, config, now, found);
    same_bundle(pod, config, found);
    account_keys(pod, config, found);
}

fn first(path: &Path) -> Result<CertificateDer<'static>, String> {
    let chain = tls::certificates(path).map_err(|error| error.to_string())?;
    chain
        .into_iter()
        .next()
        .ok_or_else(|| format!("{}: holds no certificate", path.display()))
}

fn dates(check: &'static str, path: &Path, der: &[u8], now: u64, found: &mut Findings) {
    let name = path.display();
    let Some((from, until)) = certificate::dates(der) else {
        return found.fail(check, format!("{name}: cannot be parsed"), "replace it");
    };
    let left = until.saturating_sub(now) / DAY;
    if now < from {
        found.fail(
            check,
            format!("{name}: not valid yet"),
            "look at the node's clock",
        );
    } else if now > until {
        found.fail(
            check,
            format!("{name}: has ended"),
            "kubeadm certs renew all",
        );
    } else if left < SOON_DAYS {
        found.warn(
            check,
            format!("{name}: ends in {left} days"),
            "kubeadm certs renew all; Spillway reads it by itself",
        );
    } else {
        found.ok(check, format!("{name}: valid for {left} days"));
    }
}

/// The DNS names and addresses a certificate is for.
fn names_of(der: &[u8]) -> (Vec<String>, Vec<IpAddr>) {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    let parsed = X509Certificate::from_der(der).ok();
    let extension = parsed
        .as_ref()
        .and_then(|(_, parsed)| parsed.subject_alternative_name().ok().flatten());
    for name in extension
        .iter()
        .flat_map(|extension| &extension.value.general_names)
    {
        match name {
            GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                addresses.extend(four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)));
            }
            _ => {}
        }
    }
    (names, addresses)
}

fn covers(names: &[String], addresses: &[IpAddr], host: &str) -> bool {
    if let Ok(address) = host.parse::<IpAddr>() {
        return addresses.contains(&address);
    }
    let host = host.to_ascii_lowercase();
    names.iter().any(|name| {
        *name == host
            || name
                .strip_prefix("*.")
                .is_some_and(|domain| host.split_once('.').is_some_and(|(_, rest)| rest == domain))
    })
}

fn serving(pod: &Pod, config: &Config, hosts: &[String], now: u64, found: &mut Findings) {
    const CHECK: &str = "certificates.serving";
    let path = &config.tls.certificate;
    let der = match first(path) {
        Ok(der) => der,
        Err(problem) => {
            return found.fail(
                CHECK,
                problem,
                "set tls.certificate to kube-apiserver's --tls-cert-file",
            );
        }
    };
    dates(CHECK, path, &der, now, found);
    let (names, addresses) = names_of(&der);
    let mut wanted: BTreeSet<String> =
        ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
            .map(str::to_owned)
            .into();
    wanted.extend(
        config
            .listen
            .main
            .iter()
            .filter(|own| !own.ip().is_unspecified())
            .map(|own| own.ip().to_string()),
    );
    wanted.extend(pod.flag("advertise-address").map(str::to_owned));
    wanted.extend(hosts.iter().cloned());
    let missing: Vec<&str> = wanted
        .iter()
        .map(String::as_str)
        .filter(|host| !covers(&names, &addresses, host))
        .collect();
    if missing.is_empty() {
        found.ok(
            CHECK,
            format!(
                "names {}",
                wanted.into_iter().collect::<Vec<_>>().join(", ")
            ),
        );
    } else {
        found.fail(
            CHECK,
            format!("{}: does not name {}; clients that connect by these will refuse it", path.display(), missing.join(", ")),
            "add them to apiServer.certSANs, remove apiserver.crt and .key, and run kubeadm init phase certs apiserver",
        );
    }
    if let Some(own) = pod.flag("tls-cert-file").map(Path::new)
        && own != path
        && first(own).is_ok_and(|own| own != der)
    {
        found.warn(
            CHECK,
            format!(
                "kube-apiserver shows {}, Spillway {}",
                own.display(),
                path.display()
            ),
            "let both show the same, so that clients on localhost see no other server",
        );
    }
    upstream_name(pod, config, found);
}

fn upstream_name(pod: &Pod, config: &Config, found: &mut Findings) {
    const CHECK: &str = "certificates.upstream";
    let Some(Ok(der)) = pod.flag("tls-cert-file").map(|path| first(Path::new(path))) else {
        return;
    };
    let (names, addresses) = names_of(&der);
    let name = &config.upstream.server_name;
    if covers(&names, &addresses, name) {
        found.ok(CHECK, format!("kube-apiserver's certificate names {name}"));
    } else {
        found.fail(
            CHECK,
            format!("kube-apiserver's certificate does not name upstream.server_name, {name}"),
            format!("set upstream.server_name to one of {}", names.join(", ")),
        );
    }
}

fn front_proxy(pod: &Pod, config: &Config, now: u64, found: &mut Findings) {
    const CHECK: &str = "certificates.front-proxy";
    let path = &config.upstream.front_proxy.certificate;
    let chain = match tls::certificates(path) {
        Ok(chain) => chain,
        Err(problem) => {
            return found.fail(
                CHECK,
                problem.to_string(),
                "set upstream.front_proxy to kubeadm's front-proxy-client",
            );
        }
    };
    let Some(leaf) = chain.first() else { return };
    dates(CHECK, path, leaf, now, found);
    let Some(ca) = pod.flag("requestheader-client-ca-file") else {
        return found.fail(
            CHECK,
            "kube-apiserver has no --requestheader-client-ca-file: nobody may assert identities to it",
            "set it, --requestheader-allowed-names and the header names as kubeadm does",
        );
    };
    match tls::client_authority(Path::new(ca)) {
        Err(problem) => found.fail(
            CHECK,
            problem.to_string(),
            "look at --requestheader-client-ca-file",
        ),
        Ok(authority) if authority.vouches_for(&chain, now) => {
            found.ok(CHECK, format!("{} is of {ca}", path.display()));
        }
        Ok(_) => found.fail(
            CHECK,
            format!(
                "{} is not a client certificate of {ca}, or a date has passed",
                path.display()
            ),
            "kubeadm certs renew front-proxy-client, or correct upstream.front_proxy",
        ),
    }
    let name = certificate::read(leaf)
        .map(|read| read.common_name)
        .unwrap_or_default();
    let allowed = pod.list("requestheader-allowed-names");
    if allowed.is_empty() {
        found.warn(
            CHECK,
            "--requestheader-allowed-names is empty: every certificate of the front-proxy CA may assert anybody",
            format!("set it to {name}"),
        );
    } else if allowed.contains(&&*name) {
        found.ok(CHECK, format!("{name} may assert identities"));
    } else {
        found.fail(
            CHECK,
            format!(
                "its name is {name}, and --requestheader-allowed-names is {}",
                allowed.join(", ")
            ),
            format!("add {name} to the flag, or use a certificate with a name that is listed"),
        );
    }
}

/// Who is a client of the cluster must be the same to both.
fn same_bundle(pod: &Pod, config: &Config, found: &mut Findings) {
    const CHECK: &str = "certificates.client-ca";
    let own = &config.tls.client_ca;
    let Some(theirs) = pod.flag("client-ca-file").map(Path::new) else {
        return found.warn(
            CHECK,
            "kube-apiserver has no --client-ca-file, but Spillway believes certificates",
            "take client certificates out of use at both, or at none",
        );
    };
    let bundle = |path: &Path| {
        tls::certificates(path).map(|all| {
            all.into_iter()
                .map(|der| der.to_vec())
                .collect::<BTreeSet<_>>()
        })
    };
    match (bundle(own), bundle(theirs)) {
        (Ok(own), Ok(theirs)) if own == theirs => {
            found.ok(CHECK, "both believe the same authorities")
        }
        (Ok(_), Ok(_)) => found.fail(
            CHECK,
            format!(
                "{} and {} hold different authorities: somebody is believed by one of the two only",
                own.display(),
                theirs.display()
            ),
            "let tls.client_ca name the file of --client-ca-file",
        ),
        (Err(problem), _) | (_, Err(problem)) => {
            found.fail(CHECK, problem.to_string(), "correct the path, or the file")
        }
    }
}

fn account_keys(pod: &Pod, config: &Config, found: &mut Findings) {
    const CHECK: &str = "service-accounts";
    if config.service_accounts.keys.is_empty() {
        return found.warn(
            CHECK,
            "service_accounts.keys is empty: tokens are classified only after the server has accepted them once",
            "name the files of --service-account-key-file",
        );
    }
    let own: Vec<_> = config
        .service_accounts
        .keys
        .iter()
        .filter_map(|path| std::fs::read(path).ok())
        .collect();
    let theirs = pod.flag_all("service-account-key-file");
    let missing: Vec<&str> = theirs
        .into_iter()
        .filter(|path| std::fs::read(path).is_ok_and(|text| !own.contains(&text)))
        .collect();
    if missing.is_empty() {
        found.ok(CHECK, "every key file of kube-apiserver is read here, too");
    } else if config.service_accounts.published_keys {
        found.warn(
            CHECK,
            format!(
                "{} not among service_accounts.keys; published keys fill in once fetched",
                missing.join(", ")
            ),
            "add the files",
        );
    } else {
        found.fail(
            CHECK,
            format!(
                "{} not among service_accounts.keys: its tokens are unattributed",
                missing.join(", ")
            ),
            "add the files",
        );
    }
    let issuers = pod.flag_all("service-account-issuer");
    let unknown: Vec<&str> = issuers
        .iter()
        .copied()
        .filter(|issuer| {
            !config
                .service_accounts
                .issuers
                .iter()
                .any(|own| own == issuer)
        })
        .collect();
    if unknown.is_empty() {
        found.ok(CHECK, format!("issuer {}", issuers.join(", ")));
    } else {
        found.fail(
            CHECK,
            format!("--service-account-issuer {} is not among service_accounts.issuers: its tokens are unattributed", unknown.join(", ")),
            "add it",
        );
    }
}
