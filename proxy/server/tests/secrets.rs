//! No token ever reaches the log, however talkative it is.

mod support;

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use support::client::{Client, Tls, get, post, with, with_token};
use support::process::Process;
use support::proxy::config_text;
use support::{Answer, EXEC, POD, PODS, Payload, Pki, Upstream, token, upstream};

const SECRET: &str = "s3cr3t-0123456789-abcdef";

/// The protocol that browsers carry a token in.
fn protocols() -> String {
    format!(
        "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.{}",
        URL_SAFE_NO_PAD.encode(SECRET)
    )
}

/// Requests with a token wherever one can be.
fn requests(account: &str) -> Vec<Request<Payload>> {
    let query = |path: &str| format!("{path}?token={SECRET}&access_token={SECRET}");
    // Served, refused, failed and broken off.
    let scripts = ["echo", "status 401", "status 500", "close", "die"];
    let mut requests: Vec<_> = scripts
        .iter()
        .map(|script| with_token(get(&query(POD), script), SECRET))
        .collect();
    requests.push(with_token(get(POD, "echo"), account));
    // Not understood.
    requests.push(with_token(
        get(&format!("{PODS}?watch=%zz&token={SECRET}"), "echo"),
        SECRET,
    ));
    requests.push(with_token(
        get(&query("/api/v1/namespaces/%zz"), "echo"),
        SECRET,
    ));
    let body = Payload::full(format!("{{\"token\":\"{SECRET}\"}}"));
    requests.push(with(post(PODS, "count", body), "cookie", SECRET));
    requests.push(with(
        get(EXEC, "echo"),
        "sec-websocket-protocol",
        &protocols(),
    ));
    requests
}

async fn ask(mut client: Client, request: Request<Payload>) {
    if let Ok(response) = client.send(request).await {
        let _ = Answer::try_read(response).await;
    }
}

/// Everything to one lane with one certificate, or none.
async fn ask_everything(lane: SocketAddr, tls: &Tls, account: &str) {
    for request in requests(account) {
        ask(Client::http2(lane, tls).await, request).await;
    }
    for request in requests(account) {
        ask(Client::http1(lane, tls).await, request).await;
    }
    for (script, option) in [
        ("tunnel", "upgrade"),
        ("no-tunnel", "upgrade"),
        ("echo", "authorization"),
    ] {
        let upgrade = with(get(EXEC, script), "sec-websocket-protocol", &protocols());
        let upgrade = with(with(upgrade, "connection", option), "upgrade", "websocket");
        let mut client = Client::http1(lane, tls).await;
        assert!(client.send(upgrade).await.is_ok());
    }
}

#[tokio::test]
async fn no_token_is_written_at_any_level() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let account = token::rs256(&token::claims("default", "web"));
    let admin = pki
        .tls()
        .certificate(&pki.user("jane", &["system:masters"]));
    for format in ["json", "text"] {
        let files = ["access", "audit"].map(|name| pki.path().join(format!("{name}-{format}.log")));
        let [access, audit] = files.each_ref().map(|path| path.display());
        let more = format!(
            "log: {{ level: trace, format: {format}, access: {{ file: {access} }}, audit: {{ file: {audit} }} }}\n"
        );
        let file = pki.write("config.yaml", &config_text(&pki, upstream.address(), &more));
        let mut process = Process::start(&file, &[]);
        let (main, reserved, _) = process.addresses();
        for lane in [main, reserved] {
            ask_everything(lane, &pki.tls(), &account).await;
            ask_everything(lane, &admin, &account).await;
        }
        process.signal("TERM");
        let (_, log) = tokio::task::spawn_blocking(move || process.end())
            .await
            .expect("no panic");
        let files = files.map(|path| std::fs::read_to_string(path).expect("a log"));
        assert!(files.iter().all(|file| file.contains(POD)), "{files:?}");
        let log = log + &files.concat();
        for line in ["reserved lane used", "request failed", POD] {
            assert!(log.contains(line), "nothing to find a secret in: {log}");
        }
        let signature = account.rsplit('.').next().expect("a signature");
        for secret in [SECRET, &URL_SAFE_NO_PAD.encode(SECRET), &account, signature] {
            assert_eq!(log.lines().find(|line| line.contains(secret)), None);
        }
        for key in ["apiserver.key", "front-proxy-client.key"] {
            let pem = std::fs::read_to_string(pki.path().join(key)).expect("a key");
            assert!(!log.contains(pem.lines().nth(1).expect("a line")), "{key}");
        }
    }
}
