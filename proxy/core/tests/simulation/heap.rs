//! A model of a Go server's memory: what answers hold while they are made, what they leave
//! behind as garbage until the collector runs at twice what was live, and a resident size
//! that follows the heap up at once and down slowly.

use proxy_core::admission::Memory;

/// Of what is resident and free, so much goes back to the system per second.
const SCAVENGED: f64 = 0.05;

pub(crate) struct Heap {
    /// Always live: objects, caches.
    base: f64,
    limit: f64,
    /// Bytes held by a running answer, per byte of it.
    times: f64,
    running: f64,
    garbage: f64,
    goal: f64,
    resident: f64,
    /// The most that was resident, as a share of the limit.
    pub(crate) peak: f64,
    /// Whether anybody can see it.
    pub(crate) seen: bool,
}

impl Heap {
    pub(crate) fn new(base: u64, limit: u64, times: f64) -> Self {
        let base = base as f64;
        Self {
            base,
            limit: limit as f64,
            times,
            running: 0.0,
            garbage: 0.0,
            goal: 2.0 * base,
            resident: base,
            peak: 0.0,
            seen: true,
        }
    }

    pub(crate) fn started(&mut self, bytes: u64) {
        self.running += bytes as f64 * self.times;
        self.settle();
    }

    pub(crate) fn ended(&mut self, bytes: u64) {
        let held = bytes as f64 * self.times;
        self.running = (self.running - held).max(0.0);
        self.garbage += held;
        self.settle();
    }

    fn settle(&mut self) {
        let live = self.base + self.running;
        if live + self.garbage > self.goal {
            self.garbage = 0.0;
            self.goal = 2.0 * live;
        }
        self.resident = self.resident.max(live + self.garbage);
        self.peak = self.peak.max(self.resident / self.limit);
    }

    /// A tenth of a second has passed.
    pub(crate) fn tick(&mut self) -> Option<Memory> {
        let heap = self.base + self.running + self.garbage;
        self.resident = heap.max(self.resident * (1.0 - SCAVENGED / 10.0));
        self.seen.then_some(Memory {
            used: self.resident as u64,
            limit: self.limit as u64,
            stalled: 0.0,
        })
    }
}
