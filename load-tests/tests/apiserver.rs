//! The model apiserver from outside: `kubectl`, credentials and collapse.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use load_tests::apiserver::{Model, Options, Running};

/// A directory of this test's own, removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "model-apiserver-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn kubectl_exists() -> bool {
    let found = Command::new("kubectl")
        .args(["version", "--client"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        println!("skipped: kubectl is not on the PATH");
    }
    found
}

fn command(model: &Running, args: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command
        .args(args)
        .env("KUBECONFIG", model.dir().join("admin.conf"))
        .env("HOME", model.dir());
    command
}

/// Output of a `kubectl` that must succeed.
fn kubectl(model: &Running, args: &[&str], input: &str) -> String {
    let mut child = command(model, args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "kubectl {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: "registry.example/web:1"}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
"#;

#[test]
fn kubectl_works_against_it() {
    if !kubectl_exists() {
        return;
    }
    let dir = Dir::new();
    let model = Model::start(Options::new(&dir.0)).unwrap();
    model.seed("pods", &["ns-a", "ns-b"], 1200, 500).unwrap();
    let run = |args: &[&str]| kubectl(&model, args, "");

    assert_eq!(
        run(&["get", "pods", "-A", "--no-headers"]).lines().count(),
        1200
    );
    assert!(run(&["get", "pods", "-n", "ns-b"]).starts_with("NAME"));
    assert!(run(&["api-resources"]).contains("deployments"));
    assert!(run(&["auth", "whoami"]).contains("kubernetes-admin"));
    assert_eq!(run(&["auth", "can-i", "create", "pods"]).trim(), "yes");

    let apply = |text: &str| kubectl(&model, &["apply", "-f", "-"], text);
    assert!(apply(MANIFEST).contains("deployment.apps/web created"));
    let again = apply(&MANIFEST.replace("blue", "red"));
    assert!(again.contains("deployment.apps/web unchanged"), "{again}");
    assert!(again.contains("configmap/settings configured"), "{again}");
    let colour = [
        "get",
        "configmap",
        "settings",
        "-o",
        "jsonpath={.data.colour}",
    ];
    assert_eq!(run(&colour), "red");
    kubectl(
        &model,
        &["apply", "--server-side", "--force-conflicts", "-f", "-"],
        MANIFEST,
    );
    assert_eq!(run(&colour), "blue");

    run(&["create", "namespace", "extra"]);
    assert!(run(&["get", "namespaces"]).contains("extra"));
    run(&["delete", "namespace", "extra"]);

    let token = run(&["create", "token", "default"]);
    let token = format!("--token={}", token.trim());
    // Without the client certificate of the kubeconfig.
    let ca = model.pki_dir().join("ca.crt");
    let ca = format!("--certificate-authority={}", ca.display());
    let server = format!("--server={}", model.server());
    let bare = [
        "--kubeconfig=/dev/null",
        &server,
        &ca,
        &token,
        "auth",
        "whoami",
    ];
    assert!(run(&bare).contains("system:serviceaccount:default:default"));

    assert!(kubectl(&model, &["delete", "-f", "-"], MANIFEST).contains("deleted"));
    assert!(!run(&["get", "deployments", "-o", "name"]).contains("web"));
}

#[test]
fn kubectl_watches_changes() {
    if !kubectl_exists() {
        return;
    }
    let dir = Dir::new();
    let model = Model::start(Options::new(&dir.0)).unwrap();
    model.seed("configmaps", &["default"], 1, 100).unwrap();
    let mut watch = command(&model, &["get", "configmaps", "-w", "-o", "name"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "configmap/configmap-0");
    kubectl(&model, &["create", "configmap", "later"], "");
    assert_eq!(lines.next().unwrap().unwrap(), "configmap/later");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn it_runs_out_of_memory_and_comes_back_with_its_objects() {
    if !kubectl_exists() {
        return;
    }
    let dir = Dir::new();
    let options = Options::new(&dir.0);
    let model = Model::start(Options {
        // One list of 6 MB holds 18.
        memory_limit: options.base_memory + (10 << 20),
        down: Duration::from_millis(200),
        ..options
    })
    .unwrap();
    model.seed("configmaps", &["default"], 2000, 3000).unwrap();
    let killed = command(&model, &["get", "--raw", "/api/v1/configmaps"])
        .output()
        .unwrap();
    assert!(!killed.status.success());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !(model.stats().restarts == 1 && model.stats().up) {
        assert!(Instant::now() < deadline, "{:?}", model.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    let one = kubectl(
        &model,
        &["get", "configmap", "configmap-7", "-o", "name"],
        "",
    );
    assert_eq!(one.trim(), "configmap/configmap-7");
    assert!(model.stats().memory_peak > model.stats().memory);
}
