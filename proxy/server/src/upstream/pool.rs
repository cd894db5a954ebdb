//! Upstream connections of one worker: counted streams on several HTTP/2 connections, and a few HTTP/1.1 ones.
//!
//! hyper's own client would queue, unseen and for ever, whatever exceeds the peer's stream limit; here a stream is
//! reserved before a request is sent, and the reservation lives as long as the answer's body. Everything is local to a
//! thread: no locks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use proxy_core::time::Time;
use tokio::sync::Notify;

use super::connect::{Endpoint, Http1Sender, Http2Sender, PeerLimit};
use crate::clock;
use crate::error::UpstreamError;

/// Connections without a stream are closed after this; the apiserver would do it at 90 s.
const IDLE: Duration = Duration::from_secs(60);

/// How streams are laid onto connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// The least loaded connection first: short calls.
    Spread,
    /// The fullest with room first, so that few connections carry many long streams.
    Dense,
}

/// HTTP/2 connections that carry one kind of traffic.
#[derive(Debug)]
pub(crate) struct Http2Pool {
    asserted: bool,
    packing: Packing,
    connections: RefCell<Vec<Rc<Pooled>>>,
    dialing: Cell<bool>,
    failed: RefCell<(u64, Rc<str>)>,
    changed: Notify,
}

#[derive(Debug)]
struct Pooled {
    sender: RefCell<Http2Sender>,
    limit: PeerLimit,
    in_flight: Cell<u32>,
    idle_since: Cell<Time>,
    /// Not to be given out again: the peer is closing it.
    draining: Cell<bool>,
}

/// One reserved stream; given back when dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    pooled: Rc<Pooled>,
    pool: Rc<Http2Pool>,
}

impl Http2Pool {
    pub(crate) fn new(asserted: bool, packing: Packing) -> Rc<Self> {
        Rc::new(Self {
            asserted,
            packing,
            connections: RefCell::default(),
            dialing: Cell::new(false),
            failed: RefCell::new((0, "".into())),
            changed: Notify::new(),
        })
    }

    /// A stream on a connection with room, opening a connection when there is none: one at a time, at most
    /// `max_connections` of them.
    ///
    /// # Errors
    /// [`UpstreamError::NoStream`] when all allowed connections are full, else why a new one could not be made.
    pub(crate) async fn reserve(
        self: &Rc<Self>,
        endpoint: &Endpoint,
        own_limit: u32,
        max_connections: u32,
    ) -> Result<Stream, UpstreamError> {
        let failures = self.failed.borrow().0;
        loop {
            if let Some(stream) = self.take(own_limit) {
                return Ok(stream);
            }
            if self.connections.borrow().len() >= max_connections as usize {
                return Err(UpstreamError::NoStream);
            }
            if self.dialing.get() {
                self.changed.notified().await;
                let failed = self.failed.borrow();
                if failed.0 != failures {
                    return Err(UpstreamError::Unreachable(Rc::clone(&failed.1)));
                }
                continue;
            }
            self.dial(endpoint).await?;
        }
    }

    async fn dial(&self, endpoint: &Endpoint) -> Result<(), UpstreamError> {
        let _dialing = Dialing::start(self);
        match endpoint.http2(self.asserted).await {
            Ok((sender, limit)) => {
                self.connections.borrow_mut().push(Rc::new(Pooled {
                    sender: RefCell::new(sender),
                    limit,
                    in_flight: Cell::new(0),
                    idle_since: Cell::new(clock::now()),
                    draining: Cell::new(false),
                }));
                Ok(())
            }
            Err(error) => {
                let mut failed = self.failed.borrow_mut();
                *failed = (failed.0 + 1, error.to_string().into());
                Err(error)
            }
        }
    }

    fn take(self: &Rc<Self>, own_limit: u32) -> Option<Stream> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|pooled| pooled.usable());
        let with_room = connections
            .iter()
            .filter(|pooled| pooled.in_flight.get() < pooled.room(own_limit));
        let chosen = match self.packing {
            Packing::Spread => with_room.min_by_key(|pooled| pooled.in_flight.get()),
            Packing::Dense => with_room.max_by_key(|pooled| pooled.in_flight.get()),
        }?;
        chosen.in_flight.set(chosen.in_flight.get() + 1);
        Some(Stream {
            pooled: Rc::clone(chosen),
            pool: Rc::clone(self),
        })
    }

    /// Lets go of connections that have been idle too long.
    pub(crate) fn tidy(&self, now: Time) {
        self.connections.borrow_mut().retain(|pooled| {
            pooled.usable()
                && (pooled.in_flight.get() > 0
                    || now.saturating_since(pooled.idle_since.get()) < IDLE)
        });
    }

    /// Gives out none of today's connections any more; they end with their last stream.
    pub(crate) fn retire(&self) {
        self.connections.borrow_mut().clear();
    }

    /// (connections, streams) at this moment.
    pub(crate) fn count(&self) -> (usize, usize) {
        let connections = self.connections.borrow();
        (
            connections.len(),
            connections
                .iter()
                .map(|pooled| pooled.in_flight.get() as usize)
                .sum(),
        )
    }
}

