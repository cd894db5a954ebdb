//! Composition: from a configuration to running threads, and back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use config::Config;
use proxy_core::admission::Engine;
use tokio::sync::watch;
use tokio::task::LocalSet;
use tracing::{error, info, warn};

use crate::accept::handover::Offer;
use crate::accept::listener;
use crate::accept::places;
use crate::accept::sockets::{BindError, Given};
use crate::accept::stopping::{Stop, Stopping};
use crate::accept::worker::{self, Handoff};
use crate::account::access::Access;
use crate::admin::inherit;
use crate::admin::socket::AdminSocket;
use crate::control::{self, reload::Reloader};
use crate::lane::Lane;
use crate::learned;
use crate::logging::{self, Writing};
use crate::metrics::Metrics;
use crate::shared::Shared;
use crate::snapshot::{Snapshot, SnapshotError};
use crate::{admin, clock, policy};

/// How long tunnels may go on in a process whose successor serves everything else: nobody waits for it.
const TUNNELS_AFTER_HANDOVER: Duration = Duration::from_secs(3600);

/// How often a stopping process looks whether what does not end by itself has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration parsed, but cannot be used.
    #[error("the configuration cannot be used: {0}")]
    Snapshot(#[from] SnapshotError),
    /// An address is taken or not this machine's.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system refused a thread, a runtime or memory.
    #[error("the system refused to start a thread: {0}")]
    System(#[from] std::io::Error),
}

/// A running proxy. Dropping it stops it as [`Running::stop`] does.
#[derive(Debug)]
pub struct Running {
    main: Vec<SocketAddr>,
    reserved: Vec<SocketAddr>,
    admin: SocketAddr,
    shared: Arc<Shared>,
    grace: Duration,
    /// Accept nothing more.
    close: watch::Sender<bool>,
    /// End what is open.
    stop: watch::Sender<Option<Stopping>>,
    /// A successor serves the sockets.
    relieved: watch::Receiver<bool>,
    workers: Vec<worker::Handle>,
    loads: Vec<Arc<worker::Load>>,
    threads: Vec<JoinHandle<()>>,
    /// Ends last, with what the others had to say.
    access_log: Option<Writing>,
}

/// Reads every file `config` names, binds every address and starts all threads. `file` is where `config` came from; it
/// is watched for changes.
///
/// The apiserver need not be up: until it is, calls get 503 with Retry-After.
///
/// # Errors
/// [`StartError`]; nothing keeps running then.
pub fn start(config: Config, file: Option<PathBuf>) -> Result<Running, StartError> {
    start_on(config, file, Given::default())
}

/// As [`start`], on the sockets of `given` where the configuration names their addresses.
///
/// # Errors
/// [`StartError`]; nothing keeps running then.
pub fn start_on(
    config: Config,
    file: Option<PathBuf>,
    mut given: Given,
) -> Result<Running, StartError> {
    let metrics = Arc::new(Metrics::new().map_err(std::io::Error::other)?);
    let reloader = Reloader::new(file, &config);
    let snapshot = Snapshot::load(config, 1, &metrics)?;
    let listen = snapshot.config.listen.clone();
    let reserved_connections = u64::from(snapshot.config.reserved.max_connections);
    let mut bind = |addresses: &[SocketAddr], what| -> Result<Vec<_>, BindError> {
        addresses
            .iter()
            .map(|address| given.listen(*address, what))
            .collect()
    };
    let main_sockets = bind(&listen.main, "listen.main")?;
    let reserved_sockets = bind(&listen.reserved, "listen.reserved")?;
    let admin_socket = given.listen(listen.admin, "listen.admin")?;
    for address in given.unclaimed() {
        warn!(%address, "a listening socket was passed to this process that the configuration does not name; closed");
    }
    drop(given);
    let offer = match &listen.handover {
        Some(path) => {
            let sockets = main_sockets.iter().chain(&reserved_sockets);
            Some(Offer::new(path, sockets.chain([&admin_socket]))?)
        }
        None => None,
    };
    let addresses = |sockets: &[std::net::TcpListener]| -> std::io::Result<Vec<SocketAddr>> {
        sockets
            .iter()
            .map(std::net::TcpListener::local_addr)
            .collect()
    };
    let (main, reserved) = (addresses(&main_sockets)?, addresses(&reserved_sockets)?);
    let admin = admin_socket.local_addr()?;

    let engine = Arc::new(Engine::new(snapshot.settings.clone(), clock::now()));
    let (access, access_log) = logging::access(&snapshot.config.log)?.unzip();
    let access = access.map(|lines| Access::new(lines, &snapshot.config.log.access));
    let shared = Arc::new(Shared::new(snapshot, engine, metrics, access));
    remember(&shared);
    policy::restore(&shared);
    let (close, closed) = watch::channel(false);
    let (stop, stopping) = watch::channel(None);
    let (relieve, relieved) = watch::channel(false);
    let mut running = Running {
        main,
        reserved,
        admin,
        shared: Arc::clone(&shared),
        grace: listen.grace,
        close,
        stop,
        relieved,
        workers: Vec::new(),
        loads: Vec::new(),
        threads: Vec::new(),
        access_log,
    };

    let control_stop = closed.clone();
    running.thread("control", {
        let (shared, reserved) = (Arc::clone(&shared), running.reserved.clone());
        move || async move {
            control::run(shared, reloader, reserved, control_stop).await;
            Ok(())
        }
    })?;
    running.thread("admin", {
        let (shared, stop) = (Arc::clone(&shared), closed.clone());
        move || admin::serve(admin_socket, shared, stop)
    })?;
    let workers = match listen.workers {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().min(8)),
        workers => workers,
    };
    running.lane(
        Lane::Main,
        workers,
        main_sockets,
        &shared,
        u64::from(listen.max_connections),
        (&closed, &stopping),
    )?;
    running.lane(
        Lane::Reserved,
        1,
        reserved_sockets,
        &shared,
        reserved_connections,
        (&closed, &stopping),
    )?;
    running.commands(&shared, &closed)?;
    if let Some(offer) = offer {
        running.thread("handover", move || hand_over(offer, relieve, closed))?;
    }
    info!(main = ?running.main, reserved = ?running.reserved, admin = %running.admin, workers, "spillway is up");
    Ok(running)
}

