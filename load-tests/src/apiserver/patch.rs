//! The four kinds of PATCH, each as small as `kubectl` and controllers need.

use serde_json::{Map, Value};

use super::status::ApiError;

/// How a patch body is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PatchType {
    /// RFC 7386.
    Merge,
    /// Merge, but lists of named objects merge by their key.
    Strategic,
    /// RFC 6902: add, remove, replace and test.
    Json,
    /// Server-side apply: merges like [`Self::Strategic`], creates what is
    /// missing, and keeps no field managers.
    Apply,
}

impl PatchType {
    /// From the content type; `None` for anything else.
    pub(super) fn from_content_type(text: &str) -> Option<Self> {
        match text.split(';').next().map(str::trim) {
            Some("application/merge-patch+json") => Some(Self::Merge),
            Some("application/strategic-merge-patch+json") => Some(Self::Strategic),
            Some("application/json-patch+json") => Some(Self::Json),
            Some("application/apply-patch+yaml") => Some(Self::Apply),
            _ => None,
        }
    }
}

/// Applies `patch` to `object`; 422 for a JSON patch that does not fit.
pub(super) fn apply(kind: PatchType, object: &mut Value, patch: Value) -> Result<(), ApiError> {
    match kind {
        PatchType::Merge => merge(object, patch),
        PatchType::Strategic | PatchType::Apply => strategic(object, patch),
        PatchType::Json => json_patch(object, patch)?,
    }
    Ok(())
}

fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    with_map(target, |target| {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(&key);
            } else {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
    });
}

fn strategic(target: &mut Value, patch: Value) {
    let Value::Object(mut patch) = patch else {
        *target = patch;
        return;
    };
    if patch
        .remove("$patch")
        .is_some_and(|directive| directive == "replace")
    {
        *target = Value::Object(patch);
        return;
    }
    with_map(target, |target| strategic_fields(target, patch));
}

fn strategic_fields(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(have)), Value::Array(gone)) = (target.get_mut(field), value) {
                have.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if key.starts_with('$') {
            // Ordering and retention hints: the result is right without.
            continue;
        }
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Array(items) => {
                let merge_key = merge_key(&key, &items);
                let have = target.entry(key).or_insert(Value::Null);
                match (merge_key, have) {
                    (Some(merge_key), Value::Array(have)) => merge_list(have, items, merge_key),
                    (_, have) => {
                        *have = Value::Array(items.into_iter().filter(|i| !deletes(i)).collect());
                    }
                }
            }
            value => strategic(target.entry(key).or_insert(Value::Null), value),
        }
    }
}

/// The field that tells a list's items apart, where Kubernetes' types declare
/// one and every patched item has it.
fn merge_key(field: &str, items: &[Value]) -> Option<&'static str> {
    let candidate = match field {
        "conditions" => "type",
        "ownerReferences" => "uid",
        "ports" if items.iter().all(|item| item["containerPort"].is_number()) => "containerPort",
        "ports" => "port",
        "volumeMounts" => "mountPath",
        "addresses" => "type",
        "tolerations" | "args" | "command" | "finalizers" => return None,
        _ => "name",
    };
    items
        .iter()
        .all(|item| item.get(candidate).is_some())
        .then_some(candidate)
}

fn deletes(item: &Value) -> bool {
    item["$patch"] == "delete"
}

fn merge_list(have: &mut Vec<Value>, items: Vec<Value>, key: &str) {
    for item in items {
        let at = have.iter().position(|other| other[key] == item[key]);
        match at {
            Some(at) if deletes(&item) => {
                have.remove(at);
            }
            Some(at) => {
                if let Some(slot) = have.get_mut(at) {
                    strategic(slot, item);
                }
            }
            None if deletes(&item) => {}
            None => have.push(item),
        }
    }
}

