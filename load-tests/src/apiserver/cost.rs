//! What requests cost the simulated server.

use std::time::Duration;

use super::form::{Form, Include};

/// CPU time of each kind of work. The defaults are a kube-apiserver 1.36 on
/// one core: 16 CPU seconds per GiB of JSON and 1.2 µs per object scanned
/// were measured; ten thousand pods of 3 kB take about 0.6 s.
#[derive(Debug, Clone)]
pub struct Costs {
    /// Longest turn on a core (Go preempts after 10 ms).
    pub quantum: Duration,
    /// `/livez/ping` and its like.
    pub probe: Duration,
    /// Turns a probe takes on the run queue.
    pub probe_hops: u32,
    /// Authenticating a request and reading its head; paid before any seat.
    pub authentication: Duration,
    /// A read of one object, authentication not included.
    pub read: Duration,
    /// Turns of a read.
    pub read_hops: u32,
    /// A write of one object, authentication not included.
    pub write: Duration,
    /// A LIST before its first object.
    pub list: Duration,
    /// Looking at one object, selected or not.
    pub scan: Duration,
    /// Encoding one object, whatever its size.
    pub object: Duration,
    /// Encoding one byte, in nanoseconds.
    pub byte_nanos: f64,
    /// Delivering one event to one watch.
    pub event: Duration,
    /// Filling a watch cache after a restart, per byte stored, in
    /// nanoseconds.
    pub fill_nanos: f64,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            quantum: Duration::from_millis(10),
            probe: Duration::from_micros(300),
            probe_hops: 2,
            authentication: Duration::from_micros(200),
            read: Duration::from_micros(800),
            read_hops: 5,
            write: Duration::from_micros(1800),
            list: Duration::from_micros(800),
            scan: Duration::from_nanos(1200),
            object: Duration::from_micros(10),
            byte_nanos: 15.0,
            event: Duration::from_micros(20),
            fill_nanos: 10.0,
        }
    }
}

impl Costs {
    /// Everything `factor` times as dear; the quantum stays.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        for cost in [
            &mut self.probe,
            &mut self.authentication,
            &mut self.read,
            &mut self.write,
            &mut self.list,
            &mut self.scan,
            &mut self.object,
            &mut self.event,
        ] {
            *cost = cost.mul_f64(factor);
        }
        self.byte_nanos *= factor;
        self.fill_nanos *= factor;
        self
    }

    /// Looking at `objects`.
    pub(super) fn scan(&self, objects: usize) -> Duration {
        self.scan * u32::try_from(objects).unwrap_or(u32::MAX)
    }

    /// Encoding an object of `bytes`. Tables cost as much as whole objects,
    /// metadata alone a fraction.
    pub(super) fn encode(&self, bytes: usize, form: Form) -> Duration {
        let bytes = match form {
            Form::Whole | Form::Table(Include::Object | Include::Metadata | Include::None) => bytes,
            Form::Metadata => bytes / 5,
        };
        self.object + nanos(bytes as f64 * self.byte_nanos)
    }

    /// Filling the watch cache of a resource of `bytes`.
    pub(super) fn fill(&self, bytes: u64) -> Duration {
        nanos(bytes as f64 * self.fill_nanos)
    }
}

fn nanos(nanos: f64) -> Duration {
    Duration::from_secs_f64((nanos / 1e9).clamp(0.0, 3600.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_pods_take_about_half_a_second() {
        let costs = Costs::default();
        let total = costs.scan(10_000) + costs.encode(3000, Form::Whole) * 10_000;
        assert!((500..700).contains(&total.as_millis()), "{total:?}");
        let doubled = costs.clone().scaled(2.0);
        assert_eq!(
            doubled.encode(1000, Form::Whole),
            costs.encode(1000, Form::Whole) * 2
        );
    }
}
