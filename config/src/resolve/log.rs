//! `log`.

use std::path::PathBuf;

use super::Values;
use crate::model::{AccessLog, AuditLog, Format, Level, Log};
use crate::raw::{self, Scalar};
use crate::units::parse_percent;

impl Values<'_, '_> {
    pub(super) fn log(&mut self, raw: &raw::Log) -> Log {
        let (no_access, no_audit) = Default::default();
        Log {
            level: self.choice(
                "log.level",
                raw.level.as_ref(),
                Level::default(),
                &[
                    ("error", Level::Error),
                    ("warn", Level::Warn),
                    ("info", Level::Info),
                    ("debug", Level::Debug),
                    ("trace", Level::Trace),
                ],
            ),
            format: self.choice(
                "log.format",
                raw.format.as_ref(),
                Format::default(),
                &[("json", Format::Json), ("text", Format::Text)],
            ),
            access: self.access_log(raw.access.as_ref().unwrap_or(&no_access)),
            audit: self.audit_log(raw.audit.as_ref().unwrap_or(&no_audit)),
        }
    }

    fn access_log(&mut self, raw: &raw::AccessLog) -> AccessLog {
        let default = AccessLog::default();
        AccessLog {
            file: self.log_file("log.access.file", raw.file.as_ref()),
            sample: self.read(
                "log.access.sample",
                raw.sample.as_ref(),
                default.sample,
                "0% to 100%",
                parse_percent,
            ),
            max_size: self.bytes(
                "log.access.max_size",
                raw.max_size.as_ref(),
                default.max_size,
            ),
            keep: self.number("log.access.keep", raw.keep.as_ref(), default.keep, 0..=100),
        }
    }

    fn audit_log(&mut self, raw: &raw::AuditLog) -> AuditLog {
        let default = AuditLog::default();
        AuditLog {
            file: self.log_file("log.audit.file", raw.file.as_ref()),
            max_size: self.bytes(
                "log.audit.max_size",
                raw.max_size.as_ref(),
                default.max_size,
            ),
            keep: self.number("log.audit.keep", raw.keep.as_ref(), default.keep, 0..=100),
        }
    }

    fn log_file(&mut self, key: &str, value: Option<&Scalar>) -> Option<PathBuf> {
        self.read(
            key,
            value,
            None,
            "an absolute path, or off",
            |text| match text {
                "off" => Ok(None),
                path if path.starts_with('/') => Ok(Some(PathBuf::from(path))),
                "" => Err("the value is empty".to_owned()),
                other => Err(format!("`{other}` is not an absolute path")),
            },
        )
    }
}
