//! What is sent: a request as the data path would see it, classified by the default policy, and what it really takes.

use std::net::{IpAddr, Ipv4Addr};

use proxy_core::admission::Kind;
use proxy_core::admission::cost::Shape;
use proxy_core::attributes::{self, Attributes, Source, Verb};
use proxy_core::classify::{ClassId, Client, Policy};
use proxy_core::identity::Identity;

use crate::scenario::Spread;

/// Where Kubernetes' own flow control puts a request (its default objects).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flow {
    /// `system:masters` and health endpoints.
    Exempt,
    /// Leases and status of nodes.
    NodeHigh,
    /// Everything else of nodes.
    System,
    /// Leader election of the control plane.
    LeaderElection,
    /// The control plane and service accounts of kube-system.
    WorkloadHigh,
    /// All other service accounts.
    WorkloadLow,
    /// Everybody else.
    GlobalDefault,
}

/// Does it go to etcd?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Etcd {
    /// No: the watch cache answers.
    No,
    /// To ask.
    Read,
    /// To write.
    Write,
}

/// A kind of request.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its class by the default policy.
    pub class: ClassId,
    /// The bound it is held against.
    pub kind: Kind,
    /// What its cost is learned by.
    pub shape: Shape,
    /// The shape's hash.
    pub shape_hash: u64,
    /// Core time, µs; the mean.
    pub work: f64,
    /// How it is distributed.
    pub spread: Spread,
    /// Bytes of the answer, for the mean work.
    pub bytes: u64,
    /// Hops between goroutines.
    pub hops: u32,
    /// Whether etcd is asked.
    pub etcd: Etcd,
    /// A lease: its Retry-After is never above 1 s.
    pub lease: bool,
    /// A read, which clients repeat when its connection broke.
    pub read: bool,
    /// Priority level of Kubernetes' own flow control.
    pub flow: Flow,
    /// And the seats it would take there.
    pub seats: u32,
}

/// What a call takes.
#[derive(Clone, Copy, Debug)]
pub struct Takes {
    /// Core time, µs.
    pub work: f64,
    /// Distribution of it.
    pub spread: Spread,
    /// Bytes of the answer.
    pub bytes: u64,
}

/// Reads `METHOD TARGET` as `identity` sends it; `None` if the target is malformed.
#[must_use]
pub fn read(call: &str, protobuf: bool, identity: &Identity, takes: Takes) -> Option<Call> {
    let (method, target) = call.split_once(' ')?;
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    let accept = if protobuf {
        "application/vnd.kubernetes.protobuf"
    } else {
        "application/json"
    };
    let attributes = attributes::parse(method, path, query, Some(accept)).ok()?;
    let client = Client {
        user_agent: None,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let class = Policy::default_policy()
        .classify(&attributes, identity, &client)
        .class;
    let kind = Kind::of(&attributes);
    let heavy = kind == Kind::Long;
    let shape = Shape::of(&attributes, false);
    let etcd = match attributes.verb {
        _ if attributes.mutating() => Etcd::Write,
        Verb::Watch => Etcd::No,
        Verb::List if matches!(attributes.read.version, attributes::RvMode::Unset) => Etcd::Read,
        _ if attributes.is_resource && attributes.served_from() == Source::Etcd => Etcd::Read,
        _ => Etcd::No,
    };
    Some(Call {
        class,
        kind,
        shape,
        shape_hash: shape.hash(),
        work: takes.work.max(1.0),
        spread: takes.spread,
        bytes: takes.bytes,
        // With two for a probe and five for a small call this gives what was measured on a real server.
        hops: match (heavy, attributes.verb) {
            (true, _) => 1,
            (false, Verb::Watch) => 3,
            _ => 5,
        },
        etcd,
        lease: attributes.resource == "leases",
        read: !attributes.mutating(),
        flow: flow(&attributes, identity),
        seats: if heavy { seats(takes.bytes) } else { 1 },
    })
}

/// Kubernetes' default FlowSchemas.
fn flow(attributes: &Attributes<'_>, identity: &Identity) -> Flow {
    let account = identity.as_service_account();
    let in_kube_system = account.is_some_and(|account| account.namespace() == "kube-system");
    let core = matches!(
        identity.user(),
        "system:kube-controller-manager" | "system:kube-scheduler"
    );
    let lease = attributes.resource == "leases";
    if identity.in_group("system:masters") {
        Flow::Exempt
    } else if lease && (core || in_kube_system) {
        Flow::LeaderElection
    } else if identity.is_node() {
        if lease || attributes.resource == "nodes" {
            Flow::NodeHigh
        } else {
            Flow::System
        }
    } else if core || in_kube_system {
        Flow::WorkloadHigh
    } else if account.is_some() {
        Flow::WorkloadLow
    } else {
        Flow::GlobalDefault
    }
}

/// `SizeBasedListCostEstimate` (1.34): a seat per 100 kB, answers from the cache at most 1 MB.
fn seats(bytes: u64) -> u32 {
    (bytes.min(1_000_000).div_ceil(100_000)).clamp(1, 10) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKES: Takes = Takes {
        work: 1_000.0,
        spread: Spread::Fixed,
        bytes: 4_000,
    };

    #[test]
    fn calls_get_the_class_the_default_policy_gives_them() {
        let agent = Identity::service_account("monitoring", "agent", None, None, None);
        let list = read("GET /api/v1/pods?resourceVersion=0", false, &agent, TAKES).unwrap();
        assert_eq!((list.class, list.kind), (ClassId::BULK, Kind::Long));
        assert_eq!((list.flow, list.etcd), (Flow::WorkloadLow, Etcd::No));
        let node = Identity::certificate(
            "system:node:n1",
            vec!["system:nodes".into()],
            None,
            Vec::new(),
        );
        let lease = "PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
        let lease = read(lease, true, &node, TAKES).unwrap();
        assert_eq!(
            (lease.class, lease.kind),
            (ClassId::LIFE_SIGNS, Kind::Short)
        );
        assert_eq!((lease.flow, lease.etcd), (Flow::NodeHigh, Etcd::Write));
        assert!(lease.lease);
    }
}
