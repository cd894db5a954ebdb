//! The process is replaced while clients come and go: no connection and no request is lost.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::client::{self, get, with};
use support::process::Process;
use support::{
    Answer, EXEC, POD, Payload, Pki, Proxy, Upstream, WATCH, bounded, eventually, upstream,
};
use tokio::task::JoinSet;

/// Ports nobody else takes: bound and not listening, which does not keep the proxy from listening there.
struct Ports([socket2::Socket; 3]);

impl Ports {
    fn new() -> Self {
        Self([(); 3].map(|()| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
                .expect("a socket");
            socket.set_reuse_address(true).expect("an option");
            socket
                .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
                .expect("a port");
            socket
        }))
    }

    fn addresses(&self) -> [SocketAddr; 3] {
        let address = |socket: &socket2::Socket| socket.local_addr().ok()?.as_socket();
        self.0
            .each_ref()
            .map(|socket| address(socket).expect("an address"))
    }
}

/// A configuration file with addresses of its own.
fn config(pki: &Pki, [main, reserved, admin]: [SocketAddr; 3], upstream: SocketAddr) -> PathBuf {
    let text = format!(
        "pki: {pki}\n\
         listen: {{ main: [\"{main}\"], reserved: [\"{reserved}\"], admin: \"{admin}\", workers: 2, handover: {pki}/handover.sock }}\n\
         admin: {{ socket: off }}\n\
         upstream: {{ address: \"{upstream}\" }}\n\
         admission: {{ mode: \"off\" }}\n",
        pki = pki.path().display()
    );
    pki.write("config.yaml", &text)
}

/// Clients that come and go without a pause.
struct Traffic {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: JoinSet<(usize, Duration)>,
}

impl Traffic {
    /// On each of `addresses`: two that connect anew for each request, by HTTP/2 and HTTP/1.1, and two that keep their
    /// connection until it is closed or says goodbye.
    fn start(pki: &Pki, addresses: &[SocketAddr]) -> Self {
        let mut traffic = Self {
            stop: Arc::default(),
            served: Arc::default(),
            clients: JoinSet::new(),
        };
        let tls = pki
            .tls()
            .certificate(&pki.user("admin", &["system:masters"]));
        for (address, protocol, keep) in addresses.iter().flat_map(|address| {
            ["h2", "http/1.1"]
                .into_iter()
                .flat_map(move |protocol| [false, true].map(|keep| (*address, protocol, keep)))
        }) {
            let config = tls.config(protocol);
            let (stop, served) = (Arc::clone(&traffic.stop), Arc::clone(&traffic.served));
            traffic.clients.spawn(async move {
                let (mut done, mut longest) = (0, Duration::ZERO);
                let mut link = None;
                while !stop.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    let one = ask(&mut link, address, Arc::clone(&config));
                    bounded("an answer", one).await.unwrap_or_else(|problem| {
                        panic!("{protocol}, keep {keep}, after {done}: {problem}")
                    });
                    if !keep {
                        link = None;
                    }
                    longest = longest.max(begun.elapsed());
                    done += 1;
                    served.fetch_add(1, Ordering::SeqCst);
                }
                (done, longest)
            });
        }
        traffic
    }

    /// Waits until `count` more were served.
    async fn goes_on(&mut self, count: usize) {
        let before = self.served.load(Ordering::SeqCst);
        tokio::select! {
            () = eventually("traffic", || self.served.load(Ordering::SeqCst) >= before + count) => {}
            Some(ended) = self.clients.join_next() => panic!("a client gave up: {ended:?}"),
        }
    }

    /// (requests, the longest any took, connecting included)
    async fn end(mut self) -> (usize, Duration) {
        self.stop.store(true, Ordering::SeqCst);
        let (mut all, mut longest) = (0, Duration::ZERO);
        while let Some(ended) = self.clients.join_next().await {
            let (done, slowest) = ended.expect("every request served");
            all += done;
            longest = longest.max(slowest);
        }
        (all, longest)
    }
}

enum Link {
    Http1(http1::SendRequest<Payload>),
    Http2(http2::SendRequest<Payload>),
}

