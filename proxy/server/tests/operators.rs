//! The commands for the worst hour, against a running proxy.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use support::client::{get, with};
use support::process::{self, Ended, Process};
use support::proxy::config_text;
use support::upstream::{self, Upstream};
use support::{POD, PODS, Pki, Proxy, World, eventually};

const UNAVAILABLE: Option<i32> = Some(69);
const REFUSED: Option<i32> = Some(65);

fn socket(pki: &Pki) -> PathBuf {
    pki.path().join("admin.sock")
}

/// Runs `spillway arguments… --socket ITS_SOCKET`.
fn ask(pki: &Pki, arguments: &[&str]) -> Ended {
    let socket = socket(pki);
    let socket = socket.to_str().expect("text");
    process::run(&[arguments, &["--socket", socket]].concat())
}

fn json(pki: &Pki, arguments: &[&str]) -> Value {
    let ended = ask(pki, &[arguments, &["-o", "json"]].concat());
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// A proxy whose commands are served, with keys and an apiserver.
fn world(change: impl FnOnce(&mut config::Config)) -> World {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let proxy = Proxy::start(&pki, upstream.address(), |config| {
        config.admin.socket = Some(socket(&pki));
        config.admission.mode = config::Mode::Enforce;
        change(config);
    });
    World {
        proxy,
        upstream,
        pki,
    }
}

fn mode_of(page: &Value, class: &str) -> String {
    let classes = page["classes"].as_array().expect("classes");
    let found = classes.iter().find(|known| known["class"] == class);
    found.expect("a class")["mode"]
        .as_str()
        .expect("a mode")
        .to_owned()
}

#[tokio::test]
async fn the_mode_changes_at_run_time_for_all_or_one_class_until_it_ends() {
    let world = world(|_| {});
    let pki = &world.pki;
    let page = json(
        pki,
        &["mode", "shadow", "--class", "bulk", "--reason", "INC-1"],
    );
    assert_eq!(
        (mode_of(&page, "bulk"), mode_of(&page, "nodes")),
        ("shadow".into(), "enforce".into())
    );
    let uid = format!("uid {}", rustix::process::getuid().as_raw());
    let by = page["changes"][0]["by"].as_str().expect("who").to_owned();
    assert!(by.starts_with(&uid) && by.contains("pid"), "{by}");
    assert_eq!(page["changes"][0]["reason"], "INC-1");
    let off = json(pki, &["mode", "off", "--for", "1h"]);
    assert_eq!(mode_of(&off, "bulk"), "off", "the last word counts");
    // Ends by itself.
    json(pki, &["mode", "off", "--for", "1s"]);
    eventually("the change ends", || {
        mode_of(&json(pki, &["mode"]), "bulk") == "enforce"
    })
    .await;
    json(
        pki,
        &["mode", "enforce", "--class", "bulk", "--percent", "10"],
    );
    let status = json(pki, &["top", "--once"]);
    let bulk = status["classes"]
        .as_array()
        .expect("classes")
        .iter()
        .find(|class| class["class"] == "bulk");
    assert_eq!(bulk.expect("bulk")["enforced_percent"], 10.0);
    let page = json(pki, &["mode", "configured"]);
    assert_eq!(page["changes"], serde_json::json!([]));
    for wrong in [
        &["mode", "off", "--class", "builk"][..],
        &["mode", "enforce", "--percent", "101"],
    ] {
        let ended = ask(pki, wrong);
        assert_eq!(ended.code, REFUSED, "{}", ended.stderr);
    }
    assert!(
        ask(pki, &["mode", "off", "--class", "builk"])
            .stderr
            .contains("workload-reads")
    );
}

#[tokio::test]
async fn a_change_is_written_to_the_log_with_who_made_it_and_survives_a_reload() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let text = config_text(&pki, upstream.address(), "");
    let own = format!("socket: {}", socket(&pki).display());
    let file = pki.write("config.yaml", &text.replace("socket: off", &own));
    let mut process = Process::start(&file, &[]);
    process.until_line("commands are served");
    process.addresses();
    json(&pki, &["mode", "shadow", "--class", "bulk"]);
    let line = process.until_line("mode changed at run time");
    for said in ["uid ", "pid ", "bulk", "shadow"] {
        assert!(line.contains(said), "no `{said}` in {line}");
    }
    process.signal("HUP");
    process.until_line("stay above the configuration");
    assert_eq!(mode_of(&json(&pki, &["mode"]), "bulk"), "shadow");
    let status = json(&pki, &["top", "--once"]);
    assert!(
        status["generation"].as_u64() >= Some(2),
        "{}",
        status["generation"]
    );
    process.signal("TERM");
    let (status, log) = tokio::task::spawn_blocking(move || process.end())
        .await
        .expect("no panic");
    assert!(status.success(), "{log}");
    assert!(!socket(&pki).exists(), "the socket goes with its process");
}

