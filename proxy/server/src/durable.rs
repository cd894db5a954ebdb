//! Files that are replaced whole and survive a crash: whoever reads finds the old one or the new one.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A step that failed.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) what: &'static str,
    pub(crate) source: io::Error,
}

/// Writes `content` to a file beside `path`, mode 0600, which then takes its place; its folder is made if there
/// is none, mode 0700. One at a time, please.
///
/// # Errors
/// The step that failed; `path` is as it was then.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), Failed> {
    let wrong = |what| move |source| Failed { what, source };
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
    file.write_all(content)
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
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
