//! Clients that cost more than they pay: they are told to calm down, and nobody else notices.

mod support;

use std::time::Duration;

use support::client::get;
use support::frames::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING,
    PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame,
};
use support::{Answer, POD, WATCH, World, bounded, frames};

/// ENHANCE_YOUR_CALM.
const CALM: u32 = 0xb;

/// Sends what `piece` makes, again and again, until the proxy ends it or `most` were sent. The code of the GOAWAY, and
/// how many were sent by then.
async fn flood(
    world: &World,
    most: u32,
    mut piece: impl FnMut(u32) -> Vec<u8> + Send + 'static,
) -> (Option<u32>, u32) {
    let Frames {
        mut reader,
        mut writer,
    } = Frames::connect(world, &[]).await;
    let writing = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let mut sent = 0;
        while sent < most {
            let some: Vec<u8> = (sent..sent + 50).flat_map(&mut piece).collect();
            if writer.write_all(&some).await.is_err() || writer.flush().await.is_err() {
                break;
            }
            sent += 50;
        }
        // Kept open: that it ends is for the proxy to say.
        (sent, writer)
    });
    let goaway = reader.until(|frame| frame.kind == GOAWAY).await;
    let (sent, _writer) = bounded("the flood's end", writing).await.expect("no panic");
    (goaway.map(|frame| frame.code()), sent)
}

/// That a flood is ended, counted under one of `reasons`, and was nobody else's problem.
async fn is_ended(reasons: &[&str], piece: impl FnMut(u32) -> Vec<u8> + Send + 'static) {
    let world = World::new();
    let mut polite = world.user("polite", &[]).await;
    let first = polite.get(POD, "echo").await.connection();
    let (code, _) = flood(&world, 1_000_000, piece).await;
    assert_eq!(code, Some(CALM), "{reasons:?}");
    let counted = |page: &support::Page| {
        let of = |reason: &&str| {
            let labels = [("lane", "main"), ("reason", *reason)];
            page.sum("spillway_abusive_connections_total", &labels)
        };
        reasons.iter().map(of).sum::<f64>() == 1.0
    };
    world.proxy.until("it is counted", counted).await;
    world.upstream.until_open(0).await;
    world.proxy.until_idle().await;
    let answer = polite.get(POD, "echo").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.connection(), first, "the server was not disturbed");
}

/// Cancelled before the proxy could look at them, it is h2 that counts them; afterwards it is the budget of resets.
#[tokio::test]
async fn requests_that_are_opened_and_cancelled_without_end() {
    is_ended(&["resets", "protocol"], |number| {
        let stream = 2 * number + 1;
        let mut both = frames::get(stream, POD, "silent");
        both.extend(frame(RST_STREAM, 0, stream, &CANCEL));
        both
    })
    .await;
}

#[tokio::test]
async fn pings_without_end() {
    is_ended(&["control_frames"], |number| {
        frame(PING, 0, 0, &u64::from(number).to_be_bytes())
    })
    .await;
}

#[tokio::test]
async fn settings_without_end() {
    is_ended(&["control_frames"], |number| {
        let mut setting = vec![0, 4];
        setting.extend((number % 65_536).to_be_bytes());
        frame(SETTINGS, 0, 0, &setting)
    })
    .await;
}

#[tokio::test]
async fn priorities_without_end() {
    is_ended(&["control_frames"], |number| {
        frame(PRIORITY, 0, 2 * (number % 1000) + 1, &[0, 0, 0, 0, 16])
    })
    .await;
}

#[tokio::test]
async fn frames_nobody_knows_without_end() {
    is_ended(&["control_frames"], |_| frame(0xfa, 0, 0, b"nothing")).await;
}

#[tokio::test]
async fn window_updates_without_end() {
    is_ended(&["control_frames"], |_| {
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
    })
    .await;
}

#[tokio::test]
async fn an_upload_of_empty_frames() {
    is_ended(&["protocol"], |number| match number {
        0 => frame(
            HEADERS,
            END_HEADERS,
            1,
            &block(&[
                (":method", "POST"),
                (":scheme", "https"),
                (":authority", "k"),
                (":path", POD),
            ]),
        ),
        _ => frame(DATA, 0, 1, &[]),
    })
    .await;
}

#[tokio::test]
async fn headers_that_never_end() {
    is_ended(&["protocol"], |number| match number {
        0 => frame(HEADERS, 0, 1, &block(&[(":method", "GET")])),
        _ => frame(CONTINUATION, 0, 1, &block(&[("x", "y")])),
    })
    .await;
}

/// CVE-2025-8671: frames that make the server reset a stream, which the sender then need not cancel.
#[tokio::test]
async fn requests_whose_cancelling_is_left_to_the_proxy() {
    is_ended(&["protocol"], |number| {
        let stream = 2 * number + 1;
        let mut both = frames::get(stream, POD, "silent");
        // A window beyond all bounds is an error of its stream.
        both.extend(frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]));
        both
    })
    .await;
}

