//! Plays a scenario on one way to the server and notes every answer.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use tokio::sync::oneshot;

use super::call::{Payload, Scenario, Step};
use super::observed::{End, Observed, PATIENCE};
use super::stage::{Stage, Way};
use super::who::Who;
use super::{http1, http2};

/// The name every call is sent to: that of the cluster's own Service.
const HOST: &str = "kubernetes.default.svc";
const USER_AGENT: &str = "transparency/1.0 (somebody; made for comparing)";

/// Versions of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Http1,
    Http2,
}

impl Version {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }

    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => b"http/1.1",
            Self::Http2 => b"h2",
        }
    }
}

/// What came of a scenario on one way.
#[derive(Debug)]
pub(super) struct Played {
    /// One per step.
    pub(super) observed: Vec<Observed>,
    /// The variables, for what they are called by.
    pub(super) variables: BTreeMap<&'static str, String>,
}

/// Plays all steps. `namespace` is the scenario's own, and is there.
pub(super) async fn play(
    stage: &Stage,
    way: Way,
    version: Version,
    scenario: &Scenario,
    namespace: &str,
) -> Played {
    let mut player = Player {
        stage,
        way,
        version,
        who: scenario.who,
        connection: None,
        variables: BTreeMap::from([("ns", namespace.to_owned())]),
    };
    let mut observed = Vec::with_capacity(scenario.steps.len());
    for step in &scenario.steps {
        observed.push(player.step(step).await);
    }
    Played {
        observed,
        variables: player.variables,
    }
}

enum Connection {
    Http1(http1::Connection),
    Http2(http2::Connection),
}

struct Player<'a> {
    stage: &'a Stage,
    way: Way,
    version: Version,
    who: Who,
    connection: Option<Connection>,
    variables: BTreeMap<&'static str, String>,
}

