//! A tenant in quarantine on a real server, over a restart of the proxy in the middle of the incident.

use anyhow::{Context as _, Result};
use load_tests::control_plane::{ApiClient, Auth, ControlPlane, Subject, TokenOptions};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{ProxyProcess, TestDir, audited, plane, spillway, unique, until};

const PODS: &str = "/api/v1/pods?limit=5";
const WATCH: &str = "/api/v1/pods?watch=1&resourceVersion=0&timeoutSeconds=1";

/// A service account that may read pods, and its name as a user.
async fn agent(plane: &ControlPlane, name: &str) -> Result<(Auth, String)> {
    let token = plane
        .service_account_token("telemetry", name, &TokenOptions::default())
        .await?;
    let subject = Subject::ServiceAccount {
        namespace: "telemetry".to_owned(),
        name: name.to_owned(),
    };
    plane.bind_cluster_role(&subject, "view").await?;
    let auth = Auth::Token(token);
    let straight = plane.client_with(auth.clone())?;
    until("the agent may read", async || {
        let answer = straight.get(PODS).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    Ok((auth, format!("system:serviceaccount:telemetry:{name}")))
}

/// Status, and why it was refused if it was.
async fn ask(client: &ApiClient, path: &str) -> Result<(u16, String)> {
    let answer = client.get(path).await?;
    let reason = answer.headers.get("x-spillway-reason");
    let reason = reason.map(|reason| reason.to_str().map(str::to_owned));
    Ok((answer.status, reason.transpose()?.unwrap_or_default()))
}

/// The first line of the audit log about `event` of the measure `id`, once it is written.
async fn audit_line(dir: &TestDir, event: &str, id: &Value) -> Value {
    until(event, async || {
        let mut lines = audited(dir).into_iter();
        lines.find(|line| line["event"] == event && line["id"] == *id)
    })
    .await
}

#[tokio::test]
async fn a_quarantined_tenant_is_refused_and_nobody_else_until_it_is_lifted_or_over() -> Result<()>
{
    let Some(plane) = plane() else { return Ok(()) };
    let (number, dir) = (unique(), TestDir::new()?);
    let (agent_auth, agent_user) = agent(&plane, &format!("quarantined-{number}")).await?;
    let (other_auth, _) = agent(&plane, &format!("other-{number}")).await?;
    let state = dir.path().join("state");
    let sections = format!("admission: {{ state: {} }}\n", state.display());
    let mut proxy = ProxyProcess::with_socket(&plane, &dir, None, &sections).await?;
    let addresses = Some((proxy.main, proxy.admin));
    let agent = proxy.client(agent_auth.clone())?;
    let other = proxy.client(other_auth.clone())?;
    let served = (200, String::new());
    let held = (429, "quarantined".to_owned());
    for client in [&agent, &other] {
        assert_eq!(ask(client, PODS).await?, served);
    }

    let on_agent = ["quarantine", "add", "--tenant", &agent_user];
    let hour = ["--for", "1h", "--reason", "INC-1"];
    let done = spillway(&dir, &[&on_agent[..], &hour].concat()).await?;
    assert_eq!(done["kept"], true, "{done}");
    for path in [PODS, WATCH] {
        assert_eq!(ask(&agent, path).await?, held, "{path}");
        assert_eq!(ask(&other, path).await?, served, "{path}");
    }
    let refused = agent.get(PODS).await?;
    let body = refused.json();
    assert_eq!(
        (&body["kind"], &body["reason"]),
        (&json!("Status"), &json!("TooManyRequests"))
    );
    let seconds: u32 = refused.headers["retry-after"].to_str()?.parse()?;
    assert!((1..=32).contains(&seconds), "{seconds}");

    // Over a restart.
    proxy.signal(Signal::TERM)?;
    proxy.ended().await?;
    let proxy = ProxyProcess::with_socket(&plane, &dir, addresses, &sections).await?;
    let (agent, other) = (proxy.client(agent_auth)?, proxy.client(other_auth)?);
    assert_eq!(ask(&agent, PODS).await?, held, "after the restart");
    assert_eq!(ask(&other, PODS).await?, served);

    let listed = spillway(&dir, &["quarantine", "list"]).await?;
    let list = listed.as_array().context("a list")?;
    assert_eq!(list.len(), 1, "{listed}");
    assert_eq!(list[0]["target"]["tenant"], *agent_user, "{listed}");
    assert_eq!(
        (&list[0]["reason"], &list[0]["refused"]),
        (&json!("INC-1"), &json!(1))
    );
    let id = &list[0]["id"];
    spillway(&dir, &["quarantine", "remove", &id.to_string()]).await?;
    assert_eq!(ask(&agent, PODS).await?, served, "lifted");
    for event in ["measure_taken", "measure_goes_on", "measure_ended"] {
        let line = audit_line(&dir, event, id).await;
        let (whom, author) = (line["whom"].to_string(), line["author"].as_str());
        assert!(whom.contains(&*agent_user), "{line}");
        assert!(author.is_some_and(|author| !author.is_empty()), "{line}");
        assert_eq!(line["reason"], "INC-1", "{line}");
    }
    audit_line(&dir, "measure_ended_by", id).await;

    // One that ends by itself.
    let short = ["--for", "2s", "--reason", "INC-2"];
    let done = spillway(&dir, &[&on_agent[..], &short].concat()).await?;
    let id = &done["measure"]["id"];
    until("it is over", async || {
        let asked = ask(&agent, PODS).await.ok()?;
        assert!([&served, &held].contains(&&asked), "{asked:?}");
        (asked == served).then_some(())
    })
    .await;
    let line = audit_line(&dir, "measure_over", id).await;
    assert_eq!(line["reason"], "INC-2", "{line}");
    assert_eq!(spillway(&dir, &["quarantine", "list"]).await?, json!([]));
    Ok(())
}
