//! `spillway attributes`: what the proxy takes requests to be.
//!
//! Lines `METHOD TARGET` come in, one JSON object each goes out, with the fields of Kubernetes' RequestInfo. The target is
//! the raw one of a request line (path and query, not decoded) and goes the way it goes in the proxy: hyper's URI, then
//! [`proxy_core::attributes`]. A line ends at its `\n` and nowhere else, so that every other byte can be asked about.

use std::io::{self, BufRead, Write};

use http::{Method, Uri};
use proxy_core::attributes::{self, Attributes, Verb};
use serde::Serialize;

/// The longest line read, in bytes: more than a URI can have. The rest of a longer one is skipped.
const MAX_LINE: u64 = 128 * 1024;

#[derive(Serialize)]
#[serde(untagged)]
enum Answer<'a> {
    Reading(Reading<'a>),
    Refusal { error: String, status: u16 },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Reading<'a> {
    is_resource_request: bool,
    verb: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_prefix: Option<&'a str>,
    api_group: &'a str,
    api_version: &'a str,
    namespace: &'a str,
    resource: &'a str,
    subresource: &'a str,
    name: &'a str,
    field_selector: &'a str,
    label_selector: &'a str,
    long_running: bool,
}

/// Answers every line of `lines`; an answer is written at once when no other line is waiting.
///
/// # Errors
/// Reading or writing failed.
pub(super) fn answer(lines: impl io::Read, answers: impl Write) -> io::Result<()> {
    let mut lines = io::BufReader::new(lines);
    let mut answers = io::BufWriter::new(answers);
    let mut line = Vec::new();
    while next_line(&mut lines, &mut line)? {
        write_answer(&mut answers, &line)?;
        if lines.buffer().is_empty() {
            answers.flush()?;
        }
    }
    answers.flush()
}

/// False at the end.
fn next_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if io::Read::take(&mut *lines, MAX_LINE).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.pop_if(|last| *last == b'\n').is_none() {
        lines.skip_until(b'\n')?;
    }
    Ok(true)
}

fn write_answer(answers: &mut impl Write, line: &[u8]) -> io::Result<()> {
    let mut parts = line.splitn(2, |byte| *byte == b' ');
    let method = parts.next().unwrap_or_default();
    let target = parts.next().unwrap_or_default();
    let refusal = |error: &dyn std::fmt::Display, status| Answer::Refusal {
        error: error.to_string(),
        status,
    };
    let write = |answers: &mut _, answer: &Answer<'_>| {
        serde_json::to_writer(&mut *answers, answer)?;
        Write::write_all(answers, b"\n")
    };
    let method = match Method::from_bytes(method) {
        Ok(method) => method,
        Err(problem) => return write(answers, &refusal(&problem, 400)),
    };
    let uri = match Uri::try_from(target) {
        Ok(uri) => uri,
        Err(problem) => return write(answers, &refusal(&problem, 400)),
    };
    match attributes::parse(method.as_str(), uri.path(), uri.query(), None) {
        Err(malformed) => write(answers, &refusal(&malformed, malformed.status())),
        Ok(read) => write(answers, &Answer::Reading(reading(&method, &read))),
    }
}

fn reading<'a>(method: &Method, of: &'a Attributes<'_>) -> Reading<'a> {
    let lower = method.as_str().to_ascii_lowercase();
    let verb = match of.verb {
        // RequestInfo has the method here; the proxy keeps only those that mean something.
        Verb::Other if !of.is_resource && Verb::named(&lower).is_none() => lower,
        verb => verb.as_str().to_owned(),
    };
    let prefix = of.path.trim_start_matches('/').split('/').next();
    Reading {
        is_resource_request: of.is_resource,
        verb,
        api_prefix: prefix.filter(|_| of.is_resource),
        api_group: &of.api_group,
        api_version: &of.api_version,
        namespace: &of.namespace,
        resource: &of.resource,
        subresource: &of.subresource,
        name: &of.name,
        field_selector: of.field_selector.as_deref().unwrap_or_default(),
        label_selector: of.label_selector.as_deref().unwrap_or_default(),
        long_running: of.long_running,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(lines: &[u8]) -> Vec<serde_json::Value> {
        let mut written = Vec::new();
        answer(lines, &mut written).unwrap();
        let text = String::from_utf8(written).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn every_line_has_one_answer() {
        let lines = b"GET /api/v1/namespaces/ns/pods/p/log\nTRACE /healthz\nGET /%zz\n\nG@T /\nGET /\xff\nGET /\r";
        let answers = answers(lines);
        assert_eq!(answers.len(), 7);
        assert_eq!(
            answers[0],
            serde_json::json!({
                "isResourceRequest": true, "verb": "get", "apiPrefix": "api", "apiGroup": "",
                "apiVersion": "v1", "namespace": "ns", "resource": "pods", "subresource": "log",
                "name": "p", "fieldSelector": "", "labelSelector": "", "longRunning": true,
            })
        );
        assert_eq!(answers[1]["verb"], "trace");
        for refused in &answers[2..] {
            assert_eq!(refused["status"], 400, "{refused}");
        }
    }

    #[test]
    fn a_line_too_long_is_refused_and_the_next_one_answered() {
        let mut lines = b"GET /".to_vec();
        lines.extend(vec![b'a'; 300_000]);
        lines.extend(b"\nGET /api/v1/watch\n");
        let answers = answers(&lines);
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[0]["status"], 400);
        assert_eq!(answers[1]["status"], 500);
    }
}
