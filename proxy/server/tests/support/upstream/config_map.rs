//! One ConfigMap, as far as a reflector needs it: read, and watched.

use std::sync::Arc;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::Seen;
use crate::support::body::Payload;

/// The object, and who asked for it.
#[derive(Debug)]
pub struct ConfigMap {
    /// (resourceVersion, data); no data: there is none.
    now: watch::Sender<(u64, Option<Value>)>,
    asked: Mutex<Vec<Seen>>,
}

impl Default for ConfigMap {
    fn default() -> Self {
        Self {
            now: watch::Sender::new((1, None)),
            asked: Mutex::default(),
        }
    }
}

fn object(version: u64, data: &Value) -> Value {
    json!({
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": { "name": "spillway-policy", "namespace": "kube-system", "resourceVersion": version.to_string() },
        "data": data,
    })
}

impl ConfigMap {
    /// Replaces it; `None` deletes it.
    pub fn put(&self, data: Option<Value>) {
        self.now.send_modify(|(version, now)| {
            *version += 1;
            *now = data;
        });
    }

    /// The reads and watches that came.
    pub fn asked(&self) -> Vec<Seen> {
        self.asked.lock().expect("no panic").clone()
    }

    pub(super) fn answer(self: &Arc<Self>, seen: Seen) -> Response<Payload> {
        let is_watch = seen.path.contains("watch=true");
        self.asked.lock().expect("no panic").push(seen);
        let (version, data) = self.now.borrow().clone();
        let mut response = match data {
            Some(_) if is_watch => Response::new(self.watch(version)),
            Some(data) => Response::new(Payload::full(object(version, &data).to_string())),
            None => Response::new(Payload::full("{}")),
        };
        if self.now.borrow().1.is_none() {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        response
    }

    fn watch(self: &Arc<Self>, from: u64) -> Payload {
        let (feed, body) = Payload::channel();
        let mut changes = self.now.subscribe();
        tokio::spawn(async move {
            let mut told = from;
            let mut last = json!({});
            loop {
                let (version, data) = changes.borrow_and_update().clone();
                if version > told {
                    told = version;
                    let kind = if data.is_some() {
                        "MODIFIED"
                    } else {
                        "DELETED"
                    };
                    let event = json!({ "type": kind, "object": object(version, data.as_ref().unwrap_or(&last)) });
                    let line = Bytes::from(format!("{event}\n"));
                    if feed.send(Ok(Frame::data(line))).await.is_err() {
                        return;
                    }
                }
                last = data.unwrap_or(last);
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = feed.closed() => return,
                }
            }
        });
        body
    }
}
