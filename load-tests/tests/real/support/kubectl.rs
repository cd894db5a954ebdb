//! The real kubectl.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::TestDir;

/// Flags without which kubectl asks the person at the keyboard who they are. The
/// server takes basic authentication for none at all.
pub(crate) const NOBODY: [&str; 2] = ["--username=nobody", "--password=none"];

/// kubectl, with a home of its own.
#[derive(Debug)]
pub(crate) struct Kubectl {
    home: TestDir,
}

/// How a run of kubectl ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Kubectl {
    /// `None`, with a line that says so, when there is none on the `PATH`.
    pub(crate) fn find() -> anyhow::Result<Option<Self>> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if !std::env::split_paths(&path).any(|dir| dir.join("kubectl").is_file()) {
            eprintln!("skipped: there is no `kubectl` on the PATH");
            return Ok(None);
        }
        let home = TestDir::new()?;
        Ok(Some(Self { home }))
    }

    /// A command line that talks to the cluster of `kubeconfig`.
    pub(crate) fn command(&self, kubeconfig: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .arg("--kubeconfig")
            .arg(kubeconfig)
            // What one server said must not answer for another.
            .arg("--cache-dir")
            .arg(kubeconfig.with_extension("cache"))
            .args(arguments)
            .env("HOME", self.home.path())
            .env_remove("KUBECONFIG")
            // For `kubectl edit`: a person who changes one word.
            .env("KUBE_EDITOR", "sed -i s/red/green/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs it to its end with `input` on its standard input.
    pub(crate) async fn run(
        &self,
        kubeconfig: &Path,
        arguments: &[&str],
        input: &str,
    ) -> anyhow::Result<Ran> {
        let mut command = self.command(kubeconfig, arguments);
        command.stdin(Stdio::piped());
        let mut child = command.spawn().context("starting kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            // It need not read it.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await?;
        Ok(Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }
}

/// What kubectl said without what differs between any two runs.
pub(crate) fn normal(text: &str, namespace: &str) -> String {
    const DIFFERENT: [&str; 5] = [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "CreationTimestamp",
        "lastTransitionTime",
    ];
    let kept = text.lines().filter(|line| {
        let key = line.trim_start_matches([' ', '"', '-']);
        !DIFFERENT.iter().any(|name| key.starts_with(name))
    });
    let words = |line: &str| {
        let words = line.split_whitespace().map(|word| {
            let age = word.strip_suffix(['s', 'm']);
            match age {
                Some(age) if age.starts_with(|c: char| c.is_ascii_digit()) => "AGE",
                _ => word,
            }
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<String> = kept.map(words).collect();
    // `auth can-i --list` comes in the order in which the server's roles were put together.
    if lines
        .first()
        .is_some_and(|line| line.starts_with("Resources Non-Resource URLs"))
    {
        for line in &mut lines {
            if let Some((rest, verbs)) = line.trim_end_matches(']').rsplit_once('[') {
                let mut verbs: Vec<_> = verbs.split(' ').collect();
                verbs.sort_unstable();
                *line = format!("{rest}[{}]", verbs.join(" "));
            }
        }
        lines.sort_unstable();
    }
    lines.join("\n").replace(namespace, "NAMESPACE")
}
