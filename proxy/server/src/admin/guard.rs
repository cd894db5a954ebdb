//! What keeps other people's web pages away from the admin port.
//!
//! It listens on loopback and asks nobody who they are, and so does the browser of whoever looks at it: a page from
//! anywhere could let that browser call here, under a name of its own that leads to 127.0.0.1. So the console answers only
//! to names that cannot be somebody else's, its switches only to its own page, and no other origin may read an answer.

use std::net::IpAddr;

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::uri::Authority;
use http::{Request, StatusCode};

use super::{Page, text};

/// Nothing but what this port serves; no frames, no forms, no markup made from text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

const HEADERS: [(HeaderName, HeaderValue); 7] = [
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Pages that scrapers and kubelets ask for, by whatever name they know this host.
pub(super) fn open_to_any_name(path: &str) -> bool {
    matches!(path, "/metrics" | "/livez" | "/readyz")
}

/// Puts the headers of the console on.
pub(super) fn shield(mut page: Page) -> Page {
    for (name, value) in HEADERS {
        page.headers_mut().insert(name, value);
    }
    page
}

fn header<B>(request: &Request<B>, name: HeaderName) -> Option<&str> {
    let mut values = request.headers().get_all(name).iter();
    let value = values.next()?.to_str().ok();
    value.filter(|_| values.next().is_none())
}

/// Whether the request was sent to a name that nobody else can have: `localhost`, or a loopback address itself.
pub(super) fn is_local<B>(request: &Request<B>) -> bool {
    let of_target = request.uri().authority();
    of_target.is_none_or(|authority| is_loopback(authority.as_str()))
        && header(request, HOST).is_some_and(is_loopback)
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let address = bare.unwrap_or(name).parse::<IpAddr>();
    !host.contains('@')
        && (name.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address| address.is_loopback()))
}

/// Whether a browser says that another site's page asks for this. Old ones and tools say nothing.
pub(super) fn is_of_another_site<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(SEC_FETCH_SITE)
        && !matches!(
            header(request, SEC_FETCH_SITE),
            Some("same-origin" | "none")
        )
}

/// Whether the console's own page sent it, as JSON: no other page can, and no form.
pub(super) fn is_of_own_page<B>(request: &Request<B>) -> bool {
    let origin = header(request, ORIGIN).and_then(|origin| origin.strip_prefix("http://"));
    let own = header(request, HOST)
        .zip(origin)
        .is_some_and(|(host, origin)| origin.eq_ignore_ascii_case(host));
    own && !is_of_another_site(request) && header(request, CONTENT_TYPE) == Some("application/json")
}

/// The secret of a ticket or a session, as a bearer token.
pub(super) fn secret<B>(request: &Request<B>) -> Option<&str> {
    let value = header(request, http::header::AUTHORIZATION)?;
    value
        .strip_prefix("Bearer ")
        .filter(|secret| secret.len() <= 64)
}

/// The answer to whoever came under another name.
pub(super) fn not_local() -> Page {
    shield(text(
        StatusCode::FORBIDDEN,
        "this page answers only to localhost and to loopback addresses; from elsewhere forward a port:\n\
         ssh -L 9443:127.0.0.1:9443 NODE, then http://127.0.0.1:9443/console\n",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().uri("/console/mode");
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        request.body(()).expect("a request")
    }

    #[test]
    fn only_names_that_nobody_else_can_have_are_answered_to() {
        for host in [
            "localhost",
            "LOCALHOST:9443",
            "127.0.0.1:9443",
            "127.8.8.8",
            "[::1]:1",
        ] {
            assert!(is_local(&request(&[("host", host)])), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:9443",
            "127.0.0.1.nip.io",
            "192.0.2.1:9443",
            "[2001:db8::1]",
            "user@localhost",
            "localhost:9443, evil.example",
            "0x7f.1",
            "2130706433",
            "",
        ] {
            assert!(!is_local(&request(&[("host", host)])), "{host}");
        }
        assert!(!is_local(&request(&[])), "none");
        let two = request(&[("host", "localhost"), ("host", "evil.example")]);
        assert!(!is_local(&two), "two");
        let absolute = Request::builder()
            .uri("http://evil.example/console")
            .header("host", "localhost");
        assert!(!is_local(&absolute.body(()).expect("a request")));
    }

    #[test]
    fn only_the_consoles_own_page_may_switch() {
        let own = [
            ("host", "127.0.0.1:9443"),
            ("origin", "http://127.0.0.1:9443"),
            ("content-type", "application/json"),
        ];
        assert!(is_of_own_page(&request(&own)));
        let with = |name, value| {
            let mut headers = own;
            for header in &mut headers {
                if header.0 == name {
                    header.1 = value;
                }
            }
            request(&headers)
        };
        for (name, value) in [
            ("origin", "http://127.0.0.1:8080"),
            ("origin", "https://127.0.0.1:9443"),
            ("origin", "null"),
            ("origin", "http://evil.example"),
            ("content-type", "text/plain"),
            ("content-type", "application/x-www-form-urlencoded"),
        ] {
            assert!(!is_of_own_page(&with(name, value)), "{name}: {value}");
        }
        for missing in 0..own.len() {
            let mut headers = own.to_vec();
            headers.remove(missing);
            assert!(!is_of_own_page(&request(&headers)), "{}", own[missing].0);
        }
        for (site, may) in [
            ("same-origin", true),
            ("same-site", false),
            ("cross-site", false),
        ] {
            let headers = [&own[..], &[("sec-fetch-site", site)]].concat();
            assert_eq!(is_of_own_page(&request(&headers)), may, "{site}");
        }
    }
}
