//! `log`: what is told of the process and of requests, and where.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use super::operators::or_off;
use crate::units::{ByteSize, Percent};

/// `log`: what is written to standard error, and the files of who did what. Changes need a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Log {
    /// `level`: the least serious level written to standard error. Default info.
    pub level: Level,
    /// `format`: of standard error; default json. The files are JSON lines, always.
    pub format: Format,
    /// `access`: a file with a line for each finished request.
    pub access: AccessLog,
    /// `audit`: a file with a line for each use of the reserved lane and each change an operator made.
    pub audit: AuditLog,
}

/// `log.access`: a line for each finished request. Lines are dropped and counted rather than anything waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct AccessLog {
    /// `file`: a path; `off` = none. Default off.
    #[serde(serialize_with = "or_off")]
    #[schemars(with = "String")]
    pub file: Option<PathBuf>,
    /// `sample`: how many of the requests of the main lane that were served are written, by chance. Default 100%.
    ///
    /// Refused and failed ones, and those of the reserved lane, are written always.
    pub sample: Percent,
    /// `max_size`: a file that would grow beyond is renamed to `file.1` and begun anew, 1MiB..=1TiB. Default 100MiB.
    pub max_size: ByteSize,
    /// `keep`: renamed files kept, 0..=100; the oldest goes. Default 5.
    #[schemars(range(min = 0, max = 100))]
    pub keep: u32,
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            file: None,
            sample: Percent::from_basis_points(10_000),
            max_size: ByteSize::mebibytes(100),
            keep: 5,
        }
    }
}

/// `log.audit`: uses of the reserved lane and operators' changes. They are on standard error besides, as `log.level` says;
/// what the file does not take is there whatever the level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct AuditLog {
    /// `file`: a path; `off` = none. Default off.
    #[serde(serialize_with = "or_off")]
    #[schemars(with = "String")]
    pub file: Option<PathBuf>,
    /// `max_size`: a file that would grow beyond is renamed to `file.1` and begun anew, 1MiB..=1TiB. Default 100MiB.
    pub max_size: ByteSize,
    /// `keep`: renamed files kept, 0..=100; the oldest goes. Default 20.
    #[schemars(range(min = 0, max = 100))]
    pub keep: u32,
}

impl Default for AuditLog {
    fn default() -> Self {
        Self {
            file: None,
            max_size: ByteSize::mebibytes(100),
            keep: 20,
        }
    }
}

/// `log.level`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What an operator must act on.
    Error,
    /// What an operator should know.
    Warn,
    /// Starts, stops, reloads, mode changes.
    #[default]
    Info,
    /// One line per decision.
    Debug,
    /// Everything.
    Trace,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Json,
    /// One line of text for people.
    Text,
}
