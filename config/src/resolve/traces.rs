//! `traces`.

use std::path::PathBuf;

use super::Values;
use crate::model::Traces;
use crate::raw;
use crate::units::parse_percent;

const ACCEPTED: &str = "a URL, as http://127.0.0.1:4318/v1/traces, or off";

impl Values<'_, '_> {
    pub(super) fn traces(&mut self, raw: &raw::Traces) -> Traces {
        let default = Traces::default();
        Traces {
            endpoint: self.read(
                "traces.endpoint",
                raw.endpoint.as_ref(),
                default.endpoint,
                ACCEPTED,
                |text| match text {
                    "off" => Ok(None),
                    text => url(text).map(|()| Some(text.to_owned())),
                },
            ),
            ca: raw
                .ca
                .as_ref()
                .map(|path| self.path("traces.ca", Some(path), PathBuf::new())),
            sample: self.read(
                "traces.sample",
                raw.sample.as_ref(),
                default.sample,
                "0% to 100%",
                parse_percent,
            ),
            asked: self.number(
                "traces.asked",
                raw.asked.as_ref(),
                default.asked,
                0..=10_000,
            ),
            most: self.number("traces.most", raw.most.as_ref(), default.most, 1..=100_000),
            queue: self.number(
                "traces.queue",
                raw.queue.as_ref(),
                default.queue,
                1..=65_536,
            ),
        }
    }
}

/// `http` or `https`, a host, perhaps a port and a path; nothing else, and so no credential.
fn url(text: &str) -> Result<(), String> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .ok_or_else(|| format!("`{text}` begins neither with http:// nor with https://"))?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        // Not repeated: it may be a password.
        return Err("no user and password may be in it".to_owned());
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) || path.contains(['?', '#', '"', '<']) {
        return Err(format!("`{path}` is not a path"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest
            .split_once(']')
            .ok_or_else(|| format!("`{authority}` has a bracket that is not closed"))?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let named = |host: &str| {
        let label = |part: &str| {
            !part.is_empty()
                && part.len() <= 63
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        host.len() <= 253 && host.split('.').all(label)
    };
    let sound = match authority.starts_with('[') {
        true => host.parse::<std::net::Ipv6Addr>().is_ok(),
        false => named(host),
    };
    if !sound {
        return Err(format!("`{host}` is not a host"));
    }
    match port.strip_prefix(':').map(str::parse::<u16>) {
        None if port.is_empty() => Ok(()),
        Some(Ok(1..)) => Ok(()),
        _ => Err(format!("`{port}` is not a port")),
    }
}

#[cfg(test)]
mod tests {
    use super::url;

    #[test]
    fn what_can_be_connected_to_is_taken_and_nothing_else() {
        for good in [
            "http://127.0.0.1:4318/v1/traces",
            "http://[::1]:4318/v1/traces",
            "https://otel.example.org",
            "https://otel.example.org/",
            "http://localhost:4318/otlp/v1/traces",
        ] {
            assert_eq!(url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "http://",
            "grpc://127.0.0.1:4317",
            "127.0.0.1:4318",
            "http://:4318/v1/traces",
            "http://127.0.0.1:0/v1/traces",
            "http://127.0.0.1:70000/v1/traces",
            "http://127.0.0.1:/v1/traces",
            "http://[::1/v1/traces",
            "http://[127.0.0.1]/v1/traces",
            "http://a..b/v1/traces",
            "http://a/v1/traces?key=1",
            "http://a/v1 traces",
            "http://a b/",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
        let refused = url("http://me:s3cret@collector/").unwrap_err();
        assert!(!refused.contains("s3cret"));
    }
}
