//! Every series declared once. Labels are closed sets: lanes, the configured classes, verbs, reasons.
//!
//! Handles are resolved when a configuration is loaded, so that counting on the path is one atomic addition. The exporter
//! keeps raw histogram samples until something drains them, so the admin thread runs its upkeep every few seconds.

mod class;
mod policy;
mod reference;
mod tally;
mod traces;
mod zero;

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    BuildError, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use proxy_core::admission::Shed;
use proxy_core::attributes::Verb;
use proxy_core::classify::MAX_CLASSES;

pub(crate) use class::ClassMetrics;
pub use reference::{Family, families, reference};
pub(crate) use tally::{Count, REASONS, Tally, reasons};

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Upper bounds of all histograms, in seconds: from a tenth of a millisecond to a minute.
const SECONDS: [f64; 16] = [
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0,
    60.0,
];

/// The name under which the reserved lane's requests appear among the classes.
pub(crate) const RESERVED: &str = "reserved";

/// How a request ended, as the `code` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// 1xx: switched protocols.
    Switched,
    /// 2xx.
    Success,
    /// 3xx.
    Redirect,
    /// 4xx other than 429.
    Client,
    /// 429, whoever said it.
    TooMany,
    /// 5xx.
    Server,
    /// No answer: the client went away first.
    Gone,
}

impl Code {
    const ALL: [Self; 7] = [
        Self::Switched,
        Self::Success,
        Self::Redirect,
        Self::Client,
        Self::TooMany,
        Self::Server,
        Self::Gone,
    ];

    pub(crate) fn of(status: u16) -> Self {
        match status {
            100..=199 => Self::Switched,
            200..=299 => Self::Success,
            300..=399 => Self::Redirect,
            429 => Self::TooMany,
            400..=499 => Self::Client,
            _ => Self::Server,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Switched => "1xx",
            Self::Success => "2xx",
            Self::Redirect => "3xx",
            Self::Client => "4xx",
            Self::TooMany => "429",
            Self::Server => "5xx",
            Self::Gone => "gone",
        }
    }
}

/// Values of the `verb` label: every named verb, and one for the others.
const VERBS: usize = Verb::NAMED.len() + 1;

/// Ways to be refused.
const SHEDS: usize = 6;

/// The `reason` label, and the value of the header that says why.
pub(crate) const fn reason(shed: Shed) -> &'static str {
    match shed {
        Shed::QueueFull => "queue_full",
        Shed::Displaced => "displaced",
        Shed::Level => "level",
        Shed::Early => "early",
        Shed::Deadline => "deadline",
        Shed::HardBound => "hard_bound",
    }
}

/// Why a request was refused that the engine was not asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordered {
    /// A hard limit has nothing left.
    Rule,
    /// A hard limit denies it.
    Denied,
    /// A measure holds it back.
    Quarantined,
}

impl Ordered {
    const ALL: usize = 3;

    const fn reason(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Denied => "denied",
            Self::Quarantined => "quarantined",
        }
    }
}

