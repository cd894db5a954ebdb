//! Stage 7: what a request took, told to everybody who wants to know, exactly once.
//!
//! An [`Account`] is opened when a request arrives and closes when its answer's body ends, fails or is dropped, or when
//! the request was refused. It owns the permit, so that a seat is held as long as the server works and given back
//! whatever happens; it counts, teaches the cost model and writes the log.

pub(crate) mod access;
mod body;
mod initial_events;
pub(crate) mod learn;
pub(crate) mod log;
mod on_trial;
mod seat;
mod shared;
mod span;
mod tunnelled;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use proxy_core::admission::limits::Leases;
use proxy_core::admission::{Kind, Outcome, Permit, SMALL_RESPONSE};
use proxy_core::attributes::Verb;
use proxy_core::time::Time;

use crate::accept::connection::Connection;
use crate::accept::endings::Ending;
use crate::accept::patience::Sight;
use crate::accept::worker::Worker;
use crate::admit::running::{self, Cut};
use crate::attribute::{Facts, Traffic};
use crate::clock;
use crate::error::Error;
use crate::identify::Identified;
use crate::lane::Lane;
use crate::metrics::{ClassMetrics, Code};
use crate::snapshot::Snapshot;
use crate::upstream::Inbound;
use crate::upstream::finish::Asking;
use crate::upstream::stale::Keeping;
pub(crate) use body::Body;
use body::Ends;
use log::Entry;
use on_trial::OnTrial;
use seat::Seat;
use tokio::task::AbortHandle;
use tunnelled::Tunnelled;

/// A watch that begins with the whole state has delivered it when it says so ([`initial_events`]), or when nothing came for
/// this long.
const QUIET: Duration = Duration::from_millis(100);

/// As long as admission keeps the room of a cancelled request at most.
const LINGER: Duration = Duration::from_secs(1);

