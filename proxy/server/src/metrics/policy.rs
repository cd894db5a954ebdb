//! What is counted of policies that are staged or delivered.

/// Counters and their texts.
pub(super) const COUNTERS: [(&str, &str); 5] = [
    (
        "spillway_policy_moved_total",
        "Requests that a new policy puts into another class, by old and new class.",
    ),
    (
        "spillway_policy_limit_differences_total",
        "Requests about which the limits of a policy in shadow say otherwise, by difference.",
    ),
    (
        "spillway_policy_guarded_total",
        "Requests of protected classes while a new policy is tried, by the policy that judged them and outcome.",
    ),
    (
        "spillway_policy_returns_total",
        "New policies given up because of what became of protected classes, by what there was too much of.",
    ),
    (
        "spillway_policy_cluster_updates_total",
        "Contents of the policy ConfigMap, by what became of them.",
    ),
];

/// Gauges and their texts.
pub(super) const GAUGES: [(&str, &str); 5] = [
    (
        "spillway_policy_stage",
        "1 for where the roll-out of a policy stands.",
    ),
    (
        "spillway_policy_candidate_ratio",
        "Share of tenants that are judged by the candidate.",
    ),
    (
        "spillway_policy_digest",
        "The beginning of a policy's SHA-256 as a number, to compare nodes by; 0 = the configuration alone.",
    ),
    (
        "spillway_policy_kept",
        "1 unless the copy on disk is not the last one (`policy.file`).",
    ),
    (
        "spillway_policy_cluster_up",
        "1 unless the policy ConfigMap cannot be read or used (`policy.from_cluster`).",
    ),
];
