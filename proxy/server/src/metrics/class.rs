//! What is counted of one class: handles resolved when a configuration is loaded, or when first needed.

use std::sync::{Arc, OnceLock};

use metrics::{Counter, Histogram};
use proxy_core::admission::Shed;
use proxy_core::attributes::Verb;

use super::{Code, Metrics, Ordered, SHEDS, Tally, VERBS, reason, zero};
use crate::lane::Lane;

/// The handles of one class.
pub(crate) struct ClassMetrics {
    name: String,
    requests: Vec<OnceLock<Counter>>,
    sheds: [OnceLock<Counter>; 2 * SHEDS],
    ordered: [OnceLock<Counter>; 2 * Ordered::ALL],
    pub(crate) queue_delay: Histogram,
    pub(crate) upstream_latency: Histogram,
    pub(crate) response_bytes: Counter,
    collapsed: OnceLock<Counter>,
    stale: OnceLock<Counter>,
    pub(crate) tally: Arc<Tally>,
}

impl std::fmt::Debug for ClassMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClassMetrics")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl ClassMetrics {
    /// Of the class of this name at position `at`.
    pub(crate) fn new(metrics: &Metrics, at: usize, name: &str) -> Self {
        let labels = [("class", name)];
        zero::of_class(metrics, name);
        Self {
            name: name.to_owned(),
            requests: std::iter::repeat_with(OnceLock::new)
                .take(Lane::ALL.len() * VERBS * Code::ALL.len())
                .collect(),
            sheds: Default::default(),
            ordered: Default::default(),
            queue_delay: metrics.histogram("spillway_queue_delay_seconds", &labels),
            upstream_latency: metrics.histogram("spillway_upstream_latency_seconds", &labels),
            response_bytes: metrics.counter("spillway_response_bytes_total", &labels),
            collapsed: OnceLock::new(),
            stale: OnceLock::new(),
            tally: metrics.tally(at),
        }
    }

    /// Counts one answered request.
    pub(crate) fn request(&self, metrics: &Metrics, lane: Lane, verb: Verb, code: Code) {
        let index = (lane.index() * VERBS + (verb as usize).min(VERBS - 1)) * Code::ALL.len()
            + code as usize;
        if let Some(cell) = self.requests.get(index) {
            let register = || {
                let verb = if verb == Verb::Other {
                    "other"
                } else {
                    verb.as_str()
                };
                let labels = [
                    ("lane", lane.name()),
                    ("class", &*self.name),
                    ("verb", verb),
                    ("code", code.label()),
                ];
                metrics.counter("spillway_requests_total", &labels)
            };
            cell.get_or_init(register).increment(1);
        }
    }

    /// Counts one read that was answered with another's call.
    pub(crate) fn collapsed(&self, metrics: &Metrics) {
        self.tally.spared();
        let register = || metrics.counter("spillway_collapsed_total", &[("class", &self.name)]);
        self.collapsed.get_or_init(register).increment(1);
    }

    /// Counts one LIST that was answered with what was last answered.
    pub(crate) fn stale(&self, metrics: &Metrics) {
        self.tally.spared();
        let register = || metrics.counter("spillway_stale_total", &[("class", &self.name)]);
        self.stale.get_or_init(register).increment(1);
    }

    /// Counts one refusal, real or of the shadow.
    pub(crate) fn shed(&self, metrics: &Metrics, shed: Shed, shadow: bool) {
        self.tally.shed(shed, shadow);
        let index = usize::from(shadow) * SHEDS + (shed as usize).min(SHEDS - 1);
        self.refused(metrics, self.sheds.get(index), reason(shed), shadow);
    }

    /// Counts one refusal by order of the operator, real or of the shadow.
    pub(crate) fn ordered(&self, metrics: &Metrics, ordered: Ordered, shadow: bool) {
        self.tally.ordered(ordered, shadow);
        let index = usize::from(shadow) * Ordered::ALL + ordered as usize;
        self.refused(metrics, self.ordered.get(index), ordered.reason(), shadow);
    }

    fn refused(
        &self,
        metrics: &Metrics,
        cell: Option<&OnceLock<Counter>>,
        reason: &str,
        shadow: bool,
    ) {
        let register = || {
            let name = if shadow {
                "spillway_shadow_shed_total"
            } else {
                "spillway_shed_total"
            };
            metrics.counter(name, &[("class", &self.name), ("reason", reason)])
        };
        if let Some(cell) = cell {
            cell.get_or_init(register).increment(1);
        }
    }
}