/// What the process before this one knew: as it says itself, or else as it kept it.
fn remember(shared: &Shared) {
    let snapshot = shared.snapshot.load();
    let told = snapshot.config.admin.socket.as_deref();
    let told = told
        .and_then(inherit::learned)
        .and_then(|learned| learned.teach(&shared.costs, clock::unix_seconds()).ok());
    if let Some(shapes) = told {
        info!(shapes, "costs are known from the process before this one");
    } else if let Some(folder) = &snapshot.config.admission.state {
        learned::load(folder, &shared.costs);
    }
    // Those that were kept are in force from the first request on.
    shared.change_mode(|_| ());
}

impl Running {
    /// Addresses of the main lane, as bound.
    #[must_use]
    pub fn main(&self) -> &[SocketAddr] {
        &self.main
    }

    /// Addresses of the reserved lane, as bound.
    #[must_use]
    pub fn reserved(&self) -> &[SocketAddr] {
        &self.reserved
    }

    /// The admin address, as bound.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Blocks every worker thread of the main lane until the returned guard is dropped. For tests: it proves that the
    /// other lane does not depend on this one.
    #[must_use]
    pub fn block_main_lane(&self) -> Vec<std::sync::mpsc::Sender<()>> {
        let mut guards = Vec::new();
        for worker in &self.workers {
            let (guard, released) = std::sync::mpsc::channel();
            let block = Handoff::Block(Box::new(move || {
                let _ = released.recv();
            }));
            if worker.hand_over(block).is_ok() {
                guards.push(guard);
            }
        }
        guards
    }

    /// Turns true when a successor has taken the listening sockets over; then call [`Running::retire`].
    #[must_use]
    pub fn relieved(&self) -> watch::Receiver<bool> {
        self.relieved.clone()
    }

    /// Stops and waits for all threads, at most `listen.grace`: is not ready any more and ends what does not end by itself,
    /// while new connections are still served; then accepts nothing more, and finishes what is under way.
    pub fn stop(mut self) {
        self.end();
    }

