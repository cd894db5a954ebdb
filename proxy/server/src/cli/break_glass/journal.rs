//! Who got access, when, from whom and why; and what of it was revoked. Files beside the authority, for people and scripts.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::admin_client::Failed;
use super::super::output::moment;
use super::failed;
use crate::identify::revoked::Revoked;

/// One certificate that was issued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Issued {
    /// Hexadecimal, as in the list of revoked ones.
    pub(super) serial: String,
    pub(super) name: String,
    pub(super) groups: Vec<String>,
    pub(super) reason: String,
    /// Unix seconds.
    pub(super) issued: u64,
    /// Unix seconds.
    pub(super) ends: u64,
    /// Who issued it, as the system knows them.
    pub(super) by: String,
    pub(super) server: String,
}

/// What it is worth now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Valid,
    Revoked,
    Ended,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Revoked => "revoked",
            Self::Ended => "ended",
        })
    }
}

/// One line of the list.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Listed {
    #[serde(flatten)]
    pub(super) issued: Issued,
    pub(super) state: State,
}

/// See the module.
pub(super) struct Journal {
    path: PathBuf,
    revoked: PathBuf,
}

fn io(path: &Path, what: &str, problem: &std::io::Error) -> Failed {
    let next = if problem.kind() == std::io::ErrorKind::PermissionDenied {
        "run this with sudo: the folder is root's alone"
    } else {
        "look at the folder and its disk; nothing was issued or revoked"
    };
    failed(
        format!("{}: cannot be {what}: {problem}", path.display()),
        next,
    )
}

/// Makes the folder, for its owner alone.
pub(super) fn folder(dir: &Path) -> Result<(), Failed> {
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(dir)
        .map_err(|problem| io(dir, "made", &problem))
}

/// Writes a file that is not there yet.
pub(super) fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failed> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    options
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(|problem| io(path, "written", &problem))
}

/// Who runs this, for the journal.
pub(super) fn operator() -> String {
    let uid = rustix::process::getuid().as_raw();
    match std::env::var("SUDO_USER") {
        Ok(user) if uid == 0 => format!("{user} (sudo)"),
        _ => std::env::var("USER").map_or_else(
            |_| format!("uid {uid}"),
            |user| format!("{user} (uid {uid})"),
        ),
    }
}

impl Journal {
    /// The one of an authority's folder.
    pub(super) fn of(dir: &Path) -> Self {
        Self {
            path: dir.join("journal.jsonl"),
            revoked: dir.join("revoked"),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line, and sees to it that it is on the disk.
    pub(super) fn add(&self, issued: &Issued) -> Result<(), Failed> {
        let line = serde_json::to_string(issued).unwrap_or_default() + "\n";
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        options
            .open(&self.path)
            .and_then(|mut file| {
                file.write_all(line.as_bytes())?;
                file.sync_all()
            })
            .map_err(|problem| io(&self.path, "written", &problem))
    }

    /// Everything in it, the newest last, with its state at `now`. Lines that cannot be read are left out.
    pub(super) fn listed(&self, now: u64) -> Result<Vec<Listed>, Failed> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(problem) => return Err(io(&self.path, "read", &problem)),
        };
        let revoked = self.read_revoked()?;
        let entries = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Issued>(line).ok());
        let listed = entries.map(|issued| Listed {
            state: if revoked.contains(&issued.serial) {
                State::Revoked
            } else if issued.ends <= now {
                State::Ended
            } else {
                State::Valid
            },
            issued,
        });
        Ok(listed.collect())
    }

    fn read_revoked(&self) -> Result<Revoked, Failed> {
        Revoked::load(Some(&self.revoked)).map_err(|problem| {
            failed(
                problem.to_string(),
                "mend the line: the running spillway keeps its last good list",
            )
        })
    }

    /// Adds numbers to the list of revoked ones, in one step; where it is.
    pub(super) fn revoke(
        &self,
        serials: &[String],
        reason: Option<&str>,
        now: u64,
    ) -> Result<&Path, Failed> {
        self.read_revoked()?;
        let mut text = fs::read_to_string(&self.revoked).unwrap_or_default();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let reason = reason
            .unwrap_or("no reason given")
            .replace(['\n', '\r'], " ");
        for serial in serials {
            text += &format!("{serial} # {}, by {}: {reason}\n", moment(now), operator());
        }
        let new = self
            .revoked
            .with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&new);
        write_new(&new, &text, 0o644)?;
        fs::rename(&new, &self.revoked)
            .map_err(|problem| io(&self.revoked, "replaced", &problem))?;
        Ok(&self.revoked)
    }
}
