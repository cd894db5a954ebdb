//! HTTP/2 as an independent suite reads its specification: h2spec against the proxy, and against the server without it.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use crate::support::{Proxy, TestDir, plane};

/// Tests the suite has at least; fewer would mean that it did not run to its end.
const TESTS: usize = 145;

/// How long the suite waits for what should come.
const WAIT_SECONDS: &str = "2";

/// The program, built if it is not there; `None`, and a line that says so, without Go.
fn h2spec() -> Result<Option<PathBuf>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("h2spec");
    let program = dir.join("bin/h2spec");
    std::fs::create_dir_all(dir.join("bin"))?;
    // Processes that ask at the same time build once.
    let lock = File::create(dir.join("bin/build.lock"))?;
    lock.lock()?;
    let built = std::process::Command::new("go")
        .current_dir(&dir)
        .args(["build", "-buildvcs=false", "-o"])
        .arg(&program)
        .arg("github.com/summerwind/h2spec/cmd/h2spec")
        .output();
    match built {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: h2spec is built with Go, and there is no `go` on the PATH");
            Ok(None)
        }
        Err(error) => Err(error).context("running `go build`"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "building h2spec: {said}");
            Ok(Some(program))
        }
    }
}

/// What failed, as "section: description", and how many tests there were.
async fn run(program: &Path, address: SocketAddr) -> Result<(BTreeSet<String>, usize)> {
    let dir = TestDir::new()?;
    let report = dir.path().join("report.xml");
    let ended = Command::new(program)
        .args(["--tls", "--insecure", "--strict", "--path", "/version"])
        .args(["--timeout", WAIT_SECONDS])
        .args(["--host", &address.ip().to_string()])
        .args(["--port", &address.port().to_string()])
        .arg("--junit-report")
        .arg(&report)
        .args(["generic", "hpack", "http2"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await?;
    let text = std::fs::read_to_string(&report)
        .with_context(|| format!("h2spec ended with {ended} and left no report"))?;
    Ok(read(&text))
}

fn read(report: &str) -> (BTreeSet<String>, usize) {
    let attribute = |case: &str, name: &str| {
        let (_, rest) = case.split_once(&format!("{name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let cases: Vec<&str> = report.split("<testcase ").skip(1).collect();
    let failed = cases
        .iter()
        .filter(|case| case.contains("<failure") || case.contains("<error"))
        .map(|case| {
            format!(
                "{}: {}",
                attribute(case, "package").unwrap_or_default(),
                attribute(case, "classname").unwrap_or_default()
            )
        })
        .collect();
    (failed, cases.len())
}

#[tokio::test]
async fn http2_is_spoken_as_its_specification_says() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let Some(program) = h2spec()? else {
        return Ok(());
    };
    let proxy = Proxy::before(&plane)?;
    let server = plane.server().trim_start_matches("https://").parse()?;
    let (straight, tests) = run(&program, server).await?;
    println!(
        "kube-apiserver {}: {} of {tests} failed: {straight:#?}",
        plane.version(),
        straight.len()
    );
    let (through, tests) = run(&program, proxy.main()).await?;
    println!("through the proxy: {} of {tests} failed", through.len());
    assert!(tests >= TESTS, "only {tests} tests");
    assert!(through.is_empty(), "{through:#?}");
    Ok(())
}

#[test]
fn failures_are_found_in_a_report() {
    let report = r#"<testsuite><testcase package="http2/5.1.2" classname="Sends HEADERS" time="1"><failure>x</failure></testcase>
        <testcase package="http2/5.1.3" classname="Sends DATA" time="1"></testcase></testsuite>"#;
    let (failed, tests) = read(report);
    assert_eq!(tests, 2);
    assert_eq!(
        failed.into_iter().collect::<Vec<_>>(),
        ["http2/5.1.2: Sends HEADERS"]
    );
}
