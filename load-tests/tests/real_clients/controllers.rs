//! Kubernetes' own controller manager and scheduler, behind the proxy: what they
//! make of a cluster is what they make of it without.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Request;
use load_tests::control_plane::{
    self, ApiClient, Auth, ControlPlane, Controllers, KeyAlgorithm, Options, Who,
};
use serde_json::{Value, json};

use crate::harness::required;
use crate::support::{Proxy, TestDir, until};

const NAMESPACE: &str = "controlled";
const NODE: &str = "controlled-node";

/// A cluster with its controllers, which reach it by the proxy or straight.
struct Controlled {
    // Stopped first: they do not like to lose their server.
    controllers: Controllers,
    proxy: Option<Proxy>,
    client: ApiClient,
    plane: ControlPlane,
    _dir: TestDir,
}

impl Controlled {
    fn start(proxied: bool) -> Result<Option<Self>> {
        // Its own: they would tidy up after other tests.
        let options = Options {
            key_algorithm: KeyAlgorithm::EcdsaP256,
            ..Options::default()
        };
        let Some(plane) = control_plane::start_for_tests(options) else {
            return Ok(None);
        };
        let proxy = proxied.then(|| Proxy::before(&plane)).transpose()?;
        let server = match &proxy {
            Some(proxy) => proxy.server(),
            None => plane.server().to_owned(),
        };
        let dir = TestDir::new()?;
        let controllers = match Controllers::start(&plane, &server, dir.path()) {
            Err(control_plane::Error::Absent { reason }) if !required() => {
                eprintln!("skipped: no controllers here: {reason}");
                return Ok(None);
            }
            controllers => controllers?,
        };
        Ok(Some(Self {
            controllers,
            proxy,
            // What they do is looked at straight.
            client: plane.client(Who::SuperAdmin)?,
            plane,
            _dir: dir,
        }))
    }

    /// Deletes what is at a path, with options.
    async fn delete(&self, path: &str, options: &Value) -> Result<()> {
        let request = Request::delete(path)
            .header("content-type", "application/json")
            .body(Bytes::from(options.to_string()))?;
        let answer = self.client.request(request).await?;
        answer.accept(path, &[]).map(drop).map_err(Into::into)
    }

    async fn create(&self, path: &str, object: Value) -> Result<Value> {
        let answer = self.client.post(path, &object).await?;
        Ok(answer.accept(path, &[])?.json())
    }

    async fn patch(&self, path: &str, patch: Value) -> Result<()> {
        let answer = self.client.patch(path, &patch).await?;
        answer.accept(path, &[]).map(drop).map_err(Into::into)
    }

    /// Waits for something that a controller does, and for both to run still.
    async fn done<T>(&mut self, what: &str, read: impl AsyncFn(&ApiClient) -> Option<T>) -> T {
        let done = until(what, async || read(&self.client).await).await;
        self.controllers.check().expect("both run");
        done
    }

    /// What is at a path, once it passes.
    async fn shows(&mut self, what: &str, path: &str, passes: impl Fn(&Value) -> bool) -> Value {
        self.done(what, async |client| {
            let answer = client.get(path).await.ok()?;
            let object = answer.json();
            (answer.status == 200 && passes(&object)).then_some(object)
        })
        .await
    }

    /// Waits until there is nothing at a path.
    async fn gone(&mut self, what: &str, path: &str) {
        self.done(what, async |client| {
            let answer = client.get(path).await.ok()?;
            (answer.status == 404).then_some(())
        })
        .await;
    }
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

/// How many of the items of a list a test holds for.
fn count(list: &Value, holds: impl Fn(&Value) -> bool) -> usize {
    items(list).iter().filter(|item| holds(item)).count()
}

fn core(resource: &str) -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/{resource}")
}

fn apps(resource: &str) -> String {
    format!("/apis/apps/v1/namespaces/{NAMESPACE}/{resource}")
}

