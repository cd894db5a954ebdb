//! A small client of the Kubernetes API.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Credentials, Error};

/// The largest body an [`Answer`] holds: a LIST of 100,000 pods is smaller.
const MAX_BODY: usize = 1 << 30;

/// HTTP/2 flow control windows, bytes: large enough for LISTs not to wait.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Who the client is.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// A client certificate, in the handshake.
    Certificate(Credentials),
    /// A bearer token, with each request.
    Token(String),
    /// Nobody.
    Anonymous,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(credentials) => {
                f.debug_tuple("Certificate").field(credentials).finish()
            }
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Anonymous => f.write_str("Anonymous"),
        }
    }
}

/// Which HTTP versions the client offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Both; the server chooses, and prefers HTTP/2.
    #[default]
    Negotiated,
    /// HTTP/2 only, all requests on one connection.
    Http2,
    /// HTTP/1.1 only, each request on a connection of its own.
    Http1,
}

/// How to reach a server, and as whom.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// `https://host:port`
    pub server: String,
    /// The name its certificate is verified by.
    pub server_name: String,
    /// The authorities it is verified with, PEM.
    pub ca_pem: String,
    /// The client's credentials.
    pub auth: Auth,
    /// The HTTP versions to offer.
    pub protocol: Protocol,
}

/// A client of one server with one identity. Clones share its HTTP/2
/// connection, which is made when first needed and again when it is lost.
#[derive(Debug, Clone)]
pub struct ApiClient {
    shared: Arc<Shared>,
}

struct Shared {
    authority: String,
    server_name: ServerName<'static>,
    tls: TlsConnector,
    token: Option<HeaderValue>,
    connection: Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; `null` when it is something else.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// This answer if its status is 2xx or one of `also`.
    ///
    /// # Errors
    /// [`Error::Refused`] with the beginning of the body otherwise.
    pub fn accept(self, action: &str, also: &[u16]) -> Result<Self, Error> {
        if (200..300).contains(&self.status) || also.contains(&self.status) {
            return Ok(self);
        }
        let shown = self.body.get(..1000).unwrap_or(&self.body);
        Err(Error::Refused {
            action: action.to_owned(),
            status: self.status,
            body: String::from_utf8_lossy(shown).into_owned(),
        })
    }
}

