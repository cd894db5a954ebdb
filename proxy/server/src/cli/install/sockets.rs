//! Who listens where: from /proc/net/tcp and tcp6, and the processes' descriptors.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;

use config::Config;

use super::Stage;
use super::finding::Findings;

/// `st` of a listening socket.
const LISTEN: &str = "0A";

/// Our own process' name, as /proc shows it.
const OURS: &str = "spillway";

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    inode: u64,
    /// The process' name; none when this user may not see it.
    pub(super) process: Option<String>,
}

/// All listening sockets of this network namespace.
pub(super) fn all() -> std::io::Result<Vec<Listening>> {
    let mut found = parse(&std::fs::read_to_string("/proc/net/tcp")?);
    // Absent where IPv6 is off.
    found.extend(parse(
        &std::fs::read_to_string("/proc/net/tcp6").unwrap_or_default(),
    ));
    let names = processes();
    for socket in &mut found {
        socket.process = names.get(&socket.inode).cloned();
    }
    Ok(found)
}

/// Reads the text of /proc/net/tcp or tcp6; lines that are none are left out.
fn parse(text: &str) -> Vec<Listening> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let local = words.nth(1)?;
        let state = words.nth(1)?;
        let inode = words.nth(5)?.parse().ok()?;
        (state == LISTEN).then_some(())?;
        let (address, port) = local.split_once(':')?;
        Some(Listening {
            address: SocketAddr::new(ip(address)?, u16::from_str_radix(port, 16).ok()?),
            inode,
            process: None,
        })
    };
    text.lines().skip(1).filter_map(line).collect()
}

/// The kernel writes an address as 32-bit words in the host's byte order.
fn ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let word = u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let bytes = <[u8; 16]>::try_from(words.concat()).ok()?;
            // An IPv4 address of a socket for both is IPv4 to us.
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// Process names by the inode of their sockets, as far as this user may see.
fn processes() -> HashMap<u64, String> {
    let mut found = HashMap::new();
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let path = process.path();
        if !process
            .file_name()
            .to_string_lossy()
            .starts_with(|first: char| first.is_ascii_digit())
        {
            continue;
        }
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        for descriptor in std::fs::read_dir(path.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Some(inode) = inode(&descriptor.path()) {
                // A socket that systemd holds is shown as the process' that serves it.
                let name = name.trim().to_owned();
                let known: &mut String = found.entry(inode).or_default();
                if known.is_empty() || name == OURS {
                    *known = name;
                }
            }
        }
    }
    found
}

fn inode(descriptor: &Path) -> Option<u64> {
    let target = std::fs::read_link(descriptor).ok()?;
    let target = target
        .to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?;
    target.parse().ok()
}

/// Judges who has the addresses that kube-apiserver and Spillway need.
pub(super) fn look(sockets: &[Listening], config: &Config, stage: Stage, found: &mut Findings) {
    upstream(sockets, config, stage, found);
    let listen = &config.listen;
    let lanes = [
        ("listen.main", &listen.main),
        ("listen.reserved", &listen.reserved),
    ];
    for (key, addresses) in lanes {
        for address in addresses {
            own(sockets, key, *address, stage, key == "listen.main", found);
        }
    }
    own(sockets, "listen.admin", listen.admin, stage, false, found);
}

fn upstream(sockets: &[Listening], config: &Config, stage: Stage, found: &mut Findings) {
    const CHECK: &str = "listening.apiserver";
    let address = config.upstream.address;
    let same_port: Vec<_> = sockets
        .iter()
        .filter(|socket| socket.address.port() == address.port())
        .collect();
    let wildcard = same_port
        .iter()
        .find(|socket| socket.address.ip().is_unspecified());
    let exact = same_port.iter().find(|socket| socket.address == address);
    match (stage, wildcard, exact) {
        (Stage::Installed, Some(socket), _) => found.fail(
            CHECK,
            format!("{} has {}: every address of the node", who(socket), socket.address),
            "restart kube-apiserver with --bind-address=127.0.0.1; Spillway cannot have the port on the node's address until then",
        ),
        (_, None, Some(socket)) => found.ok(CHECK, format!("{} has {address}", who(socket))),
        (Stage::Before, _, _) if !same_port.is_empty() => found.ok(CHECK, format!("port {} is served", address.port())),
        _ => found.fail(
            CHECK,
            format!("nobody listens on {address}"),
            "is kube-apiserver up? crictl ps -a --name kube-apiserver; journalctl -u kubelet",
        ),
    }
}

fn own(
    sockets: &[Listening],
    key: &str,
    address: SocketAddr,
    stage: Stage,
    is_main: bool,
    found: &mut Findings,
) {
    const CHECK: &str = "listening.spillway";
    if !address.ip().is_unspecified() && TcpListener::bind((address.ip(), 0)).is_err() {
        return found.fail(
            CHECK,
            format!("{key}: {} is not an address of this node", address.ip()),
            "write the node's own address",
        );
    }
    if address.ip().is_unspecified() && is_main {
        return found.fail(
            CHECK,
            format!(
                "{key}: {address} is every address, and collides with kube-apiserver on loopback"
            ),
            "write the node's own addresses",
        );
    }
    let holder = sockets.iter().find(|socket| {
        socket.address == address
            || socket.address.port() == address.port() && socket.address.ip().is_unspecified()
    });
    match (holder, stage) {
        (Some(socket), Stage::Before) if is_main => found.ok(
            CHECK,
            format!("{key}: {} has {address}; Spillway will", who(socket)),
        ),
        (Some(socket), _) if socket.process.as_deref() == Some(OURS) => {
            found.ok(CHECK, format!("{key}: Spillway has {address}"))
        }
        (Some(socket), Stage::Installed) if socket.process.is_none() => {
            found.ok(CHECK, format!("{key}: {address} is served"))
        }
        (Some(socket), _) => found.fail(
            CHECK,
            format!("{key}: {} has {}", who(socket), socket.address),
            format!("end it, or choose another port for {key}"),
        ),
        (None, Stage::Before) => found.ok(CHECK, format!("{key}: {address} is free")),
        (None, Stage::Installed) => found.fail(
            CHECK,
            format!("{key}: nobody listens on {address}"),
            "is Spillway up? crictl ps -a --name spillway; or systemctl status spillway",
        ),
    }
}

fn who(socket: &Listening) -> String {
    socket
        .process
        .clone()
        .unwrap_or_else(|| "a process of another user".to_owned())
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
