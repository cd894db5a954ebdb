//! Stage 1: connections. A listener thread per lane hands sockets to the least loaded worker thread.

pub(crate) mod connection;
pub(crate) mod endings;
pub(crate) mod executor;
pub(crate) mod handover;
pub(crate) mod listener;
pub(crate) mod sockets;
pub(crate) mod stopping;
pub(crate) mod tricks;
pub(crate) mod worker;
