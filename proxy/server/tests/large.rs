//! Answers larger than any memory they may take: nothing is kept of what is passed on.

mod support;

use http_body_util::BodyExt as _;
use support::body::CHUNK;
use support::client::{Client, get};
use support::process::Process;
use support::proxy::config_text;
use support::upstream::Settings;
use support::{POD, PODS, Pki, Upstream, bounded};

/// Half a gigabyte.
const CHUNKS: u64 = 500_000_000 / CHUNK as u64;

/// What the proxy may need besides what it has when it starts, in bytes. 40 readers who do not read hold at most 40 times
/// a stream's window upstream (256 KiB), its unsent bytes (64 KiB) and a frame.
const MOST_GROWTH: u64 = 64 << 20;

/// An apiserver that can send any amount, and the proxy as a process of its own, whose memory is nobody else's.
struct Setting {
    proxy: Process,
    main: std::net::SocketAddr,
    pki: Pki,
    _upstream: Upstream,
}

impl Setting {
    fn new() -> Self {
        let pki = Pki::new();
        let upstream = Upstream::start(&pki, Settings::default());
        let text = config_text(&pki, upstream.address(), "admission: { mode: \"off\" }\n");
        let mut proxy = Process::start(&pki.write("config.yaml", &text), &[]);
        let (main, _, _) = proxy.addresses();
        Self {
            proxy,
            main,
            pki,
            _upstream: upstream,
        }
    }

    async fn client(&self, http2: bool) -> Client {
        let tls = self.pki.tls().certificate(&self.pki.user("jane", &["dev"]));
        if http2 {
            Client::http2(self.main, &tls).await
        } else {
            Client::http1(self.main, &tls).await
        }
    }

    /// Panics when the proxy ever held much more than `before`.
    fn holds_little(&self, before: u64) {
        let grown = self.proxy.peak_memory().saturating_sub(before);
        assert!(grown < MOST_GROWTH, "grown by {} MiB", grown >> 20);
        eprintln!("grown by {} MiB", grown >> 20);
    }
}

/// Reads a whole answer and keeps nothing of it.
async fn length(client: &mut Client, chunks: u64) -> u64 {
    let answer = client.send(get(PODS, &format!("stream {chunks}"))).await;
    let mut body = answer.expect("an answer").into_body();
    let mut length = 0;
    while let Some(frame) = bounded("more of the answer", body.frame()).await {
        length += frame
            .expect("no break")
            .data_ref()
            .map_or(0, |data| data.len() as u64);
    }
    length
}

#[tokio::test]
async fn half_a_gigabyte_passes_through_little_memory_on_either_protocol() {
    let setting = Setting::new();
    let before = setting.proxy.peak_memory();
    for http2 in [true, false] {
        let mut client = setting.client(http2).await;
        assert_eq!(length(&mut client, CHUNKS).await, CHUNKS * CHUNK as u64);
    }
    setting.holds_little(before);
}

#[tokio::test]
async fn forty_readers_that_do_not_read_half_a_gigabyte_hold_little_and_stall_nobody() {
    let setting = Setting::new();
    let before = setting.proxy.peak_memory();
    let mut unread = Vec::new();
    for _ in 0..40 {
        let mut client = setting.client(true).await;
        let answer = client.send(get(PODS, &format!("stream {CHUNKS}"))).await;
        unread.push((client, answer.expect("an answer")));
    }
    // By the time this has been read, the others have taken in all they ever will.
    let mut client = setting.client(true).await;
    assert_eq!(length(&mut client, 1600).await, 1600 * CHUNK as u64);
    assert_eq!(client.get(POD, "echo").await.status, 200);
    setting.holds_little(before);
}
