//! The harness against the real thing: what it starts is a kubeadm-like control
//! plane, with the identities the other tests rely on.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use load_tests::control_plane::{
    self, ApiClient, Auth, BoundPod, ClientOptions, ControlPlane, Credentials, Error, KeyAlgorithm,
    Kubeconfig, Options, Protocol, SERVER_NAME, SeedKind, SeedPlan, Subject, TokenOptions, Who,
    seed, write_kubeconfig,
};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3600);

/// What the server thinks who we are: `status.userInfo`.
async fn who_am_i(client: &ApiClient) -> Result<Value, Error> {
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "SelfSubjectReview",
    });
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = client.post(path, &review).await?;
    Ok(answer.accept("asking who I am", &[])?.json()["status"]["userInfo"].clone())
}

fn groups(user: &Value) -> Vec<&str> {
    let groups = user["groups"].as_array().map(Vec::as_slice);
    groups
        .unwrap_or_default()
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

/// Asks until the answer has the status, which the server gives sooner or later.
async fn wait_for_status(client: &ApiClient, path: &str, status: u16) -> Result<(), Error> {
    let waiting = async {
        while client.get(path).await?.status != status {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    waited.unwrap_or_else(|_| panic!("{path} never answered {status}"))
}

fn is_running(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[tokio::test]
async fn it_is_ready_when_start_returns() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    assert!(plane.server().starts_with("https://127.0.0.1:"));
    assert!(plane.version().starts_with("v1."), "{}", plane.version());
    let client = plane.client(Who::Admin)?;
    let ready = client.get("/readyz").await?;
    assert_eq!((ready.status, &ready.body[..]), (200, &b"ok"[..]));
    for name in [
        "ca.crt",
        "ca.key",
        "apiserver.crt",
        "apiserver.key",
        "apiserver-kubelet-client.crt",
        "apiserver-kubelet-client.key",
        "front-proxy-ca.crt",
        "front-proxy-ca.key",
        "front-proxy-client.crt",
        "front-proxy-client.key",
        "sa.pub",
        "sa.key",
    ] {
        assert!(plane.pki_dir().join(name).is_file(), "no pki/{name}");
    }
    Ok(())
}

#[tokio::test]
async fn kubeadms_kubeconfigs_are_the_users_they_are_in_kubeadm() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    for (who, name, group) in [
        (
            Who::Admin,
            "kubernetes-admin",
            Some("kubeadm:cluster-admins"),
        ),
        (
            Who::SuperAdmin,
            "kubernetes-super-admin",
            Some("system:masters"),
        ),
        (
            Who::ControllerManager,
            "system:kube-controller-manager",
            None,
        ),
        (Who::Scheduler, "system:kube-scheduler", None),
    ] {
        let user = who_am_i(&plane.client(who)?).await?;
        assert_eq!(user["username"], name);
        let mut expected: Vec<&str> = group.into_iter().collect();
        expected.push("system:authenticated");
        assert_eq!(groups(&user), expected, "{who:?}");
    }
    Ok(())
}

#[tokio::test]
async fn admin_may_do_everything_and_the_scheduler_may_not() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let path = "/api/v1/namespaces/kube-system/secrets";
    assert_eq!(plane.client(Who::Admin)?.get(path).await?.status, 200);
    assert_eq!(plane.client(Who::Scheduler)?.get(path).await?.status, 403);
    Ok(())
}

#[tokio::test]
async fn a_made_up_certificate_is_the_user_it_says() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let credentials =
        plane.client_certificate("system:node:worker-7", &["system:nodes", "team"], HOUR)?;
    let user = who_am_i(&plane.client_with(Auth::Certificate(credentials))?).await?;
    assert_eq!(user["username"], "system:node:worker-7");
    assert_eq!(
        groups(&user),
        ["system:nodes", "team", "system:authenticated"]
    );
    Ok(())
}

#[tokio::test]
async fn an_expired_certificate_is_nobody() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let credentials = plane.client_certificate("late", &[], Duration::ZERO)?;
    let client = plane.client_with(Auth::Certificate(credentials))?;
    // Certificates count whole seconds: this one's last may not be over.
    wait_for_status(&client, "/api", 401).await
}

#[tokio::test]
async fn a_service_account_token_names_account_pod_and_node() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let options = TokenOptions {
        pod: Some(BoundPod {
            name: "agent-x7".to_owned(),
            node: Some("worker-7".to_owned()),
        }),
        ..TokenOptions::default()
    };
    let token = plane
        .service_account_token("telemetry", "agent", &options)
        .await?;
    let user = who_am_i(&plane.client_with(Auth::Token(token))?).await?;
    assert_eq!(user["username"], "system:serviceaccount:telemetry:agent");
    assert!(groups(&user).contains(&"system:serviceaccounts:telemetry"));
    let extra = &user["extra"];
    assert_eq!(
        extra["authentication.kubernetes.io/pod-name"][0],
        "agent-x7"
    );
    assert_eq!(
        extra["authentication.kubernetes.io/node-name"][0],
        "worker-7"
    );
    Ok(())
}

