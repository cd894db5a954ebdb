//! Stage 1: connections. A listener thread per lane hands sockets to the least loaded worker thread.

mod budget;
pub(crate) mod connection;
pub(crate) mod endings;
pub(crate) mod executor;
mod frames;
mod guard;
pub(crate) mod handover;
mod linger;
pub(crate) mod listener;
pub(crate) mod patience;
pub(crate) mod places;
pub(crate) mod sockets;
pub(crate) mod stopping;
pub(crate) mod tricks;
pub(crate) mod worker;
