//! The path: Go's percent-decoding, then Kubernetes' URL grammar.
//!
//! Follows `NewRequestInfo` (`apiserver:pkg/endpoints/request/requestinfo.go`)
//! step by step, on the *decoded* path, because that is what the server splits:
//! `%2F` creates segments.

use std::borrow::Cow;

use super::{Malformed, Verb};

/// The path taken apart. Slices point into the decoded path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Located<'p> {
    pub(super) verb: Verb,
    pub(super) is_resource: bool,
    /// The verb stands in the path (`/api/v1/watch/pods`), not in the method.
    pub(super) verb_in_path: bool,
    pub(super) api_group: &'p str,
    pub(super) api_version: &'p str,
    pub(super) namespace: &'p str,
    pub(super) resource: &'p str,
    pub(super) name: &'p str,
    pub(super) subresource: &'p str,
    /// `resource[/name[/subresource[/…]]]`.
    pub(super) parts: &'p str,
}

/// Decodes the path as Go's `net/url` does for a request line.
///
/// # Errors
///
/// What makes `net/http` answer 400: an escape that is not two hex digits, a
/// control character, a path that does not begin with a slash.
pub(super) fn decode(path: &str) -> Result<Cow<'_, str>, Malformed> {
    if !path.is_empty() && path != "*" && !path.starts_with('/') {
        return Err(Malformed::NotAbsolute);
    }
    if path.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return Err(Malformed::ControlCharacter);
    }
    unescape(path, false).ok_or(Malformed::Escape)
}

/// Percent-decoding; `plus_is_space` for the components of a query. `None` for
/// an invalid escape. Borrowed if there is nothing to decode. Bytes that are no
/// UTF-8 become U+FFFD: no name of Kubernetes contains either.
pub(super) fn unescape(text: &str, plus_is_space: bool) -> Option<Cow<'_, str>> {
    let special = |byte: &u8| *byte == b'%' || (plus_is_space && *byte == b'+');
    if !text.as_bytes().iter().any(special) {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    Some(Cow::Owned(match String::from_utf8(decoded) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Applies the grammar to a decoded path.
///
/// # Errors
///
/// [`Malformed::VerbWithoutResource`] where the server fails to build a
/// RequestInfo and answers 500.
pub(super) fn locate<'p>(method: &str, path: &'p str) -> Result<Located<'p>, Malformed> {
    let outside = || Located {
        verb: Verb::of_method(method),
        is_resource: false,
        verb_in_path: false,
        api_group: "",
        api_version: "",
        namespace: "",
        resource: "",
        name: "",
        subresource: "",
        parts: "",
    };
    // The groupless prefix needs a version and one part; a group takes one more.
    let Some((prefix, rest)) = path.trim_matches('/').split_once('/') else {
        return Ok(outside());
    };
    let (api_group, rest) = match prefix {
        "api" => ("", rest),
        "apis" => match rest.split_once('/') {
            Some(split) => split,
            None => return Ok(outside()),
        },
        _ => return Ok(outside()),
    };
    let Some((api_version, rest)) = rest.split_once('/') else {
        return Ok(outside());
    };

    let (first, after) = split(rest);
    let (verb, verb_in_path, rest) = match (first, after) {
        ("watch" | "proxy", None) => return Err(Malformed::VerbWithoutResource),
        ("watch", Some(after)) => (Verb::Watch, true, after),
        ("proxy", Some(after)) => (Verb::Proxy, true, after),
        _ => (Verb::of_resource_method(method), false, rest),
    };

    let (namespace, parts) = in_namespace(rest);
    let mut segments = parts.split('/');
    let resource = segments.next().unwrap_or_default();
    let name = segments.next().unwrap_or_default();
    // The path verb `proxy` knows no subresources: what follows belongs to the
    // proxied server.
    let subresource = match segments.next() {
        Some(subresource) if verb != Verb::Proxy => subresource,
        _ => "",
    };
    Ok(Located {
        verb,
        is_resource: true,
        verb_in_path,
        api_group,
        api_version,
        namespace,
        resource,
        name,
        subresource,
        parts,
    })
}

/// `namespaces/NS/…` shifts the parts so that they begin with the resource,
/// unless what follows is a subresource of the namespace itself.
fn in_namespace(parts: &str) -> (&str, &str) {
    let (first, Some(after)) = split(parts) else {
        return ("", parts);
    };
    if first != "namespaces" {
        return ("", parts);
    }
    let (namespace, inner) = split(after);
    match inner {
        Some(inner) if !matches!(split(inner).0, "status" | "finalize") => (namespace, inner),
        _ => (namespace, parts),
    }
}

/// The first segment, and what follows its slash if there is one.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (text, None),
    }
}