#[tokio::test]
async fn a_token_for_another_audience_is_refused() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let options = TokenOptions {
        audiences: vec!["vault".to_owned()],
        ..TokenOptions::default()
    };
    let token = plane
        .service_account_token("audiences", "agent", &options)
        .await?;
    let client = plane.client_with(Auth::Token(token))?;
    assert_eq!(client.get("/api").await?.status, 401);
    Ok(())
}

#[tokio::test]
async fn without_credentials_one_is_anonymous() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let client = plane.client_with(Auth::Anonymous)?;
    // The server closes the connection after each anonymous HTTP/2 request.
    for _ in 0..3 {
        assert_eq!(client.get("/version").await?.status, 200);
    }
    let refused = client.get("/api/v1/namespaces").await?;
    assert_eq!(refused.status, 403);
    let message = refused.json()["message"].to_string();
    assert!(message.contains("system:anonymous"), "{message}");
    Ok(())
}

#[tokio::test]
async fn a_bound_role_lets_its_subject_in() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let credentials = plane.client_certificate("reader", &[], HOUR)?;
    let client = plane.client_with(Auth::Certificate(credentials))?;
    let path = "/api/v1/pods?limit=1";
    assert_eq!(client.get(path).await?.status, 403);
    plane
        .bind_cluster_role(&Subject::User("reader".to_owned()), "view")
        .await?;
    // The authorizer learns of it through a watch.
    wait_for_status(&client, path, 200).await
}

#[tokio::test]
async fn both_http_versions_are_spoken() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let config = Kubeconfig::read(&plane.kubeconfig(Who::Admin))?;
    for (protocol, version) in [
        (Protocol::Negotiated, http::Version::HTTP_2),
        (Protocol::Http2, http::Version::HTTP_2),
        (Protocol::Http1, http::Version::HTTP_11),
    ] {
        let client = ApiClient::new(ClientOptions {
            server: config.server.clone(),
            server_name: SERVER_NAME.to_owned(),
            ca_pem: config.ca_pem.clone(),
            auth: config.auth.clone(),
            protocol,
        })?;
        let request = Request::get("/api/v1/namespaces").body(Bytes::new());
        let answer = client.open(request.expect("a valid request")).await?;
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
    }
    Ok(())
}

#[tokio::test]
async fn objects_can_be_made_changed_and_removed() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let client = plane.client(Who::Admin)?;
    let base = "/api/v1/namespaces/default/configmaps";
    let mut object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "life" }, "data": { "step": "made" },
    });
    assert_eq!(client.post(base, &object).await?.status, 201);
    let path = format!("{base}/life");
    object["data"]["step"] = json!("put");
    assert_eq!(
        client.put(&path, &object).await?.json()["data"]["step"],
        "put"
    );
    let change = json!({ "data": { "step": "patched" } });
    let patched = client.patch(&path, &change).await?;
    assert_eq!(patched.json()["data"]["step"], "patched");
    assert_eq!(client.delete(&path).await?.status, 200);
    assert_eq!(client.get(&path).await?.status, 404);
    Ok(())
}

/// The client the proxy is to the server: the front-proxy certificate.
fn front_proxy(plane: &ControlPlane) -> Result<ApiClient, Error> {
    let read = |name: &str| {
        std::fs::read_to_string(plane.pki_dir().join(name)).expect("kubeadm's files are there")
    };
    plane.client_with(Auth::Certificate(Credentials {
        cert_pem: read("front-proxy-client.crt"),
        key_pem: read("front-proxy-client.key"),
    }))
}

fn asserting_request(user: &str) -> Request<Bytes> {
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "SelfSubjectReview",
    });
    Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("content-type", "application/json")
        .header("x-remote-user", user)
        .header("x-remote-group", "team-a")
        .header("x-remote-group", "team-b")
        .header("x-remote-extra-example.org%2Fcolour", "blue")
        .body(Bytes::from(review.to_string()))
        .expect("a valid request")
}

#[tokio::test]
async fn the_front_proxy_certificate_may_assert_who_calls() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let answer = front_proxy(&plane)?
        .request(asserting_request("jane"))
        .await?;
    let user = answer.accept("asserting a user", &[])?.json()["status"]["userInfo"].clone();
    assert_eq!(user["username"], "jane");
    assert_eq!(groups(&user), ["team-a", "team-b", "system:authenticated"]);
    assert_eq!(user["extra"]["example.org/colour"][0], "blue");
    Ok(())
}

