//! The spans of a traced request, for whoever `traces.endpoint` names: one of all its life, and under it one of what the
//! apiserver had to do with it. As OTLP's JSON has them; the attributes are those of OpenTelemetry's conventions for HTTP,
//! and ours. Nothing is in them that the access log would not say.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{Method, Version};
use serde::{Serialize, Serializer};

use super::End;
use super::access::{cut, millis};
use super::log::{Entry, Finished, Told};
use crate::accept::worker::Worker;
use crate::snapshot::Snapshot;
use crate::traces::parent::Hex;
use crate::traces::queue::Spans;
use crate::traces::{Trace, known};

const SERVER: u8 = 2;
const CLIENT: u8 = 3;
const ERROR: u8 = 2;

/// The sampled flag of W3C, and that it is known whether the parent is of another process.
const FLAGS: u32 = 0x101;
/// It is.
const OF_ANOTHER: u32 = 0x200;

/// `opentelemetry.proto.trace.v1.Span`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Span<'a> {
    trace_id: Hex<16>,
    span_id: Hex<8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<Hex<8>>,
    flags: u32,
    name: &'a str,
    kind: u8,
    start_time_unix_nano: Nanos,
    end_time_unix_nano: Nanos,
    attributes: Vec<Attribute<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<Event>,
    status: Status<'a>,
}

#[derive(Serialize)]
struct Attribute<'a> {
    key: &'static str,
    value: Value<'a>,
}

#[derive(Clone, Copy, Serialize)]
enum Value<'a> {
    #[serde(rename = "stringValue")]
    Text(&'a str),
    #[serde(rename = "boolValue")]
    Bool(bool),
    #[serde(rename = "doubleValue")]
    Double(f64),
    /// As text: JSON's numbers do not hold 64 bits.
    #[serde(rename = "intValue")]
    Int(#[serde(serialize_with = "as_text")] u64),
}

fn as_text<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    time_unix_nano: Nanos,
    name: &'static str,
}

#[derive(Serialize)]
struct Status<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u8>,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

/// Since the Unix epoch.
#[derive(Clone, Copy)]
struct Nanos(Duration);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_nanos().fmt(f)
    }
}

impl Serialize for Nanos {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What both spans say.
struct Said<'a> {
    entry: &'a Entry,
    trace: &'a Trace,
    told: &'a Told<'a>,
    of: &'a Finished<'a>,
    began: Duration,
    ended: Duration,
    /// What went wrong, if it is not the client's doing: to be refused with 429 is no error.
    error: Option<String>,
}

/// Puts the spans of a request that has ended into the queue.
pub(super) fn put(
    worker: &Worker,
    (entry, trace): (&Entry, &Trace),
    told: &Told<'_>,
    snapshot: &Snapshot,
    of: &Finished<'_>,
) {
    let ended = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let said = Said {
        entry,
        trace,
        told,
        of,
        began: ended.saturating_sub(of.took),
        ended,
        error: error(trace, of),
    };
    let client_address = entry.address.to_string();
    let upstream = snapshot.config.upstream.address;
    let host = upstream.ip().to_string();
    let url = format!("https://{upstream}{}", told.path);
    let mut json = Vec::with_capacity(3 * 1024);
    let mut number = 1;
    let server = said.server(worker.lane.name(), &client_address);
    if serde_json::to_writer(&mut json, &server).is_err() {
        return;
    }
    if let Some(client) = said.client(&host, upstream.port(), &url) {
        json.push(b',');
        if serde_json::to_writer(&mut json, &client).is_err() {
            return;
        }
        number += 1;
    }
    let most = snapshot.config.traces.queue;
    worker.shared.traces.queue.put(Spans { json, number }, most);
}

