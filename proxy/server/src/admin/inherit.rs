//! What a predecessor's operators changed at run time, asked for before its socket is replaced.
//!
//! Whoever switched the mode in an incident must not find it switched back because somebody replaced the binary.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::overrides::ModeChange;

/// A predecessor answers from memory, or is not worth waiting for.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest answer read.
const MOST_BYTES: u64 = 1 << 20;

#[derive(Deserialize)]
struct Page {
    changes: Vec<ModeChange>,
}

/// The changes in force in the process that serves `path`; none if there is no such process, or it is another user's.
pub(crate) fn mode_changes(path: &Path) -> Vec<ModeChange> {
    ask(path).unwrap_or_default()
}

fn ask(path: &Path) -> Option<Vec<ModeChange>> {
    let mut stream = UnixStream::connect(path).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?.uid;
    if peer != rustix::process::geteuid() && !peer.is_root() {
        return None;
    }
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    stream
        .write_all(b"GET /mode HTTP/1.1\r\nHost: spillway\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return None;
    }
    serde_json::from_str::<Page>(body)
        .ok()
        .map(|page| page.changes)
}
