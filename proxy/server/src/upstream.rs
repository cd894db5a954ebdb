//! Stage 6: sends an admitted request to the apiserver and brings back the head of its answer.
//!
//! One [`Upstream`] per worker thread. What a request may be forwarded as decides its connections: identities are only
//! ever asserted on connections that hold the front-proxy certificate, and such connections carry nothing else.

pub(crate) mod body;
pub(crate) mod collapse;
pub(crate) mod connect;
pub(crate) mod finish;
pub(crate) mod headers;
mod ping;
pub(crate) mod pool;
pub(crate) mod stale;
pub(crate) mod upgrade;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri, Version, request, uri};
use hyper::body::Incoming;
use proxy_core::time::Time;
use tower::Service;

use crate::attribute::Traffic;
use crate::error::UpstreamError;
use crate::identify::Credential;
use crate::shared::POOLS;
use crate::snapshot::Snapshot;
use body::{BodyCopy, RequestBody};
use collapse::Calls;
use pool::{Http1Pool, Http2Pool, Lease, Packing, Stream};

/// How often a request that provably never started is tried on another connection.
const RETRIES: u32 = 3;

/// Concurrent HTTP/1.1 connections of one worker for callers nobody vouches for.
const MAX_UNVERIFIED: u32 = 128;

/// How streams of this traffic are laid onto connections.
const fn packing(traffic: Traffic) -> Packing {
    match traffic {
        Traffic::Long => Packing::Dense,
        Traffic::Short | Traffic::Bulk => Packing::Spread,
    }
}

/// A request ready to be sent: headers already in the upstream's form.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) head: request::Parts,
    pub(crate) body: RequestBody,
    pub(crate) credential: Credential,
    pub(crate) traffic: Traffic,
    pub(crate) snapshot: Arc<Snapshot>,
}

/// The head of an answer, and what must be held until its body ends.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) response: Response<Incoming>,
    pub(crate) way: Way,
}

/// What an answer occupies upstream.
#[derive(Debug)]
pub(crate) enum Way {
    /// A stream of an HTTP/2 connection.
    Stream(#[allow(dead_code, reason = "held for its drop")] Stream),
    /// A whole HTTP/1.1 connection.
    Connection(Lease),
}

impl Way {
    /// The body ended as it should.
    pub(crate) fn finish(self) {
        if let Self::Connection(lease) = self {
            lease.keep();
        }
    }
}

/// The upstream connections of one worker.
#[derive(Clone, Debug)]
pub(crate) struct Upstream(Rc<Pools>);

#[derive(Debug)]
struct Pools {
    asserted: [Rc<Http2Pool>; 3],
    tokens: [Rc<Http2Pool>; 3],
    unverified: Rc<Http1Pool>,
    nobody: Rc<Http1Pool>,
    generation: Cell<u64>,
    calls: Rc<Calls>,
}

impl Upstream {
    pub(crate) fn new() -> Self {
        Self(Rc::new(Pools {
            asserted: Traffic::ALL.map(|traffic| Http2Pool::new(true, packing(traffic))),
            tokens: Traffic::ALL.map(|traffic| Http2Pool::new(false, packing(traffic))),
            unverified: Http1Pool::new(false, MAX_UNVERIFIED),
            nobody: Http1Pool::new(true, MAX_UNVERIFIED),
            generation: Cell::new(0),
            calls: Rc::default(),
        }))
    }

    /// Reads under way that others may join.
    pub(crate) fn calls(&self) -> &Rc<Calls> {
        &self.0.calls
    }

    /// Closes what has been idle too long.
    pub(crate) fn tidy(&self, now: Time) {
        for pool in self.0.asserted.iter().chain(&self.0.tokens) {
            pool.tidy(now);
        }
        self.0.unverified.tidy(now);
        self.0.nobody.tidy(now);
    }

    /// (pool, traffic, connections, streams) of every pool.
    pub(crate) fn count(&self) -> [(&'static str, &'static str, usize, usize); POOLS] {
        let http2 = |pool: &Rc<Http2Pool>, name, traffic: Traffic| {
            let (connections, streams) = pool.count();
            (name, traffic.name(), connections, streams)
        };
        let (connections, requests) = self.0.unverified.count();
        let (own, asserted) = self.0.nobody.count();
        let [a, b, c] = &self.0.asserted;
        let [d, e, f] = &self.0.tokens;
        let [short, bulk, long] = Traffic::ALL;
        [
            http2(a, "asserted", short),
            http2(b, "asserted", bulk),
            http2(c, "asserted", long),
            http2(d, "tokens", short),
            http2(e, "tokens", bulk),
            http2(f, "tokens", long),
            ("unverified", "any", connections, requests),
            ("asserted-nobody", "any", own, asserted),
        ]
    }

    /// Connections made with other credentials or to another address are not used for anything new.
    fn follow(&self, snapshot: &Snapshot) {
        if self.0.generation.replace(snapshot.generation) == snapshot.generation {
            return;
        }
        for pool in self.0.asserted.iter().chain(&self.0.tokens) {
            pool.retire();
        }
        self.0.unverified.retire();
        self.0.nobody.retire();
    }

