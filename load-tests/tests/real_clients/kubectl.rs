//! Sessions of the real kubectl that say the same through the proxy as without it,
//! step by step: its own tables, edits, waits, watches and refusals.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::harness::{Cluster, Identity, NODE};
use crate::support::{Kubectl, PATIENCE, normal};

/// What is on standard input at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Nothing,
    Objects,
    Changed,
    Definition,
    Widget,
}

/// One command line, its input and the status it ends with.
type Step = (&'static str, Input, i32);

/// Everything in `NAMESPACE`; `GROUP` is an API group of the session's own.
const SESSION: [Step; 55] = [
    ("apply --server-side -f -", Input::Objects, 0),
    ("diff --server-side -f -", Input::Changed, 1),
    ("diff --server-side -f -", Input::Objects, 0),
    (
        "apply --server-side --field-manager=other -f -",
        Input::Changed,
        1,
    ),
    (
        "apply --server-side --field-manager=other --force-conflicts -f -",
        Input::Changed,
        0,
    ),
    (
        "get deployment web -o yaml --show-managed-fields",
        Input::Nothing,
        0,
    ),
    ("label configmap settings tier=front", Input::Nothing, 0),
    ("label configmap settings tier=back", Input::Nothing, 1),
    ("annotate configmap settings note=one", Input::Nothing, 0),
    (
        "annotate configmap settings note=two --overwrite",
        Input::Nothing,
        0,
    ),
    (
        "patch configmap settings --type json -p [{\"op\":\"add\",\"path\":\"/data/size\",\"value\":\"9\"}]",
        Input::Nothing,
        0,
    ),
    (
        "patch deployment web --subresource=scale --type merge -p {\"spec\":{\"replicas\":3}}",
        Input::Nothing,
        0,
    ),
    ("edit configmap settings", Input::Nothing, 0),
    ("get configmap settings -o yaml", Input::Nothing, 0),
    ("replace -f -", Input::Objects, 0),
    ("get configmap settings -o json", Input::Nothing, 0),
    (
        "set image deployment/web web=registry.invalid/web:3",
        Input::Nothing,
        0,
    ),
    (
        "rollout status deployment/web --timeout=1s",
        Input::Nothing,
        1,
    ),
    ("rollout pause deployment/web", Input::Nothing, 0),
    ("rollout history deployment/web", Input::Nothing, 0),
    (
        "wait deployment/web --for=condition=Available --timeout=1s",
        Input::Nothing,
        1,
    ),
    (
        "wait pod/pod --for=condition=Ready --timeout=30s",
        Input::Nothing,
        0,
    ),
    (
        "wait configmap/never --for=delete --timeout=5s",
        Input::Nothing,
        0,
    ),
    (
        "wait deployment/web --for=jsonpath={.spec.paused}=true --timeout=30s",
        Input::Nothing,
        0,
    ),
    ("top pods", Input::Nothing, 1),
    ("auth can-i --list", Input::Nothing, 0),
    (
        "auth can-i create deployments --subresource=scale",
        Input::Nothing,
        0,
    ),
    ("auth whoami -o yaml", Input::Nothing, 0),
    (
        "explain deployment.spec.strategy --recursive",
        Input::Nothing,
        0,
    ),
    ("explain nothing", Input::Nothing, 1),
    ("create -f -", Input::Definition, 0),
    (
        "wait crd/widgets.GROUP --for=condition=Established --timeout=60s",
        Input::Nothing,
        0,
    ),
    ("create -f -", Input::Widget, 0),
    ("create -f -", Input::Widget, 1),
    ("get widgets.GROUP -o yaml", Input::Nothing, 0),
    ("delete crd widgets.GROUP", Input::Nothing, 0),
    ("get --raw /readyz", Input::Nothing, 0),
    (
        "get --raw /api/v1/namespaces/NAMESPACE/configmaps/missing",
        Input::Nothing,
        1,
    ),
    ("create configmap one --from-literal=a=1", Input::Nothing, 0),
    ("create configmap two --from-literal=a=2", Input::Nothing, 0),
    (
        "create secret generic three --from-literal=a=3",
        Input::Nothing,
        0,
    ),
    ("get configmaps --chunk-size=1", Input::Nothing, 0),
    (
        "get configmaps,secrets,pods,services -o wide --show-labels",
        Input::Nothing,
        0,
    ),
    (
        "get pods --field-selector=status.phase=Running -o custom-columns=NAME:.metadata.name,NODE:.spec.nodeName",
        Input::Nothing,
        0,
    ),
    (
        "expose deployment web --port=80 --name=exposed --cluster-ip=None",
        Input::Nothing,
        0,
    ),
    ("describe configmap settings", Input::Nothing, 0),
    ("describe pod pod", Input::Nothing, 0),
    ("describe deployment web", Input::Nothing, 0),
    ("logs pod --tail=2", Input::Nothing, 0),
    ("cluster-info", Input::Nothing, 0),
    (
        "cluster-info dump --namespaces=NAMESPACE -o yaml",
        Input::Nothing,
        0,
    ),
    ("config view --minify", Input::Nothing, 0),
    ("create token default --duration=10m", Input::Nothing, 0),
    ("delete --wait=false -f -", Input::Objects, 0),
    ("get all", Input::Nothing, 0),
];

fn input(input: Input, namespace: &str, group: &str) -> String {
    let (image, colour) = match input {
        Input::Changed => ("registry.invalid/web:2", "red"),
        _ => ("registry.invalid/web:1", "blue"),
    };
    let metadata = |name: &str| json!({ "name": name, "namespace": namespace });
    let object = match input {
        Input::Nothing => return String::new(),
        Input::Objects | Input::Changed => json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("settings"),
              "data": { "colour": colour } },
            { "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata("web"), "spec": {
                "replicas": 2, "selector": { "matchLabels": { "app": "web" } },
                "template": {
                    "metadata": { "labels": { "app": "web" } },
                    "spec": { "containers": [{ "name": "web", "image": image }] },
                },
            } },
        ] }),
        Input::Definition => json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("widgets.{group}") },
            "spec": {
                "group": group, "scope": "Namespaced",
                "names": { "plural": "widgets", "singular": "widget", "kind": "Widget" },
                "versions": [{
                    "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": {
                        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    } },
                }],
            },
        }),
        Input::Widget => json!({
            "apiVersion": format!("{group}/v1"), "kind": "Widget", "metadata": metadata("widget"),
            "spec": { "size": 3 },
        }),
    };
    object.to_string()
}

