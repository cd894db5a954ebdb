//! The binary: what it says, and the status it exits with.

mod support;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use support::client::{Client, get};
use support::process::{self, Process};
use support::proxy::config_text;
use support::{BOUND, POD, Pki, Upstream, upstream};

const UNAVAILABLE: Option<i32> = Some(69);
const CONFIG: Option<i32> = Some(78);

fn unused() -> std::net::SocketAddr {
    "127.0.0.1:1".parse().expect("an address")
}

fn written(pki: &Pki, more: &str) -> String {
    let file = pki.write("config.yaml", &config_text(pki, unused(), more));
    file.to_str().expect("text").to_owned()
}

/// `check` and `run` with `file` both end with 78 and say all of `said`.
fn both_refuse(file: &str, said: &[&str]) {
    for command in ["check", "run"] {
        let ended = process::run(&[command, "--config", file]);
        assert_eq!(ended.code, CONFIG, "{command}: {}", ended.stderr);
        for text in said {
            assert!(
                ended.stderr.contains(text),
                "{command}: no `{text}` in {}",
                ended.stderr
            );
        }
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
}

#[test]
fn a_good_configuration_is_called_good() {
    let pki = Pki::new();
    let ended = process::run(&["check", "--config", &written(&pki, "")]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("good"), "{}", ended.stdout);
}

#[test]
fn a_wrong_command_line_is_explained() {
    for arguments in [
        &[][..],
        &["swim"],
        &["run", "--wrong"],
        &["check", "--config"],
    ] {
        let ended = process::run(arguments);
        assert_eq!(ended.code, Some(2), "{arguments:?}");
        assert!(ended.stderr.contains("--help"), "{}", ended.stderr);
    }
}

#[test]
fn help_and_version_are_no_mistakes() {
    for argument in ["--help", "--version"] {
        let ended = process::run(&[argument]);
        assert_eq!(ended.code, Some(0));
        assert!(ended.stdout.contains("spillway"), "{}", ended.stdout);
    }
}

#[test]
fn a_missing_configuration_is_named() {
    let pki = Pki::new();
    let file = pki.path().join("none.yaml");
    both_refuse(
        file.to_str().expect("text"),
        &["none.yaml", "cannot be read"],
    );
}

#[test]
fn a_mistake_in_the_file_is_placed() {
    let pki = Pki::new();
    both_refuse(
        &written(&pki, "admission:\n  mode: sideways\n"),
        &["config.yaml:6:9", "sideways", "shadow"],
    );
    both_refuse(
        &written(&pki, "admission:\n  mood: off\n"),
        &["config.yaml:6:3", "mood", "mode"],
    );
    both_refuse(&written(&pki, "log: [\n"), &["config.yaml:"]);
}

#[test]
fn a_file_that_is_missing_or_wrong_is_named() {
    for (name, text, said) in [
        ("apiserver.crt", None, "cannot be read"),
        ("apiserver.key", None, "cannot be read"),
        ("ca.crt", Some(""), "no certificate"),
        ("front-proxy-client.crt", Some("not PEM"), "no certificate"),
        ("front-proxy-client.key", Some("not PEM"), "no private key"),
        ("sa.pub", Some("not PEM"), "no usable public key"),
    ] {
        let pki = Pki::new();
        match text {
            Some(text) => drop(pki.write(name, text)),
            None => std::fs::remove_file(pki.path().join(name)).expect("removed"),
        }
        both_refuse(&written(&pki, ""), &[name, said]);
    }
}

#[test]
fn a_key_of_another_certificate_is_found() {
    for name in ["apiserver", "front-proxy-client"] {
        let pki = Pki::new();
        pki.write(&format!("{name}.key"), &pki.user("other", &[]).key);
        both_refuse(
            &written(&pki, ""),
            &[
                &format!("{name}.crt"),
                &format!("{name}.key"),
                "does not go with",
            ],
        );
    }
}

#[test]
fn an_address_in_use_is_named() {
    let pki = Pki::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for (key, main, reserved, admin) in [
        ("listen.main", &*address, "127.0.0.1:0", "127.0.0.1:0"),
        ("listen.reserved", "127.0.0.1:0", &*address, "127.0.0.1:0"),
        ("listen.admin", "127.0.0.1:0", "127.0.0.1:0", &*address),
    ] {
        let text = format!(
            "pki: {}\nlisten: {{ main: [\"{main}\"], reserved: [\"{reserved}\"], admin: \"{admin}\" }}\nadmin: {{ socket: off }}\n",
            pki.path().display()
        );
        let file = pki.write("config.yaml", &text);
        let ended = process::run(&["run", "--config", file.to_str().expect("text")]);
        assert_eq!(ended.code, UNAVAILABLE, "{}", ended.stderr);
        for text in [key, &address, "in use"] {
            assert!(
                ended.stderr.contains(text),
                "no `{text}` in {}",
                ended.stderr
            );
        }
    }
}

#[tokio::test]
async fn a_check_can_try_the_server_too() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let file = pki.write("config.yaml", &config_text(&pki, upstream.address(), ""));
    let check = |file: &Path| {
        process::run(&[
            "check",
            "--connect",
            "--config",
            file.to_str().expect("text"),
        ])
    };
    let ended = check(&file);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(
        ended.stdout.contains(&upstream.address().to_string()),
        "{}",
        ended.stdout
    );
    let address = upstream.address();
    drop(upstream);
    let ended = check(&file);
    assert_eq!(ended.code, UNAVAILABLE);
    assert!(
        ended.stderr.contains(&address.to_string()),
        "{}",
        ended.stderr
    );
}

