//! What is behind the server: etcd, which has a latency, a number of writes per second, and bad moments.

use fastrand::Rng;

/// What etcd can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EtcdSettings {
    /// Mean delay of one operation, µs.
    pub latency: u64,
    /// Writes per second it can make durable.
    pub writes_per_second: f64,
}

impl Default for EtcdSettings {
    fn default() -> Self {
        Self {
            latency: 2_000,
            writes_per_second: 10_000.0,
        }
    }
}

/// etcd as one disk that writes in order.
#[derive(Debug)]
pub struct Etcd {
    settings: EtcdSettings,
    stalled_until: u64,
    disk_free: u64,
}

impl Etcd {
    /// Idle.
    #[must_use]
    pub const fn new(settings: EtcdSettings) -> Self {
        Self {
            settings,
            stalled_until: 0,
            disk_free: 0,
        }
    }

    /// Nothing is answered for so long: a compaction, a slow disk, an election.
    pub fn stall(&mut self, now: u64, length: u64) {
        self.stalled_until = self.stalled_until.max(now + length);
    }

    /// How long an operation that begins now takes, µs.
    pub fn wait(&mut self, now: u64, write: bool, random: &mut Rng) -> u64 {
        let latency = -(1.0 - random.f64()).ln() * self.settings.latency as f64;
        let mut ready = now.max(self.stalled_until);
        if write {
            let each = 1e6 / self.settings.writes_per_second.max(1.0);
            self.disk_free = self.disk_free.max(ready) + each as u64;
            ready = self.disk_free;
        }
        ready - now + latency as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_holds_everything_up_and_writes_queue_for_the_disk() {
        let settings = EtcdSettings {
            latency: 0,
            writes_per_second: 100.0,
        };
        let mut etcd = Etcd::new(settings);
        let mut random = Rng::with_seed(1);
        let waits: Vec<u64> = (0..3).map(|_| etcd.wait(0, true, &mut random)).collect();
        assert_eq!(waits, [10_000, 20_000, 30_000]);
        etcd.stall(0, 500_000);
        assert_eq!(etcd.wait(100_000, false, &mut random), 400_000);
    }
}
