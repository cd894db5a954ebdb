//! Spillway's decisions, and nothing else: no sockets, no runtime, no clock, no
//! randomness. Everything here is a function of what it is given, so the proxy,
//! the simulation and the replay of an audit log decide alike.
//!
//! The modules stand in the order a request meets them, and none uses a later
//! one:
//!
//! 1. [`time`] and [`hash`]: the two measures everything else is expressed in.
//! 2. [`identity`]: who is calling, from *verified* credentials only, and who
//!    pays for it: the tenant, and the instance of it.
//! 3. [`attributes`]: what is asked, read exactly as Kubernetes reads it
//!    (RequestInfo), plus what makes it cheap or dear.
//! 4. [`classify`]: how important that is, by the first matching rule of a
//!    compiled policy.
//! 5. [`admission`]: whether it may start now, shall wait, or is refused, and
//!    what the limits become from what is measured.
//! 6. [`rollout`]: who is judged by a new policy, and whether it is given up.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod time;

pub mod hash;

mod sync;

pub mod identity;

pub mod attributes;

pub mod classify;

pub mod admission;

pub mod rollout;
