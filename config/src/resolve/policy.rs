//! `policy`: where policies come from and what guards a new one.

use std::path::PathBuf;
use std::time::Duration;

use super::Values;
use crate::Percent;
use crate::limits::namespace;
use crate::model::{Class, DEFAULT_CLASSES, FromCluster, Guard, Policies};
use crate::raw::{self, at};
use crate::rules::known_class;
use crate::units::parse_percent;

/// The classes in their order.
pub(crate) fn in_order(classes: &[Class]) -> Vec<&str> {
    match classes {
        [] => DEFAULT_CLASSES.to_vec(),
        classes => classes.iter().map(|class| class.name.as_str()).collect(),
    }
}

impl Values<'_, '_> {
    pub(super) fn policies(&mut self, raw: &raw::Policies, classes: &[Class]) -> Policies {
        let known = in_order(classes);
        let no_guard = raw::Guard::default();
        let highest = raw.highest_class.as_ref().and_then(|class| {
            let allowed = known.get(1..).unwrap_or_default();
            known_class(self, "policy.highest_class", class, allowed)
        });
        let from_cluster = raw
            .from_cluster
            .as_ref()
            .map(|source| self.cluster(&source.value));
        if let (Some(source), None) = (&raw.from_cluster, &raw.file) {
            self.problems.add(
                at(&source.referenced),
                "policy.from_cluster without policy.file: an outage of the API would lose the policy",
                "policy.file, as /var/lib/spillway/policy.json",
            );
        }
        Policies {
            file: raw
                .file
                .as_ref()
                .map(|path| self.path("policy.file", Some(path), PathBuf::new())),
            highest_class: highest,
            guard: self.guard(raw.guard.as_ref().unwrap_or(&no_guard), &known),
            from_cluster,
        }
    }

    fn guard(&mut self, raw: &raw::Guard, known: &[&str]) -> Guard {
        let default = Guard::default();
        Guard {
            classes: self.list(
                "policy.guard.classes",
                raw.classes.as_ref(),
                &known.join(", "),
                |text| match known.contains(&text) {
                    true => Ok(text.to_owned()),
                    false => Err(super::unknown(text, known)),
                },
            ),
            tolerance: self.read(
                "policy.guard.tolerance",
                raw.tolerance.as_ref(),
                default.tolerance,
                "0.1% to 50%",
                |text| {
                    let range = Percent::from_basis_points(10)..=Percent::from_basis_points(5000);
                    let percent = parse_percent(text)?;
                    match range.contains(&percent) {
                        true => Ok(percent),
                        false => Err(format!("`{text}` is out of range")),
                    }
                },
            ),
            watch: self.duration(
                "policy.guard.watch",
                raw.watch.as_ref(),
                default.watch,
                Duration::from_secs(60)..=Duration::from_secs(24 * 3600),
            ),
        }
    }

    fn cluster(&mut self, raw: &raw::FromCluster) -> FromCluster {
        let default = FromCluster::default();
        FromCluster {
            namespace: self.read(
                "policy.from_cluster.namespace",
                raw.namespace.as_ref(),
                default.namespace,
                "the name of a namespace, as kube-system",
                namespace,
            ),
            name: self.read(
                "policy.from_cluster.name",
                raw.name.as_ref(),
                default.name,
                "the name of a ConfigMap, as spillway-policy",
                config_map,
            ),
        }
    }
}

/// A DNS subdomain, as kube-apiserver wants a ConfigMap to be called.
fn config_map(text: &str) -> Result<String, String> {
    let sound = text.len() <= 253
        && text.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        });
    match sound {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is not the name of a ConfigMap")),
    }
}