    async fn send(self, outbound: Outbound) -> Result<Inbound, UpstreamError> {
        self.follow(&outbound.snapshot);
        let pools = match outbound.credential {
            Credential::Asserted => &self.0.asserted,
            Credential::Token => &self.0.tokens,
            Credential::AssertedNobody => return send_http1(&self.0.nobody, outbound).await,
            Credential::Unverified => return send_http1(&self.0.unverified, outbound).await,
        };
        let pool = match outbound.traffic {
            Traffic::Short => &pools[0],
            Traffic::Bulk => &pools[1],
            Traffic::Long => &pools[2],
        };
        send_http2(pool, outbound).await
    }
}

async fn send_http1(pool: &Rc<Http1Pool>, outbound: Outbound) -> Result<Inbound, UpstreamError> {
    let Outbound {
        head,
        body,
        snapshot,
        ..
    } = outbound;
    let safe = head.method.is_safe();
    let mut request = for_http1(head, body);
    let mut attempts = 0;
    loop {
        let mut lease = pool.reserve(&snapshot.endpoint).await?;
        let Some(sender) = lease.sender() else {
            return Err(UpstreamError::NoStream);
        };
        let copy = Copy::of(&request);
        match sender.try_send_request(request).await {
            Ok(response) => {
                copy.body.release();
                return Ok(Inbound {
                    response,
                    way: Way::Connection(lease),
                });
            }
            Err(mut failure) => {
                attempts += 1;
                // An idle connection that the server closed under us: nothing was read of the request.
                let unsent = failure.take_message();
                let error = failure.into_error();
                let again = attempts < RETRIES;
                let repeat = again && safe && error.is_incomplete_message();
                request = match (unsent, repeat.then(|| copy.again()).flatten()) {
                    (Some(request), _) if again => request,
                    (None, Some(copy)) => copy,
                    (None, None) if !safe => return Err(UpstreamError::Lost(error)),
                    _ => return Err(UpstreamError::Send(error)),
                };
            }
        }
    }
}

async fn send_http2(pool: &Rc<Http2Pool>, outbound: Outbound) -> Result<Inbound, UpstreamError> {
    let Outbound {
        head,
        body,
        snapshot,
        ..
    } = outbound;
    let upstream = &snapshot.config.upstream;
    let safe = head.method.is_safe();
    let mut request = for_http2(head, body);
    let mut attempts = 0;
    loop {
        let stream = pool
            .reserve(
                &snapshot.endpoint,
                upstream.streams_per_connection,
                upstream.max_connections,
            )
            .await?;
        let copy = Copy::of(&request);
        let answer = stream.sender().try_send_request(request);
        match answer.await {
            Ok(response) => {
                copy.body.release();
                return Ok(Inbound {
                    response,
                    way: Way::Stream(stream),
                });
            }
            Err(mut failure) => {
                attempts += 1;
                let unsent = failure.take_message();
                let error = failure.into_error();
                if unsent.is_some() || closes_connection(&error) {
                    stream.drain();
                }
                let again = attempts < RETRIES;
                let unstarted = never_started(&error);
                let repeat = again && unstarted;
                request = match (unsent, repeat.then(|| copy.again()).flatten()) {
                    (Some(request), _) if again => request,
                    (None, Some(copy)) => copy,
                    (None, None) if !safe && !unstarted => return Err(UpstreamError::Lost(error)),
                    _ => return Err(UpstreamError::Send(error)),
                };
            }
        }
    }
}

/// What is needed to send a request again if it provably never started: its head, and its body as far as that is kept.
struct Copy {
    head: Request<()>,
    body: BodyCopy,
}

impl Copy {
    fn of(request: &Request<RequestBody>) -> Self {
        let mut head = Request::new(());
        *head.method_mut() = request.method().clone();
        *head.uri_mut() = request.uri().clone();
        *head.version_mut() = request.version();
        *head.headers_mut() = request.headers().clone();
        Self {
            head,
            body: request.body().copy(),
        }
    }

    fn again(self) -> Option<Request<RequestBody>> {
        let body = self.body.again()?;
        Some(self.head.map(|()| body))
    }
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

/// The peer refused the stream before doing anything (RFC 9113 §8.7), or said goodbye naming an earlier stream as its last:
/// whatever its reason, h2 gives this error to no other.
fn never_started(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| {
        error.is_remote()
            && (error.is_go_away()
                || (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)))
    })
}

fn closes_connection(error: &hyper::Error) -> bool {
    h2_error(error).is_none_or(|error| error.is_go_away() || error.is_io())
}

/// HTTP/2 names the host in the URI, HTTP/1.1 in a header; the client's own name for it is kept either way.
fn for_http2(mut head: request::Parts, body: RequestBody) -> Request<RequestBody> {
    head.version = Version::HTTP_2;
    let host = head.headers.remove(HOST);
    let authority = head
        .uri
        .authority()
        .cloned()
        .or_else(|| host.and_then(|host| uri::Authority::try_from(host.as_bytes()).ok()))
        .unwrap_or_else(|| uri::Authority::from_static("kubernetes"));
    let mut parts = uri::Parts::default();
    parts.scheme = Some(uri::Scheme::HTTPS);
    parts.authority = Some(authority);
    parts.path_and_query = head
        .uri
        .path_and_query()
        .cloned()
        .or_else(|| Some(uri::PathAndQuery::from_static("/")));
    if let Ok(uri) = Uri::from_parts(parts) {
        head.uri = uri;
    }
    Request::from_parts(head, body)
}

fn for_http1(mut head: request::Parts, body: RequestBody) -> Request<RequestBody> {
    head.version = Version::HTTP_11;
    if let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(HOST, host);
    }
    let mut parts = uri::Parts::default();
    parts.path_and_query = head
        .uri
        .path_and_query()
        .cloned()
        .or_else(|| Some(uri::PathAndQuery::from_static("/")));
    if let Ok(uri) = Uri::from_parts(parts) {
        head.uri = uri;
    }
    Request::from_parts(head, body)
}

/// The seam where tests put another upstream in place of a real one.
impl Service<Outbound> for Upstream {
    type Response = Inbound;
    type Error = UpstreamError;
    type Future = finish::Asking;

    /// Always ready: what does not fit is refused by admission, or as [`UpstreamError::NoStream`].
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, outbound: Outbound) -> Self::Future {
        Box::pin(self.clone().send(outbound))
    }
}
