//! One body type for scripted servers and clients: nothing, a text, a pattern of any length, or what a test sends.

use std::any::Any;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::BoxError;

/// Bytes of one frame of a pattern.
pub const CHUNK: usize = 64 * 1024;

enum Kind {
    Full(Option<Bytes>),
    /// Chunks `next..count`, each distinct.
    Pattern {
        next: u64,
        count: u64,
        sized: bool,
    },
    Channel(mpsc::Receiver<Result<Frame<Bytes>, BoxError>>),
}

/// See the module.
pub struct Payload {
    kind: Kind,
    /// What lives as long as the body.
    guards: Vec<Box<dyn Any + Send + Sync>>,
}

/// Feeds a body; the body ends when it is dropped.
pub type Feed = mpsc::Sender<Result<Frame<Bytes>, BoxError>>;

impl Payload {
    fn of(kind: Kind) -> Self {
        Self {
            kind,
            guards: Vec::new(),
        }
    }

    pub fn empty() -> Self {
        Self::of(Kind::Full(None))
    }

    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self::of(Kind::Full(Some(bytes.into())))
    }

    /// `count` chunks, with a content-length if `sized`.
    pub fn pattern(count: u64, sized: bool) -> Self {
        Self::of(Kind::Pattern {
            next: 0,
            count,
            sized,
        })
    }

    /// What the returned sender is given.
    pub fn channel() -> (Feed, Self) {
        let (feed, receiver) = mpsc::channel(4);
        (feed, Self::of(Kind::Channel(receiver)))
    }

    /// Keeps `guard` until the body is dropped.
    pub fn holding(mut self, guard: impl Any + Send + Sync) -> Self {
        self.guards.push(Box::new(guard));
        self
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Self {
        Self::full(text)
    }
}

/// Chunk `number` of the pattern.
pub fn chunk(number: u64) -> Bytes {
    let mut bytes = BytesMut::zeroed(CHUNK);
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[CHUNK - 8..].copy_from_slice(&(!number).to_be_bytes());
    bytes.freeze()
}

/// The digest of a pattern of `count` chunks.
pub fn pattern_digest(count: u64) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    (0..count).for_each(|number| context.update(&chunk(number)));
    hex(context)
}

/// The digest of what was read.
pub fn digest(bytes: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(bytes);
    hex(context)
}

fn hex(context: digest::Context) -> String {
    context
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What a body was: its length and digest, and its trailers.
pub struct Read {
    pub bytes: u64,
    pub digest: String,
    pub trailers: http::HeaderMap,
}

/// Reads `body` to its end, telling `progress` the length of every chunk.
pub async fn read(mut body: Incoming, mut progress: impl FnMut(u64)) -> Result<Read, hyper::Error> {
    let mut context = digest::Context::new(&digest::SHA256);
    let (mut bytes, mut trailers) = (0, http::HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                bytes += data.len() as u64;
                context.update(&data);
                progress(data.len() as u64);
            }
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok(Read {
        bytes,
        digest: hex(context),
        trailers,
    })
}

impl Body for Payload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Pattern { next, count, .. } if *next < *count => {
                *next += 1;
                Poll::Ready(Some(Ok(Frame::data(chunk(*next - 1)))))
            }
            Kind::Pattern { .. } => Poll::Ready(None),
            Kind::Channel(receiver) => receiver.poll_recv(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.kind, Kind::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Pattern {
                next,
                count,
                sized: true,
            } => SizeHint::with_exact((count - next) * CHUNK as u64),
            Kind::Pattern { .. } | Kind::Channel(_) => SizeHint::default(),
        }
    }
}
