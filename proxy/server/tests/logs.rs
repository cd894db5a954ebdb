//! The access log and the audit log: what is in them, what never is, and what becomes of them while the process runs.

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::client::{Client, get, with, with_token};
use support::process::{self, Process};
use support::proxy::config_text;
use support::{POD, PODS, Page, Pki, Upstream, bounded, upstream};

/// A process that writes both logs to `access` and `audit`, whose commands are served.
struct World {
    process: Process,
    main: std::net::SocketAddr,
    reserved: std::net::SocketAddr,
    admin: std::net::SocketAddr,
    _upstream: Upstream,
    pki: Pki,
}

impl World {
    fn start(access: &str, audit: &str) -> Self {
        let pki = Pki::new();
        let upstream = Upstream::start(&pki, upstream::Settings::default());
        let at = |name: &str| pki.path().join(name).display().to_string();
        let place = |name: &str| match name.starts_with('/') {
            true => name.to_owned(),
            false => at(name),
        };
        let more = format!(
            "log: {{ access: {{ file: {} }}, audit: {{ file: {} }} }}\n",
            place(access),
            place(audit)
        );
        let text = config_text(&pki, upstream.address(), &more);
        let text = text.replace("socket: off", &format!("socket: {}", at("admin.sock")));
        let file = pki.write("config.yaml", &text);
        let mut process = Process::start(&file, &[]);
        let (main, reserved, admin) = process.addresses();
        Self {
            process,
            main,
            reserved,
            admin,
            _upstream: upstream,
            pki,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.pki.path().join(name)
    }

    async fn user(&self, user: &str) -> Client {
        let tls = self.pki.tls().certificate(&self.pki.user(user, &[]));
        Client::http2(self.main, &tls).await
    }

    async fn operator(&self) -> Client {
        let pair = self.pki.user("root", &["system:masters"]);
        Client::http2(self.reserved, &self.pki.tls().certificate(&pair)).await
    }

    fn command(&self, arguments: &[&str]) {
        let socket = self.path("admin.sock").display().to_string();
        let ended = process::run(&[arguments, &["--socket", &socket]].concat());
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.stderr);
    }

    async fn stop(self) -> String {
        self.process.signal("TERM");
        let process = self.process;
        let ended = tokio::task::spawn_blocking(move || process.end());
        let (status, log) = ended.await.expect("no panic");
        assert!(status.success(), "{log}");
        log
    }
}

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let parsed = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")));
    parsed.collect()
}

