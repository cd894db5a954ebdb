//! The conformance tests that need what a cluster without nodes does not have.

/// Tests that wait for a pod to run: their webhook, their extension apiserver or
/// the pod itself.
const NEED_NODES: [&str; 9] = [
    r"\[sig-api-machinery\] AdmissionWebhook",
    r"\[sig-api-machinery\] CustomResourceConversionWebhook",
    r"\[sig-api-machinery\] CustomResourceFieldSelectors",
    r"\[sig-api-machinery\] Aggregator",
    "should ensure that all pods are removed when a namespace is deleted",
    r"\[sig-api-machinery\] OrderedNamespaceDeletion",
    "should keep the rc around until all its pods are deleted",
    // This one and the next count pods by what the nodes can hold.
    "should orphan pods created by rc if delete options say so",
    "should not delete dependents that have both valid owner and owner",
];

/// One regular expression for all of them.
pub(super) fn needs_nodes() -> String {
    NEED_NODES.join("|")
}
