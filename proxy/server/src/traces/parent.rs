//! `traceparent`: where a request stands in its client's trace (W3C Trace Context, level 1 and 2).

use std::fmt;

use http::HeaderMap;
use serde::{Serialize, Serializer};

use super::TRACEPARENT;

/// Version, trace, span and flags with their hyphens, in bytes.
const LENGTH: usize = 55;
/// The flag that the caller records its span.
const SAMPLED: u8 = 1;

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace: [u8; 16],
    pub(crate) span: [u8; 8],
    /// The client says that it records its span.
    pub(crate) sampled: bool,
}

impl Parent {
    /// Of a request; `None` if there is none, or several, or one that is not sound.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        Self::read(value.as_bytes())
    }

    /// As the specification has it: lower case, no zero identifiers, and of later versions what is as in version 0.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        let (known, more) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split(|byte| *byte == b'-');
        let mut part = || parts.next();
        let [version] = bytes(part()?)?;
        let parent = Self {
            trace: bytes(part()?)?,
            span: bytes(part()?)?,
            sampled: bytes::<1>(part()?)?
                .iter()
                .all(|flags| flags & SAMPLED != 0),
        };
        let ends = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.first().is_none_or(|byte| *byte == b'-'),
        };
        let zero = parent.trace == [0; 16] || parent.span == [0; 8];
        (ends && !zero && part().is_none()).then_some(parent)
    }
}

/// `N` bytes in lower-case hex, neither more nor fewer.
fn bytes<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let (pairs, rest) = text.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut found = [0; N];
    for (byte, [high, low]) in found.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(found)
}

const fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

/// An identifier, written in lower-case hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hex<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
