//! WATCH: a stream of events from a version on, with bookmarks and, if asked
//! for, the present state first.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::clock;
use super::cost::Costs;
use super::cpu::Thread;
use super::form::Form;
use super::list::{send_piece, whole_quanta};
use super::object::Object;
use super::request::{Freshness, ListOptions};
use super::resources::Resource;
use super::seats::Seated;
use super::selector::Selector;
use super::status::ApiError;
use super::store::{Change, Event, Store};

/// Events taken from the history at a time.
const BATCH: usize = 100;

/// A watch and what it needs to go on.
pub(super) struct Watch {
    pub(super) store: Arc<Store>,
    pub(super) costs: Arc<Costs>,
    pub(super) resource: &'static Resource,
    pub(super) namespace: Option<String>,
    pub(super) selector: Selector,
    pub(super) form: Form,
    /// Events after this version are still to be sent.
    pub(super) after: u64,
    /// The present state, to be sent first.
    pub(super) initial: Vec<Arc<Object>>,
    /// Whether a bookmark marks the end of the present state.
    pub(super) mark_initial: bool,
    pub(super) bookmarks: bool,
    pub(super) bookmark_every: Duration,
    pub(super) lasts: Duration,
}

impl Watch {
    /// Fills in where the watch starts: the objects to send first and the
    /// version to go on from.
    pub(super) fn start(&mut self, options: &ListOptions) -> Result<(), ApiError> {
        let from = match options.freshness {
            Freshness::NotOlderThan(version) | Freshness::Exact(version) => Some(version),
            Freshness::Current | Freshness::Any => None,
        };
        match from {
            Some(version) if !options.send_initial_events => self.after = version,
            from => {
                let snapshot = self
                    .store
                    .snapshot(self.resource, self.namespace.as_deref());
                if let Some(version) = from.filter(|&version| version > snapshot.version) {
                    return Err(ApiError::too_large_version(version, snapshot.version));
                }
                self.after = snapshot.version;
                self.initial = snapshot.objects;
                self.initial.retain(|object| self.selector.matches(object));
                self.mark_initial = options.send_initial_events;
            }
        }
        Ok(())
    }

    /// Runs to its end: time, a client that left or fell behind, or a version
    /// that is too old, which the stream says.
    pub(super) async fn run(
        mut self,
        mut thread: Thread,
        sender: mpsc::Sender<io::Result<Bytes>>,
        seated: Seated,
    ) {
        let deadline = Instant::now() + self.lasts;
        let gone = sender.clone();
        let body = async {
            if !self.send_initial(&mut thread, &sender).await {
                return;
            }
            drop(seated);
            self.follow(&mut thread, &sender).await;
        };
        tokio::select! {
            () = body => {}
            () = gone.closed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }

    async fn send_initial(
        &mut self,
        thread: &mut Thread,
        sender: &mpsc::Sender<io::Result<Bytes>>,
    ) -> bool {
        let objects = std::mem::take(&mut self.initial);
        let mut piece = Vec::new();
        let mut cost = Duration::ZERO;
        for object in &objects {
            self.line("ADDED", object, &mut piece);
            cost += self.costs.encode(object.json().len(), self.form);
            if cost >= self.costs.quantum {
                let whole = whole_quanta(cost, self.costs.quantum);
                cost -= whole;
                thread.charge_ahead(whole).await;
                if !send_piece(sender, std::mem::take(&mut piece).into()).await {
                    return false;
                }
            }
        }
        if self.mark_initial {
            self.bookmark(true, &mut piece);
        }
        thread.charge(cost, 1).await;
        send_piece(sender, piece.into()).await
    }

    async fn follow(&mut self, thread: &mut Thread, sender: &mpsc::Sender<io::Result<Bytes>>) {
        let mut changes = self.store.subscribe(self.resource);
        let mut bookmark_at = Instant::now() + self.bookmark_every;
        loop {
            changes.borrow_and_update();
            // Read before the events: all up to it are among them.
            let version = self.store.version();
            let events = match self.store.events_after(self.resource, self.after, BATCH) {
                Ok(events) => events,
                Err(error) => {
                    let line = json!({"type": "ERROR", "object": error.to_json()});
                    let _ = send_piece(sender, format!("{line}\n").into()).await;
                    return;
                }
            };
            let more = events.len() == BATCH;
            let mut piece = Vec::new();
            let mut sent = 0;
            for event in events {
                self.after = event.version;
                if let Some((kind, object)) = self.relevant(&event) {
                    self.line(kind, object, &mut piece);
                    sent += 1;
                }
            }
            if sent > 0 {
                thread.charge(self.costs.event * sent, 1).await;
                if !send_piece(sender, piece.into()).await {
                    return;
                }
            }
            if more {
                continue;
            }
            self.after = self.after.max(version);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(bookmark_at), if self.bookmarks => {
                    let mut piece = Vec::new();
                    self.bookmark(false, &mut piece);
                    bookmark_at = Instant::now() + self.bookmark_every;
                    if !send_piece(sender, piece.into()).await {
                        return;
                    }
                }
            }
        }
    }

    /// What the event means to this watch: objects that come to match are
    /// added, those that cease to are deleted.
    fn relevant<'a>(&self, event: &'a Event) -> Option<(&'static str, &'a Object)> {
        let object = &event.object;
        if self
            .namespace
            .as_deref()
            .is_some_and(|namespace| *namespace != *object.namespace)
        {
            return None;
        }
        let before = event
            .previous
            .as_ref()
            .is_some_and(|previous| self.selector.matches(previous));
        let after = event.change != Change::Deleted && self.selector.matches(object);
        let kind = match (before, after) {
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        Some((kind, object))
    }

    fn line(&self, kind: &str, object: &Object, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        self.form
            .single(self.resource, object, clock::unix_now(), out);
        out.extend_from_slice(b"}\n");
    }

    /// A bookmark at the version reached, which for an idle watch is the
    /// store's newest.
    fn bookmark(&mut self, initial: bool, out: &mut Vec<u8>) {
        let mut metadata = json!({
            "resourceVersion": self.after.to_string(),
            "creationTimestamp": null,
        });
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Whole => json!({
                "kind": self.resource.kind,
                "apiVersion": self.resource.api_version(),
                "metadata": metadata,
            }),
            Form::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
            }),
            Form::Table(_) => json!({
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "columnDefinitions": [],
                "rows": [],
            }),
        };
        let line = json!({"type": "BOOKMARK", "object": object});
        out.extend_from_slice(format!("{line}\n").as_bytes());
    }
}
