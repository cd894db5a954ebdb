//! Request lines, made up: grammar first, then damage.

use std::fmt;

use fastrand::Rng;
use http::Uri;

#[path = "words.rs"]
mod words;

use words::{
    BOOLEANS, CONTAINERS, DAMAGE, FIELD_TOKENS, GROUPS, LABEL_TOKENS, METHODS, NAMES, NUMBERS,
    PARAMETERS, PREFIXES, RESOURCES, SEPARATORS, SPECIALS, STEPS, SUBRESOURCES, USUAL_METHODS,
    VALUES, VERSIONS,
};

/// A request line, as a method and a raw target; the target is of bytes, but
/// holds no line feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) method: String,
    pub(crate) target: Vec<u8>,
}

impl Case {
    pub(crate) fn new(method: &str, target: &[u8]) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_vec(),
        }
    }

    /// The line that asks a program about it.
    pub(crate) fn line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(self.method.len() + self.target.len() + 2);
        line.extend_from_slice(self.method.as_bytes());
        line.push(b' ');
        line.extend_from_slice(&self.target);
        line.push(b'\n');
        line
    }

    /// Whether the target begins with its path, as it does but for proxies.
    pub(crate) fn has_path(&self) -> bool {
        self.target.starts_with(b"/") || self.target == b"*"
    }

    /// The target up to a `#`.
    pub(crate) fn before_fragment(&self) -> &[u8] {
        let end = self.target.iter().position(|byte| *byte == b'#');
        end.and_then(|end| self.target.get(..end))
            .unwrap_or(&self.target)
    }

    /// What reaches the server when the proxy is sent this: path and query as
    /// hyper reads them. What hyper refuses reaches no server; it is as it is.
    pub(crate) fn sent_on(&self) -> Self {
        let target = match Uri::try_from(self.target.as_slice()) {
            Ok(uri) => match uri.path_and_query() {
                Some(target) => target.as_str().as_bytes().to_vec(),
                None => b"/".to_vec(),
            },
            Err(_) => self.target.clone(),
        };
        Self {
            method: self.method.clone(),
            target,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target.escape_ascii().to_string();
        let shown: String = target.chars().take(600).collect();
        write!(formatter, "{} {shown}", self.method)
    }
}

/// An endless sequence of cases, the same for the same seed.
pub(crate) struct Generator(Rng);

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }
}

impl Iterator for Generator {
    type Item = Case;

    fn next(&mut self) -> Option<Case> {
        let rng = &mut self.0;
        let method = if one_in(rng, 4) {
            method(rng)
        } else {
            "GET".to_owned()
        };
        let mut target = path(rng).into_bytes();
        if !one_in(rng, 4) {
            target.push(b'?');
            target.extend(query(rng).into_bytes());
        }
        if one_in(rng, 8) {
            damage(rng, &mut target);
        }
        if !target.starts_with(b"/") && !one_in(rng, 50) {
            target.insert(0, b'/');
        } else if !target.starts_with(b"/") {
            target = b"*".to_vec();
        }
        Some(Case { method, target })
    }
}

/// True once in so many times.
fn one_in(rng: &mut Rng, times: u32) -> bool {
    rng.u32(..times) == 0
}

fn pick<'w>(rng: &mut Rng, words: &[&'w str]) -> &'w str {
    rng.choice(words).unwrap_or(&"")
}

fn method(rng: &mut Rng) -> String {
    if one_in(rng, 3) {
        return pick(rng, METHODS).to_owned();
    }
    pick(rng, USUAL_METHODS).to_owned()
}

fn path(rng: &mut Rng) -> String {
    let mut segments: Vec<&str> = Vec::new();
    if one_in(rng, 10) {
        segments.extend((0..rng.usize(..8)).map(|_| pick(rng, STEPS)));
    } else {
        let prefix = if one_in(rng, 8) {
            pick(rng, PREFIXES)
        } else {
            pick(rng, &["api", "apis"])
        };
        segments.push(prefix);
        if prefix != "api" {
            segments.push(pick(rng, GROUPS));
        }
        segments.push(pick(rng, VERSIONS));
        if one_in(rng, 6) {
            segments.push(pick(rng, SPECIALS));
        }
        if !one_in(rng, 3) {
            segments.push(pick(rng, CONTAINERS));
            segments.push(pick(rng, NAMES));
        }
        if !one_in(rng, 12) {
            segments.push(pick(rng, RESOURCES));
        }
        if one_in(rng, 4) {
            segments.push(pick(rng, NAMES));
            if one_in(rng, 2) {
                segments.push(pick(rng, SUBRESOURCES));
                segments.extend((0..rng.usize(..3)).map(|_| pick(rng, STEPS)));
            }
        }
    }
    if one_in(rng, 12) {
        let at = rng.usize(..=segments.len());
        segments.insert(at, pick(rng, STEPS));
    }
    let mut path = String::new();
    for segment in segments {
        path.push_str(if one_in(rng, 40) { "//" } else { "/" });
        if one_in(rng, 3) {
            path.push_str(segment);
        } else {
            let one_of = if one_in(rng, 12) { 3 } else { 10_000 };
            path.push_str(&escape(rng, segment, one_of));
        }
    }
    if one_in(rng, 12) {
        path.push('/');
    }
    if one_in(rng, 60) {
        // A slash that is not one until it is decoded.
        path = path.replacen('/', "%2f", 3).replacen("%2f", "/", 1);
    }
    path
}

