//! Every family of series with its labels and how many series there can be: `docs/metrics.md`, and what dashboards and
//! alerts are checked against.
//!
//! Names, kinds and texts are what [`super::Metrics`] tells the page for Prometheus. The labels stand here, because a
//! registry learns them only as series appear; a test compares them with a page.

use std::cell::RefCell;
use std::fmt::Write as _;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use proxy_core::admission::limits::MAX_LIMITS;
use proxy_core::attributes::Verb;
use proxy_core::classify::MAX_CLASSES;

use super::{Code, Metrics, Ordered, SECONDS, VERBS};
use crate::admin::tenants;
use crate::lane::Lane;
use crate::policy::trial::Difference;

/// A family of series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name; a histogram's series carry `_bucket`, `_sum` or `_count` behind it.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What it counts or shows.
    pub help: String,
    /// The names of its labels, `le` not among them.
    pub labels: Vec<&'static str>,
    /// The most series there can be of it in one process.
    pub most: usize,
}

/// A label: its name, what it may say, and how many different things that are.
type Label = (&'static str, &'static str, usize);

const LANE: Label = ("lane", "`main`, `reserved`", Lane::ALL.len());
/// The reserved lane counts among the classes where requests are counted.
const CLASS: Label = (
    "class",
    "the configured classes, at most 16; where requests are counted also `reserved`, those of the reserved lane",
    MAX_CLASSES + 1,
);
const KIND: Label = (
    "kind",
    "`short` (single objects, writes, resumed watches), `long` (LISTs, watches that begin with the state)",
    2,
);
const SHED: Label = (
    "reason",
    "`queue_full`, `level`, `early`, `displaced`, `deadline`, `hard_bound` ([what they mean](admission.md#what-a-refused-client-is-told)); by an operator's order `rule`, `denied`, `quarantined` ([limits](limits.md))",
    super::SHEDS + Ordered::ALL,
);
const LIMIT: Label = ("limit", "the names of `admission.limits`", MAX_LIMITS);
const POOL: Label = (
    "pool",
    "`asserted` (verified certificates and request-header peers), `asserted-nobody` (of those, who turn out to be anonymous: the server may break such a connection off), `tokens`, `unverified`",
    4,
);
const TRAFFIC: Label = (
    "traffic",
    "`short`, `bulk`, `long` (watches); `any` where they are not told apart",
    4,
);
const HELD: Label = ("bound", "`concurrency`, `watches`, `sessions`", 3);
const MODE: Label = ("mode", "`off`, `shadow`, `enforce`", 3);
/// Names of tenants are as many as there are; only so many are told apart at a time.
const TENANT: Label = (
    "tenant",
    "a service account, user or group of nodes: the 20 that ask for most now, the rest `other`",
    tenants::SERIES + 1,
);
/// A tenant has one value of its other labels at a time.
const MOST_OF_IT: [Label; 2] = [
    ("class", "of most of what the tenant asks", 1),
    ("kind", "of most of what the tenant asks", 1),
];

