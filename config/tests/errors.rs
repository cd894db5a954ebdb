//! Every file of `tests/errors` is broken in one way and refused with the text beside it.
//!
//! After a deliberate change, write the texts anew with
//! `UPDATE_REPORTS=1 cargo test -p config --test errors` and read the difference.

use std::fs;
use std::path::{Path, PathBuf};

use config::Config;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_broken_file_is_refused_with_its_report() {
    let mut stale = Vec::new();
    let files = files();
    assert!(files.len() > 30, "the broken files are gone");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let report = match Config::parse(&text, name) {
            Ok(_) => panic!("{name} was accepted"),
            Err(report) => format!("{report}\n"),
        };
        let expected = file.with_extension("txt");
        if std::env::var_os("UPDATE_REPORTS").is_some() {
            fs::write(&expected, &report).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != report {
            stale.push(format!("{name} is refused with\n{report}"));
        }
    }
    assert!(stale.is_empty(), "{}", stale.join("\n"));
}

#[test]
fn every_report_has_its_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.with_extension("yaml").exists(), "{}", path.display());
    }
}

#[test]
fn all_wrong_values_are_reported_at_once_and_in_order() {
    let text =
        "listen: { main: ['192.0.2.10:6443'] }\nlog: { level: loud }\nadmission: { mode: on }\n";
    let report = Config::parse(text, "f").unwrap_err();
    let lines: Vec<_> = report.issues().iter().map(config::Issue::line).collect();
    assert_eq!(lines, [Some(2), Some(3)]);
    assert_eq!(report.source_name(), "f");
}
