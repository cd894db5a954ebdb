//! One function for each thing that reads bytes from outside: what must hold for any bytes at all.
//!
//! `proxy/fuzz` runs them under libFuzzer. The tests here run them over the same corpus and over changes of it, on any
//! toolchain. A broken promise is a panic.
#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a panic is how a finding is told"
)]

mod credentials;
mod requests;

/// One target: its name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by the name of its corpus.
pub const TARGETS: [Target; 13] = [
    ("bearer", requests::bearer),
    ("certificate", credentials::certificate),
    ("claims", credentials::claims),
    ("config", requests::config),
    ("connection", requests::connection),
    ("headers", requests::headers),
    ("key_set", credentials::key_set),
    ("pem", credentials::pem),
    ("request_header", requests::request_header),
    ("review", credentials::review),
    ("target", requests::target),
    ("token", credentials::token),
    ("traceparent", requests::traceparent),
];

/// Runs the target of that name; nothing for a name there is none of.
pub fn run(name: &str, data: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(own, _)| *own == name) {
        target(data);
    }
}

/// The headers of `data`: lines `name: value`, any bytes; what is no header is left out.
fn header_lines(data: &[u8]) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = parts.next().map(http::HeaderName::from_bytes);
        let value = parts
            .next()
            .map(|value| http::HeaderValue::from_bytes(value.trim_ascii()));
        if let (Some(Ok(name)), Some(Ok(value))) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests;