fn query(rng: &mut Rng) -> String {
    let mut query = String::new();
    for _ in 0..rng.usize(..6) {
        if !query.is_empty() {
            query.push_str(if one_in(rng, 24) {
                pick(rng, SEPARATORS)
            } else {
                "&"
            });
        }
        let name = pick(rng, PARAMETERS);
        let value = value(rng, name);
        let one_of = if one_in(rng, 12) { 4 } else { 10_000 };
        query.push_str(&escape(rng, name, one_of));
        match value {
            None => {}
            Some(value) => {
                query.push('=');
                let one_of = *rng.choice(&[1, 2, 8, 1_000]).unwrap_or(&1);
                query.push_str(&escape(rng, &value, one_of));
            }
        }
    }
    query
}

/// A value such as the parameter takes, or any; `None` for no `=`.
fn value(rng: &mut Rng, parameter: &str) -> Option<String> {
    if one_in(rng, 16) {
        return None;
    }
    if one_in(rng, 10) {
        return Some(pick(rng, VALUES).to_owned());
    }
    Some(match parameter {
        "fieldSelector" => field_selector(rng),
        "labelSelector" => label_selector(rng),
        "watch" | "allowWatchBookmarks" | "sendInitialEvents" => pick(rng, BOOLEANS).to_owned(),
        // A number is broken more often than not among these; that voids all
        // else, so most requests get a good one.
        "limit" | "timeoutSeconds" if one_in(rng, 5) => pick(rng, NUMBERS).to_owned(),
        "limit" | "timeoutSeconds" => rng.u16(..).to_string(),
        _ => pick(rng, VALUES).to_owned(),
    })
}

fn field_selector(rng: &mut Rng) -> String {
    if one_in(rng, 4) {
        return soup(rng, FIELD_TOKENS);
    }
    let mut terms = Vec::new();
    for _ in 0..rng.usize(1..4) {
        let field = if one_in(rng, 3) {
            pick(
                rng,
                &["spec.nodeName", "metadata.namespace", "status.phase", ""],
            )
        } else {
            "metadata.name"
        };
        let operator = pick(rng, &["=", "=", "=", "==", "==", "!=", "===", "=!", ""]);
        terms.push(format!("{field}{operator}{}", pick(rng, NAMES)));
    }
    terms.join(pick(rng, &[",", ",", ",", ",,", "\\,", ", "]))
}

fn label_selector(rng: &mut Rng) -> String {
    if one_in(rng, 3) {
        return soup(rng, LABEL_TOKENS);
    }
    let mut terms = Vec::new();
    for _ in 0..rng.usize(1..4) {
        let key = pick(
            rng,
            &[
                "app", "a.b/c", "in", "notin", "A_b.c", "k8s.io/x", "a/", "é", "5",
            ],
        );
        let blank = pick(rng, &["", "", " ", "\t", "  ", "\0"]);
        let value = pick(
            rng,
            &[
                "a",
                "web",
                "",
                "5",
                "in",
                "-",
                "a b",
                "x_y.z",
                "99999999999999999999",
            ],
        );
        terms.push(match rng.u8(..10) {
            0 => key.to_owned(),
            1 => format!("!{blank}{key}"),
            2 => format!("{key}{blank}={blank}{value}"),
            3 => format!("{key}{blank}=={blank}{value}"),
            4 => format!("{key}{blank}!={blank}{value}"),
            5 => format!("{key} in {blank}({value},{blank}b)"),
            6 => format!("{key} notin ({value})"),
            7 => format!("{key}{blank}>{blank}{value}"),
            8 => format!("{key}{blank}<{blank}{value}"),
            _ => format!("{key} in ({value},,)"),
        });
    }
    terms.join(pick(rng, &[",", ",", ",", " , ", ",,", ";"]))
}

fn soup(rng: &mut Rng, tokens: &[&str]) -> String {
    (0..rng.usize(..9)).map(|_| pick(rng, tokens)).collect()
}

/// Escapes one letter in `one_of`, and, save now and then, all that would not
/// arrive unescaped.
fn escape(rng: &mut Rng, text: &str, one_of: u32) -> String {
    let careless = one_in(rng, 12);
    let mut escaped = String::new();
    for letter in text.chars() {
        let special = !letter.is_ascii_graphic() || "%&;#+<>`\"".contains(letter);
        if letter == ' ' && one_in(rng, 2) {
            escaped.push('+');
        } else if (special && !careless) || one_in(rng, one_of) {
            for byte in letter.to_string().bytes() {
                escaped.push_str(&if one_in(rng, 2) {
                    format!("%{byte:02X}")
                } else {
                    format!("%{byte:02x}")
                });
            }
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

/// Damages a few places.
fn damage(rng: &mut Rng, target: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..=target.len());
        match rng.u8(..5) {
            0 if at < target.len() => {
                target.remove(at);
            }
            1 if at < target.len() => {
                let end = (at + rng.usize(1..12)).min(target.len());
                let copy: Vec<u8> = target.drain(at..end).collect();
                let times = rng.usize(0..3);
                target.splice(at..at, copy.repeat(times));
            }
            2 => target.truncate(at),
            3 => {
                let byte = rng.u8(..);
                target.insert(at, if byte == b'\n' { b'\r' } else { byte });
            }
            _ => {
                target.splice(at..at, pick(rng, DAMAGE).bytes());
            }
        }
    }
}
