//! Paths, queries and messages as nobody sends them, and as somebody might.

use crate::transparency::call::{Over, Scenario, Step, call, get, gets, raw};
use crate::transparency::who::Who;

const MAP: &str = "/api/v1/namespaces/fixtures/configmaps/map-1";

const MALFORMED: &str = "no message of HTTP/1.1";
const NO_URI: &str = "no URI (RFC 3986)";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new("spellings of a path", Who::User, paths()),
        Scenario::new("spellings of a path, unescaped", Who::User, unescaped()).over(Over::Http1),
        Scenario::new("long requests", Who::User, long()),
        Scenario::new("HTTP/1.1 as it is written", Who::User, messages()).over(Over::Http1),
        Scenario::new("connections that end", Who::User, ends()).over(Over::Http1),
    ]
}

fn paths() -> Vec<Step> {
    let mut steps = gets([
        "//version",
        "/version//",
        "//api/v1/namespaces//fixtures/configmaps/map-1",
        "/api/v1/namespaces/fixtures//configmaps",
        "/api/v1/namespaces/fixtures/configmaps/",
        "/api/v1/namespaces/fixtures/configmaps/map-1/",
        "/api/v1/namespaces/fixtures/configmaps/%6dap-1",
        "/api/v1/namespaces/fixtures%2Fconfigmaps/map-1",
        "/api/v1/namespaces/fixtures/configmaps/a%2Fb",
        "/api/v1/namespaces/fixtures/configmaps/..%2Fsecrets%2Fsecret",
        "/api/v1/namespaces/fixtures/configmaps/../secrets/secret",
        "/api/v1/../../version",
        "/./version",
        "/api/v1/namespaces/fixtures/configmaps/..",
        "/api/v1/namespaces/fixtures/configmaps/.",
        "/api/v1/namespaces/fixtures/configmaps/%2e%2e",
        "/api/v1/namespaces/fixtures/configmaps/%C3%BC",
        "/api/v1/namespaces/fixtures/configmaps/%E2%98%82?x=%E2%98%82",
        "/api/v1/namespaces/fixtures/configmaps/%FF",
        "/api/v1/namespaces/fixtures/configmaps/%00",
        "/api/v1/namespaces/fixtures/configmaps/a+b",
        "/api/v1/namespaces/fixtures/configmaps/a%20b",
        "/api/v1/namespaces/fixtures/configmaps/a;b",
        "/api/v1/namespaces/fixtures/configmaps/a:b",
        "/api/v1/namespaces/fixtures/configmaps/map-1?",
        "/api/v1/namespaces/fixtures/configmaps/map-1?x=%zz",
        "/api/v1/namespaces/fixtures/configmaps/map-1?x=a%3Bb;c",
        "/api/v1/namespaces/fixtures/configmaps/map-1?x[]=a&x{}=b|c^d`e",
        "/API/V1/namespaces/fixtures/configmaps/map-1",
        "/version?",
        "/version?x",
        "/healthz/../version",
    ]);
    steps.push(call("POST", "//version"));
    steps
}

/// What no URI of HTTP/2 libraries holds.
fn unescaped() -> Vec<Step> {
    let line = |target: &str| {
        raw(format!(
            "GET {target} HTTP/1.1\r\nHost: kubernetes.default.svc\r\n"
        ))
    };
    vec![
        line("/api/v1/namespaces/fixtures/configmaps/%zz").refused(NO_URI),
        line("/api/v1/namespaces/fixtures/configmaps/ü"),
        line("/api/v1/namespaces/fixtures/configmaps/a\"b"),
        line("/api/v1/namespaces/fixtures/configmaps/a{b}"),
        line("/api/v1/namespaces/fixtures/configmaps/a|b^c`d").refused(NO_URI),
        line("/api/v1/namespaces/fixtures/configmaps/a\\b"),
        line("/api/v1/namespaces/fixtures/configmaps/<b>").refused(NO_URI),
        line("/version?x=ü"),
        line("/version?x=a\"b").refused(NO_URI),
        line("/version?x=<b>").refused(NO_URI),
        line("/version#part"),
        line("https://kubernetes.default.svc/version"),
        line("http://other.example/version"),
        line("version").refused(NO_URI),
    ]
}

