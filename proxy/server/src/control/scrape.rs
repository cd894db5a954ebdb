//! What the apiserver says of itself at `/metrics`: how much it stores, and what memory it takes.
//!
//! Never needed, and not asked for often: the page is megabytes long and costs the server tens of milliseconds. How many
//! objects there are makes the first LIST of each no surprise; the memory counts only where the host does not show it and
//! an operator has said how much there may be. We assert a member of `system:monitoring`, whom kube-apiserver's own roles
//! let read this page and little else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::ACCEPT;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use proxy_core::admission::Memory;
use proxy_core::admission::cost::{Shape, Stored};
use proxy_core::time::Time;
use tokio::sync::watch;
use tracing::debug;

use super::own_call;
use crate::clock;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::upstream::body::RequestBody;

/// Before the first.
const FIRST: Duration = Duration::from_secs(5);
/// Between two, as long as only counts are wanted, and when memory is.
const COUNTS: Duration = Duration::from_secs(300);
const MEMORY: Duration = Duration::from_secs(15);
/// After a failure; doubles.
const LAST_PAUSE: Duration = Duration::from_secs(1_800);
/// One may take this long, in all.
const PATIENCE: Duration = Duration::from_secs(15);
/// A page longer than this, in bytes, is not read to its end.
const LONGEST: usize = 128 << 20;
/// Nor lines longer than this.
const LONGEST_LINE: usize = 2_048;
/// Resources taken from a page.
const MOST: usize = 4_096;
/// Memory said longer ago is not known any more.
const FRESH: Duration = Duration::from_secs(40);

/// Whom the server lets read its metrics.
const GROUP: &str = "system:monitoring";

/// What a page said.
#[derive(Debug, Default)]
struct Page {
    stored: HashMap<(String, String), Stored>,
    resident: Option<u64>,
    line: Vec<u8>,
    read: usize,
}

/// The memory the server said it takes, and when.
#[derive(Debug, Default)]
pub(crate) struct Said(std::sync::Mutex<Option<(Time, u64)>>);

impl Said {
    /// What is known at `now`, against the limit of the configuration.
    pub(crate) fn memory(&self, limit: Option<config::ByteSize>, now: Time) -> Option<Memory> {
        let (at, used) = (*self.0.lock().ok()?)?;
        let fresh = now.saturating_since(at) < FRESH;
        fresh.then_some(Memory {
            used,
            limit: limit?.get(),
            stalled: 0.0,
        })
    }
}

/// Asks until `stop` turns true.
pub(crate) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut pause = FIRST;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let snapshot = shared.snapshot.load_full();
        let blind = shared.sensed.get(clock::now()).is_none();
        let for_memory = blind && snapshot.config.upstream.memory_limit.is_some();
        // Counts can wait for better times.
        if !for_memory && !shared.is_calm() {
            pause = FIRST;
            continue;
        }
        let page = tokio::time::timeout(PATIENCE, ask(&snapshot)).await;
        match page.ok().flatten() {
            Some(page) => {
                take(&shared, page);
                pause = if for_memory { MEMORY } else { COUNTS };
            }
            None => {
                debug!("the apiserver's metrics cannot be read");
                pause = (pause * 2).clamp(MEMORY, LAST_PAUSE);
            }
        }
    }
}

fn take(shared: &Shared, page: Page) {
    for ((group, resource), stored) in &page.stored {
        let resource = Shape::cluster_resource(group, resource);
        shared.costs.tell(resource, *stored);
    }
    if let Ok(mut said) = shared.said.0.lock() {
        *said = page.resident.map(|bytes| (clock::now(), bytes));
    }
    let resources = page.stored.len() as f64;
    shared
        .metrics
        .gauge("spillway_counted_resources", &[])
        .set(resources);
}

async fn ask(snapshot: &Snapshot) -> Option<Page> {
    let request = Request::get("/metrics").header(ACCEPT, "text/plain");
    let response = own_call::send(snapshot, &[GROUP], request, RequestBody::Empty);
    let response = response.await.ok()?;
    if response.status() != StatusCode::OK {
        return None;
    }
    let mut body = response.into_body();
    let mut page = Page::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.ok()?;
        if let Some(data) = frame.data_ref() {
            page.feed(data)?;
        }
    }
    Some(page)
}

