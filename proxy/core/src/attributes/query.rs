//! The query: Go's `url.ParseQuery`, then Kubernetes' ListOptions.
//!
//! The traps, each a way to look cheaper than one is if read naively: names are
//! case-sensitive but may be escaped, `+` is a space, a pair with a `;` or a
//! broken escape is dropped, the first value of a name counts, and one value
//! that does not parse voids the *whole* set of options
//! (`apimachinery:pkg/runtime/conversion.go`, generated conversions of
//! `meta/v1.ListOptions`).

use std::borrow::Cow;
use std::time::Duration;

use super::path::unescape;
use super::selector::{self, is_path_segment};
use super::{Malformed, ReadShape, RvMode, Verb, labels};

/// Go refuses a query of more parameters than this and continues as if there
/// were none. Whether a server is built with such a Go cannot be told, and the
/// two readings differ arbitrarily, so such a request is refused.
const MAX_PARAMETERS: usize = 10_000;

/// First values of the parameters that matter, undecoded in meaning.
#[derive(Debug, Default)]
pub(super) struct Parameters<'a> {
    label_selector: Option<Cow<'a, str>>,
    field_selector: Option<Cow<'a, str>>,
    watch: Option<Cow<'a, str>>,
    allow_watch_bookmarks: Option<Cow<'a, str>>,
    resource_version: Option<Cow<'a, str>>,
    resource_version_match: Option<Cow<'a, str>>,
    timeout_seconds: Option<Cow<'a, str>>,
    limit: Option<Cow<'a, str>>,
    continuation: Option<Cow<'a, str>>,
    send_initial_events: Option<Cow<'a, str>>,
    dry_run: Option<Cow<'a, str>>,
    timeout: Option<Cow<'a, str>>,
}

impl<'a> Parameters<'a> {
    /// Reads a raw query, without its `?`.
    ///
    /// # Errors
    ///
    /// [`Malformed::TooManyParameters`], [`Malformed::ControlCharacter`].
    pub(super) fn read(query: Option<&'a str>) -> Result<Self, Malformed> {
        let mut parameters = Self::default();
        let Some(query) = query.filter(|query| !query.is_empty()) else {
            return Ok(parameters);
        };
        let mut pairs = 1_usize;
        for byte in query.bytes() {
            if byte < b' ' || byte == 0x7f {
                return Err(Malformed::ControlCharacter);
            }
            pairs += usize::from(byte == b'&');
        }
        if pairs > MAX_PARAMETERS {
            return Err(Malformed::TooManyParameters);
        }
        for pair in query.split('&') {
            if pair.is_empty() || pair.contains(';') {
                continue;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = unescape(name, true) else {
                continue;
            };
            let Some(slot) = parameters.slot(&name) else {
                continue;
            };
            if slot.is_none() {
                // A broken value drops the pair, so that a later one counts.
                *slot = unescape(value, true);
            }
        }
        Ok(parameters)
    }

    fn slot(&mut self, name: &str) -> Option<&mut Option<Cow<'a, str>>> {
        Some(match name {
            "labelSelector" => &mut self.label_selector,
            "fieldSelector" => &mut self.field_selector,
            "watch" => &mut self.watch,
            "allowWatchBookmarks" => &mut self.allow_watch_bookmarks,
            "resourceVersion" => &mut self.resource_version,
            "resourceVersionMatch" => &mut self.resource_version_match,
            "timeoutSeconds" => &mut self.timeout_seconds,
            "limit" => &mut self.limit,
            "continue" => &mut self.continuation,
            "sendInitialEvents" => &mut self.send_initial_events,
            "dryRun" => &mut self.dry_run,
            "timeout" => &mut self.timeout,
            _ => return None,
        })
    }