/// The labels of every family.
const LABELS: &[(&str, &[Label])] = &[
    (
        "spillway_requests_total",
        &[
            LANE,
            CLASS,
            ("verb", "see below", VERBS),
            (
                "code",
                "`1xx` (upgraded), `2xx`, `3xx`, `4xx` (without 429), `429` (whoever said it), `5xx`, `gone` (the client left before an answer)",
                Code::ALL.len(),
            ),
        ],
    ),
    ("spillway_shed_total", &[CLASS, SHED]),
    ("spillway_shadow_shed_total", &[CLASS, SHED]),
    ("spillway_forced_total", &[CLASS]),
    (
        "spillway_limit_refused_total",
        &[
            LIMIT,
            (
                "bound",
                "`concurrency`, `watches`, `sessions`, `rate`, `server_time`, `deny`",
                6,
            ),
            ("carried_out", "`true`; `false` in shadow", 2),
        ],
    ),
    ("spillway_limit_bound", &[LIMIT, HELD]),
    ("spillway_limit_in_use", &[LIMIT, HELD]),
    ("spillway_measures", &[("action", "`block`, `slow`", 2)]),
    (
        "spillway_measures_total",
        &[("what", "`taken`", 1), ("by", "`spillway`", 1)],
    ),
    ("spillway_culprit_ended_total", &[]),
    (
        "spillway_culprit_events_total",
        &[("result", "`created`, `failed`", 2)],
    ),
    ("spillway_response_bytes_total", &[CLASS]),
    ("spillway_collapsed_total", &[CLASS]),
    (
        "spillway_policy_moved_total",
        &[
            ("from", "the configured classes", MAX_CLASSES),
            ("to", "the configured classes", MAX_CLASSES),
        ],
    ),
    (
        "spillway_policy_limit_differences_total",
        &[(
            "difference",
            "`newly_refused`, `newly_passed`",
            Difference::ALL.len(),
        )],
    ),
    (
        "spillway_policy_guarded_total",
        &[
            ("policy", "`old`, `new`", 2),
            ("outcome", "`served`, `refused` (by Spillway), `failed`", 3),
        ],
    ),
    (
        "spillway_policy_returns_total",
        &[("harm", "`refusals`, `errors`", 2)],
    ),
    (
        "spillway_policy_cluster_updates_total",
        &[("result", "`applied`, `refused`", 2)],
    ),
    (
        "spillway_policy_stage",
        &[(
            "stage",
            "`none`, `shadow`, `percent`, `watched` (in force for all, and may still be given up), `returned` (given up by itself), `undone` (by an operator)",
            6,
        )],
    ),
    ("spillway_policy_candidate_ratio", &[]),
    (
        "spillway_policy_digest",
        &[("policy", "`current`, `candidate`", 2)],
    ),
    ("spillway_policy_kept", &[]),
    ("spillway_policy_cluster_up", &[]),
    ("spillway_counted_resources", &[]),
    ("spillway_shared_probe_seconds", &[]),
    ("spillway_small_read_p99_seconds", &[]),
    ("spillway_small_read_seconds", &[]),
    ("spillway_stale_bytes", &[]),
    ("spillway_upstream_cpu_cores", &[]),
    ("spillway_upstream_cpu_stalled_ratio", &[]),
    ("spillway_upstream_cpu_throttled_ratio", &[]),
    ("spillway_upstream_memory_bytes", &[]),
    ("spillway_upstream_memory_limit_bytes", &[]),
    ("spillway_upstream_memory_stalled_ratio", &[]),
    ("spillway_upstream_oom_kills", &[]),
    ("spillway_watch_ramp_rate", &[]),
    ("spillway_watch_ramp_waiting", &[]),
    ("spillway_stale_total", &[CLASS]),
    (
        "spillway_sensor_seen",
        &[(
            "sensor",
            "`small_reads`, `shared_probe`, `memory`, `cpu`",
            4,
        )],
    ),
    (
        "spillway_upstream_errors_total",
        &[(
            "kind",
            "`connect`, `connect_timeout`, `tls`, `handshake`, `unreachable`, `no_stream`, `send`, `lost`",
            8,
        )],
    ),
    (
        "spillway_upstream_refusals_total",
        &[("code", "`429`, `504`", 2)],
    ),
    (
        "spillway_refused_connections_total",
        &[
            LANE,
            (
                "reason",
                "`max_connections`, `io`, `max_handshakes`, `handshake_displaced`, `max_strangers`, `stranger_displaced`",
                6,
            ),
        ],
    ),
    (
        "spillway_abusive_connections_total",
        &[
            LANE,
            ("reason", "`resets`, `control_frames`, `protocol`", 3),
        ],
    ),
    ("spillway_unread_requests_total", &[LANE]),
    (
        "spillway_config_reloads_total",
        &[("result", "`applied`, `refused`", 2)],
    ),
    (
        "spillway_log_lines_total",
        &[
            ("log", "`access`, `audit`, `stderr`", 3),
            (
                "result",
                "`written`; `dropped`; `diverted` (to standard error, because the file did not take it); of `stderr` only `dropped`",
                3,
            ),
        ],
    ),
    (
        "spillway_trace_spans_total",
        &[(
            "result",
            "`exported`, `dropped` (no room), `rejected` (by the collector)",
            3,
        )],
    ),
    (
        "spillway_traces_bounded_total",
        &[("bound", "`asked`, `most`", 2)],
    ),
    ("spillway_log_writable", &[("log", "`access`, `audit`", 2)]),
    (
        "spillway_probes_total",
        &[(
            "result",
            "`answered`, `refused` (an answer other than 200), `broken`, `timeout`, `connect_failed`",
            5,
        )],
    ),
    (
        "spillway_published_keys_fetches_total",
        &[("result", "`fetched`, `failed`", 2)],
    ),
    ("spillway_queue_delay_seconds", &[CLASS]),
    ("spillway_upstream_latency_seconds", &[CLASS]),
    ("spillway_limit_seconds", &[KIND]),
    ("spillway_ceiling_seconds", &[CLASS, KIND]),
    ("spillway_outstanding_seconds", &[CLASS, KIND]),
    ("spillway_outstanding_bytes", &[]),
    ("spillway_bytes_budget_bytes", &[]),
    ("spillway_running_requests", &[CLASS, KIND]),
    ("spillway_waiting_requests", &[CLASS, KIND]),
    ("spillway_turn_bar", &[CLASS, KIND]),
    ("spillway_level_class", &[]),
    ("spillway_level_user", &[]),
    ("spillway_probe_delay_seconds", &[]),
    ("spillway_probe_baseline_seconds", &[]),
    ("spillway_probe_target_seconds", &[]),
    (
        "spillway_tuner_state",
        &[(
            "state",
            "`hold`, `brake`, `grow`, `slow_start`, `fail_open`",
            5,
        )],
    ),
    ("spillway_mode", &[MODE]),
    ("spillway_class_mode", &[CLASS, MODE]),
    ("spillway_mode_changes", &[]),
    ("spillway_reserved_lane_check_success", &[]),
    ("spillway_reserved_lane_check_timestamp_seconds", &[]),
    ("spillway_lane_in_flight", &[LANE]),
    ("spillway_lane_in_flight_limit", &[LANE]),
    ("spillway_lane_connections", &[LANE]),
    ("spillway_lane_connections_limit", &[LANE]),
    ("spillway_lane_up", &[LANE]),
    ("spillway_tunnels", &[LANE]),
    ("spillway_upstream_up", &[]),
    ("spillway_upstream_connections", &[POOL, TRAFFIC]),
    ("spillway_upstream_streams", &[POOL, TRAFFIC]),
    (
        "spillway_certificate_expiry_timestamp_seconds",
        &[(
            "role",
            "`serving`, `front-proxy`, `client-ca`, `request-header-ca`",
            4,
        )],
    ),
    ("spillway_build_info", &[("version", "of the binary", 1)]),
    (
        "spillway_tenant_demand_cores",
        &[TENANT, MOST_OF_IT[0], MOST_OF_IT[1]],
    ),
    (
        "spillway_tenant_refused_ratio",
        &[TENANT, MOST_OF_IT[0], MOST_OF_IT[1]],
    ),
    (
        "spillway_culprit_share_ratio",
        &[
            ("tenant", "who is behind the present overload", 1),
            MOST_OF_IT[0],
            ("shape", "the request that most of its demand is", 1),
        ],
    ),
];