#[tokio::test]
async fn a_process_that_replaces_another_takes_its_socket_and_its_changes_over() {
    let world = world(|_| {});
    let pki = &world.pki;
    json(
        pki,
        &["mode", "shadow", "--class", "bulk", "--reason", "INC-1"],
    );
    let next = Proxy::start(pki, world.upstream.address(), |config| {
        config.admin.socket = Some(socket(pki));
        config.admission.mode = config::Mode::Enforce;
    });
    let page = json(pki, &["mode"]);
    assert_eq!(mode_of(&page, "bulk"), "shadow");
    assert_eq!(page["changes"][0]["reason"], "INC-1");
    // The one before goes, and the socket stays its successor's.
    world.proxy.stop().await;
    assert_eq!(
        mode_of(&json(&world.pki, &["mode", "configured"]), "bulk"),
        "enforce"
    );
    next.stop().await;
    assert_eq!(ask(&world.pki, &["mode"]).code, UNAVAILABLE);
}

#[tokio::test]
async fn a_request_is_explained_before_it_is_sent_and_after() {
    let world = world(|_| {});
    let pki = &world.pki;
    let herd = [
        "explain",
        "GET",
        "/api/v1/pods",
        "--user",
        "system:serviceaccount:mon:agent",
    ];
    let explained = json(pki, &herd);
    assert_eq!(explained["class"], "bulk");
    assert_eq!(explained["now"]["verdict"], "start", "{explained}");
    let human = ask(pki, &herd).stdout;
    for said in ["rule:", "cost:", "why:"] {
        assert!(human.contains(said), "no `{said}` in {human}");
    }
    // By the audit id of an answer of ours: the lane for operators refuses jane.
    let tls = pki.tls().certificate(&pki.user("jane", &[]));
    let mut refused = support::Client::http2(world.proxy.reserved(), &tls).await;
    let answer = refused
        .get("/api/v1/namespaces/x/secrets/y?token=hush", "echo")
        .await;
    assert_eq!(answer.status, 403);
    let id = answer.headers["audit-id"]
        .to_str()
        .expect("an id")
        .to_owned();
    let past = json(pki, &["explain", &id]);
    assert_eq!(past["record"]["user"], "jane");
    assert_eq!(past["record"]["status"], 403);
    assert!(!past.to_string().contains("hush"), "no query: {past}");
    // And by one that the client chose.
    let mut client = world.user("jane", &[]).await;
    let asked = with(
        with(get(POD, "close"), "audit-id", "my-own-id"),
        "user-agent",
        "tool/1",
    );
    let _ = client.send(asked).await;
    let past = json(pki, &["explain", "my-own-id"]);
    assert_eq!(past["record"]["user_agent"], "tool/1", "{past}");
    assert_eq!(past["record"]["path"], POD);
    // Who knows nothing says what to do.
    let ended = ask(pki, &["explain", "no-such-id"]);
    assert_eq!(ended.code, REFUSED);
    assert!(
        ended.stderr.contains("spillway explain METHOD URL"),
        "{}",
        ended.stderr
    );
    assert_eq!(ask(pki, &["explain", "GET"]).code, REFUSED);
}

