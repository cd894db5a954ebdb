//! The file in which measures survive a restart.
//!
//! Written whole to a file beside it, which then takes its place: whoever reads finds the old or the new one. What cannot
//! be understood is put aside and not overwritten, and the proxy starts without it: an apiserver behind a proxy that does
//! not start helps nobody.

use std::fs;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::Measure;
use crate::durable;

/// More than all measures there may be can take, in bytes.
const LONGEST: u64 = 4 << 20;
const VERSION: u32 = 1;

/// Measures could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}: {source}; the measures hold, but would not survive a restart", path.display())]
pub(crate) struct FileError {
    path: PathBuf,
    what: &'static str,
    source: std::io::Error,
}

#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// One writes at a time, so that the last one has the last word.
    writing: Mutex<()>,
}

#[derive(Serialize)]
struct Written {
    version: u32,
    measures: Vec<Measure>,
}

#[derive(Deserialize)]
struct Found {
    version: u32,
    /// Each by itself: one that a newer version wrote does not cost the others.
    measures: Vec<serde_json::Value>,
}

impl File {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            writing: Mutex::new(()),
        }
    }

    /// What is in it; nothing if there is none yet.
    pub(super) fn read(&self) -> Vec<Measure> {
        let found = match self.found() {
            Ok(Some(found)) => found,
            Ok(None) => return Vec::new(),
            Err(problem) => {
                let path = self.path.display();
                error!(target: "spillway::audit", %path, problem, "the measures of the last run cannot be read, and are not in force");
                let aside = durable::beside(&self.path, ".unreadable");
                if let Err(problem) = fs::rename(&self.path, &aside) {
                    warn!(%path, %problem, "nor can the file be put aside");
                }
                return Vec::new();
            }
        };
        let measure = |value| match serde_json::from_value(value) {
            Ok(measure) => Some(measure),
            Err(problem) => {
                let path = self.path.display();
                error!(target: "spillway::audit", %path, %problem, "a measure of the last run is not understood, and not in force");
                None
            }
        };
        found.measures.into_iter().filter_map(measure).collect()
    }

    fn found(&self) -> Result<Option<Found>, String> {
        let mut text = String::new();
        let file = match fs::File::open(&self.path) {
            Ok(file) => file,
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(problem) => return Err(problem.to_string()),
        };
        file.take(LONGEST)
            .read_to_string(&mut text)
            .map_err(|problem| problem.to_string())?;
        let found: Found = serde_json::from_str(&text).map_err(|problem| problem.to_string())?;
        if found.version == VERSION {
            Ok(Some(found))
        } else {
            Err(format!("its version is {}, not {VERSION}", found.version))
        }
    }

    /// Writes what `measures` gives, at once and durably.
    pub(super) fn write(&self, measures: impl FnOnce() -> Vec<Measure>) -> Result<(), FileError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let wrong = |what| {
            let path = self.path.clone();
            move |source| FileError { path, what, source }
        };
        let written = Written {
            version: VERSION,
            measures: measures(),
        };
        let text = serde_json::to_vec_pretty(&written)
            .map_err(|problem| wrong("cannot be put into words")(problem.into()))?;
        durable::replace(&self.path, &text).map_err(|failed| wrong(failed.what)(failed.source))
    }
}
