//! Files change while the proxy runs: all of the new is used, or none of it.

mod support;

use support::client::{Client, get};
use support::pki::{Authority, Leaf, serving};
use support::{POD, Page, Pki, Proxy, Upstream, bounded, upstream};

fn applied(page: &Page) -> f64 {
    page.sum("spillway_config_reloads_total", &[("result", "applied")])
}

fn refused(page: &Page) -> f64 {
    page.sum("spillway_config_reloads_total", &[("result", "refused")])
}

/// The certificate a new connection is shown, as DER.
async fn shown(proxy: &Proxy, tls: &support::Tls) -> Vec<u8> {
    let stream = tls.connect(proxy.main(), "h2").await.expect("TLS");
    stream
        .get_ref()
        .1
        .peer_certificates()
        .expect("a certificate")[0]
        .to_vec()
}

fn started(pki: &Pki) -> (Upstream, Proxy) {
    let upstream = Upstream::start(pki, upstream::Settings::default());
    let proxy = Proxy::start(pki, upstream.address(), |_| {});
    (upstream, proxy)
}

#[tokio::test]
async fn a_new_serving_certificate_is_shown_to_new_connections_and_old_ones_go_on() {
    let pki = Pki::new();
    let (_upstream, proxy) = started(&pki);
    let mut old = Client::http2(proxy.main(), &pki.tls().certificate(&pki.user("jane", &[]))).await;
    assert_eq!(old.get(POD, "echo").await.status, 200);
    let before = shown(&proxy, &pki.tls()).await;
    pki.write_serving(&pki.ca);
    proxy.until("reloaded", |page| applied(page) >= 1.0).await;
    bounded("the new certificate", async {
        while shown(&proxy, &pki.tls()).await == before {}
    })
    .await;
    assert_eq!(old.get(POD, "echo").await.status, 200);
    assert!(!old.is_closed());
}

#[tokio::test]
async fn a_certificate_without_its_key_changes_nothing_until_the_key_comes() {
    let pki = Pki::new();
    let (_upstream, proxy) = started(&pki);
    let before = shown(&proxy, &pki.tls()).await;
    let new = serving(&pki.ca);
    pki.write("apiserver.crt", &new.certificate);
    proxy.until("refused", |page| refused(page) >= 1.0).await;
    assert_eq!(shown(&proxy, &pki.tls()).await, before);
    pki.write("apiserver.key", &new.key);
    proxy.until("applied", |page| applied(page) >= 1.0).await;
    assert_ne!(shown(&proxy, &pki.tls()).await, before);
}

#[tokio::test]
async fn a_file_that_is_gone_or_garbage_changes_nothing() {
    let pki = Pki::new();
    let (_upstream, proxy) = started(&pki);
    let mut client =
        Client::http2(proxy.main(), &pki.tls().certificate(&pki.user("jane", &[]))).await;
    pki.write(
        "ca.crt",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    proxy.until("refused", |page| refused(page) >= 1.0).await;
    std::fs::remove_file(pki.path().join("ca.crt")).expect("removed");
    proxy
        .until("refused again", |page| refused(page) >= 2.0)
        .await;
    assert_eq!(client.get(POD, "echo").await.status, 200);
    let page = proxy.metrics().await;
    assert_eq!(applied(&page), 0.0);
}

#[tokio::test]
async fn a_new_client_authority_is_asked_from_then_on_also_on_old_connections() {
    let pki = Pki::new();
    let separate = Authority::new("clients");
    let path = pki.write("clients.crt", &separate.pem);
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let proxy = Proxy::start(&pki, upstream.address(), |config| {
        config.tls.client_ca = path
    });
    let (old, new) = (separate, Authority::new("clients"));
    let certificate = |authority: &Authority| {
        authority.issue(&Leaf {
            user: "jane",
            ..Leaf::default()
        })
    };
    let mut before = Client::http2(proxy.main(), &pki.tls().certificate(&certificate(&old))).await;
    assert_eq!(before.get(POD, "echo").await.status, 200);
    pki.write("clients.crt", &new.pem);
    proxy.until("reloaded", |page| applied(page) >= 1.0).await;
    assert_eq!(
        before.get(POD, "echo").await.status,
        401,
        "no longer vouched for"
    );
    let mut after = Client::http2(proxy.main(), &pki.tls().certificate(&certificate(&new))).await;
    assert_eq!(after.get(POD, "echo").await.status, 200);
}

#[tokio::test]
async fn a_new_front_proxy_certificate_is_used_on_new_upstream_connections() {
    let pki = Pki::new();
    let (upstream, proxy) = started(&pki);
    let mut client =
        Client::http2(proxy.main(), &pki.tls().certificate(&pki.user("jane", &[]))).await;
    let watch = client
        .send(get(support::WATCH, "watch"))
        .await
        .expect("a head");
    assert_eq!(client.get(POD, "echo").await.status, 200);
    let renewed = pki.front_proxy_ca.issue(&Leaf {
        user: "front-proxy-renewed",
        ..Leaf::default()
    });
    pki.write("front-proxy-client.crt", &renewed.certificate);
    pki.write("front-proxy-client.key", &renewed.key);
    let used = || upstream.last().certificate;
    bounded("the new certificate upstream", async {
        loop {
            assert_eq!(client.get(POD, "echo").await.status, 200);
            if used().as_deref() == Some("front-proxy-renewed") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(upstream.open(), 1, "the watch goes on");
    drop(watch);
}

#[tokio::test]
async fn a_changed_configuration_is_applied_and_a_bad_one_is_not() {
    let pki = Pki::new();
    let first = Upstream::start(&pki, upstream::Settings::default());
    let second = Upstream::start(&pki, upstream::Settings::default());
    let text = |address, more: &str| support::proxy::config_text(&pki, address, more);
    let file = pki.write(
        "config.yaml",
        &text(first.address(), "admission: { mode: off }\n"),
    );
    let proxy = Proxy::from_file(file);
    let mut client =
        Client::http2(proxy.main(), &pki.tls().certificate(&pki.user("jane", &[]))).await;
    assert_eq!(client.get(POD, "echo").await.status, 200);
    assert_eq!(first.seen().len(), 1);

    pki.write(
        "config.yaml",
        &text(second.address(), "admission: { mode: sideways }\n"),
    );
    proxy.until("refused", |page| refused(page) >= 1.0).await;
    assert_eq!(client.get(POD, "echo").await.status, 200);
    assert_eq!((first.seen().len(), second.seen().len()), (2, 0));

    pki.write(
        "config.yaml",
        &text(second.address(), "admission: { mode: shadow }\n"),
    );
    proxy.until("applied", |page| applied(page) >= 1.0).await;
    assert_eq!(client.get(POD, "echo").await.status, 200);
    assert_eq!((first.seen().len(), second.seen().len()), (2, 1));
    let page = proxy.metrics().await;
    assert_eq!(page.sum("spillway_mode", &[("mode", "shadow")]), 1.0);
    assert_eq!(page.sum("spillway_mode", &[("mode", "off")]), 0.0);
}
