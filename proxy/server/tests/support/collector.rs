//! A collector of spans: OTLP over HTTP/1.1 as JSON, on a thread of its own, plain or by TLS.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::Pki;
use super::upstream::tls;

#[derive(Default)]
struct State {
    /// What arrived, with its path and content type.
    seen: Vec<(String, String, Value)>,
    /// Statuses of the next answers; then 200.
    answers: Vec<u16>,
}

/// A running collector; dropping it breaks everything off.
pub struct Collector {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
}

impl Collector {
    /// The next answers have these statuses.
    pub fn start(pki: Option<&Pki>, answers: &[u16]) -> Self {
        let listener = StdListener::bind("127.0.0.1:0").expect("a loopback port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let mut answers = answers.to_vec();
        answers.reverse();
        let state = Arc::new(Mutex::new(State {
            answers,
            ..State::default()
        }));
        let acceptor = pki.map(|pki| TlsAcceptor::from(tls(pki, &["http/1.1"])));
        let (stop, stopped) = oneshot::channel();
        let own = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, acceptor, own) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            state,
            stop: Some(stop),
        }
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/v1/traces", self.address)
    }

    /// Every request: its path, its content type and its body.
    pub fn seen(&self) -> Vec<(String, String, Value)> {
        self.state.lock().expect("no panic").seen.clone()
    }

    /// All spans that were taken or not, in the order in which they came.
    pub fn spans(&self) -> Vec<Value> {
        let mut spans = Vec::new();
        for (_, _, body) in self.seen() {
            for resource in body["resourceSpans"].as_array().expect("resources") {
                for scope in resource["scopeSpans"].as_array().expect("scopes") {
                    spans.extend(scope["spans"].as_array().expect("spans").iter().cloned());
                }
            }
        }
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

async fn serve(listener: StdListener, acceptor: Option<TlsAcceptor>, state: Arc<Mutex<State>>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let service = service_fn({
            let state = Arc::clone(&state);
            move |request| answer(Arc::clone(&state), request)
        });
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            match acceptor {
                None => {
                    let io = TokioIo::new(stream);
                    let _ = http1::Builder::new().serve_connection(io, service).await;
                }
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let io = TokioIo::new(stream);
                        let _ = http1::Builder::new().serve_connection(io, service).await;
                    }
                }
            }
        });
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let kind = request.headers().get("content-type");
    let kind = kind.and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().to_owned();
    let body = request.into_body().collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut state = state.lock().expect("no panic");
    state.seen.push((path, kind, body));
    let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
    if let Some(status) = state.answers.pop() {
        *response.status_mut() = status.try_into().expect("a status");
    }
    Ok(response)
}

/// An attribute's value, as whatever JSON it is; `Null` if it is not there.
pub fn attribute(span: &Value, key: &str) -> Value {
    let all = span["attributes"].as_array().expect("attributes");
    let found = all.iter().find(|attribute| attribute["key"] == key);
    found.map_or(Value::Null, |attribute| {
        let value = attribute["value"].as_object().expect("one value");
        assert_eq!(value.len(), 1, "{attribute}");
        value.values().next().expect("one").clone()
    })
}
