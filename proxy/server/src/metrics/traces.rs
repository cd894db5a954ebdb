//! What is counted of traces.

/// Counters and their texts.
pub(super) const COUNTERS: [(&str, &str); 2] = [
    (
        "spillway_trace_spans_total",
        "Spans of traced requests, by what became of them.",
    ),
    (
        "spillway_traces_bounded_total",
        "Requests that were not traced because so many were, by bound.",
    ),
];
