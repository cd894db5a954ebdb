//! What the server's audit log says about a call.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// The stages of every request, by audit id.
#[derive(Debug, Default)]
pub(super) struct AuditLog(HashMap<String, Map<String, Value>>);

/// Annotations that are there or not by how busy the server is; and one that
/// names one of the bindings that allow a call, whichever is found first.
const BY_CHANCE: [&str; 2] = ["apiserver.latency.k8s.io/", "authorization.k8s.io/reason"];

impl AuditLog {
    /// Reads a log of JSON lines.
    pub(super) fn read(text: &str) -> Self {
        let mut log = Self::default();
        for line in text.lines() {
            let Ok(Value::Object(mut event)) = serde_json::from_str(line) else {
                continue;
            };
            let (Some(Value::String(id)), Some(Value::String(stage))) =
                (event.remove("auditID"), event.remove("stage"))
            else {
                continue;
            };
            if let Some(Value::Object(notes)) = event.get_mut("annotations") {
                notes.retain(|key, _| !BY_CHANCE.iter().any(|chance| key.starts_with(chance)));
            }
            log.0.entry(id).or_default().insert(stage, event.into());
        }
        log
    }

    /// What is said about a request, by stage.
    pub(super) fn about(&self, id: &str) -> Option<Value> {
        self.0.get(id).cloned().map(Value::Object)
    }

    /// Whether all is said about a request.
    pub(super) fn is_complete(&self, id: &str) -> bool {
        self.0.get(id).is_some_and(|stages| {
            stages.contains_key("ResponseComplete") || stages.contains_key("Panic")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_of_a_request_are_put_together() {
        let log = AuditLog::read(
            "{\"auditID\":\"1\",\"stage\":\"RequestReceived\",\"verb\":\"get\"}\n\
             broken\n\
             {\"auditID\":\"1\",\"stage\":\"ResponseComplete\",\"annotations\":\
             {\"apiserver.latency.k8s.io/etcd\":\"1s\",\"kept\":\"1\"}}\n",
        );
        assert!(log.is_complete("1"));
        let about = log.about("1").expect("there");
        assert_eq!(about["RequestReceived"]["verb"], "get");
        let notes = &about["ResponseComplete"]["annotations"];
        assert_eq!(notes, &serde_json::json!({ "kept": "1" }));
        assert_eq!(log.about("2"), None);
    }
}