fn long() -> Vec<Step> {
    let selector = |count: usize| {
        let values: Vec<String> = (0..count).map(|number| format!("v{number:06}")).collect();
        format!(
            "/api/v1/namespaces/fixtures/configmaps?labelSelector=parity+in+({})",
            values.join(",")
        )
    };
    let mut groups = get(MAP);
    for number in 0..60 {
        groups = groups.header("x-some-header", format!("{number:0500}"));
    }
    let mut many = get(MAP);
    for _ in 0..80 {
        many = many.header("x-many", "1");
    }
    vec![
        get(selector(1000)),
        get(selector(3500)),
        get(format!("/version?x={}", "y".repeat(40_000))),
        groups,
        many,
        get(MAP).header("user-agent", "u".repeat(3000)),
    ]
}

fn messages() -> Vec<Step> {
    let get = |rest: &str| raw(format!("GET /version HTTP/1.1\r\n{rest}"));
    let host = "Host: kubernetes.default.svc\r\n";
    let odd = |rest: &str| get(&format!("{host}{rest}")).refused(MALFORMED);
    vec![
        get(host),
        get("Host: other.example:1\r\n"),
        get("host:kubernetes.default.svc\r\n"),
        get("Host: \r\n").refused("Host names nobody"),
        get("").refused("no Host"),
        get(&format!("{host}{host}")).refused("two Hosts"),
        get(&format!("{host}X-Odd: \u{e9}\r\n")),
        get(&format!("{host}X-Empty:\r\n")),
        get(&format!("{host}Te: trailers\r\n")),
        get(&format!("{host}Connection: x-hop\r\nX-Hop: 1\r\n")),
        get(&format!(
            "{host}Keep-Alive: timeout=5\r\nConnection: keep-alive\r\n"
        )),
        get(&format!("{host}Proxy-Connection: keep-alive\r\n")),
        get(&format!("{host}Content-Length: 0\r\n")),
        raw(format!("OPTIONS * HTTP/1.1\r\n{host}")),
        raw(format!("CONNECT /version HTTP/1.1\r\n{host}")).refused("CONNECT asks for a tunnel"),
        raw(format!("CONNECT other.example:443 HTTP/1.1\r\n{host}"))
            .refused("CONNECT asks for a tunnel"),
        raw(format!("GET  /version HTTP/1.1\r\n{host}")).refused(MALFORMED),
        raw(format!("GET /version HTTP/1.2\r\n{host}")).refused(MALFORMED),
        raw(format!("GET /version HTTP/2.0\r\n{host}")).refused(MALFORMED),
        raw(format!("GET /version\r\n{host}")).refused(MALFORMED),
        raw(format!("G\u{e9}T /version HTTP/1.1\r\n{host}")).refused(MALFORMED),
        odd("No Colon\r\n"),
        odd("Bad Name: 1\r\n"),
        odd(" folded: 1\r\n"),
        odd("Content-Length: x\r\n"),
        odd("Content-Length: -1\r\n"),
        odd("Transfer-Encoding: gzip\r\n"),
    ]
}

fn ends() -> Vec<Step> {
    let host = "Host: kubernetes.default.svc\r\n";
    vec![
        raw(format!(
            "GET /version HTTP/1.1\r\n{host}Connection: close\r\n"
        )),
        raw("GET /version HTTP/1.0\r\n".to_owned()),
        raw(format!(
            "GET /version HTTP/1.0\r\n{host}Connection: keep-alive\r\n"
        )),
        raw(format!(
            "GET /api/v1/namespaces/fixtures/configmaps HTTP/1.0\r\n{host}"
        )),
        raw(format!("GET {MAP} HTTP/1.0\r\n")),
    ]
}