/// A child in front of `upstream`, and a client of its main lane.
async fn served(pki: &Pki, upstream: &Upstream, more: &[&str]) -> (Process, Client) {
    let file = pki.write("config.yaml", &config_text(pki, upstream.address(), ""));
    let mut process = Process::start(&file, more);
    let (main, _, _) = process.addresses();
    let client = Client::http2(main, &pki.tls().certificate(&pki.user("jane", &[]))).await;
    (process, client)
}

#[tokio::test]
async fn a_signal_to_end_is_followed_and_no_failure() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    for signal in ["TERM", "INT"] {
        let (process, mut client) = served(&pki, &upstream, &[]).await;
        assert_eq!(client.get(POD, "echo").await.status, 200);
        process.signal(signal);
        let ended = tokio::task::spawn_blocking(move || process.end())
            .await
            .expect("no panic");
        assert_eq!(ended.0.code(), Some(0), "{signal}: {}", ended.1);
    }
}

#[tokio::test]
async fn a_request_in_flight_is_finished_before_the_end() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let (mut process, client) = served(&pki, &upstream, &[]).await;
    let mut other = client.again();
    let waiting = tokio::spawn(async move { other.send(get(POD, "gate")).await });
    upstream.until_seen(1).await;
    process.signal("TERM");
    process.until_line("stopping");
    upstream.let_through(1);
    let response = waiting.await.expect("no panic").expect("an answer");
    assert_eq!(response.status(), 200);
    drop((response, client));
    let ended = tokio::task::spawn_blocking(move || process.end())
        .await
        .expect("no panic");
    assert_eq!(ended.0.code(), Some(0), "{}", ended.1);
}

#[tokio::test]
async fn it_ends_with_its_parent_if_asked_to() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let (mut process, client) = served(&pki, &upstream, &["--exit-on-stdin-close"]).await;
    drop(client);
    process.close_stdin();
    let ended = tokio::task::spawn_blocking(move || process.end())
        .await
        .expect("no panic");
    assert_eq!(ended.0.code(), Some(0), "{}", ended.1);
}

#[tokio::test]
async fn a_hangup_reloads() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let (mut process, mut client) = served(&pki, &upstream, &[]).await;
    process.signal("HUP");
    process.until_line("configuration reloaded");
    assert_eq!(client.get(POD, "echo").await.status, 200);
}

/// A child that has begun to read its configuration and gets none yet; what gives it one lets it go on.
fn starting(pki: &Pki, upstream: &Upstream) -> (Process, impl FnOnce() + use<>) {
    let file = pki.path().join("config.fifo");
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.expect("mkfifo").success());
    let process = Process::start(&file, &[]);
    let (sender, opened) = std::sync::mpsc::channel();
    let path = file.clone();
    // Opens as soon as the other side does, which is as far as it comes.
    std::thread::spawn(move || sender.send(OpenOptions::new().write(true).open(path)));
    let opened = opened.recv_timeout(BOUND).expect("it reads its file");
    let mut opened = opened.expect("a pipe");
    let text = config_text(pki, upstream.address(), "");
    let whole = pki.write("config.yaml", &text);
    let go_on = move || {
        // It reads the file again to see whether it has changed meanwhile.
        std::fs::rename(whole, file).expect("the file is replaced");
        opened.write_all(text.as_bytes()).expect("written");
    };
    (process, go_on)
}

#[tokio::test]
async fn who_rotates_logs_or_reloads_while_it_starts_does_not_end_it() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let (mut process, go_on) = starting(&pki, &upstream);
    process.signal("USR1");
    process.signal("HUP");
    go_on();
    let (main, _, _) = process.addresses();
    let tls = pki.tls().certificate(&pki.user("jane", &[]));
    let mut client = Client::http2(main, &tls).await;
    assert_eq!(client.get(POD, "echo").await.status, 200);
}

#[tokio::test]
async fn who_ends_it_while_it_starts_is_followed_before_it_serves() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let (process, go_on) = starting(&pki, &upstream);
    process.signal("TERM");
    go_on();
    let (status, log) = tokio::task::spawn_blocking(move || process.end())
        .await
        .expect("no panic");
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("stopped before it was up"), "{log}");
    assert!(!log.contains("spillway is up"), "{log}");
}
