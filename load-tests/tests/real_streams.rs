//! exec, attach, cp, port-forward and logs with the real kubectl, straight to a
//! real kube-apiserver and through the proxy: what works without it must work
//! with it, over WebSocket and over SPDY, for a certificate and for a token.
//!
//! The apiserver passes these on to the fake kubelet of the control plane (see
//! `load-tests/kube-apiserver/kubelet.go`). Each test is skipped, and says so
//! in a line, on a machine without a control plane or without kubectl.

// What only the tests of `real_cluster.rs` need is not needed here.
#[allow(dead_code, unused_imports)]
#[path = "real/support.rs"]
mod support;

#[path = "real_streams/harness.rs"]
mod harness;

#[path = "real_streams/copy.rs"]
mod copy;
#[path = "real_streams/endings.rs"]
mod endings;
#[path = "real_streams/exec.rs"]
mod exec;
#[path = "real_streams/logs.rs"]
mod logs;
#[path = "real_streams/port_forward.rs"]
mod port_forward;
#[path = "real_streams/terminal.rs"]
mod terminal;
