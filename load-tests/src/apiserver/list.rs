//! LIST: pages, and the stream that pays for itself as it goes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::clock;
use super::cost::Costs;
use super::cpu::Thread;
use super::form::Form;
use super::object::Object;
use super::request::{Freshness, ListOptions};
use super::resources::Resource;
use super::selector::Selector;
use super::status::ApiError;
use super::store::{Snapshot, Store, object_key};

/// How long a list waits for a version the server has not seen.
const FUTURE: Duration = Duration::from_secs(3);

/// Bytes per body frame.
const FRAME: usize = 128 * 1024;

/// What a list returns.
#[derive(Debug)]
pub(super) struct Page {
    version: u64,
    objects: Vec<Arc<Object>>,
    next: Option<String>,
    remaining: Option<usize>,
    /// Objects looked at.
    scanned: usize,
}

impl Page {
    /// Selects a page. 400 for a token that is none, 410 for one that is too
    /// old, 504 for a version of the future.
    pub(super) async fn select(
        store: &Store,
        resource: &Resource,
        namespace: Option<&str>,
        options: &ListOptions,
        selector: &Selector,
    ) -> Result<Self, ApiError> {
        if let Freshness::NotOlderThan(version) | Freshness::Exact(version) = options.freshness {
            await_version(store, resource, version).await?;
        }
        let token = options
            .continue_token
            .as_deref()
            .map(Token::decode)
            .transpose()?;
        let snapshot = match (&token, options.freshness) {
            (Some(token), _) => store.snapshot_at(resource, namespace, token.version)?,
            (None, Freshness::Exact(version)) => store.snapshot_at(resource, namespace, version)?,
            _ => store.snapshot(resource, namespace),
        };
        let limit = options.limit.and_then(|limit| usize::try_from(limit).ok());
        Ok(Self::cut(snapshot, token.as_ref(), limit, selector))
    }

    fn cut(
        snapshot: Snapshot,
        token: Option<&Token>,
        limit: Option<usize>,
        selector: &Selector,
    ) -> Self {
        let Snapshot { version, objects } = snapshot;
        let start = token.map_or(0, |token| {
            objects.partition_point(|object| {
                (&*object.namespace, &*object.name)
                    <= (token.namespace.as_str(), token.name.as_str())
            })
        });
        let total = objects.len();
        let limit = limit.unwrap_or(usize::MAX);
        let mut page = Self {
            version,
            objects: Vec::new(),
            next: None,
            remaining: None,
            scanned: 0,
        };
        for object in objects.into_iter().skip(start) {
            if page.objects.len() == limit {
                page.next = page.objects.last().map(|last| Token::encode(version, last));
                if selector.is_empty() {
                    page.remaining = Some(total - start - limit);
                }
                break;
            }
            page.scanned += 1;
            if selector.matches(&object) {
                page.objects.push(object);
            }
        }
        if selector.indexed() {
            page.scanned = page.objects.len();
        }
        page
    }

    /// Bytes of its encoding, roughly.
    pub(super) fn bytes(&self, form: Form) -> u64 {
        self.objects
            .iter()
            .map(|object| form.estimate(object.json().len() as u64))
            .sum()
    }

    fn metadata(&self) -> String {
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if let Some(next) = &self.next {
            metadata["continue"] = json!(next);
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        metadata.to_string()
    }
}

/// Where the next page starts.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    version: u64,
    namespace: String,
    name: String,
}

