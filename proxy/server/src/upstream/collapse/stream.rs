//! One answer's body for several readers, each at its own pace.
//!
//! Whoever has read furthest asks the upstream for more, so the fastest sets the pace. What the others have yet to read is
//! kept, but not more than [`WINDOW`] per answer and [`MOST`] of all answers of a worker: who falls further behind is cut
//! off, and asks again. The pieces are those the upstream sent; nothing is copied.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body::{Body as _, SizeHint};
use hyper::body::Incoming;
use proxy_core::admission::{Outcome, Permit};

use crate::clock;
use crate::upstream::Way;

/// So far may a reader be behind the fastest, in bytes.
const WINDOW: usize = 4 << 20;
/// What is kept of all answers of a worker, in bytes.
const MOST: usize = 32 << 20;

/// Bytes kept for readers that are behind, of one worker.
#[derive(Debug, Default)]
pub(super) struct Budget(Cell<usize>);

/// Why a reader does not get the rest.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    /// The upstream broke the answer off.
    #[error("the apiserver broke the shared answer off")]
    Broken,
    /// It read too slowly.
    #[error("too slow for an answer that is shared; ask again")]
    Behind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    Broken,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    inner: RefCell<Inner>,
    wakers: Arc<Wakers>,
    budget: Rc<Budget>,
    size: SizeHint,
}

#[derive(Debug)]
struct Inner {
    incoming: Option<Incoming>,
    way: Option<Way>,
    /// Pieces somebody has yet to read.
    log: VecDeque<Bytes>,
    /// Number of the first of them.
    base: usize,
    bytes: usize,
    /// By place: the next piece to read; `None` once gone or cut off.
    places: Vec<Option<usize>>,
    end: Option<End>,
    /// Of who made the call and left before the others.
    permit: Option<Permit>,
}

/// Those who wait for the next piece.
#[derive(Debug, Default)]
struct Wakers(Mutex<Vec<Waker>>);

impl Wakers {
    fn add(&self, waker: &Waker) {
        let mut wakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|other| other.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        let wakers = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for waker in wakers {
            waker.wake();
        }
    }
}

impl Stream {
    pub(super) fn new(
        incoming: Incoming,
        way: Way,
        places: &[bool],
        budget: Rc<Budget>,
    ) -> Rc<Self> {
        Rc::new(Self {
            size: incoming.size_hint(),
            inner: RefCell::new(Inner {
                incoming: Some(incoming),
                way: Some(way),
                log: VecDeque::new(),
                base: 0,
                bytes: 0,
                places: places.iter().map(|there| there.then_some(0)).collect(),
                end: None,
                permit: None,
            }),
            wakers: Arc::default(),
            budget,
        })
    }

    /// Nobody reads at this place any more.
    pub(super) fn leave(&self, place: usize) {
        let mut inner = self.inner.borrow_mut();
        if let Some(next) = inner.places.get_mut(place) {
            *next = None;
        }
        self.trim(&mut inner);
    }

    /// Lets go of what everybody has read.
    fn trim(&self, inner: &mut Inner) {
        let first = inner.places.iter().flatten().min().copied();
        while inner.base < first.unwrap_or(usize::MAX) {
            let Some(piece) = inner.log.pop_front() else {
                break;
            };
            inner.base += 1;
            inner.bytes -= piece.len();
            self.budget.0.set(self.budget.0.get() - piece.len());
        }
    }

    /// Cuts off who is so far behind that more would be kept than may be.
    fn cut(&self, inner: &mut Inner) {
        while inner.bytes > WINDOW || (self.budget.0.get() > MOST && inner.log.len() > 1) {
            let slowest = inner.base;
            for next in &mut inner.places {
                if *next == Some(slowest) {
                    *next = None;
                }
            }
            let before = inner.base;
            self.trim(inner);
            if inner.base == before {
                return;
            }
        }
    }

    fn poll(&self, place: usize, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        let mut inner = self.inner.borrow_mut();
        let (before, ended) = (inner.base + inner.log.len(), inner.end);
        let polled = self.poll_inner(&mut inner, place, cx);
        let news = (inner.base + inner.log.len(), inner.end) != (before, ended);
        drop(inner);
        if news {
            Arc::clone(&self.wakers).wake();
        }
        polled
    }

