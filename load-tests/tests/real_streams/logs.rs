//! `kubectl logs`.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::harness::Streams;
use crate::support::{PATIENCE, until};

const WHOLE: &str = "line 1\nline 2\nline 3\nline 4\nline 5\n";

#[tokio::test]
async fn a_log_is_read_whole_or_in_part() -> Result<()> {
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    for way in &streams.ways {
        let said = streams.run(way, &["logs", &streams.pod], b"").await?;
        assert_eq!(said.text(), WHOLE, "{}", way.name);
        let arguments = ["logs", "--tail=2", &streams.pod];
        let said = streams.run(way, &arguments, b"").await?;
        assert_eq!(said.text(), "line 4\nline 5\n", "{}", way.name);
    }
    streams.nothing_is_left().await;
    Ok(())
}

#[tokio::test]
async fn a_followed_log_shows_later_lines_and_ends_upstream_when_the_reader_leaves() -> Result<()> {
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    for way in &streams.ways {
        let mut child = streams
            .command(way, &["logs", "--follow", &streams.pod])
            .stderr(Stdio::null())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let reading = async {
            for number in 1..=50 {
                let line = lines.next_line().await?.context("the log ended")?;
                ensure!(line == format!("line {number}"), "{line}");
            }
            anyhow::Ok(())
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        read.context("later lines do not come")?
            .with_context(|| way.name.clone())?;
        streams.are_open("logs", 1, usize::from(way.proxied)).await;
        child.kill().await?;
        until("the kubelet sees that the reader left", async || {
            (streams.at_the_kubelet("logs").await.ok()? == 0).then_some(())
        })
        .await;
    }
    streams.nothing_is_left().await;
    Ok(())
}
