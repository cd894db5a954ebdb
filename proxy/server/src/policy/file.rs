//! The file with the last good copy: the policies as they were last, with what is staged.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::book::Book;
use crate::kept::{self, KeptError};

/// Three policies of the greatest length, as JSON may write them.
const LONGEST: u64 = 24 << 20;
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    #[serde(flatten)]
    book: &'a Book,
}

#[derive(Deserialize)]
struct Found {
    version: u32,
    #[serde(flatten)]
    book: Book,
}

/// What was kept; nothing where nothing was. What cannot be read is put aside and said, and the proxy starts with the
/// configuration alone: an apiserver behind a proxy that does not start helps nobody.
pub(super) fn read(path: &Path) -> Book {
    match found(path) {
        Ok(found) => found.unwrap_or_default(),
        Err(problem) => {
            let shown = path.display();
            error!(target: "spillway::audit", event = "policy_lost", path = %shown, problem,
                   "the last good copy of the policy cannot be read, and is not in force");
            if let Err(problem) = kept::put_aside(path) {
                warn!(path = %shown, %problem, "nor can the file be put aside");
            }
            Book::default()
        }
    }
}

fn found(path: &Path) -> Result<Option<Book>, String> {
    match kept::read::<Found>(path, LONGEST)? {
        None => Ok(None),
        Some(Found {
            version: VERSION,
            book,
        }) => Ok(Some(book)),
        Some(Found { version, .. }) => Err(format!("its version is {version}, not {VERSION}")),
    }
}

/// Replaces the file, durably. Blocks on the disk.
///
/// # Errors
/// [`KeptError`]; what was written before is still there.
pub(super) fn write(path: &Path, book: &Book) -> Result<(), KeptError> {
    let written = Written {
        version: VERSION,
        book,
    };
    kept::write(path, &written)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::super::book::{Kept, Stage};
    use super::*;

    fn place(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("spillway-policy-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        folder.join("policy.json")
    }

    fn book() -> Book {
        let kept = |text: &str| Kept {
            text: text.to_owned(),
            origin: "a test".to_owned(),
            since: 100,
        };
        let mut book = Book::default();
        book.replace(Some(kept("rules: []\n")), 200);
        book.stage(kept("limits: []\n"), Stage::Percent(250))
            .expect("staged");
        book
    }

    #[test]
    fn what_is_kept_is_found_again_and_is_its_owners_alone() {
        let path = place("again");
        assert_eq!(read(&path), Book::default());
        write(&path, &book()).expect("written");
        assert_eq!(read(&path), book());
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let _ = fs::remove_dir_all(path.parent().expect("a folder"));
    }

    #[test]
    fn what_cannot_be_read_is_put_aside_and_not_lost() {
        let path = place("aside");
        for text in [
            "",
            "{",
            "{\"version\": 9, \"current\": null, \"previous\": null, \"candidate\": null, \"taken\": null}",
        ] {
            fs::write(&path, text).expect("written");
            assert_eq!(read(&path), Book::default());
            let aside = path.with_extension("json.unreadable");
            assert_eq!(fs::read_to_string(&aside).expect("put aside"), text);
            assert!(!path.exists());
        }
        let _ = fs::remove_dir_all(path.parent().expect("a folder"));
    }

    #[test]
    fn a_disk_that_takes_nothing_is_said() {
        let path = Path::new("/proc/spillway/policy.json").to_owned();
        let problem = write(&path, &book()).expect_err("not there").to_string();
        assert!(problem.contains("would not survive a restart"), "{problem}");
    }
}
