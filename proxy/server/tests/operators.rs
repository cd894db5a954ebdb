//! The commands for the worst hour, against a running proxy.

mod support;
#[path = "support/terminal.rs"]
mod terminal;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::client::{get, with};
use support::process::{self, Ended, Process};
use support::proxy::config_text;
use support::upstream::{self, Upstream};
use support::{POD, PODS, Page, Pki, Proxy, World, eventually, page};
use terminal::Terminal;

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
async fn a_tenant_is_blocked_for_a_reason_listed_released_and_remembered() {
    let world = world(|config| {
        let file = config.pki.join("measures.json");
        config.admission.measures = Some(file);
    });
    let pki = &world.pki;
    let mut jane = world.user("jane", &[]).await;
    assert_eq!(jane.get(PODS, "echo").await.status, 200);
    let add = [
        "quarantine",
        "add",
        "--tenant",
        "jane",
        "--for",
        "1h",
        "--reason",
        "INC-1",
    ];
    let done = json(pki, &add);
    assert_eq!(done["kept"], true, "{done}");
    let author = done["measure"]["author"].as_str().expect("who");
    assert!(
        author.contains("uid ") && author.contains("pid "),
        "{author}"
    );
    assert_eq!(jane.get(PODS, "echo").await.status, 429);
    let mut bob = world.user("bob", &[]).await;
    assert_eq!(bob.get(PODS, "echo").await.status, 200);
    let listed = json(pki, &["quarantine", "list"]);
    assert_eq!(
        (&listed[0]["reason"], &listed[0]["refused"]),
        (&"INC-1".into(), &1.into())
    );
    let id = listed[0]["id"].to_string();
    let human = ask(pki, &["quarantine", "list"]).stdout;
    assert!(
        human.contains("block") && human.contains("tenant=jane"),
        "{human}"
    );
    // Another process finds it in the file.
    let next = Proxy::start(pki, world.upstream.address(), |config| {
        config.admin.socket = Some(socket(pki));
        config.admission.measures = Some(config.pki.join("measures.json"));
    });
    assert_eq!(json(pki, &["quarantine", "list"])[0]["reason"], "INC-1");
    let ended = ask(pki, &["quarantine", "remove", &id]);
    assert!(
        ended.stdout.starts_with("ended"),
        "{}{}",
        ended.stdout,
        ended.stderr
    );
    assert_eq!(json(pki, &["quarantine", "list"]), serde_json::json!([]));
    for wrong in [
        &["quarantine", "remove", "99"][..],
        &["quarantine", "add", "--tenant", "jane", "--reason", " "],
        &["quarantine", "add", "--class", "builk", "--reason", "x"],
        &[
            "quarantine",
            "add",
            "--tenant",
            "jane",
            "--reason",
            "x",
            "--for",
            "721h",
        ],
    ] {
        assert_eq!(ask(pki, wrong).code, REFUSED, "{wrong:?}");
    }
    assert_eq!(
        ask(pki, &["quarantine", "add", "--reason", "x"]).code,
        Some(2),
        "nobody named"
    );
    drop(next);
}

/// What a proxy has learned about the LIST of pods: how often it saw one, and what it takes it for.
async fn learned(admin: std::net::SocketAddr) -> (u64, f64) {
    let (_, text) = page::get(admin, "/costs").await;
    let page: Value = serde_json::from_str(&text).expect("JSON");
    let shapes = page["shapes"].as_array().expect("shapes");
    let list = shapes.iter().find(|shape| shape["verb"] == "list");
    list.map_or((0, 0.0), |list| {
        let work = list["estimate"]["work_seconds"].as_f64();
        (
            list["seen"].as_u64().expect("a number"),
            work.expect("a number"),
        )
    })
}