/// Listens to the descriptions, and registers nothing.
#[derive(Default)]
struct Described(RefCell<Vec<(String, &'static str, String)>>);

impl Described {
    fn add(&self, name: &KeyName, kind: &'static str, text: &SharedString) {
        let name = name.as_str().to_owned();
        self.0.borrow_mut().push((name, kind, text.to_string()));
    }
}

impl Recorder for Described {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.add(&name, "counter", &text);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.add(&name, "gauge", &text);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, text: SharedString) {
        self.add(&name, "histogram", &text);
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn labels_of(name: &str) -> &'static [Label] {
    let found = LABELS.iter().find(|(other, _)| *other == name);
    found.map_or(&[], |(_, labels)| labels)
}

/// All families, by name.
#[must_use]
pub fn families() -> Vec<Family> {
    let described = Described::default();
    Metrics::describe(&described);
    let mut all = described.0.into_inner();
    let tenants = tenants::FAMILIES.iter();
    all.extend(tenants.map(|(name, text)| ((*name).to_owned(), "gauge", (*text).to_owned())));
    all.sort();
    let family = |(name, kind, help): (String, &'static str, String)| {
        let labels = labels_of(&name);
        let each: usize = labels.iter().map(|(_, _, most)| most).product();
        // A histogram has its buckets, the endless one, the sum and the count.
        let series = if kind == "histogram" {
            SECONDS.len() + 3
        } else {
            1
        };
        Family {
            labels: labels.iter().map(|(label, _, _)| *label).collect(),
            most: each * series,
            name,
            kind,
            help,
        }
    };
    all.into_iter().map(family).collect()
}

/// `docs/metrics.md`.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(HEAD);
    for family in families() {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            family.name,
            family.kind,
            coded(&family.labels),
            family.help.replace('|', "\\|"),
            family.most,
        );
    }
    page.push_str(VALUES);
    let mut said: Vec<(&str, &str, Vec<&str>)> = Vec::new();
    for (name, labels) in LABELS {
        for (label, values, _) in *labels {
            let known = said
                .iter_mut()
                .find(|(one, two, _)| one == label && two == values);
            match known {
                Some((_, _, names)) => names.push(name),
                None => said.push((label, values, vec![name])),
            }
        }
    }
    said.sort_by_key(|(label, _, _)| *label);
    for (label, values, names) in said {
        let _ = writeln!(page, "| `{label}` | {values} | {} |", coded(&names));
    }
    let verbs: Vec<&str> = Verb::NAMED.iter().map(|verb| verb.as_str()).collect();
    let bounds: Vec<String> = SECONDS.iter().map(ToString::to_string).collect();
    let _ = write!(
        page,
        "\nVerbs: {}, `other`. Upper bounds of all histograms' buckets, in seconds: {}.\n",
        coded(&verbs),
        bounds.join(", "),
    );
    page
}

