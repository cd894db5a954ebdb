//! A short request that its client cancelled is finished all the same.
//!
//! The server has it by then and mostly does the work it takes. Were the seat given back at that moment, whoever opens and
//! cancels (CVE-2023-44487) could have the server do any amount of work and hold no place for it. So the seat is kept, and
//! the answer waited for, as if the client were still there; but not for long.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use proxy_core::admission::Outcome;
use proxy_core::admission::limits::Leases;

use super::Inbound;
use crate::accept::patience::Sight;
use crate::clock;
use crate::error::UpstreamError;

/// A server that takes longer is told that the client has gone.
const LONGEST: Duration = Duration::from_secs(1);

/// A request on its way to the server and the head of its answer on its way back.
pub(crate) type Asking = Pin<Box<dyn Future<Output = Result<Inbound, UpstreamError>>>>;

/// [`Asking`], which goes on without its client.
pub(crate) struct Finishing {
    asking: Option<Asking>,
    sight: Option<Sight>,
    leases: Leases,
}

impl Finishing {
    /// `sight` knows the seat; `leases` are kept as long, and handed back with the answer.
    pub(crate) fn new(asking: Asking, sight: Option<Sight>, leases: Leases) -> Self {
        Self {
            asking: Some(asking),
            sight,
            leases,
        }
    }
}

impl Future for Finishing {
    type Output = Result<(Inbound, Leases), UpstreamError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(asking) = &mut self.asking else {
            return Poll::Pending;
        };
        let polled = asking.as_mut().poll(cx);
        if polled.is_ready() {
            self.asking = None;
        }
        polled.map_ok(|inbound| (inbound, std::mem::take(&mut self.leases)))
    }
}

impl Drop for Finishing {
    fn drop(&mut self) {
        // Answered: the seat is the answer's.
        let Some(asking) = self.asking.take() else {
            return;
        };
        let Some(permit) = self.sight.as_ref().and_then(Sight::take) else {
            return;
        };
        let leases = std::mem::take(&mut self.leases);
        tokio::task::spawn_local(async move {
            let _leases = leases;
            // What it answers is of no interest; a way back to the pool is kept by whoever answers in time.
            match tokio::time::timeout(LONGEST, asking).await {
                Ok(_) => permit.finish(Outcome::Failed, clock::now()),
                Err(_) => permit.cancel(clock::now()),
            }
        });
    }
}
