//! Streams upstream: as many connections as it takes, none over its limit, nothing in a queue nobody sees.

mod support;

use std::collections::HashMap;

use support::client::{get, post};
use support::{Answer, POD, PODS, Payload, WATCH, World, bounded, pattern_digest, upstream};

fn ten_streams() -> upstream::Settings {
    upstream::Settings {
        max_streams: Some(10),
        ..upstream::Settings::default()
    }
}

/// Opens `count` watches and keeps them.
async fn watches(world: &World, count: usize) -> Vec<http::Response<hyper::body::Incoming>> {
    let client = world.user("system:kube-scheduler", &[]).await;
    let opening: Vec<_> = (0..count)
        .map(|_| {
            let mut client = client.again();
            tokio::spawn(async move {
                client
                    .send_patiently(get(WATCH, "watch"))
                    .await
                    .expect("an answer")
            })
        })
        .collect();
    let answered = async {
        let mut open = Vec::new();
        for watch in opening {
            open.push(watch.await.expect("no panic"));
        }
        open
    };
    bounded("every watch answered", answered).await
}

#[tokio::test]
async fn two_hundred_watches_reach_a_server_that_allows_ten_streams_per_connection() {
    let world = World::with(ten_streams(), |_| {});
    let open = watches(&world, 200).await;
    for watch in &open {
        assert_eq!(watch.status(), 200);
    }
    world.upstream.until_open(200).await;
    let mut by_connection = HashMap::<usize, usize>::new();
    for seen in world.upstream.seen() {
        *by_connection.entry(seen.connection).or_default() += 1;
    }
    assert!(by_connection.len() >= 20, "{by_connection:?}");
}