/// One request on `link` as long as that lives, else on a new connection. Only what was never sent is sent again.
async fn ask(
    link: &mut Option<Link>,
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> Result<(), String> {
    let text = |problem: hyper::Error| format!("{problem:?}");
    loop {
        let fresh = link.is_none();
        if fresh {
            *link = Some(connect(address, Arc::clone(&config)).await?);
        }
        let request = with(get(POD, "echo"), "host", "kubernetes");
        let sent = match link.as_mut().expect("connected") {
            Link::Http1(sender) => match sender.ready().await {
                Err(_) if !fresh => Err(None),
                Err(problem) => Err(Some(problem)),
                Ok(()) => sender.try_send_request(request).await.map_err(|mut error| {
                    error.take_message().is_none().then(|| error.into_error())
                }),
            },
            Link::Http2(sender) => match sender.ready().await {
                Err(_) if !fresh => Err(None),
                Err(problem) => Err(Some(problem)),
                Ok(()) => {
                    let mut request = with(get(POD, "echo"), "x-nothing", "1");
                    let uri = format!("https://kubernetes{}", request.uri());
                    *request.uri_mut() = uri.parse().expect("a URI");
                    sender.try_send_request(request).await.map_err(|mut error| {
                        error.take_message().is_none().then(|| error.into_error())
                    })
                }
            },
        };
        let response = match sent {
            Ok(response) => response,
            Err(None) => {
                *link = None;
                continue;
            }
            // As Go's client: a kept HTTP/1.1 connection that is closed instead of answering was closed while idle.
            Err(Some(problem))
                if !fresh
                    && matches!(link, Some(Link::Http1(_)))
                    && problem.is_incomplete_message() =>
            {
                *link = None;
                continue;
            }
            Err(Some(problem)) => return Err(text(problem)),
        };
        if response.status() != 200 {
            return Err(format!("status {}", response.status()));
        }
        let closes = response
            .headers()
            .get("connection")
            .is_some_and(|value| value == "close");
        response.into_body().collect().await.map_err(text)?;
        if closes {
            *link = None;
        }
        return Ok(());
    }
}

async fn connect(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> Result<Link, String> {
    let http2 = config.alpn_protocols == [b"h2".to_vec()];
    let stream = client::connect(address, config)
        .await
        .map_err(|problem| format!("connecting: {problem:?}"))?;
    let io = TokioIo::new(stream);
    if http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
            .await
            .map_err(|problem| format!("{problem:?}"))?;
        tokio::spawn(connection);
        Ok(Link::Http2(sender))
    } else {
        let (sender, connection) = http1::handshake(io)
            .await
            .map_err(|problem| format!("{problem:?}"))?;
        tokio::spawn(connection);
        Ok(Link::Http1(sender))
    }
}

/// The test's thread keeps its clients going while it waits.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

async fn up(mut process: Process) -> Process {
    aside(move || {
        process.addresses();
        process
    })
    .await
}

async fn started(file: &Path) -> Process {
    let file = file.to_owned();
    up(Process::start(&file, &["--exit-on-stdin-close"])).await
}

/// As soon as `process` has said `text`.
async fn heard(mut process: Process, text: &'static str) -> Process {
    aside(move || {
        process.until_line(text);
        process
    })
    .await
}

async fn ended_well(process: Process) -> String {
    let (status, log) = aside(move || process.end()).await;
    assert!(status.success(), "{status}: {log}");
    log
}

#[tokio::test]
async fn a_process_that_takes_over_from_a_running_one_loses_nothing() {
    let (pki, ports) = (Pki::new(), Ports::new());
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let file = config(&pki, ports.addresses(), upstream.address());
    let mut process = started(&file).await;
    let mut traffic = Traffic::start(&pki, &ports.addresses()[..2]);
    for _ in 0..3 {
        traffic.goes_on(200).await;
        let next = started(&file).await;
        // The successor may say where it serves before its predecessor has heard of it.
        process = heard(process, "a successor serves").await;
        ended_well(process).await;
        process = next;
    }
    traffic.goes_on(200).await;
    let (requests, longest) = traffic.end().await;
    eprintln!("{requests} requests through four processes, the slowest took {longest:?}");
    process.signal("TERM");
    ended_well(process).await;
}

#[tokio::test]
async fn a_process_starts_its_own_successor_when_asked_to() {
    let (pki, ports) = (Pki::new(), Ports::new());
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let file = config(&pki, ports.addresses(), upstream.address());
    let process = started(&file).await;
    let mut traffic = Traffic::start(&pki, &ports.addresses()[..2]);
    traffic.goes_on(200).await;
    process.signal("USR2");
    // Its successor writes to the same log.
    let process = heard(up(process).await, "stopped").await;
    traffic.goes_on(200).await;
    traffic.end().await;
    // The successor reads the same standard input, and ends with it.
    ended_well(process).await;
}

#[tokio::test]
async fn a_successor_that_cannot_start_changes_nothing() {
    let (pki, ports) = (Pki::new(), Ports::new());
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let file = config(&pki, ports.addresses(), upstream.address());
    let mut process = started(&file).await;
    let mut traffic = Traffic::start(&pki, &ports.addresses()[..1]);
    traffic.goes_on(50).await;
    let wrong = std::fs::read_to_string(&file).expect("the file")
        + "tls: { certificate: /nowhere/tls.crt, key: /nowhere/tls.key }\n";
    let wrong = pki.write("wrong.yaml", &wrong);
    let (status, log) = aside(move || Process::start(&wrong, &[]).end()).await;
    assert_eq!(status.code(), Some(78), "{log}");
    process = heard(process, "did not take over").await;
    traffic.goes_on(50).await;
    // And the next one may.
    let next = started(&file).await;
    ended_well(process).await;
    traffic.goes_on(50).await;
    traffic.end().await;
    drop(next);
}

#[tokio::test]
async fn a_restart_on_sockets_that_somebody_else_holds_loses_nothing() {
    let (pki, ports) = (Pki::new(), Ports::new());
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let held = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let [main, reserved] = held
        .each_ref()
        .map(|socket| socket.local_addr().expect("an address"));
    let file = config(
        &pki,
        [main, reserved, ports.addresses()[2]],
        upstream.address(),
    );
    let start = || up(Process::activated(&file, held.each_ref()));
    let mut process = start().await;
    let mut traffic = Traffic::start(&pki, &[main, reserved]);
    for _ in 0..3 {
        traffic.goes_on(200).await;
        process.signal("TERM");
        ended_well(process).await;
        process = start().await;
    }
    traffic.goes_on(200).await;
    let (requests, longest) = traffic.end().await;
    eprintln!("{requests} requests through three restarts, the slowest took {longest:?}");
}

#[tokio::test]
async fn what_is_under_way_when_the_process_stops_is_finished() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let proxy = Proxy::start(&pki, upstream.address(), |_| {});
    let tls = pki.tls().certificate(&pki.user("jane", &[]));
    let (main, admin) = (proxy.main(), proxy.admin());
    let mut first = client::Client::http2(main, &tls).await;
    let mut silent = client::Client::http1(main, &tls).await;
    let mut later = client::Client::http2(main, &tls).await;
    // Keeps the proxy from ending at once.
    let mut session = client::Client::http1(main, &tls).await;
    let upgrade = with(
        with(get(EXEC, "tunnel"), "connection", "upgrade"),
        "upgrade",
        "SPDY/3.1",
    );
    let session = session.send(upgrade).await.expect("an answer");
    assert_eq!(session.status(), 101);
    let slow = tokio::spawn(async move { first.get(POD, "gate").await });
    upstream.until_seen(2).await;

    let stopped = tokio::spawn(proxy.stop());
    bounded("not ready", async {
        while support::page::get(admin, "/readyz").await.0 == 200 {}
    })
    .await;
    // A connection that was made and not used yet, an older one, and a new one.
    let answer = silent.get(POD, "echo").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("connection")),
        (200, Some("close"))
    );
    assert_eq!(
        client::Client::http2(main, &tls)
            .await
            .get(POD, "echo")
            .await
            .status,
        200
    );
    // What would not end by itself begins elsewhere, in a way that a reflector understands.
    let refused = match later.send(get(WATCH, "watch")).await {
        Ok(answer) => Answer::read(answer).await,
        // It has said goodbye already.
        Err(_) => {
            client::Client::http2(main, &tls)
                .await
                .get(WATCH, "watch")
                .await
        }
    };
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("x-spillway-reason"), Some("stopping"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    upstream.let_through(1);
    assert_eq!(
        bounded("the slow one", slow)
            .await
            .expect("no panic")
            .status,
        200
    );
    drop(session);
    bounded("stopped", stopped).await.expect("no panic");
}

