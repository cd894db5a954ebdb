//! How many tunnels are open.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use crate::accept::connection::Connection;

/// Counts an open tunnel; uncounts it when dropped.
#[derive(Debug)]
pub(super) struct Tunnelled(Rc<Connection>);

impl Tunnelled {
    pub(super) fn count(connection: &Rc<Connection>) -> Self {
        let worker = &connection.worker;
        worker.lane_state().tunnels.fetch_add(1, Ordering::Relaxed);
        worker.load.tunnels.fetch_add(1, Ordering::Relaxed);
        Self(Rc::clone(connection))
    }
}

impl Drop for Tunnelled {
    fn drop(&mut self) {
        let worker = &self.0.worker;
        worker.lane_state().tunnels.fetch_sub(1, Ordering::Relaxed);
        worker.load.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}
