//! The body of every answer: it owns the account, so that a request's account closes when its answer does.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::{Account, End, QUIET, initial_events};
use crate::accept::endings::Ending;
use crate::upstream::Way;

/// The one body type of all answers.
pub(crate) enum Body {
    /// The upstream's, counted.
    Upstream(Box<Counted>),
    /// The upstream's, which was here whole when its head was; with its length if the upstream told it.
    Whole {
        /// All of it.
        bytes: Option<Bytes>,
        /// Whether its length was known in advance.
        sized: bool,
    },
    /// Our own, or none.
    Local(Option<Bytes>),
}

/// An upstream body with everything that must last as long as it does.
pub(crate) struct Counted {
    incoming: Incoming,
    /// What came with the head.
    first: Option<hyper::Result<Frame<Bytes>>>,
    way: Option<Way>,
    account: Option<Account>,
    /// Of answers that do not end by themselves.
    ending: Option<Ending>,
    ends: Ends,
    /// Armed while a watch delivers its initial state.
    quiet: Option<Pin<Box<Sleep>>>,
}

/// Why an answer ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The upstream broke it off.
    #[error(transparent)]
    Upstream(#[from] hyper::Error),
    /// The process stops.
    #[error("the proxy is stopping")]
    Stopping,
    /// The server is overloaded by requests like this one.
    #[error("ended to relieve the server")]
    Ended,
}

/// What it means when no more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// Events, each complete in itself, and no last one: a clean end, whatever the reason, lets a reflector go on from its
    /// last version. It answers a stream that was reset with a full LIST.
    Events,
    /// An answer that is complete only as the server ended it.
    Whole,
}

impl Body {
    pub(crate) fn local(bytes: Bytes) -> Self {
        Self::Local((!bytes.is_empty()).then_some(bytes))
    }

    pub(crate) fn upstream(mut incoming: Incoming, way: Option<Way>, mut account: Account) -> Self {
        let ending = account.ending();
        let sized = incoming.size_hint().exact().is_some();
        let mut first = None;
        // Most answers are small, and here together with their heads. The server is done with them: they hold nothing from
        // here on, however long the client takes over them.
        if ending.is_none() && !incoming.is_end_stream() {
            let mut nobody = Context::from_waker(Waker::noop());
            if let Poll::Ready(Some(frame)) = Pin::new(&mut incoming).poll_frame(&mut nobody) {
                first = Some(frame);
            }
            if let Some(data) = data_of(first.as_ref()) {
                account.passed(data.len());
            }
            if incoming.is_end_stream()
                && let Some(bytes) = data_of(first.as_ref()).cloned()
            {
                account.close(End::Complete);
                if let Some(way) = way {
                    way.finish();
                }
                let bytes = (!bytes.is_empty()).then_some(bytes);
                return Self::Whole { bytes, sized };
            }
            account.waits();
            account.worked();
        }
        Self::Upstream(Box::new(Counted {
            ends: account.ends(),
            ending,
            incoming,
            first,
            way,
            account: Some(account),
            quiet: None,
        }))
    }
}

impl Counted {
    /// The process stops, and it is this answer's turn to end. Only between two pieces, so that events stay whole.
    fn ends_now(&mut self, cx: &Context<'_>) -> bool {
        if !self.ending.as_ref().is_some_and(|ending| ending.is_now(cx)) {
            return false;
        }
        // The upstream has not finished: its stream is given up, not kept.
        self.way = None;
        self.end(match self.ends {
            Ends::Events => End::Complete,
            Ends::Whole => End::Broken,
        });
        true
    }

    /// An end that is not the server's.
    fn cut(&self, error: BodyError) -> Option<Result<Frame<Bytes>, BodyError>> {
        match self.ends {
            Ends::Events => None,
            Ends::Whole => Some(Err(error)),
        }
    }

    /// Whether this answer is broken off to relieve the server.
    fn is_ended(&mut self, cx: &mut Context<'_>) -> bool {
        let account = self.account.as_mut();
        account.is_some_and(|account| account.is_ended(cx))
    }

    fn end(&mut self, end: End) {
        if let Some(account) = self.account.take() {
            account.close(end);
        }
        if let Some(way) = self.way.take()
            && end == End::Complete
        {
            way.finish();
        }
    }

    /// The initial state of a watch costs like a LIST and then nothing: its permit goes back when the stream falls
    /// quiet, if it has not said before that this is its end.
    fn watch_for_quiet(&mut self, cx: &mut Context<'_>) {
        let Some(account) = &mut self.account else {
            return;
        };
        if !account.is_delivering() {
            return;
        }
        let quiet = self
            .quiet
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(QUIET)));
        if quiet.as_mut().poll(cx).is_ready() {
            account.delivered(QUIET);
            self.quiet = None;
        }
    }
}

fn data_of(frame: Option<&hyper::Result<Frame<Bytes>>>) -> Option<&Bytes> {
    frame?.as_ref().ok()?.data_ref()
}

fn with_first(counted: &Counted) -> SizeHint {
    let first = data_of(counted.first.as_ref()).map_or(0, |data| data.len() as u64);
    match counted.incoming.size_hint().exact() {
        Some(rest) => SizeHint::with_exact(first + rest),
        None => SizeHint::default(),
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // hyper does not ask again once a body says it is at its end.
        let end = if self.incoming.is_end_stream() {
            End::Complete
        } else {
            End::Gone
        };
        self.end(end);
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let counted = match &mut *self {
            Self::Local(bytes) => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Self::Whole { bytes, .. } => {
                return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))));
            }
            Self::Upstream(counted) => counted,
        };
        if counted.is_ended(cx) {
            counted.way = None;
            counted.end(End::Ended);
            return Poll::Ready(Some(Err(BodyError::Ended)));
        }
        if let Some(first) = counted.first.take() {
            if let Some(account) = &counted.account {
                account.waits();
            }
            return Poll::Ready(match first {
                Ok(frame) => Some(Ok(frame)),
                Err(error) => {
                    counted.end(End::Broken);
                    counted.cut(error.into())
                }
            });
        }
        match Pin::new(&mut counted.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(account)) = (frame.data_ref(), &mut counted.account) {
                    account.passed(data.len());
                    account.waits();
                    counted.quiet = None;
                    if account.is_delivering() && initial_events::end_in(data) {
                        account.delivered(Duration::ZERO);
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                counted.end(End::Broken);
                Poll::Ready(counted.cut(error.into()))
            }
            Poll::Ready(None) => {
                counted.end(End::Complete);
                Poll::Ready(None)
            }
            Poll::Pending if counted.ends_now(cx) => Poll::Ready(counted.cut(BodyError::Stopping)),
            Poll::Pending => {
                if let Some(account) = &counted.account {
                    account.seat.goes_on();
                }
                counted.watch_for_quiet(cx);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Local(bytes) | Self::Whole { bytes, .. } => bytes.is_none(),
            Self::Upstream(counted) => counted.first.is_none() && counted.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Local(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Whole { sized: false, .. } => SizeHint::default(),
            Self::Whole { bytes, .. } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            // Asked for before the first piece is.
            Self::Upstream(counted) => with_first(counted),
        }
    }
}
