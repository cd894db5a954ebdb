//! `kubectl port-forward`.

use std::fs::File;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::task::JoinSet;

use crate::harness::{LOGGING, SESSION, Streams, Way, fell_back, noise};
use crate::support::PATIENCE;

/// The port of a pod that sends back what it gets.
const ECHO: &str = ":7";

/// A forwarded port of this host.
struct Forwarded {
    child: Child,
    address: String,
}

async fn forward(streams: &Streams, way: &Way) -> Result<Forwarded> {
    let log = streams.dir().join("port-forward.log");
    let mut child = streams
        .command(way, &[LOGGING, "port-forward", &streams.pod, ECHO])
        .stderr(File::create(&log)?)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    let line = line.context("it does not forward")??;
    let line = line.with_context(|| format!("kubectl ended: {}", way.name))?;
    let address = line
        .strip_prefix("Forwarding from ")
        .and_then(|rest| rest.split(' ').next())
        .with_context(|| format!("no address in {line:?}"))?
        .to_owned();
    let logged = std::fs::read_to_string(&log)?;
    ensure!(!fell_back(&logged), "no {:?}: {logged}", way.protocol);
    // What it says of each connection must not fill the pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(Forwarded { child, address })
}

/// Sends all, ends its side, and reads what comes back to its end.
async fn echo(address: String, bytes: Vec<u8>) -> Result<bool> {
    let (mut read, mut write) = TcpStream::connect(address).await?.into_split();
    let sent = bytes.clone();
    let sending = async move {
        write.write_all(&sent).await?;
        write.shutdown().await
    };
    let mut back = Vec::with_capacity(bytes.len());
    let both = async { tokio::try_join!(sending, read.read_to_end(&mut back)) };
    tokio::time::timeout(SESSION, both)
        .await
        .context("not everything came back")??;
    Ok(back == bytes)
}

#[tokio::test]
async fn a_forwarded_port_carries_megabytes_and_several_connections() -> Result<()> {
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    for way in &streams.ways {
        let mut forwarded = forward(&streams, way).await?;
        let address = &forwarded.address;
        assert!(
            echo(address.clone(), noise(8 << 20)).await?,
            "{}: not what was sent",
            way.name
        );
        let mut connections = JoinSet::new();
        for number in 0..8 {
            connections.spawn(echo(address.clone(), noise((256 << 10) + number)));
        }
        while let Some(same) = connections.join_next().await {
            assert!(same??, "{}: of several, not what was sent", way.name);
        }
        streams
            .are_open("portforward", 1, usize::from(way.proxied))
            .await;
        forwarded.child.kill().await?;
    }
    streams.nothing_is_left().await;
    Ok(())
}
