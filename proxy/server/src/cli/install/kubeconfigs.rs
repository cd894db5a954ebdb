//! Where the node's own clients go: kubelet, controller-manager, scheduler, and the administrators.

use std::net::SocketAddr;
use std::path::Path;

use config::Config;
use http::Uri;
use serde::Deserialize;

use super::finding::Findings;

/// kubeadm's, by the name of the file. All but the kubelet's may be missing, as on a node without them.
const FILES: [&str; 5] = [
    "kubelet.conf",
    "controller-manager.conf",
    "scheduler.conf",
    "admin.conf",
    "super-admin.conf",
];

/// The server of one kubeconfig's first cluster.
#[derive(Clone, Debug)]
pub(super) struct Client {
    file: &'static str,
    host: String,
    port: u16,
    /// A name of its own to verify the server by.
    server_name: Option<String>,
}

#[derive(Deserialize)]
struct File {
    clusters: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    cluster: Cluster,
}

#[derive(Deserialize)]
struct Cluster {
    server: String,
    #[serde(rename = "tls-server-name")]
    tls_server_name: Option<String>,
}

/// Reads those that are there; what cannot be read is a finding.
pub(super) fn read(folder: &Path, found: &mut Findings) -> Vec<Client> {
    let mut clients = Vec::new();
    for file in FILES {
        let path = folder.join(file);
        if !path.exists() {
            continue;
        }
        let read = std::fs::read_to_string(&path)
            .map_err(|error| error.to_string())
            .and_then(|text| client(file, &text));
        match read {
            Ok(client) => clients.push(client),
            Err(problem) => found.warn(
                "kubeconfigs",
                format!("{}: {problem}", path.display()),
                "run as root; or write it anew: kubeadm init phase kubeconfig",
            ),
        }
    }
    clients
}

fn client(file: &'static str, text: &str) -> Result<Client, String> {
    let read: File = serde_saphyr::from_str(text).map_err(|_| "is no kubeconfig".to_owned())?;
    let cluster = read
        .clusters
        .into_iter()
        .next()
        .ok_or("names no cluster")?
        .cluster;
    let uri: Uri = cluster
        .server
        .parse()
        .map_err(|_| format!("server {}: not a URL", cluster.server))?;
    let host = uri.host().ok_or_else(|| format!("server {uri}: no host"))?;
    Ok(Client {
        file,
        host: host.trim_matches(['[', ']']).to_owned(),
        port: uri.port_u16().unwrap_or(443),
        server_name: cluster.tls_server_name,
    })
}

/// What clients verify the serving certificate by.
pub(super) fn hosts(clients: &[Client]) -> Vec<String> {
    let names = clients
        .iter()
        .map(|client| client.server_name.as_ref().unwrap_or(&client.host));
    names.filter(|host| !is_loopback(host)).cloned().collect()
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Says which of them go through Spillway.
pub(super) fn look(clients: &[Client], config: &Config, found: &mut Findings) {
    const CHECK: &str = "kubeconfigs";
    for client in clients {
        let Client {
            file, host, port, ..
        } = client;
        let address = host.parse().map(|ip| SocketAddr::new(ip, *port)).ok();
        let lanes = config.listen.main.iter().chain(&config.listen.reserved);
        if lanes.into_iter().any(|own| Some(*own) == address) {
            found.ok(CHECK, format!("{file}: {host}:{port}, through Spillway"));
        } else if address == Some(config.upstream.address) || *host == *"localhost" {
            found.warn(
                CHECK,
                format!("{file}: {host}:{port}, around Spillway: not classified, not counted, not held back"),
                "write the node's address into it, unless that is meant (the way around is for emergencies)",
            );
        } else if host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| config.listen.main.iter().any(|own| own.ip() == ip))
        {
            found.fail(
                CHECK,
                format!("{file}: {host}:{port}, where Spillway does not listen"),
                format!("add \"{host}:{port}\" to listen.main, or correct the file"),
            );
        } else {
            found.ok(
                CHECK,
                format!("{file}: {host}:{port}, a balancer or another node"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::*;

    fn looked(server: &str) -> (Verdict, String) {
        let text = format!("clusters: [{{ name: k, cluster: {{ server: \"{server}\" }} }}]");
        let client = client("kubelet.conf", &text).unwrap();
        let mut config = Config::default();
        config.listen.main = vec!["192.0.2.10:6443".parse().unwrap()];
        let mut found = Findings::default();
        look(&[client], &config, &mut found);
        let finding = found.of("kubeconfigs")[0].clone();
        (finding.verdict, finding.found)
    }

    #[test]
    fn a_client_is_told_to_go_through_around_or_elsewhere() {
        for (server, verdict, said) in [
            ("https://192.0.2.10:6443", Verdict::Ok, "through Spillway"),
            ("https://127.0.0.1:6443", Verdict::Warn, "around Spillway"),
            ("https://localhost:6443", Verdict::Warn, "around Spillway"),
            ("https://192.0.2.10:8443", Verdict::Fail, "does not listen"),
            ("https://api.example.test:6443", Verdict::Ok, "balancer"),
        ] {
            let (is, found) = looked(server);
            assert_eq!(is, verdict, "{server}: {found}");
            assert!(found.contains(said), "{server}: {found}");
        }
    }

    #[test]
    fn a_kubeconfig_that_is_none_says_so() {
        for text in [
            "",
            "clusters: []",
            "clusters: [{cluster: {server: \"::\"}}]",
        ] {
            assert!(client("admin.conf", text).is_err(), "{text}");
        }
    }
}
