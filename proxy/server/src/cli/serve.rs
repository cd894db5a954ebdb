//! `spillway run`: the sockets it serves, how it learns that it should stop, and what it tells its supervisor.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use super::{EX_CONFIG, EX_OSERR, EX_UNAVAILABLE, fail};
use crate::control::reload;
use crate::run::{self, StartError};
use crate::{Given, Predecessor, logging};

/// Every client connection, every connection to the apiserver is a descriptor; fewer than this are soon used up.
const FEW_DESCRIPTORS: u64 = 4096;

pub(super) fn run(file: PathBuf, exit_on_stdin_close: bool) -> ExitCode {
    // First of all: what nobody listens for ends the process, and who rotates logs or reloads does not know how far it is.
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(problem) => return fail(EX_OSERR, &problem),
    };
    // While this is the only thread: it changes the environment.
    let given = Given::from_environment();
    let config = match reload::read(&file) {
        Ok(config) => config,
        Err(problem) => return fail(EX_CONFIG, &problem),
    };
    let _log = logging::start(&config.log);
    raise_descriptor_limit();
    let mut given = match given {
        Ok(given) => given,
        Err(problem) => return fail(EX_UNAVAILABLE, &problem),
    };
    let mut wishes = match Wishes::new(signals, exit_on_stdin_close) {
        Ok(wishes) => wishes,
        Err(problem) => return fail(EX_OSERR, &problem),
    };
    let mut predecessor = None;
    if let (true, Some(path)) = (given.is_empty(), &config.listen.handover) {
        match Predecessor::ask(path).and_then(|found| match found {
            None => Ok(None),
            Some((found, sockets)) => given.extend(sockets).map(|()| Some(found)),
        }) {
            Ok(found) => predecessor = found,
            Err(problem) => {
                warn!(path = %path.display(), %problem, "the running process did not hand its sockets over");
            }
        }
    }
    if wishes.is_stop_wanted() {
        return not_begun();
    }
    let running = match run::start_on(config, Some(file), given) {
        Ok(running) => running,
        Err(problem @ StartError::Snapshot(_)) => return fail(EX_CONFIG, &problem),
        Err(problem @ StartError::Bind(_)) => return fail(EX_UNAVAILABLE, &problem),
        Err(problem @ StartError::System(_)) => return fail(EX_OSERR, &problem),
    };
    if let Some(predecessor) = predecessor {
        // Once it is relieved nobody would be left.
        if wishes.is_stop_wanted() {
            running.stop();
            return not_begun();
        }
        if let Err(problem) = predecessor.relieve() {
            warn!(%problem, "the process before this one did not say that it accepts nothing any more");
        }
        tell(&[NotifyState::MainPid(std::process::id())]);
    }
    tell(&[NotifyState::Ready]);
    match wishes.wait(running.relieved()) {
        Wish::Stop => {
            info!("stopping");
            tell(&[NotifyState::Stopping]);
            running.stop();
        }
        // Nothing to the supervisor: for it, the successor is this service now.
        Wish::Retire => {
            info!("retiring");
            running.retire(|| wishes.is_stop_wanted());
        }
    }
    info!("stopped");
    ExitCode::SUCCESS
}

fn not_begun() -> ExitCode {
    info!("stopped before it was up");
    ExitCode::SUCCESS
}

/// Whoever started us by systemd's protocol learns it; nobody else is there to.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(problem) = sd_notify::notify(state) {
        warn!(%problem, "the supervisor could not be told");
    }
}

/// The soft limit is 1024 by custom, for the sake of programs that use `select`.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(problem) = setrlimit(Resource::Nofile, raised) {
        warn!(%problem, "the limit of open files could not be raised");
    }
    let now = getrlimit(Resource::Nofile).current;
    if let Some(limit) = now.filter(|limit| *limit < FEW_DESCRIPTORS) {
        warn!(
            limit,
            "few files may be open; each connection is one (LimitNOFILE, ulimit -n)"
        );
    }
}

/// What somebody wants of this process.
enum Wish {
    Stop,
    Retire,
}

/// The signals of this process; one that came is remembered until it is asked for.
struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    replace: Signal,
    reopen: Signal,
}

impl Signals {
    /// Starts no thread.
    fn listen() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listen = |kind| {
            let _inside = runtime.enter();
            signal(kind)
        };
        // The reloader listens for itself. Until it does nothing is lost: it compares with what was read at the start.
        drop(listen(SignalKind::hangup())?);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            replace: listen(SignalKind::user_defined2())?,
            reopen: listen(SignalKind::user_defined1())?,
            runtime,
        })
    }
}

/// How somebody says so.
struct Wishes {
    signals: Signals,
    stdin: mpsc::Receiver<()>,
}

impl Wishes {
    fn new(signals: Signals, exit_on_stdin_close: bool) -> std::io::Result<Self> {
        let (closed, stdin) = mpsc::channel::<()>(1);
        if exit_on_stdin_close {
            std::thread::Builder::new()
                .name("stdin".to_owned())
                .spawn(move || {
                    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
                    drop(closed);
                })?;
        } else {
            std::mem::forget(closed);
        }
        Ok(Self { signals, stdin })
    }

    fn wait(&mut self, mut relieved: watch::Receiver<bool>) -> Wish {
        let Self {
            signals:
                Signals {
                    runtime,
                    terminate,
                    interrupt,
                    replace,
                    reopen,
                },
            stdin,
        } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => return Wish::Stop,
                    _ = interrupt.recv() => return Wish::Stop,
                    _ = stdin.recv() => return Wish::Stop,
                    Ok(_) = relieved.wait_for(|relieved| *relieved) => return Wish::Retire,
                    _ = replace.recv() => start_successor(),
                    _ = reopen.recv() => logging::reopen(),
                }
            }
        })
    }

    /// Whether a process that starts or retires is to stop at once.
    fn is_stop_wanted(&mut self) -> bool {
        let Self {
            signals:
                Signals {
                    runtime,
                    terminate,
                    interrupt,
                    reopen,
                    ..
                },
            stdin,
        } = self;
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                _ = stdin.recv() => true,
                _ = reopen.recv() => {
                    logging::reopen();
                    false
                }
                () = tokio::time::sleep(Duration::from_millis(1)) => false,
            }
        })
    }
}

/// The same command line once more, which may by now be another binary. It takes over by `listen.handover`; until it has,
/// nothing changes here.
fn start_successor() {
    let mut arguments = std::env::args_os();
    let Some(program) = arguments.next() else {
        return;
    };
    match Command::new(&program).args(arguments).spawn() {
        Err(problem) => {
            error!(program = %program.display(), %problem, "the successor did not start");
        }
        Ok(mut successor) => {
            info!(pid = successor.id(), "a successor was started");
            // Should it fail, somebody has to take note; should it live, it outlives us.
            let waiting = std::thread::Builder::new().name("successor".to_owned());
            let _ = waiting.spawn(move || {
                if let Ok(status) = successor.wait() {
                    error!(%status, "the successor ended");
                }
            });
        }
    }
}
