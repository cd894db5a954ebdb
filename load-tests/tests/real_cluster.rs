//! The proxy in front of a real kube-apiserver: what clients, operators and
//! attackers see of it.
//!
//! One binary, so that one control plane serves most of the tests. Each test is
//! skipped, and says so in a line, on a machine that has none.

#[path = "real/support.rs"]
mod support;

#[path = "real/certificates.rs"]
mod certificates;
#[path = "real/conformance.rs"]
mod conformance;
#[path = "real/console.rs"]
mod console;
#[path = "real/frames.rs"]
mod frames;
#[path = "real/identity.rs"]
mod identity;
#[path = "real/informers.rs"]
mod informers;
#[path = "real/install.rs"]
mod install;
#[path = "real/issuers.rs"]
mod issuers;
#[path = "real/kubectl.rs"]
mod kubectl;
#[path = "real/limits.rs"]
mod limits;
#[path = "real/operators.rs"]
mod operators;
#[path = "real/outage.rs"]
mod outage;
#[path = "real/policies.rs"]
mod policies;
#[path = "real/quarantine.rs"]
mod quarantine;
#[path = "real/reload.rs"]
mod reload;
#[path = "real/request_header.rs"]
mod request_header;
#[path = "real/reserved_lane.rs"]
mod reserved_lane;
#[path = "real/shedding.rs"]
mod shedding;
#[path = "real/slow_readers.rs"]
mod slow_readers;
#[path = "real/smuggling.rs"]
mod smuggling;
#[path = "real/spoofing.rs"]
mod spoofing;
#[path = "real/upgrade.rs"]
mod upgrade;
#[path = "real/watches.rs"]
mod watches;
