//! Text to configuration: the frame first, then all values, then all relations.

use serde::de::DeserializeOwned;
use serde_saphyr::{DuplicateKeyPolicy, Error, Options};

use crate::model::Config;
use crate::origin::Origins;
use crate::report::{At, Problems, Report, nearest};
use crate::{check, raw, resolve};

/// Longest text accepted, in bytes. A configuration is a few kilobytes; whatever is
/// longer is another file.
pub const MAX_TEXT: usize = 1 << 20;

impl Config {
    /// Reads a configuration; `source_name` is what the report calls the text.
    ///
    /// # Errors
    ///
    /// A [`Report`] of everything wrong: unknown and duplicate keys, values that cannot
    /// be read or are out of range, keys that contradict each other. Nothing is ever
    /// half accepted.
    pub fn parse(text: &str, source_name: &str) -> Result<Self, Report> {
        Self::parse_with_origins(text, source_name).map(|(config, _)| config)
    }

    /// As [`Config::parse`], with the line that each value comes from.
    ///
    /// # Errors
    ///
    /// As [`Config::parse`].
    pub fn parse_with_origins(text: &str, source_name: &str) -> Result<(Self, Origins), Report> {
        let mut problems = Problems::new(source_name, text);
        let config = read::<raw::Config>(text, &mut problems).map(|file| {
            let (config, origins) = resolve::config(&file, &mut problems);
            check::config(&file, &config, &mut problems);
            (config, origins)
        });
        match (config, problems.into_report()) {
            (Some(config), None) => Ok(config),
            (_, Some(report)) => Err(report),
            (None, None) => Err(Report::unexplained(source_name)),
        }
    }
}

/// The frame; `None` after noting why not.
pub(crate) fn read<T: Default + DeserializeOwned>(
    text: &str,
    problems: &mut Problems<'_>,
) -> Option<T> {
    if text.len() > MAX_TEXT {
        let what = format!(
            "the file is {} bytes long; this is not a configuration",
            text.len()
        );
        problems.add(None, what, format!("up to {MAX_TEXT} bytes"));
        return None;
    }
    match serde_saphyr::from_str_with_options::<Option<T>>(text, options()) {
        Ok(file) => Some(file.unwrap_or_default()),
        Err(error) => {
            explain(error.without_snippet(), problems);
            None
        }
    }
}

fn options() -> Options {
    // The excerpt is ours: one look for both passes.
    serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        with_snippet: false,
        // An unquoted `!list` is a tag with no value behind it, and would vanish.
        reject_unsupported_tags: true,
        budget: serde_saphyr::budget! {
            max_depth: 32,
            max_nodes: 100_000,
            max_events: 400_000,
            // One more than accepted: the complaint about it is clearer than the budget's.
            max_documents: 2,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
    }
}

/// Says in our words what serde and the parser found.
fn explain(error: &Error, problems: &mut Problems<'_>) {
    let at: Option<At> = error.location().as_ref().and_then(raw::at);
    let list = |names: &[&'static str]| {
        let mut names = names.to_vec();
        names.sort_unstable();
        names.join(", ")
    };
    match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => {
            let mut what = format!("unknown key `{}`", printable(field));
            if let Some(name) = nearest(field, expected) {
                what += &format!("; did you mean `{name}`?");
            }
            let width = field.chars().count() as u64;
            problems.add(at.map(|at| At { width, ..at }), what, list(expected));
        }
        Error::DuplicateMappingKey { key, .. } => {
            let what = match key {
                Some(key) => format!("`{}` is written twice in this section", printable(key)),
                None => "a key is written twice in this section".to_owned(),
            };
            problems.add(at, what, "every key at most once");
        }
        Error::NullIntoString { .. } => {
            problems.add(at, "a value is missing here", "a value, or no key at all");
        }
        Error::SerdeInvalidType {
            unexpected,
            expected,
            ..
        } => problems.add(
            at,
            format!("found {} where it does not belong", printable(unexpected)),
            kind(expected),
        ),
        Error::Unexpected { expected, .. } => {
            problems.add(at, "this has another form than expected", kind(expected));
        }
        Error::UnexpectedSequenceEnd { .. }
        | Error::UnexpectedMappingEnd { .. }
        | Error::Eof { .. } => problems.add(at, "the file ends too early here", ""),
        Error::MultipleDocuments { .. } => problems.add(
            at,
            "a second document starts here",
            "one document per file, without `---` inside",
        ),
        Error::UnsupportedTag { tag, .. } => problems.add(
            at,
            format!(
                "`{}` is a YAML tag here, which means nothing",
                printable(tag)
            ),
            format!("quotes around it, as \"{}\"", printable(tag)),
        ),
        Error::UnknownAnchor { .. } => {
            problems.add(
                at,
                "nothing in this file has that anchor",
                "an anchor set above",
            );
        }
        Error::Budget { .. } => problems.add(
            at,
            "the file is larger or more deeply nested than any configuration",
            "",
        ),
        Error::ExternalMessage { msg, .. } | Error::Message { msg, .. } => {
            problems.add(at, format!("not YAML: {}", printable(msg)), "");
        }
        Error::AliasError { error, .. } => explain(error, problems),
        other => problems.add(at, printable(&other.to_string()), ""),
    }
}

/// Names of node kinds as an operator knows them.
fn kind(expected: &str) -> String {
    if expected.starts_with("struct") || expected.contains("mapping") {
        "a section of `key: value` lines".to_owned()
    } else if expected.contains("sequence") {
        "a list, as [a, b]".to_owned()
    } else if expected.contains("scalar") || expected.contains("string") {
        "a single value".to_owned()
    } else {
        expected.to_owned()
    }
}

/// One bounded line: the text comes from the file.
fn printable(text: &str) -> String {
    text.chars()
        .take(160)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