impl Page {
    /// The next piece; `None` when it is too much.
    fn feed(&mut self, piece: &[u8]) -> Option<()> {
        self.read += piece.len();
        if self.read > LONGEST {
            return None;
        }
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            self.grow(line);
            let line = std::mem::take(&mut self.line);
            if line.len() < LONGEST_LINE
                && let Ok(line) = std::str::from_utf8(&line)
            {
                self.read_line(line);
            }
            self.line = line;
            self.line.clear();
            rest = after.get(1..).unwrap_or_default();
        }
        self.grow(rest);
        Some(())
    }

    fn grow(&mut self, part: &[u8]) {
        let room = LONGEST_LINE.saturating_sub(self.line.len());
        self.line.extend(part.iter().take(room));
    }

    fn read_line(&mut self, line: &str) {
        if let Some(value) = line.strip_prefix("process_resident_memory_bytes ") {
            self.resident = number(value);
        } else if let Some(rest) = line.strip_prefix("apiserver_resource_objects{") {
            self.counted(rest, |stored, value| stored.objects = value);
        } else if let Some(rest) = line.strip_prefix("apiserver_storage_objects{") {
            self.counted(rest, |stored, value| stored.objects = value);
        } else if let Some(rest) = line.strip_prefix("apiserver_resource_size_estimate_bytes{") {
            self.counted(rest, |stored, value| stored.bytes = value);
        }
    }

    fn counted(&mut self, rest: &str, set: impl FnOnce(&mut Stored, u64)) {
        let Some((labels, value)) = rest.rsplit_once("} ") else {
            return;
        };
        let label = |name: &str| {
            labels.split(',').find_map(|pair| {
                let value = pair.strip_prefix(name)?.strip_prefix("=\"")?;
                value.strip_suffix('"')
            })
        };
        let (Some(resource), Some(value)) = (label("resource"), number(value)) else {
            return;
        };
        // Older servers write `deployments.apps` as the resource.
        let (group, resource) = match (label("group"), resource.split_once('.')) {
            (Some(group), _) => (group, resource),
            (None, Some((resource, group))) => (group, resource),
            (None, None) => ("", resource),
        };
        if self.stored.len() < MOST {
            let key = (group.to_owned(), resource.to_owned());
            set(self.stored.entry(key).or_default(), value);
        }
    }
}

/// A count; the server writes -1 where it does not know.
fn number(text: &str) -> Option<u64> {
    let value: f64 = text.trim().parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP apiserver_resource_objects x\n\
        apiserver_resource_objects{group=\"\",resource=\"pods\"} 3000\n\
        apiserver_resource_objects{group=\"apps\",resource=\"deployments\"} -1\n\
        apiserver_resource_size_estimate_bytes{group=\"\",resource=\"pods\"} 1.5e+07\n\
        apiserver_storage_objects{resource=\"leases.coordination.k8s.io\"} 12\n\
        process_resident_memory_bytes 2.7e+08\n";

    #[test]
    fn counts_sizes_and_memory_are_found_however_the_page_is_cut() {
        for size in [1, 7, 64, 10_000] {
            let mut page = Page::default();
            for piece in PAGE.as_bytes().chunks(size) {
                page.feed(piece).expect("short enough");
            }
            assert_eq!(page.resident, Some(270_000_000));
            let of = |group: &str, resource: &str| {
                page.stored
                    .get(&(group.to_owned(), resource.to_owned()))
                    .map(|stored| (stored.objects, stored.bytes))
            };
            assert_eq!(of("", "pods"), Some((3_000, 15_000_000)));
            assert_eq!(of("coordination.k8s.io", "leases"), Some((12, 0)));
            assert_eq!(of("apps", "deployments"), None, "unknown there");
        }
    }

    #[test]
    fn endless_lines_and_pages_take_no_memory() {
        let mut page = Page::default();
        let line = vec![b'x'; 1 << 20];
        let mut left = 0;
        while page.feed(&line).is_some() {
            left += 1;
            assert!(page.line.len() <= LONGEST_LINE && left <= 128);
        }
        let mut page = Page::default();
        for number in 0..3 * MOST {
            let line =
                format!("apiserver_resource_objects{{group=\"\",resource=\"r{number}\"}} 1\n");
            page.feed(line.as_bytes()).expect("short enough");
        }
        assert!(page.stored.len() <= MOST);
    }
}
