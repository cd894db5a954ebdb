//! Binding a lane's addresses and handing its sockets to workers.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tracing::warn;

use super::worker::{Handle, Handoff};
use crate::lane::Lane;
use crate::shared::Shared;

/// Connections the kernel may hold for us.
const BACKLOG: i32 = 4096;

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({what}): {source}")]
pub struct BindError {
    /// Which address.
    pub address: SocketAddr,
    /// What it was for.
    pub what: &'static str,
    /// What the system said.
    pub source: std::io::Error,
}

/// Binds `address` for `what` (named in the error).
///
/// # Errors
/// [`BindError`], for instance when something else listens there.
pub(crate) fn bind(address: SocketAddr, what: &'static str) -> Result<StdListener, BindError> {
    let listen = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    listen().map_err(|source| BindError {
        address,
        what,
        source,
    })
}

/// Accepts until `stop` changes. Runs inside a `LocalSet`.
pub(crate) async fn accept(
    listener: StdListener,
    lane: Lane,
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    max_connections: u64,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return Ok(()),
        };
        match accepted {
            Ok((stream, peer)) => hand_over(stream, peer, lane, &shared, &workers, max_connections),
            Err(error) => {
                // Out of descriptors, most likely; trying again at once would only spin.
                warn!(lane = lane.name(), %error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn hand_over(
    stream: TcpStream,
    peer: SocketAddr,
    lane: Lane,
    shared: &Shared,
    workers: &[Handle],
    max_connections: u64,
) {
    let refuse = |reason| {
        let labels = [("lane", lane.name()), ("reason", reason)];
        shared
            .metrics
            .counter("spillway_refused_connections_total", &labels)
            .increment(1);
    };
    if shared.lane(lane).connections.load(Ordering::Relaxed) >= max_connections {
        return refuse("max_connections");
    }
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(&stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(Duration::from_secs(30)));
    // The runtimes are one per thread: the socket leaves this one's and joins the worker's.
    let Ok(stream) = stream.into_std() else {
        return refuse("io");
    };
    let Some(worker) = workers.iter().min_by_key(|worker| worker.load.weight()) else {
        return refuse("no_worker");
    };
    if worker.hand_over(Handoff::Socket(stream, peer)).is_err() {
        refuse("worker_busy");
    }
}
