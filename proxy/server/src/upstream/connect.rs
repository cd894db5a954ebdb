//! Making one connection to the apiserver: TCP, TLS, and HTTP/2 or HTTP/1.1 on top.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::body::RequestBody;
use crate::accept::executor::LocalExecutor;
use crate::error::UpstreamError;
use crate::identify::tls::{MaterialError, certificates, private_key, provider, roots};

/// A connection's stream window: a LIST fills it in a fifth of a millisecond on loopback.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Request bytes buffered per stream.
const SEND_BUFFER: usize = 128 * 1024;
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);

type Io = TokioIo<TlsStream<TcpStream>>;
pub(crate) type Http2Sender = http2::SendRequest<RequestBody>;
pub(crate) type Http1Sender = http1::SendRequest<RequestBody>;

/// Where the apiserver is and how to prove who we are to it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: std::net::SocketAddr,
    server_name: ServerName<'static>,
    /// With the front-proxy certificate.
    asserted: Tls,
    /// Without any client certificate.
    plain: Tls,
    connect_timeout: Duration,
    streams_per_connection: u32,
}

#[derive(Clone)]
struct Tls {
    http2: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl Endpoint {
    /// Reads the files named in the configuration.
    ///
    /// # Errors
    /// [`MaterialError`] naming the file that is missing or wrong.
    pub(crate) fn load(upstream: &config::Upstream) -> Result<Self, MaterialError> {
        let server_name = ServerName::try_from(upstream.server_name.clone()).map_err(|_| {
            MaterialError::unusable(
                &upstream.ca,
                format!(
                    "upstream.server_name `{}` is not a DNS name",
                    upstream.server_name
                ),
            )
        })?;
        let asserted = client_config(upstream, Some(&upstream.front_proxy))?;
        let plain = client_config(upstream, None)?;
        Ok(Self {
            address: upstream.address,
            server_name,
            asserted: Tls::from(asserted),
            plain: Tls::from(plain),
            connect_timeout: upstream.connect_timeout,
            streams_per_connection: upstream.streams_per_connection,
        })
    }

    /// A fresh HTTP/2 connection; its driver runs on this thread until the connection ends.
    pub(crate) async fn http2(
        &self,
        asserted: bool,
    ) -> Result<(Http2Sender, PeerLimit), UpstreamError> {
        let tls = &(if asserted {
            &self.asserted
        } else {
            &self.plain
        })
        .http2;
        self.in_time(async {
            let io = self.secure(tls).await?;
            let (sender, connection) = http2::Builder::new(LocalExecutor)
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                // No slow reader may stall its neighbours: room for every stream's whole window.
                .initial_connection_window_size(
                    STREAM_WINDOW.saturating_mul(self.streams_per_connection + 20),
                )
                .max_send_buf_size(SEND_BUFFER)
                .max_header_list_size(1 << 20)
                // None before the peer's SETTINGS say how many: what exceeds them waits in a queue nobody sees.
                .initial_max_send_streams(0)
                // The default closes a connection after 1024 resets in its whole life; ours are meant to last.
                .max_local_error_reset_streams(None)
                .keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .keep_alive_while_idle(true)
                .handshake::<Io, RequestBody>(io)
                .await
                .map_err(|source| UpstreamError::Handshake {
                    address: self.address,
                    source,
                })?;
            while connection.current_max_send_streams() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let limit = PeerLimit::new(self.streams_per_connection);
            tokio::task::spawn_local(Driver {
                connection,
                limit: limit.clone(),
            });
            Ok((sender, limit))
        })
        .await
    }

    /// A fresh HTTP/1.1 connection, able to be upgraded.
    pub(crate) async fn http1(&self, asserted: bool) -> Result<Http1Sender, UpstreamError> {
        let tls = &(if asserted {
            &self.asserted
        } else {
            &self.plain
        })
        .http1;
        self.in_time(async {
            let io = self.secure(tls).await?;
            let (sender, connection) = http1::Builder::new()
                .max_buf_size(64 * 1024)
                .handshake::<Io, RequestBody>(io)
                .await
                .map_err(|source| UpstreamError::Handshake {
                    address: self.address,
                    source,
                })?;
            tokio::task::spawn_local(async move {
                // Its end is seen by whoever waits for an answer on it.
                let _ = connection.with_upgrades().await;
            });
            Ok(sender)
        })
        .await
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        tokio::time::timeout(self.connect_timeout, work)
            .await
            .unwrap_or(Err(UpstreamError::ConnectTimeout(self.connect_timeout)))
    }

    async fn secure(&self, tls: &Arc<ClientConfig>) -> Result<Io, UpstreamError> {
        let address = self.address;
        let stream = TcpStream::connect(address)
            .await
            .map_err(|source| UpstreamError::Connect { address, source })?;
        let _ = stream.set_nodelay(true);
        TlsConnector::from(Arc::clone(tls))
            .connect(self.server_name.clone(), stream)
            .await
            .map(TokioIo::new)
            .map_err(|source| UpstreamError::Tls { address, source })
    }
}

impl From<ClientConfig> for Tls {
    fn from(mut config: ClientConfig) -> Self {
        config.alpn_protocols = vec![b"h2".to_vec()];
        let http2 = Arc::new(config.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            http2,
            http1: Arc::new(config),
        }
    }
}

fn client_config(
    upstream: &config::Upstream,
    identity: Option<&config::KeyPair>,
) -> Result<ClientConfig, MaterialError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| MaterialError::unusable(&upstream.ca, error.to_string()))?
        .with_root_certificates(roots(&upstream.ca)?);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(pair) => builder
            .with_client_auth_cert(certificates(&pair.certificate)?, private_key(&pair.key)?)
            .map_err(|error| {
                let problem = format!("does not go with the key {}: {error}", pair.key.display());
                MaterialError::unusable(&pair.certificate, problem)
            }),
    }
}

/// How many streams the peer allows on a connection, as last seen by its driver.
#[derive(Clone, Debug)]
pub(crate) struct PeerLimit(Rc<Cell<State>>);

#[derive(Clone, Copy, Debug)]
struct State {
    streams: u32,
    closed: bool,
}

impl PeerLimit {
    fn new(streams: u32) -> Self {
        Self(Rc::new(Cell::new(State {
            streams,
            closed: false,
        })))
    }

    /// Streams the peer allows at once; 0 once the connection has ended.
    pub(crate) fn streams(&self) -> u32 {
        let state = self.0.get();
        if state.closed { 0 } else { state.streams }
    }
}

/// Runs a connection and publishes the peer's stream limit, which hyper tells only here.
struct Driver {
    connection: http2::Connection<Io, RequestBody, LocalExecutor>,
    limit: PeerLimit,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if Pin::new(&mut self.connection).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let streams = u32::try_from(self.connection.current_max_send_streams()).unwrap_or(u32::MAX);
        self.limit.0.set(State {
            streams,
            closed: false,
        });
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.limit.0.set(State {
            streams: 0,
            closed: true,
        });
    }
}
