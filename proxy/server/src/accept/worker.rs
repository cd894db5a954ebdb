//! One worker: a thread with its own runtime, its clients' connections and its own upstream connections.

use std::net::{SocketAddr, TcpStream as StdStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::connection::Connection;
use super::endings::Endings;
use super::patience::{self, Patience};
use super::places::Places;
use super::stopping::{PACE, Stop, stopping};
use crate::account::learn::Reviews;
use crate::clock;
use crate::error::Error;
use crate::lane::Lane;
use crate::logging::Throttle;
use crate::names::Noted;
use crate::shared::{LaneState, Shared};
use crate::upstream::Upstream;

/// Sockets that may wait for a worker.
const HANDOFFS: usize = 1024;

/// How often idle upstream connections are looked for, and what there is is published.
const TIDY: Duration = Duration::from_secs(1);

/// What a worker is handed.
pub(crate) enum Handoff {
    /// A client's connection.
    Socket(StdStream, SocketAddr),
    /// Work that blocks the thread: how tests prove that lanes do not share one.
    Block(Box<dyn FnOnce() + Send>),
}

impl std::fmt::Debug for Handoff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handoff")
    }
}

/// How much a worker has to do.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    /// Answers that do not end by themselves.
    pub(crate) endless: AtomicU64,
    /// Sessions of exec, attach and port-forward.
    pub(crate) tunnels: AtomicU64,
}

impl Load {
    /// A request weighs more than an idle connection.
    pub(crate) fn weight(&self) -> u64 {
        self.requests.load(Ordering::Relaxed) * 8 + self.connections.load(Ordering::Relaxed)
    }
}

/// The way to reach a worker from other threads.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) load: Arc<Load>,
    sender: mpsc::Sender<Handoff>,
}

impl Handle {
    /// # Errors
    /// Gives nothing back when the worker's inbox is full or the worker is gone.
    pub(crate) fn hand_over(&self, handoff: Handoff) -> Result<(), ()> {
        self.sender.try_send(handoff).map_err(|_| ())
    }
}

/// A worker, as seen on its own thread.
pub(crate) struct Worker {
    pub(crate) lane: Lane,
    /// Its own, of all lanes.
    pub(crate) number: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) upstream: Upstream,
    pub(crate) load: Arc<Load>,
    pub(crate) throttle: Throttle,
    pub(crate) noted: Noted,
    pub(crate) reviews: Reviews,
    pub(crate) endings: Rc<Endings>,
    pub(crate) patience: Rc<Patience>,
    pub(crate) handshakes: Rc<Places>,
    /// Connections on which nobody has yet proved who they are.
    pub(crate) strangers: Rc<Places>,
    /// At most so many.
    pub(crate) max_strangers: u32,
    pub(crate) stop: Stop,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

impl Worker {
    pub(crate) fn lane_state(&self) -> &LaneState {
        self.shared.lane(self.lane)
    }

    fn take(self: &Rc<Self>, handoff: Handoff) {
        match handoff {
            Handoff::Socket(stream, peer) => Connection::begin(self, stream, peer),
            Handoff::Block(work) => work(),
        }
    }

    /// Takes from clients what they have kept for too long.
    fn look_at_the_waiting(&self) {
        let cut = self.patience.look(clock::now());
        if cut > 0 {
            self.shared
                .metrics
                .counter(
                    "spillway_unread_requests_total",
                    &[("lane", self.lane.name())],
                )
                .increment(cut);
        }
    }

    /// Counts a failure of the upstream.
    pub(crate) fn note(&self, error: &Error) {
        if let Error::Upstream(failure) = error {
            self.shared
                .metrics
                .counter(
                    "spillway_upstream_errors_total",
                    &[("kind", failure.kind())],
                )
                .increment(1);
            if failure.unreachable() {
                self.shared
                    .signals
                    .connect_failures
                    .fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Starts a worker thread named `name`, with room for `max_strangers`. When `stop` says so it ends what is open, takes
/// what it is still handed, and ends with its last connection once nobody can hand it any, at the latest when the time is
/// up.
///
/// # Errors
/// When the system refuses a thread or a runtime.
pub(crate) fn start(
    name: String,
    lane: Lane,
    shared: Arc<Shared>,
    max_strangers: u32,
    stop: Stop,
) -> std::io::Result<(Handle, std::thread::JoinHandle<()>)> {
    let (sender, inbox) = mpsc::channel(HANDOFFS);
    let load = Arc::new(Load::default());
    let handle = Handle {
        load: Arc::clone(&load),
        sender,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let worker = Rc::new(Worker {
            lane,
            number: shared.register_worker(),
            shared,
            upstream: Upstream::new(),
            endings: Rc::new(Endings::of(&load)),
            load,
            throttle: Throttle::default(),
            noted: Noted::default(),
            reviews: Reviews::default(),
            patience: Rc::new(Patience::new(clock::now())),
            handshakes: Rc::default(),
            strangers: Rc::default(),
            max_strangers,
            stop: stop.clone(),
        });
        LocalSet::new().block_on(&runtime, run(worker, inbox, stop));
    })?;
    Ok((handle, thread))
}

async fn run(worker: Rc<Worker>, mut inbox: mpsc::Receiver<Handoff>, mut stop: Stop) {
    let mut tidy = tokio::time::interval(TIDY);
    let mut look = tokio::time::interval(patience::LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            handoff = inbox.recv() => match handoff {
                Some(handoff) => worker.take(handoff),
                None => break,
            },
            _ = tidy.tick() => {
                worker.upstream.tidy(clock::now());
                worker.shared.publish_pools(worker.number, worker.lane, worker.upstream.count());
            }
            _ = look.tick() => worker.look_at_the_waiting(),
            _ = stopping(&mut stop) => break,
        }
    }
    drained(&worker, inbox, stop).await;
}

/// A watch that ends before this age without an event is not resumed; a second, and something for the way.
const YOUNG: Duration = Duration::from_millis(1500);

/// How often a worker that ends looks at what is left.
const LOOK: Duration = Duration::from_millis(10);

/// So many answers are ended at a look, one in [`PACE`], unless there is not the time for it.
const AT_ONCE: usize = (LOOK.as_millis() / PACE.as_millis()) as usize;

/// Ends long-running answers portion by portion, and waits until this worker's connections have ended and no more can come,
/// or the time is up.
async fn drained(worker: &Rc<Worker>, mut inbox: mpsc::Receiver<Handoff>, mut stop: Stop) {
    let first = stopping(&mut stop).await;
    let mut looks = tokio::time::interval(LOOK);
    // What was missed is not made up for all at once.
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = true;
    loop {
        tokio::select! {
            handoff = inbox.recv(), if open => match handoff {
                Some(handoff) => worker.take(handoff),
                None => open = false,
            },
            _ = looks.tick() => {
                let now = Instant::now();
                let latest = match now < first.all_asked() {
                    true => now.checked_sub(YOUNG).unwrap_or(now),
                    false => now,
                };
                let running = worker.endings.running();
                let looks = first.all_asked().saturating_duration_since(now).as_millis() / LOOK.as_millis();
                let hurried = running.div_ceil(usize::try_from(looks).unwrap_or(usize::MAX).max(1));
                worker.endings.end(hurried.max(AT_ONCE), latest);
            }
        }
        let ended = !open && worker.load.connections.load(Ordering::Relaxed) == 0;
        let tunnels = worker.load.tunnels.load(Ordering::Relaxed) > 0;
        // Asked anew each time: somebody may have lost patience.
        let deadline = stopping(&mut stop).await.deadline(tunnels);
        if ended || Instant::now() >= deadline {
            return;
        }
    }
}
