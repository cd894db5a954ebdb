//! Field selectors, as far as they decide what a read touches.
//!
//! Only two things matter here: whether the server can parse one (if not, the
//! whole query fails to decode and the request loses its name), and whether it
//! pins `metadata.name`. Follows `apimachinery:pkg/fields/selector.go`.

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
}
