//! The Go program, asked what Kubernetes takes requests to be.

use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use super::generate::Case;
use super::reading::Answer;

/// How far the questions may run ahead of the answers.
const AHEAD: usize = 4_096;

/// Asks one process about all cases and hands over each with its answer.
///
/// # Panics
/// When the program does not answer every case, or answers nonsense.
pub(crate) fn ask(
    program: &Path,
    cases: impl Iterator<Item = Case> + Send,
    mut compare: impl FnMut(Case, Answer),
) {
    let mut child = Command::new(program)
        .arg("requestinfo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let stdin = child.stdin.take().expect("its standard input");
    let mut answers = BufReader::new(child.stdout.take().expect("its standard output"));
    let (asked, asking) = mpsc::sync_channel(AHEAD);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut questions = BufWriter::new(stdin);
            for case in cases {
                // Neither fails unless the other side has given up, and that
                // is where the reason is reported.
                let written = questions.write_all(&case.line());
                if written.is_err() || asked.send(case).is_err() {
                    return;
                }
            }
        });
        let mut line = Vec::new();
        for case in asking {
            line.clear();
            let read = answers.read_until(b'\n', &mut line).expect("an answer");
            assert!(read > 0, "the program ended before it answered {case}");
            compare(case, Answer::read(&line));
        }
    });
    let status = child.wait().expect("the program ends");
    assert!(status.success(), "{status}");
}