fn until(file: &Path, what: &str, holds: impl Fn(&Value) -> bool) -> impl Future<Output = Value> {
    let (file, what) = (file.to_owned(), what.to_owned());
    async move {
        bounded(&what, async {
            loop {
                if let Some(found) = lines(&file).into_iter().find(|line| holds(line)) {
                    return found;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

/// The names in the first column of the tables of `docs/logs.md`.
fn documented() -> BTreeSet<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/logs.md");
    let text = std::fs::read_to_string(docs).expect("docs/logs.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split(" |").next());
    let names = cells.flat_map(|cell| cell.split('`').map(str::to_owned).collect::<Vec<_>>());
    names.collect()
}

#[tokio::test]
async fn requests_and_operators_are_written_to_files_of_their_own() {
    let world = World::start("access.log", "audit.log");
    let (access, audit) = (world.path("access.log"), world.path("audit.log"));
    let mut jane = world.user("jane").await;
    let asked = with(
        get(&format!("{PODS}?limit=7&token=hush"), "echo"),
        "user-agent",
        "tool/1",
    );
    let answered = jane
        .send(with_token(asked, "s3cr3t"))
        .await
        .expect("an answer");
    assert_eq!(answered.status(), 200);
    drop(answered);
    let line = until(&access, "jane's request", |line| line["user"] == "jane").await;
    for (field, value) in [
        ("path", PODS),
        ("verb", "list"),
        ("method", "GET"),
        ("lane", "main"),
        ("user_agent", "tool/1"),
        ("refused", ""),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!(
        (&line["status"], &line["weight"]),
        (&200.into(), &1.0.into())
    );
    let known = documented();
    for field in line.as_object().expect("an object").keys() {
        assert!(known.contains(field), "docs/logs.md does not name {field}");
    }

    assert_eq!(world.operator().await.get(POD, "echo").await.status, 200);
    world.command(&["mode", "shadow", "--class", "bulk", "--reason", "INC-1"]);
    world.command(&["quarantine", "add", "--tenant", "eve", "--reason", "INC-2"]);
    let used = until(&audit, "the lane", |line| {
        line["event"] == "reserved_lane_used"
    })
    .await;
    assert_eq!(
        (&used["user"], &used["path"]),
        (&"root".into(), &POD.into())
    );
    let mode = until(&audit, "the mode", |line| line["event"] == "mode_changed").await;
    assert_eq!(
        (&mode["reason"], &mode["mode"]),
        (&"INC-1".into(), &"shadow".into())
    );
    assert!(
        mode["by"].as_str().is_some_and(|by| by.contains("pid")),
        "{mode}"
    );
    until(&audit, "the measure", |line| {
        line["event"] == "measure_taken"
            && line["whom"]
                .as_str()
                .is_some_and(|whom| whom.contains("eve"))
    })
    .await;
    for line in lines(&audit) {
        for field in line.as_object().expect("an object").keys() {
            assert!(known.contains(field), "docs/logs.md does not name {field}");
        }
    }
    for file in [&access, &audit] {
        let mode = std::fs::metadata(file)
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(file).expect("text");
        assert!(!text.contains("hush") && !text.contains("s3cr3t"), "{text}");
    }

    // Renamed as logrotate does, with and without telling the process.
    for signal in [true, false] {
        let old = world.path("access.log.1");
        std::fs::rename(&access, &old).expect("renamed");
        if signal {
            world.process.signal("USR1");
        }
        let name = format!("jane-{signal}");
        assert_eq!(world.user(&name).await.get(POD, "echo").await.status, 200);
        until(&access, "a new file", |line| line["user"] == name.as_str()).await;
        assert!(!lines(&old).iter().any(|line| line["user"] == name.as_str()));
    }
    world.stop().await;
}

#[tokio::test]
async fn a_full_disk_stops_nothing_and_the_audit_goes_elsewhere() {
    let world = World::start("/dev/full", "/dev/full");
    assert_eq!(world.user("jane").await.get(POD, "echo").await.status, 200);
    assert_eq!(world.operator().await.get(POD, "echo").await.status, 200);
    let lost = |page: &Page, log, result| {
        let labels = [("log", log), ("result", result)];
        page.sum("spillway_log_lines_total", &labels) >= 1.0
    };
    bounded("lines are missed", async {
        loop {
            let page = Page::fetch(world.admin).await;
            if lost(&page, "access", "dropped") && lost(&page, "audit", "diverted") {
                assert_eq!(page.sum("spillway_log_writable", &[]), 0.0);
                assert!(!lost(&page, "audit", "dropped"));
                return;
            }
        }
    })
    .await;
    assert_eq!(world.user("jane").await.get(POD, "echo").await.status, 200);
    let log = world.stop().await;
    let used = log
        .lines()
        .filter(|line| line.contains("reserved_lane_used"));
    assert_eq!(used.count(), 2, "as always, and for the file: {log}");
    let told = log
        .lines()
        .filter(|line| line.contains("a log cannot be written"));
    assert_eq!(told.count(), 2, "once for each: {log}");
}

#[tokio::test]
async fn of_what_was_served_a_sample_is_written_and_all_that_was_refused() {
    let world = support::World::with(upstream::Settings::default(), |config| {
        config.log.access.file = Some(config.pki.join("access.log"));
        config.log.access.sample = config::Percent::ZERO;
    });
    let access = world.pki.path().join("access.log");
    assert_eq!(
        world.user("jane", &[]).await.get(POD, "echo").await.status,
        200
    );
    assert_eq!(
        world.stranger().await.get(POD, "status 500").await.status,
        500
    );
    until(&access, "the failure", |line| line["status"] == 500).await;
    world.proxy.stop().await;
    let users: Vec<_> = lines(&access)
        .iter()
        .map(|line| line["status"].clone())
        .collect();
    assert_eq!(users, [500]);
}

#[test]
fn every_event_of_the_audit_log_is_documented() {
    let known = documented();
    let mut found = 0;
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("text");
            let of_operators = [
                "target: \"spillway::audit\"",
                "target: \"spillway::reserved\"",
            ];
            for said in of_operators
                .iter()
                .flat_map(|start| text.match_indices(start))
            {
                let line = text[said.0..].lines().next().expect("a line");
                assert!(line.contains(", event"), "{}: {line}", path.display());
            }
            for start in ["event = \"", ".audit(\""] {
                for (at, _) in text.match_indices(start) {
                    let event = text[at + start.len()..].split('"').next().expect("a word");
                    found += 1;
                    assert!(known.contains(event), "docs/logs.md does not name {event}");
                }
            }
        }
    }
    assert!(found >= 10, "{found}");
}
