//! What an operator changed at run time about the mode, until it expires or is taken back.
//!
//! These changes stand above the configuration and survive its reload; a process that replaces this one takes them over. They
//! survive a restart where a folder is configured (`admission.state`), else a restart returns to the configuration. The last
//! word counts: a change for all classes takes those for single classes back, a later one for a class stands above it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proxy_core::admission::{Mode, Override, Settings};
use proxy_core::classify::Policy;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::kept::{self, KeptError};

/// The file's name in `admission.state`.
const NAME: &str = "mode.json";
const VERSION: u32 = 1;
/// More than all changes there may be can take, in bytes: one for each class.
const LONGEST: u64 = 1 << 20;

/// A mode, as operators write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModeName {
    Off,
    Shadow,
    Enforce,
}

impl ModeName {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Shadow => "shadow",
            Self::Enforce => "enforce",
        }
    }
}

impl From<Mode> for ModeName {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Off => Self::Off,
            Mode::Shadow => Self::Shadow,
            Mode::Enforce => Self::Enforce,
        }
    }
}

impl From<ModeName> for Mode {
    fn from(mode: ModeName) -> Self {
        match mode {
            ModeName::Off => Self::Off,
            ModeName::Shadow => Self::Shadow,
            ModeName::Enforce => Self::Enforce,
        }
    }
}

/// One change in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModeChange {
    /// Which class; `None`: all.
    pub(crate) class: Option<String>,
    pub(crate) mode: ModeName,
    /// For how many of a hundred tenants `enforce` is carried out; `None`: as configured.
    pub(crate) percent: Option<f32>,
    /// Unix seconds; `None`: until it is taken back.
    pub(crate) until: Option<u64>,
    /// Unix seconds.
    pub(crate) since: u64,
    /// Who changed it, as the system knows them.
    pub(crate) by: String,
    pub(crate) reason: Option<String>,
}

/// All changes in force: at most one for all classes, and one per class.
#[derive(Debug, Default)]
pub(crate) struct Overrides {
    changes: Mutex<Vec<ModeChange>>,
    file: Option<PathBuf>,
    /// One writes at a time, so that the last one has the last word.
    writing: Mutex<()>,
}

/// What the file holds.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    changes: Vec<ModeChange>,
}

impl Overrides {
    /// Those that were kept in `folder` and are still in force at `now` (Unix seconds). A file that cannot be understood is
    /// put aside, and the configuration holds.
    pub(crate) fn load(folder: Option<&Path>, now: u64) -> Self {
        let Some(path) = folder.map(|folder| folder.join(NAME)) else {
            return Self::default();
        };
        let found = match kept::read::<Kept>(&path, LONGEST) {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(found)) if found.version == VERSION => Ok(found.changes),
            Ok(Some(found)) => Err(format!("its version is {}, not {VERSION}", found.version)),
            Err(problem) => Err(problem),
        };
        let mut changes = found.unwrap_or_else(|problem| {
            let path_shown = path.display();
            error!(target: "spillway::audit", event = "mode_lost", path = %path_shown, problem,
                   "the changes of the mode of the last run cannot be read, and are not in force");
            if let Err(problem) = kept::put_aside(&path) {
                warn!(path = %path_shown, %problem, "nor can the file be put aside");
            }
            Vec::new()
        });
        expire(&mut changes, now);
        for change in &changes {
            warn!(target: "spillway::audit", event = "mode_goes_on", by = change.by,
                  class = change.class.as_deref().unwrap_or("all"), mode = change.mode.as_str(), percent = change.percent,
                  until = change.until, reason = change.reason, "a change of the mode goes on");
        }
        Self {
            changes: Mutex::new(changes),
            file: Some(path),
            writing: Mutex::default(),
        }
    }

    /// Writes what is in force to the file; `false` if there is none. Blocks on the disk.
    ///
    /// # Errors
    /// [`KeptError`]; what was written before is still there.
    pub(crate) fn save(&self) -> Result<bool, KeptError> {
        let Some(path) = &self.file else {
            return Ok(false);
        };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = Kept {
            version: VERSION,
            changes: self.all(),
        };
        kept::write(path, &kept).map(|()| true)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ModeChange>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds all other changes off while `act` works on them.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Vec<ModeChange>) -> T) -> T {
        act(&mut self.lock())
    }

    pub(crate) fn all(&self) -> Vec<ModeChange> {
        self.lock().clone()
    }
}

