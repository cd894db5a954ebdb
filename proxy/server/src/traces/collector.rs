//! Who takes the spans: OTLP over HTTP/1.1, as JSON (`ExportTraceServiceRequest`), plain or by TLS.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

use crate::identify::tls::{MaterialError, provider, roots};

/// An answer longer than this, in bytes, is not read.
const LONGEST: usize = 64 * 1024;
/// The longest Retry-After that is obeyed.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Where spans go.
#[derive(Clone)]
pub(crate) struct Collector {
    host: String,
    port: u16,
    authority: HeaderValue,
    path: PathAndQuery,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// A connection to it.
pub(crate) type Connection = SendRequest<Full<Bytes>>;

/// What it says to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It has it, but for so many spans, and why.
    Taken { rejected: u64, why: String },
    /// Not now; try again, perhaps after this.
    Later(StatusCode, Option<Duration>),
    /// Never.
    Never(StatusCode),
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("{host} cannot be resolved: {source}")]
    Resolve {
        host: String,
        source: std::io::Error,
    },
    #[error("cannot connect to {address}: {source}")]
    Connect {
        address: String,
        source: std::io::Error,
    },
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] std::io::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the request cannot be written: {0}")]
    Request(#[from] http::Error),
    #[error("no answer in time")]
    Late(#[from] tokio::time::error::Elapsed),
}

impl Collector {
    /// Reads the file that the configuration names, if it names a collector.
    ///
    /// # Errors
    /// [`MaterialError`] about `traces.ca`.
    pub(crate) fn load(traces: &config::Traces) -> Result<Option<Self>, MaterialError> {
        let Some(endpoint) = &traces.endpoint else {
            return Ok(None);
        };
        let ca = traces.ca.clone().unwrap_or_default();
        let wrong = |what: &str| {
            let problem = format!("traces.endpoint `{endpoint}` {what}");
            MaterialError::unusable(&ca, problem)
        };
        let uri: Uri = endpoint.parse().map_err(|_| wrong("is not a URL"))?;
        let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let secure = uri.scheme_str() == Some("https");
        let tls = match secure {
            false => None,
            true => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| wrong("has a host that no certificate can name"))?;
                let client = ClientConfig::builder_with_provider(provider())
                    .with_safe_default_protocol_versions()
                    .map_err(|error| MaterialError::unusable(&ca, error.to_string()))?
                    .with_root_certificates(roots(&ca)?)
                    .with_no_client_auth();
                Some((Arc::new(client), name))
            }
        };
        let usual = || PathAndQuery::from_static("/v1/traces");
        let path = uri.path_and_query().filter(|path| path.as_str() != "/");
        Ok(Some(Self {
            port: authority
                .port_u16()
                .unwrap_or(if secure { 443 } else { 80 }),
            authority: HeaderValue::from_str(authority.as_str())
                .map_err(|_| wrong("is not a URL"))?,
            path: path.cloned().unwrap_or_else(usual),
            host,
            tls,
        }))
    }

    /// A fresh connection; its driver runs on this thread until it ends. Runs inside a `LocalSet`.
    pub(crate) async fn connect(&self) -> Result<Connection, SendError> {
        let addresses = self.addresses().await?;
        let stream =
            TcpStream::connect(&*addresses)
                .await
                .map_err(|source| SendError::Connect {
                    address: format!("{}:{}", self.host, self.port),
                    source,
                })?;
        let _ = stream.set_nodelay(true);
        match &self.tls {
            None => begin(stream).await,
            Some((config, name)) => {
                let connecting = TlsConnector::from(Arc::clone(config));
                let secured = connecting.connect(name.clone(), stream).await;
                begin(secured.map_err(SendError::Tls)?).await
            }
        }
    }

    /// On a thread of its own, which nobody waits for: a resolver that hangs must not keep the process from ending.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, SendError> {
        if let Ok(address) = self.host.parse() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let (host, port) = (self.host.clone(), self.port);
        let (tell, told) = oneshot::channel();
        let started = std::thread::Builder::new()
            .name("resolve".to_owned())
            .spawn(move || {
                let found = (host.as_str(), port).to_socket_addrs();
                let _ = tell.send(found.map(Iterator::collect));
            });
        let found = match started {
            Ok(_) => told.await.unwrap_or_else(|_| Ok(Vec::new())),
            Err(problem) => Err(problem),
        };
        found.map_err(|source| SendError::Resolve {
            host: self.host.clone(),
            source,
        })
    }

    /// Sends a batch, and reads what is said to it.
    pub(crate) async fn send(
        &self,
        connection: &mut Connection,
        body: Bytes,
    ) -> Result<Answer, SendError> {
        let request = Request::post(self.path.clone())
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("spillway/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(body))?;
        connection.ready().await?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        // To its end, so that the connection can be used again.
        let body = Limited::new(body, LONGEST).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Ok(judge(head.status, &head.headers, &body))
    }
}

