//! The request body on its way up: the client's own, passed on frame by frame, or none.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// As much of a body is kept until the answer begins, so that a request the server never looked at can be sent again.
/// Nearly every object of Kubernetes is smaller.
const KEPT: usize = 64 * 1024;

/// What is sent upstream as a body.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// The client's body, streamed.
    Client(Replay),
    /// A few bytes of our own.
    Own(Option<Bytes>),
    /// Nothing: the request can be repeated.
    Empty,
}

impl RequestBody {
    /// A body that is already at its end is kept as [`RequestBody::Empty`].
    pub(crate) fn new(body: Incoming) -> Self {
        if body.is_end_stream() {
            Self::Empty
        } else {
            Self::Client(Replay::new(body))
        }
    }

    pub(crate) fn own(bytes: Bytes) -> Self {
        Self::Own(Some(bytes))
    }

    /// What can make the same body again, should the request have to be sent again.
    pub(crate) fn copy(&self) -> BodyCopy {
        match self {
            Self::Client(replay) => BodyCopy(Some(Rc::clone(&replay.source))),
            Self::Own(_) | Self::Empty => BodyCopy(None),
        }
    }
}

/// A body's second handle: see [`RequestBody::copy`].
#[derive(Debug)]
pub(crate) struct BodyCopy(Option<Rc<RefCell<Source>>>);

impl BodyCopy {
    /// The body from its first byte; `None` when that is gone.
    pub(crate) fn again(&self) -> Option<RequestBody> {
        let Some(source) = &self.0 else {
            return Some(RequestBody::Empty);
        };
        source.borrow().keeping.then(|| {
            RequestBody::Client(Replay {
                source: Rc::clone(source),
                next: 0,
            })
        })
    }

    /// The answer has begun: nobody will ask for it again.
    pub(crate) fn release(&self) {
        if let Some(source) = &self.0 {
            source.borrow_mut().keeping = false;
        }
    }
}

/// A client's body that remembers its beginning.
#[derive(Debug)]
pub(crate) struct Replay {
    source: Rc<RefCell<Source>>,
    /// Which of the kept pieces comes next.
    next: usize,
}

#[derive(Debug)]
struct Source {
    incoming: Incoming,
    /// What was read so far, as long as everything is kept; what is left to be sent again, after that.
    kept: Vec<Bytes>,
    bytes: usize,
    /// Whether `kept` is all there was.
    keeping: bool,
}

impl Replay {
    fn new(incoming: Incoming) -> Self {
        let source = Source {
            incoming,
            kept: Vec::new(),
            bytes: 0,
            keeping: true,
        };
        Self {
            source: Rc::new(RefCell::new(source)),
            next: 0,
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let source = &mut *self.source.borrow_mut();
        if let Some(piece) = source.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if !source.keeping {
            source.kept = Vec::new();
            self.next = 0;
        }
        let polled = Pin::new(&mut source.incoming).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), true) = (&polled, source.keeping) {
            source.keep(frame.data_ref());
            self.next = source.kept.len();
        }
        polled
    }

    /// Bytes that are still to be sent again.
    fn pending(&self, source: &Source) -> u64 {
        let pending = source.kept.iter().skip(self.next);
        pending.map(|piece| piece.len() as u64).sum()
    }
}

impl Source {
    /// Keeps a piece; trailers (`None`) are not kept.
    fn keep(&mut self, piece: Option<&Bytes>) {
        self.bytes += piece.map_or(0, Bytes::len);
        match piece {
            Some(piece) if self.bytes <= KEPT => self.kept.push(piece.clone()),
            _ => self.keeping = false,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut *self {
            Self::Client(replay) => replay.poll_frame(cx),
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(replay) => {
                let source = replay.source.borrow();
                replay.pending(&source) == 0 && source.incoming.is_end_stream()
            }
            Self::Own(bytes) => bytes.is_none(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(replay) => {
                let source = replay.source.borrow();
                let (mut hint, pending) = (source.incoming.size_hint(), replay.pending(&source));
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper.saturating_add(pending));
                }
                hint.set_lower(hint.lower().saturating_add(pending));
                hint
            }
            Self::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}
