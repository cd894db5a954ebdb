//! Numbers with units: durations, sizes and shares as people write them.
//!
//! A bare number is refused everywhere: `timeout: 30` has been read as seconds by one
//! half of the world and as milliseconds by the other.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// A number of bytes, written `512MiB` (units B, KiB, MiB, GiB, TiB).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// From bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// From units of 2^20 bytes; more than fits is the largest size.
    #[must_use]
    pub const fn mebibytes(mebibytes: u64) -> Self {
        Self(mebibytes.saturating_mul(1 << 20))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    /// In the largest unit that keeps it a whole number, as the parser reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_exact(f, u128::from(self.0), &SIZES)
    }
}

/// A share of a whole, 0% to 100% in steps of 0.01%, written `10%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u16);

impl Percent {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The whole.
    pub const HUNDRED: Self = Self(10_000);

    /// From hundredths of a percent; above 10000 is [`Percent::HUNDRED`].
    #[must_use]
    pub const fn from_basis_points(points: u16) -> Self {
        Self(if points > 10_000 { 10_000 } else { points })
    }

    /// Hundredths of a percent, 0..=10000.
    #[must_use]
    pub const fn basis_points(self) -> u16 {
        self.0
    }

    /// As a fraction, 0.0..=1.0.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match rest {
            0 => write!(f, "{whole}%"),
            _ if rest % 10 == 0 => write!(f, "{whole}.{}%", rest / 10),
            _ => write!(f, "{whole}.{rest:02}%"),
        }
    }
}

/// A unit and how many of the smallest unit it holds; smallest first.
type Unit = (&'static str, u128);

/// In nanoseconds.
const TIMES: [Unit; 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// In bytes.
const SIZES: [Unit; 5] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// In hundredths of a percent.
const SHARES: [Unit; 1] = [("%", 100)];

/// Reads `250ms`, `1.5s`, `1m`.
///
/// # Errors
/// A text that says what to write instead.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let nanos = parse(text, &TIMES, "a duration", "ms", "250ms, 2s or 1m")?;
    let whole = u64::try_from(nanos / 1_000_000_000).map_err(|_| too_large(text))?;
    let rest = u32::try_from(nanos % 1_000_000_000).map_err(|_| too_large(text))?;
    Ok(Duration::new(whole, rest))
}

/// Reads `512MiB`. The error says what to write instead.
pub(crate) fn parse_size(text: &str) -> Result<ByteSize, String> {
    let bytes = parse(text, &SIZES, "a size", "MiB", "512MiB or 2GiB")?;
    u64::try_from(bytes)
        .map(ByteSize)
        .map_err(|_| too_large(text))
}

/// Reads `10%` or `12.5%`. The error says what to write instead.
pub(crate) fn parse_percent(text: &str) -> Result<Percent, String> {
    let points = parse(text, &SHARES, "a share", "%", "10% or 12.5%")?;
    match u16::try_from(points) {
        Ok(points) if points <= 10_000 => Ok(Percent(points)),
        _ => Err(format!("`{text}` is more than 100%")),
    }
}

/// A duration as the parser reads it, in the largest unit that keeps it whole.
pub(crate) fn duration_text(duration: Duration) -> String {
    struct Text(Duration);
    impl fmt::Display for Text {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            // Zero fits every unit.
            if self.0.is_zero() {
                return f.write_str("0ms");
            }
            write_exact(f, self.0.as_nanos(), &TIMES)
        }
    }
    Text(duration).to_string()
}

fn too_large(text: &str) -> String {
    format!("`{text}` is too large")
}

fn write_exact(f: &mut fmt::Formatter<'_>, value: u128, units: &[Unit]) -> fmt::Result {
    let fitting = units
        .iter()
        .rev()
        .find(|(_, factor)| value.is_multiple_of(*factor) && value >= *factor);
    match fitting {
        Some((unit, factor)) => write!(f, "{}{unit}", value / factor),
        None => write!(f, "{value}{}", units.first().map_or("", |(unit, _)| unit)),
    }
}

