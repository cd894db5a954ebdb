//! What the scripted apiserver can do with a request.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, SET_COOKIE, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Link, State};
use crate::support::body::{self, Payload, chunk};
use crate::support::{BoxError, Seen};

/// Counts a request under way.
struct Open(Arc<State>);

impl Open {
    fn count(state: &Arc<State>) -> Self {
        state.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(state))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn answered(status: u16, payload: Payload) -> Response<Payload> {
    let mut response = Response::new(payload);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

fn text(status: u16, text: impl Into<Bytes>) -> Response<Payload> {
    answered(status, Payload::full(text))
}

pub(super) async fn answer(
    state: Arc<State>,
    link: Arc<Link>,
    request: Request<Incoming>,
) -> Result<Response<Payload>, BoxError> {
    let script = request
        .headers()
        .get("x-script")
        .and_then(|script| script.to_str().ok())
        .map(str::to_owned);
    let is_probe = request
        .headers()
        .get("user-agent")
        .is_some_and(|agent| agent.as_bytes().starts_with(b"spillway-probe"));
    if is_probe {
        state.probes.fetch_add(1, Ordering::SeqCst);
        let delay = state.probe_delay_ms.load(Ordering::SeqCst);
        tokio::time::sleep(std::time::Duration::from_millis(delay)).await;
        return Ok(text(200, "ok"));
    }
    let seen = Seen::of(&request, link.number, link.certificate.clone());
    if seen.path == "/apis/authentication.k8s.io/v1/selfsubjectreviews" {
        state.reviews.lock().expect("no panic").push(seen);
        return Ok(reviewed(state.reviewed_as));
    }
    if seen.path == "/openid/v1/jwks" {
        let keys = state.published.lock().expect("no panic").clone();
        state.fetches.lock().expect("no panic").push(seen);
        return Ok(keys.map_or_else(|| text(404, "none"), |keys| text(200, keys)));
    }
    let own = seen
        .values("user-agent")
        .iter()
        .any(|agent| agent.starts_with("spillway/"));
    if own && seen.path.contains("/configmaps") {
        return Ok(state.config_map.answer(seen));
    }
    state.seen.lock().expect("no panic").push(seen.clone());
    let open = Open::count(&state);
    let script = script.unwrap_or_default();
    let mut words = script.split(' ');
    let verb = words.next().unwrap_or_default();
    let number: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let response = match verb {
        // The request as it arrived.
        "" | "echo" => text(200, seen.json().to_string()),
        // An empty answer of this status.
        "status" => answered(number.try_into().unwrap_or(500), Payload::empty()),
        // kube-apiserver's own flow control.
        "apf" => apf(),
        // An answer before the request's body is through.
        "early" => {
            first_chunk(&state, request).await;
            text(403, "not that")
        }
        // So many chunks of 64 KiB; `sized` tells the length in advance.
        "stream" => answered(200, Payload::pattern(number, false)),
        "sized" => sized(request.method(), number),
        // What the request's body was.
        "count" => counted(&state, request).await?,
        // A watch: its head, one event, and then nothing.
        "watch" => answered(200, watching()),
        // Never a head.
        "silent" => std::future::pending().await,
        // No head until the test says so.
        "gate" => {
            state.gate.acquire().await?.forget();
            text(200, seen.json().to_string())
        }
        // The same, and then so many chunks of 64 KiB, or a cookie, or this status.
        "gated-stream" => {
            state.gate.acquire().await?.forget();
            answered(200, Payload::pattern(number, false))
        }
        "gated-cookie" => {
            state.gate.acquire().await?.forget();
            let mut response = text(200, seen.json().to_string());
            let headers = response.headers_mut();
            headers.insert(SET_COOKIE, http::HeaderValue::from_static("a=b"));
            response
        }
        "gated-status" => {
            state.gate.acquire().await?.forget();
            answered(number.try_into().unwrap_or(500), Payload::empty())
        }
        // A chunk, and the rest when the test says so.
        "gated-body" => answered(200, gated(Arc::clone(&state), number)),
        // Head and trailers with a body between.
        "trailers" => answered(200, with_trailers()),
        // Breaks the connection off: at once, after a chunk of the answer, after a chunk of the request.
        "close" => {
            link.kill.notify_one();
            std::future::pending().await
        }
        "die" => answered(200, dying(Arc::clone(&link))),
        "die-reading" => {
            first_chunk(&state, request).await;
            link.kill.notify_one();
            std::future::pending().await
        }
        // Answers, and lets no new stream onto this connection.
        "goodbye" => {
            link.goodbye.notify_one();
            text(200, seen.json().to_string())
        }
        // REFUSED_STREAM to the first so many.
        "refuse" => {
            if state.refusals.fetch_add(1, Ordering::SeqCst) < usize::try_from(number)? {
                return Err(h2::Error::from(h2::Reason::REFUSED_STREAM).into());
            }
            if request.method() == Method::POST {
                counted(&state, request).await?
            } else {
                text(200, seen.json().to_string())
            }
        }
        // The same once most of the request's body has come.
        "refuse-late" => {
            let mut body = request.into_body();
            let mut received = 0;
            while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
                received += frame?.data_ref().map_or(0, Bytes::len);
                if received > 128 * 1024 {
                    break;
                }
            }
            return Err(h2::Error::from(h2::Reason::REFUSED_STREAM).into());
        }
        // Answers to upgrades.
        "tunnel" => return Ok(switched(request, move |io| echoing(io, open))),
        "tunnel-talk" => return Ok(switched(request, move |io| talking(io, open, state))),
        "no-tunnel" => text(403, "no exec for you"),
        other => text(500, format!("no such script: {other}")),
    };
    Ok(response.map(|body| body.holding(open)))
}

fn reviewed(user: Option<&str>) -> Response<Payload> {
    let Some(user) = user else {
        return text(403, "not for you");
    };
    let review =
        json!({ "kind": "SelfSubjectReview", "status": { "userInfo": { "username": user } } });
    text(201, review.to_string())
}

fn apf() -> Response<Payload> {
    let mut response = text(429, "Too many requests, please try again later.");
    let headers = response.headers_mut();
    headers.insert("retry-after", "1".parse().expect("a value"));
    let plain = "text/plain; charset=utf-8";
    headers.insert("content-type", plain.parse().expect("a value"));
    headers.insert(
        "x-kubernetes-pf-flowschema-uid",
        "f-1".parse().expect("a value"),
    );
    headers.insert(
        "x-kubernetes-pf-prioritylevel-uid",
        "p-1".parse().expect("a value"),
    );
    response
}

fn sized(method: &Method, chunks: u64) -> Response<Payload> {
    let body = if method == Method::HEAD {
        Payload::empty()
    } else {
        Payload::pattern(chunks, true)
    };
    let mut response = answered(200, body);
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, (chunks * body::CHUNK as u64).into());
    response
}

