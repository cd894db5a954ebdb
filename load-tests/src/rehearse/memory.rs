//! How large the server grows.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::demo::proxy::resident_bytes;

const EVERY: Duration = Duration::from_millis(100);

/// The most resident memory of a process while it is watched.
pub(super) struct Peak {
    task: Option<JoinHandle<()>>,
    most: Arc<AtomicU64>,
}

impl Peak {
    /// Begins; without a process nothing is seen.
    pub(super) fn watch(pid: Option<u32>) -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let kept = most.clone();
        let task = pid.map(|pid| {
            tokio::spawn(async move {
                let file = format!("/proc/{pid}/status");
                while let Ok(status) = fs::read_to_string(&file) {
                    kept.fetch_max(resident_bytes(&status).unwrap_or(0), Ordering::Relaxed);
                    sleep(EVERY).await;
                }
            })
        });
        Self { task, most }
    }

    /// Bytes; `None` when nothing was seen.
    pub(super) fn end(self) -> Option<u64> {
        if let Some(task) = self.task {
            task.abort();
        }
        Some(self.most.load(Ordering::Relaxed)).filter(|most| *most > 0)
    }
}
