//! Counters that are there before their first event.
//!
//! `rate` and `increase` do not see a series begin: a counter that appears with its first event hides it. So those that
//! alerts look at, or that are looked for in an incident, start at 0.

use proxy_core::admission::Shed;
use proxy_core::attributes::Verb;

use super::{Code, Metrics, SHEDS, reason};
use crate::lane::Lane;

/// All ways to be refused by admission.
pub(super) const ALL_SHEDS: [Shed; SHEDS] = [
    Shed::QueueFull,
    Shed::Displaced,
    Shed::Level,
    Shed::Early,
    Shed::Deadline,
    Shed::HardBound,
];

const REFUSED_CONNECTIONS: [&str; 6] = [
    "max_connections",
    "io",
    "max_handshakes",
    "handshake_displaced",
    "max_strangers",
    "stranger_displaced",
];

/// Those of the process.
pub(super) fn of_process(metrics: &Metrics) {
    for result in ["applied", "refused"] {
        metrics
            .counter("spillway_config_reloads_total", &[("result", result)])
            .increment(0);
    }
    for harm in ["refusals", "errors"] {
        metrics
            .counter("spillway_policy_returns_total", &[("harm", harm)])
            .increment(0);
    }
    for difference in ["newly_refused", "newly_passed"] {
        metrics
            .counter(
                "spillway_policy_limit_differences_total",
                &[("difference", difference)],
            )
            .increment(0);
    }
    for result in ["applied", "refused"] {
        metrics
            .counter(
                "spillway_policy_cluster_updates_total",
                &[("result", result)],
            )
            .increment(0);
    }
    for code in ["429", "504"] {
        metrics
            .counter("spillway_upstream_refusals_total", &[("code", code)])
            .increment(0);
    }
    for kind in ["connect", "connect_timeout", "send", "lost"] {
        metrics
            .counter("spillway_upstream_errors_total", &[("kind", kind)])
            .increment(0);
    }
    for result in ["answered", "refused"] {
        metrics
            .counter("spillway_probes_total", &[("result", result)])
            .increment(0);
    }
    for lane in Lane::ALL.map(Lane::name) {
        metrics
            .counter("spillway_unread_requests_total", &[("lane", lane)])
            .increment(0);
        for reason in REFUSED_CONNECTIONS {
            let labels = [("lane", lane), ("reason", reason)];
            metrics
                .counter("spillway_refused_connections_total", &labels)
                .increment(0);
        }
        for reason in ["resets", "control_frames", "protocol"] {
            let labels = [("lane", lane), ("reason", reason)];
            metrics
                .counter("spillway_abusive_connections_total", &labels)
                .increment(0);
        }
    }
    for verb in Verb::NAMED {
        let labels = [
            ("lane", Lane::Reserved.name()),
            ("class", super::RESERVED),
            ("verb", verb.as_str()),
            ("code", Code::TooMany.label()),
        ];
        let refused = metrics.counter("spillway_requests_total", &labels);
        refused.increment(0);
    }
}

/// Those of a class.
pub(super) fn of_class(metrics: &Metrics, class: &str) {
    for shed in ALL_SHEDS {
        for name in ["spillway_shed_total", "spillway_shadow_shed_total"] {
            metrics
                .counter(name, &[("class", class), ("reason", reason(shed))])
                .increment(0);
        }
    }
}
