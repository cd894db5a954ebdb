//! Identities stated in headers: by an authenticating proxy before the server, and before Spillway before the server.
//!
//! The server believes certificates of its front-proxy authority; here Spillway is told to believe the same, so that each
//! question can be put to both and the answers compared.

use anyhow::Result;
use bytes::Bytes;
use http::Request;
use load_tests::control_plane::{ApiClient, Auth, ControlPlane, Credentials};
use serde_json::Value;

use crate::support::{
    AUDITED_NAMESPACE, Authority, HOUR, Plane, Proxy, Raw, TestDir, WHOAMI, copy_pki, plane,
    unique, until, username, verdict, whoami_body,
};

const PEER: &str = "front-proxy-client";

fn file(plane: &ControlPlane, name: &str) -> Result<String> {
    Ok(std::fs::read_to_string(plane.pki_dir().join(name))?)
}

fn front_proxy(plane: &ControlPlane) -> Result<Auth> {
    Ok(Auth::Certificate(Credentials {
        cert_pem: file(plane, "front-proxy-client.crt")?,
        key_pem: file(plane, "front-proxy-client.key")?,
    }))
}

/// One that believes the same peers as the server.
fn believing(plane: &ControlPlane) -> Result<Proxy> {
    Proxy::with(plane, |config| {
        config.request_header.client_ca = Some(plane.pki_dir().join("front-proxy-ca.crt"));
        config.request_header.allowed_names = vec![PEER.to_owned()];
    })
}

async fn whoami_with(client: &ApiClient, headers: &[(&str, &str)]) -> Result<Value> {
    let mut request = Request::post(WHOAMI).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Bytes::from(whoami_body().to_string()))?;
    Ok(verdict(&client.request(request).await?))
}

async fn token(plane: &Plane) -> Result<String> {
    Ok(plane
        .service_account_token(
            "telemetry",
            "agent",
            &load_tests::control_plane::TokenOptions::default(),
        )
        .await?)
}

#[tokio::test]
async fn a_peer_states_the_same_identities_with_the_proxy_as_without() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = believing(&plane)?;
    let token = format!("Bearer {}", token(&plane).await?);
    let user = ("x-remote-user", "jane");
    let cases: &[&[(&str, &str)]] = &[
        &[user],
        &[user, ("x-remote-group", "dev"), ("x-remote-group", "ops")],
        &[user, ("x-remote-group", ""), ("x-remote-group", "dev")],
        &[user, ("x-remote-group", "system:masters")],
        &[user, ("x-remote-uid", "u-1")],
        &[
            user,
            ("x-remote-extra-Scopes", "a"),
            ("x-remote-extra-scopes", "b"),
        ],
        &[
            user,
            ("x-remote-extra-acme.com%2fproject", "p"),
            ("x-remote-extra-%41%zz", "q"),
        ],
        &[
            user,
            ("x-remote-extra-%41bc", "upper"),
            ("x-remote-extra-", "empty"),
        ],
        &[user, ("x-remote-extra-none", "")],
        &[user, ("x-remote-user", "second")],
        &[("x-remote-user", ""), user],
        &[("x-remote-user", "jürgen"), ("x-remote-group", "größe")],
        &[user, ("authorization", &token)],
        &[user, ("authorization", "Bearer garbage")],
        &[("authorization", &token)],
        &[
            ("authorization", &token),
            ("x-remote-group", "system:masters"),
        ],
        &[("authorization", "Bearer garbage")],
        &[],
        &[("x-remote-user", "")],
        &[("x-remote-group", "system:masters")],
        &[
            ("x-remote-user", "system:serviceaccount:telemetry:agent"),
            ("x-remote-group", "system:serviceaccounts"),
        ],
        &[
            ("x-remote-user", "system:node:worker-1"),
            ("x-remote-group", "system:nodes"),
        ],
        &[
            ("x-remote-user", "system:anonymous"),
            ("x-remote-group", "system:unauthenticated"),
        ],
        &[user, ("x-remote-group", "system:unauthenticated")],
        &[user, ("x-remote-group", "system:authenticated")],
        &[
            ("x_remote_user", "root"),
            ("x_remote_group", "system:masters"),
        ],
        &[user, ("impersonate-user", "bob")],
        &[
            user,
            ("x-remote-group", "system:masters"),
            ("impersonate-user", "bob"),
        ],
    ];
    let (straight, through) = (
        plane.client_with(front_proxy(&plane)?)?,
        proxy.client(front_proxy(&plane)?)?,
    );
    for headers in cases {
        let expected = whoami_with(&straight, headers).await?;
        assert_eq!(
            expected,
            whoami_with(&through, headers).await?,
            "{headers:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn who_is_no_peer_states_nothing_with_the_proxy_as_without() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = believing(&plane)?;
    let authority = |name: &str| -> Result<Authority> {
        Authority::from_files(
            &file(&plane, &format!("{name}.crt"))?,
            &file(&plane, &format!("{name}.key"))?,
        )
    };
    let token = format!("Bearer {}", token(&plane).await?);
    let clients = [
        (
            "another name",
            Auth::Certificate(authority("front-proxy-ca")?.client("other", "x")?),
        ),
        (
            "a foreign authority",
            Auth::Certificate(Authority::new("front-proxy-ca")?.client(PEER, "x")?),
        ),
        (
            "a server's certificate",
            Auth::Certificate(authority("front-proxy-ca")?.serving(PEER)?),
        ),
        (
            "the cluster's authority",
            Auth::Certificate(plane.client_certificate(PEER, &["x"], HOUR)?),
        ),
        ("nobody", Auth::Anonymous),
    ];
    for (what, auth) in clients {
        let (straight, through) = (plane.client_with(auth.clone())?, proxy.client(auth)?);
        for more in [None, Some(("authorization", &*token))] {
            let mut headers = vec![
                ("x-remote-user", "root"),
                ("x-remote-group", "system:masters"),
            ];
            headers.extend(more);
            let expected = whoami_with(&straight, &headers).await?;
            assert_ne!(username(&expected), "root", "{what}");
            assert_eq!(
                expected,
                whoami_with(&through, &headers).await?,
                "{what}, {more:?}"
            );
        }
    }
    Ok(())
}

/// Also over HTTP/1.1 and for an upgrade, and in the audit log with the address the peer names.
#[tokio::test]
async fn the_audit_log_shows_whom_a_peer_spoke_for_and_from_where() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = believing(&plane)?;
    let Auth::Certificate(peer) = front_proxy(&plane)? else {
        unreachable!("a certificate")
    };
    let mut seen = Vec::new();
    for mut connection in [
        Raw::straight(&plane, Some(&peer)).await?,
        proxy.raw(Some(&peer)).await?,
    ] {
        let path = format!(
            "/api/v1/namespaces/{AUDITED_NAMESPACE}/configmaps/stated-{}",
            unique()
        );
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: kubernetes\r\nX-Remote-User: jane\r\nX-Remote-Group: dev\r\n\
             X-Remote-Extra-Acme.Com%2FProject: p\r\nX-Forwarded-For: 198.51.100.6\r\n\r\n"
        );
        connection.ask(&request).await?;
        seen.push(until("an audit event", async || plane.audited(&path)).await);
    }
    assert_eq!(seen[0]["user"]["username"], "jane");
    assert_eq!(seen[0]["user"], seen[1]["user"]);
    assert_eq!(seen[0]["sourceIPs"][0], "198.51.100.6");
    assert_eq!(seen[1]["sourceIPs"][0], "198.51.100.6");
    Ok(())
}

