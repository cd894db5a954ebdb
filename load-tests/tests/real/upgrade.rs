//! exec, attach, port-forward: tunnels when the server says so, and ordinary
//! answers when it does not.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use load_tests::control_plane::{Auth, BoundPod, Credentials, Subject, TokenOptions};
use serde_json::json;

use crate::support::{
    HOUR, Kubelet, PATIENCE, Plane, Proxy, Raw, RawAnswer, WHOAMI, plane, unique, until, username,
    verdict_of, whoami_body,
};

const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n";
const WEBSOCKET: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c3BpbGx3YXkgc3BpbGx3YQ==\r\n\
    Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n";

const PODS: &str = "/api/v1/namespaces/upgrades/pods";

/// A pod that is on no node and one on a node that is not there; the token is
/// the second one's.
async fn pods(plane: &Plane) -> Result<String> {
    let bound = |name: &str, node: Option<&str>| TokenOptions {
        pod: Some(BoundPod {
            name: name.to_owned(),
            node: node.map(str::to_owned),
        }),
        ..TokenOptions::default()
    };
    let unscheduled = bound("unscheduled", None);
    let scheduled = bound("scheduled", Some("worker-7"));
    plane
        .service_account_token("upgrades", "agent", &unscheduled)
        .await?;
    let token = plane.service_account_token("upgrades", "agent", &scheduled);
    Ok(token.await?)
}

fn admin(plane: &Plane) -> Result<Credentials> {
    Ok(plane.client_certificate("root", &["system:masters"], HOUR)?)
}

fn outcome(answer: &RawAnswer) -> serde_json::Value {
    let body = answer.json();
    let text = String::from_utf8_lossy(&answer.body);
    json!({
        "status": answer.status, "reason": body["reason"], "message": body["message"],
        "text": if body.is_null() { text.trim() } else { "" },
        "type": answer.header("content-type"),
    })
}

