//! Where values come from: a line of the file, or nothing, which means a default.

use std::collections::BTreeMap;

use crate::report::At;

/// Lines by key. Keys are full paths, as `admission.limit.max`; a list has one line, its elements
/// that are mappings have their own, as `admission.rules[0].name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, u64>);

impl Origins {
    pub(crate) fn note(&mut self, key: &str, at: Option<At>) {
        if let Some(at) = at {
            self.0.entry(key.to_owned()).or_insert(at.line);
        }
    }

    /// The line that `key`, or the first of what is below it, stands on; `None` for a default.
    #[must_use]
    pub fn line(&self, key: &str) -> Option<u64> {
        let below = |other: &str| {
            let rest = other.strip_prefix(key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let found = self.0.range(key.to_owned()..);
        found
            .take_while(|(other, _)| other.starts_with(key))
            .filter(|(other, _)| below(other))
            .map(|(_, line)| *line)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use crate::Config;

    #[test]
    fn every_written_value_has_its_line_and_no_other_has_one() {
        let text = "listen:\n  main: [\"192.0.2.1:6443\"]\nadmission:\n  mode: shadow\n  limit: { max: 10s }\n  \
                    rules:\n    - name: one\n      class: bulk\n      when: { verbs: [list] }\n    - { name: two, class: bulk }\n";
        let (_, origins) = Config::parse_with_origins(text, "test").unwrap();
        for (key, line) in [
            ("listen.main", Some(2)),
            ("admission.mode", Some(4)),
            ("admission.limit.max", Some(5)),
            ("admission.rules[0]", Some(7)),
            ("admission.rules[1]", Some(10)),
            ("admission.limit.min", None),
            ("listen.admin", None),
            ("pki", None),
        ] {
            assert_eq!(origins.line(key), line, "{key}");
        }
    }
}
