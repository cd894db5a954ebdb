//! Sends the spans that wait to the collector: one batch at a time, each until the collector takes it or says that it
//! never will, with growing pauses while it takes nothing.
//!
//! Nothing waits for it: spans that find no room meanwhile are dropped and counted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::LocalSet;
use tracing::{info, warn};

use super::own_call::{pause_after, varied};
use crate::shared::Shared;
use crate::traces::collector::{Answer, Collector, Connection, SendError};
use crate::traces::queue::Batch;

/// Between two batches that are not full.
const EVERY: Duration = Duration::from_secs(5);
/// One may take this long, connecting included.
const PATIENCE: Duration = Duration::from_secs(10);
/// After the first failure; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// At the end, what is left is sent; a collector that does not take it by then is not waited for.
const AT_THE_END: Duration = Duration::from_secs(2);

/// What is known of the collector.
#[derive(Default)]
struct Exporter {
    connection: Option<Connection>,
    /// Of which configuration the connection is.
    generation: u64,
    /// In a row.
    failures: u32,
    /// It was said that not all is taken.
    told: bool,
}

/// Sends until `stop` turns true. Runs inside a `LocalSet`.
pub(crate) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut exporter = Exporter::default();
    loop {
        let pause = exporter.send_all(&shared).await;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.traces.queue.enough(), if exporter.failures == 0 => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// At the end of the process: what still waits is sent, but not for long.
pub(crate) fn flush(shared: &Arc<Shared>) {
    if shared.traces.queue.waiting() == 0 {
        return;
    }
    let of_thread = Arc::clone(shared);
    // On a thread of its own: whoever ends the process may be inside a runtime.
    let sending = std::thread::Builder::new()
        .name("traces".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let sending = async {
                let mut exporter = Exporter::default();
                while of_thread.traces.queue.waiting() > 0 && exporter.failures == 0 {
                    exporter.send_all(&of_thread).await;
                }
            };
            let in_time = async { tokio::time::timeout(AT_THE_END, sending).await };
            let _ = LocalSet::new().block_on(&runtime, in_time);
            std::io::Result::Ok(())
        });
    let _ = sending.map(std::thread::JoinHandle::join);
    let lost = shared.traces.queue.waiting();
    if lost > 0 {
        warn!(
            spans = lost,
            "spans that the collector did not take in time are lost"
        );
    }
}

impl Exporter {
    /// Sends whatever waits, down to less than a whole batch; says how long to wait then.
    async fn send_all(&mut self, shared: &Shared) -> Duration {
        let queue = &shared.traces.queue;
        let snapshot = shared.snapshot.load_full();
        let Some(collector) = &snapshot.traces else {
            self.connection = None;
            self.failures = 0;
            queue.clear();
            return EVERY;
        };
        if std::mem::replace(&mut self.generation, snapshot.generation) != snapshot.generation {
            self.connection = None;
        }
        while let Some(batch) = queue.batch() {
            let answer = match tokio::time::timeout(PATIENCE, self.send(collector, &batch)).await {
                Ok(answer) => answer,
                Err(late) => Err(late.into()),
            };
            let endpoint = snapshot.config.traces.endpoint.as_deref();
            let endpoint = endpoint.unwrap_or_default();
            let after = match answer {
                Ok(Answer::Taken { rejected, why }) => {
                    queue.taken(rejected);
                    self.failures = 0;
                    if rejected > 0 {
                        self.tell(endpoint, &format!("it rejects spans: {why}"));
                    } else if std::mem::take(&mut self.told) {
                        info!(endpoint, "the collector takes spans again");
                    }
                    if queue.has_enough() {
                        continue;
                    }
                    return EVERY;
                }
                Ok(Answer::Never(status)) => {
                    queue.give_up();
                    self.tell(endpoint, &format!("it answered {status}"));
                    None
                }
                Ok(Answer::Later(status, after)) => {
                    self.tell(endpoint, &format!("it answered {status}"));
                    after
                }
                Err(problem) => {
                    self.connection = None;
                    self.tell(endpoint, &problem.to_string());
                    None
                }
            };
            self.failures = self.failures.saturating_add(1);
            let pause = varied(pause_after(self.failures, FIRST_PAUSE, LONGEST_PAUSE));
            return pause.max(after.unwrap_or_default());
        }
        EVERY
    }

    async fn send(&mut self, collector: &Collector, batch: &Batch) -> Result<Answer, SendError> {
        let mut connection = match self.connection.take().filter(|open| !open.is_closed()) {
            Some(connection) => connection,
            None => collector.connect().await?,
        };
        let answer = collector.send(&mut connection, batch.body.clone()).await?;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Says once that not all is taken.
    fn tell(&mut self, endpoint: &str, problem: &str) {
        if !std::mem::replace(&mut self.told, true) {
            warn!(
                endpoint,
                problem,
                "the collector does not take spans; what finds no room is dropped and counted"
            );
        }
    }
}
