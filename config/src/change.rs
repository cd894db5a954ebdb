//! What changes between two configurations, and whether it can be applied live.

use serde_json::Value;

use crate::model::Config;

/// When a changed key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Applies {
    /// With the reload, for requests that arrive afterwards.
    Live,
    /// With the next start: sockets, threads and their bounds are laid out once.
    Restart,
}

/// One key whose value differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Full path, as `admission.limit.max`. Lists are compared as a whole.
    pub key: String,
    /// When it takes effect.
    pub applies: Applies,
}

impl Change {
    /// Every key whose value differs, sorted by key.
    ///
    /// Both sides are compared as the file would write them, so no key of the model can
    /// be forgotten here.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Vec<Self> {
        if old == new {
            return Vec::new();
        }
        let mut changes = Vec::new();
        if let (Ok(old), Ok(new)) = (serde_json::to_value(old), serde_json::to_value(new)) {
            descend("", &old, &new, &mut changes);
        }
        if changes.is_empty() {
            // They differ, but not in a way text can hold (a path that is not UTF-8).
            changes.push(Self::new("pki"));
        }
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        changes
    }

    fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            applies: applies(key),
        }
    }
}

fn applies(key: &str) -> Applies {
    let sections = ["listen.", "admin.", "log."];
    let files = ["admission.state", "admission.measures", "policy.file"];
    if sections.iter().any(|section| key.starts_with(section)) || files.contains(&key) {
        Applies::Restart
    } else {
        Applies::Live
    }
}

fn descend(key: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let added = new.keys().filter(|name| !old.contains_key(*name));
            for name in old.keys().chain(added) {
                let inner = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                let side = |map: &serde_json::Map<String, Value>| {
                    map.get(name).cloned().unwrap_or_default()
                };
                descend(&inner, &side(old), &side(new), changes);
            }
        }
        _ if old != new => changes.push(Change::new(key)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn equal_configurations_do_not_differ() {
        assert_eq!(Change::between(&Config::default(), &Config::default()), []);
    }

    #[test]
    fn tuning_is_live_and_sockets_need_a_restart() {
        let old = Config::default();
        let mut new = old.clone();
        new.admission.limit.max = Duration::from_secs(10);
        new.listen.workers = 4;
        new.reserved.users.push("alice".to_owned());
        new.upstream.request_headers.uid = Some("X-Remote-Uid".to_owned());
        let changes = Change::between(&old, &new);
        let expected = [
            ("admission.limit.max", Applies::Live),
            ("listen.workers", Applies::Restart),
            ("reserved.users", Applies::Live),
            ("upstream.request_headers.uid", Applies::Live),
        ]
        .map(|(key, applies)| Change {
            key: key.to_owned(),
            applies,
        });
        assert_eq!(changes, expected);
    }

    #[cfg(unix)]
    #[test]
    fn a_difference_that_text_cannot_hold_is_still_a_difference() {
        use std::os::unix::ffi::OsStringExt;
        let old = Config::default();
        let mut new = old.clone();
        new.pki = std::ffi::OsString::from_vec(vec![0xff]).into();
        assert!(!Change::between(&old, &new).is_empty());
    }
}
