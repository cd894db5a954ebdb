//! The body of a request on its way up.
//!
//! Its beginning is waited for before the request asks for admission, and kept until the answer begins, so that a request
//! the server never looked at can be sent again. The rest is passed on as it comes.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::accept::patience::Sight;
use crate::error::Refused;

/// So much of a body is waited for, and kept, in bytes. Nearly every object of Kubernetes is smaller.
const KEPT: usize = 64 * 1024;
/// In so many pieces at most.
const PIECES: usize = 64;
/// It is waited for so long. kube-apiserver gives up on a request after as much.
const LONGEST: Duration = Duration::from_secs(60);
/// Less than this at a time is no reason to believe that the body will end.
const PROGRESS: usize = 1024;

/// What is sent upstream as a body.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// The client's body.
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

    /// Waits for the whole body, or for the beginning of a large one. The server begins with a request when it has read it
    /// to its end, so until then it has no need of a seat.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when the client breaks its body off or does not come to its end.
    pub(crate) async fn gather(&mut self) -> Result<(), Refused> {
        let Self::Client(replay) = self else {
            return Ok(());
        };
        match tokio::time::timeout(LONGEST, replay.gather()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Refused::bad_request(format!("the body is broken: {error}"))),
            Err(_) => Err(Refused::Malformed {
                status: StatusCode::REQUEST_TIMEOUT,
                what: format!("the body did not arrive within {LONGEST:?}"),
            }),
        }
    }

    /// From now on `sight` is told when the client is waited for.
    pub(crate) fn seen_by(&mut self, sight: Option<Sight>) {
        if let Self::Client(replay) = self {
            replay.source.borrow_mut().sight = sight;
        }
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
        source
            .borrow()
            .keeping
            .then(|| RequestBody::Client(Replay::of(Rc::clone(source))))
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
    /// Whether the trailers that are here were passed on.
    trailed: bool,
}

#[derive(Debug)]
struct Source {
    /// What is still to come.
    rest: Option<Incoming>,
    /// Whether the client said in advance how long it is.
    sized: bool,
    /// What was read so far, as long as everything is kept; what is left to be sent, after that.
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    /// Whether `kept` is all there was.
    keeping: bool,
    /// Told when it is the client that is waited for.
    sight: Option<Sight>,
}

impl Replay {
    fn new(incoming: Incoming) -> Self {
        Self::of(Rc::new(RefCell::new(Source {
            sized: incoming.size_hint().exact().is_some(),
            rest: Some(incoming),
            kept: Vec::new(),
            trailers: None,
            bytes: 0,
            keeping: true,
            sight: None,
        })))
    }

    fn of(source: Rc<RefCell<Source>>) -> Self {
        Self {
            source,
            next: 0,
            trailed: false,
        }
    }

    async fn gather(&self) -> hyper::Result<()> {
        let Some(mut rest) = self.source.borrow_mut().rest.take() else {
            return Ok(());
        };
        let mut first = None;
        // Mostly there is only one piece, which need not be copied.
        let mut more = BytesMut::new();
        let mut trailers = None;
        let mut left = None;
        while let Some(frame) = rest.frame().await {
            match frame?.into_data() {
                Ok(data) if first.is_none() => first = Some(data),
                Ok(data) => more.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
            if first.as_ref().map_or(0, Bytes::len) + more.len() >= KEPT {
                left = Some(rest);
                break;
            }
        }
        let source = &mut *self.source.borrow_mut();
        source.rest = left;
        source.trailers = trailers;
        for piece in first.into_iter().chain([more.freeze()]) {
            if !piece.is_empty() {
                source.bytes += piece.len();
                source.kept.push(piece);
            }
        }
        source.keeping = source.bytes <= KEPT;
        Ok(())
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
        let Some(rest) = &mut source.rest else {
            let trailers = source.trailers.clone().filter(|_| !self.trailed);
            self.trailed = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        };
        let polled = Pin::new(rest).poll_frame(cx);
        if let Some(sight) = &source.sight {
            match &polled {
                Poll::Pending => sight.waits(),
                Poll::Ready(Some(Ok(frame)))
                    if frame.data_ref().is_some_and(|data| data.len() < PROGRESS) => {}
                Poll::Ready(_) => sight.goes_on(),
            }
        }
        let polled = ready!(polled);
        if let (Some(Ok(frame)), true) = (&polled, source.keeping) {
            source.keep(frame.data_ref());
            self.next = source.kept.len();
        }
        Poll::Ready(polled)
    }

    /// Bytes that are here and still to be sent.
    fn pending(&self, source: &Source) -> u64 {
        let pending = source.kept.iter().skip(self.next);
        pending.map(|piece| piece.len() as u64).sum()
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.borrow();
        self.pending(&source) == 0
            && (self.trailed || source.trailers.is_none())
            && source.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.source.borrow();
        let pending = self.pending(&source);
        match &source.rest {
            _ if !source.sized => SizeHint::default(),
            None => SizeHint::with_exact(pending),
            Some(rest) => rest
                .size_hint()
                .exact()
                .map_or_else(SizeHint::default, |rest| {
                    SizeHint::with_exact(pending.saturating_add(rest))
                }),
        }
    }
}

impl Source {
    /// Keeps a piece; trailers (`None`) are not kept.
    fn keep(&mut self, piece: Option<&Bytes>) {
        self.bytes += piece.map_or(0, Bytes::len);
        match piece {
            Some(piece) if self.bytes <= KEPT && self.kept.len() < PIECES => {
                self.kept.push(piece.clone());
            }
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
            Self::Client(replay) => replay.is_end_stream(),
            Self::Own(bytes) => bytes.is_none(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(replay) => replay.size_hint(),
            Self::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}
