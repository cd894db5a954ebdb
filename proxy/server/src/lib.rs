//! Spillway: an adaptive admission proxy in front of kube-apiserver.
//!
//! The numbered modules are the path of a request, in order; [`handle`] is that path on one page. A module never uses a
//! later one, save that `accept` starts `handle` for each request. What is below the line serves all of them.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

mod handle; // the data path

mod accept; // 1: connections

mod identify; // 2: who is calling, from verified credentials

mod attribute; // 3: what is asked, as Kubernetes reads it

mod classify; // 4: how important it is

mod admit; // 5: now, later, or not

mod upstream; // 6: the apiserver's answer

mod account; // 7: what it took

mod error;
mod respond;

mod admin;
pub mod cli;
mod clock;
mod control;
mod explain;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod history;
mod kept;
mod lane;
mod lane_call;
mod learned;
pub mod logging;
mod measures;
pub mod metrics;
mod names;
mod overrides;
mod policy;
mod recent;
mod reserved;
pub mod run;
mod sessions;
mod shared;
mod snapshot;
mod traces;

pub use accept::handover::Predecessor;
pub use accept::sockets::{BindError, Given};
pub use identify::tls::MaterialError;
pub use snapshot::SnapshotError;