#[tokio::test]
async fn a_short_call_gets_through_while_watches_fill_every_connection() {
    let world = World::with(ten_streams(), |_| {});
    let _open = watches(&world, 50).await;
    let mut client = world.user("jane", &[]).await;
    for _ in 0..20 {
        assert_eq!(client.get(POD, "echo").await.status, 200);
        assert_eq!(client.get(PODS, "echo").await.status, 200);
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_not_queued() {
    let world = World::with(ten_streams(), |config| config.upstream.max_connections = 2);
    let open = watches(&world, 40).await;
    let (served, refused): (Vec<_>, Vec<_>) =
        open.into_iter().partition(|watch| watch.status() == 200);
    assert!((10..=20).contains(&served.len()), "{} served", served.len());
    for watch in refused {
        // A watch is never told 503: a reflector would answer with a LIST.
        assert_eq!(watch.status(), 429);
        let answer = Answer::read(watch).await;
        assert!(
            answer
                .header("retry-after")
                .is_some_and(|seconds| seconds.parse::<u32>().is_ok())
        );
        assert_eq!(answer.header("x-spillway-reason"), Some("no_stream"));
    }
}

#[tokio::test]
async fn streams_are_given_back_when_clients_leave() {
    let world = World::with(ten_streams(), |config| config.upstream.max_connections = 2);
    // Two connections hold sixteen: the fifth dozen fits only if the first four were given back.
    for _ in 0..5 {
        let open = watches(&world, 12).await;
        assert!(open.iter().all(|watch| watch.status() == 200));
        world.upstream.until_open(12).await;
        drop(open);
        world.upstream.until_open(0).await;
        world.proxy.until_idle().await;
    }
}

#[tokio::test]
async fn a_connection_that_says_goodbye_gets_nothing_new_and_ends_what_it_has() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    let mut other = client.again();
    let waiting = tokio::spawn(async move { other.get(POD, "gate").await });
    world.upstream.until_seen(1).await;
    let parting = client.get(POD, "goodbye").await;
    let first = parting.connection();
    // The goodbye may still be on its way; from the first answer elsewhere on, nothing returns.
    let next = bounded("another connection", async {
        loop {
            let connection = client.get(POD, "echo").await.connection();
            if connection != first {
                return connection;
            }
        }
    })
    .await;
    for _ in 0..10 {
        assert_eq!(client.get(POD, "echo").await.connection(), next);
    }
    world.upstream.let_through(1);
    let finished = bounded("the request in flight", waiting)
        .await
        .expect("no panic");
    assert_eq!(
        (finished.status.as_u16(), finished.connection()),
        (200, first)
    );
}

#[tokio::test]
async fn a_request_the_server_never_looked_at_is_sent_again() {
    let world = World::with(
        upstream::Settings {
            goaway_first: 1,
            ..upstream::Settings::default()
        },
        |_| {},
    );
    let answer = world.user("jane", &[]).await.get(POD, "echo").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(world.upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_refused_stream_is_tried_again_and_not_for_ever() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    assert_eq!(client.get(POD, "refuse 1").await.status, 200);
    assert_eq!(world.upstream.count("refuse 1"), 2);
    let answer = client.get(POD, "refuse 1000").await;
    assert_eq!(answer.status, 503);
    assert!((2..=4).contains(&world.upstream.count("refuse 1000")));
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_request() {
    let world = World::new();
    let mut jane = world.user("jane", &[]).await;
    for _ in 0..10 {
        assert_eq!(jane.get(POD, "goodbye").await.status, 200);
    }
    // HTTP/1.1: the server closes after its answer, and the next request may cross that.
    let mut stranger = world.stranger().await;
    for _ in 0..10 {
        assert_eq!(stranger.get("/version", "goodbye").await.status, 200);
    }
}

/// client-go repeats every method when it is told Retry-After: a second object with a generated name.
fn assert_may_have_been_done(answer: &Answer) {
    assert_eq!(answer.status, 504, "{answer:?}");
    assert_eq!(answer.header("retry-after"), None);
    assert_eq!(answer.header("x-spillway-reason"), Some("lost"));
    assert_eq!(answer.json()["reason"], "Timeout");
}

#[tokio::test]
async fn what_may_have_begun_is_not_sent_twice() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    let answer = client.get(POD, "close").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-spillway-reason"), Some("send"));
    assert!(answer.header("retry-after").is_some());
    for mut client in [client, world.stranger().await] {
        let answer = client.call(post(PODS, "close", Payload::empty())).await;
        assert_may_have_been_done(&answer);
    }
    assert_eq!(world.upstream.count("close"), 3);
}

#[tokio::test]
async fn a_body_that_broke_off_midway_is_not_sent_twice() {
    let world = World::new();
    for mut client in [world.user("jane", &[]).await, world.stranger().await] {
        let before = world.upstream.count("die-reading");
        let answer = client
            .call(post(PODS, "die-reading", Payload::pattern(64, true)))
            .await;
        assert_may_have_been_done(&answer);
        assert_eq!(world.upstream.count("die-reading"), before + 1);
    }
}

#[tokio::test]
async fn what_the_server_never_looked_at_is_sent_again_with_its_body() {
    let world = World::with(
        upstream::Settings {
            goaway_first: 1,
            ..upstream::Settings::default()
        },
        |_| {},
    );
    let mut client = world.user("jane", &[]).await;
    for (script, length) in [("count", true), ("refuse 1", false)] {
        // Announced or not, all of what can be kept.
        let body = Payload::pattern(1, length);
        let answer = client.call(post(PODS, script, body)).await;
        assert_eq!(answer.status, 200, "{script}: {answer:?}");
        let seen = answer.json();
        assert_eq!(seen["bytes"], 64 * 1024, "{script}");
        assert_eq!(seen["digest"], pattern_digest(1), "{script}");
    }
    assert_eq!(world.upstream.count("refuse 1"), 2);
}

#[tokio::test]
async fn a_refused_stream_with_more_of_a_body_than_is_kept_is_for_the_client_to_send_again() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    let answer = client
        .call(post(PODS, "refuse-late 1", Payload::pattern(4, true)))
        .await;
    assert_eq!(answer.status, 503);
    // It was not carried out, and never half of it.
    assert!(answer.header("retry-after").is_some());
    assert_eq!(world.upstream.count("refuse-late 1"), 1);
}
