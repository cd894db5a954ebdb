//! Selectors, as far as they decide what a read touches.
//!
//! Of a field selector only two things matter here: whether the server can
//! parse it (if not, the whole query fails to decode and the request loses its
//! name), and whether it pins `metadata.name`. Follows
//! `apimachinery:pkg/fields/selector.go`.

use std::borrow::Cow;

/// A field selector the server would refuse.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid;

/// The name that `metadata.name=NAME` (or `==`) pins, if any term does.
///
/// The server sorts the terms before it looks, so of several pinned names the
/// smallest *term* counts; it refuses the request later if they contradict.
///
/// # Errors
///
/// [`Invalid`] if a term has no operator, or its value holds an unescaped `,`
/// or `=` or an unknown escape.
pub(super) fn pinned_name(selector: &str) -> Result<Option<Cow<'_, str>>, Invalid> {
    let mut pinned: Option<(&str, Cow<'_, str>)> = None;
    for term in Terms(Some(selector)) {
        if term.is_empty() {
            continue;
        }
        let (field, equal, value) = split_operator(term).ok_or(Invalid)?;
        let value = unescape(value)?;
        if equal
            && field == "metadata.name"
            && pinned.as_ref().is_none_or(|(least, _)| term < *least)
        {
            pinned = Some((term, value));
        }
    }
    Ok(pinned.map(|(_, name)| name))
}

/// Whether the server is certain to accept this label selector.
///
/// Covers the forms `key`, `!key`, `key=value`, `key==value`, `key!=value`. Sets
/// (`key in (a, b)`), comparisons and blanks may be valid too, but are treated
/// as doubtful: the only consequence is that a name pinned beside them is not
/// believed, which is the more expensive reading.
pub(super) fn is_plain_label_selector(selector: &str) -> bool {
    selector.is_empty() || selector.split(',').all(is_plain_label_term)
}

fn is_plain_label_term(term: &str) -> bool {
    if let Some(key) = term.strip_prefix('!') {
        return is_label_key(key);
    }
    match split_operator(term) {
        None => is_label_key(term),
        Some((key, _, value)) => is_label_key(key) && (value.is_empty() || is_label_part(value)),
    }
}

fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        None => is_label_part(key),
        // The parts of a DNS name are stricter than what a name may be.
        Some((domain, name)) => {
            domain.len() <= 253
                && domain.split('.').all(|part| {
                    is_label_part(part)
                        && part
                            .bytes()
                            .all(|byte| !byte.is_ascii_uppercase() && byte != b'_')
                })
                && is_label_part(name)
        }
    }
}

/// A name or value of a label: at most 63 characters, alphanumeric at both ends,
/// and not a word of the selector language.
fn is_label_part(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_alphanumeric();
    text.len() <= 63
        && !matches!(text, "in" | "notin")
        && text.bytes().next().is_some_and(alphanumeric)
        && text.bytes().next_back().is_some_and(alphanumeric)
        && text
            .bytes()
            .all(|byte| alphanumeric(byte) || matches!(byte, b'-' | b'_' | b'.'))
}

/// Whether a name can be a path segment; if not, the server ignores the pin.
pub(super) fn is_path_segment(name: &str) -> bool {
    !matches!(name, "." | "..") && !name.contains(['/', '%'])
}

/// The comma-separated terms; an escaped comma does not separate.
struct Terms<'s>(Option<&'s str>);

impl<'s> Iterator for Terms<'s> {
    type Item = &'s str;

    fn next(&mut self) -> Option<&'s str> {
        let rest = self.0?;
        let mut escaped = false;
        let comma = rest.char_indices().find(|(_, character)| {
            let separates = *character == ',' && !escaped;
            escaped = *character == '\\' && !escaped;
            separates
        });
        match comma.and_then(|(at, _)| rest.split_at_checked(at)) {
            Some((term, tail)) => {
                self.0 = tail.strip_prefix(',');
                Some(term)
            }
            None => {
                self.0 = None;
                Some(rest)
            }
        }
    }
}

/// Field, whether the operator demands equality, and the raw value.
fn split_operator(term: &str) -> Option<(&str, bool, &str)> {
    let at = term
        .char_indices()
        .map(|(at, _)| term.split_at(at))
        .find(|(_, rest)| rest.starts_with('=') || rest.starts_with("!="))?;
    let (field, rest) = at;
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((field, false, value));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((field, true, value))
}

fn unescape(value: &str) -> Result<Cow<'_, str>, Invalid> {
    if !value.contains(['\\', ',', '=']) {
        return Ok(Cow::Borrowed(value));
    }
    let mut literal = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => literal.push(escaped),
                _ => return Err(Invalid),
            },
            ',' | '=' => return Err(Invalid),
            plain => literal.push(plain),
        }
    }
    Ok(Cow::Owned(literal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_equality_on_the_name_pins_it() {
        let name = |selector| pinned_name(selector).map(|name| name.map(Cow::into_owned));
        let some = |name: &str| Ok(Some(name.to_owned()));
        assert_eq!(name(""), Ok(None));
        assert_eq!(name("metadata.name=a"), some("a"));
        assert_eq!(name("metadata.name==a"), some("a"));
        assert_eq!(name("metadata.name="), some(""));
        assert_eq!(name("metadata.name!=a"), Ok(None));
        assert_eq!(name("spec.nodeName=n,metadata.name=a,"), some("a"));
        assert_eq!(name("metadata.name=b,metadata.name=a"), some("a"));
        assert_eq!(name(r"metadata.name=a\,b"), some("a,b"));
        assert_eq!(name("metadata.name"), Err(Invalid));
        assert_eq!(name("metadata.name=a=b"), Err(Invalid));
        assert_eq!(name(r"metadata.name=a\b"), Err(Invalid));
        assert_eq!(name("metadata.name=a\\"), Err(Invalid));
    }

    #[test]
    fn a_doubtful_label_selector_is_not_called_plain() {
        for plain in [
            "",
            "app",
            "!app",
            "app=web",
            "app==Web_1.0",
            "app!=",
            "a=b,c=d",
            "app.kubernetes.io/name=web",
        ] {
            assert!(is_plain_label_selector(plain), "{plain}");
        }
        for doubtful in [
            "a===b", "a in (b)", ",", "=", "a=b=c", "a>b", "-a", "(", "in", "A.b/c=d", "a/b/c",
            "a../b", "a = b",
        ] {
            assert!(!is_plain_label_selector(doubtful), "{doubtful}");
        }
    }
}
