//! Namespaces, service accounts, tokens and role bindings for made-up clients.

use serde_json::{Value, json};

use super::{ApiClient, ControlPlane, Error, Who};

/// The status of a POST of something that is already there.
const CONFLICT: u16 = 409;

/// What a service-account token is asked for with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenOptions {
    /// Who the token is for; empty for the API server itself.
    pub audiences: Vec<String>,
    /// For how many seconds it is valid, at least 600; `None` for an hour.
    pub expiration_seconds: Option<u32>,
    /// The pod the token dies with, as the kubelet's tokens do.
    pub pod: Option<BoundPod>,
}

/// The pod a token is bound to; created if it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundPod {
    /// Its name, in the service account's namespace.
    pub name: String,
    /// The node it is on, which then is in the token too. It need not exist.
    pub node: Option<String>,
}

/// Who a role is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A user by name.
    User(String),
    /// A group by name.
    Group(String),
    /// A service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl ControlPlane {
    /// A token of a service account, by the real TokenRequest API. Namespace
    /// and account are created if they are missing.
    ///
    /// # Errors
    /// When the server refuses any of it.
    pub async fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        options: &TokenOptions,
    ) -> Result<String, Error> {
        let client = self.client(Who::SuperAdmin)?;
        ensure_namespace(&client, namespace).await?;
        ensure_service_account(&client, namespace, name).await?;
        let mut spec = json!({
            "audiences": options.audiences,
            "expirationSeconds": options.expiration_seconds.unwrap_or(3600),
        });
        if let (Some(pod), Some(spec)) = (&options.pod, spec.as_object_mut()) {
            let uid = ensure_pod(&client, namespace, name, pod).await?;
            let reference =
                json!({ "apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": uid });
            spec.insert("boundObjectRef".to_owned(), reference);
        }
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": spec,
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let action = format!("asking for a token of {namespace}/{name}");
        let answer = client.post(&path, &request).await?.accept(&action, &[])?;
        match answer
            .json()
            .pointer("/status/token")
            .and_then(Value::as_str)
        {
            Some(token) => Ok(token.to_owned()),
            None => Err(Error::Refused {
                action,
                status: answer.status,
                body: "no token in the answer".to_owned(),
            }),
        }
    }

    /// Binds a ClusterRole (`view`, `edit`, `cluster-admin`, ...) to a subject
    /// in the whole cluster; harmless when it is bound already. The server's
    /// authorizer learns of it through a watch, so shortly after.
    ///
    /// Kubernetes composes `view`, `edit` and `admin` from other roles in the
    /// controller manager, which does not run here; those others are bound in
    /// their place.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn bind_cluster_role(&self, subject: &Subject, role: &str) -> Result<(), Error> {
        const GROUP: &str = "rbac.authorization.k8s.io";
        let (label, subject) = match subject {
            Subject::User(name) => (
                format!("user:{name}"),
                json!({ "apiGroup": GROUP, "kind": "User", "name": name }),
            ),
            Subject::Group(name) => (
                format!("group:{name}"),
                json!({ "apiGroup": GROUP, "kind": "Group", "name": name }),
            ),
            Subject::ServiceAccount { namespace, name } => (
                format!("account:{namespace}:{name}"),
                json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name }),
            ),
        };
        let client = self.client(Who::SuperAdmin)?;
        let path = format!("/apis/{GROUP}/v1/clusterrolebindings");
        for role in composed_of(role) {
            let binding = json!({
                "apiVersion": format!("{GROUP}/v1"),
                "kind": "ClusterRoleBinding",
                "metadata": { "name": format!("test:{role}:{label}") },
                "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": role },
                "subjects": [subject],
            });
            create(&client, &path, &binding).await?;
        }
        Ok(())
    }
}

/// The roles whose rules a role has: itself, or those it is composed of.
fn composed_of(role: &str) -> Vec<&str> {
    const PARTS: [&str; 3] = [
        "system:aggregate-to-view",
        "system:aggregate-to-edit",
        "system:aggregate-to-admin",
    ];
    let [view, edit, admin] = PARTS;
    match role {
        "view" => vec![view],
        "edit" => vec![view, edit],
        "admin" => vec![view, edit, admin],
        other => vec![other],
    }
}

/// Makes the group of `admin.conf` cluster administrators, as kubeadm does.
pub(super) async fn bind_admins(client: &ApiClient) -> Result<(), Error> {
    const GROUP: &str = "rbac.authorization.k8s.io";
    const ADMINS: &str = "kubeadm:cluster-admins";
    let binding = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": { "name": ADMINS },
        "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "apiGroup": GROUP, "kind": "Group", "name": ADMINS }],
    });
    create(
        client,
        &format!("/apis/{GROUP}/v1/clusterrolebindings"),
        &binding,
    )
    .await
}

pub(super) async fn ensure_namespace(client: &ApiClient, name: &str) -> Result<(), Error> {
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    create(client, "/api/v1/namespaces", &namespace).await
}

/// There is no controller manager to create even the `default` account, without
/// which a namespace takes no pods.
pub(super) async fn ensure_service_account(
    client: &ApiClient,
    namespace: &str,
    name: &str,
) -> Result<(), Error> {
    let account =
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } });
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
    create(client, &path, &account).await
}

async fn ensure_pod(
    client: &ApiClient,
    namespace: &str,
    account: &str,
    pod: &BoundPod,
) -> Result<String, Error> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": pod.name },
        "spec": {
            "serviceAccountName": account,
            "nodeName": pod.node,
            "containers": [{ "name": "main", "image": "registry.invalid/main:1" }],
        },
    });
    create(client, &path, &object).await?;
    let answer = client.get(&format!("{path}/{}", pod.name)).await?;
    let answer = answer.accept("reading the pod back", &[])?.json();
    let uid = answer.pointer("/metadata/uid").and_then(Value::as_str);
    Ok(uid.unwrap_or_default().to_owned())
}

/// Creates an object unless it is there.
pub(super) async fn create(client: &ApiClient, path: &str, object: &Value) -> Result<(), Error> {
    let action = format!("creating {} at {path}", object["kind"]);
    let answer = client.post(path, object).await?;
    answer.accept(&action, &[CONFLICT]).map(drop)
}
