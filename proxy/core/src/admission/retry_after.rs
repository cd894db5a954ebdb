//! The delay told to a refused client.
//!
//! Kubernetes' own client waits exactly the whole seconds it is told, without jitter, so
//! the number itself must be random; and it must be wide enough that those who come back
//! use no more than a tenth of what the server can do, or the retries become the load.

use crate::hash::mix;
use crate::time::Time;

/// The longest delay ever told, in seconds; the same as the server's own.
pub const MAX_SECONDS: u32 = 32;

/// Uniform in 1..=W whole seconds, W = ⌈10 × `clients` / `capacity`⌉ within
/// 1..=`cap` (itself at most [`MAX_SECONDS`]).
///
/// * `clients`: how many were refused and are about to come back.
/// * `capacity`: requests of their kind served per second. Zero or unknown gives the cap.
/// * `random`: any uniformly distributed word.
#[must_use]
pub fn seconds(clients: f64, capacity: f64, random: u64, cap: u32) -> u32 {
    let cap = cap.clamp(1, MAX_SECONDS);
    let wanted = (10.0 * clients.max(0.0) / capacity.max(f64::MIN_POSITIVE)).ceil();
    // A NaN (none can arise from finite input) would become 1.
    let widest = wanted.clamp(1.0, f64::from(cap)) as u64;
    let drawn = u64::try_from((u128::from(random) * u128::from(widest)) >> 64).unwrap_or(0);
    1 + u32::try_from(drawn).unwrap_or(0)
}

const WORDS: usize = 64;
const BITS: f64 = (WORDS * 64) as f64;
/// How long a refused client is remembered, in microseconds: between one and two of these.
const GENERATION_US: u64 = 16_000_000;

/// Roughly how many different clients were refused in the last half minute, from one
/// bit per client (linear counting, Whang et al. 1990): a few percent off up to some ten
/// thousand, where the delay has long been at its cap. 1 KiB.
#[derive(Debug)]
pub struct Refused {
    now: [u64; WORDS],
    before: [u64; WORDS],
    since: Time,
}

impl Refused {
    /// Nobody yet.
    #[must_use]
    pub const fn new(now: Time) -> Self {
        Self {
            now: [0; WORDS],
            before: [0; WORDS],
            since: now,
        }
    }

    /// A client was refused; `instance` is a stable hash of it.
    pub fn note(&mut self, instance: u64) {
        let bit = mix(instance) >> 52;
        let (word, bit) = ((bit / 64) as usize, bit % 64);
        self.now[word % WORDS] |= 1 << bit;
    }

    /// Forget those refused long ago.
    pub fn tick(&mut self, now: Time) {
        if now.as_micros().saturating_sub(self.since.as_micros()) >= GENERATION_US {
            self.before = self.now;
            self.now = [0; WORDS];
            self.since = now;
        }
    }

    /// How many different clients.
    #[must_use]
    pub fn clients(&self) -> f64 {
        let set: u32 = self
            .now
            .iter()
            .zip(&self.before)
            .map(|(now, before)| (now | before).count_ones())
            .sum();
        let clear = (BITS - f64::from(set)).max(1.0);
        BITS * (BITS / clear).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_stay_within_a_tenth_of_capacity_until_the_cap_binds() {
        // 100 clients, 100/s: W = 10, so 10 come back per second.
        let draws: Vec<u32> = (0..1_000_u64)
            .map(|n| seconds(100.0, 100.0, n.wrapping_mul(u64::MAX / 1_000), 32))
            .collect();
        assert_eq!(
            (draws.iter().min(), draws.iter().max()),
            (Some(&1), Some(&10))
        );
        for second in 1..=10 {
            let count = draws.iter().filter(|draw| **draw == second).count();
            assert!((95..=105).contains(&count), "{second}: {count}");
        }
    }

    #[test]
    fn the_cap_always_holds() {
        for (clients, capacity) in [(0.0, 0.0), (1e12, 1e-12), (5.0, 1e9), (f64::NAN, 1.0)] {
            for cap in [0, 1, 32, u32::MAX] {
                let drawn = seconds(clients, capacity, u64::MAX, cap);
                assert!((1..=cap.clamp(1, 32)).contains(&drawn));
            }
        }
        assert_eq!(
            seconds(1e6, 1.0, u64::MAX, 1),
            1,
            "signs of life come back at once"
        );
    }

    #[test]
    fn different_clients_are_counted_and_the_same_only_once() {
        let mut refused = Refused::new(Time(0));
        for client in 0..2_000_u64 {
            for _ in 0..3 {
                refused.note(client);
            }
        }
        let clients = refused.clients();
        assert!((1_800.0..2_200.0).contains(&clients), "{clients}");
    }

    #[test]
    fn clients_are_forgotten() {
        let mut refused = Refused::new(Time(0));
        refused.note(1);
        refused.tick(Time(GENERATION_US));
        assert!(refused.clients() > 0.5);
        refused.tick(Time(2 * GENERATION_US));
        assert!(refused.clients() < 0.5);
    }
}
