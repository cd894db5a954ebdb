//! The official Python client: `load-tests/clients/python`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::harness::{Cluster, Identity, NODE, required};

/// Where the client's files are.
fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python")
}

/// A Python with the client installed, below the target directory; made when it is
/// missing or older than the list of what belongs in it.
fn python() -> Result<PathBuf> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    std::fs::create_dir_all(&place)?;
    // Whoever comes second waits.
    let lock = File::create(place.join("lock"))?;
    lock.lock()?;
    let wanted = home().join("requirements.txt");
    let (installed, python) = (
        place.join("requirements.txt"),
        place.join("venv/bin/python"),
    );
    let wanted_text = std::fs::read(&wanted)?;
    if std::fs::read(&installed).is_ok_and(|text| text == wanted_text) && python.is_file() {
        return Ok(python);
    }
    let venv = place.join("venv");
    quietly(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(venv),
    )?;
    let install = ["-m", "pip", "install", "--quiet", "--requirement"];
    quietly(Command::new(&python).args(install).arg(&wanted))?;
    std::fs::write(installed, wanted_text)?;
    Ok(python)
}

fn quietly(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

/// `None`, with a line that says so, where it cannot be installed.
fn installed() -> Option<PathBuf> {
    match python() {
        Ok(python) => Some(python),
        Err(problem) if !required() => {
            let problem = format!("{problem:#}").replace('\n', " ");
            eprintln!("skipped: the Python client cannot be installed here: {problem}");
            None
        }
        Err(problem) => panic!("the Python client cannot be installed: {problem:#}"),
    }
}

async fn a_session_is_the_same(identity: Identity) -> Result<()> {
    let Some(python) = installed() else {
        return Ok(());
    };
    let Some(cluster) = Cluster::start()? else {
        return Ok(());
    };
    let script = home().join("session.py").display().to_string();
    let (first, second) = (cluster.namespace().await?, cluster.namespace().await?);
    for namespace in [&first, &second] {
        cluster.plane.run_pod(namespace, "pod", NODE).await?;
    }
    let said = cluster
        .same_in(
            &python,
            identity,
            [&first, &second],
            |kubeconfig, namespace| {
                let kubeconfig = kubeconfig.display().to_string();
                vec![
                    script.clone(),
                    kubeconfig,
                    namespace.to_owned(),
                    "pod".to_owned(),
                ]
            },
        )
        .await?;
    assert!(said.contains(r#"{"echoed": "hello there\n"}"#), "{said}");
    assert!(said.contains(r#""code": 3"#), "{said}");
    assert!(said.contains("DELETED secret-2"), "{said}");
    Ok(())
}

#[tokio::test]
async fn the_python_client_gets_the_same_with_a_certificate() -> Result<()> {
    a_session_is_the_same(Identity::Certificate).await
}

#[tokio::test]
async fn the_python_client_gets_the_same_with_a_token() -> Result<()> {
    a_session_is_the_same(Identity::Token).await
}