#[tokio::test]
async fn a_refused_upgrade_is_answered_as_without_the_proxy() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let token = pods(&plane).await?;
    let (admin, jane) = (
        admin(&plane)?,
        plane.client_certificate("jane", &["dev"], HOUR)?,
    );
    let by_header = format!("Authorization: Bearer {token}\r\n");
    let in_protocol = BASE64_URL_SAFE_NO_PAD.encode(&token);
    let in_protocol =
        format!("Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.{in_protocol}\r\n");
    let callers = [
        ("an administrator", Some(&admin), String::new()),
        ("a user", Some(&jane), String::new()),
        ("a service account", None, by_header),
        ("a token in the WebSocket protocol", None, in_protocol),
        ("nobody", None, String::new()),
    ];
    let targets = [
        "missing/exec?command=id&stdout=1",
        "unscheduled/exec?command=id&stdout=1",
        "scheduled/exec?command=id&stdout=1",
        "scheduled/attach?stdout=1",
        "missing/portforward?ports=80",
    ];
    for (who, credentials, line) in &callers {
        for target in targets {
            for (method, upgrade) in [("POST", SPDY), ("GET", WEBSOCKET)] {
                let request = format!(
                    "{method} {PODS}/{target} HTTP/1.1\r\nHost: kubernetes\r\n{line}{upgrade}\r\n"
                );
                let mut straight = Raw::straight(&plane, *credentials).await?;
                let expected = straight.ask(&request).await?;
                let mut through = proxy.raw(*credentials).await?;
                let answer = through.ask(&request).await?;
                assert!(expected.status >= 400, "{expected:?}");
                assert_eq!(
                    outcome(&answer),
                    outcome(&expected),
                    "{who}: {method} {target}"
                );
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_until_it_is_closed() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let node = format!("tunnel-node-{}", unique());
    let mut kubelet = Kubelet::start(&plane, &node).await?;
    let pod = format!("tunnel-{}", unique());
    let options = TokenOptions {
        pod: Some(BoundPod {
            name: pod.clone(),
            node: Some(node),
        }),
        ..TokenOptions::default()
    };
    let token = plane
        .service_account_token("upgrades", "tunneler", &options)
        .await?;
    let subject = Subject::ServiceAccount {
        namespace: "upgrades".to_owned(),
        name: "tunneler".to_owned(),
    };
    plane.bind_cluster_role(&subject, "cluster-admin").await?;
    let client = plane.client_with(Auth::Token(token.clone()))?;
    until("the account may open tunnels", async || {
        let answer = client.get("/api/v1/nodes?limit=1").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;

    let admin = admin(&plane)?;
    let line = format!("Authorization: Bearer {token}\r\n");
    for (credentials, line) in [(Some(&admin), String::new()), (None, line)] {
        let request = format!(
            "POST {PODS}/{pod}/portforward?ports=80 HTTP/1.1\r\nHost: kubernetes\r\n{line}\
             Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0\r\n\r\n"
        );
        let mut tunnel = proxy.raw(credentials).await?;
        let agreed = tunnel.ask(&request).await?;
        assert_eq!(agreed.status, 101, "{agreed:?}");
        assert_eq!(agreed.header("upgrade"), Some("SPDY/3.1"), "{agreed:?}");
        let mut sent = 0;
        for size in [5, 1, 70_000] {
            let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
                .take(size)
                .collect();
            tunnel.send(&bytes).await?;
            assert!(
                tunnel.take(size).await? == bytes,
                "{size} bytes came back changed"
            );
            sent += size;
        }
        let rest = tunnel.finish().await?;
        assert!(rest.is_empty(), "{} bytes out of nowhere", rest.len());
        let ended = tokio::time::timeout(PATIENCE, kubelet.ended.recv()).await?;
        assert_eq!(ended, Some(sent));
    }
    until("the tunnels are accounted for", async || {
        let metrics = proxy.metrics().await.ok()?;
        (metrics.sum("spillway_lane_in_flight", &["lane=\"main\""]) == 0.0).then_some(())
    })
    .await;
    Ok(())
}

/// CVE-2018-1002105: after an upgrade that failed, the proxy must not pass the
/// client's bytes to a connection that vouches for more than the client.
#[tokio::test]
async fn bytes_after_a_refused_upgrade_are_requests_of_their_sender() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let token = pods(&plane).await?;
    let jane = plane.client_certificate("jane", &["dev"], HOUR)?;
    let line = format!("Authorization: Bearer {token}\r\n");
    let callers = [
        (Some(&jane), String::new(), "jane"),
        (None, line, "system:serviceaccount:upgrades:agent"),
        (None, String::new(), ""),
    ];
    let body = whoami_body().to_string();
    for (credentials, line, user) in &callers {
        for (method, upgrade) in [("POST", SPDY), ("GET", WEBSOCKET)] {
            for pipelined in [true, false] {
                let first = format!(
                    "{method} {PODS}/missing/exec?command=id HTTP/1.1\r\n\
                     Host: kubernetes\r\n{line}{upgrade}\r\n"
                );
                let smuggled = format!(
                    "POST {WHOAMI} HTTP/1.1\r\nHost: kubernetes\r\n{line}\
                     X-Remote-User: root\r\nX-Remote-Group: system:masters\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                let mut connection = proxy.raw(*credentials).await?;
                if pipelined {
                    let both = format!("{first}{smuggled}");
                    connection.send(both.as_bytes()).await?;
                } else {
                    connection.send(first.as_bytes()).await?;
                }
                let refused = connection.answer().await?.context("no answer")?;
                assert!([403, 404].contains(&refused.status), "{refused:?}");
                if !pipelined {
                    // It may be closed already.
                    let _ = connection.send(smuggled.as_bytes()).await;
                }
                let Some(next) = connection.answer().await? else {
                    continue;
                };
                let verdict = verdict_of(next.status, &next.json());
                assert_eq!(username(&verdict), *user, "{next:?}");
            }
        }
    }
    Ok(())
}
