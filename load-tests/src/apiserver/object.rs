//! One stored object: encoded once, with the few facts selectors and tables
//! need beside it. Lists, watches and gets share the same bytes.

use bytes::Bytes;
use serde_json::{Map, Value};

/// An immutable version of an object.
#[derive(Debug)]
pub(super) struct Object {
    /// Empty for cluster-scoped objects.
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
    pub(super) uid: Box<str>,
    /// `metadata.resourceVersion`.
    pub(super) version: u64,
    /// `metadata.creationTimestamp` as it is written.
    pub(super) created: u64,
    labels: Box<[(Box<str>, Box<str>)]>,
    node: Option<Box<str>>,
    phase: Option<Box<str>>,
    /// `{"kind":…,"apiVersion":…,"metadata":{…},…}`.
    json: Bytes,
    /// Offset of `"metadata":` in `json`.
    metadata_at: usize,
    /// Offset just after the metadata object.
    metadata_end: usize,
}

/// What an [`Object`] keeps decoded.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) version: u64,
    pub(super) created: u64,
    pub(super) labels: Vec<(String, String)>,
    pub(super) node: Option<String>,
    pub(super) phase: Option<String>,
}

impl Object {
    /// Encodes `value`, whose metadata is complete. `created` is the creation
    /// time in Unix seconds.
    pub(super) fn encode(api_version: &str, kind: &str, value: Value, created: u64) -> Self {
        let mut fields = match value {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        let metadata = fields
            .remove("metadata")
            .unwrap_or_else(|| Value::Object(Map::new()));
        fields.remove("kind");
        fields.remove("apiVersion");
        let text = |name: &str| metadata[name].as_str().unwrap_or("").to_owned();
        let facts = Facts {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            version: text("resourceVersion").parse().unwrap_or(0),
            created,
            labels: metadata["labels"]
                .as_object()
                .map_or_else(Vec::new, |labels| {
                    labels
                        .iter()
                        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or("").to_owned()))
                        .collect()
                }),
            node: pointer(&fields, "spec.nodeName"),
            phase: pointer(&fields, "status.phase"),
        };
        let mut rest = String::new();
        for (key, value) in &fields {
            rest.push_str(&format!(",{}:{value}", Value::from(key.as_str())));
        }
        Self::assemble(api_version, kind, facts, &metadata.to_string(), &rest)
    }

    /// Puts an object together from encoded parts: `metadata` a JSON object,
    /// `rest` the other fields, each with a leading comma.
    pub(super) fn assemble(
        api_version: &str,
        kind: &str,
        facts: Facts,
        metadata: &str,
        rest: &str,
    ) -> Self {
        let mut json = String::with_capacity(64 + metadata.len() + rest.len());
        json.push_str(&format!(
            "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\","
        ));
        let metadata_at = json.len();
        json.push_str("\"metadata\":");
        json.push_str(metadata);
        let metadata_end = json.len();
        json.push_str(rest);
        json.push('}');
        Self {
            namespace: facts.namespace.into(),
            name: facts.name.into(),
            uid: facts.uid.into(),
            version: facts.version,
            created: facts.created,
            labels: facts
                .labels
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
            node: facts.node.map(Into::into),
            phase: facts.phase.map(Into::into),
            json: json.into(),
            metadata_at,
            metadata_end,
        }
    }

    /// The whole object.
    pub(super) fn json(&self) -> &Bytes {
        &self.json
    }

    /// The tail of the object from `"metadata":` on. List items carry no
    /// kind, as in Kubernetes: they are `{` and this.
    pub(super) fn item_tail(&self) -> &[u8] {
        self.json.get(self.metadata_at..).unwrap_or_default()
    }

    /// `"metadata":{…}`.
    pub(super) fn metadata(&self) -> &[u8] {
        self.json
            .get(self.metadata_at..self.metadata_end)
            .unwrap_or_default()
    }

    /// Decodes the object. The bytes are our own encoding; should they not
    /// parse the result is null.
    pub(super) fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or(Value::Null)
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(have, _)| have.as_ref() == key)
            .map(|(_, value)| value.as_ref())
    }

    /// `status.phase`, for tables.
    pub(super) fn phase(&self) -> Option<&str> {
        self.phase.as_deref()
    }

    /// Hands a field's value to `judge`. Fields that are not kept decoded
    /// cost a parse; an absent field is the empty string, as in Kubernetes.
    pub(super) fn field(&self, path: &str, judge: impl FnOnce(Option<&str>) -> bool) -> bool {
        match path {
            "metadata.name" => judge(Some(&self.name)),
            "metadata.namespace" => judge(Some(&self.namespace)),
            "spec.nodeName" => judge(Some(self.node.as_deref().unwrap_or(""))),
            "status.phase" => judge(Some(self.phase.as_deref().unwrap_or(""))),
            _ => match self.value() {
                Value::Object(fields) => judge(Some(&pointer(&fields, path).unwrap_or_default())),
                _ => judge(None),
            },
        }
    }
}

/// A scalar at a dotted path, as text.
fn pointer(fields: &Map<String, Value>, path: &str) -> Option<String> {
    let mut steps = path.split('.');
    let mut at = fields.get(steps.next()?)?;
    for step in steps {
        at = at.get(step)?;
    }
    match at {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(at.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_of_the_encoding_are_valid_json_of_their_own() {
        let object = Object::encode(
            "v1",
            "ConfigMap",
            json!({"kind": "Wrong", "metadata": {"name": "a", "resourceVersion": "7"}, "data": {"k\"": "v"}}),
            0,
        );
        let whole: Value = serde_json::from_slice(object.json()).unwrap();
        assert_eq!(whole["kind"], "ConfigMap");
        assert_eq!(whole["data"]["k\""], "v");
        assert_eq!(object.version, 7);
        let mut item = b"{".to_vec();
        item.extend_from_slice(object.item_tail());
        let item: Value = serde_json::from_slice(&item).unwrap();
        assert_eq!(item.get("kind"), None);
        assert_eq!(item["metadata"]["name"], "a");
        let metadata = [b"{", object.metadata(), b"}"].concat();
        assert_eq!(
            serde_json::from_slice::<Value>(&metadata).unwrap(),
            json!({"metadata": {"name": "a", "resourceVersion": "7"}})
        );
    }
}