/// `<digits>[.<digits>]<unit>` in the smallest unit.
fn parse(
    text: &str,
    units: &[Unit],
    what: &str,
    likely: &str,
    examples: &str,
) -> Result<u128, String> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim_start();
    let unit = if unit == "µs" { "us" } else { unit };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(format!(
            "`{text}` is not {what}; write a number and a unit, as {examples}"
        ));
    }
    if unit.is_empty() {
        return Err(format!(
            "{what} needs a unit; write {number}{likely}, if that is what you mean"
        ));
    }
    let Some((_, factor)) = units.iter().find(|(known, _)| *known == unit) else {
        let known: Vec<&str> = units.iter().map(|(known, _)| *known).collect();
        return Err(format!(
            "`{unit}` is not a unit of {what}; units are {}",
            known.join(", ")
        ));
    };
    exact(whole, fraction, *factor)
        .ok_or_else(|| format!("`{text}` is too large or finer than the smallest unit"))
}

/// `None` when it overflows or is not a whole number of the smallest unit.
fn exact(whole: &str, fraction: &str, factor: u128) -> Option<u128> {
    let whole: u128 = whole.parse().ok()?;
    let fraction = fraction.trim_end_matches('0');
    let parts: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = parts.checked_mul(factor)?;
    if part % scale != 0 {
        return None;
    }
    whole.checked_mul(factor)?.checked_add(part / scale)
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

pub(crate) fn serialize_duration<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&duration_text(*duration))
}

pub(crate) fn serialize_optional_duration<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serialize_duration(duration, serializer),
        None => serializer.serialize_none(),
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)? *(B|KiB|MiB|GiB|TiB)$" })
    }
}

impl JsonSchema for Percent {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)? *%$" })
    }
}

/// Stands for [`Duration`] in the schema, which has no text form of its own.
pub(crate) struct DurationText;

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)? *(ns|us|µs|ms|s|m|h)$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        for (text, expected) in [
            ("250ms", Duration::from_millis(250)),
            ("1.5s", Duration::from_millis(1500)),
            ("2 s", Duration::from_secs(2)),
            ("1m", Duration::from_secs(60)),
            ("1h", Duration::from_secs(3600)),
            ("10us", Duration::from_micros(10)),
            ("10µs", Duration::from_micros(10)),
            ("0ms", Duration::ZERO),
        ] {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for nanos in [
            0,
            1,
            999,
            1_000,
            250_000_000,
            90_000_000_000,
            3_600_000_000_000,
        ] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
        }
        for bytes in [0, 1, 1023, 1024, 512 << 20, u64::MAX] {
            let size = ByteSize(bytes);
            assert_eq!(parse_size(&size.to_string()), Ok(size));
        }
        for points in [0, 1, 10, 1000, 1250, 1234, 10_000] {
            let share = Percent(points);
            assert_eq!(parse_percent(&share.to_string()), Ok(share));
        }
    }

    #[test]
    fn values_are_written_as_people_write_them() {
        assert_eq!(duration_text(Duration::from_millis(250)), "250ms");
        assert_eq!(duration_text(Duration::from_secs(2)), "2s");
        assert_eq!(duration_text(Duration::from_secs(60)), "1m");
        assert_eq!(duration_text(Duration::from_secs(90)), "90s");
        assert_eq!(ByteSize::mebibytes(512).to_string(), "512MiB");
        assert_eq!(ByteSize::bytes(0).to_string(), "0B");
        assert_eq!(Percent(1250).to_string(), "12.5%");
        assert_eq!(Percent(1205).to_string(), "12.05%");
    }

    #[test]
    fn bare_numbers_are_refused_with_what_to_write() {
        assert!(parse_duration("250").is_err_and(|e| e.contains("write 250ms")));
        assert!(parse_size("512").is_err_and(|e| e.contains("write 512MiB")));
        assert!(parse_percent("10").is_err_and(|e| e.contains("write 10%")));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "ms",
            "-1s",
            "1..5s",
            ".5s",
            "1.s",
            "5 parsecs",
            "1e3s",
            "0.5ns",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        let nines = "9".repeat(400);
        assert!(parse_duration(&format!("{nines}s")).is_err());
        assert!(parse_duration(&format!("0.{nines}s")).is_err());
        assert!(parse_size("99999999TiB").is_err());
        assert!(parse_size("512Mi").is_err_and(|e| e.contains("MiB")));
        assert!(parse_percent("100.01%").is_err());
        assert!(parse_percent("101%").is_err());
    }
}
