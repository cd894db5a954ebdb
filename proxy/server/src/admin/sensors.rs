//! What the sensors of the apiserver say, as gauges.

use crate::clock;
use crate::shared::Shared;

/// Writes them. What is not known keeps its last value, and `spillway_sensor_seen` says so.
pub(super) fn refresh(shared: &Shared) {
    let gauge = |name, value: Option<f64>| {
        if let Some(value) = value {
            shared.metrics.gauge(name, &[]).set(value);
        }
    };
    let [reads, pings] = shared.delays();
    gauge(
        "spillway_small_read_seconds",
        reads.map(|reads| reads.p50.as_secs_f64()),
    );
    gauge(
        "spillway_small_read_p99_seconds",
        reads.map(|reads| reads.p99.as_secs_f64()),
    );
    gauge(
        "spillway_shared_probe_seconds",
        pings.map(|pings| pings.p50.as_secs_f64()),
    );
    gauge("spillway_stale_bytes", Some(shared.stale.bytes() as f64));
    let ramp = shared.ramp.view();
    gauge("spillway_watch_ramp_rate", Some(ramp.rate));
    gauge("spillway_watch_ramp_waiting", Some(ramp.waiting as f64));
    let reading = shared.sensed.get(clock::now()).unwrap_or_default();
    let memory = reading.memory;
    let seen = [
        ("small_reads", reads.is_some()),
        ("shared_probe", pings.is_some()),
        ("memory", memory.is_some()),
        ("cpu", reading.cores.is_some()),
    ];
    for (sensor, seen) in seen {
        let labels = [("sensor", sensor)];
        let seen = f64::from(u8::from(seen));
        shared
            .metrics
            .gauge("spillway_sensor_seen", &labels)
            .set(seen);
    }
    gauge(
        "spillway_upstream_memory_bytes",
        memory.map(|memory| memory.used as f64),
    );
    gauge(
        "spillway_upstream_memory_limit_bytes",
        memory.map(|memory| memory.limit as f64),
    );
    gauge(
        "spillway_upstream_memory_stalled_ratio",
        memory.map(|memory| memory.stalled.into()),
    );
    gauge(
        "spillway_upstream_oom_kills",
        reading.oom_kills.map(|kills| kills as f64),
    );
    gauge("spillway_upstream_cpu_cores", reading.cores);
    gauge("spillway_upstream_cpu_throttled_ratio", reading.throttled);
    gauge("spillway_upstream_cpu_stalled_ratio", reading.cpu_stalled);
}