#[tokio::test]
async fn what_does_not_end_by_itself_is_ended_at_moments_of_its_own() {
    let pki = Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let proxy = Proxy::start(&pki, upstream.address(), |_| {});
    let tls = pki
        .tls()
        .certificate(&pki.user("system:kube-scheduler", &[]));
    let mut client = client::Client::http2(proxy.main(), &tls).await;
    let mut watches = Vec::new();
    for _ in 0..200 {
        watches.push(client.send(get(WATCH, "watch")).await.expect("an answer"));
    }
    let began = Instant::now();
    let reading: Vec<_> = watches
        .into_iter()
        .map(|watch| {
            tokio::spawn(async move {
                // Whole events, and a clean end.
                let body = watch.into_body().collect().await.expect("a clean end");
                assert_eq!(&body.to_bytes()[..], b"{\"type\":\"BOOKMARK\"}\n");
                began.elapsed()
            })
        })
        .collect();
    let stopped = tokio::spawn(proxy.stop());
    let mut moments = Vec::new();
    for watch in reading {
        moments.push(
            bounded("the end of a watch", watch)
                .await
                .expect("no panic"),
        );
    }
    moments.sort();
    // 200 of them at 2 ms each; a busy machine only makes it longer.
    assert!(
        moments[199] - moments[0] >= Duration::from_millis(200),
        "{moments:?}"
    );
    bounded("stopped", stopped).await.expect("no panic");
}
