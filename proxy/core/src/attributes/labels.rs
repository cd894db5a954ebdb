//! Whether the server can parse a label selector.
//!
//! If it cannot, the whole query fails to decode: the request loses the name a
//! field selector pinned, and `watch` is read by other rules. Follows the lexer
//! and parser of `apimachinery:pkg/labels/selector.go` byte by byte, so that
//! their oddities hold here too: a NUL byte ends a word and disappears, two of
//! them end the selector, and `in` and `notin` are words like any other wherever
//! no operator is expected.

/// The longest name or value of a label, in bytes.
const MAX_PART: usize = 63;
/// The longest prefix of a label's key, in bytes.
const MAX_DOMAIN: usize = 253;

/// Whether `labels.Parse` accepts the selector. Takes time linear in its length
/// and no memory.
pub(super) fn is_valid(selector: &str) -> bool {
    let mut tokens = Tokens::of(selector.as_bytes());
    if tokens.next == Token::End {
        return true;
    }
    loop {
        if requirement(&mut tokens).is_none() {
            return false;
        }
        match tokens.take() {
            Token::End => return true,
            // A requirement must follow; `requirement` refuses anything else.
            Token::Comma => {}
            _ => return false,
        }
    }
}

/// One requirement; `None` if it is none.
fn requirement(tokens: &mut Tokens<'_>) -> Option<()> {
    let absent = tokens.next == Token::Not;
    if absent {
        tokens.take();
    }
    let key = tokens.take().word()?;
    if !is_key(key) {
        return None;
    }
    if absent || matches!(tokens.next, Token::End | Token::Comma) {
        return Some(());
    }
    match tokens.take() {
        Token::Word(b"in" | b"notin") => set(tokens),
        Token::Equal | Token::DoubleEqual | Token::NotEqual => {
            is_value(single(tokens)?).then_some(())
        }
        Token::Greater | Token::Less => {
            let bound = single(tokens)?;
            let number = str::from_utf8(bound).ok()?.parse::<i64>();
            (is_value(bound) && number.is_ok()).then_some(())
        }
        _ => None,
    }
}

/// The value of a comparison, which may be left out.
fn single<'s>(tokens: &mut Tokens<'s>) -> Option<&'s [u8]> {
    match tokens.next {
        Token::End | Token::Comma => Some(b""),
        _ => tokens.take().word(),
    }
}

