//! `kubectl cp`.

use anyhow::Result;

use crate::harness::{Streams, noise};

#[tokio::test]
async fn files_are_copied_both_ways() -> Result<()> {
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    let content = noise(5 << 20);
    let here = streams.dir().join("file");
    std::fs::write(&here, &content)?;
    let here = here.display().to_string();
    for (number, way) in streams.ways.iter().enumerate() {
        let there = format!("{}:/tmp/{}-{number}", streams.pod, streams.pod);
        let said = streams.run(way, &["cp", &here, &there], b"").await?;
        assert_eq!(said.code, Some(0), "{}: {}", way.name, said.stderr);
        let back = streams.dir().join(format!("back-{number}"));
        let target = back.display().to_string();
        let said = streams.run(way, &["cp", &there, &target], b"").await?;
        assert_eq!(said.code, Some(0), "{}: {}", way.name, said.stderr);
        assert!(std::fs::read(&back)? == content, "{}", way.name);
    }
    streams.nothing_is_left().await;
    Ok(())
}