#[tokio::test]
async fn a_restart_in_the_middle_of_an_incident_forgets_nothing() {
    let with_state = |config: &mut config::Config| {
        let state = config.pki.join("state");
        config.admission.measures = Some(state.join("measures.json"));
        config.admission.state = Some(state);
    };
    let World {
        proxy,
        upstream,
        pki,
    } = world(with_state);
    let again = || {
        Proxy::start(&pki, upstream.address(), |config| {
            config.admin.socket = Some(socket(&pki));
            config.admission.mode = config::Mode::Enforce;
            with_state(config);
        })
    };
    let tls = pki.tls().certificate(&pki.user("jane", &[]));
    let mut jane = support::Client::http2(proxy.main(), &tls).await;
    for _ in 0..3 {
        assert_eq!(jane.get(PODS, "echo").await.status, 200);
    }
    proxy.until_idle().await;
    let before = learned(proxy.admin()).await;
    assert_eq!(before.0, 3);
    let done = json(&pki, &["mode", "shadow", "--class", "bulk", "--for", "1h"]);
    assert_eq!(done["kept"], true, "{done}");
    json(&pki, &["mode", "off", "--class", "nodes", "--for", "1s"]);
    let add = ["quarantine", "add", "--tenant", "eve", "--reason", "INC-1"];
    assert_eq!(json(&pki, &add)["kept"], true);
    proxy.stop().await;
    eventually("a second has passed", || {
        let text = std::fs::read_to_string(pki.path().join("state/mode.json"));
        let kept: Value = serde_json::from_str(&text.expect("kept")).expect("JSON");
        let changes = kept["changes"].as_array().expect("changes");
        let now = jiff::Timestamp::now().as_second();
        let past = |change: &Value| change["until"].as_i64().is_some_and(|until| until <= now);
        changes.len() < 2 || changes.iter().any(past)
    })
    .await;

    let proxy = again();
    let page = json(&pki, &["mode"]);
    assert_eq!(mode_of(&page, "bulk"), "shadow");
    assert_eq!(mode_of(&page, "nodes"), "enforce", "that one has expired");
    assert_eq!(page["changes"].as_array().expect("changes").len(), 1);
    assert_eq!(json(&pki, &["quarantine", "list"])[0]["reason"], "INC-1");
    assert_eq!(learned(proxy.admin()).await, before);

    // Taken back it stays taken back, and by a successor as well.
    json(&pki, &["mode", "configured"]);
    let next = again();
    assert_eq!(learned(next.admin()).await, before, "from the one before");
    proxy.stop().await;
    next.stop().await;
    // What is damaged is put aside and the configuration holds.
    let state = pki.path().join("state");
    for name in ["mode.json", "costs.json"] {
        std::fs::write(state.join(name), "{\"version\":1,").expect("written");
    }
    let last = again();
    assert_eq!(json(&pki, &["mode"])["changes"], serde_json::json!([]));
    assert!(state.join("mode.json.unreadable").exists());
    assert_eq!(learned(last.admin()).await.0, 0);
    let page = Page::fetch(last.admin()).await;
    assert_eq!(page.sum("spillway_mode_changes", &[]), 0.0);
    last.stop().await;
}

#[tokio::test]
async fn on_a_terminal_the_selected_tenant_is_explained_and_put_into_quarantine() {
    let world = world(|config| {
        config.admission.measures = Some(config.pki.join("measures.json"));
    });
    let socket = socket(&world.pki);
    let mut jane = world.user("jane", &[]).await;
    eventually("the socket is there", || socket.exists()).await;
    assert_eq!(jane.get(PODS, "echo").await.status, 200);
    let mut command = Command::new(env!("CARGO_BIN_EXE_spillway"));
    command
        .args(["top", "--interval", "200ms", "--socket"])
        .arg(&socket)
        .env("TERM", "xterm-256color");
    let mut terminal = Terminal::run(command);
    let picture = terminal.until("Q quarantine");
    assert!(picture.contains("TENANT"), "{picture}");
    // Rows move: whoever asks for most is first, and stays selected.
    terminal.until("jane");
    terminal.press("p");
    terminal.until("PAUSED");
    let above = |picture: &str| {
        let tenants = picture.split("TENANT").nth(1).expect("tenants").lines();
        tenants
            .skip(1)
            .take_while(|line| !line.starts_with("jane"))
            .count()
    };
    for _ in 0..above(&terminal.until("PAUSED")) {
        terminal.press("j");
    }
    terminal.press("e");
    let explained = terminal.until("user level");
    assert!(explained.contains(" jane "), "{explained}");
    // Closed again.
    terminal.press("e");
    terminal.press("Q");
    terminal.until(" Quarantine jane ");
    terminal.press("INC-1\t\u{7f}\u{7f}\u{7f}1h\r");
    let asked = terminal.until("Put it into quarantine?");
    assert!(asked.contains("INC-1") && asked.contains("1h"), "{asked}");
    assert_eq!(jane.get(PODS, "echo").await.status, 200, "not yet");
    // Enter is no yes.
    terminal.press("\r");
    terminal.press("y");
    let told = terminal.until("in force: block");
    assert!(told.contains("it survives a restart"), "{told}");
    assert_eq!(jane.get(PODS, "echo").await.status, 429);
    let mut bob = world.user("bob", &[]).await;
    assert_eq!(bob.get(PODS, "echo").await.status, 200);
    // Left half way, nothing comes of it.
    terminal.press("Q");
    terminal.until(" Quarantine jane ");
    terminal.press("\u{3}");
    assert_eq!(terminal.end(), Some(0));
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
        "quarantine",
        "replay",
        "import-apf",
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
