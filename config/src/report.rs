//! What is wrong with a file: where, what, and what would be accepted.

use std::fmt;

/// At most this many problems are kept; a file with more is better read from the top.
const MAX_ISSUES: usize = 50;

/// Longest excerpt, in characters; longer lines are cut around the problem.
const MAX_EXCERPT: usize = 100;

/// Everything wrong with one file.
///
/// Problems of the text itself (syntax, unknown and duplicate keys, wrong kinds of
/// nodes) stop at the first; when the text is sound, all wrong values and all
/// contradictions between keys are reported together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    source: String,
    issues: Vec<Issue>,
    left_out: usize,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    place: Option<Place>,
    what: String,
    accepted: Option<String>,
}

/// A position in the text, and the line found there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    line: u64,
    column: u64,
    excerpt: String,
    indent: usize,
    width: usize,
}

impl Issue {
    /// Line of the problem, from 1; none when a whole key is missing.
    #[must_use]
    pub fn line(&self) -> Option<u64> {
        self.place.as_ref().map(|place| place.line)
    }

    /// Column of the problem in characters, from 1.
    #[must_use]
    pub fn column(&self) -> Option<u64> {
        self.place.as_ref().map(|place| place.column)
    }

    /// What is wrong, in one sentence that names the key.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What would be accepted instead.
    #[must_use]
    pub fn accepted(&self) -> Option<&str> {
        self.accepted.as_deref()
    }
}

impl Report {
    /// The problems, in the order of their positions; those without a position first.
    #[must_use]
    pub fn issues(&self) -> &[Issue] {
        &self.issues
    }

    /// For the case that must not happen: no configuration, and no reason either.
    pub(crate) fn unexplained(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            issues: vec![Issue {
                place: None,
                what: "the file could not be read".to_owned(),
                accepted: None,
            }],
            left_out: 0,
        }
    }

    /// The name the text was given.
    #[must_use]
    pub fn source_name(&self) -> &str {
        &self.source
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.issues.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            issue.write(f, &self.source)?;
        }
        if self.left_out > 0 {
            write!(f, "\n\nand {} more", self.left_out)?;
        }
        Ok(())
    }
}

impl Issue {
    fn write(&self, f: &mut fmt::Formatter<'_>, source: &str) -> fmt::Result {
        let Some(place) = &self.place else {
            write!(f, "{source}: {}", self.what)?;
            return self.write_accepted(f, 2);
        };
        let (line, column) = (place.line, place.column);
        write!(f, "{source}:{line}:{column}: {}", self.what)?;
        let number = line.to_string();
        let margin = number.len() + 1;
        write!(f, "\n {number} | {}", place.excerpt)?;
        write!(f, "\n{:margin$} | ", "")?;
        write!(f, "{:1$}", "", place.indent)?;
        f.write_str(&"^".repeat(place.width))?;
        self.write_accepted(f, margin + 1)
    }

    fn write_accepted(&self, f: &mut fmt::Formatter<'_>, margin: usize) -> fmt::Result {
        match &self.accepted {
            Some(accepted) => write!(f, "\n{:margin$}= accepted: {accepted}", ""),
            None => Ok(()),
        }
    }
}

/// A position: line and column from 1 in characters, and how many characters it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At {
    pub(crate) line: u64,
    pub(crate) column: u64,
    pub(crate) width: u64,
}

/// Collects problems of one text.
pub(crate) struct Problems<'a> {
    source: &'a str,
    text: &'a str,
    found: Vec<Issue>,
    left_out: usize,
}

impl<'a> Problems<'a> {
    pub(crate) const fn new(source: &'a str, text: &'a str) -> Self {
        Self {
            source,
            text,
            found: Vec::new(),
            left_out: 0,
        }
    }

    /// Notes a problem; `accepted` may be empty.
    pub(crate) fn add(
        &mut self,
        at: Option<At>,
        what: impl Into<String>,
        accepted: impl Into<String>,
    ) {
        if self.found.len() >= MAX_ISSUES {
            self.left_out += 1;
            return;
        }
        let accepted = accepted.into();
        self.found.push(Issue {
            place: at.map(|at| Place::find(self.text, at)),
            what: what.into(),
            accepted: (!accepted.is_empty()).then_some(accepted),
        });
    }

