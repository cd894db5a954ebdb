//! Many objects at once, without going through JSON values.

use std::fmt::Write as _;

use super::clock;
use super::object::{Facts, Object};
use super::request::{Query, Target};
use super::resources::{self, Resource};
use super::status::ApiError;
use super::store::Store;
use super::write::Write;

/// Nodes that seeded pods are spread over, when there are none.
const NODES: usize = 100;

/// Creates `count` objects named `<singular>-<i>` of about `bytes` each,
/// round-robin over `namespaces`, which are made where missing.
pub(super) fn seed(
    store: &Store,
    resource: &'static Resource,
    namespaces: &[&str],
    count: usize,
    bytes: usize,
) -> Result<(), ApiError> {
    for namespace in namespaces {
        namespace_exists(store, namespace)?;
    }
    let nodes = resources::by_plural("nodes")
        .and_then(|nodes| usize::try_from(store.size(nodes, None).0).ok())
        .filter(|&nodes| nodes > 0)
        .unwrap_or(NODES);
    let created = clock::unix_now();
    let timestamp = clock::rfc3339(created);
    let api_version = resource.api_version();
    for i in 0..count {
        let namespace = match namespaces.get(i % namespaces.len().max(1)) {
            Some(namespace) if resource.namespaced => *namespace,
            None if resource.namespaced => "default",
            _ => "",
        };
        let name = format!("{}-{i}", resource.singular);
        let node = (resource.plural == "pods").then(|| format!("node-{}", i % nodes));
        store.create(resource, namespace, &name, |version| {
            let facts = Facts {
                namespace: namespace.to_owned(),
                uid: clock::uuid(),
                version,
                created,
                labels: vec![
                    ("app".to_owned(), format!("app-{}", i % 20)),
                    ("seeded".to_owned(), "true".to_owned()),
                ],
                node,
                phase: match resource.plural {
                    "pods" => Some("Running".to_owned()),
                    "namespaces" => Some("Active".to_owned()),
                    _ => None,
                },
                name: name.clone(),
            };
            build(resource, &api_version, facts, &timestamp, bytes)
        })?;
    }
    Ok(())
}

fn build(
    resource: &Resource,
    api_version: &str,
    facts: Facts,
    timestamp: &str,
    bytes: usize,
) -> Object {
    let mut metadata = format!("{{\"name\":\"{}\"", facts.name);
    // Writing to a string does not fail.
    if resource.namespaced {
        let _ = write!(metadata, ",\"namespace\":\"{}\"", facts.namespace);
    }
    let _ = write!(
        metadata,
        ",\"uid\":\"{}\",\"resourceVersion\":\"{}\",\"creationTimestamp\":\"{timestamp}\",\"labels\":{{",
        facts.uid, facts.version
    );
    for (i, (key, value)) in facts.labels.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(metadata, "{comma}\"{key}\":\"{value}\"");
    }
    metadata.push_str("}}");
    let (open, close) = body(resource, &facts);
    let used = metadata.len() + open.len() + close.len() + 64;
    let padding = "x".repeat(bytes.saturating_sub(used));
    Object::assemble(
        api_version,
        resource.kind,
        facts,
        &metadata,
        &format!("{open}{padding}{close}"),
    )
}

/// The fields around the padding.
fn body(resource: &Resource, facts: &Facts) -> (String, String) {
    let phase = facts.phase.as_deref().unwrap_or("");
    match resource.plural {
        "pods" => (
            format!(
                ",\"spec\":{{\"nodeName\":\"{}\",\"serviceAccountName\":\"default\",\"containers\":[{{\"name\":\"main\",\"image\":\"registry.example/app:1\",\"env\":[{{\"name\":\"PADDING\",\"value\":\"",
                facts.node.as_deref().unwrap_or("")
            ),
            format!("\"}}]}}]}},\"status\":{{\"phase\":\"{phase}\"}}"),
        ),
        "nodes" => (
            ",\"spec\":{\"providerID\":\"".to_owned(),
            "\"},\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}".to_owned(),
        ),
        "leases" => (
            ",\"spec\":{\"leaseDurationSeconds\":40,\"holderIdentity\":\"".to_owned(),
            "\"}".to_owned(),
        ),
        "configmaps" | "secrets" => (",\"data\":{\"padding\":\"".to_owned(), "\"}".to_owned()),
        "namespaces" => (
            ",\"spec\":{\"finalizers\":[\"kubernetes\"]},\"status\":{\"phase\":\"Active\",\"padding\":\"".to_owned(),
            "\"}".to_owned(),
        ),
        _ => (",\"spec\":{\"padding\":\"".to_owned(), "\"}".to_owned()),
    }
}

/// Creates a namespace unless it exists.
pub(super) fn namespace_exists(store: &Store, name: &str) -> Result<(), ApiError> {
    let resource = resources::by_plural("namespaces").ok_or_else(ApiError::no_such_path)?;
    let write = Write {
        store,
        resource,
        target: &Target::default(),
        query: &Query::default(),
    };
    let body = serde_json::json!({"metadata": {"name": name}}).to_string();
    match write.create(body.as_bytes()) {
        Err(error) if error.reason != "AlreadyExists" => Err(error),
        _ => Ok(()),
    }
}