#[tokio::test]
async fn the_commands_work_while_the_server_is_away() {
    let mut world = world(|_| {});
    let mut client = world.user("jane", &[]).await;
    assert_eq!(client.get(PODS, "echo").await.status, 200);
    let pki = world.pki;
    drop(std::mem::replace(
        &mut world.upstream,
        Upstream::start(&pki, upstream::Settings::default()),
    ));
    eventually("it is known to be away", || {
        json(&pki, &["top", "--once"])["upstream"] == false
    })
    .await;
    let level = ask(&pki, &["level"]);
    assert_eq!(level.code, Some(0));
    assert!(level.stdout.contains("DOES NOT ANSWER"), "{}", level.stdout);
    let culprit = ask(&pki, &["culprit"]);
    assert_eq!(culprit.code, Some(1), "{}", culprit.stderr);
    assert_eq!(
        json(&pki, &["explain", "GET", "/api/v1/pods", "--user", "jane"])["class"],
        "operators"
    );
    assert_eq!(mode_of(&json(&pki, &["mode", "off"]), "bulk"), "off");
}

#[test]
fn without_a_process_a_command_says_where_it_looked_and_what_to_do() {
    let pki = Pki::new();
    for command in [
        &["top", "--once"][..],
        &["mode"],
        &["level"],
        &["culprit"],
        &["explain", "an-id"],
    ] {
        let ended = ask(&pki, command);
        assert_eq!(ended.code, UNAVAILABLE, "{command:?}: {}", ended.stderr);
        for said in ["admin.sock", "systemctl status spillway"] {
            assert!(
                ended.stderr.contains(said),
                "{command:?}: no `{said}` in {}",
                ended.stderr
            );
        }
    }
    // By a file it needs none.
    let file = pki.write(
        "config.yaml",
        &config_text(&pki, "127.0.0.1:1".parse().expect("an address"), ""),
    );
    let file = file.to_str().expect("text");
    let ended = process::run(&[
        "explain",
        "GET",
        "/api/v1/pods",
        "--user",
        "jane",
        "--config",
        file,
    ]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn every_command_has_help_with_examples_and_there_is_completion() {
    for command in [
        "top",
        "explain",
        "mode",
        "level",
        "culprit",
        "break-glass",
        "check",
    ] {
        let ended = process::run(&[command, "--help"]);
        assert_eq!(ended.code, Some(0));
        assert!(
            ended.stdout.contains("Examples:"),
            "{command}: {}",
            ended.stdout
        );
    }
    for shell in ["bash", "zsh", "fish"] {
        let ended = process::run(&["completion", shell]);
        assert!(ended.stdout.contains("break-glass"), "{shell}");
    }
}

/// An apiserver that takes everybody for `user`.
fn reviewing(user: &'static str) -> upstream::Settings {
    upstream::Settings {
        reviewed_as: Some(user),
        ..upstream::Settings::default()
    }
}

fn break_glass(dir: &Path, arguments: &[&str]) -> Ended {
    let dir = dir.to_str().expect("text");
    process::run(&[&["break-glass"], arguments, &["--dir", dir]].concat())
}

#[tokio::test]
async fn break_glass_access_is_issued_offline_used_listed_and_revoked() {
    let pki = Pki::new();
    let dir = pki.path().join("glass");
    let made = break_glass(&dir, &["init"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let key = std::fs::metadata(dir.join("ca.key")).expect("a key");
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777,
        0o600
    );
    assert_eq!(
        break_glass(&dir, &["init"]).code,
        REFUSED,
        "never overwritten"
    );

    let upstream = Upstream::start(&pki, reviewing("jane"));
    let proxy = Proxy::from_file({
        let text = config_text(&pki, upstream.address(), "");
        let own = format!("socket: {}", socket(&pki).display());
        let more = format!(
            "reserved: {{ client_ca: {} }}\n",
            dir.join("ca.crt").display()
        );
        pki.write("config.yaml", &(text.replace("socket: off", &own) + &more))
    });
    let server = format!("https://{}", proxy.reserved());
    let ca = pki.path().join("ca.crt");
    let target = [
        "--server",
        &server,
        "--server-ca",
        ca.to_str().expect("text"),
    ];
    let out = pki.path().join("jane.conf");
    let out = out.to_str().expect("text");
    let issue = ["issue", "--name", "jane", "--reason", "INC-1", "--out", out];
    let issued = break_glass(&dir, &[&issue[..], &target].concat());
    assert_eq!(issued.code, Some(0), "{}", issued.stderr);
    assert_eq!(
        break_glass(&dir, &[&issue[..], &target].concat()).code,
        REFUSED,
        "never overwritten"
    );
    for wrong in [
        &[
            "issue",
            "--name",
            "system:admin",
            "--reason",
            "x",
            "--out",
            "-",
        ][..],
        &["issue", "--name", "jane", "--reason", " ", "--out", "-"],
        &[
            "issue", "--name", "jane", "--reason", "x", "--for", "25h", "--out", "-",
        ],
    ] {
        let ended = break_glass(&dir, &[wrong, &target].concat());
        assert_eq!((ended.code, &*ended.stdout), (REFUSED, ""), "{wrong:?}");
    }

    let works = break_glass(&dir, &["test", "--kubeconfig", out]);
    assert_eq!(works.code, Some(0), "{}{}", works.stdout, works.stderr);
    assert!(works.stdout.contains("let in as jane"), "{}", works.stdout);
    let own = break_glass(&dir, &[&["test"], &target[..]].concat());
    assert_eq!(own.code, Some(0), "{}", own.stderr);
    let listed = break_glass(&dir, &["list", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(
        (&listed[0]["name"], &listed[0]["state"]),
        (&"jane".into(), &"valid".into())
    );
    assert_eq!(
        listed[0]["groups"],
        serde_json::json!(["system:masters", "spillway:break-glass"])
    );

    let socket = socket(&pki);
    let revoked = break_glass(
        &dir,
        &["revoke", "jane", "--socket", socket.to_str().expect("text")],
    );
    assert_eq!(revoked.code, Some(0), "{}", revoked.stderr);
    assert!(
        revoked.stderr.contains("refuses it from now on"),
        "{}",
        revoked.stderr
    );
    let refused = break_glass(&dir, &["test", "--kubeconfig", out]);
    assert_eq!(refused.code, REFUSED, "{}", refused.stdout);
    assert!(refused.stdout.contains("401"), "{}", refused.stdout);
    assert_eq!(break_glass(&dir, &["revoke", "nobody"]).code, REFUSED);
    drop(proxy);
}

#[tokio::test]
async fn a_call_through_the_reserved_lane_proves_now_and_then_that_it_works() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, reviewing("jane"));
    let pair = pki.user("check", &["system:masters"]);
    pki.write("check.crt", &pair.certificate);
    pki.write("check.key", &pair.key);
    let proxy = Proxy::start(&pki, upstream.address(), |config| {
        config.reserved.check.interval = Duration::from_secs(1);
        config.reserved.check.certificate = pki.path().join("check.crt");
        config.reserved.check.key = pki.path().join("check.key");
    });
    let page = proxy
        .until("the call worked", |page| {
            page.sum("spillway_reserved_lane_check_success", &[]) == 1.0
        })
        .await;
    assert!(page.sum("spillway_reserved_lane_check_timestamp_seconds", &[]) > 1e9);
    // Somebody the lane is not kept for.
    let other = pki.user("check", &["dev"]);
    pki.write("check.crt", &other.certificate);
    pki.write("check.key", &other.key);
    proxy
        .until("the call fails", |page| {
            page.sum("spillway_reserved_lane_check_success", &[]) == 0.0
        })
        .await;
}