fn json_patch(object: &mut Value, patch: Value) -> Result<(), ApiError> {
    let Value::Array(operations) = patch else {
        return Err(ApiError::bad_request(
            "a JSON patch is an array of operations",
        ));
    };
    for operation in operations {
        let path = operation["path"].as_str().unwrap_or("");
        step(
            object,
            operation["op"].as_str().unwrap_or(""),
            path,
            &operation["value"],
        )
        .ok_or_else(|| {
            ApiError::invalid("", "", &format!("the operation {operation} does not apply"))
        })?;
    }
    Ok(())
}

fn step(object: &mut Value, op: &str, path: &str, value: &Value) -> Option<()> {
    if op == "test" {
        return (object.pointer(path)? == value).then_some(());
    }
    let (parent, last) = path.rsplit_once('/')?;
    let last = last.replace("~1", "/").replace("~0", "~");
    match object.pointer_mut(parent)? {
        Value::Object(fields) => match op {
            "add" => {
                fields.insert(last, value.clone());
            }
            "replace" => *fields.get_mut(&last)? = value.clone(),
            "remove" => {
                fields.remove(&last)?;
            }
            _ => return None,
        },
        Value::Array(items) => match (op, last.as_str()) {
            ("add", "-") => items.push(value.clone()),
            (op, index) => {
                let index: usize = index.parse().ok()?;
                match op {
                    "add" if index <= items.len() => items.insert(index, value.clone()),
                    "replace" => *items.get_mut(index)? = value.clone(),
                    "remove" if index < items.len() => {
                        items.remove(index);
                    }
                    _ => return None,
                }
            }
        },
        _ => return None,
    }
    Some(())
}

/// Hands out the value's map, after making it one if it is something else.
fn with_map(value: &mut Value, act: impl FnOnce(&mut Map<String, Value>)) {
    let mut fields = match value.take() {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    act(&mut fields);
    *value = Value::Object(fields);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(kind: PatchType, mut object: Value, patch: Value) -> Value {
        apply(kind, &mut object, patch).unwrap();
        object
    }

    #[test]
    fn merge_patch_replaces_lists_and_removes_nulls() {
        assert_eq!(
            patched(
                PatchType::Merge,
                json!({"a": {"b": 1, "c": 2}, "l": [1, 2]}),
                json!({"a": {"b": null, "d": {"e": null, "f": 1}}, "l": [3]}),
            ),
            json!({"a": {"c": 2, "d": {"f": 1}}, "l": [3]})
        );
    }

    #[test]
    fn strategic_patch_merges_lists_by_their_key() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}],
                "containers": [{"name": "a", "image": "2"}, {"name": "b", "$patch": "delete"}, {"name": "c"}]},
            "status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        assert_eq!(
            patched(PatchType::Strategic, pod, patch),
            json!({"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "c"}]},
                "status": {"conditions": [{"type": "Ready", "status": "False"}]}})
        );
        assert_eq!(
            patched(
                PatchType::Strategic,
                json!({"args": ["x"], "f": ["p", "q"]}),
                json!({"args": ["y"], "$deleteFromPrimitiveList/f": ["p"]})
            ),
            json!({"args": ["y"], "f": ["q"]})
        );
    }

    #[test]
    fn json_patch_applies_or_is_refused() {
        assert_eq!(
            patched(
                PatchType::Json,
                json!({"a": {"x/y": 1}, "l": [1]}),
                json!([
                    {"op": "test", "path": "/a/x~1y", "value": 1},
                    {"op": "replace", "path": "/a/x~1y", "value": 2},
                    {"op": "add", "path": "/l/-", "value": 2},
                    {"op": "remove", "path": "/l/0"},
                ])
            ),
            json!({"a": {"x/y": 2}, "l": [2]})
        );
        let mut object = json!({"a": 1});
        for bad in [
            json!([{"op": "remove", "path": "/b"}]),
            json!([{"op": "test", "path": "/a", "value": 2}]),
            json!([{"op": "add", "path": "", "value": 2}]),
            json!({}),
        ] {
            assert!(apply(PatchType::Json, &mut object, bad).is_err());
        }
    }
}
