//! Durations and sizes as people write them in scenarios: `200ms`, `10s`, `14MiB`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A length of time: a number and `us`, `ms`, `s`, `m` or `h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// In microseconds.
    #[must_use]
    pub fn micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }
}

/// A number of bytes: a number and `B`, `KiB`, `MiB` or `GiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

fn split(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn span(text: &str) -> Option<Span> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * seconds).ok().map(Span)
}

fn size(text: &str) -> Option<Size> {
    let (number, unit) = split(text)?;
    let bytes: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    Some(Size((number * bytes as f64) as u64))
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        span(&text).ok_or_else(|| {
            de::Error::custom(format!(
                "{text:?} is not a time; write a number and us, ms, s, m or h, as in 250ms"
            ))
        })
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        size(&text).ok_or_else(|| {
            de::Error::custom(format!(
                "{text:?} is not a size; write a number and B, KiB, MiB or GiB, as in 14MiB"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read_as_written_and_nothing_else() {
        assert_eq!(span("250ms"), Some(Span(Duration::from_millis(250))));
        assert_eq!(span("1.5 s"), Some(Span(Duration::from_millis(1_500))));
        assert_eq!(size("14MiB"), Some(Size(14 << 20)));
        for wrong in ["", "5", "ms", "-1s", "5 parsecs", "1e3s"] {
            assert_eq!(span(wrong), None, "{wrong}");
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }
}
