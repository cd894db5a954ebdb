//! One client connection: TLS handshake, HTTP/2 or HTTP/1.1 by ALPN, and its end.

use std::cell::Cell;
use std::future::Future;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proxy_core::hash;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::executor::LocalExecutor;
use super::stopping::stopping;
use super::worker::Worker;
use crate::handle::handle;
use crate::identify::Presented;
use crate::lane::Lane;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// An HTTP/2 connection without a request is closed after this, as kube-apiserver does.
const IDLE: Duration = Duration::from_secs(90);
const STREAM_WINDOW: u32 = 128 * 1024;
const MAX_STREAMS: u32 = 250;
const MAX_HEADERS: u32 = 64 * 1024;
/// Unsent answer bytes per stream.
const SEND_BUFFER: usize = 64 * 1024;

/// What all requests of a connection share.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) peer: SocketAddr,
    pub(crate) address_hash: u64,
    pub(crate) presented: Presented,
    requests: Cell<u64>,
    http2: bool,
    /// Asks it to end now.
    leave: Notify,
    /// Counted for as long as anything of it is left: a tunnel outlives what hyper calls the connection.
    _open: Open,
}

impl Connection {
    /// Starts serving a socket. Refuses it when too many handshakes are under way.
    pub(crate) fn begin(worker: &Rc<Worker>, stream: StdStream, peer: SocketAddr) {
        let most = worker.shared.snapshot.load().config.listen.max_handshakes;
        if worker.handshakes.get() >= most {
            let labels = [("lane", worker.lane.name()), ("reason", "max_handshakes")];
            worker
                .shared
                .metrics
                .counter("spillway_refused_connections_total", &labels)
                .increment(1);
            return;
        }
        let Ok(stream) = TcpStream::from_std(stream) else {
            return;
        };
        let open = Open::count(worker);
        tokio::task::spawn_local(async move {
            let worker = Rc::clone(&open.worker);
            match handshake(&worker, stream).await {
                Ok(tls) => serve(open, tls, peer).await,
                Err(error) => {
                    debug!(lane = worker.lane.name(), %peer, %error, "TLS handshake failed")
                }
            }
        });
    }

    /// A request has come in.
    pub(crate) fn requested(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// What is under way is finished, and the client is told to go elsewhere.
    pub(crate) fn leave(&self) {
        self.leave.notify_one();
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Counts an open connection; uncounts it when dropped.
struct Open {
    worker: Rc<Worker>,
}

impl Open {
    fn count(worker: &Rc<Worker>) -> Self {
        worker
            .lane_state()
            .connections
            .fetch_add(1, Ordering::Relaxed);
        worker.load.connections.fetch_add(1, Ordering::Relaxed);
        Self {
            worker: Rc::clone(worker),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.worker
            .lane_state()
            .connections
            .fetch_sub(1, Ordering::Relaxed);
        self.worker.load.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a handshake under way; uncounts it when dropped.
struct Handshake<'a>(&'a Worker);

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.0
            .handshakes
            .set(self.0.handshakes.get().saturating_sub(1));
    }
}

async fn handshake(worker: &Worker, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
    worker.handshakes.set(worker.handshakes.get() + 1);
    let _handshake = Handshake(worker);
    let acceptor = {
        let snapshot = worker.shared.snapshot.load();
        let tls = match worker.lane {
            Lane::Main => &snapshot.main_tls,
            Lane::Reserved => &snapshot.reserved_tls,
        };
        TlsAcceptor::from(std::sync::Arc::clone(tls))
    };
    tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

async fn serve(open: Open, tls: TlsStream<TcpStream>, peer: SocketAddr) {
    let worker = &Rc::clone(&open.worker);
    let (_, session) = tls.get_ref();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let chain = session
        .peer_certificates()
        .map(|chain| chain.iter().map(|c| c.clone().into_owned()).collect());
    let connection = Rc::new(Connection {
        worker: Rc::clone(worker),
        peer,
        address_hash: hash::text(&peer.ip().to_canonical().to_string()),
        presented: Presented::new(chain.unwrap_or_default()),
        requests: Cell::new(0),
        http2,
        leave: Notify::new(),
        _open: open,
    });
    let shared = Rc::clone(&connection);
    let service = service_fn(move |request| handle(Rc::clone(&shared), request));
    let io = TokioIo::new(tls);
    let ended = if http2 {
        let served = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * 100)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .serve_connection(io, service);
        until_ended(&connection, served, http2::Connection::graceful_shutdown).await
    } else {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(64 * 1024)
            // As Go writes them; clients exist that look for `Retry-After` letter by letter.
            .title_case_headers(true)
            .serve_connection(io, service)
            .with_upgrades();
        until_ended(
            &connection,
            served,
            http1::UpgradeableConnection::graceful_shutdown,
        )
        .await
    };
    if let Err(error) = ended {
        debug!(lane = worker.lane.name(), %peer, %error, "connection ended");
    }
}

/// Drives a connection to its end; asks it to end when the process stops or nothing was requested for a while.
async fn until_ended<C>(
    connection: &Rc<Connection>,
    served: C,
    ask_to_end: impl Fn(std::pin::Pin<&mut C>),
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut served = std::pin::pin!(served);
    let mut turn = std::pin::pin!(turn_to_end(connection));
    let mut seen = connection.requests.get();
    let mut asked = false;
    loop {
        tokio::select! {
            ended = &mut served => return ended,
            () = &mut turn, if !asked => {
                asked = true;
                ask_to_end(served.as_mut());
            }
            () = tokio::time::sleep(IDLE), if !asked => {
                let requests = connection.requests.get();
                // One for the service, one here; every open account holds one more.
                let in_flight = Rc::strong_count(connection) > 2;
                if requests == seen && !in_flight {
                    asked = true;
                    ask_to_end(served.as_mut());
                }
                seen = requests;
            }
        }
    }
}

/// Until this connection is to be asked to end.
///
/// HTTP/2 can say so without losing a request. HTTP/1.1 cannot: a connection that is closed before its first answer is an
/// error to its client, so one that has had no request yet is left alone, and its first answer closes it.
async fn turn_to_end(connection: &Connection) {
    let mut stop = connection.worker.stop.clone();
    let stopped = async {
        let stopping = stopping(&mut stop).await;
        let count = connection.worker.load.connections.load(Ordering::Relaxed);
        tokio::time::sleep_until(stopping.moment(count, fastrand::f64())).await;
        if !connection.http2 && connection.requests.get() == 0 {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = stopped => {}
        () = connection.leave.notified() => {}
    }
}