/// What a step ended with and said, without what differs between any two runs.
type Said = (Option<i32>, String, String);

async fn session(kubectl: &Kubectl, kubeconfig: &Path, namespace: &str) -> Result<Vec<Said>> {
    let group = format!("{namespace}.example.invalid");
    let server = load_tests::control_plane::Kubeconfig::read(kubeconfig)?.server;
    let tidy = |text: String| {
        let text = text.replace(&server, "SERVER").replace(&group, "GROUP");
        let kept = text.lines().filter(|line| !names_a_file(line));
        let words = kept.map(|line| {
            line.split(' ')
                .map(without_time)
                .collect::<Vec<_>>()
                .join(" ")
        });
        normal(&words.collect::<Vec<_>>().join("\n"), namespace)
    };
    let mut said = Vec::new();
    for (line, wanted, _) in SESSION {
        let line = line
            .replace("NAMESPACE", namespace)
            .replace("GROUP", &group);
        let mut arguments: Vec<&str> = line.split(' ').collect();
        if !line.starts_with("get --raw") {
            arguments.extend(["--namespace", namespace]);
        }
        let ran = kubectl
            .run(kubeconfig, &arguments, &input(wanted, namespace, &group))
            .await?;
        let stdout = if line.starts_with("create token") {
            // Three parts and a newline, whoever made it.
            ran.stdout.split('.').count().to_string()
        } else {
            tidy(ran.stdout)
        };
        said.push((ran.code, stdout, tidy(ran.stderr)));
    }
    Ok(said)
}

/// Whether a line of a diff names the temporary files that were compared.
fn names_a_file(line: &str) -> bool {
    ["diff -u", "--- ", "+++ "]
        .iter()
        .any(|start| line.starts_with(start))
}

