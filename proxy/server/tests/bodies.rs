//! Bodies: every byte, streamed, ended as they ended, and no client's pace another's problem.

mod support;

use http::Method;
use http_body::Frame;
use http_body_util::BodyExt as _;
use support::body::{CHUNK, chunk, read};
use support::client::{Client, get, post, request};
use support::{Answer, POD, PODS, Payload, World, bounded, pattern_digest};

const MIB_64: u64 = 64 * 1024 * 1024 / CHUNK as u64;

/// Each protocol, to the pools that HTTP/2 and HTTP/1.1 upstream serve.
async fn clients(world: &World) -> [Client; 4] {
    let tls = world.pki.tls();
    [
        world.user("jane", &[]).await,
        world.user_http1("jane", &[]).await,
        Client::http2(world.proxy.main(), &tls).await,
        Client::http1(world.proxy.main(), &tls).await,
    ]
}

#[tokio::test]
async fn sixty_four_mebibytes_come_down_byte_for_byte() {
    let world = World::new();
    let digest = pattern_digest(MIB_64);
    let clients = [
        (world.user("jane", &[]).await, "sized"),
        (world.user_http1("jane", &[]).await, "stream"),
    ];
    for (mut client, how) in clients {
        let response = client
            .send(get(POD, &format!("{how} {MIB_64}")))
            .await
            .expect("an answer");
        let told = response
            .headers()
            .get("content-length")
            .map(|length| length.to_str().expect("text").to_owned());
        assert_eq!(
            told,
            (how == "sized").then(|| (MIB_64 * CHUNK as u64).to_string())
        );
        let read = bounded("64 MiB", read(response.into_body(), |_| {}))
            .await
            .expect("a whole body");
        assert_eq!((read.bytes, &read.digest), (MIB_64 * CHUNK as u64, &digest));
    }
}

#[tokio::test]
async fn sixty_four_mebibytes_go_up_byte_for_byte() {
    let world = World::new();
    let digest = pattern_digest(MIB_64);
    for (client, sized) in clients(&world)
        .await
        .iter_mut()
        .zip([true, false, false, true])
    {
        let sent = client.call(post(PODS, "count", Payload::pattern(MIB_64, sized)));
        let answer = bounded("64 MiB", sent).await.json();
        assert_eq!(answer["bytes"], MIB_64 * CHUNK as u64);
        assert_eq!(answer["digest"], *digest);
        let told = answer["content_length"].as_str().map(str::to_owned);
        assert_eq!(told, sized.then(|| (MIB_64 * CHUNK as u64).to_string()));
    }
}

#[tokio::test]
async fn an_upload_is_passed_on_while_it_is_still_being_sent() {
    let world = World::new();
    for mut client in clients(&world).await {
        let before = world.upstream.received();
        let (feed, body) = Payload::channel();
        let sending = tokio::spawn(async move { client.call(post(PODS, "count", body)).await });
        feed.send(Ok(Frame::data(chunk(0)))).await.expect("taken");
        support::eventually("the first chunk upstream", || {
            world.upstream.received() == before + CHUNK as u64
        })
        .await;
        feed.send(Ok(Frame::data(chunk(1)))).await.expect("taken");
        drop(feed);
        let answer = bounded("the answer", sending).await.expect("no panic");
        assert_eq!(answer.json()["digest"], *pattern_digest(2));
    }
}

#[tokio::test]
async fn an_answer_is_passed_on_while_it_is_still_being_made() {
    let world = World::new();
    for mut client in clients(&world).await {
        let mut response = client
            .send(get(POD, "gated-body 3"))
            .await
            .expect("an answer");
        let mut first = 0;
        while first < CHUNK {
            let frame = bounded("the first chunk", response.frame())
                .await
                .expect("more")
                .expect("a frame");
            first += frame.data_ref().map_or(0, bytes::Bytes::len);
        }
        assert_eq!(first, CHUNK);
        world.upstream.let_through(1);
        assert_eq!(Answer::read(response).await.body.len(), 2 * CHUNK);
    }
}

#[tokio::test]
async fn an_answer_to_head_keeps_its_length_and_has_no_body() {
    let world = World::new();
    for mut client in clients(&world).await {
        for _ in 0..3 {
            let answer = client
                .call(request(Method::HEAD, POD, "sized 2", Payload::empty()))
                .await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("content-length"), Some("131072"));
            assert!(answer.body.is_empty());
        }
        assert_eq!(
            client.get(POD, "echo").await.status,
            200,
            "the connection goes on"
        );
    }
}

#[tokio::test]
async fn an_answer_without_content_is_just_that() {
    let world = World::new();
    for mut client in clients(&world).await {
        for status in [204, 304] {
            let answer = client.get(POD, &format!("status {status}")).await;
            assert_eq!(answer.status.as_u16(), status);
            assert!(answer.body.is_empty());
        }
        assert_eq!(
            client.get(POD, "echo").await.status,
            200,
            "the connection goes on"
        );
    }
    world.proxy.until_idle().await;
}

