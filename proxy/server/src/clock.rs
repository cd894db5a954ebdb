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
