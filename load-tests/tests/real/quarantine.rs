//! A tenant in quarantine on a real server, over a restart of the proxy in the middle of the incident.

use anyhow::{Context as _, Result, ensure};
use load_tests::control_plane::{ApiClient, Auth, ControlPlane, Subject, TokenOptions};
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

use crate::support::{ProxyProcess, TestDir, plane, unique, until};

const PODS: &str = "/api/v1/pods?limit=5";
const WATCH: &str = "/api/v1/pods?watch=1&resourceVersion=0";

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

/// Runs `spillway arguments…` against the process of `dir`.
async fn command(dir: &TestDir, arguments: &[&str]) -> Result<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_load-tests"))
        .arg("spillway")
        .args(arguments)
        .arg("--socket")
        .arg(dir.path().join("admin.sock"))
        .args(["-o", "json"])
        .stdin(std::process::Stdio::null())
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Status and reason of what is refused.
async fn refused(client: &ApiClient, path: &str) -> Result<(u16, String)> {
    let answer = client.get(path).await?;
    let reason = answer.headers.get("x-spillway-reason");
    let reason = reason.map(|reason| reason.to_str().map(str::to_owned));
    Ok((answer.status, reason.transpose()?.unwrap_or_default()))
}

fn events(dir: &TestDir) -> Vec<String> {
    let text = std::fs::read_to_string(dir.path().join("audit.log")).unwrap_or_default();
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let events = lines.filter_map(|line| Some(line["event"].as_str()?.to_owned()));
    events.collect()
}

#[tokio::test]
async fn one_tenant_is_refused_and_nobody_else_also_after_a_restart() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let (number, dir) = (unique(), TestDir::new()?);
    let (agent_auth, agent_user) = agent(&plane, &format!("quarantined-{number}")).await?;
    let (other_auth, _) = agent(&plane, &format!("other-{number}")).await?;
    let at = |name: &str| dir.path().join(name).display().to_string();
    let more = format!(
        "admin: {{ socket: {} }}\nadmission: {{ state: {} }}\nlog: {{ audit: {{ file: {} }} }}\n",
        at("admin.sock"),
        at("state"),
        at("audit.log")
    );
    let mut proxy = ProxyProcess::configured(&plane, &dir, None, &more).await?;
    let addresses = Some((proxy.main, proxy.admin));
    let (agent, other) = (
        proxy.client(agent_auth.clone())?,
        proxy.client(other_auth.clone())?,
    );
    for client in [&agent, &other] {
        assert_eq!(client.get(PODS).await?.status, 200);
    }
    let quarantine = [
        "quarantine",
        "add",
        "--tenant",
        &agent_user,
        "--for",
        "1h",
        "--reason",
        "INC-1",
    ];
    let done = command(&dir, &quarantine).await?;
    assert_eq!(done["kept"], true, "{done}");
    let mode = [
        "mode", "shadow", "--class", "bulk", "--for", "1h", "--reason", "INC-1",
    ];
    assert_eq!(command(&dir, &mode).await?["kept"], true);
    let held = (429, "quarantined".to_owned());
    for path in [PODS, WATCH] {
        assert_eq!(refused(&agent, path).await?, held, "{path}");
    }
    assert_eq!(other.get(PODS).await?.status, 200);

    proxy.signal(Signal::TERM)?;
    proxy.ended().await?;
    let proxy = ProxyProcess::configured(&plane, &dir, addresses, &more).await?;
    let (agent, other) = (proxy.client(agent_auth)?, proxy.client(other_auth)?);
    assert_eq!(refused(&agent, PODS).await?, held, "after the restart");
    assert_eq!(other.get(PODS).await?.status, 200);
    let page = command(&dir, &["mode"]).await?;
    let classes = page["classes"].as_array().context("classes")?;
    let bulk = classes.iter().find(|class| class["class"] == "bulk");
    assert_eq!(bulk.context("bulk")?["mode"], "shadow", "{page}");

    let listed = command(&dir, &["quarantine", "list"]).await?;
    let id = listed[0]["id"].to_string();
    command(&dir, &["quarantine", "remove", &id]).await?;
    assert_eq!(agent.get(PODS).await?.status, 200);
    let wanted = [
        "measure_taken",
        "mode_changed",
        "measure_goes_on",
        "mode_goes_on",
        "measure_ended",
    ];
    until("all of it is in the audit log", async || {
        let events = events(&dir);
        let all = wanted
            .iter()
            .all(|event| events.iter().any(|one| one == event));
        all.then_some(())
    })
    .await;
    Ok(())
}