/// Where series are registered and rendered.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    /// By position of the class; the reserved lane comes after the last one.
    tallies: [Arc<Tally>; MAX_CLASSES + 1],
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// # Errors
    /// None in practice: the buckets are constant and not empty.
    pub(crate) fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&SECONDS)?
            .build_recorder();
        let metrics = Self {
            handle: recorder.handle(),
            recorder,
            tallies: Default::default(),
        };
        Self::describe(&metrics.recorder);
        zero::of_process(&metrics);
        Ok(metrics)
    }

    /// The page for Prometheus.
    pub(crate) fn render(&self) -> String {
        self.handle.render()
    }

    /// What is counted for the console of the class at this position, whatever its name: it outlives reloads.
    pub(crate) fn tally(&self, class: usize) -> Arc<Tally> {
        let known = self.tallies.get(class).or_else(|| self.tallies.last());
        known.map_or_else(Arc::default, Arc::clone)
    }

    /// Drains raw samples into buckets; to be called every few seconds.
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    pub(crate) fn counter(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder
            .register_counter(&key(name, labels), &METADATA)
    }

    pub(crate) fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    pub(crate) fn histogram(
        &self,
        name: &'static str,
        labels: &[(&'static str, &str)],
    ) -> Histogram {
        self.recorder
            .register_histogram(&key(name, labels), &METADATA)
    }

    /// What every family is, for whoever wants to know: the page, and the reference.
    fn describe(recorder: &impl Recorder) {
        let counters = [
            (
                "spillway_requests_total",
                "Requests answered, by lane, class, verb and code; `gone` = the client left first.",
            ),
            (
                "spillway_shed_total",
                "Requests refused by admission, by class and reason.",
            ),
            (
                "spillway_collapsed_total",
                "Reads answered with an identical call of the same caller, by class.",
            ),
            (
                "spillway_stale_total",
                "LISTs answered with their last good answer while the apiserver was away, by class.",
            ),
            (
                "spillway_shadow_shed_total",
                "Requests that `enforce` would have refused, by class and reason.",
            ),
            (
                "spillway_limit_refused_total",
                "Requests beyond a hard limit, by limit, bound and whether the refusal was carried out.",
            ),
            (
                "spillway_measures_total",
                "Measures (quarantine), by what became of them and by whom.",
            ),
            (
                "spillway_culprit_ended_total",
                "LISTs of a culprit that were broken off.",
            ),
            (
                "spillway_culprit_events_total",
                "Kubernetes Events about culprits, by result.",
            ),
            (
                "spillway_forced_total",
                "Requests admitted by the red button although they were to be refused, by class.",
            ),
            (
                "spillway_response_bytes_total",
                "Bytes of answers' bodies passed on, by class.",
            ),
            (
                "spillway_upstream_errors_total",
                "Requests the apiserver did not answer, by kind.",
            ),
            (
                "spillway_upstream_refusals_total",
                "The apiserver's own 429 (APF) and 504, by code.",
            ),
            (
                "spillway_refused_connections_total",
                "Connections refused at accept, by lane and reason.",
            ),
            (
                "spillway_abusive_connections_total",
                "HTTP/2 connections ended because of what the client did too often, by lane and reason.",
            ),
            (
                "spillway_unread_requests_total",
                "Requests ended because the client did not take their answer or did not send their body, by lane.",
            ),
            (
                "spillway_config_reloads_total",
                "Configuration reloads, by result.",
            ),
            (
                "spillway_log_lines_total",
                "Lines for the log files, by log and what became of them.",
            ),
            (
                "spillway_probes_total",
                "Probes of the apiserver, by result.",
            ),
            (
                "spillway_published_keys_fetches_total",
                "Fetches of the apiserver's keys for service-account tokens, by result.",
            ),
        ];
        for (name, text) in counters
            .into_iter()
            .chain(policy::COUNTERS)
            .chain(traces::COUNTERS)
        {
            recorder.describe_counter(name.into(), Some(Unit::Count), text.into());
        }
        let histograms = [
            (
                "spillway_queue_delay_seconds",
                "How long admitted requests waited for admission, by class.",
            ),
            (
                "spillway_upstream_latency_seconds",
                "From sending to the head of the answer, by class; watches excluded.",
            ),
        ];
        for (name, text) in histograms {
            recorder.describe_histogram(name.into(), Some(Unit::Seconds), text.into());
        }
        let gauges = [
            (
                "spillway_limit_seconds",
                "Outstanding work the tuner allows, in seconds of server time, by kind (short, long).",
            ),
            (
                "spillway_ceiling_seconds",
                "Outstanding work a class may see admitted, by class.",
            ),
            (
                "spillway_outstanding_seconds",
                "Work admitted and not finished, by class.",
            ),
            (
                "spillway_outstanding_bytes",
                "Response bytes expected of admitted requests, where they are large.",
            ),
            (
                "spillway_bytes_budget_bytes",
                "How many bytes of large answers may be outstanding (`admission.bytes`); 2^64 while nothing can be judged.",
            ),
            (
                "spillway_running_requests",
                "Requests that hold a permit, by class.",
            ),
            (
                "spillway_turn_bar",
                "User level beyond which tenants of a class do not wait, 0 to 127 (all may), by class.",
            ),
            (
                "spillway_level_class",
                "Of the compound level beyond which requests are refused: the class; the number of classes if none is.",
            ),
            (
                "spillway_level_user",
                "Of the compound level beyond which requests are refused: the user level.",
            ),
            (
                "spillway_waiting_requests",
                "Requests that wait for admission, by class.",
            ),
            (
                "spillway_probe_delay_seconds",
                "The server's queueing delay: the probe's excess over its baseline.",
            ),
            (
                "spillway_probe_baseline_seconds",
                "What the probe takes when the server is idle.",
            ),
            (
                "spillway_probe_target_seconds",
                "Delay above the baseline that counts as queueing (`admission.probe.target`).",
            ),
            ("spillway_tuner_state", "1 for the state the tuner is in."),
            ("spillway_mode", "1 for the mode in force."),
            ("spillway_measures", "Measures in force, by action."),
            (
                "spillway_limit_bound",
                "What a hard limit allows at once, by limit and bound.",
            ),
            (
                "spillway_limit_in_use",
                "What whoever holds most of it holds, by limit and bound.",
            ),
            (
                "spillway_class_mode",
                "1 for the mode in force for a class, run-time changes included, by class.",
            ),
            (
                "spillway_mode_changes",
                "Changes of the mode made at run time that stand above the configuration.",
            ),
            (
                "spillway_reserved_lane_check_success",
                "1 if the last call through the reserved lane worked, 0 if not.",
            ),
            (
                "spillway_reserved_lane_check_timestamp_seconds",
                "When that call was made.",
            ),
            (
                "spillway_lane_in_flight",
                "Requests in flight, long-running ones included, by lane.",
            ),
            ("spillway_lane_connections", "Client connections, by lane."),
            (
                "spillway_lane_in_flight_limit",
                "Requests a lane takes at once; only the reserved lane is bounded so, by lane.",
            ),
            (
                "spillway_lane_connections_limit",
                "Client connections a lane takes at once, by lane.",
            ),
            (
                "spillway_log_writable",
                "1 if the last lines for a log file could be written, 0 if not, by log.",
            ),
            ("spillway_build_info", "1, with the version of this binary."),
            (
                "spillway_tunnels",
                "Open sessions of exec, attach and port-forward, by lane.",
            ),
            ("spillway_lane_up", "1 while a lane accepts connections."),
            (
                "spillway_upstream_up",
                "1 while the apiserver answers the probe.",
            ),
            (
                "spillway_upstream_connections",
                "Connections to the apiserver, by pool and traffic.",
            ),
            (
                "spillway_upstream_streams",
                "Streams in use on connections to the apiserver, by pool and traffic.",
            ),
            (
                "spillway_watch_ramp_rate",
                "Watches that may begin per second after an outage or our own start; 0 = as many as come.",
            ),
            (
                "spillway_watch_ramp_waiting",
                "Watches that wait to begin for that reason.",
            ),
            (
                "spillway_small_read_seconds",
                "Median of 5 s: from sending a read of one object to the head of its answer.",
            ),
            (
                "spillway_small_read_p99_seconds",
                "Of the same, the 99th percentile.",
            ),
            (
                "spillway_shared_probe_seconds",
                "Median of 5 s: a ping over connections that requests share.",
            ),
            (
                "spillway_counted_resources",
                "Resources of which the apiserver has told how many objects there are.",
            ),
            ("spillway_stale_bytes", "Last good answers kept."),
            (
                "spillway_sensor_seen",
                "1 while a sensor of the apiserver says something, by sensor; what is not seen bounds nothing.",
            ),
            (
                "spillway_upstream_memory_bytes",
                "Memory used, of the bound that leaves the apiserver least room: its own, its pod's or its host's.",
            ),
            ("spillway_upstream_memory_limit_bytes", "That bound."),
            (
                "spillway_upstream_memory_stalled_ratio",
                "Share of 10 s in which all of the apiserver waited for memory.",
            ),
            (
                "spillway_upstream_oom_kills",
                "Processes killed for want of memory since the apiserver's cgroup exists.",
            ),
            (
                "spillway_upstream_cpu_cores",
                "Cores the apiserver keeps busy.",
            ),
            (
                "spillway_upstream_cpu_throttled_ratio",
                "Share of the time in which its CPU quota holds it back.",
            ),
            (
                "spillway_upstream_cpu_stalled_ratio",
                "Share of 10 s in which some of its threads waited for a core.",
            ),
            (
                "spillway_certificate_expiry_timestamp_seconds",
                "When a certificate in use ends, by file's role.",
            ),
        ];
        for (name, text) in gauges.into_iter().chain(policy::GAUGES) {
            recorder.describe_gauge(name.into(), None, text.into());
        }
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels
        .iter()
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    Key::from_parts(name, labels)
}
