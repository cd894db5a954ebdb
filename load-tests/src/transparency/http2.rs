//! HTTP/2: one request at a time, and everything that comes back of it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::call::Read;
use super::http1::contains;
use super::observed::{End, Observed};

/// A connection.
pub(super) struct Connection(http2::SendRequest<Pieces>);

/// A request's body in pieces, its length said before if it is `sized`.
#[derive(Debug, Clone, Default)]
pub(super) struct Pieces {
    pub(super) pieces: VecDeque<Bytes>,
    pub(super) sized: bool,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.sized && self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.sized {
            SizeHint::with_exact(self.pieces.iter().map(|piece| piece.len() as u64).sum())
        } else {
            SizeHint::default()
        }
    }
}

impl Connection {
    pub(super) async fn new(stream: TlsStream<TcpStream>) -> anyhow::Result<Self> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .max_header_list_size(1 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        // Its end is seen by whoever waits for an answer on it.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Sends a request and reads its answer; `started` is called when its head
    /// has come. Says whether the connection can be used again.
    pub(super) async fn ask(
        &mut self,
        request: Request<Pieces>,
        read: &Read,
        started: impl FnOnce(),
    ) -> anyhow::Result<(Observed, bool)> {
        let (head, mut body) = self.0.send_request(request).await?.into_parts();
        started();
        let mut observed = Observed {
            status: head.status.as_u16(),
            headers: texts(&head.headers),
            ..Observed::default()
        };
        let marker = match read {
            Read::Until(marker) => Some(marker.as_bytes()),
            Read::Whole | Read::Upgraded(..) => None,
        };
        let mut contents = Vec::new();
        observed.end = loop {
            match body.frame().await {
                None => break End::Complete,
                Some(Err(error)) => break End::Broken(deepest(&error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => contents.extend_from_slice(&data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            observed.trailers = texts(&trailers);
                        }
                    }
                },
            }
            if marker.is_some_and(|marker| contains(&contents, marker)) {
                break End::Left;
            }
        };
        observed.body = contents.into();
        let reusable = !self.0.is_closed() && !matches!(observed.end, End::Broken(_));
        Ok((observed, reusable))
    }
}

/// What was first wrong.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn texts(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}