    fn poll_inner(
        &self,
        inner: &mut Inner,
        place: usize,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Bytes, Cut>>> {
        let Some(next) = inner.places.get(place).copied().flatten() else {
            return Poll::Ready(Some(Err(Cut::Behind)));
        };
        let step = |inner: &mut Inner| {
            if let Some(place) = inner.places.get_mut(place) {
                *place = Some(next + 1);
            }
        };
        if let Some(piece) = inner.log.get(next - inner.base).cloned() {
            step(inner);
            self.trim(inner);
            return Poll::Ready(Some(Ok(piece)));
        }
        let ended = |end| match end {
            End::Complete => Poll::Ready(None),
            End::Broken => Poll::Ready(Some(Err(Cut::Broken))),
        };
        if let Some(end) = inner.end {
            return ended(end);
        }
        let Some(incoming) = &mut inner.incoming else {
            return ended(End::Broken);
        };
        // Whoever waits at the front is woken by the next piece, and the first of them fetches it.
        self.wakers.add(cx.waker());
        let waker = Waker::from(Arc::clone(&self.wakers));
        loop {
            match Pin::new(&mut *incoming).poll_frame(&mut Context::from_waker(&waker)) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(frame))) => {
                    // What is no data is trailers, which no LIST has.
                    let Ok(piece) = frame.into_data() else {
                        continue;
                    };
                    inner.bytes += piece.len();
                    self.budget.0.set(self.budget.0.get() + piece.len());
                    inner.log.push_back(piece.clone());
                    step(inner);
                    self.trim(inner);
                    self.cut(inner);
                    return Poll::Ready(Some(Ok(piece)));
                }
                Poll::Ready(Some(Err(_))) => {
                    inner.finish(End::Broken);
                    return ended(End::Broken);
                }
                Poll::Ready(None) => {
                    inner.finish(End::Complete);
                    return ended(End::Complete);
                }
            }
        }
    }
}

impl Inner {
    fn finish(&mut self, end: End) {
        self.end = Some(end);
        self.incoming = None;
        if let Some(way) = self.way.take()
            && end == End::Complete
        {
            way.finish();
        }
        if let Some(permit) = self.permit.take() {
            let outcome = match end {
                End::Complete => Outcome::Served,
                End::Broken => Outcome::Failed,
            };
            permit.finish(outcome, clock::now());
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        self.budget.0.set(self.budget.0.get() - inner.bytes);
        if let Some(permit) = inner.permit.take() {
            permit.cancel(clock::now());
        }
    }
}

/// One reader.
#[derive(Debug)]
pub(crate) struct Subscriber {
    stream: Rc<Stream>,
    place: usize,
}

impl Subscriber {
    pub(super) const fn new(stream: Rc<Stream>, place: usize) -> Self {
        Self { stream, place }
    }

    /// Whether it is the one whose call it is.
    pub(crate) const fn leads(&self) -> bool {
        self.place == 0
    }

    /// The next piece.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        self.stream.poll(self.place, cx)
    }

    /// The permit stays until the answer ends, for the others who read it; handed back if there are none.
    pub(crate) fn leave_permit(&self, permit: Permit) -> Option<Permit> {
        let mut inner = self.stream.inner.borrow_mut();
        let others = inner
            .places
            .iter()
            .enumerate()
            .any(|(place, next)| place != self.place && next.is_some());
        if inner.end.is_some() || !others {
            return Some(permit);
        }
        inner.permit = Some(permit);
        None
    }

    /// How long the whole is, as far as that is known before its first piece is read.
    pub(crate) fn size_hint(&self) -> SizeHint {
        self.stream.size
    }

    /// Whether nothing is left to read.
    pub(crate) fn is_at_end(&self) -> bool {
        let inner = self.stream.inner.borrow();
        let read = inner.places.get(self.place).copied().flatten();
        inner.end == Some(End::Complete) && read == Some(inner.base + inner.log.len())
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.stream.leave(self.place);
        // Somebody else may have to fetch the next piece.
        Arc::clone(&self.stream.wakers).wake();
    }
}
