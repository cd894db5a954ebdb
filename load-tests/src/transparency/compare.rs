//! What differs between an answer got straight and one got through the proxy.
//!
//! Much of an answer differs from one time to the next: dates, ids, versions.
//! So each call is made three times, straight, through the proxy, and straight
//! again: only what is the same in both straight answers can be asked of the
//! one between.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::observed::{End, Observed};

/// A difference: which part, and what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// `status`, `header warning`, `body /metadata/name`, `audit /user/groups`.
    pub(super) part: String,
    pub(super) straight: String,
    pub(super) proxied: String,
}

/// The same call made three times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Three<T> {
    pub(super) before: T,
    pub(super) proxied: T,
    pub(super) after: T,
}

impl<T> Three<T> {
    /// The same of each.
    pub(super) fn map<U>(self, mut of: impl FnMut(T) -> U) -> Three<U> {
        Three {
            before: of(self.before),
            proxied: of(self.proxied),
            after: of(self.after),
        }
    }

    /// The same by reference.
    pub(super) const fn each(&self) -> Three<&T> {
        Three {
            before: &self.before,
            proxied: &self.proxied,
            after: &self.after,
        }
    }
}

/// How much of the contents of an answer could be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Depth {
    /// Every byte.
    #[default]
    Bytes,
    /// Everything but what differs from one time to the next by itself.
    Structure,
    /// Status and headers only.
    Head,
}

impl Depth {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "every byte",
            Self::Structure => "all that is the same each time",
            Self::Head => "status and headers only",
        }
    }
}

/// Headers that say something else every time.
const OF_THE_MOMENT: [&str; 2] = ["date", "audit-id"];

/// Compares three answers to the same request.
pub(super) fn answers(three: Three<&Observed>, volatile: bool) -> (Vec<Found>, Depth) {
    let mut found = Vec::new();
    let mut text = |part: &str, three: Three<String>| {
        if three.before == three.after && three.before != three.proxied {
            found.push(Found {
                part: part.to_owned(),
                straight: three.before,
                proxied: three.proxied,
            });
        }
    };
    text("status", three.map(|seen| seen.status.to_string()));
    text(
        "status line",
        three.map(|seen| seen.status_line.clone().unwrap_or_default()),
    );
    text(
        "interim answers",
        three.map(|seen| format!("{:?}", seen.interim)),
    );
    text("end", three.map(|seen| ended(&seen.end).to_owned()));
    text("trailers", three.map(|seen| format!("{:?}", seen.trailers)));
    let names: BTreeSet<String> = [three.before, three.proxied, three.after]
        .iter()
        .flat_map(|seen| seen.headers.iter().map(|(name, _)| name.to_lowercase()))
        .collect();
    for name in names {
        let of = |seen: &Observed| values(seen, &name);
        text(&format!("header {name}"), three.map(of));
        let spelling = |seen: &Observed| spelling(seen, &name);
        text(&format!("spelling of header {name}"), three.map(spelling));
    }
    let depth = if volatile {
        Depth::Head
    } else {
        bodies(three.map(|seen| &seen.body[..]), &mut found)
    };
    if depth != Depth::Bytes {
        // Other contents, of which all that matters has been compared, may have
        // another length; but they have to have one.
        let other_length = |found: &Found| {
            found.part == "header content-length"
                && ![&found.straight, &found.proxied].contains(&&"absent".to_owned())
        };
        found.retain(|found| !other_length(found));
    }
    (found, depth)
}

fn ended(end: &End) -> &'static str {
    match end {
        End::Missing => "no answer",
        End::Complete => "complete",
        End::Left => "left",
        End::Broken(_) => "broken off",
    }
}

/// All values of a header, in order; only whether it is there if it is another
/// one every time.
fn values(seen: &Observed, name: &str) -> String {
    let values: Vec<&str> = seen
        .headers
        .iter()
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
        .collect();
    if values.is_empty() {
        "absent".to_owned()
    } else if OF_THE_MOMENT.contains(&name) {
        format!("{} of them", values.len())
    } else {
        format!("{values:?}")
    }
}

