//! The body of an answer that others read too.

use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::body::BodyError;
use super::{Account, End};
use crate::clock;
use crate::upstream::collapse::Subscriber;

/// One reader's part of it, with its account.
pub(crate) struct Shared {
    subscriber: Subscriber,
    account: Option<Account>,
}

impl Shared {
    pub(super) fn new(subscriber: Subscriber, account: Account) -> Self {
        Self {
            subscriber,
            account: Some(account),
        }
    }

    pub(super) fn poll(
        &mut self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = self.subscriber.poll(cx);
        let Some(account) = &mut self.account else {
            return Poll::Ready(None);
        };
        match polled {
            Poll::Ready(Some(Ok(piece))) => {
                account.passed(&piece);
                account.waits();
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Poll::Ready(Some(Err(cut))) => {
                self.end(End::Broken);
                Poll::Ready(Some(Err(cut.into())))
            }
            Poll::Ready(None) => {
                self.end(End::Complete);
                Poll::Ready(None)
            }
            Poll::Pending => {
                account.seat.goes_on();
                Poll::Pending
            }
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.subscriber.is_at_end()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.subscriber.size_hint()
    }

    fn end(&mut self, end: End) {
        let Some(account) = self.account.take() else {
            return;
        };
        // The server goes on for those who still read.
        if end != End::Complete
            && self.subscriber.leads()
            && let Some(permit) = account.seat.take()
            && let Some(permit) = self.subscriber.leave_permit(permit)
        {
            permit.cancel(clock::now());
        }
        account.close(end);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // hyper does not ask again once a body says it is at its end.
        self.end(if self.is_at_end() {
            End::Complete
        } else {
            End::Gone
        });
    }
}
