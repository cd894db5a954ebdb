//! The process's clock: the only place that reads real time on the path.
//!
//! The admission engine takes time as an argument ([`Time`], microseconds since this process's epoch); everything
//! that feeds it reads the clock here, once per event.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use proxy_core::time::Time;

/// Monotonic time since the first call in this process, in microseconds. Starts at one second, so that
/// "a little earlier than now" never underflows.
pub(crate) fn now() -> Time {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let epoch = EPOCH.get_or_init(Instant::now);
    Time(1_000_000 + u64::try_from(epoch.elapsed().as_micros()).unwrap_or(u64::MAX >> 1))
}

/// An instant of [`now`] in wall-clock seconds since the Unix epoch.
pub(crate) fn to_unix(time: Time) -> u64 {
    unix_seconds().saturating_sub(now().saturating_since(time).as_secs())
}

/// Wall-clock seconds since the Unix epoch, for the validity of certificates and tokens. 0 if the clock is before 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Unix seconds as Kubernetes writes them: `2026-11-22T08:00:00Z`. The bare number after the year 9999.
pub(crate) fn rfc3339(unix: u64) -> String {
    i64::try_from(unix)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| unix.to_string(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_are_written_as_kubernetes_does() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_733_900_000, "2024-12-11T06:53:20Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(rfc3339(unix), text);
        }
    }
}
