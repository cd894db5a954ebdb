//! Spans that wait for the collector: bounded in number and bytes, and what does not fit is dropped and counted.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// Spans sent at once.
pub(crate) const BATCH: u64 = 512;
/// Their bytes, about.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes that wait.
const MOST_BYTES: usize = 16 << 20;

/// The spans of one request, as JSON: objects, with commas between.
#[derive(Debug)]
pub(crate) struct Spans {
    pub(crate) json: Vec<u8>,
    /// How many.
    pub(crate) number: u64,
}

/// An `ExportTraceServiceRequest` as JSON.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) body: Bytes,
    /// How many spans are in it.
    pub(crate) number: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    enough: Notify,
    exported: AtomicU64,
    dropped: AtomicU64,
    rejected: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: VecDeque<Spans>,
    number: u64,
    bytes: usize,
    /// Made into a request, and not taken yet.
    batch: Option<Batch>,
}

impl Queue {
    /// Puts the spans of a request behind those of at most `most` others; never waits for the collector.
    pub(crate) fn put(&self, spans: Spans, most: u32) {
        let mut waiting = self.lock();
        let room = waiting.spans.len() < most as usize;
        if !room || waiting.bytes.saturating_add(spans.json.len()) > MOST_BYTES {
            drop(waiting);
            self.dropped.fetch_add(spans.number, Ordering::Relaxed);
            return;
        }
        waiting.number += spans.number;
        waiting.bytes += spans.json.len();
        waiting.spans.push_back(spans);
        let enough = waiting.number >= BATCH;
        drop(waiting);
        if enough {
            self.enough.notify_one();
        }
    }

    /// Until a whole batch waits.
    pub(crate) async fn enough(&self) {
        self.enough.notified().await;
    }

    /// What is to be sent next: the same until [`Self::taken`] or [`Self::give_up`].
    pub(crate) fn batch(&self) -> Option<Batch> {
        let mut waiting = self.lock();
        if waiting.batch.is_none() {
            waiting.batch = waiting.gather();
        }
        waiting.batch.clone()
    }

    /// The collector has the batch, but for so many spans that it did not want.
    pub(crate) fn taken(&self, rejected: u64) {
        if let Some(batch) = self.lock().batch.take() {
            let rejected = rejected.min(batch.number);
            self.rejected.fetch_add(rejected, Ordering::Relaxed);
            self.exported
                .fetch_add(batch.number - rejected, Ordering::Relaxed);
        }
    }

    /// The collector will never take the batch.
    pub(crate) fn give_up(&self) {
        self.taken(u64::MAX);
    }

    /// There is no collector any more.
    pub(crate) fn clear(&self) {
        let mut waiting = self.lock();
        let lost = waiting.number + waiting.batch.as_ref().map_or(0, |batch| batch.number);
        *waiting = Waiting::default();
        drop(waiting);
        self.dropped.fetch_add(lost, Ordering::Relaxed);
    }

    /// Whether a whole batch waits.
    pub(crate) fn has_enough(&self) -> bool {
        self.lock().number >= BATCH
    }

    /// Spans that are not sent yet.
    pub(crate) fn waiting(&self) -> u64 {
        let waiting = self.lock();
        waiting.number + waiting.batch.as_ref().map_or(0, |batch| batch.number)
    }

    /// What became of spans, by result.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 3] {
        [
            ("exported", &self.exported),
            ("dropped", &self.dropped),
            ("rejected", &self.rejected),
        ]
        .map(|(result, count)| (result, count.load(Ordering::Relaxed)))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn gather(&mut self) -> Option<Batch> {
        self.spans.front()?;
        let (mut body, mut number) = (Vec::from(before()), 0);
        while let Some(spans) = self.spans.pop_front() {
            if number > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&spans.json);
            self.number -= spans.number;
            self.bytes -= spans.json.len();
            number += spans.number;
            if number >= BATCH || body.len() >= BATCH_BYTES {
                break;
            }
        }
        body.extend_from_slice(b"]}]}]}");
        (number > 0).then(|| Batch {
            body: body.into(),
            number,
        })
    }
}

/// What stands before the spans: who sends them.
fn before() -> &'static [u8] {
    static BEFORE: OnceLock<Vec<u8>> = OnceLock::new();
    BEFORE.get_or_init(|| {
        let version = env!("CARGO_PKG_VERSION");
        let text =
            |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
        let mut attributes = vec![
            text("service.name", "spillway"),
            text("service.version", version),
            json!({ "key": "process.pid", "value": { "intValue": std::process::id().to_string() } }),
        ];
        // In a pod of the host's network this is the node's.
        if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
            attributes.push(text("host.name", host.trim_end()));
        }
        let scope = json!({ "name": "spillway", "version": version });
        let attributes = Value::from(attributes);
        format!(
            r#"{{"resourceSpans":[{{"resource":{{"attributes":{attributes}}},"scopeSpans":[{{"scope":{scope},"spans":["#
        )
        .into_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(json: &str, number: u64) -> Spans {
        Spans {
            json: json.as_bytes().to_vec(),
            number,
        }
    }

    fn counts(queue: &Queue) -> [u64; 3] {
        queue.counts().map(|(_, count)| count)
    }

    #[test]
    fn what_exceeds_the_bounds_is_dropped_and_counted() {
        let queue = Queue::default();
        for _ in 0..5 {
            queue.put(spans("{}", 2), 3);
        }
        assert_eq!((queue.waiting(), counts(&queue)), (6, [0, 4, 0]));
        let large = "1".repeat(MOST_BYTES - 6);
        queue.put(spans(&large, 1), 10);
        queue.put(spans("2", 1), 10);
        assert_eq!((queue.waiting(), counts(&queue)), (7, [0, 5, 0]));
    }

    #[test]
    fn a_batch_stays_until_it_is_taken_and_every_span_is_counted_once() {
        let queue = Queue::default();
        assert!(queue.batch().is_none());
        for number in 0..400 {
            queue.put(spans(&format!("{number},0"), 2), 4096);
        }
        let first = queue.batch().expect("a batch");
        queue.put(spans("7", 1), 4096);
        assert_eq!(queue.batch().expect("the same").body, first.body);
        assert_eq!(first.number, BATCH);
        let whole: Value = serde_json::from_slice(&first.body).expect("JSON");
        let inside = &whole["resourceSpans"][0]["scopeSpans"][0]["spans"];
        assert_eq!(inside.as_array().expect("an array").len(), 512);
        queue.taken(12);
        assert_eq!(counts(&queue), [500, 0, 12]);
        assert_eq!(queue.batch().expect("the rest").number, 289);
        queue.give_up();
        assert!(queue.batch().is_none());
        assert_eq!((queue.waiting(), counts(&queue)), (0, [500, 0, 301]));
        queue.put(spans("7", 1), 4096);
        queue.clear();
        assert_eq!((queue.waiting(), counts(&queue)), (0, [500, 1, 301]));
    }

    #[tokio::test]
    async fn a_whole_batch_wakes_whoever_sends() {
        let queue = Queue::default();
        queue.put(spans("1", BATCH - 1), 4096);
        assert!(!queue.has_enough());
        queue.put(spans("1", 1), 4096);
        queue.enough().await;
    }
}