/// `(a,b)`; any value may be left out, so `()` and `(,,a,)` are sets too.
fn set(tokens: &mut Tokens<'_>) -> Option<()> {
    if tokens.take() != Token::Open {
        return None;
    }
    loop {
        match tokens.take() {
            Token::Close => return Some(()),
            Token::Comma => {}
            Token::Word(value) if is_value(value) => {
                if !matches!(tokens.next, Token::Comma | Token::Close) {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

/// `[DOMAIN/]NAME` (`IsLabelKey` of `apimachinery:pkg/api/validate/content`).
fn is_key(key: &[u8]) -> bool {
    let mut parts = key.rsplitn(2, |byte| *byte == b'/');
    let name = parts.next().unwrap_or_default();
    is_part(name) && parts.next().is_none_or(is_domain)
}

/// A DNS subdomain; unlike a DNS label its parts have no length of their own.
fn is_domain(domain: &[u8]) -> bool {
    domain.len() <= MAX_DOMAIN
        && domain.split(|byte| *byte == b'.').all(|label| {
            is_framed(label, |byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit()
            }) && label
                .iter()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
        })
}

fn is_value(value: &[u8]) -> bool {
    value.is_empty() || is_part(value)
}

/// A name, or a value that is not empty.
fn is_part(part: &[u8]) -> bool {
    part.len() <= MAX_PART
        && is_framed(part, |byte| byte.is_ascii_alphanumeric())
        && part
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Whether there is a first and a last byte, and both are of a kind.
fn is_framed(text: &[u8], kind: impl Fn(&u8) -> bool) -> bool {
    text.first().is_some_and(&kind) && text.last().is_some_and(&kind)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'s> {
    Word(&'s [u8]),
    Not,
    Equal,
    DoubleEqual,
    NotEqual,
    Greater,
    Less,
    Open,
    Close,
    Comma,
    End,
}

impl<'s> Token<'s> {
    fn word(self) -> Option<&'s [u8]> {
        match self {
            Self::Word(word) => Some(word),
            _ => None,
        }
    }
}

/// The lexer, one token ahead.
struct Tokens<'s> {
    next: Token<'s>,
    rest: &'s [u8],
}

impl<'s> Tokens<'s> {
    fn of(selector: &'s [u8]) -> Self {
        let mut tokens = Self {
            next: Token::End,
            rest: selector,
        };
        tokens.take();
        tokens
    }

    /// The token ahead; after the last one [`Token::End`] for ever.
    fn take(&mut self) -> Token<'s> {
        let following = self.lex();
        std::mem::replace(&mut self.next, following)
    }

    fn lex(&mut self) -> Token<'s> {
        let start = split_before(self.rest, |byte| !is_blank(byte)).1;
        let (token, rest) = match start {
            // A NUL is the end, whatever follows.
            [] | [0, ..] => (Token::End, [].as_slice()),
            [b'=', b'=', rest @ ..] => (Token::DoubleEqual, rest),
            [b'!', b'=', rest @ ..] => (Token::NotEqual, rest),
            [b'=', rest @ ..] => (Token::Equal, rest),
            [b'!', rest @ ..] => (Token::Not, rest),
            [b'>', rest @ ..] => (Token::Greater, rest),
            [b'<', rest @ ..] => (Token::Less, rest),
            [b'(', rest @ ..] => (Token::Open, rest),
            [b')', rest @ ..] => (Token::Close, rest),
            [b',', rest @ ..] => (Token::Comma, rest),
            word => {
                let (word, rest) = split_before(word, ends_word);
                (Token::Word(word), rest)
            }
        };
        // The lexer swallows a NUL that ends a token.
        self.rest = rest.strip_prefix(b"\0").unwrap_or(rest);
        token
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn ends_word(byte: u8) -> bool {
    is_blank(byte) || matches!(byte, 0 | b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

/// Splits before the first byte of a kind; all of the text if it has none.
fn split_before(text: &[u8], kind: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let at = text.iter().position(|byte| kind(*byte));
    at.and_then(|at| text.split_at_checked(at))
        .unwrap_or((text, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_parses_is_valid() {
        let longest_part = "a".repeat(63);
        let longest_domain = format!("{}/a", "a".repeat(253));
        for selector in [
            "",
            " \t\r\n",
            "app",
            "!app",
            "! app",
            "app=web",
            "app==Web_1.0",
            "app!=",
            "a = b",
            "a=b,c=d, e ,!f",
            "app.kubernetes.io/name=web",
            "a in (b)",
            "a in(b,c)",
            "a notin ( b , c )",
            "a in ()",
            "a in (,)",
            "a in (,,b,,)",
            "in",
            "in in (in,notin)",
            "a=in",
            "a>5",
            "a < 05",
            "a=,b",
            "a\0",
            "a\0=b",
            "a=\0b",
            "a\0\0(((",
            "\0)))",
            &longest_part,
            &longest_domain,
        ] {
            assert!(is_valid(selector), "{selector:?}");
        }
    }

    #[test]
    fn what_the_server_does_not_parse_is_invalid() {
        let long_part = "a".repeat(64);
        let long_domain = format!("{}/a", "a".repeat(254));
        for selector in [
            ",",
            "a,",
            ",a",
            "a,,b",
            "=",
            "=b",
            "!",
            "!a=b",
            "!!a",
            "a===b",
            "a=b=c",
            "a=!b",
            "a b",
            "a>b",
            "a>",
            "a>=5",
            "a>-5",
            "a>99999999999999999999",
            "-a",
            "a-",
            "a=-b",
            "(",
            "a in",
            "a in b",
            "a in (",
            "a in (b",
            "a in (b c)",
            "a in (b))",
            "a in (b=c)",
            "a IN (b)",
            "A.b/c=d",
            "a_b/c",
            "a/b/c",
            "/a",
            "a/",
            "a../b",
            "a=\u{e4}",
            "a=b\\,c",
            &long_part,
            &long_domain,
        ] {
            assert!(!is_valid(selector), "{selector:?}");
        }
    }
}
