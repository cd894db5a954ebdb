//! A small scripted apiserver: HTTP/2 and HTTP/1.1 by ALPN, on a thread of its own.
//!
//! What it does with a request stands in the request's `x-script` header; see [`script`]. The proxy's probes carry none
//! and are answered at once; so are its questions about whose a token is.

mod config_map;
mod goaway;
mod script;

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Pki, Seen, eventually};

/// How it is set up.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// SETTINGS_MAX_CONCURRENT_STREAMS; `None`: kube-apiserver's 100.
    pub max_streams: Option<u32>,
    /// So many HTTP/2 connections say GOAWAY, last stream 0, to their first request.
    pub goaway_first: usize,
    /// Whose every token is, when asked in a SelfSubjectReview; `None`: it does not say.
    pub reviewed_as: Option<&'static str>,
    /// Where to listen; `None`: a free port.
    pub address: Option<SocketAddr>,
}

/// What it counts and what steers it.
#[derive(Debug)]
pub struct State {
    seen: Mutex<Vec<Seen>>,
    reviews: Mutex<Vec<Seen>>,
    /// What it publishes of its service-account keys, and who asked.
    published: Mutex<Option<String>>,
    fetches: Mutex<Vec<Seen>>,
    reviewed_as: Option<&'static str>,
    connections: AtomicUsize,
    /// Requests under way, their answers' bodies included.
    open: AtomicUsize,
    /// Bytes of request bodies and tunnels.
    received: AtomicU64,
    probes: AtomicU64,
    /// How long a probe takes.
    probe_delay_ms: AtomicU64,
    /// What waits for the test to let it go on.
    gate: Semaphore,
    refusals: AtomicUsize,
    goaways: AtomicUsize,
    max_streams: u32,
    config_map: Arc<config_map::ConfigMap>,
}

/// One connection, as its requests see it.
struct Link {
    number: usize,
    certificate: Option<String>,
    /// Breaks it off.
    kill: Notify,
    /// Says GOAWAY and lets streams finish.
    goodbye: Notify,
}

/// A running server; dropping it breaks everything off.
pub struct Upstream {
    address: SocketAddr,
    state: Arc<State>,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Upstream {
    pub fn start(pki: &Pki, settings: Settings) -> Self {
        let address = settings
            .address
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = StdListener::bind(address).expect("a loopback port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            seen: Mutex::default(),
            reviews: Mutex::default(),
            published: Mutex::default(),
            fetches: Mutex::default(),
            reviewed_as: settings.reviewed_as,
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            probes: AtomicU64::new(0),
            probe_delay_ms: AtomicU64::new(0),
            gate: Semaphore::new(0),
            refusals: AtomicUsize::new(0),
            goaways: AtomicUsize::new(settings.goaway_first),
            max_streams: settings.max_streams.unwrap_or(100),
            config_map: Arc::default(),
        });
        let acceptor = TlsAcceptor::from(tls(pki, &["h2", "http/1.1"]));
        let (stop, mut stopped) = watch::channel(false);
        let thread = std::thread::spawn({
            let state = Arc::clone(&state);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    let listener = TcpListener::from_std(listener).expect("a listener");
                    loop {
                        tokio::select! {
                            accepted = listener.accept() => {
                                let Ok((stream, _)) = accepted else { continue };
                                tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(&state)));
                            }
                            _ = stopped.changed() => return,
                        }
                    }
                });
            }
        });
        Self {
            address,
            state,
            stop,
            thread: Some(thread),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that arrived, the proxy's own probes and reviews aside.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("no panic").clone()
    }

    /// The proxy's own questions about tokens.
    pub fn reviews(&self) -> Vec<Seen> {
        self.state.reviews.lock().expect("no panic").clone()
    }

    /// Publishes a JSON Web Key Set from now on.
    pub fn publish(&self, keys: impl Into<String>) {
        *self.state.published.lock().expect("no panic") = Some(keys.into());
    }

    /// The proxy's own questions for that key set.
    pub fn fetches(&self) -> Vec<Seen> {
        self.state.fetches.lock().expect("no panic").clone()
    }

    /// The one ConfigMap there is.
    pub fn config_map(&self) -> &config_map::ConfigMap {
        &self.state.config_map
    }

    /// What arrived last.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request")
    }

    /// How many arrived with `script`.
    pub fn count(&self, script: &str) -> usize {
        self.seen()
            .iter()
            .filter(|seen| seen.values("x-script") == [script])
            .count()
    }

    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    pub fn received(&self) -> u64 {
        self.state.received.load(Ordering::SeqCst)
    }

    pub fn probes(&self) -> u64 {
        self.state.probes.load(Ordering::SeqCst)
    }

    /// From now on a probe takes so long: the server queues.
    pub fn delay_probes(&self, milliseconds: u64) {
        self.state
            .probe_delay_ms
            .store(milliseconds, Ordering::SeqCst);
    }

    /// Lets `count` of those that wait at the gate go on.
    pub fn let_through(&self, count: usize) {
        self.state.gate.add_permits(count);
    }

    /// Waits until `count` requests have arrived.
    pub async fn until_seen(&self, count: usize) {
        eventually(&format!("{count} requests upstream"), || {
            self.seen().len() >= count
        })
        .await;
    }

    /// Waits until exactly `count` requests are under way.
    pub async fn until_open(&self, count: usize) {
        eventually(&format!("{count} requests under way upstream"), || {
            self.open() == count
        })
        .await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The server side of TLS with the apiserver's certificate, for these protocols.
pub(super) fn tls(pki: &Pki, protocols: &[&str]) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(pki.front_proxy_ca.pem.as_bytes()).expect("PEM");
    roots.add(authority).expect("an authority");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .expect("a verifier");
    let pair = super::pki::serving(&pki.ca);
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("a pair");
    let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
    config.alpn_protocols = protocols.collect();
    Arc::new(config)
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate
        .subject()
        .iter_common_name()
        .next()?
        .as_str()
        .ok()?
        .to_owned();
    Some(name)
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    let session = stream.get_ref().1;
    let http2 = session.alpn_protocol() == Some(b"h2");
    let link = Arc::new(Link {
        number: state.connections.fetch_add(1, Ordering::SeqCst),
        certificate: session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .and_then(common_name),
        kill: Notify::new(),
        goodbye: Notify::new(),
    });
    let take_one = |left: usize| left.checked_sub(1);
    if http2
        && state
            .goaways
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take_one)
            .is_ok()
    {
        let _ = goaway::say(&mut stream).await;
        return;
    }
    let service = service_fn({
        let (state, link) = (Arc::clone(&state), Arc::clone(&link));
        move |request| script::answer(Arc::clone(&state), Arc::clone(&link), request)
    });
    let io = TokioIo::new(stream);
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .max_concurrent_streams(state.max_streams)
            .max_header_list_size(1 << 20)
            .max_pending_accept_reset_streams(10_000);
        let mut served = std::pin::pin!(builder.serve_connection(io, service));
        tokio::select! {
            _ = &mut served => return,
            () = link.kill.notified() => return,
            () = link.goodbye.notified() => served.as_mut().graceful_shutdown(),
        }
        let _ = served.await;
    } else {
        let mut served = std::pin::pin!(
            http1::Builder::new()
                .serve_connection(io, service)
                .with_upgrades()
        );
        tokio::select! {
            _ = &mut served => return,
            () = link.kill.notified() => return,
            () = link.goodbye.notified() => served.as_mut().graceful_shutdown(),
        }
        let _ = served.await;
    }
}
