//! Discovery, version and the little OpenAPI that `kubectl apply` reads.

use serde_json::{Value, json};

use super::resources::{self, RESOURCES, Resource, api_version};
use super::respond::{self, Reply};

const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers a path outside the resource grammar, if it is one of these.
pub(super) fn answer(path: &str, accept: Option<&str>) -> Option<Reply> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let aggregated = accept.is_some_and(|accept| {
        accept
            .split(',')
            .any(|range| range.contains("as=APIGroupDiscoveryList") && range.contains("v=v2;"))
    });
    match parts.as_slice() {
        ["version"] => Some(respond::value(200, &version())),
        ["api"] if aggregated => Some(respond::typed(AGGREGATED, &group_list(&[""]))),
        ["apis"] if aggregated => Some(respond::typed(
            AGGREGATED,
            &group_list(&resources::groups()),
        )),
        ["api"] => Some(respond::value(
            200,
            &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        )),
        ["apis"] => {
            let groups: Vec<_> = resources::groups().into_iter().map(group).collect();
            Some(respond::value(
                200,
                &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}),
            ))
        }
        ["apis", name] if resources::groups().contains(name) => {
            let mut group = group(name);
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            Some(respond::value(200, &group))
        }
        ["api", "v1"] => Some(respond::value(200, &resource_list(""))),
        ["apis", name, "v1"] if resources::groups().contains(name) => {
            Some(respond::value(200, &resource_list(name)))
        }
        ["openapi", "v3"] => Some(respond::value(200, &openapi_index())),
        ["openapi", "v3", "api", "v1"] => Some(respond::value(200, &openapi(""))),
        ["openapi", "v3", "apis", name, "v1"] if resources::groups().contains(name) => {
            Some(respond::value(200, &openapi(name)))
        }
        _ => None,
    }
}

/// Whether anonymous callers may read the path, besides health.
pub(super) fn is_discovery(path: &str) -> bool {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    matches!(
        parts.as_slice(),
        ["version" | "api" | "apis"] | ["api" | "apis", _] | ["apis", _, _] | ["openapi", ..]
    )
}

fn version() -> Value {
    json!({
        "major": "1",
        "minor": "36",
        "gitVersion": "v1.36.0-model",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "model",
    })
}

fn of_group(group: &str) -> impl Iterator<Item = &'static Resource> {
    RESOURCES
        .iter()
        .filter(move |resource| resource.group == group)
}

fn verbs(resource: &Resource) -> Value {
    if resource.virtual_only {
        json!(["create"])
    } else {
        json!(VERBS)
    }
}

/// Subresources: name, kind, group and verbs.
fn subresources(resource: &Resource) -> Vec<(&'static str, &'static str, &'static str, Value)> {
    let mut found = Vec::new();
    if resource.status {
        found.push((
            "status",
            resource.kind,
            resource.group,
            json!(["get", "patch", "update"]),
        ));
    }
    if resource.plural == "serviceaccounts" {
        found.push((
            "token",
            "TokenRequest",
            "authentication.k8s.io",
            json!(["create"]),
        ));
    }
    found
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn resource_list(group: &str) -> Value {
    let mut found = Vec::new();
    for resource in of_group(group) {
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": verbs(resource),
            "shortNames": resource.short,
        });
        if resource.in_all {
            entry["categories"] = json!(["all"]);
        }
        found.push(entry);
        for (name, kind, subgroup, verbs) in subresources(resource) {
            found.push(json!({
                "name": format!("{}/{name}", resource.plural),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": kind,
                "group": subgroup,
                "version": "v1",
                "verbs": verbs,
            }));
        }
    }
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, "v1"),
        "resources": found,
    })
}

/// Aggregated discovery, `apidiscovery.k8s.io/v2`.
fn group_list(groups: &[&str]) -> Value {
    let kind = |group: &str, kind: &str| json!({"group": group, "version": "v1", "kind": kind});
    let items: Vec<_> = groups
        .iter()
        .map(|group| {
            let resources: Vec<_> = of_group(group)
                .map(|resource| {
                    let mut entry = json!({
                        "resource": resource.plural,
                        "responseKind": kind(resource.group, resource.kind),
                        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
                        "singularResource": resource.singular,
                        "verbs": verbs(resource),
                        "shortNames": resource.short,
                    });
                    if resource.in_all {
                        entry["categories"] = json!(["all"]);
                    }
                    let subresources: Vec<_> = subresources(resource)
                        .into_iter()
                        .map(|(name, subkind, subgroup, verbs)| {
                            json!({
                                "subresource": name,
                                "responseKind": kind(subgroup, subkind),
                                "verbs": verbs,
                            })
                        })
                        .collect();
                    if !subresources.is_empty() {
                        entry["subresources"] = json!(subresources);
                    }
                    entry
                })
                .collect();
            json!({
                "metadata": {"name": group},
                "versions": [{"version": "v1", "freshness": "Current", "resources": resources}],
            })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn prefix(group: &str) -> String {
    if group.is_empty() {
        "api/v1".to_owned()
    } else {
        format!("apis/{group}/v1")
    }
}

fn openapi_index() -> Value {
    let paths: serde_json::Map<String, Value> = std::iter::once("")
        .chain(resources::groups())
        .map(|group| {
            let path = prefix(group);
            let url = format!("/openapi/v3/{path}?hash=model");
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// Only what `kubectl` looks for: that PATCH and POST know `fieldValidation`,
/// so that it leaves validation to the server.
fn openapi(group: &str) -> Value {
    let parameters = json!([
        {"name": "dryRun", "in": "query", "schema": {"type": "string"}},
        {"name": "fieldManager", "in": "query", "schema": {"type": "string"}},
        {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}},
    ]);
    let mut paths = serde_json::Map::new();
    let mut schemas = serde_json::Map::new();
    for resource in of_group(group).filter(|resource| !resource.virtual_only) {
        let kind = json!({"group": group, "version": "v1", "kind": resource.kind});
        let operation = |action: &str| {
            json!({
                "parameters": parameters,
                "responses": {"200": {"description": "OK"}},
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": kind,
            })
        };
        let scope = if resource.namespaced {
            "namespaces/{namespace}/"
        } else {
            ""
        };
        let base = format!("/{}/{scope}{}", prefix(group), resource.plural);
        paths.insert(base.clone(), json!({"post": operation("post")}));
        paths.insert(
            format!("{base}/{{name}}"),
            json!({"put": operation("put"), "patch": operation("patch")}),
        );
        schemas.insert(
            format!(
                "io.k8s.api.{}.v1.{}",
                group
                    .split('.')
                    .next()
                    .filter(|g| !g.is_empty())
                    .unwrap_or("core"),
                resource.kind
            ),
            json!({
                "type": "object",
                "x-kubernetes-group-version-kind": [kind],
            }),
        );
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0-model"},
        "paths": paths,
        "components": {"schemas": schemas},
    })
}
