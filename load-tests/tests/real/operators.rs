//! The commands for the worst hour, in front of the real server and without it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use load_tests::control_plane::{Kubeconfig, Who};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{AUDITED_NAMESPACE, Proxy, TestDir, own_plane, plane, until};

/// What a command said.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `spillway arguments…`.
async fn spillway(arguments: &[&str]) -> Result<Said> {
    let output = Command::new(env!("CARGO_BIN_EXE_load-tests"))
        .arg("spillway")
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .output()
        .await?;
    Ok(Said {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// The commands of one proxy.
struct Commands(PathBuf);

impl Commands {
    async fn run(&self, arguments: &[&str]) -> Result<Said> {
        let socket = self.0.to_str().context("text")?;
        spillway(&[arguments, &["--socket", socket]].concat()).await
    }

    async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let said = self.run(&[arguments, &["-o", "json"]].concat()).await?;
        ensure!(said.code == Some(0), "{arguments:?}: {}", said.stderr);
        Ok(serde_json::from_str(&said.stdout)?)
    }
}

/// The break-glass authority in a folder of its own.
struct BreakGlass {
    dir: String,
    target: [String; 4],
}

impl BreakGlass {
    async fn init(dir: &Path) -> Result<()> {
        let dir = dir.to_str().context("text")?;
        let made = spillway(&["break-glass", "init", "--dir", dir]).await?;
        ensure!(made.code == Some(0), "{}", made.stderr);
        Ok(())
    }

    fn new(dir: &Path, proxy: &Proxy, ca: &Path) -> Result<Self> {
        let text = |path: &Path| path.to_str().map(str::to_owned).context("text");
        let server = format!("https://{}", proxy.reserved());
        Ok(Self {
            dir: text(dir)?,
            target: ["--server".into(), server, "--server-ca".into(), text(ca)?],
        })
    }

    async fn run(&self, arguments: &[&str], with_target: bool) -> Result<Said> {
        let mut all = vec!["break-glass"];
        all.extend(arguments);
        all.extend(["--dir", &self.dir]);
        if with_target {
            all.extend(self.target.iter().map(String::as_str));
        }
        spillway(&all).await
    }
}

#[tokio::test]
async fn the_commands_work_with_the_server_and_without_it() -> Result<()> {
    let Some(plane) = own_plane() else {
        return Ok(());
    };
    let dir = TestDir::new()?;
    let glass = dir.path().join("glass");
    BreakGlass::init(&glass).await?;
    let commands = Commands(dir.path().join("admin.sock"));
    let proxy = Proxy::with(&plane, |config| {
        config.admin.socket = Some(commands.0.clone());
        config.reserved.client_ca = Some(glass.join("ca.crt"));
    })?;
    let client = proxy.client_as(&plane, Who::Admin)?;
    let answer = client.get("/api/v1/namespaces/default").await?;
    assert_eq!(answer.status, 200);

    // By the audit id that the server gave it.
    let id = answer.headers["audit-id"].to_str()?.to_owned();
    let asked = ["explain", &*id];
    let past = until("the request is over", async || {
        commands.json(&asked).await.ok()
    })
    .await;
    assert_eq!(past["record"]["user"], "kubernetes-admin");
    assert_eq!(past["record"]["status"], 200);
    assert_eq!(past["record"]["class"], "operators");
    let status = commands.json(&["top", "--once"]).await?;
    assert_eq!(status["upstream"], true, "{status}");

    // The server goes away; everything an operator has goes on working.
    let ca = plane.pki_dir().join("ca.crt");
    let plane = tokio::task::spawn_blocking(move || {
        let mut plane = plane;
        plane.stop();
        plane
    })
    .await?;
    until("it is known to be away", async || {
        let status = commands.json(&["top", "--once"]).await.ok()?;
        (status["upstream"] == false).then_some(())
    })
    .await;
    let level = commands.run(&["level"]).await?;
    assert!(level.stdout.contains("DOES NOT ANSWER"), "{}", level.stdout);
    assert_eq!(commands.run(&["culprit"]).await?.code, Some(1));
    let explained = [
        "explain",
        "GET",
        "/api/v1/pods",
        "--user",
        "system:serviceaccount:mon:agent",
    ];
    assert_eq!(commands.json(&explained).await?["class"], "bulk");
    let mode = commands
        .json(&["mode", "shadow", "--for", "1h", "--reason", "INC-1"])
        .await?;
    assert_eq!(mode["classes"][0]["mode"], "shadow");
    assert_eq!(
        commands.json(&["mode", "configured"]).await?["changes"],
        json!([])
    );

    // Access is issued, proven and ended while it is away.
    let glass = BreakGlass::new(&glass, &proxy, &ca)?;
    let file = dir.path().join("jane.conf");
    let file = file.to_str().context("text")?;
    let issue = [
        "issue", "--name", "jane", "--reason", "INC-1", "--out", file,
    ];
    let issued = glass.run(&issue, true).await?;
    assert_eq!(issued.code, Some(0), "{}", issued.stderr);
    let proven = glass.run(&["test", "--kubeconfig", file], false).await?;
    assert_eq!(proven.code, Some(0), "{}", proven.stderr);
    assert!(
        proven.stdout.contains("let in as jane"),
        "{}",
        proven.stdout
    );
    assert!(proven.stdout.contains("503"), "{}", proven.stdout);
    drop(plane);
    Ok(())
}

#[tokio::test]
async fn break_glass_access_is_an_administrators_until_it_is_revoked() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let dir = TestDir::new()?;
    let glass = dir.path().join("glass");
    BreakGlass::init(&glass).await?;
    // From a file, which is watched: the list of revoked ones is read when it changes.
    let commands = Commands(dir.path().join("admin.sock"));
    let proxy = Proxy::with(&plane, |config| {
        config.admin.socket = Some(commands.0.clone());
        config.reserved.client_ca = Some(glass.join("ca.crt"));
        config.reserved.revoked = Some(glass.join("revoked"));
    })?;
    let glass = BreakGlass::new(&glass, &proxy, &plane.pki_dir().join("ca.crt"))?;
    let file = dir.path().join("jane.conf");
    let text = file.to_str().context("text")?;
    let issue = [
        "issue", "--name", "jane", "--reason", "INC-1", "--out", text,
    ];
    let issued = glass.run(&issue, true).await?;
    assert_eq!(issued.code, Some(0), "{}", issued.stderr);
    let proven = glass.run(&["test", "--kubeconfig", text], false).await?;
    assert!(
        proven.stdout.contains("takes it for jane"),
        "{}{}",
        proven.stdout,
        proven.stderr
    );

    let jane = proxy.reserved_client(Kubeconfig::read(&file)?.auth)?;
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    assert_eq!(jane.get(secrets).await?.status, 200);
    // The audit log will tell her from others.
    let me = crate::support::whoami(&jane).await?;
    let groups = me["groups"].as_array().context("groups")?;
    for group in ["system:masters", "spillway:break-glass"] {
        assert!(groups.contains(&group.into()), "{me}");
    }
    // Only there: the main lane and the server itself do not know the authority.
    let elsewhere = proxy.client(Kubeconfig::read(&file)?.auth)?;
    assert_eq!(elsewhere.get(secrets).await?.status, 401);

    let socket = commands.0.to_str().context("text")?;
    let revoked = glass
        .run(&["revoke", "jane", "--socket", socket], false)
        .await?;
    assert_eq!(revoked.code, Some(0), "{}", revoked.stderr);
    assert!(
        revoked.stderr.contains("refuses it from now on"),
        "{}",
        revoked.stderr
    );
    // Also on the connection that was open.
    assert_eq!(jane.get(secrets).await?.status, 401);
    Ok(())
}

#[tokio::test]
async fn the_lane_is_proven_with_a_credential_that_kubeadm_made() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::with(&plane, |config| config.reserved.check.enabled = true)?;
    until("the call through the lane worked", async || {
        let metrics = proxy.metrics().await.ok()?;
        (metrics.sum("spillway_reserved_lane_check_success", &[]) >= 1.0).then_some(())
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn the_servers_own_log_is_replayed_and_its_flow_schemas_imported() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let dir = TestDir::new()?;
    let proxy = Proxy::before(&plane)?;
    let client = proxy.client_as(&plane, Who::Admin)?;
    let uri = format!("/api/v1/namespaces/{AUDITED_NAMESPACE}/configmaps?replay=1");
    for _ in 0..20 {
        assert_eq!(client.get(&uri).await?.status, 200);
    }
    until("the server has written its log", async || {
        plane.audited(&uri)
    })
    .await;
    let log = dir.path().join("audit.log");
    let lines: Vec<String> = plane
        .all_audited()
        .iter()
        .map(|event| format!("{event}\n"))
        .collect();
    std::fs::write(&log, lines.concat())?;
    let picture = dir.path().join("replay.svg");
    let replayed = spillway(&[
        "replay",
        "--audit-log",
        log.to_str().context("text")?,
        "--picture",
        picture.to_str().context("text")?,
        "-o",
        "json",
    ])
    .await?;
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
    let report: Value = serde_json::from_str(&replayed.stdout)?;
    assert!(report["requests"].as_u64() >= Some(1), "{report}");
    assert_eq!(report["unreadable"], 0, "{report}");
    assert!(std::fs::read_to_string(&picture)?.starts_with("<svg"));

    let mut files = Vec::new();
    for kind in ["flowschemas", "prioritylevelconfigurations"] {
        let list = client
            .get(&format!("/apis/flowcontrol.apiserver.k8s.io/v1/{kind}"))
            .await?;
        assert_eq!(list.status, 200);
        let file = dir.path().join(kind);
        std::fs::write(&file, list.json().to_string())?;
        files.push(file.to_str().context("text")?.to_owned());
    }
    let imported = spillway(&["import-apf", "--all", &files[0], &files[1]]).await?;
    assert_eq!(imported.code, Some(0), "{}", imported.stderr);
    assert!(
        imported.stdout.contains("kube-scheduler"),
        "{}",
        imported.stdout
    );
    let policy = dir.path().join("admission.yaml");
    std::fs::write(&policy, &imported.stdout)?;
    let again = spillway(&[
        "replay",
        "--audit-log",
        log.to_str().context("text")?,
        "--policy",
        policy.to_str().context("text")?,
    ])
    .await?;
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    Ok(())
}