pub(crate) const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Priority and Fairness refuses in plain text; every other 429 of the server (an eviction that a disruption budget
/// forbids, a cache that is not filled yet) is a `Status` and says nothing about load.
fn by_flow_control(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        && headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"))
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client left before its answer was complete.
    Gone,
    /// The upstream broke the answer off.
    Broken,
    /// We broke it off.
    Ended,
    /// We answered it ourselves.
    Answered,
    /// The answer was passed on to its end.
    Complete,
}

/// One request's account.
#[derive(Debug)]
pub(crate) struct Account {
    connection: Rc<Connection>,
    snapshot: Arc<Snapshot>,
    pub(crate) entry: Entry,
    pub(crate) facts: Option<Facts>,
    pub(crate) class: Option<usize>,
    seat: Seat,
    /// What it holds of hard limits.
    leases: Leases,
    trial: OnTrial,
    /// Whether it is to be broken off.
    ended: Option<Cut>,
    /// Ends the request.
    cut: Option<AbortHandle>,
    arrived: Time,
    sent: Option<Time>,
    status: u16,
    bytes: u64,
    /// Its answer is kept for when the server is away.
    keeping: Option<Box<Keeping>>,
    /// At so many bytes the permit is charged anew.
    recharge_at: u64,
    end: End,
    tunnel: Option<Tunnelled>,
}

impl Account {
    pub(crate) fn open(
        connection: &Rc<Connection>,
        snapshot: &Arc<Snapshot>,
        arrived: Time,
        entry: Entry,
        cut: Option<AbortHandle>,
    ) -> Self {
        let worker = &connection.worker;
        worker
            .lane_state()
            .in_flight
            .fetch_add(1, Ordering::Relaxed);
        worker.load.requests.fetch_add(1, Ordering::Relaxed);
        Self {
            connection: Rc::clone(connection),
            snapshot: Arc::clone(snapshot),
            entry,
            facts: None,
            class: None,
            seat: Seat::default(),
            leases: Leases::none(),
            trial: OnTrial::default(),
            ended: None,
            cut,
            arrived,
            sent: None,
            status: 0,
            bytes: 0,
            keeping: None,
            recharge_at: u64::MAX,
            end: End::Gone,
            tunnel: None,
        }
    }

    pub(crate) fn identified(&mut self, identified: &Identified) {
        self.entry.identity = Some(Arc::clone(&identified.identity));
        self.entry.break_glass = identified.break_glass;
    }

    /// The request may start; `permit` is `None` where admission does not count it.
    pub(crate) fn admitted(&mut self, permit: Option<Permit>) {
        let now = clock::now();
        self.sent = Some(now);
        if let Some(metrics) = self.class_metrics() {
            metrics
                .queue_delay
                .record(now.saturating_since(self.arrived).as_secs_f64());
        }
        self.entry.cost = permit
            .as_ref()
            .map_or(Duration::ZERO, |permit| permit.estimate().work());
        self.recharge_at = permit.as_ref().map_or(u64::MAX, |permit| {
            permit.estimate().bytes.max(SMALL_RESPONSE)
        });
        let cut = self.cut.take();
        let hold = self.worker().patience.hold(permit, cut);
        self.seat = Seat::new(hold);
    }

    /// It holds this of hard limits from now on.
    pub(crate) fn holds(&mut self, leases: Leases) {
        self.leases = leases;
    }

    /// Gives away what it holds of hard limits.
    pub(crate) fn lend(&mut self) -> Leases {
        std::mem::take(&mut self.leases)
    }

    /// The head of a long request's answer. LISTs are kept among those that may be broken off, if any may.
    pub(crate) async fn unless_ended(&mut self, asking: Asking) -> Result<Inbound, Error> {
        let configured = self.snapshot.config.admission.cancel_culprit.is_some();
        let list = self
            .facts
            .as_ref()
            .is_some_and(|facts| facts.verb == Verb::List);
        let tenant = self
            .entry
            .identity
            .as_ref()
            .map(|identity| identity.tenant());
        if let (true, Some(tenant), Lane::Main) = (configured && list, tenant, self.worker().lane) {
            self.ended = self.worker().shared.running.begin(tenant);
        }
        let Some(cut) = &mut self.ended else {
            return Ok(asking.await?);
        };
        tokio::select! {
            inbound = asking => Ok(inbound?),
            () = std::future::poll_fn(|cx| cut.poll(cx)) => {
                // The server may work on for a moment.
                if let Some(permit) = self.seat.take() {
                    permit.cancel(clock::now());
                }
                Err(running::ended(self.class_name()).into())
            }
        }
    }

    /// Another's call answers it, which holds the permit; `status` and `headers` are that answer's.
    pub(crate) fn joined(&mut self, status: StatusCode, headers: &HeaderMap) {
        let cut = self.cut.take();
        self.seat = Seat::new(self.worker().patience.hold(None, cut));
        self.status = status.as_u16();
        self.tell_guard(status);
        self.entry.audit_id = headers.get(AUDIT_ID).cloned();
        self.entry.joined = true;
    }

    /// Its answer, of which the head is here, is to be kept.
    pub(crate) fn keep(&mut self, keeping: Option<Keeping>) {
        self.keeping = keeping.map(Box::new);
    }

    /// For the request's body, to tell when it waits for its client.
    pub(crate) fn sight(&self) -> Option<Sight> {
        self.seat.sight()
    }

    /// A piece of the answer was handed to the client, who may or may not take it. What does not end by itself may wait for
    /// its reader as long as it likes.
    fn waits(&self) {
        if !self.facts.as_ref().is_some_and(|facts| facts.long_running) {
            self.seat.waits();
        }
    }

    /// The server has done the work of a short request when its answer begins: kube-apiserver encodes a single object whole
    /// before it writes a byte. However long the client takes to read it, no work is kept from others.
    fn worked(&self) {
        if self
            .facts
            .as_ref()
            .is_some_and(|facts| facts.kind == Kind::Short)
        {
            self.seat.rest();
        }
    }

    /// The head of the upstream's answer is here.
    pub(crate) fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        let now = clock::now();
        self.status = status.as_u16();
        self.tell_guard(status);
        if let Some(id) = headers.get(AUDIT_ID) {
            self.entry.audit_id = Some(id.clone());
        }
        if let Some(trace) = &mut self.entry.trace {
            trace.head = Some(now.saturating_since(self.arrived));
        }
        let Some(facts) = &self.facts else { return };
        let signals = &self.worker().shared.signals;
        // Only what a client cannot bring about by how it asks: it could slow all others down.
        if by_flow_control(status, headers) && !facts.relayed {
            signals.upstream_429.fetch_add(1, Ordering::Relaxed);
        } else if status == StatusCode::GATEWAY_TIMEOUT && !facts.relayed && !facts.own_timeout {
            signals.upstream_504.fetch_add(1, Ordering::Relaxed);
        }
        if facts.long_running {
            if !facts.initial_state || status != StatusCode::OK {
                // The server holds nothing for it any more but the stream.
                if facts.verb == Verb::Watch {
                    self.learn(now);
                }
                self.release(Outcome::Served);
            } else {
                self.seat.time();
            }
        } else if let (Some(sent), Some(metrics)) = (self.sent, self.class_metrics()) {
            let took = now.saturating_since(sent);
            metrics.upstream_latency.record(took.as_secs_f64());
            if facts.verb == Verb::Get && facts.traffic == Traffic::Short && status.is_success() {
                self.worker().shared.small_reads.note(took);
            }
        }
    }

    /// We answer with `status` ourselves.
    pub(crate) fn answered(mut self, status: u16) {
        self.status = status;
        self.tell_guard_of_ours(status);
        self.end = End::Answered;
    }

    /// A tunnel begins: its permit is given back, the account stays open.
    pub(crate) fn tunnel(&mut self) {
        self.release(Outcome::Served);
        self.tunnel = Some(Tunnelled::count(&self.connection));
    }

    /// A tunnel ended after this many bytes towards the client.
    pub(crate) fn tunnelled(mut self, bytes: u64) {
        self.bytes = bytes;
        self.end = End::Complete;
    }

    /// So many more bytes were passed on. An answer that outgrows its estimate is charged anew each time it has doubled.
    fn passed(&mut self, piece: &Bytes) {
        self.bytes += piece.len() as u64;
        if self
            .keeping
            .as_mut()
            .is_some_and(|keeping| !keeping.passed(piece))
        {
            self.keeping = None;
        }
        if self.bytes > self.recharge_at {
            self.recharge_at = self.bytes.saturating_mul(2);
            self.seat.outgrown(self.bytes);
        }
    }

    /// What the end of its answer means.
    fn ends(&self) -> Ends {
        let is_watch = self
            .facts
            .as_ref()
            .is_some_and(|facts| facts.verb == Verb::Watch);
        if is_watch && self.status == StatusCode::OK {
            Ends::Events
        } else {
            Ends::Whole
        }
    }

    /// A place in the list of what does not end by itself.
    fn ending(&self) -> Option<Ending> {
        let long_running = self.facts.as_ref().is_some_and(|facts| facts.long_running);
        long_running.then(|| self.worker().endings.add())
    }

    /// Whether this is a watch that may still be sending its initial state.
    fn is_delivering(&self) -> bool {
        self.seat.is_held() && self.facts.as_ref().is_some_and(|facts| facts.initial_state)
    }

    /// Whether it is to be broken off.
    fn is_ended(&mut self, cx: &mut Context<'_>) -> bool {
        let cut = self.ended.as_mut();
        cut.is_some_and(|cut| cut.poll(cx).is_ready())
    }

    fn close(mut self, end: End) {
        self.end = end;
    }

    fn worker(&self) -> &Worker {
        &self.connection.worker
    }

    fn class_name(&self) -> Option<Arc<str>> {
        let class = self.class?;
        Some(Arc::clone(&self.snapshot.classes.get(class)?.name))
    }

    fn class_metrics(&self) -> Option<&ClassMetrics> {
        self.class
            .and_then(|class| self.snapshot.classes.get(class))
            .map(|class| &class.metrics)
    }

    fn release(&mut self, outcome: Outcome) {
        let Some(permit) = self.seat.take() else {
            return;
        };
        let now = clock::now();
        match self.end {
            End::Gone | End::Broken | End::Ended if outcome != Outcome::Served => {
                permit.cancel(now)
            }
            _ => permit.finish(outcome, now),
        }
    }

    /// Teaches the cost model what this request really took, until `done`.
    fn learn(&self, done: Time) {
        let (Some(facts), Some(sent)) = (&self.facts, self.sent) else {
            return;
        };
        if (200..300).contains(&self.status) {
            self.worker()
                .shared
                .learn(&facts.shape, self.bytes, sent, done);
        }
    }

    /// A watch delivered its initial state `ago`.
    fn delivered(&mut self, ago: Duration) {
        let ago = u64::try_from(ago.as_micros()).unwrap_or(u64::MAX);
        if let Some(delivered) = clock::now().0.checked_sub(ago) {
            self.learn(Time(delivered));
        }
        self.seat.goes_on();
        self.leases.delivered();
        self.trial.delivered();
        self.release(Outcome::Served);
    }

    /// Whether the server did the work that was asked of it.
    fn outcome(&self) -> Outcome {
        let served = self.end == End::Complete && self.status < 500 && self.status != 429;
        if served {
            Outcome::Served
        } else {
            Outcome::Failed
        }
    }
}