/// A table entry of 4 KiB named again and again, a byte each time.
#[tokio::test]
async fn headers_that_grow_when_they_are_unpacked() {
    let world = World::new();
    let mut client = Frames::connect(&world, &[]).await;
    let mut bomb = block(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "k"),
        (":path", POD),
    ]);
    // RFC 7541 section 6.2.1: literal, indexed, new name "a", a value of 3000 bytes.
    bomb.extend([0x40, 1, b'a', 127]);
    let rest: usize = 3000 - 127;
    bomb.extend([(rest % 128) as u8 | 128, (rest / 128) as u8]);
    bomb.extend(vec![b'x'; 3000]);
    // Section 6.1: the newest entry of the dynamic table, index 62: 12,000 times 3 KiB.
    bomb.extend(vec![0x80 | 62; 12_000]);
    client
        .send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb))
        .await;
    let refused = client
        .reader
        .until(|frame| matches!(frame.kind, GOAWAY | RST_STREAM | HEADERS))
        .await
        .expect("a refusal");
    assert!(
        refused.kind != HEADERS || refused.flags & END_STREAM != 0,
        "{refused:?}"
    );
    assert_eq!(world.upstream.seen().len(), 0);
    let mut polite = world.user("polite", &[]).await;
    assert_eq!(polite.get(POD, "echo").await.status, 200);
}

#[tokio::test]
async fn a_client_whose_calls_all_time_out_is_not_taken_for_an_attacker() {
    let world = World::new();
    let mut client = world.user("controller", &[]).await;
    let mut watch = client
        .send(get(WATCH, "gated-body 2"))
        .await
        .expect("a head");
    for round in 0..3 {
        let calls: Vec<_> = (0..240)
            .map(|_| {
                let mut client = client.again();
                tokio::spawn(async move { client.send_patiently(get(POD, "silent")).await.is_ok() })
            })
            .collect();
        world.upstream.until_open(241).await;
        for call in &calls {
            call.abort();
        }
        world.upstream.until_open(1).await;
        assert_eq!(client.get(POD, "echo").await.status, 200, "round {round}");
    }
    world.upstream.let_through(1);
    let first = bounded("an event", http_body_util::BodyExt::frame(&mut watch)).await;
    assert!(first.expect("more").is_ok());
    let _ = Answer::try_read(watch).await;
}

/// A server that does not answer pings is taken for dead by every Go client after 30 s.
#[tokio::test]
async fn pings_are_answered_whatever_else_is_stuck() {
    let world = World::new();
    // A window of nothing: no answer's body can be sent. 250 requests of three kinds, as many as fit.
    let mut client = Frames::connect(&world, &[0, 4, 0, 0, 0, 0]).await;
    for number in 0..250 {
        let script = ["gate", "silent", "stream 4"][number as usize % 3];
        assert!(client.send(&frames::get(2 * number + 1, POD, script)).await);
    }
    world.upstream.until_seen(250).await;
    for round in 0..10_u8 {
        assert!(client.send(&frame(PING, 0, 0, &[round; 8])).await);
        let pong = client.reader.until(|frame| frame.kind == PING).await;
        let pong = pong.expect("an answer");
        assert_eq!((pong.flags & ACK, pong.payload[0]), (ACK, round));
    }
}

fn enforcing() -> World {
    World::with(support::upstream::Settings::default(), |config| {
        config.admission.mode = config::Mode::Enforce;
    })
}

/// Bodies that trickle: the server would only wait for them.
#[tokio::test]
async fn a_body_that_does_not_end_takes_no_seat_and_does_not_reach_the_server() {
    let world = enforcing();
    let mut slow = Frames::connect(&world, &[]).await;
    let head = block(&[
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "kubernetes"),
        (":path", "/api/v1/namespaces/default/pods"),
        ("content-length", "1000"),
    ]);
    for number in 0..100 {
        let stream = 2 * number + 1;
        assert!(slow.send(&frame(HEADERS, END_HEADERS, stream, &head)).await);
        assert!(slow.send(&frame(DATA, 0, stream, b"{")).await);
    }
    let there = |page: &support::Page| page.sum("spillway_lane_in_flight", &[]) == 100.0;
    let page = world.proxy.until("all are there", there).await;
    assert_eq!(page.sum("spillway_running_requests", &[]), 0.0);
    assert_eq!(page.sum("spillway_waiting_requests", &[]), 0.0);
    assert_eq!(world.upstream.seen().len(), 0);
    // The one that ends is served.
    assert!(slow.send(&frame(DATA, END_STREAM, 1, &[b' '; 999])).await);
    let answered = |frame: &frames::Frame| frame.stream == 1 && frame.kind == HEADERS;
    assert!(slow.reader.until(answered).await.is_some());
    assert_eq!(world.upstream.seen().len(), 1);
}