/// How a header's name is written, where it is there.
fn spelling(seen: &Observed, name: &str) -> String {
    let found = seen
        .headers
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map_or_else(String::new, |(key, _)| key.clone())
}

fn bodies(three: Three<&[u8]>, found: &mut Vec<Found>) -> Depth {
    if three.before == three.proxied {
        return Depth::Bytes;
    }
    if let Some(values) = json(three) {
        structures("body ", values.each(), found);
        return Depth::Structure;
    }
    if let Some(lines) = lines(three) {
        structures("body line ", lines.each(), found);
        return Depth::Structure;
    }
    if three.before == three.after {
        found.push(Found {
            part: "body".to_owned(),
            straight: described(three.before),
            proxied: described(three.proxied),
        });
        return Depth::Bytes;
    }
    Depth::Head
}

/// All three as JSON values that follow each other, if they are that.
fn json(three: Three<&[u8]>) -> Option<Three<Value>> {
    let parse = |bytes: &[u8]| -> Option<Value> {
        let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(bytes)
            .into_iter()
            .collect();
        let mut values = Value::Array(values.ok()?);
        settle_order(&mut values);
        Some(values)
    };
    Some(Three {
        before: parse(three.before)?,
        proxied: parse(three.proxied)?,
        after: parse(three.after)?,
    })
}

/// All three as lines of text, if they are that.
fn lines(three: Three<&[u8]>) -> Option<Three<Value>> {
    let parse = |bytes: &[u8]| -> Option<Value> {
        let text = std::str::from_utf8(bytes).ok()?;
        Some(text.lines().map(Value::from).collect())
    };
    Some(Three {
        before: parse(three.before)?,
        proxied: parse(three.proxied)?,
        after: parse(three.after)?,
    })
}

/// Walks three values at once. What differs between the straight ones may
/// differ in the one between, but not in its type.
pub(super) fn structures(path: &str, three: Three<&Value>, found: &mut Vec<Found>) {
    match (three.before, three.proxied, three.after) {
        (Value::Object(before), Value::Object(proxied), Value::Object(after)) => {
            let keys: BTreeSet<&String> = before
                .keys()
                .chain(proxied.keys())
                .chain(after.keys())
                .collect();
            for key in keys {
                let path = format!("{path}/{key}");
                match (before.get(key), proxied.get(key), after.get(key)) {
                    (Some(before), Some(proxied), Some(after)) => {
                        let three = Three {
                            before,
                            proxied,
                            after,
                        };
                        structures(&path, three, found);
                    }
                    (Some(before), None, Some(_)) => found.push(Found {
                        part: path,
                        straight: shown(before),
                        proxied: "absent".to_owned(),
                    }),
                    (None, Some(proxied), None) => found.push(Found {
                        part: path,
                        straight: "absent".to_owned(),
                        proxied: shown(proxied),
                    }),
                    // There in one straight answer and not in the other.
                    _ => {}
                }
            }
        }
        (Value::Array(before), Value::Array(proxied), Value::Array(after))
            if before.len() == after.len() && before.len() == proxied.len() =>
        {
            for (index, before) in before.iter().enumerate() {
                if let (Some(proxied), Some(after)) = (proxied.get(index), after.get(index)) {
                    let three = Three {
                        before,
                        proxied,
                        after,
                    };
                    structures(&format!("{path}/{index}"), three, found);
                }
            }
        }
        (Value::Array(before), Value::Array(proxied), Value::Array(after))
            if before.len() == after.len() =>
        {
            found.push(Found {
                part: format!("{path} (how many)"),
                straight: format!("{}: {}", before.len(), shown(three.before)),
                proxied: format!("{}: {}", proxied.len(), shown(three.proxied)),
            });
        }
        (before, proxied, after) => {
            if is_age(before) && is_age(proxied) {
                return;
            }
            let same_kind = std::mem::discriminant(before) == std::mem::discriminant(proxied);
            if before != proxied && (before == after || !same_kind) {
                found.push(Found {
                    part: path.to_owned(),
                    straight: shown(before),
                    proxied: shown(proxied),
                });
            }
        }
    }
}