/// The server may work on for a client that has left: were what it held given back at once, opening and cancelling would be
/// the way around every limit.
fn linger(leases: Leases) {
    tokio::task::spawn_local(async move {
        tokio::time::sleep(LINGER).await;
        drop(leases);
    });
}

impl Drop for Account {
    fn drop(&mut self) {
        let now = clock::now();
        let long_running = self.facts.as_ref().is_some_and(|facts| facts.long_running);
        if self.end == End::Complete && !long_running {
            self.learn(now);
        }
        if let Some(keeping) = self.keeping.take()
            && self.end == End::Complete
        {
            keeping.end(now);
        }
        self.release(self.outcome());
        if self.end == End::Gone && !long_running && !self.leases.is_empty() {
            linger(self.lend());
        }
        self.worker()
            .lane_state()
            .in_flight
            .fetch_sub(1, Ordering::Relaxed);
        self.worker().load.requests.fetch_sub(1, Ordering::Relaxed);
        let verb = self.facts.as_ref().map_or(Verb::Other, |facts| facts.verb);
        let code = if self.status == 0 {
            Code::Gone
        } else {
            Code::of(self.status)
        };
        if let Some(metrics) = self.class_metrics() {
            metrics.request(
                &self.worker().shared.metrics,
                self.worker().lane,
                verb,
                code,
            );
            metrics.response_bytes.increment(self.bytes);
        }
        let class = self.class_name();
        let class = class.as_deref().unwrap_or_default();
        let finished = log::Finished {
            class,
            verb: verb.as_str(),
            status: self.status,
            end: self.end,
            bytes: self.bytes,
            waited: self.sent.map(|sent| sent.saturating_since(self.arrived)),
            took: now.saturating_since(self.arrived),
        };
        log::remember(self.worker(), &self.entry, &self.snapshot, &finished);
        log::write(self.worker(), &self.entry, &self.snapshot, &finished);
    }
}
