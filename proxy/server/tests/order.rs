//! The data path reads downwards: a module uses earlier ones, and no file grows beyond what one can read.

use std::path::{Path, PathBuf};

/// The numbered modules, as lib.rs lists them.
const PATH: [&str; 7] = [
    "accept",
    "identify",
    "attribute",
    "classify",
    "admit",
    "upstream",
    "account",
];

/// Uses of a later module that are meant: (file, what it uses, why).
const MEANT: [(&str, &str, &str); 3] = [
    (
        "accept/connection.rs",
        "identify::Presented",
        "a connection keeps what its handshake showed",
    ),
    (
        "accept/worker.rs",
        "upstream::Upstream",
        "a worker owns its upstream connections",
    ),
    (
        "accept/worker.rs",
        "account::learn::Reviews",
        "a worker owns the bound on its reviews",
    ),
];

/// Lines a file may have.
const MOST_LINES: usize = 500;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Everything a text names under `crate::`, as `module::rest`; braces are spread, comments left out.
fn uses(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or("").to_owned() + "\n")
        .collect();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        spread("", &code[at + "crate::".len()..], &mut found);
    }
    found
}

/// Reads one path, or a `{…}` of several, from the start of `text`.
fn spread(prefix: &str, text: &str, found: &mut Vec<String>) {
    let text = text.trim_start();
    let Some(inner) = text.strip_prefix('{') else {
        let end =
            text.find(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':'));
        let (name, rest) = text.split_at(end.unwrap_or(text.len()));
        match (name.ends_with("::"), rest.starts_with('{')) {
            (true, true) => spread(&format!("{prefix}{name}"), rest, found),
            _ => found.push(format!("{prefix}{}", name.trim_end_matches(':'))),
        }
        return;
    };
    let (mut depth, mut start) = (0_i32, 0);
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    spread(prefix, &inner[start..at], found);
                }
                start = at + 1;
                if letter == '}' {
                    return;
                }
            }
            _ => {}
        }
    }
}

fn position(module: &str) -> Option<usize> {
    PATH.iter().position(|name| *name == module)
}

/// (file relative to src, what it uses) of every use of a later module.
fn forward() -> Vec<(String, String)> {
    let source = source();
    let mut found = Vec::new();
    for file in files(&source) {
        let name = file
            .strip_prefix(&source)
            .expect("inside")
            .to_string_lossy()
            .into_owned();
        let module = name.split(['/', '.']).next().unwrap_or_default().to_owned();
        let Some(own) = position(&module) else {
            continue;
        };
        let text = std::fs::read_to_string(&file).expect("a file");
        for used in uses(&text) {
            let first = used.split("::").next().unwrap_or_default();
            if position(first).is_some_and(|other| other > own) {
                found.push((name.clone(), used));
            }
        }
    }
    found
}

#[test]
fn the_modules_stand_in_the_order_of_the_path() {
    let text = std::fs::read_to_string(source().join("lib.rs")).expect("lib.rs");
    let declared = |line: &str| {
        let line = line.trim_start_matches("pub ").strip_prefix("mod ")?;
        Some(line.split(';').next()?.to_owned())
    };
    let declared: Vec<String> = text
        .lines()
        .filter_map(declared)
        .filter(|name| position(name).is_some())
        .collect();
    assert_eq!(declared, PATH);
}

#[test]
fn no_module_of_the_path_uses_a_later_one() {
    let meant = |file: &str, used: &str| {
        MEANT.iter().any(|(where_, what, _)| {
            file == *where_ && (used == *what || used.starts_with(&format!("{what}::")))
        })
    };
    let wrong: Vec<_> = forward()
        .into_iter()
        .filter(|(file, used)| !meant(file, used))
        .collect();
    assert!(wrong.is_empty(), "uses of a later module: {wrong:#?}");
}

#[test]
fn no_exception_outlives_its_use() {
    let forward = forward();
    for (file, what, why) in MEANT {
        let used = forward
            .iter()
            .any(|(name, used)| name == file && used.starts_with(what));
        assert!(
            used,
            "{file} no longer uses {what} ({why}): take it off the list"
        );
    }
}

#[test]
fn the_path_starts_only_where_a_request_arrives() {
    let source = source();
    for file in files(&source) {
        let name = file
            .strip_prefix(&source)
            .expect("inside")
            .to_string_lossy()
            .into_owned();
        let text = std::fs::read_to_string(&file).expect("a file");
        let starts = uses(&text)
            .iter()
            .any(|used| used.split("::").next() == Some("handle"));
        assert!(
            !starts || name == "accept/connection.rs",
            "{name} uses handle"
        );
    }
}

#[test]
fn no_file_is_longer_than_one_can_read() {
    for file in files(&source()) {
        let lines = std::fs::read_to_string(&file)
            .expect("a file")
            .lines()
            .count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines", file.display());
    }
}

#[test]
fn uses_are_found_however_they_are_written() {
    let text = "use crate::a::{self, b::C, d::{e, F}}; // crate::no\nuse crate::{g, h::I}; fn f() { crate::j::k(); }";
    assert_eq!(
        uses(text),
        [
            "a::self", "a::b::C", "a::d::e", "a::d::F", "g", "h::I", "j::k"
        ]
    );
}
