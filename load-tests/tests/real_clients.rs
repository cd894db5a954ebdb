//! Clients this project did not write, straight to a real kube-apiserver and
//! through the proxy, with the same result: client-go and controller-runtime,
//! kube-rs, the Python client, kubectl, and Kubernetes' own controllers.
//!
//! Each test is skipped, and says so in a line, on a machine that lacks what it
//! needs.

// What only the tests of `real_cluster.rs` need is not needed here.
#[allow(dead_code, unused_imports)]
#[path = "real/support.rs"]
mod support;

#[path = "real_clients/harness.rs"]
mod harness;

#[path = "real_clients/client_go.rs"]
mod client_go;
#[path = "real_clients/controllers.rs"]
mod controllers;
#[path = "real_clients/kube_rs.rs"]
mod kube_rs;
#[path = "real_clients/kubectl.rs"]
mod kubectl;
#[path = "real_clients/python.rs"]
mod python;
