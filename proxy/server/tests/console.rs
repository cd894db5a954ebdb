//! The console's side of the admin port: what it shows to whom, and who may switch.

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};
use support::process::{self, Process};
use support::proxy::config_text;
use support::upstream::{self, Upstream};
use support::{PODS, Pki, Proxy, World, bounded, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }
}

/// One request, byte for byte; `headers` are whole lines.
async fn call(admin: SocketAddr, line: &str, headers: &[String], body: &str) -> Answer {
    bounded("an answer of the admin port", async {
        let mut stream = TcpStream::connect(admin).await.expect("the admin port");
        let mut request = format!("{line} HTTP/1.1\r\nconnection: close\r\n");
        for header in headers {
            request += &format!("{header}\r\n");
        }
        request += &format!("content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Answer {
            status: status.expect("a status"),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    })
    .await
}

async fn get(admin: SocketAddr, path: &str, host: &str) -> Answer {
    call(
        admin,
        &format!("GET {path}"),
        &[format!("host: {host}")],
        "",
    )
    .await
}

/// As the console's own page asks.
async fn post(admin: SocketAddr, path: &str, secret: Option<&str>, body: &Value) -> Answer {
    let mut headers = own_page(admin);
    headers.extend(secret.map(|secret| format!("authorization: Bearer {secret}")));
    call(admin, &format!("POST {path}"), &headers, &body.to_string()).await
}

fn own_page(admin: SocketAddr) -> Vec<String> {
    vec![
        format!("host: {admin}"),
        format!("origin: http://{admin}"),
        "content-type: application/json".to_owned(),
        "sec-fetch-site: same-origin".to_owned(),
    ]
}

fn socket(pki: &Pki) -> PathBuf {
    pki.path().join("admin.sock")
}

fn command(pki: &Pki, arguments: &[&str]) -> Value {
    let socket = socket(pki);
    let socket = socket.to_str().expect("text");
    let ended = process::run(&[arguments, &["--socket", socket, "-o", "json"]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

fn ticket(pki: &Pki) -> String {
    let issued = command(pki, &["console", "--for", "10m"]);
    let url = issued["url"].as_str().expect("a link").to_owned();
    let (page, ticket) = url.split_once("#ticket=").expect("in the fragment");
    assert!(page.ends_with("/console"), "{url}");
    ticket.to_owned()
}

async fn session(admin: SocketAddr, pki: &Pki) -> String {
    let opened = post(admin, "/console/session", Some(&ticket(pki)), &json!({})).await;
    assert_eq!(opened.status, 200, "{}", opened.body);
    opened.json()["session"].as_str().expect("one").to_owned()
}

fn world() -> World {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let proxy = Proxy::start(&pki, upstream.address(), |config| {
        config.admin.socket = Some(socket(&pki));
        config.admission.mode = config::Mode::Enforce;
    });
    World {
        proxy,
        upstream,
        pki,
    }
}

fn mode_of(page: &Value, class: &str) -> Value {
    let classes = page["classes"].as_array().expect("classes");
    let found = classes.iter().find(|known| known["class"] == class);
    found.expect("the class")["mode"].clone()
}

#[tokio::test]
async fn the_page_comes_with_headers_that_let_nothing_in_and_nobody_frame_it() {
    let world = World::new();
    let admin = world.proxy.admin();
    for (path, kind) in [
        ("/console", "text/html"),
        ("/console/page.js", "text/javascript"),
        ("/console/style.css", "text/css"),
        ("/console/icon.svg", "image/svg+xml"),
        ("/console/data", "application/json"),
    ] {
        let page = get(admin, path, "localhost").await;
        assert_eq!(page.status, 200, "{path}");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self';",
            "frame-ancestors 'none'",
            "x-frame-options: deny",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
            &format!("content-type: {kind}"),
        ] {
            assert!(page.head.contains(header), "{path}: no {header}");
        }
        assert!(!page.head.contains("access-control"), "{path}");
        assert!(!page.head.contains("unsafe"), "{path}");
    }
    let root = get(admin, "/", "localhost").await;
    assert!(root.status == 302 && root.head.contains("location: /console"));
    assert_eq!(get(admin, "/console/other", "localhost").await.status, 404);
    let preflight = call(admin, "OPTIONS /console/mode", &own_page(admin), "").await;
    assert_eq!(preflight.status, 405);
    assert!(!preflight.head.contains("access-control"));
}

#[tokio::test]
async fn a_name_that_somebody_else_could_have_is_not_answered() {
    let world = World::new();
    let admin = world.proxy.admin();
    for path in ["/", "/console", "/console/data", "/tenants", "/costs"] {
        assert_eq!(
            get(admin, path, "rebound.example").await.status,
            403,
            "{path}"
        );
        assert_ne!(get(admin, path, "127.0.0.1").await.status, 403, "{path}");
    }
    for path in ["/metrics", "/livez"] {
        let scraped = get(admin, path, "node-1.example:9443").await;
        assert_eq!(scraped.status, 200, "{path}");
    }
    // A page of another site that calls by the right name: its browser says so.
    let headers = ["host: localhost", "sec-fetch-site: cross-site"].map(str::to_owned);
    let foreign = call(admin, "GET /console/data", &headers, "").await;
    assert_eq!(foreign.status, 403);
}

#[tokio::test]
async fn without_a_session_nothing_is_switched_and_with_one_in_its_holders_name() {
    let world = world();
    let (admin, pki) = (world.proxy.admin(), &world.pki);
    let shadow = json!({ "class": "bulk", "mode": "shadow", "lasts": 600, "reason": "INC-1" });
    for secret in [None, Some(""), Some("guess"), Some(&*"A".repeat(43))] {
        for path in [
            "mode",
            "quarantine",
            "quarantine/remove",
            "session",
            "lock",
            "x",
        ] {
            let refused = post(admin, &format!("/console/{path}"), secret, &shadow).await;
            assert_eq!(refused.status, 401, "{path} {secret:?}");
            assert!(
                refused.body.contains("spillway console"),
                "{}",
                refused.body
            );
        }
    }
    let unused = ticket(pki);
    let direct = post(admin, "/console/mode", Some(&unused), &shadow).await;
    assert_eq!(direct.status, 401, "a ticket is no session");
    let used = ticket(pki);
    let opened = post(admin, "/console/session", Some(&used), &json!({})).await;
    let session = opened.json()["session"].as_str().expect("one").to_owned();
    let again = post(admin, "/console/session", Some(&used), &json!({})).await;
    assert_eq!(again.status, 401, "a ticket is good once");

    let done = post(admin, "/console/mode", Some(&session), &shadow).await;
    assert_eq!(done.status, 200, "{}", done.body);
    let page = command(pki, &["mode"]);
    assert_eq!(mode_of(&page, "bulk"), "shadow");
    let by = page["changes"][0]["by"].as_str().expect("who").to_owned();
    let uid = format!("uid {} (pid ", rustix::process::getuid().as_raw());
    assert!(by.contains(&uid) && by.ends_with("by the console"), "{by}");

    // The page cannot say that somebody else did it.
    let measure = json!({ "target": { "tenant": "jane" }, "action": "block", "seconds": 600,
                          "reason": "INC-1", "author": "the director" });
    let done = post(admin, "/console/quarantine", Some(&session), &measure).await;
    assert_eq!(done.status, 200, "{}", done.body);
    let author = done.json()["measure"]["author"].clone();
    let author = author.as_str().expect("who");
    assert!(
        author.contains(&uid) && !author.contains("director"),
        "{author}"
    );
    let mut jane = world.user("jane", &[]).await;
    assert_eq!(jane.get(PODS, "echo").await.status, 429);
    let wish = json!({ "id": done.json()["measure"]["id"], "author": "" });
    let ended = post(admin, "/console/quarantine/remove", Some(&session), &wish).await;
    assert_eq!(ended.status, 200, "{}", ended.body);
    assert_eq!(jane.get(PODS, "echo").await.status, 200);
    let wrong = json!({ "class": "builk", "mode": "off" });
    let wrong = post(admin, "/console/mode", Some(&session), &wrong).await;
    assert!(wrong.status == 400 && wrong.body.contains("workload-reads"));
    // Only the three switches: no tickets for more sessions.
    for path in ["/console/console", "/console/end", "/console/explain"] {
        let none = post(admin, path, Some(&session), &json!({})).await;
        assert_eq!(none.status, 404, "{path}");
    }

    let there = socket(pki);
    let short = [
        "console",
        "--for",
        "30s",
        "--socket",
        there.to_str().expect("text"),
    ];
    assert_eq!(process::run(&short).code, Some(65), "a minute at least");
    command(pki, &["console", "--end"]);
    let locked = post(admin, "/console/mode", Some(&session), &shadow).await;
    assert_eq!(locked.status, 401, "all sessions were ended");
}

#[tokio::test]
async fn a_session_is_worth_nothing_to_another_sites_page() {
    let world = world();
    let (admin, pki) = (world.proxy.admin(), &world.pki);
    let session = session(admin, pki).await;
    let body = json!({ "mode": "off" }).to_string();
    let secret = format!("authorization: Bearer {session}");
    let refused = async |change: &dyn Fn(&mut Vec<String>)| {
        let mut headers = own_page(admin);
        headers.push(secret.clone());
        change(&mut headers);
        call(admin, "POST /console/mode", &headers, &body)
            .await
            .status
    };
    let put = |at: usize, value: &'static str| {
        move |headers: &mut Vec<String>| headers[at] = value.to_owned()
    };
    assert_eq!(refused(&put(0, "host: rebound.example")).await, 403);
    assert_eq!(refused(&put(1, "origin: http://evil.example")).await, 403);
    assert_eq!(refused(&put(1, "origin: null")).await, 403);
    assert_eq!(refused(&put(1, "x-no: origin")).await, 403);
    assert_eq!(refused(&put(2, "content-type: text/plain")).await, 403);
    assert_eq!(refused(&put(3, "sec-fetch-site: cross-site")).await, 403);
    assert_eq!(mode_of(&command(pki, &["mode"]), "bulk"), "enforce");
    assert_eq!(refused(&|_| {}).await, 200, "the page itself may");
    assert_eq!(mode_of(&command(pki, &["mode"]), "bulk"), "off");
    let seen = async |secret: &str| {
        let headers = [
            format!("host: {admin}"),
            format!("authorization: Bearer {secret}"),
        ];
        call(admin, "GET /console/data", &headers, "").await.json()["session"].clone()
    };
    assert!(seen(&session).await["left"].as_u64() > Some(500));
    assert_eq!(seen("guess").await, Value::Null);
    post(admin, "/console/lock", Some(&session), &json!({})).await;
    assert_eq!(seen(&session).await, Value::Null);
}

#[tokio::test]
async fn whoever_has_no_session_cannot_keep_the_port_busy_with_a_body() {
    let world = World::new();
    let admin = world.proxy.admin();
    let mut held = Vec::new();
    for _ in 0..32 {
        let mut stream = TcpStream::connect(admin).await.expect("the admin port");
        let request = format!(
            "POST /console/mode HTTP/1.1\r\n{}\r\ncontent-length: 1000\r\n\r\n",
            own_page(admin).join("\r\n")
        );
        stream.write_all(request.as_bytes()).await.expect("written");
        held.push(stream);
    }
    for stream in &mut held {
        let mut first = [0; 12];
        bounded("an answer before the body", stream.read_exact(&mut first))
            .await
            .expect("an answer");
        assert_eq!(&first, b"HTTP/1.1 401");
    }
    assert_eq!(get(admin, "/livez", "localhost").await.status, 200);
}

#[tokio::test]
async fn whoever_opens_it_late_sees_the_seconds_before() {
    let world = world();
    let admin = world.proxy.admin();
    let mut client = world.user("jane", &[]).await;
    for _ in 0..20 {
        assert_eq!(client.get(PODS, "echo").await.status, 200);
    }
    let mut page = Value::Null;
    let admitted = |page: &Value| -> f64 {
        let points = page["history"]["points"].as_array().cloned();
        let classes = |point: &Value| point["classes"].as_array().cloned().unwrap_or_default();
        let rates = points.unwrap_or_default();
        let rates = rates.iter().flat_map(classes);
        rates.filter_map(|class| class[1].as_f64()).sum()
    };
    bounded("the history", async {
        while admitted(&page) == 0.0 {
            page = get(admin, "/console/data", "localhost").await.json();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let names = page["history"]["names"].as_array().expect("classes");
    assert_eq!(names.last(), Some(&json!("reserved")));
    assert!(page["status"]["classes"].as_array().map(Vec::len) == Some(names.len() - 1));
    let last = page["history"]["last"].as_u64().expect("a number");
    let next = get(admin, &format!("/console/data?since={last}"), "localhost").await;
    let points = next.json()["history"]["points"].as_array().map(Vec::len);
    assert!(points <= Some(2), "only what is new: {points:?}");
}

#[tokio::test]
async fn links_unlocking_switching_and_refusals_are_in_the_audit_log_and_secrets_are_not() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let text = config_text(&pki, upstream.address(), "");
    let own = format!("socket: {}", socket(&pki).display());
    let file = pki.write("config.yaml", &text.replace("socket: off", &own));
    let mut process = Process::start(&file, &[]);
    let (_, _, admin) = process.addresses();
    let there = socket(&pki);
    eventually("the socket", || there.exists()).await;
    let refused = post(admin, "/console/mode", Some("a-guess"), &json!({})).await;
    assert_eq!(refused.status, 401);
    process.until_line("a switch of the console was refused");
    let ticket = ticket(&pki);
    let line = process.until_line("a ticket to the console's switches was issued");
    assert!(
        line.contains("spillway::audit") && line.contains("uid "),
        "{line}"
    );
    let opened = post(admin, "/console/session", Some(&ticket), &json!({})).await;
    process.until_line("the console's switches are unlocked");
    let session = opened.json()["session"].as_str().expect("one").to_owned();
    let wish = json!({ "mode": "shadow", "reason": "INC-7" });
    post(admin, "/console/mode", Some(&session), &wish).await;
    let line = process.until_line("mode changed at run time");
    for said in ["by the console", "INC-7", "pid "] {
        assert!(line.contains(said), "no `{said}` in {line}");
    }
    process.signal("TERM");
    let (_, log) = tokio::task::spawn_blocking(move || process.end())
        .await
        .expect("no panic");
    for secret in [ticket, session, "a-guess".to_owned()] {
        assert!(!log.contains(&secret), "a secret in the log");
    }
}