    /// As [`Running::stop`], when a successor accepts the connections: nothing is accepted here from now on, and tunnels
    /// may go on for an hour, unless `hurry`, which is asked now and then, says true.
    pub fn retire(mut self, mut hurry: impl FnMut() -> bool) {
        self.begin_to_end(TUNNELS_AFTER_HANDOVER);
        self.close();
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if hurry() {
                self.stop
                    .send_replace(Some(Stopping::now(self.grace, Duration::ZERO)));
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.end();
    }

    fn begin_to_end(&self, tunnels: Duration) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            if first {
                *stop = Some(Stopping::now(self.grace, tunnels));
            }
            first
        });
    }

    fn close(&mut self) {
        self.workers.clear();
        let _ = self.close.send(true);
    }

    fn end(&mut self) {
        self.begin_to_end(Duration::ZERO);
        let all_asked = self.stop.borrow().map(|stopping| stopping.all_asked());
        let endless = |load: &Arc<worker::Load>| {
            load.endless.load(Ordering::Relaxed) + load.tunnels.load(Ordering::Relaxed) > 0
        };
        while !*self.close.borrow()
            && self.loads.iter().any(endless)
            && all_asked.is_some_and(|moment| tokio::time::Instant::now() < moment)
        {
            std::thread::sleep(LOOK);
        }
        self.close();
        let first = !self.threads.is_empty();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        // The control thread puts in force what others keep, and may have ended before they could.
        if first && !*self.relieved.borrow() {
            self.shared.policies.keep();
        }
        // A successor has learned on from what it was told, and keeps that.
        let state = self.shared.snapshot.load().config.admission.state.clone();
        if let Some(folder) = state.filter(|_| first && !*self.relieved.borrow())
            && let Err(problem) = learned::save(&folder, &self.shared.costs)
        {
            warn!(%problem, "what was learned about costs could not be kept");
        }
        if first {
            control::traces::flush(&self.shared);
        }
        drop(self.access_log.take());
    }

    /// Serves the commands. Last of all, so that a predecessor serves them until this process does; without the socket the
    /// proxy does its work all the same.
    fn commands(
        &mut self,
        shared: &Arc<Shared>,
        close: &watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let admin = shared.snapshot.load().config.admin.clone();
        let Some(path) = &admin.socket else {
            return Ok(());
        };
        if let Some(inherited) = inherit::mode_changes(path) {
            if !inherited.is_empty() {
                warn!(
                    changes = inherited.len(),
                    "changes of the mode made at run time are taken over from the process before this one"
                );
            }
            shared.change_mode(|changes| *changes = inherited);
            if let Err(problem) = shared.overrides.save() {
                error!(%problem, "changes of the mode could not be kept");
            }
        }
        match AdminSocket::bind(path, admin.group.as_deref()) {
            Err(problem) => {
                error!(%problem, "no admin socket: the commands (`spillway top`, `mode`, `explain`, …) will not work");
                Ok(())
            }
            Ok(socket) => {
                info!(path = %socket.path().display(), "commands are served");
                let (shared, stop) = (Arc::clone(shared), close.clone());
                self.thread("commands", move || socket.serve(shared, stop))
            }
        }
    }

    /// Starts a thread with a runtime that runs `work` to its end.
    fn thread<F, W>(&mut self, name: &'static str, work: F) -> std::io::Result<()>
    where
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = std::io::Result<()>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                if let Err(problem) = LocalSet::new().block_on(&runtime, async { work().await }) {
                    error!(thread = name, %problem, "a thread ended");
                }
            })?;
        self.threads.push(thread);
        Ok(())
    }

    fn lane(
        &mut self,
        lane: Lane,
        workers: usize,
        sockets: Vec<std::net::TcpListener>,
        shared: &Arc<Shared>,
        max_connections: u64,
        (close, stop): (&watch::Receiver<bool>, &Stop),
    ) -> std::io::Result<()> {
        if sockets.is_empty() {
            return Ok(());
        }
        let strangers = places::max_strangers(max_connections, workers);
        let mut handles = Vec::new();
        for number in 0..workers.max(1) {
            let name = format!("{}-{number}", lane.name());
            let shared = Arc::clone(shared);
            let (handle, thread) = worker::start(name, lane, shared, strangers, stop.clone())?;
            self.loads.push(Arc::clone(&handle.load));
            handles.push(handle);
            self.threads.push(thread);
        }
        if lane == Lane::Main {
            self.workers.clone_from(&handles);
        }
        let name = match lane {
            Lane::Main => "accept-main",
            Lane::Reserved => "accept-reserved",
        };
        let (shared, stop) = (Arc::clone(shared), close.clone());
        self.thread(name, move || async move {
            let accepting = sockets.into_iter().map(|socket| {
                let (shared, handles, stop) = (Arc::clone(&shared), handles.clone(), stop.clone());
                tokio::task::spawn_local(listener::accept(
                    socket,
                    lane,
                    shared,
                    handles,
                    max_connections,
                    stop,
                ))
            });
            let accepting: Vec<_> = accepting.collect();
            shared.lane(lane).up.store(1, Ordering::Relaxed);
            let mut result = Ok(());
            for socket in accepting {
                result = socket
                    .await
                    .unwrap_or_else(|problem| Err(std::io::Error::other(problem)));
            }
            shared.lane(lane).up.store(0, Ordering::Relaxed);
            result
        })
    }
}

/// Offers the sockets to a successor, and tells when there is one.
async fn hand_over(
    offer: Offer,
    relieve: watch::Sender<bool>,
    mut close: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let Some(successor) = offer.serve(&mut close).await? else {
        return Ok(());
    };
    info!("a successor serves the listening sockets");
    let _ = relieve.send(true);
    let _ = close.wait_for(|close| *close).await;
    successor.done().await;
    Ok(())
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}
