//! The real kubectl says the same through the proxy as without it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use load_tests::control_plane::{
    ApiClient, Auth, Kubeconfig, Subject, TokenOptions, Who, write_kubeconfig,
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::{
    Kubectl, NOBODY, PATIENCE, Plane, Proxy, TestDir, normal, plane, unique, until,
};

/// What an operator does on a day; `NAMESPACE` is the caller's own.
const DAY: [&str; 26] = [
    "apply -f -",
    "apply -f - ",
    "get deployments,configmaps -n NAMESPACE",
    "get deployment web -n NAMESPACE -o yaml",
    "get deployment web -n NAMESPACE -o wide",
    "get configmaps -A -l owner=NAMESPACE",
    "get pods -n NAMESPACE -o json",
    "describe deployment web -n NAMESPACE",
    "describe pod lonely -n NAMESPACE",
    "patch configmap settings -n NAMESPACE --type merge -p {\"data\":{\"colour\":\"green\"}}",
    "get configmap settings -n NAMESPACE -o jsonpath={.data}",
    "scale deployment web -n NAMESPACE --replicas=4",
    "get deployment web -n NAMESPACE -o jsonpath={.spec.replicas}",
    "label deployment web -n NAMESPACE tier=front",
    "logs lonely -n NAMESPACE",
    "logs missing -n NAMESPACE",
    "exec lonely -n NAMESPACE -- id",
    "api-resources",
    "api-versions",
    "explain deployment.spec.replicas",
    "auth can-i --list -n NAMESPACE",
    "auth can-i delete nodes",
    "get --raw /version",
    "get deployment missing -n NAMESPACE",
    "delete deployment,configmap -l owner=NAMESPACE -n NAMESPACE",
    "get deployments -n NAMESPACE",
];

/// What is applied: first and, with another image and value, again.
fn manifest(namespace: &str, step: &str) -> String {
    let (image, colour) = if step.ends_with(' ') {
        ("registry.invalid/web:2", "red")
    } else {
        ("registry.invalid/web:1", "blue")
    };
    let metadata =
        |name| json!({ "name": name, "namespace": namespace, "labels": { "owner": namespace } });
    let containers = json!([{ "name": "web", "image": image }]);
    let lonely = json!([{ "name": "main", "image": "registry.invalid/main:1" }]);
    let items = json!([
        { "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata("web"), "spec": {
            "replicas": 2, "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } }, "spec": { "containers": containers },
            },
        } },
        { "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("settings"),
          "data": { "colour": colour } },
        { "apiVersion": "v1", "kind": "Pod", "metadata": metadata("lonely"), "spec": {
            "automountServiceAccountToken": false, "containers": lonely,
        } },
    ]);
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

/// A namespace pods can be created in.
async fn namespace(plane: &Plane) -> Result<String> {
    let name = format!("kubectl-{}", unique());
    plane
        .service_account_token(&name, "default", &TokenOptions::default())
        .await?;
    Ok(name)
}

/// Goes through the day; what was said at each step, normalised.
async fn a_day(
    kubectl: &Kubectl,
    kubeconfig: &Path,
    namespace: &str,
) -> Result<Vec<(Option<i32>, String, String)>> {
    let mut said = Vec::new();
    for step in DAY {
        let line = step.replace("NAMESPACE", namespace);
        let arguments: Vec<&str> = line.split_whitespace().collect();
        let input = manifest(namespace, step);
        let ran = kubectl.run(kubeconfig, &arguments, &input).await?;
        let stderr = normal(&ran.stderr, namespace);
        said.push((ran.code, normal(&ran.stdout, namespace), stderr));
    }
    Ok(said)
}

fn kubeconfigs(
    plane: &Plane,
    proxy: &Proxy,
    dir: &TestDir,
    auth: &Auth,
) -> Result<(PathBuf, PathBuf)> {
    let straight = dir.path().join("straight");
    let ca_pem = plane.ca_pem()?;
    write_kubeconfig(&straight, plane.server(), Some("kubernetes"), &ca_pem, auth)?;
    let through = dir.path().join("through");
    proxy.kubeconfig(&through, auth)?;
    Ok((straight, through))
}

/// How many of the steps of [`DAY`] are refused whoever asks: logs of a missing
/// pod, exec in one without a node, and a Deployment that is missing.
const REFUSED: usize = 3;