/// How old something is, as tables say it: `0s`, `12m`.
fn is_age(value: &Value) -> bool {
    let digits = value
        .as_str()
        .and_then(|text| text.strip_suffix(['s', 'm', 'h', 'd']));
    digits.is_some_and(|digits| {
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Sorts what the server sorts by times of whole seconds, and so by chance.
fn settle_order(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                if let ("managedFields", Value::Array(fields)) = (key.as_str(), &mut *member) {
                    let by = |field: &Value| {
                        ["manager", "operation", "subresource"].map(|key| field[key].to_string())
                    };
                    fields.sort_by_key(by);
                } else {
                    settle_order(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(settle_order),
        _ => {}
    }
}

fn shown(value: &Value) -> String {
    super::call::shortened(&value.to_string(), 300)
}

fn described(bytes: &[u8]) -> String {
    let beginning = bytes.get(..200).unwrap_or(bytes);
    format!(
        "{} bytes: {}",
        bytes.len(),
        String::from_utf8_lossy(beginning).escape_debug()
    )
}

/// Puts the variables' names in place of their values, so that runs can be
/// compared.
pub(super) fn unnamed(text: &str, variables: &BTreeMap<&'static str, String>) -> String {
    let mut text = text.to_owned();
    for (name, value) in variables {
        // A short number would be found everywhere.
        if value.len() >= 6 {
            text = text.replace(value.as_str(), &format!("<{name}>"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parts(before: Value, proxied: Value, after: Value) -> Vec<String> {
        let mut found = Vec::new();
        let three = Three {
            before: &before,
            proxied: &proxied,
            after: &after,
        };
        structures("", three, &mut found);
        found.into_iter().map(|found| found.part).collect()
    }

    #[test]
    fn what_differs_by_itself_is_no_difference() {
        let object = |uid: &str, version: u32| json!({ "uid": uid, "v": version, "a": [1, 2] });
        assert_eq!(
            parts(object("x", 1), object("y", 2), object("z", 3)),
            [""; 0]
        );
    }

    #[test]
    fn what_differs_only_through_the_proxy_is_found() {
        let straight = json!({ "a": 1, "b": [1, 2], "c": { "d": "x" } });
        let found = |proxied| parts(straight.clone(), proxied, straight.clone());
        assert_eq!(
            found(json!({ "a": 2, "b": [1, 2], "c": { "d": "x" } })),
            ["/a"]
        );
        assert_eq!(
            found(json!({ "b": [1, 3], "c": { "d": "x", "e": 1 } })),
            ["/a", "/b/1", "/c/e"]
        );
        assert_eq!(
            found(json!({ "a": 1, "b": [1], "c": { "d": "x" } })),
            ["/b (how many)"]
        );
    }

    #[test]
    fn what_differs_by_itself_still_has_its_type() {
        assert_eq!(parts(json!("a"), json!(1), json!("b")), [""]);
    }

    #[test]
    fn headers_are_compared_with_their_spelling_and_their_number() {
        let seen = |headers: &[(&str, &str)]| Observed {
            status: 200,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Observed::default()
        };
        let straight = seen(&[("Date", "now"), ("Vary", "a"), ("Vary", "b")]);
        let proxied = seen(&[("date", "then"), ("Vary", "a")]);
        let three = Three {
            before: &straight,
            proxied: &proxied,
            after: &straight,
        };
        let (found, _) = answers(three, false);
        let parts: Vec<_> = found.iter().map(|found| found.part.as_str()).collect();
        assert_eq!(parts, ["spelling of header date", "header vary"]);
    }
}