impl ApiClient {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// [`Error::Client`] when the URL, the authority or the credentials are not
    /// usable.
    pub fn new(options: ClientOptions) -> Result<Self, Error> {
        let uri: Uri = options
            .server
            .parse()
            .map_err(|error| Error::Client(format!("{}: {error}", options.server)))?;
        let authority = uri
            .authority()
            .ok_or_else(|| Error::Client(format!("{}: no host", options.server)))?;
        let server_name = ServerName::try_from(options.server_name.clone())
            .map_err(|error| Error::Client(format!("{}: {error}", options.server_name)))?;
        let token = match &options.auth {
            Auth::Token(token) => Some(bearer(token)?),
            Auth::Certificate(_) | Auth::Anonymous => None,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                authority: match authority.port() {
                    Some(_) => authority.to_string(),
                    None => format!("{authority}:443"),
                },
                server_name,
                tls: TlsConnector::from(Arc::new(tls_config(&options)?)),
                token,
                connection: Mutex::new(None),
            }),
        })
    }

    /// `GET` of a path with its query, as JSON.
    ///
    /// # Errors
    /// [`Error::Connection`]; an answer of any status is not one.
    pub async fn get(&self, path: &str) -> Result<Answer, Error> {
        self.request(json_request(Method::GET, path, None)?).await
    }

    /// `POST` of a JSON object.
    ///
    /// # Errors
    /// As [`ApiClient::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        self.request(json_request(Method::POST, path, Some(body))?)
            .await
    }

    /// `PUT` of a JSON object.
    ///
    /// # Errors
    /// As [`ApiClient::get`].
    pub async fn put(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        self.request(json_request(Method::PUT, path, Some(body))?)
            .await
    }

    /// `PATCH` with a JSON merge patch; for the other kinds, build a request.
    ///
    /// # Errors
    /// As [`ApiClient::get`].
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        let mut request = json_request(Method::PATCH, path, Some(body))?;
        request.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/merge-patch+json"),
        );
        self.request(request).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// As [`ApiClient::get`].
    pub async fn delete(&self, path: &str) -> Result<Answer, Error> {
        self.request(json_request(Method::DELETE, path, None)?)
            .await
    }

    /// Any request; its URI is a path with its query. The answer is read whole.
    ///
    /// # Errors
    /// As [`ApiClient::get`], and when the body is larger than 1 GiB.
    pub async fn request(&self, request: Request<Bytes>) -> Result<Answer, Error> {
        let failed = failure(&request);
        let (head, body) = self.open(request).await?.into_parts();
        let body = Limited::new(body, MAX_BODY)
            .collect()
            .await
            .map_err(|error| failed(&*error))?;
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.to_bytes(),
        })
    }

    /// Any request, with the answer's body still to be read: for watches, and
    /// for readers that are slow on purpose.
    ///
    /// # Errors
    /// As [`ApiClient::get`].
    pub async fn open(&self, request: Request<Bytes>) -> Result<Response<Incoming>, Error> {
        let failed = failure(&request);
        let mut request = request.map(Full::new);
        if let Some(token) = &self.shared.token {
            request
                .headers_mut()
                .entry(AUTHORIZATION)
                .or_insert_with(|| token.clone());
        }
        // A connection that went away since it was last used is not the
        // request's fault: what was never sent is sent again, once.
        for retry in [true, false] {
            let mut http2 = match self.connection().await.map_err(|error| failed(&*error))? {
                Connection::Http2(sender) => sender,
                Connection::Http1(sender) => {
                    return self
                        .send_http1(sender, request)
                        .await
                        .map_err(|error| failed(&error));
                }
            };
            let (mut head, body) = request.into_parts();
            head.uri = absolute(&self.shared.authority, &head.uri);
            match http2
                .try_send_request(Request::from_parts(head, body))
                .await
            {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if retry => request = unsent,
                    _ => return Err(failed(&error.into_error())),
                },
            }
        }
        Err(failed(&std::fmt::Error)) // the second round has returned
    }

    /// Drops the shared connection once its requests are done, so that the next
    /// request makes a new one.
    pub async fn disconnect(&self) {
        *self.shared.connection.lock().await = None;
    }

    async fn send_http1(
        &self,
        mut sender: http1::SendRequest<Full<Bytes>>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        if let Ok(host) = HeaderValue::from_str(&self.shared.authority) {
            request.headers_mut().entry(HOST).or_insert(host);
        }
        sender.send_request(request).await
    }

    async fn connection(&self) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
        let mut shared = self.shared.connection.lock().await;
        if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(Connection::Http2(sender.clone()));
        }
        let tls = self.connect().await?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
            // It ends with the request, and the request reports its error.
            tokio::spawn(connection);
            return Ok(Connection::Http1(sender));
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(tls))
            .await?;
        tokio::spawn(connection);
        *shared = Some(sender.clone());
        Ok(Connection::Http2(sender))
    }

    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.shared.authority).await?;
        stream.set_nodelay(true)?;
        self.shared
            .tls
            .connect(self.shared.server_name.clone(), stream)
            .await
    }
}

enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Builds the error of a request before the request is given away.
fn failure<B>(request: &Request<B>) -> impl Fn(&dyn std::error::Error) -> Error + use<B> {
    let method = request.method().to_string();
    let target = request.uri().to_string();
    move |error| {
        let mut problem = error.to_string();
        let mut cause = error.source();
        while let Some(deeper) = cause {
            problem.push_str(&format!(": {deeper}"));
            cause = deeper.source();
        }
        Error::Connection {
            method: method.clone(),
            target: target.clone(),
            problem,
        }
    }
}

/// HTTP/2 requests name scheme and authority.
fn absolute(authority: &str, uri: &Uri) -> Uri {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Uri::builder()
        .scheme("https")
        .authority(authority)
        .path_and_query(path)
        .build()
        .unwrap_or_else(|_| uri.clone())
}

fn json_request(method: Method, path: &str, body: Option<&Value>) -> Result<Request<Bytes>, Error> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(ACCEPT, "application/json");
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = body.map(|body| Bytes::from(body.to_string()));
    request
        .body(body.unwrap_or_default())
        .map_err(|error| Error::Client(format!("{path}: {error}")))
}

fn bearer(token: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|error| Error::Client(format!("the token: {error}")))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The TLS of a client.
pub(crate) fn tls_config(options: &ClientOptions) -> Result<rustls::ClientConfig, Error> {
    let unusable = |what: &str, error: &dyn fmt::Display| Error::Client(format!("{what}: {error}"));
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(options.ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| unusable("the authority", &error))?;
        roots
            .add(certificate)
            .map_err(|error| unusable("the authority", &error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("TLS", &error))?
        .with_root_certificates(roots);
    let mut config = match &options.auth {
        Auth::Certificate(credentials) => {
            let chain = CertificateDer::pem_slice_iter(credentials.cert_pem.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| unusable("the client certificate", &error))?;
            let key = PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes())
                .map_err(|error| unusable("the client key", &error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| unusable("the client certificate", &error))?
        }
        Auth::Token(_) | Auth::Anonymous => builder.with_no_client_auth(),
    };
    config.alpn_protocols = match options.protocol {
        Protocol::Negotiated => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Protocol::Http2 => vec![b"h2".to_vec()],
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}
