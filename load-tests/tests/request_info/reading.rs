//! Readings of one request, ours and the server's, in a form that compares.

use std::fmt;

use http::Method;
use proxy_core::attributes::{self, Attributes, Verb};
use serde::Deserialize;

use super::generate::Case;

/// What a request is taken to be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Reading {
    pub(crate) is_resource_request: bool,
    pub(crate) verb: String,
    #[serde(default)]
    api_prefix: String,
    pub(crate) api_group: String,
    pub(crate) api_version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) name: String,
    pub(crate) field_selector: String,
    pub(crate) label_selector: String,
    pub(crate) long_running: bool,
}

/// A reading, or a refusal; how it is worded does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Reading(Box<Reading>),
    Refusal { status: u16 },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Wire {
    Refusal {
        #[serde(rename = "error")]
        _error: String,
        status: u16,
    },
    Reading(Box<Reading>),
}

impl Answer {
    /// Reads a line that a program answered.
    ///
    /// # Panics
    /// When it is no answer.
    pub(crate) fn read(line: &[u8]) -> Self {
        match serde_json::from_slice(line) {
            Ok(Wire::Refusal { status, .. }) => Self::Refusal { status },
            Ok(Wire::Reading(reading)) => Self::reading(*reading),
            Err(error) => panic!("{error}: {}", String::from_utf8_lossy(line)),
        }
    }

    /// Our parser's, in this process. It gets a target that begins with a slash
    /// as it is, and so reads even what hyper would never hand it.
    pub(crate) fn ours(case: &Case) -> Self {
        let refused = Self::Refusal { status: 400 };
        let (Ok(method), Ok(target)) = (
            Method::from_bytes(case.method.as_bytes()),
            str::from_utf8(&case.target),
        ) else {
            return refused;
        };
        let (path, query) = split(target);
        match attributes::parse(method.as_str(), path, query, None) {
            Ok(attributes) => Self::reading(Reading::of(&method, &attributes)),
            Err(malformed) => Self::Refusal {
                status: malformed.status(),
            },
        }
    }

    /// Bytes that are no UTF-8 become replacement characters, at one side one
    /// per byte and at the other one per sequence; names have neither.
    fn reading(mut reading: Reading) -> Self {
        for text in [
            &mut reading.verb,
            &mut reading.api_prefix,
            &mut reading.api_group,
            &mut reading.api_version,
            &mut reading.namespace,
            &mut reading.resource,
            &mut reading.subresource,
            &mut reading.name,
            &mut reading.field_selector,
            &mut reading.label_selector,
        ] {
            let mut previous = ' ';
            text.retain(|letter| {
                let repeated = letter == '\u{fffd}' && previous == letter;
                previous = letter;
                !repeated
            });
        }
        Self::Reading(Box::new(reading))
    }
}

impl Reading {
    fn of(method: &Method, of: &Attributes<'_>) -> Self {
        let lower = method.as_str().to_ascii_lowercase();
        let prefix = of.path.trim_start_matches('/').split('/').next();
        Self {
            is_resource_request: of.is_resource,
            verb: match of.verb {
                // A method that is no verb is kept as such, without its name.
                Verb::Other if !of.is_resource && Verb::named(&lower).is_none() => lower,
                verb => verb.as_str().to_owned(),
            },
            api_prefix: prefix
                .filter(|_| of.is_resource)
                .unwrap_or_default()
                .to_owned(),
            api_group: of.api_group.to_string(),
            api_version: of.api_version.to_string(),
            namespace: of.namespace.to_string(),
            resource: of.resource.to_string(),
            subresource: of.subresource.to_string(),
            name: of.name.to_string(),
            field_selector: of.field_selector.clone().unwrap_or_default().into_owned(),
            label_selector: of.label_selector.clone().unwrap_or_default().into_owned(),
            long_running: of.long_running,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refusal { status } => write!(formatter, "refused with {status}"),
            Self::Reading(reading) => write!(formatter, "{reading:?}"),
        }
    }
}

pub(crate) fn split(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

/// Why we refuse, with 400, what the server may take. A refusal gains nobody
/// anything; no other difference is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Caution {
    /// Our parser: more than 10 000 parameters. A server built with a Go that
    /// has this limit reads such a query as if it were empty, with an older one
    /// as it is.
    Parameters,
    /// hyper, and so our parser, takes only UTF-8; Go takes any byte above 0x7f.
    Encoding,
    /// hyper takes no space, `<` and `>`, nor `` ` `` in the path and `"` in the
    /// query; Go does (a space over HTTP/2 only).
    Character,
    /// hyper takes at most 65 534 bytes; Go takes 1 MiB.
    Length,
    /// hyper wants `//HOST` after a scheme; Go also takes `http:/api`, `x:y`.
    Form,
}

impl Caution {
    /// Why our parser refuses the target, if that is only caution.
    pub(crate) fn of_parser(case: &Case) -> Option<Self> {
        let Ok(target) = str::from_utf8(&case.target) else {
            return Some(Self::Encoding);
        };
        let parameters = split(target).1.unwrap_or_default().split('&').count();
        (parameters > 10_000).then_some(Self::Parameters)
    }

    /// Why hyper refuses the target, if that is only caution. Only what stands
    /// before a fragment is looked at.
    pub(crate) fn of_hyper(case: &Case) -> Option<Self> {
        let target = case.target.as_slice();
        let before = case.before_fragment();
        let mut parts = before.splitn(2, |byte| *byte == b'?');
        let (path, query) = (parts.next(), parts.next());
        let holds = |part: Option<&[u8]>, letters: &[u8]| {
            part.is_some_and(|part| part.iter().any(|byte| letters.contains(byte)))
        };
        if target.len() > 65_534 {
            Some(Self::Length)
        } else if str::from_utf8(before).is_err() {
            Some(Self::Encoding)
        } else if holds(path, b" <>`") || holds(query, b" <>\"") {
            Some(Self::Character)
        } else if target.first() != Some(&b'/') {
            Some(Self::Form)
        } else {
            None
        }
    }
}