#[tokio::test]
async fn the_servers_own_refusal_passes_with_its_headers() {
    let world = World::new();
    let answer = world.user("jane", &[]).await.get(POD, "apf").await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("x-kubernetes-pf-flowschema-uid"), Some("f-1"));
    assert_eq!(
        answer.header("x-kubernetes-pf-prioritylevel-uid"),
        Some("p-1")
    );
    assert_eq!(answer.header("x-spillway-reason"), None);
}

#[tokio::test]
async fn one_list_nobody_reads_does_not_stall_its_neighbours_on_the_connection() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    let _unread = client
        .send(get(PODS, &format!("stream {MIB_64}")))
        .await
        .expect("an answer");
    for _ in 0..10 {
        assert_eq!(client.get(POD, "echo").await.status, 200);
        assert_eq!(client.get(PODS, "stream 16").await.body.len(), 16 * CHUNK);
    }
}

#[tokio::test]
async fn forty_lists_nobody_reads_do_not_stall_other_clients() {
    let world = World::new();
    let mut unread = Vec::new();
    // On connections of their own: each can take in no more than its windows.
    for _ in 0..40 {
        let mut client = world.user("slow", &[]).await;
        let response = client
            .send(get(PODS, &format!("stream {MIB_64}")))
            .await
            .expect("an answer");
        unread.push((client, response));
    }
    let mut client = world.user("jane", &[]).await;
    for _ in 0..10 {
        let answer = client.get(PODS, "stream 16").await;
        assert_eq!(answer.body.len(), 16 * CHUNK);
    }
    let lists = world.upstream.seen();
    let shared = lists
        .iter()
        .filter(|seen| seen.connection == lists[0].connection)
        .count();
    assert!(shared > 40, "the test is about a shared connection");
    drop(unread);
    world.upstream.until_open(0).await;
    world.proxy.until_idle().await;
}

#[tokio::test]
async fn an_answer_the_server_broke_off_does_not_end_cleanly() {
    let world = World::new();
    for mut client in clients(&world).await {
        // Over HTTP/1.1 the break may overtake the head.
        let Ok(response) = client.send(get(POD, "die")).await else {
            continue;
        };
        assert_eq!(response.status(), 200);
        assert!(
            Answer::try_read(response).await.is_err(),
            "half a LIST must not look like a whole one"
        );
    }
    world.proxy.until_idle().await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_an_answer_frees_everything() {
    let world = World::new();
    for mut client in clients(&world).await {
        let mut response = client
            .send(get(PODS, &format!("stream {MIB_64}")))
            .await
            .expect("an answer");
        bounded("a frame", response.frame())
            .await
            .expect("more")
            .expect("a frame");
        world.upstream.until_open(1).await;
        client.breaker().break_off();
        world.upstream.until_open(0).await;
        world.proxy.until_idle().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_upload_frees_everything() {
    let world = World::new();
    for mut client in clients(&world).await {
        let breaker = client.breaker();
        let (feed, body) = Payload::channel();
        let sending =
            tokio::spawn(async move { client.send(post(PODS, "count", body)).await.is_ok() });
        feed.send(Ok(Frame::data(chunk(0)))).await.expect("taken");
        world.upstream.until_open(1).await;
        breaker.break_off();
        assert!(
            !bounded("the sender notices", sending)
                .await
                .expect("no panic")
        );
        world.upstream.until_open(0).await;
        world.proxy.until_idle().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_before_any_answer_frees_everything() {
    let world = World::new();
    for mut client in clients(&world).await {
        let breaker = client.breaker();
        let sending = tokio::spawn(async move { client.send(get(POD, "silent")).await.is_ok() });
        world.upstream.until_open(1).await;
        breaker.break_off();
        assert!(
            !bounded("the sender notices", sending)
                .await
                .expect("no panic")
        );
        world.upstream.until_open(0).await;
        world.proxy.until_idle().await;
    }
}

#[tokio::test]
async fn one_cancelled_stream_leaves_its_connection_to_the_others() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    let first = client.get(POD, "echo").await.connection();
    for _ in 0..5 {
        let mut other = client.again();
        let cancelled = tokio::spawn(async move { other.send(get(POD, "silent")).await.is_ok() });
        world.upstream.until_open(1).await;
        cancelled.abort();
        world.upstream.until_open(0).await;
        assert_eq!(client.get(POD, "echo").await.connection(), first);
    }
}

#[tokio::test]
async fn an_upload_the_server_answers_early_gets_that_answer() {
    let world = World::new();
    for (which, mut client) in clients(&world).await.into_iter().enumerate() {
        let (feed, body) = Payload::channel();
        // More than is waited for before the server sees a request.
        feed.send(Ok(Frame::data(chunk(0)))).await.expect("taken");
        let answer = client.call(post(PODS, "early", body)).await;
        assert_eq!(answer.status, 403, "client {which}: {answer:?}");
        drop(feed);
    }
}
