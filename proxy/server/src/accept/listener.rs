//! Accepting a lane's connections and handing them to workers.

use std::net::{SocketAddr, TcpListener as StdListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::TcpKeepalive;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::warn;

use super::worker::{Handle, Handoff};
use crate::lane::Lane;
use crate::shared::Shared;

/// Accepts until `stop` turns true, and then what is in the queue already: closing it would reset those connections. Runs
/// inside a `LocalSet`.
pub(crate) async fn accept(
    listener: StdListener,
    lane: Lane,
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    max_connections: u64,
    mut stop: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let hand_over =
        |stream, peer| hand_over(stream, peer, lane, &shared, &workers, max_connections);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => hand_over(stream.into_std(), peer),
            Err(error) => {
                // Out of descriptors, most likely; trying again at once would only spin.
                warn!(lane = lane.name(), %error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let listener = listener.into_std()?;
    while let Ok((stream, peer)) = listener.accept() {
        hand_over(stream.set_nonblocking(true).map(|()| stream), peer);
    }
    Ok(())
}

/// The runtimes are one per thread: a socket leaves the one it was accepted on and joins the worker's.
fn hand_over(
    stream: std::io::Result<TcpStream>,
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
    let Ok(stream) = stream else {
        return refuse("io");
    };
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(&stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(Duration::from_secs(30)));
    let Some(worker) = workers.iter().min_by_key(|worker| worker.load.weight()) else {
        return refuse("no_worker");
    };
    if worker.hand_over(Handoff::Socket(stream, peer)).is_err() {
        refuse("worker_busy");
    }
}
