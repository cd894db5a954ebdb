//! One life of the server: what is lost when it is killed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::Options;
use super::auth::Authenticator;
use super::cost::Costs;
use super::cpu::Cpu;
use super::lock;
use super::memory::Memory;
use super::resources::Resource;
use super::seats::Seats;
use super::stats::Counters;
use super::store::Store;

/// What every life shares.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) costs: Arc<Costs>,
    pub(super) store: Arc<Store>,
    pub(super) auth: Authenticator,
    pub(super) counters: Arc<Counters>,
    /// The present life; `None` while it is down.
    pub(super) process: Mutex<Option<Arc<Process>>>,
}

/// Processor, memory, seats and watch caches of one life.
pub(super) struct Process {
    pub(super) cpu: Arc<Cpu>,
    pub(super) memory: Arc<Memory>,
    pub(super) seats: Seats,
    /// Watch caches not filled yet. Empty in the first life.
    cold: Mutex<HashMap<&'static str, u64>>,
}

impl Process {
    /// Starts a life; `restarted` leaves the watch caches to be filled.
    pub(super) fn new(shared: &Shared, restarted: bool) -> Arc<Self> {
        let options = &shared.options;
        let base = options.base_memory + 2 * shared.store.bytes();
        let cold = if restarted {
            shared.store.resources().into_iter().collect()
        } else {
            HashMap::new()
        };
        Arc::new(Self {
            cpu: Cpu::new(options.cores, shared.costs.quantum, options.cancel_lag),
            memory: Memory::new(base, options.memory_limit, options.memory_linger),
            seats: Seats::new(options.seats, options.request_timeout / 4),
            cold: Mutex::new(cold),
        })
    }

    /// Whether the watch cache of a resource can answer.
    pub(super) fn is_warm(&self, resource: &Resource) -> bool {
        !lock(&self.cold).contains_key(resource.key)
    }

    /// Fills the watch caches, all at once and each at the price of its
    /// objects.
    pub(super) async fn fill_caches(&self, costs: &Costs) {
        let cold: Vec<_> = lock(&self.cold)
            .iter()
            .map(|(key, bytes)| (*key, *bytes))
            .collect();
        let mut filling = tokio::task::JoinSet::new();
        for (key, bytes) in cold {
            let mut thread = self.cpu.thread();
            let cost = costs.fill(bytes);
            filling.spawn(async move {
                thread.charge(cost, 1).await;
                key
            });
        }
        while let Some(Ok(key)) = filling.join_next().await {
            lock(&self.cold).remove(key);
        }
    }
}