/// Puts a change in force.
pub(crate) fn set(changes: &mut Vec<ModeChange>, change: ModeChange) {
    take_back(changes, change.class.as_deref());
    changes.push(change);
}

/// Takes the change of one class back, or all of them; how many there were.
pub(crate) fn take_back(changes: &mut Vec<ModeChange>, class: Option<&str>) -> usize {
    let before = changes.len();
    changes.retain(|change| class.is_some() && change.class.as_deref() != class);
    before - changes.len()
}

/// Takes those back whose time is over at `now` (Unix seconds), and gives them.
pub(crate) fn expire(changes: &mut Vec<ModeChange>, now: u64) -> Vec<ModeChange> {
    changes
        .extract_if(.., |change| change.until.is_some_and(|until| until <= now))
        .collect()
}

/// The settings with every change in force. Those of classes that `policy` does not have wait until it has them.
pub(crate) fn apply(changes: &[ModeChange], settings: &mut Settings, policy: &Policy) {
    let share = |change: &ModeChange, otherwise: f32| {
        change
            .percent
            .map_or(otherwise, |percent| (percent / 100.0).clamp(0.0, 1.0))
    };
    for change in changes.iter().filter(|change| change.class.is_none()) {
        settings.mode = change.mode.into();
        settings.enforced_tenants = share(change, settings.enforced_tenants);
    }
    for change in changes {
        let named = |name: &str| {
            policy
                .classes()
                .iter()
                .position(|class| &*class.name == name)
        };
        let position = change.class.as_deref().and_then(named);
        if let Some(place) = position.and_then(|at| settings.overrides.get_mut(at)) {
            *place = Some(Override {
                mode: change.mode.into(),
                enforced_tenants: share(change, settings.enforced_tenants),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(class: Option<&str>, mode: ModeName, until: Option<u64>) -> ModeChange {
        ModeChange {
            class: class.map(Into::into),
            mode,
            percent: None,
            until,
            since: 0,
            by: "root".into(),
            reason: None,
        }
    }

    fn modes(changes: &[ModeChange]) -> (Mode, Mode) {
        let mut settings = Settings::default();
        apply(changes, &mut settings, &Policy::default_policy());
        (settings.mode_of(0).mode, settings.mode_of(6).mode)
    }

    #[test]
    fn the_last_word_counts() {
        let mut changes = Vec::new();
        set(&mut changes, change(Some("bulk"), ModeName::Shadow, None));
        assert_eq!(modes(&changes), (Mode::Enforce, Mode::Shadow));
        set(&mut changes, change(None, ModeName::Off, None));
        assert_eq!(modes(&changes), (Mode::Off, Mode::Off));
        set(&mut changes, change(Some("bulk"), ModeName::Enforce, None));
        assert_eq!(modes(&changes), (Mode::Off, Mode::Enforce));
        assert_eq!(take_back(&mut changes, Some("bulk")), 1);
        assert_eq!(modes(&changes), (Mode::Off, Mode::Off));
        assert_eq!(take_back(&mut changes, None), 1);
        assert_eq!(modes(&changes), (Mode::Enforce, Mode::Enforce));
    }

    #[test]
    fn a_change_ends_when_it_expires_and_not_before() {
        let mut changes = vec![change(None, ModeName::Off, Some(100))];
        assert!(expire(&mut changes, 99).is_empty());
        assert_eq!(expire(&mut changes, 100).len(), 1);
        assert_eq!(modes(&changes), (Mode::Enforce, Mode::Enforce));
    }

    #[test]
    fn a_change_for_a_class_that_is_gone_changes_nothing_else() {
        let changes = vec![change(Some("gone"), ModeName::Off, None)];
        assert_eq!(modes(&changes), (Mode::Enforce, Mode::Enforce));
    }
}
