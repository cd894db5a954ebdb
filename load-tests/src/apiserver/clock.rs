//! Wall-clock time as the API writes it.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Seconds since the Unix epoch; 0 if the host's clock is before it.
pub(super) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// `metav1.Time`: RFC 3339 in UTC with whole seconds.
pub(super) fn rfc3339(unix: u64) -> String {
    let seconds = i64::try_from(unix).unwrap_or_default();
    Timestamp::from_second(seconds)
        .unwrap_or_default()
        .to_string()
}

/// An age as `kubectl` prints it: the largest unit that matters, two for
/// small values ("45s", "3m20s", "7h", "12d").
pub(super) fn age(created: u64, now: u64) -> String {
    let secs = now.saturating_sub(created);
    match secs {
        0..120 => format!("{secs}s"),
        120..600 if !secs.is_multiple_of(60) => format!("{}m{}s", secs / 60, secs % 60),
        120..10_800 => format!("{}m", secs / 60),
        10_800..172_800 => format!("{}h", secs / 3600),
        _ => format!("{}d", secs / 86_400),
    }
}

/// A random version 4 UUID in its usual text form.
pub(super) fn uuid() -> String {
    let bits = (fastrand::u128(..) & !(0xf000 << 64) & !(0xc000 << 48)) | (4 << 76) | (2 << 62);
    let hex = format!("{bits:032x}");
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar_over_leap_days() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(951_868_799), "2000-02-29T23:59:59Z");
        assert_eq!(rfc3339(1_772_323_199), "2026-02-28T23:59:59Z");
        assert_eq!(rfc3339(1_772_323_200), "2026-03-01T00:00:00Z");
    }

    #[test]
    fn ages_grow_coarser() {
        assert_eq!(age(100, 145), "45s");
        assert_eq!(age(0, 200), "3m20s");
        assert_eq!(age(0, 7200), "120m");
        assert_eq!(age(0, 86_400), "24h");
        assert_eq!(age(0, 86_400 * 12), "12d");
        assert_eq!(age(10, 5), "0s");
    }

    #[test]
    fn uuids_are_version_four() {
        for _ in 0..50 {
            let id = uuid();
            assert_eq!(id.len(), 36);
            assert_eq!(id.as_bytes()[14], b'4');
            assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        }
    }
}