fn coded(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

const HEAD: &str = "# Metrics

Generated from the source; after a change of it: `UPDATE_METRICS=1 cargo test -p proxy-server --test metrics_reference`.

`http://<listen.admin>/metrics`, in Prometheus' text format. `deploy/prometheus` has the scrape job, recording rules and
alerts ([what to do about each](alerts.md)); `deploy/grafana` the dashboards. Names and labels follow Prometheus'
conventions: base units, `_total` for what only rises; `promtool check metrics` finds nothing. Counters begin at 0 when the
process starts, and most appear with their first event. No label has a value that clients can make up, save the names of
those who were verified: of these only the 20 that ask for most are told apart. \"Most\" is how many series a family can
have in one process.

| family | kind | labels | what | most |
| --- | --- | --- | --- | --- |
";

const VALUES: &str = "
## Labels

| label | values | of |
| --- | --- | --- |
";

#[cfg(test)]
mod tests {
    use super::super::zero::ALL_SHEDS;
    use super::*;

    #[test]
    fn every_family_is_described_and_its_labels_are_known() {
        let families = families();
        for family in &families {
            let known = LABELS.iter().any(|(name, _)| *name == family.name);
            assert!(known, "{}: say its labels in LABELS", family.name);
            let help = &family.help;
            assert!(help.ends_with('.'), "{}: {help}", family.name);
        }
        for (name, _) in LABELS {
            let described = families.iter().any(|family| family.name == *name);
            assert!(described, "{name} is not described");
        }
        assert_eq!(families.len(), LABELS.len());
    }

    #[test]
    fn the_reasons_of_refusals_are_those_that_are_counted() {
        for shed in ALL_SHEDS {
            let said = format!("`{}`", super::super::reason(shed));
            assert!(SHED.1.contains(&said), "{said}");
        }
        assert_eq!(ALL_SHEDS.len() + Ordered::ALL, SHED.2);
    }
}
