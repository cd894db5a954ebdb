//! What the host shows of the apiserver: its memory, its processor time and how long it waits for either.
//!
//! Files under `/proc` and `/sys/fs/cgroup`, read on a thread of their own: a host that is out of memory may keep a reader
//! waiting, and that must not be the control loop. What has not been read for [`FRESH`] is not known any more, and what is
//! not known bounds nothing.

pub(crate) mod cgroup;
pub(crate) mod find;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use config::CgroupSource;
use proxy_core::admission::Memory;
use proxy_core::time::Time;
use tracing::info;

use crate::clock;
use crate::shared::Shared;
use cgroup::Cgroup;
use find::Process;

/// Between readings while large answers are under way, and otherwise.
const BUSY: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(1);
/// What changes slowly or only informs is read this often.
const SLOW: Duration = Duration::from_secs(1);
/// A reading older than this says nothing.
const FRESH: Duration = Duration::from_secs(3);
/// After a search in vain; doubles up to [`LAST_SEARCH`].
const FIRST_SEARCH: Duration = Duration::from_secs(2);
const LAST_SEARCH: Duration = Duration::from_secs(60);

/// Where the kernel shows its files; elsewhere in tests.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    pub(crate) proc: PathBuf,
    pub(crate) cgroup: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            proc: "/proc".into(),
            cgroup: "/sys/fs/cgroup".into(),
        }
    }
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// The bound that leaves least room, and what is used of it.
    pub(crate) memory: Option<Memory>,
    /// Processes of it that were killed for want of memory, since its cgroup exists.
    pub(crate) oom_kills: Option<u64>,
    /// Cores it kept busy since the last slow reading.
    pub(crate) cores: Option<f64>,
    /// Share of that time in which its quota held it back.
    pub(crate) throttled: Option<f64>,
    /// Share of the last ten seconds in which some of its threads waited for a core.
    pub(crate) cpu_stalled: Option<f64>,
}

/// The last reading, for whoever asks.
#[derive(Debug, Default)]
pub(crate) struct Sensed(Mutex<Option<(Time, Reading)>>);

impl Sensed {
    fn set(&self, reading: Option<Reading>) {
        if let Ok(mut last) = self.0.lock() {
            *last = reading.map(|reading| (clock::now(), reading));
        }
    }

    /// What is known at `now`.
    pub(crate) fn get(&self, now: Time) -> Option<Reading> {
        let last = self.0.lock().ok()?;
        let (at, reading) = (*last)?;
        (now.saturating_since(at) < FRESH).then_some(reading)
    }
}

/// The thread that reads; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts reading. `None` when the system refuses the thread: then nothing is known.
pub(crate) fn start(shared: &Arc<Shared>) -> Option<Reader> {
    let (stop, stopped) = channel();
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new()
        .name("host".to_owned())
        .spawn(move || run(&shared, &Roots::default(), &stopped))
        .ok()?;
    Some(Reader {
        stop: Some(stop),
        thread: Some(thread),
    })
}

fn run(shared: &Shared, roots: &Roots, stopped: &Receiver<()>) {
    let mut generation = None;
    let mut host: Option<Host> = None;
    let mut pause = FIRST_SEARCH;
    loop {
        let snapshot = shared.snapshot.load();
        let upstream = &snapshot.config.upstream;
        if generation.replace(snapshot.generation) != Some(snapshot.generation) {
            (host, pause) = (None, FIRST_SEARCH);
        }
        if host.is_none() {
            host = Host::find(roots, upstream);
            match &host {
                Some(host) => info!(
                    process = host.process.as_ref().map(|process| process.id),
                    cgroup = host
                        .cgroup
                        .as_ref()
                        .map(|cgroup| cgroup.path().display().to_string()),
                    "the apiserver's memory can be seen"
                ),
                None if pause == FIRST_SEARCH => info!(
                    "the apiserver's memory cannot be seen from here; only the bytes in flight are bounded"
                ),
                None => {}
            }
        }
        let limit = upstream.memory_limit.map(config::ByteSize::get);
        let reading = host.as_mut().and_then(|host| host.read(roots, limit));
        shared.sensed.set(reading);
        let wait = if reading.is_some() {
            pause = FIRST_SEARCH;
            if shared.engine.bytes_in_flight() > 0 {
                BUSY
            } else {
                IDLE
            }
        } else {
            host = None;
            let wait = pause;
            pause = (pause * 2).min(LAST_SEARCH);
            wait
        };
        drop(snapshot);
        match stopped.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Where the apiserver is seen.
#[derive(Debug)]
struct Host {
    process: Option<Process>,
    cgroup: Option<Cgroup>,
    slow: Option<(Time, cgroup::Used)>,
    last: Reading,
}

impl Host {
    fn find(roots: &Roots, upstream: &config::Upstream) -> Option<Self> {
        let (process, cgroup) = match &upstream.cgroup {
            CgroupSource::Off => return None,
            CgroupSource::Folder(folder) => (None, Some(Cgroup::at(folder.clone(), folder))),
            CgroupSource::Auto => {
                let process = Process::listening(&roots.proc, upstream.address)?;
                let cgroup = process.cgroup(roots);
                (Some(process), cgroup)
            }
        };
        Some(Self {
            process,
            cgroup,
            slow: None,
            last: Reading::default(),
        })
    }

    /// `None` when it is not there any more.
    fn read(&mut self, roots: &Roots, limit: Option<u64>) -> Option<Reading> {
        if self
            .process
            .as_ref()
            .is_some_and(|process| !process.runs(&roots.proc))
        {
            return None;
        }
        self.read_slowly();
        let stalled = self
            .slow
            .as_ref()
            .map_or(0.0, |(_, used)| used.memory_stalled);
        let levels = self.cgroup.as_ref().map(Cgroup::memory).unwrap_or_default();
        let used = match levels.first() {
            Some(leaf) => Some(leaf.used),
            None => self
                .process
                .as_ref()
                .and_then(|process| process.memory(&roots.proc)),
        };
        let configured = used.zip(limit);
        // Whatever its own bounds, a server on this host shares the host's memory.
        let host = self
            .process
            .as_ref()
            .and_then(|_| find::host_memory(&roots.proc));
        let bounds = levels
            .iter()
            .filter_map(|level| level.limit.map(|limit| (level.used, limit)))
            .chain(configured)
            .chain(host)
            .map(|(used, limit)| Memory {
                used,
                limit,
                stalled,
            });
        let memory = Memory::tightest(bounds);
        if memory.is_none() && self.process.is_none() && levels.is_empty() {
            return None;
        }
        Some(Reading {
            memory,
            ..self.last
        })
    }

    fn read_slowly(&mut self) {
        let Some(cgroup) = &self.cgroup else { return };
        let now = clock::now();
        let due = self
            .slow
            .as_ref()
            .is_none_or(|(at, _)| now.saturating_since(*at) >= SLOW);
        let Some(used) = due.then(|| cgroup.used()).flatten() else {
            return;
        };
        self.last.oom_kills = used.oom_kills;
        self.last.cpu_stalled = used.cpu_stalled;
        if let Some((at, before)) = &self.slow {
            let passed = now.saturating_since(*at).as_secs_f64();
            let rate = |before: Option<u64>, after: Option<u64>| {
                Some(after?.saturating_sub(before?) as f64 / 1e6 / passed)
            };
            self.last.cores = rate(before.cpu_us, used.cpu_us);
            self.last.throttled = rate(before.throttled_us, used.throttled_us);
        }
        self.slow = Some((now, used));
    }
}

#[cfg(test)]
mod tests;
