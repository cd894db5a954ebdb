//! Traces (`traces` in the configuration): which requests are traced, and their spans on the way to the collector.
//!
//! Whether a request is traced is decided when it arrives, so that what the apiserver says of it can belong to it. By
//! chance, or because its client wishes it; either within a bound, for anybody can wish. Without a collector, nothing of
//! this is looked at. [`crate::account`] writes the spans, [`crate::control::traces`] sends them.

pub(crate) mod collector;
pub(crate) mod parent;
pub(crate) mod queue;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Version, request};
use proxy_core::attributes::Attributes;
use proxy_core::time::Time;

use crate::metrics::Metrics;
use parent::{Hex, Parent};
use queue::Queue;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The name of a span is cut after so many bytes.
const LONGEST_NAME: usize = 200;

/// What all workers share of it.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    asked: PerSecond,
    all: PerSecond,
    /// Not traced because as many as `asked`, or as `most`, were.
    beyond_asked: AtomicU64,
    beyond_most: AtomicU64,
    pub(crate) queue: Queue,
}

impl Traces {
    /// What is kept of a request that is to be traced.
    pub(crate) fn begin(
        &self,
        config: &config::Traces,
        head: &request::Parts,
        now: Time,
    ) -> Option<Box<Trace>> {
        let by_chance = fastrand::f64() < config.sample.fraction();
        if !by_chance && config.asked == 0 {
            return None;
        }
        let parent = Parent::of(&head.headers);
        if !by_chance {
            parent.filter(|parent| parent.sampled)?;
            if !self.asked.pass(config.asked, now) {
                self.beyond_asked.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        }
        if !self.all.pass(config.most, now) {
            self.beyond_most.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).ok()?;
        let (trace, spans) = random.split_first_chunk()?;
        let (server, spans) = spans.split_first_chunk()?;
        let (client, _) = spans.split_first_chunk()?;
        Some(Box::new(Trace {
            id: Hex(parent.map_or(*trace, |parent| parent.trace)),
            parent: parent.map(|parent| Hex(parent.span)),
            server: Hex(*server),
            client: Hex(*client),
            version: head.version,
            name: span_name(&head.method).to_owned(),
            sent: false,
            head: None,
            reason: None,
        }))
    }

    /// Shows what became of spans, and what was not traced.
    pub(crate) fn refresh(&self, metrics: &Metrics) {
        for (result, count) in self.queue.counts() {
            metrics
                .counter("spillway_trace_spans_total", &[("result", result)])
                .absolute(count);
        }
        for (bound, count) in [("asked", &self.beyond_asked), ("most", &self.beyond_most)] {
            metrics
                .counter("spillway_traces_bounded_total", &[("bound", bound)])
                .absolute(count.load(Ordering::Relaxed));
        }
    }
}

/// Lets so many through a second. One word: the second above, how many below.
#[derive(Debug, Default)]
struct PerSecond(AtomicU64);

impl PerSecond {
    fn pass(&self, most: u32, now: Time) -> bool {
        let second = now.0 / 1_000_000;
        let one_more = |state: u64| {
            let used = if state >> 32 == second & 0xffff_ffff {
                state & 0xffff_ffff
            } else {
                0
            };
            (used < u64::from(most)).then_some(second << 32 | (used + 1))
        };
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .is_ok()
    }
}

/// A traced request.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) id: Hex<16>,
    /// The client's span.
    pub(crate) parent: Option<Hex<8>>,
    /// Ours, from its arrival to its end.
    pub(crate) server: Hex<8>,
    /// Ours about what the apiserver did; the apiserver's belong under it.
    pub(crate) client: Hex<8>,
    /// In which it came.
    pub(crate) version: Version,
    /// As kube-apiserver names its spans.
    pub(crate) name: String,
    /// It went to the apiserver.
    pub(crate) sent: bool,
    /// From its arrival to the head of the apiserver's answer.
    pub(crate) head: Option<Duration>,
    /// Why we answered it ourselves, as the client is told.
    pub(crate) reason: Option<HeaderValue>,
}

impl Trace {
    /// It has been read: its span gets the name that kube-apiserver's has (`getSpanNameFromRequestInfo` in
    /// `apiserver:pkg/endpoints/filters/traces.go`).
    pub(crate) fn reads(&mut self, attributes: &Attributes<'_>) {
        if !attributes.is_resource {
            return;
        }
        let name = &mut self.name;
        let _ = match &*attributes.api_group {
            "" => write!(name, " /api/{}", attributes.api_version),
            group => write!(name, " /apis/{group}/{}", attributes.api_version),
        };
        if !attributes.namespace.is_empty() {
            name.push_str("/namespaces/{:namespace}");
        }
        let _ = write!(name, "/{}", attributes.resource);
        if !attributes.name.is_empty() {
            name.push_str("/{:name}");
        }
        if !attributes.subresource.is_empty() {
            let _ = write!(name, "/{}", attributes.subresource);
        }
        let mut end = LONGEST_NAME.min(name.len());
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
    }

    /// It goes to the apiserver: our span takes the client's place. A `tracestate` belongs to the trace it came with.
    pub(crate) fn put_on(&mut self, headers: &mut HeaderMap) {
        self.sent = true;
        // No other flag than "sampled": kube-apiserver of before 1.37 takes no header with a flag it does not know.
        let text = format!("00-{}-{}-01", self.id, self.client);
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(TRACEPARENT, value);
        }
        if self.parent.is_none() {
            headers.remove(TRACESTATE);
        }
    }
}

/// The method in a span's name: of a closed set.
fn span_name(method: &Method) -> &str {
    if known(method) {
        method.as_str()
    } else {
        "HTTP"
    }
}

/// Whether it is one of RFC 9110 or RFC 5789; others are told apart only by an attribute.
pub(crate) fn known(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ]
    .contains(method)
}

#[cfg(test)]
mod tests;