async fn begin<T>(io: T) -> Result<Connection, SendError>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (connection, driver) = handshake(TokioIo::new(io)).await?;
    tokio::task::spawn_local(async move {
        // Its end is seen by whoever sends on it.
        let _ = driver.await;
    });
    Ok(connection)
}

/// What OTLP says an answer means: four statuses ask for another attempt, all other failures do not.
fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
    match status.as_u16() {
        200..=299 => {
            let (rejected, why) = partly(body);
            Answer::Taken { rejected, why }
        }
        429 | 502 | 503 | 504 => {
            let after = headers
                .get(RETRY_AFTER)
                .and_then(|after| after.to_str().ok());
            let after = after.and_then(|after| after.trim().parse().ok());
            Answer::Later(
                status,
                after.map(|after| Duration::from_secs(after).min(LONGEST_PAUSE)),
            )
        }
        _ => Answer::Never(status),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Partly {
    partial_success: Option<Rejected>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Rejected {
    /// An int64: as text, or as a number.
    rejected_spans: Value,
    error_message: String,
}

/// How many spans were not wanted, and why. An answer that is no JSON says nothing.
fn partly(body: &[u8]) -> (u64, String) {
    let said = serde_json::from_slice::<Partly>(body).ok();
    let Some(said) = said.and_then(|said| said.partial_success) else {
        return (0, String::new());
    };
    let number = match &said.rejected_spans {
        Value::String(text) => text.parse().ok(),
        number => number.as_u64(),
    };
    let why = said.error_message.chars().take(200).collect();
    (number.unwrap_or(0), why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collector(endpoint: &str) -> Collector {
        let traces = config::Traces {
            endpoint: Some(endpoint.to_owned()),
            ..config::Traces::default()
        };
        let loaded = Collector::load(&traces).expect("sound");
        loaded.expect("named")
    }

    #[test]
    fn a_url_says_where_spans_go() {
        for (url, host, port, path) in [
            (
                "http://127.0.0.1:4318/v1/traces",
                "127.0.0.1",
                4318,
                "/v1/traces",
            ),
            ("http://[::1]:4318/otlp", "::1", 4318, "/otlp"),
            ("http://collector", "collector", 80, "/v1/traces"),
            ("http://collector/", "collector", 80, "/v1/traces"),
        ] {
            let found = collector(url);
            assert_eq!((&*found.host, found.port), (host, port), "{url}");
            assert_eq!(found.path.as_str(), path, "{url}");
        }
    }

    #[test]
    fn https_without_an_authority_is_refused() {
        let traces = config::Traces {
            endpoint: Some("https://collector/v1/traces".to_owned()),
            ..config::Traces::default()
        };
        assert!(Collector::load(&traces).is_err());
    }

    #[test]
    fn only_what_otlp_calls_retryable_is_tried_again() {
        let mut headers = HeaderMap::new();
        let judged = |status: u16, headers: &HeaderMap, body: &str| {
            let status = StatusCode::from_u16(status).expect("a status");
            judge(status, headers, body.as_bytes())
        };
        for status in [429, 502, 503, 504] {
            let later = judged(status, &headers, "");
            assert!(matches!(later, Answer::Later(_, None)), "{later:?}");
        }
        for status in [301, 400, 401, 404, 413, 500, 501] {
            let never = judged(status, &headers, "");
            assert!(matches!(never, Answer::Never(_)), "{never:?}");
        }
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        let later = judged(503, &headers, "");
        assert_eq!(
            later,
            Answer::Later(
                StatusCode::SERVICE_UNAVAILABLE,
                Some(Duration::from_secs(7))
            )
        );
        headers.insert(RETRY_AFTER, HeaderValue::from_static("99999999"));
        let later = judged(429, &headers, "");
        assert!(matches!(later, Answer::Later(_, Some(LONGEST_PAUSE))));
    }

    #[test]
    fn what_a_collector_rejects_is_read_in_either_spelling() {
        let taken = |body: &[u8]| match judge(StatusCode::OK, &HeaderMap::new(), body) {
            Answer::Taken { rejected, why } => (rejected, why),
            other => panic!("{other:?}"),
        };
        let text = br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#;
        assert_eq!(taken(text), (3, "too old".to_owned()));
        assert_eq!(taken(br#"{"partialSuccess":{"rejectedSpans":3}}"#).0, 3);
        for nothing in [&b"{}"[..], b"", b"ok", br#"{"partialSuccess":{}}"#] {
            assert_eq!(taken(nothing).0, 0);
        }
    }
}