async fn counted(state: &State, request: Request<Incoming>) -> Result<Response<Payload>, BoxError> {
    let length = request
        .headers()
        .get(CONTENT_LENGTH)
        .map(|length| length.to_str().unwrap_or("?").to_owned());
    let progress = |bytes| {
        state.received.fetch_add(bytes, Ordering::SeqCst);
    };
    let read = body::read(request.into_body(), progress).await?;
    let trailers: Vec<_> = read
        .trailers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or("?")))
        .collect();
    let seen = json!({ "bytes": read.bytes, "digest": read.digest, "trailers": trailers, "content_length": length });
    Ok(text(200, seen.to_string()))
}

fn watching() -> Payload {
    let (feed, body) = Payload::channel();
    feed.try_send(Ok(Frame::data(Bytes::from_static(
        b"{\"type\":\"BOOKMARK\"}\n",
    ))))
    .expect("room");
    body.holding(feed)
}

fn gated(state: Arc<State>, chunks: u64) -> Payload {
    let (feed, body) = Payload::channel();
    tokio::spawn(async move {
        for number in 0..chunks {
            if number == 1 {
                let Ok(permit) = state.gate.acquire().await else {
                    return;
                };
                permit.forget();
            }
            if feed.send(Ok(Frame::data(chunk(number)))).await.is_err() {
                return;
            }
        }
    });
    body
}

fn with_trailers() -> Payload {
    let (feed, body) = Payload::channel();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", "42".parse().expect("a value"));
    feed.try_send(Ok(Frame::data(Bytes::from_static(b"body"))))
        .expect("room");
    feed.try_send(Ok(Frame::trailers(trailers))).expect("room");
    body
}

fn dying(link: Arc<Link>) -> Payload {
    let (feed, body) = Payload::channel();
    tokio::spawn(async move {
        let _ = feed.send(Ok(Frame::data(chunk(0)))).await;
        // Sent for certain once there is room for all of these again.
        for number in 1..8 {
            let _ = feed.send(Ok(Frame::data(chunk(number)))).await;
        }
        link.kill.notify_one();
        feed.closed().await;
    });
    body
}

/// Reads as much as the proxy waits for before it sends a request on, or to the end.
async fn first_chunk(state: &State, request: Request<Incoming>) {
    use http_body_util::BodyExt as _;
    let mut body = request.into_body();
    let mut read = 0;
    while read < body::CHUNK
        && let Some(Ok(frame)) = body.frame().await
    {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        state.received.fetch_add(bytes as u64, Ordering::SeqCst);
        read += bytes;
    }
}

type Tunnel = TokioIo<hyper::upgrade::Upgraded>;

fn switched<F>(
    mut request: Request<Incoming>,
    talk: impl FnOnce(Tunnel) -> F + Send + 'static,
) -> Response<Payload>
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let upgrade = hyper::upgrade::on(&mut request);
    let protocol = request.headers().get(UPGRADE).cloned();
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let _ = talk(TokioIo::new(upgraded)).await;
        }
    });
    let mut response = answered(101, Payload::empty());
    response
        .headers_mut()
        .insert(CONNECTION, "Upgrade".parse().expect("a value"));
    if let Some(protocol) = protocol {
        response.headers_mut().insert(UPGRADE, protocol);
    }
    response
}

/// Sends back what comes; when the client is done, says so and is done too.
async fn echoing(mut io: Tunnel, _open: Open) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = io.read(&mut buffer).await?;
        if length == 0 {
            break;
        }
        io.write_all(&buffer[..length]).await?;
    }
    io.write_all(b"that was all").await?;
    io.shutdown().await
}

/// Says a word, is done talking, and listens on.
async fn talking(mut io: Tunnel, _open: Open, state: Arc<State>) -> std::io::Result<()> {
    io.write_all(b"hello").await?;
    io.shutdown().await?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = io.read(&mut buffer).await?;
        state.received.fetch_add(length as u64, Ordering::SeqCst);
        if length == 0 {
            return Ok(());
        }
    }
}