impl Said<'_> {
    /// From its arrival to its end.
    fn server<'a>(&'a self, lane: &'a str, client_address: &'a str) -> Span<'a> {
        let (entry, trace, told, of) = (self.entry, self.trace, self.told, self.of);
        let tenant = entry.identity.as_ref();
        let tenant = tenant.map_or("", |identity| identity.tenant_name());
        let mut attributes = Vec::with_capacity(28);
        let mut add = |key, value| attributes.push(Attribute { key, value });
        let method = method(&entry.method);
        let original = if known(&entry.method) {
            ""
        } else {
            told.method
        };
        let texts = [
            ("http.request.method", method),
            ("http.request.method_original", original),
            ("url.scheme", "https"),
            ("url.path", told.path),
            ("network.protocol.version", version(trace.version)),
            ("client.address", client_address),
            ("user_agent.original", told.user_agent),
            ("user.name", told.user),
            // As kube-apiserver calls it in its own spans.
            ("audit-id", told.audit_id),
            ("error.type", self.error.as_deref().unwrap_or_default()),
            ("spillway.lane", lane),
            ("spillway.class", of.class),
            ("spillway.rule", told.rule),
            ("spillway.tenant", cut(tenant)),
            ("spillway.verb", of.verb),
            ("spillway.decision", self.decision()),
            ("spillway.reason", reason(trace)),
            ("spillway.refused", told.refused),
            ("spillway.end", told.end),
        ];
        for (key, text) in texts {
            if !text.is_empty() {
                add(key, Value::Text(text));
            }
        }
        if of.status > 0 {
            add("http.response.status_code", Value::Int(of.status.into()));
            add("http.response.body.size", Value::Int(of.bytes));
        }
        add("spillway.break_glass", Value::Bool(entry.break_glass));
        add("spillway.cost_ms", Value::Double(millis(entry.cost)));
        if let Some(waited) = of.waited {
            add("spillway.waited_ms", Value::Double(millis(waited)));
        }
        Span {
            parent_span_id: trace.parent,
            flags: FLAGS | trace.parent.map_or(0, |_| OF_ANOTHER),
            attributes,
            ..self.span(trace.server, SERVER, self.began, self.error.is_some())
        }
    }

    /// From sending it to the end of its answer; the event says when that began.
    fn client<'a>(&'a self, host: &'a str, port: u16, url: &'a str) -> Option<Span<'a>> {
        let waited = self.of.waited.filter(|_| self.trace.sent)?;
        // It may have been answered all the same, with what was kept.
        let unanswered = self.trace.head.is_none() && self.of.end == End::Answered;
        let error = self.error.as_deref();
        let error = error.or_else(|| unanswered.then_some("unanswered"));
        let mut attributes = vec![Attribute {
            key: "server.port",
            value: Value::Int(port.into()),
        }];
        let texts = [
            ("http.request.method", method(&self.entry.method)),
            ("url.full", url),
            ("server.address", host),
            ("error.type", error.unwrap_or_default()),
        ];
        for (key, text) in texts {
            if !text.is_empty() {
                let value = Value::Text(text);
                attributes.push(Attribute { key, value });
            }
        }
        let head = self.trace.head.map(|head| Event {
            time_unix_nano: Nanos(self.began + head),
            name: "head of the answer",
        });
        if head.is_some() {
            attributes.push(Attribute {
                key: "http.response.status_code",
                value: Value::Int(self.of.status.into()),
            });
        }
        Some(Span {
            parent_span_id: Some(self.trace.server),
            attributes,
            events: head.into_iter().collect(),
            ..self.span(
                self.trace.client,
                CLIENT,
                self.began + waited,
                error.is_some(),
            )
        })
    }

    fn span(&self, id: Hex<8>, kind: u8, start: Duration, failed: bool) -> Span<'_> {
        Span {
            trace_id: self.trace.id,
            span_id: id,
            parent_span_id: None,
            flags: FLAGS,
            name: &self.trace.name,
            kind,
            start_time_unix_nano: Nanos(start),
            end_time_unix_nano: Nanos(self.ended),
            attributes: Vec::new(),
            events: Vec::new(),
            status: Status {
                code: failed.then_some(ERROR),
                message: if failed { self.told.refused } else { "" },
            },
        }
    }

    /// What admission, or what stands before it, made of the request.
    fn decision(&self) -> &'static str {
        match self.of.end {
            _ if self.entry.joined => "joined",
            End::Answered if self.entry.refused.is_none() => "stale",
            _ if self.trace.sent => "admitted",
            End::Answered => "refused",
            _ => "none",
        }
    }
}

fn error(trace: &Trace, of: &Finished<'_>) -> Option<String> {
    let broken = matches!(of.end, End::Broken | End::Ended);
    if of.status < 500 && !broken {
        return None;
    }
    Some(match reason(trace) {
        "" if broken => "broken_off".to_owned(),
        "" => of.status.to_string(),
        reason => reason.to_owned(),
    })
}

fn reason(trace: &Trace) -> &str {
    let reason = trace.reason.as_ref();
    reason.map_or("", |reason| reason.to_str().unwrap_or_default())
}

fn method(method: &Method) -> &str {
    if known(method) {
        method.as_str()
    } else {
        "_OTHER"
    }
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}
