//! What a predecessor knows that its successor should: what operators changed at run time, and what was learned about costs.
//! Asked for before its socket is replaced.
//!
//! Whoever switched the mode in an incident must not find it switched back because somebody replaced the binary, and a
//! storm must not find a proxy that takes every LIST for what its URL says.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::learned::{self, Learned};
use crate::overrides::ModeChange;

/// A predecessor answers from memory, or is not worth waiting for.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Page {
    changes: Vec<ModeChange>,
}

/// The changes in force in the process that serves `path`; `None` if there is no such process, or it is another user's.
pub(crate) fn mode_changes(path: &Path) -> Option<Vec<ModeChange>> {
    ask::<Page>(path, "/mode").map(|page| page.changes)
}

/// What it has learned about costs.
pub(crate) fn learned(path: &Path) -> Option<Learned> {
    ask(path, "/learned")
}

fn ask<T: DeserializeOwned>(path: &Path, page: &str) -> Option<T> {
    let mut stream = UnixStream::connect(path).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?.uid;
    if peer != rustix::process::geteuid() && !peer.is_root() {
        return None;
    }
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let request = format!("GET {page} HTTP/1.1\r\nHost: spillway\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream
        .take(learned::LONGEST)
        .read_to_end(&mut answer)
        .ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return None;
    }
    serde_json::from_str(body).ok()
}
