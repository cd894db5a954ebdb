//! Small files in which what this process knows survives it.
//!
//! Written whole to a file beside it, which then takes its place: whoever reads finds the old or the new one. What cannot
//! be understood is put aside and not overwritten, and the proxy starts without it: an apiserver behind a proxy that does
//! not start helps nobody.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::durable;

/// Something could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}: {source}; it is in force, but would not survive a restart", path.display())]
pub(crate) struct KeptError {
    path: PathBuf,
    what: &'static str,
    source: std::io::Error,
}

/// What is in the file at `path`, of at most `longest` bytes; nothing if there is none.
///
/// # Errors
/// A text that says what is wrong with it.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, longest: u64) -> Result<Option<T>, String> {
    let mut text = String::new();
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(problem) => return Err(problem.to_string()),
    };
    file.take(longest)
        .read_to_string(&mut text)
        .map_err(|problem| problem.to_string())?;
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|problem| problem.to_string())
}

/// Puts a file that cannot be understood out of the way.
///
/// # Errors
/// The system's.
pub(crate) fn put_aside(path: &Path) -> std::io::Result<()> {
    fs::rename(path, durable::beside(path, ".unreadable"))
}

/// Writes `value` to `path`, at once and durably, for its owner alone. Blocks on the disk.
///
/// # Errors
/// [`KeptError`]; what was written before is still there.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), KeptError> {
    let wrong = |what| {
        let path = path.to_owned();
        move |source| KeptError { path, what, source }
    };
    let text = serde_json::to_vec(value)
        .map_err(|problem| wrong("cannot be put into words")(problem.into()))?;
    durable::replace(path, &text).map_err(|failed| wrong(failed.what)(failed.source))
}
