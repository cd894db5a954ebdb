//! How sessions outlast what they should outlast, and end with what they end
//! with.

use anyhow::Result;

use crate::harness::Streams;
use crate::support::{Proxy, cluster_authority, copy_pki, replace, until};

#[tokio::test]
async fn a_session_outlasts_a_reload_of_the_configuration() -> Result<()> {
    let started = Streams::start_with(|plane, dir| {
        copy_pki(plane, dir.path())?;
        let own = config::Config::with_pki(dir.path());
        Proxy::with(plane, |config| config.tls = own.tls)
    });
    let Some(streams) = started.await? else {
        return Ok(());
    };
    let mut sessions = Vec::new();
    for way in streams.through_the_proxy() {
        sessions.push(streams.open(way).await?);
    }
    let reloads = async || {
        let labels = ["result=\"applied\""];
        streams
            .metric("spillway_config_reloads_total", &labels)
            .await
    };
    let before = reloads().await?;
    let renewed = cluster_authority(&streams.plane)?.serving("renewed")?;
    replace(&streams.dir().join("apiserver.key"), &renewed.key_pem)?;
    replace(&streams.dir().join("apiserver.crt"), &renewed.cert_pem)?;
    until("the proxy has a new configuration", async || {
        (reloads().await.ok()? > before).then_some(())
    })
    .await;
    for mut session in sessions {
        session.says("still here").await?;
        session.end().await?;
    }
    streams.nothing_is_left().await;
    Ok(())
}

#[tokio::test]
async fn a_client_that_dies_ends_its_session_everywhere() -> Result<()> {
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    for way in streams.through_the_proxy() {
        let session = streams.open(way).await?;
        streams.are_open("exec", 1, 1).await;
        session.kill().await?;
        streams.nothing_is_left().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_session_holds_no_seat_that_others_wait_for() -> Result<()> {
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    let mut sessions = Vec::new();
    for way in streams.through_the_proxy() {
        sessions.push(streams.open(way).await?);
    }
    streams
        .are_open("exec", sessions.len(), sessions.len())
        .await;
    until("no seat is held while the sessions are open", async || {
        let running = streams.metric("spillway_running_requests", &[]).await;
        (running.ok()? == 0.0).then_some(())
    })
    .await;
    assert_eq!(streams.in_flight().await?, sessions.len() as f64);
    for session in sessions {
        session.end().await?;
    }
    streams.nothing_is_left().await;
    Ok(())
}

#[tokio::test]
async fn an_open_session_counts_as_a_connection() -> Result<()> {
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    let labels = ["lane=\"main\""];
    let connections = async || {
        let count = streams.metric("spillway_lane_connections", &labels);
        count.await.map(|count| count as u32)
    };
    // Not kubectl, which keeps a second connection for other requests.
    let before = connections().await?;
    let (session, head) = streams.upgraded("command=cat&stdin=true").await?;
    assert_eq!(head.status, 101, "{}", head.head);
    assert_eq!(head.header("upgrade"), Some("websocket"));
    streams.are_open("exec", 1, 1).await;
    // Or `listen.max_connections` bounds everything but the sessions.
    assert_eq!(connections().await?, before + 1);
    drop(session);
    streams.nothing_is_left().await;
    Ok(())
}

#[tokio::test]
async fn a_session_has_time_to_finish_when_the_proxy_stops() -> Result<()> {
    let Some(mut streams) = Streams::start().await? else {
        return Ok(());
    };
    let ways: Vec<_> = streams.through_the_proxy().cloned().collect();
    let mut sessions = Vec::new();
    for way in &ways {
        sessions.push(streams.open(way).await?);
    }
    streams.stop_the_proxy();
    until("the proxy takes no new connections", async || {
        let (way, _) = ways.split_first()?;
        let asked = streams.run(way, &["get", "--raw", "/version"], b"").await;
        (asked.ok()?.code != Some(0)).then_some(())
    })
    .await;
    for mut session in sessions {
        session.says("still here").await?;
        session.end().await?;
    }
    Ok(())
}
