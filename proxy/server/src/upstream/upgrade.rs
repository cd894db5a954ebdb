//! exec, attach, port-forward: a fresh HTTP/1.1 connection, and raw bytes only after the server said 101.
//!
//! A connection whose upgrade was refused is never used for anything else and never piped (CVE-2018-1002105): it answers
//! like any other request and ends.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::{Outbound, for_http1};
use crate::error::UpstreamError;

/// Buffer of a tunnel, in bytes, each way.
const BUFFER: usize = 16 * 1024;

/// Whether a request asks to become something else than HTTP. `h2c` is not a Kubernetes protocol and is ignored.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    let connection_says_so = headers.get_all(CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    });
    connection_says_so
        && headers
            .get(UPGRADE)
            .is_some_and(|protocol| !protocol.as_bytes().eq_ignore_ascii_case(b"h2c"))
}

/// The answer to a request for an upgrade.
pub(crate) enum Answer {
    /// The server agreed; give the client this head and then run the tunnel.
    Switched(Response<Incoming>, Tunnel),
    /// The server answered like to any other request.
    Ordinary(Response<Incoming>),
}

/// Both sides of an upgrade that the server agreed to.
pub(crate) struct Tunnel {
    client: OnUpgrade,
    server: OnUpgrade,
}

/// Sends a request for an upgrade on a connection of its own.
///
/// # Errors
/// As for any other request.
pub(crate) async fn send(outbound: Outbound, client: OnUpgrade) -> Result<Answer, UpstreamError> {
    let Outbound {
        head,
        body,
        credential,
        snapshot,
        ..
    } = outbound;
    let mut sender = snapshot.endpoint.http1(credential.is_asserted()).await?;
    let mut response = sender
        .send_request(for_http1(head, body))
        .await
        .map_err(UpstreamError::Send)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let server = hyper::upgrade::on(&mut response);
        Ok(Answer::Switched(response, Tunnel { client, server }))
    } else {
        Ok(Answer::Ordinary(response))
    }
}

impl Tunnel {
    /// Copies both ways until both sides are done, or nothing has moved for `idle`; passes half-closes on. Returns the
    /// bytes (up, down).
    pub(crate) async fn run(self, idle: Duration) -> std::io::Result<(u64, u64)> {
        let (client, server) =
            tokio::try_join!(self.client, self.server).map_err(std::io::Error::other)?;
        let moved = Cell::new(Instant::now());
        let mut client = Watched::new(TokioIo::new(client), &moved);
        let mut server = Watched::new(TokioIo::new(server), &moved);
        let copying =
            tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER);
        let idling = async {
            loop {
                let until = moved.get() + idle;
                if Instant::now() >= until {
                    return;
                }
                tokio::time::sleep_until(until).await;
            }
        };
        tokio::select! {
            copied = copying => copied,
            () = idling => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }
}

/// One side of a tunnel; notes when something was read from it.
struct Watched<'a, T> {
    inner: T,
    moved: &'a Cell<Instant>,
}

impl<'a, T> Watched<'a, T> {
    fn new(inner: T, moved: &'a Cell<Instant>) -> Self {
        Self { inner, moved }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, into);
        if polled.is_ready() {
            self.moved.set(Instant::now());
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<'_, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
