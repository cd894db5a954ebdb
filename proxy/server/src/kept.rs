//! Small files in which what this process knows survives it.
//!
//! Written whole to a file beside it, which then takes its place: whoever reads finds the old or the new one. What cannot
//! be understood is put aside and not overwritten, and the proxy starts without it: an apiserver behind a proxy that does
//! not start helps nobody.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

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
    fs::rename(path, beside(path, ".unreadable"))
}

/// Writes `value` to `path`, at once and durably, for its owner alone; its folder is made if there is none. Blocks on the
/// disk. One at a time, please.
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
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    if let Some(folder) = folder.filter(|folder| !folder.exists()) {
        let made = fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(folder);
        made.map_err(wrong("its folder cannot be made"))?;
    }
    let new = beside(path, ".new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(wrong("cannot be created"))?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .map_err(wrong("cannot be written"))?;
    fs::rename(&new, path).map_err(wrong("cannot be replaced"))?;
    // The name, too, is to survive.
    if let Ok(folder) = fs::File::open(folder.unwrap_or_else(|| Path::new("."))) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// The file's name with something behind it.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