impl Token {
    fn encode(version: u64, last: &Object) -> String {
        let (namespace, name) = object_key(last);
        let token = json!({"v": "meta.k8s.io/v1", "rv": version, "ns": namespace, "start": name});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let read = || {
            let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
            Some(Self {
                version: token["rv"].as_u64()?,
                namespace: token["ns"].as_str()?.to_owned(),
                name: token["start"].as_str()?.to_owned(),
            })
        };
        read().ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

/// Waits a while for the store to reach `version`.
async fn await_version(store: &Store, resource: &Resource, version: u64) -> Result<(), ApiError> {
    let deadline = Instant::now() + FUTURE;
    let mut changes = store.subscribe(resource);
    while store.version() < version {
        if !matches!(
            tokio::time::timeout_at(deadline, changes.changed()).await,
            Ok(Ok(()))
        ) {
            // Another resource may have brought the version meanwhile.
            let current = store.version();
            if current >= version {
                break;
            }
            return Err(ApiError::too_large_version(version, current));
        }
    }
    Ok(())
}

/// Writes a list piece by piece, each once its CPU time has been used.
pub(super) struct Writer {
    resource: &'static Resource,
    form: Form,
    costs: Arc<Costs>,
    page: Page,
    written: usize,
    /// CPU time of what was written and not paid for yet.
    owed: Duration,
    opened: bool,
    closed: bool,
}

impl Writer {
    pub(super) fn new(
        resource: &'static Resource,
        form: Form,
        costs: Arc<Costs>,
        page: Page,
    ) -> Self {
        Self {
            resource,
            form,
            costs,
            page,
            written: 0,
            owed: Duration::ZERO,
            opened: false,
            closed: false,
        }
    }

    /// CPU time of looking for the objects.
    pub(super) fn scan(&self) -> Duration {
        self.costs.scan(self.page.scanned)
    }

    /// The next piece, about a quantum of work, paid for; `None` at the end.
    pub(super) async fn next(&mut self, thread: &mut Thread) -> Option<Bytes> {
        if self.closed {
            return None;
        }
        let mut piece = Vec::new();
        let mut cost = std::mem::take(&mut self.owed);
        let first = !self.opened;
        if first {
            self.opened = true;
            self.form
                .open(self.resource, &self.page.metadata(), &mut piece);
            cost += self.costs.list + self.scan();
        }
        let now = clock::unix_now();
        while cost < self.costs.quantum {
            let Some(object) = self.page.objects.get(self.written) else {
                self.form.close(&mut piece);
                self.closed = true;
                break;
            };
            if self.written > 0 {
                piece.push(b',');
            }
            self.form.item(self.resource, object, now, &mut piece);
            cost += self.costs.encode(object.json().len(), self.form);
            self.written += 1;
        }
        if self.closed {
            thread.charge(cost, self.costs.read_hops).await;
        } else {
            // Whole quanta only: a sliver of the next one would give up the
            // core early, and lists would weigh half of what they do.
            let whole = whole_quanta(cost, self.costs.quantum);
            self.owed = cost - whole;
            if first {
                thread.charge(whole, 1).await;
            } else {
                thread.charge_ahead(whole).await;
            }
        }
        Some(piece.into())
    }

    pub(super) fn finished(&self) -> bool {
        self.closed
    }
}

/// The part of `cost` that fills quanta; everything if the quantum is zero.
pub(super) fn whole_quanta(cost: Duration, quantum: Duration) -> Duration {
    let rest = cost.as_nanos().checked_rem(quantum.as_nanos()).unwrap_or(0);
    cost - Duration::from_nanos(u64::try_from(rest).unwrap_or(0))
}

/// Sends what is left of a list; ends early when the client has gone, and
/// with an error, which resets the stream, at the deadline.
pub(super) async fn send(
    mut writer: Writer,
    first: Bytes,
    mut thread: Thread,
    sender: mpsc::Sender<io::Result<Bytes>>,
    deadline: Instant,
) {
    let body = async {
        if !send_piece(&sender, first).await {
            return;
        }
        while let Some(piece) = writer.next(&mut thread).await {
            if !send_piece(&sender, piece).await {
                return;
            }
        }
    };
    tokio::select! {
        () = body => {}
        () = sender.closed() => {}
        () = tokio::time::sleep_until(deadline) => {
            let late = io::Error::new(io::ErrorKind::TimedOut, "request deadline");
            // A client that is not reading gets its reset from the dropped body.
            let _ = sender.try_send(Err(late));
        }
    }
}

/// Sends a piece in frames; false when nobody listens any more.
pub(super) async fn send_piece(sender: &mpsc::Sender<io::Result<Bytes>>, mut piece: Bytes) -> bool {
    while !piece.is_empty() {
        let frame = piece.split_to(piece.len().min(FRAME));
        if sender.send(Ok(frame)).await.is_err() {
            return false;
        }
    }
    true
}
