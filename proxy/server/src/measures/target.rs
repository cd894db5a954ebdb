//! Whom a measure is about.

use proxy_core::classify::{Condition, Match, PolicyError};
use proxy_core::identity::Identity;
use serde::{Deserialize, Serialize};

/// All that is given must hold. Only `user_agent` and `resource` know patterns, as rules do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Target {
    /// The tenant's name, as the log, the metrics and `/tenants` show it: a user, `system:nodes` for all nodes together,
    /// `anonymous`, `unattributed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<String>,
    /// A node's name: its kubelet, and the pods whose tokens are bound to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    /// Exactly, or a prefix with `*` at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_agent: Option<String>,
    /// As Kubernetes calls it: `list`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verb: Option<String>,
    /// `pods`, `pods/exec`, `deployments.apps`, `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resource: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    /// As rules call it: `all-namespaces`, `unlimited`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shape: Option<String>,
    /// The name of a class. Without it, the most important one is left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) class: Option<String>,
}

impl Target {
    /// What rules can say of it, compiled.
    pub(super) fn condition(&self, id: u64) -> Result<Condition, PolicyError> {
        let list = |value: &Option<String>| value.clone().into_iter().collect::<Vec<_>>();
        let (resource, group) = match &self.resource {
            // A group is written behind the resource, and a subresource behind both.
            Some(resource) => {
                let (whole, subresource) = match resource.split_once('/') {
                    Some((whole, subresource)) => (whole, format!("/{subresource}")),
                    None => (resource.as_str(), String::new()),
                };
                match whole.split_once('.') {
                    Some((name, group)) => {
                        (Some(format!("{name}{subresource}")), Some(group.to_owned()))
                    }
                    None => (Some(resource.clone()), None),
                }
            }
            None => (None, None),
        };
        let when = Match {
            user_agents: list(&self.user_agent),
            verbs: list(&self.verb),
            resources: list(&resource),
            api_groups: list(&group),
            namespaces: list(&self.namespace),
            shapes: list(&self.shape),
            ..Match::default()
        };
        Condition::compile(&format!("measure {id}"), &when)
    }

    /// Whether it is about this caller in this class, the most important one or not.
    pub(super) fn is_of(&self, identity: &Identity, class: &str, most_important: bool) -> bool {
        let class = match &self.class {
            Some(named) => named == class,
            None => !most_important,
        };
        let holds = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        class
            && holds(&self.tenant, Some(identity.tenant_name()))
            && holds(&self.node, identity.node())
    }
}
