//! What is read: made once, and changed by nobody.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::who::NODE;
use crate::control_plane::{ApiClient, ControlPlane};

/// The namespace of the objects that nobody changes.
pub(super) const FIXTURES: &str = "fixtures";
/// Above this many bytes the server packs answers for clients that can unpack
/// them (`DeferredResponseWriter`, 128 KiB).
const PACKED_FROM: usize = 128 << 10;
/// Etcd takes requests of at most 1.5 MiB.
pub(super) const LARGE: usize = 1 << 20;

/// Creates all of it.
pub(super) async fn create(plane: &ControlPlane, admin: &ApiClient) -> anyhow::Result<()> {
    plane.run_pod(FIXTURES, "pod", NODE).await?;
    let core = format!("/api/v1/namespaces/{FIXTURES}");
    for number in 0..7 {
        let name = format!("map-{number}");
        let data = json!({ "number": number.to_string(), "words": "naïve ☂ <&> \u{2028}" });
        let labels = json!({ "parity": if number % 2 == 0 { "even" } else { "odd" } });
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": { "name": name, "labels": labels, "annotations": { "note": "ü" } },
        });
        made(admin, &format!("{core}/configmaps"), &map).await?;
    }
    for (name, size) in [("packed", PACKED_FROM * 2), ("large", LARGE - 4096)] {
        let text = "0123456789abcdef ".repeat(size / 17);
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": { "text": text },
            "metadata": { "name": name },
        });
        made(admin, &format!("{core}/configmaps"), &map).await?;
    }
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "secret" },
        "stringData": { "word": "swordfish" },
    });
    made(admin, &format!("{core}/secrets"), &secret).await?;
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "robot" },
    });
    made(admin, &format!("{core}/serviceaccounts"), &account).await?;
    let path = format!("/apis/apps/v1/namespaces/{FIXTURES}/deployments");
    made(admin, &path, &deployment("web")).await?;
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    made(admin, path, &definition()).await?;
    widgets_are_served(admin).await
}

/// A Deployment that nothing will ever run.
pub(super) fn deployment(name: &str) -> Value {
    let labels = json!({ "app": name });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [{ "name": "main", "image": "registry.invalid/main:1" }] },
            },
        },
    })
}

async fn made(admin: &ApiClient, path: &str, object: &Value) -> anyhow::Result<()> {
    let action = format!("creating {} at {path}", object["metadata"]["name"]);
    admin.post(path, object).await?.accept(&action, &[])?;
    Ok(())
}

/// A kind of its own with status, scale, a column and a rule for its values.
fn definition() -> Value {
    let versions = ["v1", "v2"].map(|name| {
        json!({
                "name": name,
                "served": true,
                "storage": name == "v1",
                "subresources": {
                    "status": {},
                    "scale": { "specReplicasPath": ".spec.count", "statusReplicasPath": ".status.count" },
                },
                "additionalPrinterColumns": [
                    { "name": "Count", "type": "integer", "jsonPath": ".spec.count" },
                ],
                "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                    "spec": { "type": "object", "properties": {
                        "count": { "type": "integer", "minimum": 0 },
                        "colour": { "type": "string", "enum": ["red", "blue"] },
                    } },
                    "status": { "type": "object", "properties": { "count": { "type": "integer" } } },
                } } },
            })
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "widgets.shop.example" },
        "spec": {
            "group": "shop.example",
            "scope": "Namespaced",
            "names": { "plural": "widgets", "singular": "widget", "kind": "Widget" },
            "conversion": { "strategy": "None" },
            "versions": versions,
        },
    })
}

async fn widgets_are_served(admin: &ApiClient) -> anyhow::Result<()> {
    let path = format!("/apis/shop.example/v1/namespaces/{FIXTURES}/widgets");
    let object = json!({
        "apiVersion": "shop.example/v1", "kind": "Widget", "metadata": { "name": "bolt" },
        "spec": { "count": 3, "colour": "red" },
    });
    let asking = async {
        loop {
            match admin.post(&path, &object).await?.status {
                201 => return anyhow::Ok(()),
                _ => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), asking)
        .await
        .context("the kind `Widget` is not served")?
}
