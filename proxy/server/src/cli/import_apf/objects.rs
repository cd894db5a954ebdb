//! The objects as Kubernetes writes them (flowcontrol.apiserver.k8s.io/v1), as far as they matter here.

use serde::Deserialize;
use serde_json::Value;

/// A FlowSchema.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct FlowSchema {
    pub(super) metadata: Metadata,
    pub(super) spec: SchemaSpec,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Metadata {
    pub(super) name: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SchemaSpec {
    pub(super) priority_level_configuration: Metadata,
    #[serde(default = "default_precedence")]
    pub(super) matching_precedence: i64,
    #[serde(default)]
    pub(super) rules: Vec<PolicyRules>,
}

const fn default_precedence() -> i64 {
    1_000
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PolicyRules {
    pub(super) subjects: Vec<Subject>,
    pub(super) resource_rules: Vec<ResourceRule>,
    pub(super) non_resource_rules: Vec<NonResourceRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Subject {
    pub(super) user: Option<Metadata>,
    pub(super) group: Option<Metadata>,
    pub(super) service_account: Option<Account>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Account {
    pub(super) namespace: String,
    pub(super) name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ResourceRule {
    pub(super) verbs: Vec<String>,
    pub(super) api_groups: Vec<String>,
    pub(super) resources: Vec<String>,
    pub(super) cluster_scope: bool,
    pub(super) namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct NonResourceRule {
    pub(super) verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub(super) urls: Vec<String>,
}

/// A PriorityLevelConfiguration.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Level {
    pub(super) metadata: Metadata,
    pub(super) spec: LevelSpec,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct LevelSpec {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) limited: Option<Limited>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Limited {
    pub(super) nominal_concurrency_shares: Option<f64>,
    #[serde(default)]
    pub(super) lendable_percent: f64,
}

/// All that was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    pub(super) schemas: Vec<FlowSchema>,
    pub(super) levels: Vec<Level>,
}

impl Objects {
    pub(super) fn is_empty(&self) -> bool {
        self.schemas.is_empty() && self.levels.is_empty()
    }

    /// Adds what is in a text of YAML or JSON documents, lists included; other kinds are passed over.
    ///
    /// # Errors
    /// A text about what could not be read.
    pub(super) fn add(&mut self, text: &str) -> Result<(), String> {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|problem| problem.to_string())?;
        documents
            .into_iter()
            .try_for_each(|document| self.object(document))
    }

    fn object(&mut self, mut object: Value) -> Result<(), String> {
        if let Some(Value::Array(items)) = object.get_mut("items").map(Value::take) {
            // The API's own lists do not repeat the kind in each item, as kubectl's do.
            let list = object
                .get("kind")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let kind = list.strip_suffix("List").unwrap_or_default();
            return items.into_iter().try_for_each(|mut item| {
                if let Some(item) = item.as_object_mut() {
                    item.entry("kind").or_insert_with(|| kind.into());
                }
                self.object(item)
            });
        }
        let kind = object
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        let what = format!("{kind} {}", name.unwrap_or("without a name"));
        let wrong = |problem: serde_json::Error| format!("{what}: {problem}");
        match kind {
            "FlowSchema" => self
                .schemas
                .push(serde_json::from_value(object).map_err(wrong)?),
            "PriorityLevelConfiguration" => {
                self.levels
                    .push(serde_json::from_value(object).map_err(wrong)?);
            }
            _ => {}
        }
        Ok(())
    }
}