/// A namespace gets its account, its authority and its quota's count.
async fn a_namespace_is_furnished(cluster: &mut Controlled) -> Result<Vec<Value>> {
    let namespace = json!({ "metadata": { "name": NAMESPACE } });
    cluster.create("/api/v1/namespaces", namespace).await?;
    let account = core("serviceaccounts/default");
    cluster
        .shows("the account is made", &account, |_| true)
        .await;
    let authority = cluster
        .shows(
            "the authority is published",
            &core("configmaps/kube-root-ca.crt"),
            |_| true,
        )
        .await;
    ensure!(authority["data"]["ca.crt"] == cluster.plane.ca_pem()?);
    let quota = json!({
        "metadata": { "name": "quota" }, "spec": { "hard": { "count/configmaps": "5" } },
    });
    cluster.create(&core("resourcequotas"), quota).await?;
    let quota = cluster
        .shows(
            "the quota is counted",
            &core("resourcequotas/quota"),
            |quota| quota["status"]["used"].is_object(),
        )
        .await;
    // `view` is composed of other roles by the manager.
    let view = "/apis/rbac.authorization.k8s.io/v1/clusterroles/view";
    let view = cluster
        .shows("the role is composed", view, |role| {
            role["rules"].is_array()
        })
        .await;
    Ok(vec![quota["status"].clone(), view["rules"].clone()])
}

/// A token asked for by a Secret is made, and is good.
async fn a_token_is_made(cluster: &mut Controlled) -> Result<Value> {
    let secret = json!({
        "metadata": {
            "name": "token", "annotations": { "kubernetes.io/service-account.name": "default" },
        },
        "type": "kubernetes.io/service-account-token",
    });
    cluster.create(&core("secrets"), secret).await?;
    let secret = cluster
        .shows("the token is made", &core("secrets/token"), |secret| {
            secret["data"]["token"].is_string()
        })
        .await;
    let token = secret["data"]["token"].as_str().unwrap_or_default();
    let token = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, token)?;
    let client = cluster
        .plane
        .client_with(Auth::Token(String::from_utf8(token)?))?;
    let who = crate::support::whoami(&client).await?;
    Ok(who["username"].clone())
}

/// A certificate that is approved is signed.
async fn a_certificate_is_signed(cluster: &mut Controlled) -> Result<()> {
    const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate()?;
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, "somebody");
    let request = parameters.serialize_request(&key)?.pem()?;
    let request = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, request);
    let object = json!({
        "metadata": { "name": "somebody" },
        "spec": {
            "request": request, "signerName": "kubernetes.io/kube-apiserver-client",
            "usages": ["client auth"],
        },
    });
    cluster.create(REQUESTS, object).await?;
    let approval = json!({ "status": { "conditions": [{
        "type": "Approved", "status": "True", "reason": "Test", "message": "approved",
    }] } });
    let path = format!("{REQUESTS}/somebody");
    cluster.patch(&format!("{path}/approval"), approval).await?;
    cluster
        .shows("the certificate is signed", &path, |request| {
            request["status"]["certificate"].is_string()
        })
        .await;
    Ok(())
}

/// A node that says it is well is freed of its taint, so that pods get there.
async fn a_node_is_taken_into_use(cluster: &mut Controlled) -> Result<()> {
    let node = json!({ "metadata": { "name": NODE } });
    cluster.create("/api/v1/nodes", node).await?;
    let status = json!({ "status": {
        "capacity": { "cpu": "8", "memory": "16Gi", "pods": "110" },
        "allocatable": { "cpu": "8", "memory": "16Gi", "pods": "110" },
        "conditions": [{ "type": "Ready", "status": "True", "reason": "Test" }],
    } });
    let path = format!("/api/v1/nodes/{NODE}");
    cluster.patch(&format!("{path}/status"), status).await?;
    cluster
        .shows("the node may be used", &path, |node| {
            node["spec"].get("taints").is_none_or(Value::is_null)
        })
        .await;
    Ok(())
}

