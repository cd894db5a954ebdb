//! Clients of the proxy: HTTP/2, HTTP/1.1, and raw bytes inside TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Pair, Payload, Seen, bounded};

/// How to connect.
#[derive(Clone)]
pub struct Tls {
    authority: String,
    certificate: Option<Pair>,
    versions: Vec<&'static SupportedProtocolVersion>,
    resumption: Option<Resumption>,
}

impl Tls {
    /// Trusts the authority `pem`.
    pub fn trusting(pem: &str) -> Self {
        Self {
            authority: pem.to_owned(),
            certificate: None,
            versions: rustls::ALL_VERSIONS.to_vec(),
            resumption: None,
        }
    }

    pub fn certificate(mut self, pair: &Pair) -> Self {
        self.certificate = Some(pair.clone());
        self
    }

    pub fn version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    /// Keeps sessions between connections, if the server offers any.
    pub fn resuming(mut self) -> Self {
        self.resumption = Some(Resumption::in_memory_sessions(16));
        self
    }

    pub fn config(&self, protocol: &str) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.authority.as_bytes()) {
            roots.add(root.expect("PEM")).expect("an authority");
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_protocol_versions(&self.versions)
        .expect("protocol versions")
        .with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes());
                let chain = chain.collect::<Result<Vec<_>, _>>().expect("PEM");
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        config.resumption = self.resumption.clone().unwrap_or_else(Resumption::disabled);
        Arc::new(config)
    }

    /// A bare TLS connection.
    pub async fn connect(
        &self,
        address: SocketAddr,
        protocol: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        connect(address, self.config(protocol)).await
    }
}

/// TLS to `address` with a configuration at hand.
pub async fn connect(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    bounded("a TLS connection", async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("kubernetes").expect("a name");
        TlsConnector::from(config).connect(name, stream).await
    })
    .await
}

enum Sender {
    Http1(http1::SendRequest<Payload>),
    Http2(http2::SendRequest<Payload>),
}

/// Breaks a connection off, whatever is under way on it.
#[derive(Clone)]
pub struct Breaker(Arc<socket2::Socket>);

impl Breaker {
    fn of(stream: &TlsStream<TcpStream>) -> Self {
        let socket = socket2::SockRef::from(stream.get_ref().0);
        Self(Arc::new(socket.try_clone().expect("a descriptor")))
    }

    pub fn break_off(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

/// One connection to the proxy.
pub struct Client {
    sender: Sender,
    breaker: Breaker,
}

impl Client {
    pub async fn http2(address: SocketAddr, tls: &Tls) -> Self {
        Self::http2_with(address, tls, |_| {}).await
    }

    /// HTTP/2 with settings of one's own.
    pub async fn http2_with(
        address: SocketAddr,
        tls: &Tls,
        set: impl FnOnce(&mut http2::Builder<TokioExecutor>),
    ) -> Self {
        let stream = tls.connect(address, "h2").await.expect("TLS");
        let breaker = Breaker::of(&stream);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        set(&mut builder);
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        Self {
            sender: Sender::Http2(sender),
            breaker,
        }
    }

    pub async fn http1(address: SocketAddr, tls: &Tls) -> Self {
        let stream = tls.connect(address, "http/1.1").await.expect("TLS");
        let breaker = Breaker::of(&stream);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/1.1");
        tokio::spawn(connection.with_upgrades());
        Self {
            sender: Sender::Http1(sender),
            breaker,
        }
    }

    /// The same HTTP/2 connection once more, for requests in parallel.
    pub fn again(&self) -> Self {
        let Sender::Http2(sender) = &self.sender else {
            panic!("HTTP/1.1 is one request at a time")
        };
        Self {
            sender: Sender::Http2(sender.clone()),
            breaker: self.breaker.clone(),
        }
    }

    pub fn breaker(&self) -> Breaker {
        self.breaker.clone()
    }

    /// Whether the proxy or the connection ended it.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request; its URI holds path and query only.
    pub async fn send(&mut self, request: Request<Payload>) -> hyper::Result<Response<Incoming>> {
        bounded("an answer's head", self.send_patiently(request)).await
    }

    /// As [`Client::send`], for as long as it takes.
    pub async fn send_patiently(
        &mut self,
        request: Request<Payload>,
    ) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(with_host(request)).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(with_authority(request)).await
            }
        }
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(&mut self, request: Request<Payload>) -> Answer {
        Answer::read(self.send(request).await.expect("an answer")).await
    }

