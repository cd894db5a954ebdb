//! `policy`: where policies beside the configuration come from, and what guards a new one; and such a policy itself.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::{HardLimit, Rule};
use crate::units::{DurationText, Percent, serialize_duration};

/// `policy`: policies that are staged or delivered beside this file (`docs/policies.md`).
///
/// Such a policy has rules and limits, which stand behind those of this file and before the
/// built-in rules. It can touch nothing else, and never the most important class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Policies {
    /// `policy.file`: where the last good copy is kept, with what is staged; it survives a restart
    /// also while the API is down. Required with `from_cluster`. Default none.
    pub file: Option<PathBuf>,
    /// `policy.highest_class`: the most important class that such a policy may lead to.
    /// Default: the second of the classes, and never the first.
    pub highest_class: Option<String>,
    /// `policy.guard`: when a new policy is given up by itself.
    pub guard: Guard,
    /// `policy.from_cluster`: a ConfigMap that is watched for policies. Default none.
    pub from_cluster: Option<FromCluster>,
}

/// `policy.guard`: a new policy is given up, and the old one is in force again, when more requests
/// of these classes are refused or fail under it than under the old one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Guard {
    /// `classes`: the classes that count, as the old policy assigns them. Default: the first three.
    pub classes: Vec<String>,
    /// `tolerance`: so much more of their requests may be refused or fail, as a share of all of
    /// them, 0.1% to 50%. Default 1%.
    pub tolerance: Percent,
    /// `watch`: for how long a new policy is watched when all tenants are judged by it,
    /// 1m..=24h. Default 15m.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub watch: Duration,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            classes: Vec::new(),
            tolerance: Percent::from_basis_points(100),
            watch: Duration::from_secs(15 * 60),
        }
    }
}

/// `policy.from_cluster`: a ConfigMap with the keys `policy.yaml`, and `candidate.yaml` and `stage`
/// for a new policy; read as user `system:spillway`, who must be allowed to (`deploy/rbac.yaml`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct FromCluster {
    /// `namespace`: where the ConfigMap lies. Default `kube-system`.
    #[schemars(default)]
    pub namespace: String,
    /// `name`: what it is called. Default `spillway-policy`.
    #[schemars(default)]
    pub name: String,
}

impl Default for FromCluster {
    fn default() -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: "spillway-policy".to_owned(),
        }
    }
}

/// A policy as it is staged or delivered: what it adds to the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct PolicyDocument {
    /// `rules`: tried behind those of the configuration and before the built-in ones, except
    /// those of `life-signs`.
    pub rules: Vec<Rule>,
    /// `limits`: hard limits beside those of the configuration.
    pub limits: Vec<HardLimit>,
}
