//! Commands, and what flows into and out of them.

use anyhow::Result;
use tokio::task::JoinSet;

use crate::harness::{Protocol, Streams, digest, noise};

const LARGE: usize = 8 << 20;

#[tokio::test]
async fn output_errors_and_exit_code_of_a_command_arrive() -> Result<()> {
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    for way in &streams.ways {
        let said = streams.exec(way, &["report", "fine", "not fine", "7"], b"");
        let said = said.await?;
        assert_eq!(said.text(), "fine\n", "{}", way.name);
        assert_eq!(
            said.stderr, "not fine\ncommand terminated with exit code 7",
            "{}",
            way.name
        );
        assert_eq!(said.code, Some(7), "{}", way.name);

        // Without standard input, and with words a URL has to escape.
        let arguments = ["exec", &streams.pod, "--", "echo", "a&b=c", "%2F +", "ü"];
        let said = streams.run(way, &arguments, b"").await?;
        assert_eq!(said.text(), "a&b=c %2F + ü\n", "{}", way.name);
        assert_eq!((said.code, &*said.stderr), (Some(0), ""), "{}", way.name);
    }
    streams.nothing_is_left().await;
    Ok(())
}

#[tokio::test]
async fn what_is_refused_is_refused_alike() -> Result<()> {
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    for arguments in [
        // The kubelet's answer, after the upgrade.
        &["exec", &streams.pod, "--", "no-such-command"][..],
        // The server's, before and instead of it.
        &["exec", "no-such-pod", "--", "echo"],
        &[
            "exec",
            &streams.pod,
            "-c",
            "no-such-container",
            "--",
            "echo",
        ],
        &["attach", "no-such-pod"],
    ] {
        for protocol in [Protocol::WebSocket, Protocol::Spdy] {
            let mut straight = None;
            for way in streams.ways.iter().filter(|way| way.protocol == protocol) {
                let said = streams.run_by_any_protocol(way, arguments, b"").await?;
                assert_ne!(said.code, Some(0), "{arguments:?}, {}: {said:?}", way.name);
                let expected = straight.get_or_insert_with(|| said.clone());
                assert_eq!(said, *expected, "{arguments:?}, {}", way.name);
            }
        }
    }
    streams.nothing_is_left().await;
    Ok(())
}

#[tokio::test]
async fn megabytes_flow_both_ways_and_the_end_of_input_is_passed_on() -> Result<()> {
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    let input = noise(LARGE);
    for way in &streams.ways {
        // The digest comes only after the input has ended, and on a stream that
        // is still open: a half-close.
        let said = streams.exec(way, &["sha256"], &input).await?;
        assert_eq!(said.text(), digest(&input), "{}", way.name);
        let said = streams.exec(way, &["cat"], &input).await?;
        assert!(said.stdout == input, "{}: cat", way.name);
        assert_eq!((said.code, &*said.stderr), (Some(0), ""), "{}", way.name);
        let said = streams.exec(way, &["bytes", "8388608"], b"").await?;
        assert!(said.stdout == vec![0; LARGE], "{}: bytes", way.name);
    }
    streams.nothing_is_left().await;
    Ok(())
}

#[tokio::test]
async fn attaching_reaches_the_process() -> Result<()> {
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    for way in &streams.ways {
        let arguments = ["attach", "--quiet", "-i", &streams.pod];
        let said = streams.run(way, &arguments, b"hello\nagain\n").await?;
        assert_eq!(said.text(), "hello\nagain\n", "{}", way.name);
        assert_eq!(said.code, Some(0), "{}", way.name);
    }
    streams.nothing_is_left().await;
    Ok(())
}

#[tokio::test]
async fn twenty_sessions_run_at_the_same_time() -> Result<()> {
    const SESSIONS: usize = 20;
    let Some(streams) = Streams::start().await? else {
        return Ok(());
    };
    // All are open before the first ends.
    let mut open = Vec::new();
    for way in streams.through_the_proxy().cycle().take(SESSIONS) {
        open.push(streams.open(way).await?);
    }
    streams.are_open("exec", SESSIONS, SESSIONS).await;
    let mut speaking = JoinSet::new();
    for (number, mut session) in open.into_iter().enumerate() {
        speaking.spawn(async move {
            for line in 0..20 {
                session.says(&format!("{number}, {line}")).await?;
            }
            session.end().await
        });
    }
    while let Some(spoken) = speaking.join_next().await {
        spoken??;
    }
    streams.nothing_is_left().await;
    Ok(())
}
