//! client-go's informers through interruptions: they go on from where they were
//! and do not LIST anew, which is the storm this proxy is there to prevent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result};
use load_tests::control_plane::{
    ControlPlane, GoProgram, Kubeconfig, SERVER_NAME, Who, go_program, write_kubeconfig,
};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::{PATIENCE, ProxyProcess, TestDir, own_plane, until};

const INFORMERS: usize = 200;
const NAMESPACE: &str = "informed";

/// What informers asked, by kind and answer (`watch 200`).
type Counts = BTreeMap<String, u64>;

/// Running informers; they end when this is dropped.
struct Informers {
    _child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Informers {
    async fn start(program: &Path, kubeconfig: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args(["--namespace", NAMESPACE])
            .args(["--informers", &INFORMERS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting the informers")?;
        let answers = BufReader::new(child.stdout.take().context("no answers")?).lines();
        let commands = child.stdin.take().context("no commands")?;
        let mut informers = Self {
            _child: child,
            commands,
            answers,
        };
        let line = informers.line().await?;
        anyhow::ensure!(line == "synced", "{line}");
        Ok(informers)
    }

    async fn line(&mut self) -> Result<String> {
        let line = tokio::time::timeout(2 * PATIENCE, self.answers.next_line()).await;
        line.context("no answer")??.context("the informers ended")
    }

    async fn ask<T: DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        self.commands
            .write_all(format!("{command}\n").as_bytes())
            .await?;
        Ok(serde_json::from_str(&self.line().await?)?)
    }

    async fn all_see(&mut self, name: &str) {
        let command = format!("seen {name}");
        until("every informer has the object", async || {
            (self.ask::<usize>(&command).await.ok()? == INFORMERS).then_some(())
        })
        .await;
    }

    /// What was asked since `before`.
    async fn since(&mut self, before: &Counts) -> Result<Counts> {
        let mut counts: Counts = self.ask("count").await?;
        for (kind, count) in before {
            let now = counts.entry(kind.clone()).or_default();
            *now -= count;
        }
        counts.retain(|_, count| *count > 0);
        Ok(counts)
    }
}

/// Calls that make the server send everything.
fn lists(counts: &Counts) -> u64 {
    counts
        .iter()
        .filter(|(kind, _)| kind.ends_with("200") && !kind.starts_with("watch "))
        .map(|(_, count)| count)
        .sum()
}

/// Calls that the server answered 403.
fn refused(counts: &Counts) -> u64 {
    let refused = counts.iter().filter(|(kind, _)| kind.ends_with(" 403"));
    refused.map(|(_, count)| count).sum()
}

/// The informers' program, or `None` without Go.
fn program() -> Result<Option<PathBuf>> {
    match go_program(GoProgram::Informers) {
        Ok(program) => Ok(Some(program)),
        Err(load_tests::control_plane::Error::Absent { reason }) => {
            eprintln!("skipped: {reason}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Creates an object; tries again while the server is on its way.
async fn create(plane: &ControlPlane, kind: &str, name: &str) -> Result<()> {
    let client = plane.client(Who::SuperAdmin)?;
    let path = match kind {
        "Namespace" => "/api/v1/namespaces".to_owned(),
        _ => format!("/api/v1/namespaces/{NAMESPACE}/configmaps"),
    };
    let object = json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name } });
    until("the object is created", async || {
        let status = client.post(&path, &object).await.ok()?.status;
        matches!(status, 201 | 409).then_some(())
    })
    .await;
    Ok(())
}

fn straight(plane: &ControlPlane, dir: &TestDir) -> Result<PathBuf> {
    let path = dir.path().join("straight.conf");
    let auth = Kubeconfig::read(&plane.kubeconfig(Who::ControllerManager))?.auth;
    let ca = plane.ca_pem()?;
    write_kubeconfig(&path, plane.server(), Some(SERVER_NAME), &ca, &auth)?;
    Ok(path)
}

fn proxied(plane: &ControlPlane, dir: &TestDir, proxy: &ProxyProcess) -> Result<PathBuf> {
    let path = dir.path().join("proxied.conf");
    let auth = Kubeconfig::read(&plane.kubeconfig(Who::ControllerManager))?.auth;
    proxy.kubeconfig(&path, &auth)?;
    Ok(path)
}

#[tokio::test]
async fn informers_do_not_list_again_when_the_proxy_is_replaced_or_restarted() -> Result<()> {
    let (Some(program), Some(plane)) = (program()?, own_plane()) else {
        return Ok(());
    };
    create(&plane, "Namespace", NAMESPACE).await?;
    let dir = TestDir::new()?;
    let mut proxy = ProxyProcess::start(&plane, &dir, None).await?;
    // A successor finds the sockets by their address.
    let addresses = (proxy.main, proxy.admin);
    let mut informers = Informers::start(&program, &proxied(&plane, &dir, &proxy)?).await?;
    let before: Counts = informers.ask("count").await?;
    eprintln!("{INFORMERS} informers began with {before:?}");

    let next = ProxyProcess::start(&plane, &dir, Some(addresses)).await?;
    proxy.ended().await?;
    create(&plane, "ConfigMap", "after-a-replacement").await?;
    informers.all_see("after-a-replacement").await;
    let replaced = informers.since(&before).await?;
    eprintln!("replaced: {replaced:?}");

    let mut proxy = next;
    let before: Counts = informers.ask("count").await?;
    proxy.signal(Signal::TERM)?;
    proxy.ended().await?;
    let mut proxy = ProxyProcess::start(&plane, &dir, Some(addresses)).await?;
    create(&plane, "ConfigMap", "after-a-restart").await?;
    informers.all_see("after-a-restart").await;
    let restarted = informers.since(&before).await?;
    eprintln!("restarted: {restarted:?}");

    let before: Counts = informers.ask("count").await?;
    proxy.signal(Signal::KILL)?;
    assert!(proxy.ended().await.is_err());
    let _proxy = ProxyProcess::start(&plane, &dir, Some(addresses)).await?;
    create(&plane, "ConfigMap", "after-a-crash").await?;
    informers.all_see("after-a-crash").await;
    let crashed = informers.since(&before).await?;
    eprintln!("crashed: {crashed:?}");

    for counts in [replaced, restarted, crashed] {
        assert_eq!(lists(&counts), 0, "{counts:?}");
    }
    Ok(())
}

#[tokio::test]
async fn informers_list_no_more_often_through_the_proxy_when_the_apiserver_restarts() -> Result<()>
{
    let (Some(program), Some(mut plane)) = (program()?, own_plane()) else {
        return Ok(());
    };
    create(&plane, "Namespace", NAMESPACE).await?;
    let dir = TestDir::new()?;
    let proxy = ProxyProcess::start(&plane, &dir, None).await?;
    let mut ways = [
        (
            "straight",
            Informers::start(&program, &straight(&plane, &dir)?).await?,
        ),
        (
            "through the proxy",
            Informers::start(&program, &proxied(&plane, &dir, &proxy)?).await?,
        ),
    ];
    for kill in [false, true] {
        let mut before = Vec::new();
        for (_, informers) in &mut ways {
            before.push(informers.ask::<Counts>("count").await?);
        }
        if kill {
            let pid = plane.pid().context("it runs")?;
            let pid = Pid::from_raw(i32::try_from(pid)?).context("a process id")?;
            kill_process(pid, Signal::KILL)?;
        }
        plane = tokio::task::spawn_blocking(move || plane.restart().map(|()| plane)).await??;
        let name = if kill {
            "after-a-crash"
        } else {
            "after-a-stop"
        };
        create(&plane, "ConfigMap", name).await?;
        let (mut relisted, mut forbidden) = (Vec::new(), 0);
        for ((way, informers), before) in ways.iter_mut().zip(before) {
            informers.all_see(name).await;
            let counts = informers.since(&before).await?;
            eprintln!("apiserver, {name}, {way}: {counts:?}");
            relisted.push(lists(&counts));
            forbidden = refused(&counts);
        }
        // How many are lucky with a server that has just begun (which knows no rights and no history at first) is chance,
        // straight and through the proxy: 9 to 106 of 200 were seen. What it tells nobody to do twice, nobody does twice.
        let most = relisted[0].max(INFORMERS as u64 + forbidden);
        assert!(
            relisted[1] <= most,
            "{name}: {} LISTs straight, {} through the proxy, {forbidden} answers of 403",
            relisted[0],
            relisted[1]
        );
    }
    Ok(())
}
