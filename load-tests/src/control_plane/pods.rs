//! Pods that run as far as anybody can see.

use serde_json::json;

use super::{ControlPlane, Error, Who, accounts};

/// The name of the one container of a pod made here.
const CONTAINER: &str = "main";

impl ControlPlane {
    /// Creates a pod that is bound to `node` and reported as running, with what
    /// of its namespace is missing; harmless when it is there. With the node of
    /// [`super::Options::fake_kubelet`], exec, attach, port-forward and logs
    /// work.
    ///
    /// # Errors
    /// When the server refuses any of it.
    pub async fn run_pod(&self, namespace: &str, name: &str, node: &str) -> Result<(), Error> {
        let client = self.client(Who::SuperAdmin)?;
        accounts::ensure_namespace(&client, namespace).await?;
        accounts::ensure_service_account(&client, namespace, "default").await?;
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let image = "registry.invalid/main:1";
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name },
            "spec": {
                "nodeName": node,
                "automountServiceAccountToken": false,
                // Standard input, or nobody can attach with theirs.
                "containers": [{ "name": CONTAINER, "image": image, "stdin": true }],
            },
        });
        accounts::create(&client, &path, &pod).await?;
        let started = "2026-01-01T00:00:00Z";
        let status = json!({ "status": {
            "phase": "Running",
            "startTime": started,
            "conditions": [{ "type": "Ready", "status": "True" }],
            "containerStatuses": [{
                "name": CONTAINER,
                "image": image,
                "imageID": image,
                "ready": true,
                "restartCount": 0,
                "state": { "running": { "startedAt": started } },
            }],
        } });
        let action = format!("reporting the pod {namespace}/{name} as running");
        let path = format!("{path}/{name}/status");
        let answer = client.patch(&path, &status).await?;
        answer.accept(&action, &[]).map(drop)
    }
}
