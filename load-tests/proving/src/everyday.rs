//! The everyday life of a cluster: signs of life as its size demands, and everything else as large as is wished.

use std::time::Duration;

use crate::scenario::{Clients, Demand, Empty, Informer, Leader, Patience, Scenario, Spread, Who};
use crate::units::{Size, Span};

const MS: Duration = Duration::from_millis(1);
/// Core time of a lease renewal and of a status report.
const LEASE: Duration = Duration::from_micros(1_200);
const STATUS: Duration = Duration::from_millis(4);

/// Name, share of what the signs of life leave, core time of one in µs, who, what.
type Everyday = (&'static str, f64, u64, fn() -> Who, &'static str);

const REST: [Everyday; 9] = [
    (
        "controllers",
        0.20,
        2_000,
        controller,
        "PATCH /apis/apps/v1/namespaces/shop/deployments/web/status",
    ),
    (
        "scheduler",
        0.10,
        1_500,
        scheduler,
        "POST /api/v1/namespaces/shop/pods/web-0/binding",
    ),
    (
        "operators",
        0.03,
        2_000,
        operator,
        "GET /api/v1/namespaces/shop/pods/web-0",
    ),
    (
        "reserved",
        0.01,
        2_000,
        admin,
        "GET /api/v1/namespaces/shop/pods/web-0",
    ),
    (
        "kubelet-reads",
        0.14,
        1_000,
        node,
        "GET /api/v1/namespaces/shop/configmaps/web",
    ),
    (
        "pod-status",
        0.17,
        2_000,
        node,
        "PATCH /api/v1/namespaces/shop/pods/web-0/status",
    ),
    (
        "workload-writes",
        0.15,
        2_000,
        workload,
        "PUT /api/v1/namespaces/shop/configmaps/web",
    ),
    (
        "workload-reads",
        0.12,
        10_000,
        workload,
        "GET /api/v1/namespaces/shop/pods?resourceVersion=0",
    ),
    (
        "gitops",
        0.08,
        40_000,
        gitops,
        "GET /api/v1/configmaps?resourceVersion=0",
    ),
];

fn controller() -> Who {
    Who::ServiceAccount("kube-system/deployment-controller".into())
}

fn scheduler() -> Who {
    Who::User("system:kube-scheduler".into())
}

fn operator() -> Who {
    Who::User("alice".into())
}

fn admin() -> Who {
    Who::Admin("on-call".into())
}

const fn node() -> Who {
    Who::Node
}

fn workload() -> Who {
    Who::ServiceAccount("shop/web".into())
}

fn gitops() -> Who {
    Who::ServiceAccount("gitops/agent".into())
}

fn clients(name: &str, who: Who, call: &str, work: Duration, demand: Demand) -> Clients {
    Clients {
        name: name.into(),
        who,
        call: call.into(),
        protobuf: true,
        work: Some(Span(work)),
        bytes: None,
        objects: None,
        all_pods: false,
        spread: Spread::Fixed,
        demand,
        count: None,
        per_node: None,
        tenants: 1,
        patience: Patience::ClientGo,
        gives_up: None,
        in_time: None,
        reads_for: Span::default(),
        from: Span::default(),
        until: None,
        within: None,
        reserved: false,
        culprit: false,
    }
}

/// What every cluster of this size has; nothing if it has no nodes.
fn of_nodes(nodes: u64) -> Vec<Clients> {
    let minute = Duration::from_secs(60);
    let lease = "PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n";
    let informer = || {
        Demand::Informer(Informer {
            starts_with_list: false,
        })
    };
    let leader = |relist: Option<&str>| {
        Demand::Leader(Leader {
            relist: relist.map(Into::into),
        })
    };
    let election = |name: &str| {
        format!("PUT /apis/coordination.k8s.io/v1/namespaces/kube-system/leases/{name}")
    };
    let account = |name: &str| Who::ServiceAccount(name.into());
    let mut all = vec![
        clients(
            "leases",
            Who::Node,
            lease,
            LEASE,
            Demand::Heartbeat(Empty {}),
        ),
        Clients {
            in_time: Some(Span(10 * minute / 60)),
            ..clients(
                "node-status",
                Who::Node,
                "PATCH /api/v1/nodes/n/status",
                STATUS,
                Demand::Every(Span(5 * minute)),
            )
        },
        // What is only felt when watches break.
        Clients {
            per_node: Some(4),
            ..clients(
                "kubelet-informers",
                Who::Node,
                "GET /api/v1/services?resourceVersion=0",
                3 * MS,
                informer(),
            )
        },
        Clients {
            per_node: Some(2),
            ..clients(
                "data-plane-informers",
                account("kube-system/kube-proxy"),
                "GET /apis/discovery.k8s.io/v1/endpointslices?resourceVersion=0",
                5 * MS,
                informer(),
            )
        },
        Clients {
            count: Some(30),
            work: None,
            all_pods: true,
            in_time: Some(Span(minute)),
            ..clients(
                "controller-informers",
                Who::User("system:kube-controller-manager".into()),
                "GET /api/v1/pods?resourceVersion=0",
                MS,
                informer(),
            )
        },
        clients(
            "leader-controllers",
            Who::User("system:kube-controller-manager".into()),
            &election("kube-controller-manager"),
            LEASE,
            leader(Some("controller-informers")),
        ),
        Clients {
            count: Some(6),
            ..clients(
                "leader-operators",
                account("shop/operator"),
                &election("op"),
                LEASE,
                leader(None),
            )
        },
    ];
    for clients in &mut all {
        // Small collections are sent as they are.
        if clients.bytes.is_none() && clients.name.ends_with("-informers") && !clients.all_pods {
            clients.bytes = Some(Size(200 << 10));
        }
    }
    if nodes == 0 {
        all.clear();
    }
    all
}

/// Everyday clients of a scenario.
pub(crate) fn of(scenario: &Scenario) -> Vec<Clients> {
    let cluster = &scenario.cluster;
    let mut all = of_nodes(cluster.nodes);
    let nodes = cluster.nodes as f64;
    let signs = nodes * (LEASE.as_secs_f64() / 10.0 + STATUS.as_secs_f64() / 300.0);
    let left = (cluster.everyday - signs / scenario.server.cores as f64).max(0.0);
    if left > 0.0 {
        for (name, share, work, who, call) in REST {
            let bytes = if work >= 10_000 { work * 60 } else { 4_000 };
            all.push(Clients {
                bytes: Some(Size(bytes)),
                reserved: name == "reserved",
                // As many pods, or one that repeats itself would be taken for all of them.
                count: (!matches!(who(), Who::Node)).then_some(20),
                // Three of each, or fairness between tenants would have nothing to do.
                tenants: if matches!(who(), Who::ServiceAccount(_)) && name.starts_with("workload")
                {
                    3
                } else {
                    1
                },
                ..clients(
                    name,
                    who(),
                    call,
                    Duration::from_micros(work),
                    Demand::Load(left * share),
                )
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_the_rest_are_a_whole() {
        let sum: f64 = REST.iter().map(|(_, share, ..)| share).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    }
}
