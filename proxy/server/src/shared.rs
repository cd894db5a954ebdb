//! What all threads of a process share. On the path of a request: one load of the snapshot, atomics, nothing locked.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use proxy_core::admission::Engine;
use proxy_core::admission::cost::{Model, Observation, Shape};
use proxy_core::admission::delays::{Delays, Quantiles, Window};
use proxy_core::admission::probe::ProbeView;
use proxy_core::admission::ramp::Ramp;
use proxy_core::time::Time;

use crate::account::access::Access;
use crate::admit::running::Running;
use crate::admit::{Beginner, Waiter};
use crate::clock;
use crate::control::host::Sensed;
use crate::control::lane_check::LaneCheck;
use crate::control::scrape::Said;
use crate::history::History;
use crate::identify::memory::TokenMemory;
use crate::identify::published::PublishedKeys;
use crate::lane::Lane;
use crate::measures::Measures;
use crate::metrics::Metrics;
use crate::names::Names;
use crate::overrides::{self, ModeChange, Overrides};
use crate::policy::Policies;
use crate::recent::Recent;
use crate::sessions::Sessions;
use crate::snapshot::Snapshot;
use crate::traces::Traces;
use crate::upstream::stale::Store;

/// Bearer tokens remembered.
const TOKENS: usize = 50_000;

/// State of one lane.
#[derive(Debug, Default)]
pub(crate) struct LaneState {
    pub(crate) connections: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    /// Open sessions of exec, attach and port-forward.
    pub(crate) tunnels: AtomicU64,
    /// 1 while it accepts connections.
    pub(crate) up: AtomicU32,
}

/// What was seen of the server since the tuner last looked.
#[derive(Debug, Default)]
pub(crate) struct SeenSignals {
    pub(crate) upstream_429: AtomicU32,
    pub(crate) upstream_504: AtomicU32,
    pub(crate) connect_failures: AtomicU32,
}

/// (pool, traffic, connections, streams) of one worker's pools.
type PoolCount = (&'static str, &'static str, usize, usize);

/// Pools of one worker.
pub(crate) const POOLS: usize = 8;

