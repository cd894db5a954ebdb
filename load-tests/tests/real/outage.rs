//! The control plane goes away and comes back; the proxy stays.

use anyhow::Result;
use load_tests::control_plane::{Answer, Auth};
use load_tests::control_plane::{ApiClient, ControlPlane, Kubeconfig, TokenOptions, Who};

use crate::support::{Proxy, own_plane, until, username, whoami};

const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0";

/// Starting and stopping block, and the clients of the test live on its thread.
async fn on_a_thread(
    mut plane: ControlPlane,
    work: fn(&mut ControlPlane) -> Result<()>,
) -> Result<ControlPlane> {
    tokio::task::spawn_blocking(move || work(&mut plane).map(|()| plane)).await?
}

fn stop(plane: &mut ControlPlane) -> Result<()> {
    plane.stop();
    Ok(())
}

fn restart(plane: &mut ControlPlane) -> Result<()> {
    Ok(plane.restart()?)
}

fn assert_says_come_back(answer: &Answer, status: u16) {
    let body = answer.json();
    assert_eq!(answer.status, status, "{body}");
    let seconds = answer.headers["retry-after"].to_str().unwrap_or_default();
    let seconds: u32 = seconds.parse().unwrap_or_default();
    assert!((1..=32).contains(&seconds), "{:?}", answer.headers);
    assert_eq!(body["kind"], "Status", "{body}");
    assert_eq!(body["code"], status, "{body}");
    assert_eq!(body["details"]["retryAfterSeconds"], seconds, "{body}");
}

async fn assert_down(proxy: &Proxy, clients: &[ApiClient]) -> Result<()> {
    for client in clients {
        assert_says_come_back(&client.get("/api/v1/namespaces/default").await?, 503);
        // A reflector answers anything but 429 with a full LIST.
        assert_says_come_back(&client.get(WATCH).await?, 429);
        // Nobody repeats a write whose connection is refused.
        let review = serde_json::json!({});
        let write = client.post("/api/v1/namespaces", &review).await?;
        assert_eq!(
            (write.status, write.headers.get("retry-after")),
            (503, None)
        );
    }
    assert_eq!(proxy.page("/livez").await?.0, 200);
    until("the proxy knows that the server is away", async || {
        let (status, page) = proxy.page("/readyz").await.ok()?;
        (status == 503 && page.contains("[-]upstream")).then_some(())
    })
    .await;
    Ok(())
}

async fn assert_up(proxy: &Proxy, clients: &[(ApiClient, &str)]) {
    for (client, user) in clients {
        until("the user is served again", async || {
            let verdict = whoami(client).await.ok()?;
            (username(&verdict) == *user).then_some(())
        })
        .await;
    }
    until("the proxy is ready", async || {
        (proxy.page("/readyz").await.ok()?.0 == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_the_server_calls_are_told_to_come_back_and_later_served() -> Result<()> {
    let Some(plane) = own_plane() else {
        return Ok(());
    };
    let token = plane
        .service_account_token("outage", "agent", &TokenOptions::default())
        .await?;
    let admin = Kubeconfig::read(&plane.kubeconfig(Who::Admin))?.auth;

    // The proxy starts first.
    let plane = on_a_thread(plane, stop).await?;
    let proxy = Proxy::before(&plane)?;
    let users = [
        (proxy.client(admin.clone())?, "kubernetes-admin"),
        (
            proxy.client(Auth::Token(token))?,
            "system:serviceaccount:outage:agent",
        ),
        (proxy.reserved_client(admin)?, "kubernetes-admin"),
    ];
    let anonymous = proxy.client(Auth::Anonymous)?;
    let mut clients: Vec<_> = users.iter().map(|(client, _)| client.clone()).collect();
    assert_down(&proxy, &clients).await?;
    assert_says_come_back(&anonymous.get("/version").await?, 503);

    let plane = on_a_thread(plane, restart).await?;
    assert_up(&proxy, &users).await;
    assert_eq!(anonymous.get("/version").await?.status, 200);

    // The server goes under calls and watches, and comes back.
    let watch = http::Request::get(WATCH).body(bytes::Bytes::new())?;
    let watch = clients[0].open(watch).await?;
    assert_eq!(watch.status(), 200);
    let plane = on_a_thread(plane, stop).await?;
    clients.push(anonymous.clone());
    assert_down(&proxy, &clients[..3]).await?;
    drop(watch);
    let plane = on_a_thread(plane, restart).await?;
    assert_up(&proxy, &users).await;
    assert_eq!(anonymous.get("/version").await?.status, 200);
    drop(plane);
    Ok(())
}