    /// Whether the value at one of these places is already known to be wrong, so that
    /// comparing it would only add noise.
    pub(crate) fn known_at(&self, places: &[Option<At>]) -> bool {
        places.iter().flatten().any(|at| {
            self.found
                .iter()
                .any(|issue| issue.line() == Some(at.line) && issue.column() == Some(at.column))
        })
    }

    /// The report, or nothing when there is nothing to say.
    pub(crate) fn into_report(mut self) -> Option<Report> {
        if self.found.is_empty() {
            return None;
        }
        self.found
            .sort_by_key(|issue| (issue.line(), issue.column()));
        Some(Report {
            source: self.source.to_owned(),
            issues: self.found,
            left_out: self.left_out,
        })
    }
}

impl Place {
    fn find(text: &str, at: At) -> Self {
        let index = usize::try_from(at.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let line = text.lines().nth(index).unwrap_or("");
        let column = usize::try_from(at.column.saturating_sub(1)).unwrap_or(0);
        // A caret far into a long line is useless without what surrounds it.
        let long = line.chars().nth(MAX_EXCERPT).is_some();
        let skipped = if long {
            column.saturating_sub(MAX_EXCERPT / 2)
        } else {
            0
        };
        let excerpt: String = line
            .chars()
            .skip(skipped)
            .take(MAX_EXCERPT)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let length = excerpt.trim_end().chars().count();
        let indent = (column - skipped).min(length);
        let width = usize::try_from(at.width).unwrap_or(1);
        Self {
            line: at.line,
            column: at.column,
            width: width.min(length - indent).max(1),
            excerpt: excerpt.trim_end().to_owned(),
            indent,
        }
    }
}

/// The known name an unknown one was probably meant to be.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // Long words are not typing errors, and the distance is quadratic.
    if word.chars().count() > 64 {
        return None;
    }
    let short_for = |name: &&&str| word.len() >= 3 && name.starts_with(word);
    if let Some(name) = known.iter().find(short_for) {
        return Some(name);
    }
    known
        .iter()
        .map(|name| (distance(word, name), *name))
        .filter(|(far, name)| *far <= 1 + name.len() / 4)
        .min_by_key(|(far, _)| *far)
        .map(|(_, name)| name)
}

/// Levenshtein distance without regard to case.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().map(|c| c.to_ascii_lowercase()).enumerate() {
        let mut previous = i;
        let mut latest = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(&right) {
            let changed = previous + usize::from(a != *b);
            previous = *cell;
            latest = changed.min(latest + 1).min(previous + 1);
            *cell = latest;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_their_name() {
        let known = ["interval", "path", "target", "timeout"];
        assert_eq!(nearest("intervall", &known), Some("interval"));
        assert_eq!(nearest("Timeout", &known), Some("timeout"));
        assert_eq!(nearest("int", &known), Some("interval"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn long_lines_are_cut_around_the_problem() {
        let text = format!("{}BAD{}", "x".repeat(500), "y".repeat(500));
        let at = At {
            line: 1,
            column: 501,
            width: 3,
        };
        let place = Place::find(&text, at);
        assert!(place.excerpt.chars().count() <= MAX_EXCERPT);
        assert_eq!(&place.excerpt[place.indent..place.indent + 3], "BAD");
    }

    #[test]
    fn a_position_outside_the_text_is_survived() {
        for (line, column) in [(0, 0), (9, 9), (u64::MAX, u64::MAX)] {
            let place = Place::find(
                "a: b\n",
                At {
                    line,
                    column,
                    width: u64::MAX,
                },
            );
            assert!(place.width >= 1);
        }
    }

    #[test]
    fn the_number_of_problems_is_bounded() {
        let mut problems = Problems::new("f", "");
        for _ in 0..MAX_ISSUES + 7 {
            problems.add(None, "wrong", "");
        }
        let report = problems.into_report().unwrap();
        assert_eq!(report.issues().len(), MAX_ISSUES);
        assert!(report.to_string().ends_with("and 7 more"));
    }
}