impl Pooled {
    fn usable(&self) -> bool {
        !self.draining.get() && self.limit.streams() > 0 && !self.sender.borrow().is_closed()
    }

    /// Our own limit, or four fifths of the peer's when that is lower: streams we cancelled may still count there.
    fn room(&self, own_limit: u32) -> u32 {
        let peer = self.limit.streams();
        own_limit.min(peer - peer / 5).max(1)
    }
}

impl Stream {
    /// The sender of the connection this stream is on.
    pub(crate) fn sender(&self) -> std::cell::RefMut<'_, Http2Sender> {
        self.pooled.sender.borrow_mut()
    }

    /// The peer is closing this connection: nothing new goes there.
    pub(crate) fn drain(&self) {
        self.pooled.draining.set(true);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let left = self.pooled.in_flight.get().saturating_sub(1);
        self.pooled.in_flight.set(left);
        if left == 0 {
            self.pooled.idle_since.set(clock::now());
        }
        self.pool.changed.notify_one();
    }
}

/// Marks that somebody dials; wakes all who wait for it when over, however it ended.
struct Dialing<'a>(&'a Http2Pool);

impl<'a> Dialing<'a> {
    fn start(pool: &'a Http2Pool) -> Self {
        pool.dialing.set(true);
        Self(pool)
    }
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.0.dialing.set(false);
        self.0.changed.notify_waiters();
    }
}

/// HTTP/1.1 connections for callers nobody vouches for.
///
/// The apiserver tears an HTTP/2 connection down when a request on it is anonymous or refused
/// (UnauthenticatedHTTP2DOSMitigation); HTTP/1.1 is left alone, so strangers cost nobody a connection.
#[derive(Debug)]
pub(crate) struct Http1Pool {
    /// With the front-proxy certificate.
    asserted: bool,
    idle: RefCell<Vec<(Http1Sender, Time)>>,
    open: Cell<u32>,
    max_open: u32,
}

/// One HTTP/1.1 connection in use; kept for the next caller if its answer ended well.
#[derive(Debug)]
pub(crate) struct Lease {
    sender: Option<Http1Sender>,
    pool: Rc<Http1Pool>,
}

/// Idle HTTP/1.1 connections kept.
const MAX_IDLE: usize = 16;

impl Http1Pool {
    pub(crate) fn new(asserted: bool, max_open: u32) -> Rc<Self> {
        Rc::new(Self {
            asserted,
            idle: RefCell::default(),
            open: Cell::new(0),
            max_open,
        })
    }

    /// A connection that is free, an idle one if there is.
    ///
    /// # Errors
    /// [`UpstreamError::NoStream`] at the bound, else why a new one could not be made.
    pub(crate) async fn reserve(
        self: &Rc<Self>,
        endpoint: &Endpoint,
    ) -> Result<Lease, UpstreamError> {
        loop {
            let Some((sender, _)) = self.idle.borrow_mut().pop() else {
                break;
            };
            if sender.is_ready() {
                return Ok(self.lease(sender));
            }
        }
        if self.open.get() >= self.max_open {
            return Err(UpstreamError::NoStream);
        }
        let mut lease = Lease {
            sender: None,
            pool: Rc::clone(self),
        };
        self.open.set(self.open.get() + 1);
        lease.sender = Some(endpoint.http1(self.asserted).await?);
        Ok(lease)
    }

    fn lease(self: &Rc<Self>, sender: Http1Sender) -> Lease {
        self.open.set(self.open.get() + 1);
        Lease {
            sender: Some(sender),
            pool: Rc::clone(self),
        }
    }

    pub(crate) fn tidy(&self, now: Time) {
        self.idle
            .borrow_mut()
            .retain(|(sender, since)| !sender.is_closed() && now.saturating_since(*since) < IDLE);
    }

    pub(crate) fn retire(&self) {
        self.idle.borrow_mut().clear();
    }

    /// (connections, requests) at this moment.
    pub(crate) fn count(&self) -> (usize, usize) {
        (
            self.idle.borrow().len() + self.open.get() as usize,
            self.open.get() as usize,
        )
    }
}

impl Lease {
    pub(crate) fn sender(&mut self) -> Option<&mut Http1Sender> {
        self.sender.as_mut()
    }

    /// The answer ended as it should: the connection can serve another.
    pub(crate) fn keep(mut self) {
        if let Some(sender) = self.sender.take() {
            let mut idle = self.pool.idle.borrow_mut();
            if !sender.is_closed() && idle.len() < MAX_IDLE {
                idle.push((sender, clock::now()));
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.open.set(self.pool.open.get().saturating_sub(1));
    }
}