    /// Decodes the set as the server decodes ListOptions.
    pub(super) fn list_options(&self) -> Options<'_> {
        self.decode().unwrap_or_else(|Undecodable| Options {
            decoded: false,
            // On this path the server compares with ToLower, which knows less
            // than EqualFold does.
            watch: self
                .watch
                .as_deref()
                .is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false")),
            name: None,
            limit: 0,
        })
    }

    fn decode(&self) -> Result<Options<'_>, Undecodable> {
        if let Some(seconds) = self.timeout_seconds.as_deref() {
            seconds.parse::<i64>().map_err(|_| Undecodable)?;
        }
        let limit = match self.limit.as_deref() {
            Some(limit) => limit.parse::<i64>().map_err(|_| Undecodable)?,
            None => 0,
        };
        if !labels::is_valid(self.label_selector.as_deref().unwrap_or_default()) {
            return Err(Undecodable);
        }
        let selector = self.field_selector.as_deref().unwrap_or_default();
        let name = selector::pinned_name(selector)
            .map_err(|selector::Invalid| Undecodable)?
            .filter(|name| is_path_segment(name));
        Ok(Options {
            decoded: true,
            watch: boolean(self.watch.as_deref()).unwrap_or(false),
            name,
            limit,
        })
    }

    /// What makes the read cheap or dear. `decoded` as [`Options::decoded`]: if
    /// false, everything that could make it cheaper is ignored.
    pub(super) fn read_shape(&self, verb: Verb, decoded: bool, limit: i64) -> ReadShape {
        if verb == Verb::Get {
            // A single read knows no other option, so none can void this one.
            return ReadShape {
                version: self.version(verb, false, false),
                ..ReadShape::default()
            };
        }
        if !decoded {
            return ReadShape {
                version: RvMode::Exact,
                send_initial_events: Some(true),
                ..ReadShape::default()
            };
        }
        let has_continue = self
            .continuation
            .as_deref()
            .is_some_and(|token| !token.is_empty());
        let limit = u64::try_from(limit).ok().filter(|limit| *limit > 0);
        ReadShape {
            version: self.version(verb, limit.is_some(), has_continue),
            limit,
            has_continue,
            send_initial_events: boolean(self.send_initial_events.as_deref()),
            allow_watch_bookmarks: boolean(self.allow_watch_bookmarks.as_deref()).unwrap_or(false),
            timeout_seconds: self
                .timeout_seconds
                .as_deref()
                .and_then(|seconds| seconds.parse().ok()),
        }
    }

    /// `delegator.ShouldDelegateList` of the server, as a mode.
    fn version(&self, verb: Verb, limited: bool, continues: bool) -> RvMode {
        let version = self.resource_version.as_deref().unwrap_or_default();
        // "00" is not "0" to the server's shortcuts, but parses to it: a watch
        // from "00" replays the whole state all the same.
        let zero = !version.is_empty() && version.bytes().all(|digit| digit == b'0');
        match self.resource_version_match.as_deref().unwrap_or_default() {
            "" if version.is_empty() => RvMode::Unset,
            "" if verb == Verb::List && limited && !continues && version != "0" => RvMode::Exact,
            "" | "NotOlderThan" if zero => RvMode::Zero,
            "" => RvMode::NotOlderThan,
            "NotOlderThan" if version.is_empty() => RvMode::Unset,
            "NotOlderThan" => RvMode::NotOlderThan,
            // "Exact", and what the server does not know: past the cache.
            _ if verb == Verb::Watch && version.is_empty() => RvMode::Unset,
            _ if verb == Verb::Watch && zero => RvMode::Zero,
            _ => RvMode::Exact,
        }
    }

    /// `dryRun` present and not empty: nothing will be stored.
    pub(super) fn dry_run(&self) -> bool {
        self.dry_run.as_deref() == Some("All")
    }

    /// The `timeout` parameter, if it is a Go duration.
    pub(super) fn timeout(&self) -> Option<Duration> {
        go_duration(self.timeout.as_deref()?)
    }

    /// The raw selectors: field, then label.
    pub(super) fn into_selectors(self) -> (Option<Cow<'a, str>>, Option<Cow<'a, str>>) {
        (self.field_selector, self.label_selector)
    }
}

/// What the server gets out of decoding ListOptions.
#[derive(Debug)]
pub(super) struct Options<'p> {
    pub(super) decoded: bool,
    pub(super) watch: bool,
    pub(super) name: Option<Cow<'p, str>>,
    pub(super) limit: i64,
}

struct Undecodable;

/// The boolean codec: present means true, save for `0` and `false` in any case.
fn boolean(value: Option<&str>) -> Option<bool> {
    let value = value?;
    let mut letters = value.chars();
    // EqualFold also folds U+017F (long s) to `s`.
    let is_false = "false".chars().all(|expected| {
        letters.next().is_some_and(|letter| {
            letter.eq_ignore_ascii_case(&expected) || (expected == 's' && letter == '\u{17f}')
        })
    }) && letters.next().is_none();
    Some(value != "0" && !is_false)
}

/// A positive Go duration (`1h2m3.5s`, `300ms`); `None` if it is none.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let unit_at =
            rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, tail) = rest.split_at_checked(unit_at)?;
        let number: f64 = number.parse().ok()?;
        let unit_end = tail
            .find(|character: char| character.is_ascii_digit() || character == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        seconds += number
            * match unit {
                "h" => 3_600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" | "μs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_zero_and_false_are_false() {
        for (value, expected) in [
            ("0", false),
            ("false", false),
            ("FaLsE", false),
            ("fal\u{17f}e", false),
            ("", true),
            ("1", true),
            ("no", true),
            ("00", true),
            (" false", true),
            ("falsey", true),
        ] {
            assert_eq!(boolean(Some(value)), Some(expected), "{value:?}");
        }
        assert_eq!(boolean(None), None);
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        assert_eq!(go_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(go_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(go_duration("1.5s"), Some(Duration::from_millis(1_500)));
        assert_eq!(go_duration("0"), Some(Duration::ZERO));
        for wrong in ["", "5", "-1s", "s", "1x", "1.2.3s", "é"] {
            assert_eq!(go_duration(wrong), None, "{wrong}");
        }
    }
}