/// Shared by all threads.
pub(crate) struct Shared {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) engine: Arc<Engine<Waiter>>,
    /// How watches begin after an outage and after our own start.
    pub(crate) ramp: Ramp<Beginner>,
    pub(crate) costs: Model,
    pub(crate) tokens: TokenMemory,
    pub(crate) published_keys: PublishedKeys,
    pub(crate) metrics: Arc<Metrics>,
    /// The access log, if there is one.
    pub(crate) access: Option<Access>,
    /// Which requests are traced, and their spans.
    pub(crate) traces: Traces,
    pub(crate) names: Names,
    pub(crate) measures: Arc<Measures>,
    /// Policies beside the configuration.
    pub(crate) policies: Arc<Policies>,
    /// LISTs that could be broken off.
    pub(crate) running: Arc<Running>,
    pub(crate) signals: SeenSignals,
    /// Last good answers for when the server is away.
    pub(crate) stale: Arc<Store>,
    /// The server cannot be asked.
    pub(crate) down: AtomicBool,
    /// What the host shows of the apiserver.
    pub(crate) sensed: Sensed,
    /// What it says of itself.
    pub(crate) said: Said,
    /// From sending a read of one object to the head of its answer.
    pub(crate) small_reads: Delays,
    /// Pings over the connections that requests share.
    pub(crate) pings: Delays,
    /// Both, as of the last turn.
    windows: Mutex<[(Window, Option<Quantiles>); 2]>,
    /// What operators changed about the mode at run time.
    pub(crate) overrides: Overrides,
    /// The last requests.
    pub(crate) recent: Recent,
    /// The last minutes, second by second.
    pub(crate) history: History,
    /// Where the console is served.
    pub(crate) admin_address: OnceLock<SocketAddr>,
    /// Who may use the console's switches.
    pub(crate) sessions: Sessions,
    /// Whether a call through the reserved lane works.
    pub(crate) lane_check: LaneCheck,
    /// The probe as of the last tick.
    pub(crate) probe: Mutex<ProbeView>,
    /// Since when nothing queues at the server, in the clock's microseconds; `u64::MAX` while something does.
    calm_since: AtomicU64,
    /// The process stops: it is not ready, and what would not end by itself does not begin.
    pub(crate) stopping: AtomicBool,
    lanes: [LaneState; 2],
    workers: AtomicUsize,
    pools: Mutex<Vec<(Lane, [PoolCount; POOLS])>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    pub(crate) fn new(
        snapshot: Snapshot,
        engine: Arc<Engine<Waiter>>,
        metrics: Arc<Metrics>,
        access: Option<Access>,
    ) -> Self {
        let measures = snapshot.config.admission.measures.clone();
        let unix = clock::unix_seconds();
        let overrides = Overrides::load(snapshot.config.admission.state.as_deref(), unix);
        let policies = Arc::new(Policies::load(snapshot.config.policy.file.clone()));
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            engine,
            ramp: Ramp::new(clock::now()),
            costs: Model::new(),
            tokens: TokenMemory::new(TOKENS),
            published_keys: PublishedKeys::default(),
            metrics,
            access,
            traces: Traces::default(),
            names: Names::default(),
            policies,
            measures: Arc::new(Measures::load(measures, unix)),
            running: Arc::default(),
            signals: SeenSignals::default(),
            stale: Arc::default(),
            down: AtomicBool::new(false),
            sensed: Sensed::default(),
            said: Said::default(),
            small_reads: Delays::default(),
            pings: Delays::default(),
            windows: Mutex::default(),
            overrides,
            recent: Recent::default(),
            history: History::new(clock::now()),
            admin_address: OnceLock::new(),
            sessions: Sessions::default(),
            lane_check: LaneCheck::default(),
            probe: Mutex::new(ProbeView::calm()),
            calm_since: AtomicU64::new(u64::MAX),
            stopping: AtomicBool::new(false),
            lanes: Default::default(),
            workers: AtomicUsize::new(0),
            pools: Mutex::default(),
        }
    }

    pub(crate) fn lane(&self, lane: Lane) -> &LaneState {
        match lane {
            Lane::Main => &self.lanes[0],
            Lane::Reserved => &self.lanes[1],
        }
    }

    /// Changes what stands above the configuration about the mode, and puts both in force.
    pub(crate) fn change_mode<T>(&self, change: impl FnOnce(&mut Vec<ModeChange>) -> T) -> T {
        self.overrides.with(|changes| {
            let result = change(changes);
            let snapshot = self.snapshot.load();
            let mut settings = snapshot.settings.clone();
            overrides::apply(changes, &mut settings, &snapshot.policy);
            self.engine.reconfigure(settings, clock::now());
            result
        })
    }

    /// Whether service times say something about cost: nothing else queues at the server.
    pub(crate) fn set_calm(&self, calm: bool, now: Time) {
        if !calm {
            self.calm_since.store(u64::MAX, Ordering::Relaxed);
        } else if self.calm_since.load(Ordering::Relaxed) == u64::MAX {
            self.calm_since.store(now.0, Ordering::Relaxed);
        }
    }

    /// To be called every few seconds: what small reads and pings took since the last time.
    pub(crate) fn turn_delays(&self) {
        if let Ok(mut windows) = self.windows.lock() {
            for ((window, last), delays) in windows.iter_mut().zip([&self.small_reads, &self.pings])
            {
                *last = window.turn(delays);
            }
        }
    }

    /// What small reads and pings took lately.
    pub(crate) fn delays(&self) -> [Option<Quantiles>; 2] {
        let windows = self.windows.lock();
        windows.map_or([None; 2], |windows| {
            windows.each_ref().map(|(_, last)| *last)
        })
    }

    /// Whether nothing queues at the server.
    pub(crate) fn is_calm(&self) -> bool {
        self.calm_since.load(Ordering::Relaxed) != u64::MAX
    }

    /// Tells the cost model what a request of `shape`, sent at `sent`, took until `done`. Its time counts only if the server
    /// was calm all along.
    pub(crate) fn learn(&self, shape: &Shape, bytes: u64, sent: Time, done: Time) {
        let calm = self.calm_since.load(Ordering::Relaxed) <= sent.0;
        let service = done.saturating_since(sent);
        self.costs.observe(
            shape,
            &Observation {
                bytes,
                service,
                calm,
            },
        );
    }

    /// A number for a worker, under which it publishes its pools.
    pub(crate) fn register_worker(&self) -> usize {
        self.workers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn publish_pools(&self, worker: usize, lane: Lane, count: [PoolCount; POOLS]) {
        let Ok(mut pools) = self.pools.lock() else {
            return;
        };
        if pools.len() <= worker {
            pools.resize(worker + 1, (lane, [("", "", 0, 0); POOLS]));
        }
        if let Some(place) = pools.get_mut(worker) {
            *place = (lane, count);
        }
    }

    /// The sums over all workers, by pool and traffic.
    pub(crate) fn pools(&self) -> Vec<PoolCount> {
        let Ok(pools) = self.pools.lock() else {
            return Vec::new();
        };
        let mut sums: Vec<PoolCount> = Vec::with_capacity(POOLS);
        for (pool, traffic, connections, streams) in pools.iter().flat_map(|(_, counts)| counts) {
            if pool.is_empty() {
                continue;
            }
            match sums
                .iter_mut()
                .find(|sum| sum.0 == *pool && sum.1 == *traffic)
            {
                Some(sum) => {
                    sum.2 += connections;
                    sum.3 += streams;
                }
                None => sums.push((pool, traffic, *connections, *streams)),
            }
        }
        sums
    }
}
