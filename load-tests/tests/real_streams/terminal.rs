//! A terminal in a session, and its size.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::{Streams, Way};
use crate::support::PATIENCE;

/// `kubectl exec -it` in a terminal of `script`, which changes its size when a
/// line comes through the pipe `go`.
fn in_a_terminal(streams: &Streams, way: &Way, go: &str) -> Result<Child> {
    let line = format!(
        "stty rows 24 cols 80; (read -r _ < {go}; stty rows 40 cols 100 < /dev/tty) & \
         exec kubectl --namespace streams exec -it {} -- sizes",
        streams.pod
    );
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("HOME", streams.dir())
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    for (name, value) in way.environment() {
        command.env(name, value);
    }
    Ok(command.spawn()?)
}

/// Reads until the terminal has shown `wanted`.
async fn shows(screen: &mut ChildStdout, shown: &mut String, wanted: &str) -> Result<()> {
    let reading = async {
        let mut buffer = [0; 1024];
        while !shown.contains(wanted) {
            let read = screen.read(&mut buffer).await?;
            anyhow::ensure!(read > 0, "ended after {shown:?}");
            shown.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .with_context(|| format!("no {wanted}"))?
}

#[tokio::test]
async fn a_terminal_passes_its_size_and_every_change_of_it_on() -> Result<()> {
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    for tool in ["script", "stty", "mkfifo"] {
        if !std::env::split_paths(&path).any(|dir| dir.join(tool).is_file()) {
            eprintln!("skipped: there is no `{tool}` on the PATH");
            return Ok(());
        }
    }
    for (number, way) in streams.ways.iter().enumerate() {
        let go = streams.dir().join(format!("go-{number}"));
        let made = Command::new("mkfifo").arg(&go).status().await?;
        assert!(made.success(), "mkfifo: {made}");
        let mut child = in_a_terminal(&streams, way, &go.display().to_string())?;
        let mut keyboard = child.stdin.take().context("no keyboard")?;
        let mut screen = child.stdout.take().context("no screen")?;
        let mut shown = String::new();
        shows(&mut screen, &mut shown, "80x24\r\n")
            .await
            .context(way.name.clone())?;
        tokio::fs::write(&go, "go\n").await?;
        shows(&mut screen, &mut shown, "100x40\r\n")
            .await
            .context(way.name.clone())?;
        keyboard.write_all(b"q").await?;
        let status = tokio::time::timeout(PATIENCE, child.wait()).await;
        let status = status.with_context(|| format!("a q does not end it: {}", way.name))??;
        assert!(status.success(), "{}: {status}, {shown:?}", way.name);
    }
    streams.nothing_is_left().await;
    Ok(())
}