async fn a_day_is_the_same(auth: &Auth, plane: &Plane, may_all: bool) -> Result<()> {
    let Some(kubectl) = Kubectl::find()? else {
        return Ok(());
    };
    let proxy = Proxy::before(plane)?;
    let dir = TestDir::new()?;
    let (straight, through) = kubeconfigs(plane, &proxy, &dir, auth)?;
    let expected = a_day(&kubectl, &straight, &namespace(plane).await?).await?;
    let said = a_day(&kubectl, &through, &namespace(plane).await?).await?;
    for ((step, said), expected) in DAY.iter().zip(&said).zip(&expected) {
        assert_eq!(said, expected, "kubectl {step}");
    }
    let failed: Vec<_> = DAY
        .iter()
        .zip(&said)
        .filter(|(_, (code, ..))| *code != Some(0))
        .collect();
    // `can-i` says no by failing.
    let expected = REFUSED + usize::from(!may_all);
    assert_eq!(failed.len(), expected, "{failed:?}");
    Ok(())
}

async fn agent(plane: &Plane) -> Result<Auth> {
    let token = plane
        .service_account_token("kubectl", "deployer", &TokenOptions::default())
        .await?;
    let subject = Subject::ServiceAccount {
        namespace: "kubectl".to_owned(),
        name: "deployer".to_owned(),
    };
    plane.bind_cluster_role(&subject, "edit").await?;
    let auth = Auth::Token(token);
    let client = plane.client_with(auth.clone())?;
    until("the account may edit", async || {
        may_edit(&client).await.unwrap_or_default().then_some(())
    })
    .await;
    Ok(auth)
}

/// The authorizer learns of each of the bound roles by itself.
async fn may_edit(client: &ApiClient) -> Result<bool> {
    for (verb, resource) in [("list", "pods"), ("create", "pods"), ("get", "pods/log")] {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": {
                "verb": verb, "resource": resource, "subresource": subresource,
            } },
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let answer = client.post(path, &review).await?.json();
        if answer["status"]["allowed"] != true {
            return Ok(false);
        }
    }
    Ok(true)
}

#[tokio::test]
async fn an_administrators_day_is_the_same() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let auth = Kubeconfig::read(&plane.kubeconfig(Who::Admin))?.auth;
    a_day_is_the_same(&auth, &plane, true).await
}

#[tokio::test]
async fn a_service_accounts_day_is_the_same() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let auth = agent(&plane).await?;
    a_day_is_the_same(&auth, &plane, false).await
}

#[tokio::test]
async fn without_credentials_it_is_the_same() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let Some(kubectl) = Kubectl::find()? else {
        return Ok(());
    };
    let proxy = Proxy::before(&plane)?;
    let dir = TestDir::new()?;
    let (straight, through) = kubeconfigs(&plane, &proxy, &dir, &Auth::Anonymous)?;
    for (path, code) in [("/version", 0), ("/livez", 0), ("/api/v1/nodes", 1)] {
        let arguments = [NOBODY[0], NOBODY[1], "get", "--raw", path];
        let expected = kubectl.run(&straight, &arguments, "").await?;
        let said = kubectl.run(&through, &arguments, "").await?;
        assert_eq!(expected.code, Some(code), "{expected:?}");
        assert_eq!(said, expected);
    }
    Ok(())
}

#[tokio::test]
async fn get_watch_sees_what_happens() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let Some(kubectl) = Kubectl::find()? else {
        return Ok(());
    };
    let proxy = Proxy::before(&plane)?;
    let dir = TestDir::new()?;
    let admin = Kubeconfig::read(&plane.kubeconfig(Who::Admin))?.auth;
    let kubeconfig = dir.path().join("through");
    proxy.kubeconfig(&kubeconfig, &admin)?;
    let namespace = namespace(&plane).await?;
    let client = plane.client(Who::SuperAdmin)?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let object = |name: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
    client
        .post(&path, &object("before"))
        .await?
        .accept("creating", &[])?;

    let arguments = ["get", "configmaps", "-n", &namespace, "-w", "-o", "name"];
    let mut watching = kubectl.command(&kubeconfig, &arguments).spawn()?;
    let stdout = watching.stdout.take().context("no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let watch = async {
        while lines.next_line().await?.context("kubectl ended")? != "configmap/before" {}
        client
            .post(&path, &object("after"))
            .await?
            .accept("creating", &[])?;
        while lines.next_line().await?.context("kubectl ended")? != "configmap/after" {}
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, watch).await??;
    watching.kill().await?;
    Ok(())
}
