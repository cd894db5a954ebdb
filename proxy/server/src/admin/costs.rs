//! What requests are taken to cost, by shape: for whoever wonders why one waits, and for judging the model.

use proxy_core::admission::Cost;
use proxy_core::admission::cost::{Encoding, Scope, Source, Verb};
use serde_json::{Value, json};

use crate::shared::Shared;

/// `{"shapes": […]}`, the dearest first.
pub(super) fn page(shared: &Shared) -> Value {
    let mut known = shared.costs.known();
    known.sort_unstable_by_key(|known| std::cmp::Reverse(known.estimate.work_us));
    let shapes: Vec<Value> = known
        .iter()
        .map(|known| {
            let shape = &known.shape;
            json!({
                "shape": &*shared.names.of(shape.hash()),
                "verb": match shape.verb {
                    Verb::Get => "get",
                    Verb::List => "list",
                    Verb::WatchInitial => "watch from the beginning",
                    Verb::WatchResume => "watch",
                    Verb::Write => "write",
                    Verb::DeleteCollection => "deletecollection",
                    Verb::Other => "other",
                },
                "scope": match shape.scope {
                    Scope::Object => "object",
                    Scope::Namespace => "namespace",
                    Scope::Cluster => "cluster",
                },
                "from": match shape.source {
                    Source::Cache => "cache",
                    Source::Etcd => "etcd",
                },
                "encoding": match shape.encoding {
                    Encoding::Json => "json",
                    Encoding::Protobuf => "protobuf",
                    Encoding::Metadata => "metadata",
                    Encoding::Table => "table",
                },
                "gzip": shape.gzip,
                "selector": shape.selector,
                "limit": shape.limit,
                "seen": known.seen,
                "prior": cost(known.prior),
                "estimate": cost(known.estimate),
            })
        })
        .collect();
    json!({ "shapes": shapes })
}

fn cost(cost: Cost) -> Value {
    json!({ "work_seconds": cost.work().as_secs_f64(), "bytes": cost.bytes })
}