#[tokio::test]
async fn another_certificate_asserts_nothing() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let credentials = plane.client_certificate("front-proxy-client", &[], HOUR)?;
    let client = plane.client_with(Auth::Certificate(credentials))?;
    let answer = client.request(asserting_request("jane")).await?;
    let user = answer.accept("asserting a user", &[])?.json()["status"]["userInfo"].clone();
    assert_eq!(user["username"], "front-proxy-client");
    Ok(())
}

#[tokio::test]
async fn a_kubeconfig_we_write_works() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let auth = Auth::Certificate(plane.client_certificate("written", &[], HOUR)?);
    let path = plane.dir().join("written.conf");
    write_kubeconfig(
        &path,
        plane.server(),
        Some(SERVER_NAME),
        &plane.ca_pem()?,
        &auth,
    )?;
    let user = who_am_i(&plane.client_with(Kubeconfig::read(&path)?.auth)?).await?;
    assert_eq!(user["username"], "written");
    Ok(())
}

#[tokio::test]
async fn seeding_creates_what_is_missing_and_counts_it() -> Result<(), Error> {
    let Some(plane) = control_plane::for_tests() else {
        return Ok(());
    };
    let client = plane.client(Who::SuperAdmin)?;
    let mut plan = SeedPlan {
        kind: SeedKind::Pods,
        namespaces: 3,
        count: 20,
        bytes_each: 3000,
        concurrency: 8,
    };
    let mut last = 0;
    let first = seed(&client, plan, |done| last = done).await?;
    assert_eq!((first.created, last), (20, 20));
    plan.count = 30;
    assert_eq!(seed(&client, plan, |_| ()).await?.created, 10);
    let listed = client.get("/api/v1/pods?labelSelector=app.kubernetes.io/managed-by=seed");
    let items = listed.await?.json()["items"].as_array().map(Vec::len);
    assert_eq!(items, Some(30));

    plan.kind = SeedKind::ConfigMaps;
    assert_eq!(seed(&client, plan, |_| ()).await?.created, 30);
    Ok(())
}

#[tokio::test]
async fn a_restart_keeps_address_identities_and_data() -> Result<(), Error> {
    let options = Options {
        extra_sans: vec!["127.0.0.1".to_owned()],
        key_algorithm: KeyAlgorithm::EcdsaP256,
        pin_to_core: Some(0),
        ..Options::default()
    };
    let Some(mut plane) = control_plane::start_for_tests(options) else {
        return Ok(());
    };
    let (server, pid) = (plane.server().to_owned(), plane.pid());
    let auth = Kubeconfig::read(&plane.kubeconfig(Who::Admin))?.auth;
    let token = plane
        .service_account_token("kept", "agent", &TokenOptions::default())
        .await?;

    plane.restart()?;

    assert_eq!(plane.server(), server);
    assert_ne!(plane.pid(), pid);
    let admin = plane.client_with(auth)?;
    assert_eq!(admin.get("/api/v1/namespaces/kept").await?.status, 200);
    let user = who_am_i(&plane.client_with(Auth::Token(token))?).await?;
    assert_eq!(user["username"], "system:serviceaccount:kept:agent");

    // The serving certificate names what it was asked to besides.
    let by_address = ApiClient::new(ClientOptions {
        server,
        server_name: "127.0.0.1".to_owned(),
        ca_pem: plane.ca_pem()?,
        auth: Auth::Anonymous,
        protocol: Protocol::Negotiated,
    })?;
    assert_eq!(by_address.get("/version").await?.status, 200);
    Ok(())
}

#[test]
fn stopping_leaves_no_process_and_no_directory() {
    let Some(mut plane) = control_plane::start_for_tests(Options::default()) else {
        return;
    };
    let dir = plane.dir().to_owned();
    let pid = plane.pid().expect("it runs");
    assert!(is_running(pid));
    plane.stop();
    assert!(!is_running(pid));
    assert_eq!(plane.pid(), None);
    assert!(dir.is_dir());
    drop(plane);
    assert!(!dir.exists());
}

#[test]
fn a_flag_the_server_does_not_know_is_reported_with_the_log() {
    if control_plane::for_tests().is_none() {
        return;
    }
    let started = ControlPlane::start(Options {
        extra_flags: vec!["--no-such-flag=1".to_owned()],
        ..Options::default()
    });
    let error = started.expect_err("started all the same").to_string();
    assert!(error.contains("no-such-flag"), "{error}");
}
