//! What is asked: steps, each one request, in scenarios that share variables.
//!
//! Texts may name variables as `<name>`. `<ns>` is the scenario's own namespace,
//! another one for each run; the rest is kept from earlier answers.

use serde_json::Value;

use super::who::Who;

/// Steps that belong together, sent in order on one connection.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    /// What it is about.
    pub(super) name: &'static str,
    /// Whose credentials are used.
    pub(super) who: Who,
    /// Which versions of HTTP it is about.
    pub(super) over: Over,
    /// Whether it needs a namespace of its own to write to.
    pub(super) own_namespace: bool,
    /// What is sent.
    pub(super) steps: Vec<Step>,
}

/// Versions of HTTP a scenario is run over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// HTTP/1.1 and HTTP/2, one after the other.
    Both,
    /// HTTP/1.1 only: what is asked cannot be said in HTTP/2, or need not be.
    Http1,
    /// HTTP/2 only: once is enough for something large.
    Http2,
}

/// One request and what is done with its answer.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Payload,
    pub(super) read: Read,
    /// Sent as a cluster administrator once the answer has begun.
    pub(super) meanwhile: Vec<Self>,
    /// Variables to keep: name, and where in the answer's JSON (a pointer), or
    /// `etag` for that header.
    pub(super) keep: Vec<(&'static str, &'static str)>,
    /// Sent by HTTP/1.1 instead of a head of our own making: everything up to
    /// the empty line.
    pub(super) raw_head: Option<String>,
    /// Why the contents of the answer cannot be compared, if so; its status and
    /// headers still are.
    pub(super) volatile: Option<&'static str>,
    /// Why Spillway refuses it by itself, if so.
    pub(super) refused: Option<&'static str>,
}

/// A request's body.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    /// None.
    Nothing,
    /// Its length is said first.
    Sized(String),
    /// In pieces, its length not known before.
    Pieces(Vec<String>),
    /// So many bytes of a JSON string, for bodies that are too large.
    Large(usize),
}

/// How much of an answer is read.
#[derive(Debug, Clone)]
pub(super) enum Read {
    /// All of it.
    Whole,
    /// Until these bytes have come; then the client leaves.
    Until(String),
    /// An upgrade: these bytes are sent once it is agreed, and as many as the
    /// second number are read.
    Upgraded(Vec<u8>, usize),
}

/// A request without a body.
pub(super) fn call(method: &'static str, target: impl Into<String>) -> Step {
    Step {
        method,
        target: target.into(),
        headers: Vec::new(),
        body: Payload::Nothing,
        read: Read::Whole,
        meanwhile: Vec::new(),
        keep: Vec::new(),
        raw_head: None,
        volatile: None,
        refused: None,
    }
}

/// `GET`
pub(super) fn get(target: impl Into<String>) -> Step {
    call("GET", target)
}

/// `POST` of JSON.
pub(super) fn post(target: impl Into<String>, body: &Value) -> Step {
    call("POST", target).json(body)
}

/// HTTP/1.1 as it is written here, up to the empty line.
pub(super) fn raw(head: impl Into<String>) -> Step {
    Step {
        raw_head: Some(head.into()),
        ..call("raw", "")
    }
}

/// `GET` of all of `targets`.
pub(super) fn gets<const N: usize>(targets: [&str; N]) -> Vec<Step> {
    targets.map(get).to_vec()
}

impl Step {
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn accept(self, value: &str) -> Self {
        self.header("accept", value)
    }

    /// A body of a content type.
    pub(super) fn body(self, content_type: &str, body: impl Into<String>) -> Self {
        self.header("content-type", content_type)
            .payload(Payload::Sized(body.into()))
    }

    pub(super) fn json(self, body: &Value) -> Self {
        self.body("application/json", body.to_string())
    }

    pub(super) fn payload(mut self, body: Payload) -> Self {
        self.body = body;
        self
    }

    pub(super) fn until(mut self, marker: impl Into<String>) -> Self {
        self.read = Read::Until(marker.into());
        self
    }

    pub(super) fn read(mut self, read: Read) -> Self {
        self.read = read;
        self
    }

    pub(super) fn meanwhile(mut self, steps: Vec<Self>) -> Self {
        self.meanwhile = steps;
        self
    }

    pub(super) fn keep(mut self, name: &'static str, pointer: &'static str) -> Self {
        self.keep.push((name, pointer));
        self
    }

    pub(super) fn volatile(mut self, why: &'static str) -> Self {
        self.volatile = Some(why);
        self
    }

    /// Spillway refuses this by itself.
    pub(super) fn refused(mut self, why: &'static str) -> Self {
        self.refused = Some(why);
        self
    }

    /// The request in a few words, the same for every run.
    pub(super) fn label(&self) -> String {
        let request = match &self.raw_head {
            Some(head) => head.trim_end().replace("\r\n", " ⏎ "),
            None => format!("{} {}", self.method, self.target),
        };
        let mut label = shortened(&request, 160);
        for (name, value) in &self.headers {
            if !matches!(*name, "content-type") {
                label.push_str(&format!(" [{name}: {}]", shortened(value, 80)));
            }
        }
        label
    }
}

/// At most `most` characters of a text.
pub(super) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Scenario {
    pub(super) fn new(name: &'static str, who: Who, steps: Vec<Step>) -> Self {
        Self {
            name,
            who,
            over: Over::Both,
            own_namespace: false,
            steps,
        }
    }

    pub(super) fn over(mut self, over: Over) -> Self {
        self.over = over;
        self
    }

    /// It writes.
    pub(super) fn in_own_namespace(mut self) -> Self {
        self.own_namespace = true;
        self
    }
}