    /// GET, answered by the scripted apiserver as `script` says.
    pub async fn get(&mut self, path: &str, script: &str) -> Answer {
        self.call(get(path, script)).await
    }
}

/// GET `path`, answered as `script` says.
pub fn get(path: &str, script: &str) -> Request<Payload> {
    request(Method::GET, path, script, Payload::empty())
}

/// POST `body`, answered as `script` says.
pub fn post(path: &str, script: &str, body: Payload) -> Request<Payload> {
    request(Method::POST, path, script, body)
}

pub fn request(method: Method, path: &str, script: &str, body: Payload) -> Request<Payload> {
    let request = Request::builder().method(method).uri(path);
    let request = if script.is_empty() {
        request
    } else {
        request.header("x-script", script)
    };
    request.body(body).expect("a request")
}

/// With one more header.
pub fn with(mut request: Request<Payload>, name: &str, value: &str) -> Request<Payload> {
    let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a name");
    request
        .headers_mut()
        .append(name, value.parse().expect("a value"));
    request
}

/// With a bearer token.
pub fn with_token(request: Request<Payload>, token: &str) -> Request<Payload> {
    with(request, "authorization", &format!("Bearer {token}"))
}

fn with_host(mut request: Request<Payload>) -> Request<Payload> {
    request
        .headers_mut()
        .entry(HOST)
        .or_insert_with(|| "kubernetes:6443".parse().expect("a host"));
    request
}

fn with_authority(mut request: Request<Payload>) -> Request<Payload> {
    let host = request.headers_mut().remove(HOST);
    let host = host
        .as_ref()
        .map_or("kubernetes:6443", |host| host.to_str().expect("text"));
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTPS);
    parts.authority = Some(host.parse().expect("a host"));
    *request.uri_mut() = Uri::from_parts(parts).expect("a URI");
    request
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Answer {
    pub async fn read(response: Response<Incoming>) -> Self {
        Self::try_read(response).await.expect("a whole body")
    }

    pub async fn try_read(response: Response<Incoming>) -> hyper::Result<Self> {
        bounded("an answer's body", async {
            let (head, body) = response.into_parts();
            let collected = body.collect().await?;
            let trailers = collected.trailers().cloned().unwrap_or_default();
            Ok(Self {
                status: head.status,
                headers: head.headers,
                body: collected.to_bytes(),
                trailers,
            })
        })
        .await
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("text"))
    }

    /// Which pool of the proxy carried the request, when the answer is an echo.
    pub fn pool(&self) -> String {
        self.json()["pool"]
            .as_str()
            .unwrap_or_else(|| panic!("not an echo: {self:?}"))
            .to_owned()
    }

    /// Which upstream connection carried it, when the answer is an echo.
    pub fn connection(&self) -> u64 {
        self.json()["connection"]
            .as_u64()
            .unwrap_or_else(|| panic!("not an echo: {self:?}"))
    }
}

/// Sends a request over TLS with a certificate and somebody else's key, which rustls itself would not put together.
pub async fn connect_mixed(
    pki: &super::Pki,
    address: SocketAddr,
    mixed: &Pair,
) -> std::io::Result<()> {
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    let chain = CertificateDer::pem_slice_iter(mixed.certificate.as_bytes())
        .collect::<Result<_, _>>()
        .expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(mixed.key.as_bytes()).expect("PEM");
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a key");
    let mut config = ClientConfig::clone(&pki.tls().config("http/1.1"));
    config.client_auth_cert_resolver =
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    let stream = connect(address, Arc::new(config)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    let driver = tokio::spawn(connection);
    let sent = sender
        .send_request(with_host(get(super::POD, "echo")))
        .await;
    driver.abort();
    sent.map(drop).map_err(std::io::Error::other)
}
