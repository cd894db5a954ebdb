//! Reading one value: where it stands in the report, what it may be.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::ByteSize;
use crate::origin::Origins;
use crate::raw::{List, Scalar, at, at_value};
use crate::report::{Problems, nearest};
use crate::units::{duration_text, parse_duration, parse_size};

/// Reads values one by one; keys are full paths, as they appear in the report.
pub(crate) struct Values<'a, 'p> {
    pub(crate) problems: &'a mut Problems<'p>,
    /// Which line says what.
    pub(crate) origins: Origins,
    /// What stands before the keys of rules and limits.
    pub(crate) within: &'static str,
}

impl Values<'_, '_> {
    /// The one place where a value is read: `parse` judges, the default stands in.
    pub(crate) fn read<T>(
        &mut self,
        key: &str,
        value: Option<&Scalar>,
        default: T,
        accepted: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let Some(value) = value else { return default };
        self.origins.note(key, at(&value.referenced));
        parse(value.value.trim()).unwrap_or_else(|why| {
            let place = at(&value.referenced);
            self.problems.add(place, format!("{key}: {why}"), accepted);
            default
        })
    }

    /// A list of which each value is read; wrong ones are left out.
    pub(crate) fn list<T>(
        &mut self,
        key: &str,
        list: Option<&List>,
        accepted: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let values = list.map_or(&[][..], |list| list.value.as_slice());
        if let Some(list) = list {
            self.origins.note(key, at(&list.referenced));
        }
        values
            .iter()
            .filter_map(|value| {
                self.read(key, Some(value), None, accepted, |text| {
                    parse(text).map(Some)
                })
            })
            .collect()
    }

    pub(crate) fn texts(&mut self, key: &str, list: Option<&List>) -> Vec<String> {
        self.list(key, list, "a text", not_empty)
    }

    pub(crate) fn text(&mut self, key: &str, value: Option<&Scalar>, default: String) -> String {
        self.read(key, value, default, "a text", not_empty)
    }

    pub(crate) fn path(&mut self, key: &str, value: Option<&Scalar>, default: PathBuf) -> PathBuf {
        self.read(key, value, default, "a path", |text| {
            not_empty(text).map(PathBuf::from)
        })
    }

    pub(crate) fn number(
        &mut self,
        key: &str,
        value: Option<&Scalar>,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> u32 {
        let accepted = format!("a whole number, {} to {}", range.start(), range.end());
        self.read(key, value, default, &accepted, |text| {
            match text.parse::<u32>() {
                Ok(number) if range.contains(&number) => Ok(number),
                Ok(_) => Err(format!("`{text}` is out of range")),
                Err(_) => Err(format!("`{text}` is not a number that fits here")),
            }
        })
    }

    pub(crate) fn duration(
        &mut self,
        key: &str,
        value: Option<&Scalar>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let (from, to) = (duration_text(*range.start()), duration_text(*range.end()));
        let accepted = format!("a duration, {from} to {to}");
        self.read(key, value, default, &accepted, |text| {
            let duration = parse_duration(text)?;
            if range.contains(&duration) {
                Ok(duration)
            } else {
                Err(format!("`{text}` is out of range"))
            }
        })
    }

    pub(crate) fn bytes(
        &mut self,
        key: &str,
        value: Option<&Scalar>,
        default: ByteSize,
    ) -> ByteSize {
        let range = ByteSize::mebibytes(1)..=ByteSize::mebibytes(1 << 20);
        self.read(key, value, default, "a size, 1MiB to 1TiB", |text| {
            let size = parse_size(text)?;
            if range.contains(&size) {
                Ok(size)
            } else {
                Err(format!("`{text}` is out of range"))
            }
        })
    }

    pub(crate) fn choice<T: Copy>(
        &mut self,
        key: &str,
        value: Option<&Scalar>,
        default: T,
        choices: &[(&'static str, T)],
    ) -> T {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.read(key, value, default, &names.join(", "), |text| {
            let found = choices.iter().find(|(name, _)| *name == text);
            found
                .map(|(_, choice)| *choice)
                .ok_or_else(|| unknown(text, &names))
        })
    }

    pub(crate) fn address(
        &mut self,
        key: &str,
        value: Option<&Scalar>,
        default: SocketAddr,
    ) -> SocketAddr {
        self.read(key, value, default, ADDRESS, parse_address)
    }

    pub(crate) fn addresses(&mut self, key: &str, list: Option<&List>) -> Vec<SocketAddr> {
        let addresses = self.list(key, list, ADDRESS, parse_address);
        if addresses.len() > MAX_ADDRESSES {
            let what = format!("{key}: {} addresses", addresses.len());
            let accepted = format!("up to {MAX_ADDRESSES} addresses");
            self.problems.add(at_value(list), what, accepted);
        }
        addresses
    }
}

/// Each address is a socket in every worker.
const MAX_ADDRESSES: usize = 16;
const ADDRESS: &str = "an IP address and a port, as 10.0.0.1:6443 or [fd00::1]:6443";

/// The complaint about a word that is none of the known ones.
pub(crate) fn unknown(text: &str, known: &[&str]) -> String {
    match nearest(text, known) {
        Some(name) => format!("`{text}` is not known; did you mean `{name}`?"),
        None => format!("`{text}` is not known"),
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        if text.parse::<std::net::IpAddr>().is_ok() {
            format!("`{text}` has no port")
        } else {
            format!("`{text}` is not an address; names are not resolved")
        }
    })
}

pub(crate) fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("the value is empty".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
