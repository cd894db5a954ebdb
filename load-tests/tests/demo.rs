//! The demonstration and the scenarios on a server as a user runs them, in small: that they go through, not how fast
//! anything is.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use load_tests::report::{Report, SCHEMA};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let id = std::process::id();
        let path = std::env::temp_dir().join(format!("spillway-{name}-{id}"));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn demo() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load-tests"));
    command.arg("demo").stdin(Stdio::null());
    command
}

#[test]
fn a_small_demonstration_goes_through_all_arms_and_reports_them() {
    let scratch = Scratch::new("demo-test");
    let file = scratch.0.join("report.json");
    let output = demo()
        .args(["--seconds-per-phase", "2", "--objects", "300"])
        .args(["--storm-nodes", "5", "--factor", "2"])
        .arg("--dir")
        .arg(scratch.0.join("files"))
        .arg("--report")
        .arg(&file)
        .output()
        .expect("the demonstration runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    let text = std::fs::read_to_string(&file);
    let text = text.unwrap_or_else(|error| panic!("{error}\n{said}\n{complained}"));
    let report: Report = serde_json::from_str(&text).expect("a report");

    assert_eq!(report.schema, SCHEMA);
    let arms: Vec<_> = report.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(arms, ["direct", "shadow", "enforce"], "{said}");
    for arm in &report.arms {
        let phases: Vec<_> = arm.phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(phases, ["calm", "storm", "recovery"], "{}", arm.name);
        let calm = arm.phase("calm").expect("calm");
        for class in &calm.classes {
            if class.name != "bulk" && class.name != "unattributed" {
                assert!(class.served > 0, "{}: {class:?}\n{said}", arm.name);
            }
        }
        let storm = arm.phase("storm").expect("a storm");
        let bulk = storm.class("bulk").expect("bulk");
        assert!(bulk.offered > 0, "{}: {bulk:?}", arm.name);
        assert_eq!(arm.proxy.is_some(), arm.name != "direct");
    }
    assert!(report.capacity.best() > 0.0 && report.floor.is_some());
    // The status is the verdict's, and the terminal shows it.
    let expected = if report.verdict.passed { 0 } else { 1 };
    assert_eq!(output.status.code(), Some(expected), "{said}");
    assert!(
        said.contains("enforce: storm") && said.contains("Verdict"),
        "{said}"
    );
}

#[test]
fn a_cluster_is_left_alone_without_confirmation() {
    let scratch = Scratch::new("demo-ask");
    let kubeconfig = scratch.0.join("config");
    std::fs::write(&kubeconfig, "{}").expect("written");
    let output = demo()
        .args(["--upstream", "https://127.0.0.1:1", "--kubeconfig"])
        .arg(&kubeconfig)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("REAL LOAD"), "{said}");
    assert!(complained.contains("--yes"), "{complained}");
}

#[test]
fn scenarios_are_played_straight_and_through_and_what_stops_the_server_is_left_out_for_the_model() {
    let scratch = Scratch::new("rehearse-test");
    let file = scratch.0.join("found.json");
    let output = Command::new(env!("CARGO_BIN_EXE_load-tests"))
        .args(["rehearse", "tenants-slightly-over", "apiserver-restart"])
        .args(["--upstream", "model", "--seconds", "1", "--objects", "300"])
        .arg("--dir")
        .arg(scratch.0.join("files"))
        .arg("--json")
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    let text = std::fs::read_to_string(&file);
    let text = text.unwrap_or_else(|error| panic!("{error}\n{said}\n{complained}"));
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let found = found.as_array().expect("an array");
    let ways: Vec<_> = found.iter().map(|found| &found["through"]).collect();
    assert_eq!(ways, [false, true], "{said}");
    assert!(
        said.contains("apiserver-restart | the model cannot be stopped"),
        "{said}"
    );
    for found in found {
        let shares = found["outcome"]["served_by_team"]
            .as_array()
            .expect("teams");
        assert_eq!(shares.len(), 10);
        assert!(
            shares.iter().any(|share| share.as_u64() > Some(0)),
            "{found}"
        );
        let phases: Vec<_> = found["phases"].as_array().into_iter().flatten().collect();
        let names: Vec<_> = phases.iter().map(|phase| &phase["name"]).collect();
        assert_eq!(names, ["calm", "trouble", "recovery"]);
        for class in phases[0]["classes"].as_array().into_iter().flatten() {
            let served = class["served"].as_u64();
            if class["name"] == "life-signs" {
                assert!(served > Some(0), "{class}");
            }
        }
    }
}
