//! Certificates are replaced on disk, and the proxy goes with them.

use std::path::Path;

use anyhow::{Context as _, Result};
use load_tests::control_plane::Credentials;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::support::{
    Authority, HOUR, Plane, Proxy, Raw, TestDir, cluster_authority, copy_pki, plane, replace, until,
};

const REQUEST: &str = "GET /api/v1/namespaces/default HTTP/1.1\r\nHost: kubernetes\r\n\r\n";

/// A proxy whose files are its own.
fn proxy_of(plane: &Plane, dir: &TestDir) -> Result<Proxy> {
    copy_pki(plane, dir.path())?;
    let own = config::Config::with_pki(dir.path());
    Proxy::with(plane, |config| {
        config.tls = own.tls;
        config.reserved.client_ca = None;
        config.upstream.ca = own.upstream.ca;
        config.upstream.front_proxy = own.upstream.front_proxy;
    })
}

async fn reloads(proxy: &Proxy, result: &str) -> f64 {
    let label = format!("result=\"{result}\"");
    match proxy.metrics().await {
        Ok(metrics) => metrics.sum("spillway_config_reloads_total", &[&label]),
        Err(_) => 0.0,
    }
}

fn der(pem: &str) -> Result<Vec<u8>> {
    Ok(CertificateDer::from_pem_slice(pem.as_bytes())?.to_vec())
}

fn replace_serving(dir: &Path, new: &Credentials) -> Result<()> {
    replace(&dir.join("apiserver.key"), &new.key_pem)?;
    replace(&dir.join("apiserver.crt"), &new.cert_pem)
}

async fn shows(proxy: &Proxy, certificate: &[u8]) -> bool {
    let connection = proxy.raw(None).await;
    connection.is_ok_and(|raw| raw.serving_certificate().as_deref() == Some(certificate))
}

async fn status(connection: &mut Raw) -> Option<u16> {
    Some(connection.ask(REQUEST).await.ok()?.status)
}

#[tokio::test]
async fn a_new_serving_certificate_is_for_new_connections_and_a_broken_one_for_none() -> Result<()>
{
    let Some(plane) = plane() else { return Ok(()) };
    let dir = TestDir::new()?;
    let proxy = proxy_of(&plane, &dir)?;
    let admin = plane.client_certificate("root", &["system:masters"], HOUR)?;
    let mut old = proxy.raw(Some(&admin)).await?;
    assert_eq!(status(&mut old).await, Some(200));
    let first = old.serving_certificate().context("no certificate")?;

    let new = cluster_authority(&plane)?.serving("renewed")?;
    replace_serving(dir.path(), &new)?;
    let second = der(&new.cert_pem)?;
    assert_ne!(first, second);
    until("new connections see the new certificate", async || {
        shows(&proxy, &second).await.then_some(())
    })
    .await;
    assert_eq!(status(&mut old).await, Some(200), "the old connection");

    let refused = reloads(&proxy, "refused").await;
    let broken = "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n";
    replace(&dir.path().join("apiserver.crt"), broken)?;
    until("the broken file is refused", async || {
        (reloads(&proxy, "refused").await > refused).then_some(())
    })
    .await;
    assert!(shows(&proxy, &second).await, "the good certificate is gone");
    assert_eq!(status(&mut old).await, Some(200), "the old connection");

    // Mended, it is taken again.
    let third = cluster_authority(&plane)?.serving("renewed-again")?;
    replace_serving(dir.path(), &third)?;
    let third = der(&third.cert_pem)?;
    until("the mended certificate is shown", async || {
        shows(&proxy, &third).await.then_some(())
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn who_a_removed_client_authority_signed_is_out_also_on_open_connections() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let dir = TestDir::new()?;
    let proxy = proxy_of(&plane, &dir)?;
    // The server's certificate is signed by the same authority: only who may
    // come in changes.
    let upstream_ca = dir.path().join("ca.crt");
    let client_ca = dir.path().join("clients.crt");
    replace(&client_ca, &std::fs::read_to_string(&upstream_ca)?)?;
    drop(proxy);
    let own = config::Config::with_pki(dir.path());
    let proxy = Proxy::with(&plane, |config| {
        config.tls = own.tls;
        config.tls.client_ca.clone_from(&client_ca);
    })?;
    let old = plane.client_certificate("root", &["system:masters"], HOUR)?;
    let mut open = proxy.raw(Some(&old)).await?;
    assert_eq!(status(&mut open).await, Some(200));

    let next = Authority::new("next")?;
    let new = next.client("root", "system:masters")?;
    let mut early = proxy.raw(Some(&new)).await?;
    assert_eq!(status(&mut early).await, Some(401));

    replace(&client_ca, &next.ca_pem)?;
    until(
        "the old certificate is refused where it was good",
        async || (status(&mut open).await == Some(401)).then_some(()),
    )
    .await;
    let mut fresh = proxy.raw(Some(&old)).await?;
    assert_eq!(status(&mut fresh).await, Some(401));
    // And the new one is good, also where it was refused before.
    let mut fresh = proxy.raw(Some(&new)).await?;
    assert_eq!(status(&mut fresh).await, Some(200));
    assert_eq!(status(&mut early).await, Some(200));
    Ok(())
}
