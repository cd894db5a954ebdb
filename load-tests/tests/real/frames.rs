//! HTTP/2 requests that break its rules, as raw frames: what the server would not take does not reach it, and nothing
//! becomes another request or somebody else's on the way, not even where the proxy speaks HTTP/1.1 to the server.

use anyhow::Result;
use load_tests::control_plane::{Credentials, Who};

use crate::support::{AUDITED_NAMESPACE, End, Fields, Frames, HOUR, Plane, Proxy, plane, until};

/// What is sent on a stream: a header block, then content, then trailers.
struct Case {
    name: &'static str,
    /// May it reach the server at all?
    may_arrive: bool,
    fields: Fields,
    content: Option<&'static [u8]>,
    trailers: Option<Fields>,
}

fn field(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> (Vec<u8>, Vec<u8>) {
    (name.as_ref().to_vec(), value.as_ref().to_vec())
}

fn path(id: &str) -> String {
    format!("/api/v1/namespaces/{AUDITED_NAMESPACE}/configmaps/{id}-a")
}

/// A sound request, for changes.
fn sound(method: &str, id: &str) -> Fields {
    vec![
        field(":method", method),
        field(":scheme", "https"),
        field(":authority", "kubernetes"),
        field(":path", path(id)),
    ]
}

fn without(mut fields: Fields, name: &str) -> Fields {
    fields.retain(|(other, _)| other != name.as_bytes());
    fields
}

fn with(mut fields: Fields, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Fields {
    fields.push(field(name, value));
    fields
}

fn put(fields: Fields, name: &str, value: impl AsRef<[u8]>) -> Fields {
    with(without(fields, name), name, value)
}

const HIDDEN: &[u8] =
    b"GET /api/v1/namespaces/audited/configmaps/hidden HTTP/1.1\r\nHost: k\r\n\r\n";

#[allow(clippy::too_many_lines, reason = "a list")]
fn cases(id: &str) -> Vec<Case> {
    let get = || sound("GET", id);
    let post = || sound("POST", id);
    let mut cases = Vec::new();
    let mut refused = |name, fields| {
        cases.push(Case {
            name,
            may_arrive: false,
            fields,
            content: None,
            trailers: None,
        });
    };
    refused("two paths", with(get(), ":path", path(id)));
    refused("two methods", with(get(), ":method", "GET"));
    refused("two schemes", with(get(), ":scheme", "https"));
    refused("two authorities", with(get(), ":authority", "kubernetes"));
    refused("no method", without(get(), ":method"));
    refused("no path", without(get(), ":path"));
    refused("no scheme", without(get(), ":scheme"));
    refused("a pseudo-header nobody knows", with(get(), ":x", "y"));
    refused("the status of an answer", with(get(), ":status", "200"));
    refused(
        "extended CONNECT that was not offered",
        with(put(get(), ":method", "CONNECT"), ":protocol", "websocket"),
    );
    refused(
        "a pseudo-header after a header",
        with(
            with(without(get(), ":path"), "accept", "*/*"),
            ":path",
            path(id),
        ),
    );
    for (name, header) in [
        ("capitals in a name", "X-Remote-User"),
        ("a space in a name", "x remote"),
        ("a colon in a name", "x:y"),
        ("a line end in a name", "x\r\nx-remote-user"),
        ("a NUL in a name", "x-remote-user\0"),
        ("a name of nothing", ""),
    ] {
        refused(name, with(get(), header, "root"));
    }
    for (name, value) in [
        ("CRLF in a value", &b"a\r\nX-Remote-User: root"[..]),
        ("LF in a value", b"a\nX-Remote-User: root"),
        ("CR in a value", b"a\rX-Remote-User: root"),
        ("NUL in a value", b"a\0b"),
    ] {
        refused(name, with(get(), "x-test", value));
    }
    refused("an empty path", put(get(), ":path", ""));
    refused(
        "a path without a slash",
        put(get(), ":path", path(id).trim_start_matches('/')),
    );
    refused(
        "a path with CRLF",
        put(get(), ":path", path(id) + "\r\nX-Remote-User: root"),
    );
    refused(
        "a path that is a request line",
        put(
            get(),
            ":path",
            path(id) + " HTTP/1.1\r\nX-Remote-User: root\r\nX: ",
        ),
    );
    refused("a path with a space", put(get(), ":path", path(id) + " x"));
    refused("a path with a NUL", put(get(), ":path", path(id) + "\0"));
    refused("an empty method", put(get(), ":method", ""));
    refused("a method with a space", put(get(), ":method", "GET /x"));
    refused(
        "a method with CRLF",
        put(get(), ":method", "GET / HTTP/1.1\r\nX: y\r\n\r\nGET"),
    );
    refused("CONNECT", put(get(), ":method", "CONNECT"));
    refused(
        "an authority with CRLF",
        put(get(), ":authority", "k\r\nX-Remote-User: root"),
    );
    refused(
        "an authority with a path",
        put(get(), ":authority", "k/../x"),
    );
    refused("an authority with a space", put(get(), ":authority", "k x"));
    for name in ["connection", "keep-alive", "proxy-connection", "upgrade"] {
        refused(
            "a header of a connection",
            with(get(), name, "x-remote-user"),
        );
    }
    refused("a coding", with(post(), "transfer-encoding", "chunked"));
    refused("te other than trailers", with(get(), "te", "gzip"));
    refused(
        "a length without content",
        with(post(), "content-length", "5"),
    );
    refused("a signed length", with(post(), "content-length", "+0"));
    refused(
        "two lengths",
        with(with(post(), "content-length", "0"), "content-length", "5"),
    );
    refused("a list of lengths", with(post(), "content-length", "0, 5"));
    let mut sent = |name, may_arrive, fields, content, trailers| {
        cases.push(Case {
            name,
            may_arrive,
            fields,
            content,
            trailers,
        });
    };
    let length = HIDDEN.len().to_string();
    // Only when the content is there can it be seen that the length is wrong.
    sent(
        "more content than its length",
        true,
        with(post(), "content-length", "0"),
        Some(HIDDEN),
        None,
    );
    sent(
        "less content than its length",
        true,
        with(post(), "content-length", "9999"),
        Some(HIDDEN),
        None,
    );
    sent(
        "a request as content",
        true,
        with(post(), "content-length", &length),
        Some(HIDDEN),
        None,
    );
    sent(
        "a request as content without a length",
        true,
        post(),
        Some(HIDDEN),
        None,
    );
    sent(
        "content of a GET",
        true,
        with(get(), "content-length", &length),
        Some(HIDDEN),
        None,
    );
    sent(
        "chunks as content",
        true,
        post(),
        Some(b"0\r\n\r\nGET /api/v1/namespaces/audited/configmaps/hidden HTTP/1.1\r\nHost: k\r\n\r\n"),
        None,
    );
    sent(
        "pseudo-headers as trailers",
        true,
        post(),
        Some(b"{}"),
        Some(vec![field(
            ":path",
            "/api/v1/namespaces/audited/configmaps/hidden",
        )]),
    );
    sent(
        "trailers that claim an identity",
        true,
        post(),
        Some(b"{}"),
        Some(vec![
            field("x-remote-user", "root"),
            field("impersonate-user", "root"),
        ]),
    );
    sent(
        "te: trailers",
        true,
        with(get(), "te", "trailers"),
        None,
        None,
    );
    sent(
        "another scheme",
        true,
        put(get(), ":scheme", "http"),
        None,
        None,
    );
    sent(
        "a scheme nobody knows",
        true,
        put(get(), ":scheme", "javascript"),
        None,
        None,
    );
    sent(
        "another host",
        true,
        with(get(), "host", "evil.example"),
        None,
        None,
    );
    sent(
        "no authority, a host",
        true,
        with(without(get(), ":authority"), "host", "k"),
        None,
        None,
    );
    sent("neither", true, without(get(), ":authority"), None, None);
    sent(
        "an authority with a user",
        true,
        put(get(), ":authority", "root@k"),
        None,
        None,
    );
    sent(
        "a path with a fragment",
        true,
        put(get(), ":path", path(id) + "#x"),
        None,
        None,
    );
    sent(
        "a path in absolute form",
        true,
        put(get(), ":path", format!("https://evil.example{}", path(id))),
        None,
        None,
    );
    sent(
        "white space around a value",
        true,
        with(get(), "x-test", " x "),
        None,
        None,
    );
    sent(
        "bytes that are no text",
        true,
        with(get(), "x-test", b"\xff\x80"),
        None,
        None,
    );
    cases
}

async fn exchange(mut connection: Frames, case: &Case) -> Result<End> {
    let last = case.content.is_none() && case.trailers.is_none();
    // What was refused may be closed before all of it was sent.
    let _ = connection.headers(1, &case.fields, last).await;
    if let Some(content) = case.content {
        let _ = connection.data(1, content, case.trailers.is_none()).await;
    }
    if let Some(trailers) = &case.trailers {
        let _ = connection.headers(1, trailers, true).await;
    }
    connection.end_of(1).await
}

/// Who asked for `id` at the server, and for what was hidden.
async fn arrived(plane: &Plane, id: &str) -> Result<Vec<String>> {
    let last = path(&format!("{id}-last"));
    plane.client(Who::Admin)?.get(&last).await?;
    let events = until("the last request is in the audit log", async || {
        plane.audited(&last).map(|_| plane.all_audited())
    })
    .await;
    let mine = |event: &serde_json::Value| {
        let uri = event["requestURI"].as_str().unwrap_or_default();
        uri != last && (uri.contains(&format!("/{id}-")) || uri.contains("/hidden"))
    };
    Ok(events
        .iter()
        .filter(|event| mine(event))
        .map(|event| format!("{} {}", event["user"]["username"], event["requestURI"]))
        .collect())
}

#[tokio::test]
async fn requests_that_break_the_rules_of_http2_arrive_as_they_are_or_not_at_all() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::before(&plane)?;
    let jane = plane.client_certificate("jane", &["dev"], HOUR)?;
    let callers: [(&str, Option<&Credentials>, &str); 2] = [
        ("jane", Some(&jane), "\"jane\""),
        // Forwarded on HTTP/1.1: whatever could be smuggled by translation shows here.
        ("nobody", None, "\"system:anonymous\""),
    ];
    let mut wrong = Vec::new();
    let count = cases("").len();
    for number in 0..count {
        for (caller, credentials, user) in &callers {
            let ask = async |way: &str| {
                let id = format!("f{number}-{caller}-{way}");
                let case = cases(&id).swap_remove(number);
                let connection = match way {
                    "straight" => Frames::straight(&plane, *credentials).await?,
                    _ => proxy.frames(*credentials).await?,
                };
                let end = exchange(connection, &case).await?;
                anyhow::Ok((end, arrived(&plane, &id).await?, case))
            };
            let (straight, straight_arrived, _) = ask("straight").await?;
            let (through, arrived, case) = ask("through").await?;
            let sound = arrived.len() <= usize::from(case.may_arrive)
                && arrived.len() <= straight_arrived.len()
                && arrived.iter().all(|event| event.starts_with(user));
            let line = format!(
                "{} ({caller})\n    straight {straight:?}, arrived: {straight_arrived:?}\n    through  {through:?}, arrived: {arrived:?}",
                case.name
            );
            if sound {
                println!("{line}");
            } else {
                wrong.push(line);
            }
        }
    }
    println!("{count} cases");
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}
