//! The reserved lane: for whom it is kept, and that it answers.

use anyhow::Result;
use bytes::Bytes;
use http::Request;
use load_tests::control_plane::{Auth, Kubeconfig, TokenOptions, Who};

use crate::support::{Authority, HOUR, PATIENCE, Proxy, TestDir, plane, username, whoami};

#[tokio::test]
async fn it_is_open_to_the_listed_and_to_nobody_else() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::with(&plane, |config| {
        config.reserved.users = vec!["on-call".to_owned()];
        config.reserved.service_accounts = vec!["rollback/argo".to_owned()];
    })?;
    let admin = Kubeconfig::read(&plane.kubeconfig(Who::Admin))?.auth;
    let certificate = |user, groups: &[&str]| {
        let credentials = plane.client_certificate(user, groups, HOUR);
        credentials.map(Auth::Certificate)
    };
    let token = |namespace, name| {
        let plane = &plane;
        async move {
            let options = TokenOptions::default();
            let token = plane.service_account_token(namespace, name, &options);
            token.await.map(Auth::Token)
        }
    };
    let welcome = [
        (admin, "kubernetes-admin"),
        (certificate("root", &["system:masters"])?, "root"),
        (certificate("on-call", &[])?, "on-call"),
        (
            token("rollback", "argo").await?,
            "system:serviceaccount:rollback:argo",
        ),
    ];
    for (auth, user) in welcome {
        let client = proxy.reserved_client(auth)?;
        assert_eq!(username(&whoami(&client).await?), user);
    }
    let foreign = Authority::new("elsewhere")?.client("root", "system:masters")?;
    let unwelcome = [
        (certificate("jane", &["dev"])?, 403),
        (token("rollback", "other").await?, 403),
        (Auth::Certificate(foreign), 401),
        (Auth::Token("garbage".to_owned()), 401),
        (Auth::Anonymous, 401),
    ];
    for (auth, status) in unwelcome {
        let answer = proxy.reserved_client(auth.clone())?.get("/version").await?;
        assert_eq!(answer.status, status, "{auth:?}");
        let body = answer.json();
        assert_eq!(body["kind"], "Status", "{auth:?}: {body}");
        assert_eq!(body["code"], status, "{auth:?}: {body}");
    }
    Ok(())
}

#[tokio::test]
async fn a_break_glass_certificate_opens_it_and_nothing_else() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let dir = TestDir::new()?;
    let authority = Authority::new("break-glass")?;
    let file = dir.path().join("break-glass.crt");
    std::fs::write(&file, &authority.ca_pem)?;
    let proxy = Proxy::with(&plane, |config| config.reserved.client_ca = Some(file))?;
    let credentials = authority.client("on-call", "kubeadm:cluster-admins")?;
    let auth = Auth::Certificate(credentials);

    let reserved = proxy.reserved_client(auth.clone())?;
    let user = whoami(&reserved).await?;
    assert_eq!(username(&user), "on-call", "{user}");
    // An administrator there, whom the cluster's own authority does not know.
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    assert_eq!(reserved.get(secrets).await?.status, 200);
    assert_eq!(proxy.client(auth.clone())?.get(secrets).await?.status, 401);
    assert_eq!(plane.client_with(auth)?.get(secrets).await?.status, 401);
    Ok(())
}

#[tokio::test]
async fn it_answers_while_every_worker_of_the_main_lane_is_stuck() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let admin = Kubeconfig::read(&plane.kubeconfig(Who::Admin))?.auth;
    let main = proxy.client(admin.clone())?;
    assert_eq!(main.get("/version").await?.status, 200);

    let stuck = proxy.block_main_lane();
    assert_eq!(stuck.len(), 2, "not all workers are stuck");
    let waiting = tokio::spawn(async move { main.get("/version").await });
    // A new connection, a write, a read, and the admin port.
    let reserved = proxy.reserved_client(admin)?;
    let calls = async {
        let user = whoami(&reserved).await?;
        assert_eq!(username(&user), "kubernetes-admin");
        let secrets = reserved.get("/api/v1/namespaces/kube-system/secrets");
        assert_eq!(secrets.await?.status, 200);
        assert_eq!(proxy.page("/livez").await?.0, 200);
        assert!(proxy.metrics().await?.sum("spillway_lane_up", &[]) >= 1.0);
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, calls).await??;
    assert!(!waiting.is_finished(), "the main lane was not stuck");
    drop(stuck);
    assert_eq!(waiting.await??.status, 200);
    Ok(())
}

#[tokio::test]
async fn its_bound_holds_and_says_when_to_come_back() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::with(&plane, |config| config.reserved.max_in_flight = 1)?;
    let admin = Kubeconfig::read(&plane.kubeconfig(Who::Admin))?.auth;
    let client = proxy.reserved_client(admin)?;
    assert_eq!(client.get("/version").await?.status, 200);

    let watch = Request::get("/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0")
        .body(Bytes::new())?;
    let watch = client.open(watch).await?;
    assert_eq!(watch.status(), 200);
    let refused = client.get("/version").await?;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.headers["retry-after"], "1");
    let body = refused.json();
    assert_eq!(body["kind"], "Status", "{body}");
    assert_eq!(body["reason"], "TooManyRequests", "{body}");

    drop(watch);
    crate::support::until("the place of the watch is free", async || {
        let answer = client.get("/version").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    Ok(())
}