/// A word that is a time in RFC 3339, or holds one, says so instead.
fn without_time(word: &str) -> &str {
    let bytes = word.trim_matches('"').as_bytes();
    let is_time = bytes.len() >= 20 && bytes.get(4) == Some(&b'-') && bytes.get(10) == Some(&b'T');
    if is_time { "TIME" } else { word }
}

async fn a_session_is_the_same(identity: Identity) -> Result<()> {
    let Some(kubectl) = Kubectl::find()? else {
        return Ok(());
    };
    let Some(cluster) = Cluster::start()? else {
        return Ok(());
    };
    let [straight, through] = cluster.ways(identity).await?;
    let (first, second) = (cluster.namespace().await?, cluster.namespace().await?);
    for namespace in [&first, &second] {
        cluster.plane.run_pod(namespace, "pod", NODE).await?;
    }
    let (expected, said) = tokio::try_join!(
        session(&kubectl, &straight, &first),
        session(&kubectl, &through, &second),
    )?;
    for (((line, _, code), said), expected) in SESSION.iter().zip(&said).zip(&expected) {
        assert_eq!(said, expected, "kubectl {line}");
        assert_eq!(said.0, Some(*code), "kubectl {line}: {said:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_session_with_a_certificate_is_the_same() -> Result<()> {
    a_session_is_the_same(Identity::Certificate).await
}

#[tokio::test]
async fn a_session_with_a_token_is_the_same() -> Result<()> {
    a_session_is_the_same(Identity::Token).await
}

#[tokio::test]
async fn watch_events_are_printed_as_they_happen() -> Result<()> {
    let Some(kubectl) = Kubectl::find()? else {
        return Ok(());
    };
    let Some(cluster) = Cluster::start()? else {
        return Ok(());
    };
    for kubeconfig in cluster.ways(Identity::Token).await? {
        let namespace = cluster.namespace().await?;
        let arguments = [
            "get",
            "configmaps",
            "--namespace",
            &namespace,
            "--watch",
            "--output-watch-events",
            "--output=jsonpath={.type} {.object.metadata.name}{\"\\n\"}",
        ];
        let mut watching = kubectl.command(&kubeconfig, &arguments).spawn()?;
        let stdout = watching.stdout.take().context("no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let script = [
            ("create configmap first", "ADDED first"),
            ("label configmap first a=b", "MODIFIED first"),
            ("create configmap second", "ADDED second"),
            ("delete configmap first", "DELETED first"),
        ];
        for (line, event) in script {
            let mut arguments: Vec<&str> = line.split(' ').collect();
            arguments.extend(["--namespace", &namespace]);
            let ran = kubectl.run(&kubeconfig, &arguments, "").await?;
            ensure!(ran.code == Some(0), "{ran:?}");
            let next = tokio::time::timeout(PATIENCE, lines.next_line());
            let printed = next.await.context(event)??;
            assert_eq!(printed.as_deref(), Some(event));
        }
        watching.kill().await?;
    }
    Ok(())
}

#[tokio::test]
async fn kubectls_own_proxy_passes_on_what_it_is_asked() -> Result<()> {
    let Some(kubectl) = Kubectl::find()? else {
        return Ok(());
    };
    let Some(cluster) = Cluster::start()? else {
        return Ok(());
    };
    let mut answers = Vec::new();
    for kubeconfig in cluster.ways(Identity::Certificate).await? {
        let mut proxy = kubectl
            .command(&kubeconfig, &["proxy", "--port=0"])
            .spawn()?;
        let stdout = proxy.stdout.take().context("no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
        let line = line.context("kubectl proxy ended")?;
        let address = line.rsplit(' ').next().context("no address")?.to_owned();
        let mut said = Vec::new();
        for path in [
            "/version",
            "/api/v1/namespaces/kube-public",
            "/missing",
            "/apis",
        ] {
            let mut stream = TcpStream::connect(&address).await?;
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            let status = answer.lines().next().unwrap_or_default().to_owned();
            let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
            // Groups come and go with other tests.
            said.push((
                status,
                if path == "/apis" {
                    String::new()
                } else {
                    body.to_owned()
                },
            ));
        }
        proxy.kill().await?;
        answers.push(said);
    }
    assert_eq!(answers.first(), answers.get(1));
    Ok(())
}