impl Player<'_> {
    /// One step, with what happens meanwhile.
    async fn step(&mut self, step: &Step) -> Observed {
        let (started, starting) = oneshot::channel();
        let mut admin = Player {
            who: Who::Masters,
            connection: None,
            variables: self.variables.clone(),
            ..*self
        };
        let meanwhile = async {
            // Without an answer there is nothing it could be meanwhile to.
            if starting.await.is_ok() {
                for step in &step.meanwhile {
                    admin.ask(step, || ()).await;
                }
            }
        };
        let asking = async {
            let mut started = Some(started);
            let tell = || {
                if let Some(started) = started.take() {
                    // Nobody waits for it any more: then it need not be told.
                    let _ = started.send(());
                }
            };
            self.ask(step, tell).await
        };
        let (observed, ()) = tokio::join!(asking, meanwhile);
        self.keep(step, &observed);
        observed
    }

    async fn ask(&mut self, step: &Step, mut started: impl FnMut()) -> Observed {
        let asking = async {
            // A connection that went away since it was last used is not the
            // step's fault.
            if self.connection.is_some()
                && let Ok(observed) = self.ask_once(step, &mut started).await
            {
                return Ok(observed);
            }
            self.connection = None;
            self.ask_once(step, &mut started).await
        };
        let broken = |what: String| Observed {
            end: End::Broken(what),
            ..Observed::default()
        };
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(observed)) => observed,
            Ok(Err(error)) => broken(format!("{error:#}")),
            Err(_) => {
                self.connection = None;
                broken(format!("nothing within {PATIENCE:?}"))
            }
        }
    }

    async fn ask_once(
        &mut self,
        step: &Step,
        started: &mut impl FnMut(),
    ) -> anyhow::Result<Observed> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let (observed, reusable) = match &mut connection {
            Connection::Http1(connection) => {
                let wire = self.wire(step);
                connection.ask(&wire, &step.read, started).await?
            }
            Connection::Http2(connection) => {
                let request = self.request(step)?;
                connection.ask(request, &step.read, started).await?
            }
        };
        if reusable && !self.who.loses_connections() {
            self.connection = Some(connection);
        }
        Ok(observed)
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = self
            .stage
            .connect(self.way, self.who, self.version.alpn())
            .await
            .context("connecting")?;
        Ok(match self.version {
            Version::Http1 => Connection::Http1(http1::Connection::new(stream)),
            Version::Http2 => Connection::Http2(http2::Connection::new(stream).await?),
        })
    }

    fn keep(&mut self, step: &Step, observed: &Observed) {
        for (name, place) in &step.keep {
            let value = if *place == "etag" {
                observed.header("etag").map(str::to_owned)
            } else {
                observed.json().and_then(|json| match json.pointer(place)? {
                    serde_json::Value::String(text) => Some(text.clone()),
                    other => Some(other.to_string()),
                })
            };
            self.variables.insert(name, value.unwrap_or_default());
        }
    }

    /// A text with the variables' values in it.
    fn filled<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for (name, value) in &self.variables {
            let name = format!("<{name}>");
            if text.contains(&name) {
                text = Cow::Owned(text.replace(&name, value));
            }
        }
        text
    }

    /// The headers of a request, those every request has among them.
    fn headers(&self, step: &Step) -> Vec<(&'static str, String)> {
        let mut headers: Vec<_> = step
            .headers
            .iter()
            .map(|(name, value)| (*name, self.filled(value).into_owned()))
            .collect();
        let has = |wanted: &str| step.headers.iter().any(|(name, _)| *name == wanted);
        if !has("user-agent") {
            headers.push(("user-agent", USER_AGENT.to_owned()));
        }
        if let (Some(token), false) = (self.stage.token(self.who), has("authorization")) {
            headers.push(("authorization", format!("Bearer {token}")));
        }
        headers
    }

    /// The pieces of a body.
    fn pieces(&self, body: &Payload) -> Vec<Bytes> {
        match body {
            Payload::Nothing => Vec::new(),
            Payload::Sized(text) => vec![self.filled(text).into_owned().into()],
            Payload::Pieces(pieces) => pieces
                .iter()
                .map(|piece| self.filled(piece).into_owned().into())
                .collect(),
            Payload::Large(size) => {
                let piece = Bytes::from(vec![b'a'; 64 << 10]);
                let mut pieces = vec![Bytes::from_static(b"{\"kind\":\"")];
                pieces.extend(std::iter::repeat_n(piece, size / (64 << 10)));
                pieces.push(Bytes::from_static(b"\"}"));
                pieces
            }
        }
    }

    fn wire(&self, step: &Step) -> http1::Wire {
        let pieces = self.pieces(&step.body);
        let sized = !matches!(step.body, Payload::Pieces(_));
        let length: usize = pieces.iter().map(Bytes::len).sum();
        let mut head = match &step.raw_head {
            Some(head) => self.filled(head).into_owned(),
            None => {
                let target = self.filled(&step.target);
                format!("{} {target} HTTP/1.1\r\nHost: {HOST}\r\n", step.method)
            }
        };
        for (name, value) in self.headers(step) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let mut body = Vec::with_capacity(length);
        if sized {
            if !matches!(step.body, Payload::Nothing) {
                head.push_str(&format!("Content-Length: {length}\r\n"));
            }
            pieces
                .iter()
                .for_each(|piece| body.extend_from_slice(piece));
        } else {
            head.push_str("Transfer-Encoding: chunked\r\n");
            for piece in pieces {
                body.extend(format!("{:x}\r\n", piece.len()).bytes());
                body.extend_from_slice(&piece);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
        }
        head.push_str("\r\n");
        http1::Wire {
            head: head.into_bytes(),
            body,
            expects: step.headers.iter().any(|(name, _)| *name == "expect"),
            is_head: step.method == "HEAD",
        }
    }

    fn request(&self, step: &Step) -> anyhow::Result<Request<http2::Pieces>> {
        let target = self.filled(&step.target);
        let mut request = Request::builder()
            .method(step.method)
            .uri(format!("https://{HOST}{target}"));
        for (name, value) in self.headers(step) {
            request = request.header(name, value);
        }
        let body = http2::Pieces {
            pieces: self.pieces(&step.body).into(),
            sized: !matches!(step.body, Payload::Pieces(_)),
        };
        request.body(body).with_context(|| step.label())
    }
}