/// A Deployment becomes ReplicaSets and Pods, on the node; all of it goes with
/// the Deployment.
async fn a_deployment_runs(cluster: &mut Controlled) -> Result<Vec<Value>> {
    let labels = json!({ "app": "web" });
    let deployment = json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 3, "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    // There is no kubelet to say that it is done.
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{ "name": "main", "image": "registry.invalid/web:1" }],
                },
            },
        },
    });
    let (deployments, pods) = (apps("deployments"), core("pods"));
    let path = format!("{deployments}/web");
    cluster.create(&deployments, deployment).await?;
    let bound = |pod: &Value| pod["spec"]["nodeName"] == NODE;
    cluster
        .shows("three pods have a node", &pods, |list| {
            count(list, bound) == 3
        })
        .await;
    cluster
        .patch(&path, json!({ "spec": { "replicas": 5 } }))
        .await?;
    let list = cluster
        .shows("five pods have a node", &pods, |list| {
            count(list, bound) == 5
        })
        .await;
    for pod in items(&list) {
        let name = pod["metadata"]["name"].as_str().context("no name")?;
        let ready = json!({ "status": {
            "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        cluster
            .patch(&format!("{pods}/{name}/status"), ready)
            .await?;
    }
    let status = cluster
        .shows("the deployment is available", &path, |deployment| {
            deployment["status"]["availableReplicas"] == 5
        })
        .await["status"]
        .clone();
    let sets = cluster
        .shows("one set holds them", &apps("replicasets"), |list| {
            count(list, |set| set["status"]["readyReplicas"] == 5) == 1
        })
        .await;
    // All are deleted before the Deployment itself is.
    let foreground = json!({ "propagationPolicy": "Foreground" });
    cluster.delete(&path, &foreground).await?;
    cluster.gone("the deployment is gone", &path).await;
    let left = cluster
        .shows("its pods are gone", &pods, |list| items(list).is_empty())
        .await;
    Ok(vec![
        status["replicas"].clone(),
        status["readyReplicas"].clone(),
        json!(items(&sets).len()),
        json!(items(&left).len()),
    ])
}

/// What belongs to something that is gone goes, and a namespace with all in it.
async fn what_is_not_wanted_is_removed(cluster: &mut Controlled) -> Result<()> {
    let orphan = json!({ "metadata": { "name": "orphan", "ownerReferences": [{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "never-was",
        "uid": "00000000-0000-0000-0000-000000000001",
    }] } });
    cluster.create(&core("configmaps"), orphan).await?;
    cluster
        .gone("the orphan is collected", &core("configmaps/orphan"))
        .await;
    let path = format!("/api/v1/namespaces/{NAMESPACE}");
    cluster.delete(&path, &json!({})).await?;
    cluster.gone("the namespace is gone", &path).await;
    Ok(())
}

/// Everything, once; what came of it.
async fn a_life(cluster: &mut Controlled) -> Result<Value> {
    let furnished = a_namespace_is_furnished(cluster).await?;
    let token = a_token_is_made(cluster).await?;
    a_certificate_is_signed(cluster).await?;
    a_node_is_taken_into_use(cluster).await?;
    let deployed = a_deployment_runs(cluster).await?;
    what_is_not_wanted_is_removed(cluster).await?;
    Ok(json!({ "furnished": furnished, "token": token, "deployed": deployed }))
}

#[tokio::test]
async fn the_controllers_make_of_a_cluster_what_they_make_of_it_without() -> Result<()> {
    let mut lives = Vec::new();
    for proxied in [false, true] {
        let Some(mut cluster) = Controlled::start(proxied)? else {
            return Ok(());
        };
        lives.push(a_life(&mut cluster).await?);
        let Some(proxy) = &cluster.proxy else {
            continue;
        };
        let metrics = proxy.metrics().await?;
        let theirs = metrics.sum("spillway_requests_total", &["class=\"control-plane\""]);
        assert!(theirs > 100.0, "{theirs} requests went through");
        // Not even the sixty watches that a manager begins with.
        assert_eq!(metrics.sum("spillway_shed_total", &[]), 0.0);
        let refused = metrics.sum("spillway_requests_total", &["code=\"429\""]);
        assert_eq!(refused, 0.0);
        // A lease that is late ends a controller: none was.
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
        let leases = cluster.client.get(leases).await?.json();
        let changed = |lease: &Value| lease["spec"]["leaseTransitions"].as_u64() > Some(0);
        assert_eq!(count(&leases, changed), 0, "{leases}");
    }
    assert_eq!(lives.first(), lives.get(1));
    assert_eq!(lives[0]["deployed"], json!([5, 5, 1, 0]));
    Ok(())
}

#[tokio::test]
async fn the_controllers_outlive_a_restart_of_the_proxy() -> Result<()> {
    let Some(mut cluster) = Controlled::start(true)? else {
        return Ok(());
    };
    a_namespace_is_furnished(&mut cluster).await?;
    let proxy = cluster.proxy.take().context("no proxy")?;
    cluster.proxy = Some(proxy.restart(&cluster.plane).await?);
    let namespace = json!({ "metadata": { "name": "later" } });
    cluster.create("/api/v1/namespaces", namespace).await?;
    let account = "/api/v1/namespaces/later/serviceaccounts/default";
    cluster
        .shows("the account is made", account, |_| true)
        .await;
    Ok(())
}
