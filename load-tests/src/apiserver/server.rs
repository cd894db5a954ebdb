//! Sockets, TLS and HTTP; dies of memory and comes back.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Error;
use super::auth::Peer;
use super::handler;
use super::lock;
use super::pki::Pki;
use super::process::{Process, Shared};
use super::stats::Gauge;

/// `golang.org/x/net/http2` as kube-apiserver sets it up.
const STREAMS: u32 = 100;
const WINDOW: u32 = 256 * 1024;
const MAX_HEADERS: u32 = 1 << 20;

const HANDSHAKE: Duration = Duration::from_secs(10);
const BACKLOG: u32 = 1024;

/// Listens on a loopback port.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let failed = |error| Error::Listen(address, error);
    let socket = TcpSocket::new_v4().map_err(failed)?;
    // A restart takes its port back from connections in TIME_WAIT.
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(address).map_err(failed)?;
    socket.listen(BACKLOG).map_err(failed)
}

/// The serving configuration: asks for client certificates of either
/// authority and accepts any, as the judgement is made per request.
pub(super) fn tls(provider: &Arc<CryptoProvider>, pki: &Pki) -> Result<ServerConfig, Error> {
    let both = super::auth::verifier(provider, &[&pki.client_ca, &pki.front_proxy_ca])?;
    let chain = CertificateDer::pem_slice_iter(pki.server.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::Tls(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(pki.server.key.as_bytes())
        .map_err(|error| Error::Tls(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(AcceptAny(both)))
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Lives, dies of memory and lives again, until told to stop.
pub(super) async fn serve(
    shared: Arc<Shared>,
    tls: Arc<ServerConfig>,
    mut listener: TcpListener,
    address: SocketAddr,
    mut stop: oneshot::Receiver<()>,
) {
    let mut restarted = false;
    loop {
        let process = Process::new(&shared, restarted);
        *lock(&shared.process) = Some(process.clone());
        shared.counters.update(|stats| stats.up = true);
        let stopped = tokio::select! {
            () = live(&shared, &process, &tls, listener) => false,
            _ = &mut stop => true,
        };
        *lock(&shared.process) = None;
        let (_, peak) = process.memory.usage();
        shared.counters.update(|stats| {
            stats.up = false;
            stats.cpu += process.cpu.used();
            stats.memory_peak = stats.memory_peak.max(peak);
            stats.restarts += u64::from(!stopped);
        });
        if stopped {
            return;
        }
        tracing::warn!(peak, "model apiserver ran out of memory");
        shared.store.forget_history();
        restarted = true;
        drop(process);
        tokio::select! {
            () = tokio::time::sleep(shared.options.down) => {}
            _ = &mut stop => return,
        }
        listener = loop {
            match listen(address) {
                Ok(listener) => break listener,
                Err(error) => {
                    tracing::warn!(%error, "cannot listen again");
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_millis(100)) => {}
                        _ = &mut stop => return,
                    }
                }
            }
        };
    }
}

/// One life. Returning drops the listener and aborts every connection.
async fn live(
    shared: &Arc<Shared>,
    process: &Arc<Process>,
    tls: &Arc<ServerConfig>,
    listener: TcpListener,
) {
    let mut tasks = JoinSet::new();
    tasks.spawn(process.cpu.clone().run());
    tasks.spawn({
        let (shared, process) = (shared.clone(), process.clone());
        async move { process.fill_caches(&shared.costs).await }
    });
    let acceptor = TlsAcceptor::from(tls.clone());
    loop {
        tokio::select! {
            () = process.memory.exhausted() => return,
            // The processor runs for ever, so there is always a task.
            _ = tasks.join_next() => {}
            accepted = listener.accept(), if tasks.len() < shared.options.max_connections => {
                match accepted {
                    Ok((socket, _)) => {
                        let (shared, process) = (shared.clone(), process.clone());
                        tasks.spawn(connection(shared, process, acceptor.clone(), socket));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "accept");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        }
    }
}

async fn connection(
    shared: Arc<Shared>,
    process: Arc<Process>,
    acceptor: TlsAcceptor,
    socket: TcpStream,
) {
    let _open = Gauge::new(&shared.counters, |stats| &mut stats.connections);
    let _ = socket.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await else {
        return;
    };
    let (_, session) = stream.get_ref();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let chain = session
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .map(|certificate| certificate.clone().into_owned())
        .collect();
    let peer = Arc::new(Peer::new(chain));
    if http2 {
        serve_http2(shared, process, peer, stream).await;
    } else {
        serve_http1(shared, process, peer, stream).await;
    }
}

async fn serve_http2(
    shared: Arc<Shared>,
    process: Arc<Process>,
    peer: Arc<Peer>,
    stream: TlsStream<TcpStream>,
) {
    let goaway = Arc::new(Notify::new());
    let service = {
        let goaway = goaway.clone();
        service_fn(move |request: hyper::Request<Incoming>| {
            let call = handler::handle(shared.clone(), process.clone(), peer.clone(), request);
            let goaway = goaway.clone();
            async move {
                let outcome = call.await;
                if outcome.unauthenticated {
                    goaway.notify_one();
                }
                Ok::<_, Infallible>(outcome.reply)
            }
        })
    };
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * STREAMS)
        .max_frame_size(WINDOW)
        .max_header_list_size(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            // Clients hang up as they like.
            _ = connection.as_mut() => return,
            () = goaway.notified() => connection.as_mut().graceful_shutdown(),
        }
    }
}

async fn serve_http1(
    shared: Arc<Shared>,
    process: Arc<Process>,
    peer: Arc<Peer>,
    stream: TlsStream<TcpStream>,
) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let call = handler::handle(shared.clone(), process.clone(), peer.clone(), request);
        async move { Ok::<_, Infallible>(call.await.reply) }
    });
    // Clients hang up as they like.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Accepts every client certificate whose key the client holds.
#[derive(Debug)]
struct AcceptAny(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AcceptAny {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
