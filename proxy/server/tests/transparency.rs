//! What the proxy says by itself reads as if the server had said it, down to the letter.
//!
//! The differences to a real kube-apiserver were found by `load-tests transparency`, which also guards them.

mod support;

use support::client::{Client, get, with};
use support::{Leaf, POD, World, bounded};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Writes a head inside TLS as HTTP/1.1 of jane's; what came back until the proxy closed.
async fn raw(world: &World, head: &str) -> String {
    let tls = world.pki.tls().certificate(&world.pki.user("jane", &[]));
    let stream = tls.connect(world.proxy.main(), "http/1.1").await;
    let mut stream = stream.expect("TLS");
    let text = format!("{head}Host: kubernetes\r\n\r\n");
    stream.write_all(text.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    let _ = bounded("the end of the connection", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn header_names_are_written_as_go_writes_them() {
    let world = World::new();
    let answer = raw(
        &world,
        &format!("GET {POD} HTTP/1.1\r\nX-Script: apf\r\nConnection: close\r\n"),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    for name in [
        "Retry-After",
        "X-Kubernetes-Pf-Prioritylevel-Uid",
        "X-Kubernetes-Pf-Flowschema-Uid",
    ] {
        assert!(
            answer.contains(&format!("\r\n{name}: ")),
            "{name} in {answer}"
        );
    }
}

#[tokio::test]
async fn an_expectation_nobody_can_meet_is_refused_at_once() {
    let world = World::new();
    let head = format!("POST {POD} HTTP/1.1\r\nContent-Length: 10\r\n");
    let answer = raw(&world, &format!("{head}Expect: a-miracle\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 417 "), "{answer}");
    assert_eq!(world.upstream.seen().len(), 0);
}

#[tokio::test]
async fn a_client_that_expects_to_be_told_to_go_on_is_told() {
    let world = World::new();
    let tls = world.pki.tls().certificate(&world.pki.user("jane", &[]));
    let stream = tls.connect(world.proxy.main(), "http/1.1").await;
    let mut stream = stream.expect("TLS");
    let head = format!(
        "POST {POD} HTTP/1.1\r\nHost: kubernetes\r\nX-Script: count\r\nContent-Length: 4\r\n\
         Expect: 100-Continue\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    let mut told = [0; 25];
    let reading = bounded("100 Continue", stream.read_exact(&mut told)).await;
    reading.expect("an interim answer");
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"body").await.expect("written");
    let mut answer = Vec::new();
    let _ = bounded("the answer", stream.read_to_end(&mut answer)).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_target_that_is_no_path_is_not_sent_on_as_another() {
    let world = World::new();
    for target in ["version", "kubernetes:443"] {
        let answer = raw(&world, &format!("GET {target} HTTP/1.1\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{target}: {answer}");
    }
    assert_eq!(world.upstream.seen().len(), 0);
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_refused_in_the_servers_words() {
    let world = World::new();
    let expired = world.pki.ca.issue(&Leaf {
        user: "jane",
        expired: true,
        ..Leaf::default()
    });
    let tls = world.pki.tls().certificate(&expired);
    for mut client in [
        Client::http2(world.proxy.main(), &tls).await,
        Client::http1(world.proxy.main(), &tls).await,
    ] {
        let answer = client
            .call(with(get(POD, "echo"), "accept", "application/json"))
            .await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.header("cache-control"), Some("no-cache, private"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let words = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}"#;
        assert_eq!(answer.text(), format!("{words}\n"));
    }
}
