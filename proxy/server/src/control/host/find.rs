//! Which process listens where the apiserver is, and where its memory is counted.
//!
//! `/proc/net/tcp` tells the socket, the descriptors of all processes tell whose it is, and `/proc/PID/cgroup` tells its
//! cgroup. In a container that takes the host's process ids (`hostPID`) and its cgroups (`/sys/fs/cgroup`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::Roots;
use super::cgroup::{Cgroup, read};

/// Lines of a socket table looked at.
const MOST_SOCKETS: usize = 200_000;
/// Descriptors looked at, of all processes together.
const MOST_DESCRIPTORS: usize = 1_000_000;
/// Folders of the cgroup hierarchy looked at.
const MOST_FOLDERS: usize = 20_000;

/// A process, told apart from a later one of the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) id: u32,
    started: String,
}

impl Process {
    /// The process that listens at `address`.
    pub(crate) fn listening(proc: &Path, address: SocketAddr) -> Option<Self> {
        let sockets = sockets(proc, address);
        if sockets.is_empty() {
            return None;
        }
        let mut left = MOST_DESCRIPTORS;
        for entry in std::fs::read_dir(proc).ok()?.flatten() {
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A process that is not ours to look at is not found.
            let Ok(descriptors) = std::fs::read_dir(entry.path().join("fd")) else {
                continue;
            };
            for descriptor in descriptors.flatten() {
                left = left.checked_sub(1)?;
                let Ok(target) = std::fs::read_link(descriptor.path()) else {
                    continue;
                };
                if target
                    .to_str()
                    .is_some_and(|target| sockets.iter().any(|s| s == target))
                {
                    let started = started(proc, id)?;
                    return Some(Self { id, started });
                }
            }
        }
        None
    }

    /// Whether it is still the same process.
    pub(crate) fn runs(&self, proc: &Path) -> bool {
        started(proc, self.id).is_some_and(|started| started == self.started)
    }

    /// Its memory that is no file's, in bytes.
    pub(crate) fn memory(&self, proc: &Path) -> Option<u64> {
        let text = read(&proc.join(self.id.to_string()).join("status"))?;
        Some(kib(&text, "RssAnon:")? + kib(&text, "RssShmem:").unwrap_or(0))
    }

    /// Its cgroup, if there is one of version 2 that counts memory.
    pub(crate) fn cgroup(&self, roots: &Roots) -> Option<Cgroup> {
        let text = read(&roots.proc.join(self.id.to_string()).join("cgroup"))?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        let counts = |folder: &Path| folder.join("memory.current").is_file();
        let direct = roots.cgroup.join(path.trim_start_matches('/'));
        // Seen from another cgroup namespace the path leads elsewhere, but its last name is the container's.
        let outside = path.contains("..") || !counts(&direct);
        let folder = if outside {
            let name = Path::new(path).file_name()?;
            named(&roots.cgroup, name)?
        } else {
            direct
        };
        counts(&folder).then(|| Cgroup::at(folder, &roots.cgroup))
    }
}

/// What is used of the host's memory, and all there is.
pub(crate) fn host_memory(proc: &Path) -> Option<(u64, u64)> {
    let text = read(&proc.join("meminfo"))?;
    let total = kib(&text, "MemTotal:")?;
    let available = kib(&text, "MemAvailable:")?;
    Some((total.saturating_sub(available), total))
}

/// A number of kilobytes after a key, in bytes.
fn kib(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?.trim().strip_suffix("kB")?;
        rest.trim().parse::<u64>().ok()?.checked_mul(1024)
    })
}

/// When a process started, in the kernel's words.
fn started(proc: &Path, id: u32) -> Option<String> {
    let text = read(&proc.join(id.to_string()).join("stat"))?;
    // The name may hold anything, brackets too; what follows the last one is numbers. The start is field 22.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19).map(str::to_owned)
}

/// The sockets that listen at `address`, as the links of descriptors name them. Those on a wildcard only where none is
/// bound to the address itself.
fn sockets(proc: &Path, address: SocketAddr) -> Vec<String> {
    let (mut exact, mut wild) = (Vec::new(), Vec::new());
    for table in ["net/tcp", "net/tcp6"] {
        let Ok(text) = std::fs::read_to_string(proc.join(table)) else {
            continue;
        };
        for line in text.lines().skip(1).take(MOST_SOCKETS) {
            let Some((bound, socket)) = listener(line) else {
                continue;
            };
            if bound.port() != address.port() {
                continue;
            }
            if bound.ip() == address.ip() {
                exact.push(socket);
            } else if bound.ip().is_unspecified() {
                wild.push(socket);
            }
        }
    }
    if exact.is_empty() { wild } else { exact }
}

/// Address and socket of a line of `/proc/net/tcp`, if it listens.
fn listener(line: &str) -> Option<(SocketAddr, String)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    if fields.nth(1)? != "0A" {
        return None;
    }
    let inode: u64 = fields.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((
        SocketAddr::new(ip(address)?, port),
        format!("socket:[{inode}]"),
    ))
}

/// The kernel writes addresses as words of its own byte order.
fn ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let hex = text.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(hex, 16).ok().map(u32::to_ne_bytes)
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// The folder of this name below `root`.
fn named(root: &Path, name: &std::ffi::OsStr) -> Option<PathBuf> {
    let mut open = vec![root.to_owned()];
    let mut left = MOST_FOLDERS;
    while let Some(folder) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            left = left.checked_sub(1)?;
            if entry.file_name() == name {
                return Some(entry.path());
            }
            open.push(entry.path());
        }
    }
    None
}
