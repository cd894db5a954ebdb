//! The file in which measures survive a restart.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use super::Measure;
use crate::kept::{self, KeptError};

/// More than all measures there may be can take, in bytes.
const LONGEST: u64 = 4 << 20;
const VERSION: u32 = 1;

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
                error!(target: "spillway::audit", event = "measure_lost", %path, problem, "the measures of the last run cannot be read, and are not in force");
                if let Err(problem) = kept::put_aside(&self.path) {
                    warn!(%path, %problem, "nor can the file be put aside");
                }
                return Vec::new();
            }
        };
        let measure = |value| match serde_json::from_value(value) {
            Ok(measure) => Some(measure),
            Err(problem) => {
                let path = self.path.display();
                error!(target: "spillway::audit", event = "measure_lost", %path, %problem, "a measure of the last run is not understood, and not in force");
                None
            }
        };
        found.measures.into_iter().filter_map(measure).collect()
    }

    fn found(&self) -> Result<Option<Found>, String> {
        match kept::read::<Found>(&self.path, LONGEST)? {
            Some(found) if found.version != VERSION => {
                Err(format!("its version is {}, not {VERSION}", found.version))
            }
            found => Ok(found),
        }
    }

    /// Writes what `measures` gives, at once and durably.
    pub(super) fn write(&self, measures: impl FnOnce() -> Vec<Measure>) -> Result<(), KeptError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let written = Written {
            version: VERSION,
            measures: measures(),
        };
        kept::write(&self.path, &written)
    }
}
