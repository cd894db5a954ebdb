//! Requests are read exactly as kube-apiserver reads them.
//!
//! Kubernetes' own `RequestInfoFactory` and long-running predicate, in the Go
//! program, and this project's parser get the same request lines: a corpus of
//! nasty ones and many generated ones. Every reading must be equal in every
//! field, so that nothing can be worded to look cheaper or more important than
//! it is. The one difference allowed is to refuse what the server would take,
//! and only for the reasons of [`Caution`].
//!
//! `SPILLWAY_FUZZ_CASES` and `SPILLWAY_FUZZ_SEED` vary what is generated.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use load_tests::control_plane::{self, GoProgram, REQUIRE_VARIABLE};

#[path = "request_info/generate.rs"]
mod generate;
#[path = "request_info/oracle.rs"]
mod oracle;
#[path = "request_info/reading.rs"]
mod reading;
#[path = "request_info/tally.rs"]
mod tally;

use generate::{Case, Generator};
use reading::{Answer, Caution};
use tally::Tally;

const CORPUS: &str = include_str!("request_info/corpus.txt");
const DEFAULT_CASES: u64 = 50_000;
const DEFAULT_SEED: u64 = 0x5b11_17a7;
/// How many differences are worth reading at once.
const REPORTED: usize = 25;

/// The lines of the corpus and those too long to write down.
fn corpus() -> Vec<Case> {
    let written = CORPUS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("# "))
        .map(|line| {
            let (method, target) = line.split_once(' ').unwrap_or((line, ""));
            Case::new(method, target.as_bytes())
        });
    let parameters = |count: usize, last: &str| {
        let filler = "a&".repeat(count - 1);
        Case::new("GET", format!("/api/v1/pods?{filler}{last}").as_bytes())
    };
    let made = [
        parameters(9_999, "watch"),
        parameters(10_000, "watch"),
        parameters(10_001, "watch"),
        parameters(10_001, "fieldSelector=metadata.name=a"),
        Case::new("GET", b"/api/v1/pods\xff"),
        Case::new("GET", b"/api/v1/pods?fieldSelector=metadata.name=\xc3\x28"),
        Case::new("GET", b"/api/v1/pods\r"),
        Case::new("GET", b"/api/v1/pods\x00?watch"),
        Case::new("GET", b"/api/v1/pods?watch=\x7f"),
        Case::new(
            "GET",
            format!("/api/v1/pods?labelSelector={}", "a".repeat(64)).as_bytes(),
        ),
        Case::new(
            "GET",
            format!(
                "/api/v1/pods?labelSelector={}/a&fieldSelector=metadata.name=n",
                "a".repeat(253)
            )
            .as_bytes(),
        ),
        Case::new(
            "GET",
            format!(
                "/api/v1/pods?labelSelector={}/a&fieldSelector=metadata.name=n",
                "a".repeat(254)
            )
            .as_bytes(),
        ),
        Case::new("GET", format!("/{}", "a/".repeat(30_000)).as_bytes()),
        Case::new("GET", format!("/{}", "a".repeat(70_000)).as_bytes()),
    ];
    written.chain(made).collect()
}

#[test]
fn the_corpus_is_read_as_kubernetes_reads_it() {
    let Some(program) = server() else { return };
    let cases = corpus();
    assert!(cases.len() > 400, "only {} cases", cases.len());
    let mut tally = Tally::default();
    oracle::ask(&program, cases.into_iter(), |case, theirs| {
        tally.compare(&case, &theirs);
    });
    tally.conclude("corpus");
}

#[test]
fn what_is_generated_is_read_as_kubernetes_reads_it() {
    let Some(program) = server() else { return };
    let count = number("SPILLWAY_FUZZ_CASES").unwrap_or(DEFAULT_CASES);
    let seed = number("SPILLWAY_FUZZ_SEED").unwrap_or(DEFAULT_SEED);
    let cases = Generator::new(seed).take(usize::try_from(count).unwrap_or(usize::MAX));
    let mut tally = Tally::default();
    oracle::ask(&program, cases, |case, theirs| {
        tally.compare(&case, &theirs);
    });
    tally.conclude(&format!(
        "SPILLWAY_FUZZ_SEED={seed} SPILLWAY_FUZZ_CASES={count}"
    ));
    if count >= DEFAULT_CASES {
        tally.assert_variety();
    }
}

/// The command reads targets as the proxy does, through hyper's URI. That
/// refuses some of what the server takes, and drops fragments and hosts; what is
/// dropped is not sent on either, so what the server makes of the rest counts.
#[test]
fn the_command_answers_as_kubernetes_does() {
    let Some(program) = server() else { return };
    let cases = corpus();
    let sent_on: Vec<Case> = cases.iter().map(Case::sent_on).collect();
    let mut theirs = Vec::with_capacity(cases.len());
    oracle::ask(&program, sent_on.into_iter(), |_, answer| {
        theirs.push(answer)
    });
    let ours = command(&cases);
    assert_eq!(ours.len(), cases.len(), "one answer per line");

    let mut differences = Vec::new();
    let mut cautions = BTreeSet::new();
    for ((case, ours), theirs) in cases.iter().zip(ours).zip(theirs) {
        let caution = Caution::of_hyper(case).or_else(|| Caution::of_parser(case));
        match (&ours, caution) {
            _ if ours == theirs => {}
            (Answer::Refusal { status: 400 }, Some(caution)) => {
                cautions.insert(caution);
            }
            _ => differences.push(format!("{case}\n  server {theirs}\n  ours   {ours}")),
        }
    }
    differences.truncate(REPORTED);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(cautions.len(), 5, "not each is in the corpus: {cautions:?}");
}

/// What `spillway attributes` says to each case.
fn command(cases: &[Case]) -> Vec<Answer> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_load-tests"))
        .args(["spillway", "attributes"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut stdin = child.stdin.take().expect("its standard input");
    let lines: Vec<u8> = cases.iter().flat_map(Case::line).collect();
    let writer = std::thread::spawn(move || stdin.write_all(&lines));
    let output = child.wait_with_output().expect("the command ends");
    writer.join().expect("no panic").expect("every line taken");
    assert!(output.status.success(), "{}", output.status);
    output
        .stdout
        .split_inclusive(|byte| *byte == b'\n')
        .map(Answer::read)
        .collect()
}

/// The Go program; `None`, with a line that says so, where it cannot be built.
fn server() -> Option<std::path::PathBuf> {
    let required = std::env::var(REQUIRE_VARIABLE).is_ok_and(|value| value == "1");
    match control_plane::go_program(GoProgram::ControlPlane) {
        Ok(program) => Some(program),
        Err(control_plane::Error::Absent { reason }) if !required => {
            eprintln!("skipped: nothing here reads requests as Kubernetes does: {reason}");
            None
        }
        Err(error) => panic!("the program to compare with: {error}"),
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| {
        panic!("{variable}={value}: not a number");
    }))
}