#[tokio::test]
async fn nobody_who_is_stated_cannot_break_off_what_others_share() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = believing(&plane)?;
    let peer = proxy.client(front_proxy(&plane)?)?;
    let nobody = [
        ("x-remote-user", "system:anonymous"),
        ("x-remote-group", "system:unauthenticated"),
    ];
    let connections = async || -> Result<f64> {
        let page = proxy.metrics().await?;
        Ok(page.sum(
            "spillway_upstream_connections",
            &["pool=\"asserted\"", "traffic=\"short\""],
        ))
    };
    whoami_with(&peer, &[("x-remote-user", "jane")]).await?;
    until("a shared connection", async || {
        connections()
            .await
            .is_ok_and(|count| count > 0.0)
            .then_some(())
    })
    .await;
    let before = connections().await?;
    for _ in 0..50 {
        let refused = whoami_with(&peer, &nobody).await?;
        assert_eq!(refused["status"], 403, "{refused}");
        let jane = whoami_with(&peer, &[("x-remote-user", "jane")]).await?;
        assert_eq!(username(&jane), "jane");
    }
    assert!(
        connections().await? <= before,
        "one connection served them all"
    );
    Ok(())
}

#[tokio::test]
async fn an_authority_is_exchanged_on_an_open_connection() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let dir = TestDir::new()?;
    copy_pki(&plane, dir.path())?;
    let path = dir.path().join("peers.crt");
    let (first, second) = (Authority::new("peers")?, Authority::new("peers")?);
    std::fs::write(&path, &first.ca_pem)?;
    let proxy = Proxy::with(&plane, |config| {
        config.request_header.client_ca = Some(path.clone());
    })?;
    let old = proxy.client(Auth::Certificate(first.client("any name", "x")?))?;
    let jane = [("x-remote-user", "jane")];
    assert_eq!(username(&whoami_with(&old, &jane).await?), "jane");
    crate::support::replace(&path, &second.ca_pem)?;
    until("the first authority is gone", async || {
        let refused = whoami_with(&old, &jane).await.ok()?;
        (refused["status"] == 401).then_some(())
    })
    .await;
    let new = proxy.client(Auth::Certificate(second.client("any name", "x")?))?;
    assert_eq!(username(&whoami_with(&new, &jane).await?), "jane");
    Ok(())
}
