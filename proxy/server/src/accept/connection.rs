//! One client connection: TLS handshake, HTTP/2 or HTTP/1.1 by ALPN, and its end.

use std::cell::{Cell, OnceCell, RefCell};
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
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::executor::{StreamExecutor, Streams};
use super::guard::{Guarded, Tunnelled};
use super::places::{Entry, Place};
use super::stopping::stopping;
use super::worker::Worker;
use crate::handle::handle;
use crate::identify::Presented;
use crate::lane::Lane;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// How often a connection is asked whether it is still of use.
const LOOK: Duration = Duration::from_secs(30);
/// So often in a row without a request, an HTTP/2 connection is asked to end: after 90 s, as kube-apiserver does.
const IDLE_LOOKS: u32 = 3;
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
    pub(crate) tunnelled: Tunnelled,
    requests: Cell<u64>,
    http2: bool,
    /// Asks it to end now.
    leave: Notify,
    /// Ends it, with everything on it.
    task: Rc<OnceCell<AbortHandle>>,
    /// Of HTTP/2.
    streams: Rc<Streams>,
    /// Until somebody proves who they are.
    stranger: RefCell<Option<Place>>,
    /// Counted for as long as anything of it is left: a tunnel outlives what hyper calls the connection.
    _open: Open,
}

impl Connection {
    /// Starts serving a socket. Refuses it when too many handshakes are under way.
    pub(crate) fn begin(worker: &Rc<Worker>, stream: StdStream, peer: SocketAddr) {
        let Ok(stream) = TcpStream::from_std(stream) else {
            return;
        };
        let most = worker.shared.snapshot.load().config.listen.max_handshakes;
        let count = |reason| {
            let labels = [("lane", worker.lane.name()), ("reason", reason)];
            worker
                .shared
                .metrics
                .counter("spillway_refused_connections_total", &labels)
                .increment(1);
        };
        let now = Instant::now();
        let place = match worker.handshakes.enter(peer.ip(), most, now) {
            Entry::Free(place) => place,
            Entry::Displacing(place) => {
                count("handshake_displaced");
                place
            }
            Entry::Refused => return count("max_handshakes"),
        };
        let stranger = match worker.strangers.enter(peer.ip(), worker.max_strangers, now) {
            Entry::Free(place) => place,
            Entry::Displacing(place) => {
                count("stranger_displaced");
                place
            }
            Entry::Refused => return count("max_strangers"),
        };
        let numbers = (place.number(), stranger.number());
        let open = Open::count(worker);
        let own = Rc::new(OnceCell::new());
        let own_task = Rc::clone(&own);
        let task = tokio::task::spawn_local(async move {
            let worker = Rc::clone(&open.worker);
            let handshaken = handshake(&worker, stream).await;
            drop(place);
            match handshaken {
                Ok(tls) => serve(open, stranger, tls, peer, own_task).await,
                Err(error) => {
                    debug!(lane = worker.lane.name(), %peer, %error, "TLS handshake failed")
                }
            }
        });
        worker.handshakes.run_by(numbers.0, task.abort_handle());
        worker.strangers.run_by(numbers.1, task.abort_handle());
        // The task has not run yet.
        let _ = own.set(task.abort_handle());
    }

    /// A request has come in.
    pub(crate) fn requested(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// What is under way is finished, and the client is told to go elsewhere.
    pub(crate) fn leave(&self) {
        self.leave.notify_one();
    }

    /// Somebody proved who they are, and may use this lane.
    pub(crate) fn known(&self) {
        self.stranger.take();
    }

    /// What ends request `number`: its stream, or all of an HTTP/1.1 connection.
    pub(crate) fn end_of(&self, number: u64) -> Option<AbortHandle> {
        let stream = self.streams.task(number);
        stream.or_else(|| self.task.get().cloned())
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

async fn handshake(worker: &Worker, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
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

async fn serve(
    open: Open,
    stranger: Place,
    tls: TlsStream<TcpStream>,
    peer: SocketAddr,
    task: Rc<OnceCell<AbortHandle>>,
) {
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
        tunnelled: Tunnelled::default(),
        requests: Cell::new(0),
        http2,
        leave: Notify::new(),
        task,
        streams: Rc::default(),
        stranger: RefCell::new(Some(stranger)),
        _open: open,
    });
    let shared = Rc::clone(&connection);
    let service = service_fn(move |request| {
        let number = shared.streams.ask();
        handle(Rc::clone(&shared), number, request)
    });
    let (io, parting) = Guarded::new(tls, http2, connection.tunnelled.clone());
    let io = TokioIo::new(io);
    let ended = if http2 {
        let served = http2::Builder::new(StreamExecutor(Rc::clone(&connection.streams)))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * 100)
            .max_concurrent_streams(MAX_STREAMS)
            // Cancelled before it was looked at: harmless, and bounded by the budget of resets. The default of 20 would
            // end a client whose calls time out together while this thread is busy.
            .max_pending_accept_reset_streams(MAX_STREAMS as usize)
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
    let parted = parting.take();
    let abuse = match (&parted, &ended) {
        (Some(parted), _) => Some(parted.abuse.name()),
        (None, Err(error)) if told_to_calm_down(error) => Some("protocol"),
        (None, _) => None,
    };
    if let Some(reason) = abuse {
        let labels = [("lane", worker.lane.name()), ("reason", reason)];
        worker
            .shared
            .metrics
            .counter("spillway_abusive_connections_total", &labels)
            .increment(1);
    }
    if let Err(error) = ended {
        debug!(lane = worker.lane.name(), %peer, %error, abuse, "connection ended");
    }
    if let Some(parted) = parted {
        parted.see_out().await;
    }
}

/// Whether the HTTP/2 library itself found that the client asks too much.
fn told_to_calm_down(error: &hyper::Error) -> bool {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .is_some_and(|error| {
            error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
        })
}

/// Drives a connection to its end; asks it to end when the process stops or nothing was requested for a while. What has
/// been asked, and then has nothing under way, is closed even if the client does not read what it was sent.
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
    let mut idle_looks = 0;
    let mut asked = false;
    loop {
        tokio::select! {
            ended = &mut served => return ended,
            () = &mut turn, if !asked => {
                asked = true;
                idle_looks = 0;
                ask_to_end(served.as_mut());
            }
            () = tokio::time::sleep(LOOK) => {
                let requests = connection.requests.get();
                // One for the service, one here; every open account holds one more.
                let in_flight = Rc::strong_count(connection) > 2;
                let idle = requests == seen && !in_flight;
                seen = requests;
                idle_looks = if idle { idle_looks + 1 } else { 0 };
                if asked && idle {
                    return Ok(());
                }
                if idle_looks >= IDLE_LOOKS {
                    asked = true;
                    ask_to_end(served.as_mut());
                }
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