#[tokio::test]
async fn answers_nobody_reads_keep_nobody_else_from_the_same() {
    let world = enforcing();
    let lists = "/api/v1/pods?limit=500";
    // No window, so that nothing of an answer's body can be sent. The breadth begins at one LIST at a time.
    let mut deaf = Frames::connect(&world, &[0, 4, 0, 0, 0, 0]).await;
    for number in 0..3 {
        let get = frames::get(2 * number + 1, lists, "stream 100");
        assert!(deaf.send(&get).await);
        let begun = |frame: &frames::Frame| frame.stream == 2 * number + 1;
        assert!(deaf.reader.until(begun).await.is_some());
    }
    let idle = |page: &support::Page| {
        page.sum("spillway_running_requests", &[]) > 0.0
            && page.sum("spillway_outstanding_seconds", &[]) == 0.0
    };
    world.proxy.until("they hold no work", idle).await;
    let mut other = world.user("other", &[]).await;
    assert_eq!(other.get(lists, "echo").await.status, 200);
}

/// The answer to what is refused half-way arrives although the client goes on sending.
#[tokio::test]
async fn an_answer_survives_what_its_client_still_sends() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::new();
    for round in 0..20 {
        let tls = world.pki.tls().certificate(&world.pki.user("jane", &[]));
        let mut stream = tls
            .connect(world.proxy.main(), "http/1.1")
            .await
            .expect("TLS");
        let head = format!(
            "POST {POD} HTTP/1.1\r\nHost: k\r\nConnection: X-Remote-User\r\nContent-Length: 200000\r\n\r\n"
        );
        // First all of it, then the answer: as a client does that knows no better.
        let sent = async {
            stream.write_all(head.as_bytes()).await?;
            for _ in 0..20 {
                stream.write_all(&[b'x'; 10_000]).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok::<_, std::io::Error>(())
        };
        bounded("sending", sent).await.expect("nothing broke");
        let mut answer = String::new();
        let read = bounded("an answer", stream.read_to_string(&mut answer)).await;
        assert!(read.is_ok(), "round {round}: {read:?} after {answer:?}");
        assert!(
            answer.starts_with("HTTP/1.1 400"),
            "round {round}: {answer}"
        );
        assert!(answer.ends_with("}\n"), "round {round}: {answer}");
    }
}

/// The server has begun with it: its seat is kept until the server is done, so that cancelling buys nothing.
#[tokio::test]
async fn a_short_call_that_was_cancelled_keeps_its_seat_until_it_is_answered() {
    let world = enforcing();
    let mut client = Frames::connect(&world, &[]).await;
    let seen = async {
        // It is kept for a second at most, which may be over before anybody looks on a busy machine.
        for number in 0.. {
            let stream = 2 * number + 1;
            assert!(client.send(&frames::get(stream, POD, "gate")).await);
            world.upstream.until_seen(number as usize + 1).await;
            assert!(client.send(&frame(RST_STREAM, 0, stream, &CANCEL)).await);
            loop {
                let page = world.proxy.metrics().await;
                let in_flight = page.sum("spillway_lane_in_flight", &[]);
                let running = page.sum("spillway_running_requests", &[]);
                match (in_flight == 0.0, running == 0.0) {
                    (true, false) => return,
                    (true, true) => break,
                    (false, _) => {}
                }
            }
        }
    };
    bounded("a seat without its client", seen).await;
    world.upstream.let_through(1);
    world.upstream.until_open(0).await;
    world.proxy.until_idle().await;
}

/// An answer that comes in pieces is counted from its head to its end; but the server has done its work by then, and who
/// does not read it keeps nobody from theirs.
#[tokio::test]
async fn a_short_call_that_is_being_answered_holds_no_work() {
    let world = enforcing();
    let mut client = world.user("jane", &[]).await;
    let answer = client.send(get(POD, "gated-body 2")).await.expect("a head");
    let page = world.proxy.metrics().await;
    assert_eq!(page.sum("spillway_lane_in_flight", &[]), 1.0);
    assert_eq!(page.sum("spillway_running_requests", &[]), 1.0);
    assert_eq!(page.sum("spillway_outstanding_seconds", &[]), 0.0);
    world.upstream.let_through(1);
    assert_eq!(Answer::read(answer).await.status, 200);
    world.proxy.until_idle().await;
}

/// CVE-2023-44487 and its kin must not cost the server more than the same requests would have, were they served.
#[tokio::test]
async fn what_was_cancelled_is_gone_at_the_server_too() {
    let world = World::new();
    let mut client = Frames::connect(&world, &[]).await;
    for number in 0..200 {
        let stream = 2 * number + 1;
        assert!(client.send(&frames::get(stream, POD, "silent")).await);
    }
    world.upstream.until_open(200).await;
    for number in 0..200 {
        assert!(
            client
                .send(&frame(RST_STREAM, 0, 2 * number + 1, &CANCEL))
                .await
        );
    }
    world.upstream.until_open(0).await;
    world.proxy.until_idle().await;
}
