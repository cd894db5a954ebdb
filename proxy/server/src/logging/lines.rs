//! Lines on their way to a file: a bounded queue and a thread of its own, so that no disk ever delays a request.
//!
//! What the queue or the disk does not take is dropped and counted; or, for the audit log, written to standard error
//! instead. Either is said in the log.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use tracing::{error, info};
use tracing_appender::non_blocking::NonBlocking;

use super::appended::{Appended, Incomplete};

/// Lines that wait.
const MOST_LINES: usize = 16_384;
/// Their bytes.
const MOST_BYTES: usize = 16 << 20;
/// Bytes written at once.
const PIECE: usize = 256 << 10;
/// How often a thread without lines looks whether it is to do something else.
const LOOK: Duration = Duration::from_secs(1);
/// A trouble that goes on is told again after so long.
const AGAIN: Duration = Duration::from_secs(60);
/// At the end, what is left is written; a disk that does not take it by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Counts the wishes of [`reopen`].
static REOPEN: AtomicU64 = AtomicU64::new(0);

/// Every file of this process is to be opened anew: whoever renamed one is done with it when this has come through.
pub(crate) fn reopen() {
    REOPEN.fetch_add(1, Ordering::Relaxed);
}

/// What became of lines.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// They are in the file.
    pub(crate) written: AtomicU64,
    /// They are nowhere.
    pub(crate) dropped: AtomicU64,
    /// They were given to standard error instead.
    pub(crate) diverted: AtomicU64,
    /// The last attempt to write failed.
    pub(crate) failing: AtomicBool,
    /// Bytes that wait.
    waiting: AtomicUsize,
}

/// The end of the queue that lines are put into.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    queue: SyncSender<Vec<u8>>,
    counts: Arc<Counts>,
    instead: Option<NonBlocking>,
}

/// A running thread. What waits is written when it is dropped.
#[derive(Debug)]
pub(crate) struct Writing {
    stop: Arc<AtomicBool>,
    queue: SyncSender<Vec<u8>>,
    ended: Mutex<Receiver<()>>,
}

/// Starts the thread that writes to `file`, called `name` where it is spoken of. With `instead`, lines that do not get there
/// go to it.
///
/// # Errors
/// The system's, if it refuses a thread. A file that cannot be opened is none: it is tried again with every line.
pub(crate) fn start(
    name: &'static str,
    file: Appended,
    instead: Option<NonBlocking>,
) -> std::io::Result<(Lines, Writing)> {
    let (queue, waiting) = sync_channel(MOST_LINES);
    let (end, ended) = sync_channel(1);
    let counts = Arc::new(Counts::default());
    let stop = Arc::new(AtomicBool::new(false));
    let thread = Thread {
        name,
        file,
        instead: instead.clone(),
        counts: Arc::clone(&counts),
        stop: Arc::clone(&stop),
        opened: REOPEN.load(Ordering::Relaxed),
        told: None,
        lost: 0,
    };
    Builder::new().name(format!("log-{name}")).spawn(move || {
        thread.run(&waiting);
        // Whoever comes later is told that nobody takes it.
        drop(waiting);
        let _ = end.send(());
    })?;
    let lines = Lines {
        queue: queue.clone(),
        counts,
        instead,
    };
    let writing = Writing {
        stop,
        queue,
        ended: Mutex::new(ended),
    };
    Ok((lines, writing))
}

impl Lines {
    /// Puts a line, its end included, into the queue; never waits.
    pub(crate) fn put(&self, line: Vec<u8>) {
        let length = line.len();
        let waiting = self.counts.waiting.fetch_add(length, Ordering::Relaxed);
        let refused = if waiting.saturating_add(length) > MOST_BYTES {
            Some(line)
        } else {
            self.queue
                .try_send(line)
                .err()
                .map(|refused| match refused {
                    std::sync::mpsc::TrySendError::Full(line)
                    | std::sync::mpsc::TrySendError::Disconnected(line) => line,
                })
        };
        if let Some(line) = refused {
            self.counts.waiting.fetch_sub(length, Ordering::Relaxed);
            lose(&self.counts, self.instead.clone(), &line, 1);
        }
    }

    pub(crate) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }
}

/// These lines do not get into the file.
fn lose(counts: &Counts, instead: Option<NonBlocking>, lines: &[u8], number: u64) {
    match instead {
        Some(mut other) => {
            // It drops what does not fit by itself, and counts that.
            let _ = other.write_all(lines);
            counts.diverted.fetch_add(number, Ordering::Relaxed);
        }
        None => {
            counts.dropped.fetch_add(number, Ordering::Relaxed);
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Nothing to write: it wakes the thread, unless that has enough to do.
        let _ = self.queue.try_send(Vec::new());
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(PATIENCE);
    }
}

struct Thread {
    name: &'static str,
    file: Appended,
    instead: Option<NonBlocking>,
    counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    /// The wishes of [`reopen`] that were followed.
    opened: u64,
    /// When a trouble was last told.
    told: Option<Instant>,
    /// Lines known to be lost when it was.
    lost: u64,
}

impl Thread {
    fn run(mut self, waiting: &Receiver<Vec<u8>>) {
        let mut piece = Vec::new();
        loop {
            let patience = match self.stop.load(Ordering::Acquire) {
                true => Duration::ZERO,
                false => LOOK,
            };
            match waiting.recv_timeout(patience) {
                Ok(line) => piece.extend_from_slice(&line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while piece.len() < PIECE {
                let Ok(line) = waiting.try_recv() else { break };
                piece.extend_from_slice(&line);
            }
            let wish = REOPEN.load(Ordering::Relaxed);
            if std::mem::replace(&mut self.opened, wish) != wish {
                self.file.close();
            }
            if !piece.is_empty() {
                self.write(&piece);
                self.counts
                    .waiting
                    .fetch_sub(piece.len(), Ordering::Relaxed);
                piece.clear();
                piece.shrink_to(2 * PIECE);
            } else if patience.is_zero() {
                return;
            }
        }
    }

    fn write(&mut self, piece: &[u8]) {
        let result = self.file.append(piece);
        let whole = result
            .as_ref()
            .map_or_else(|wrong| wrong.whole, |()| piece.len());
        let (in_file, rest) = piece.split_at_checked(whole).unwrap_or((&[], piece));
        self.counts
            .written
            .fetch_add(lines_in(in_file), Ordering::Relaxed);
        if !rest.is_empty() {
            lose(&self.counts, self.instead.clone(), rest, lines_in(rest));
        }
        self.tell(result);
    }

    /// Says what goes wrong when it begins, once a minute while it goes on, and when it is over.
    fn tell(&mut self, result: Result<(), Incomplete>) {
        let failing = result.is_err();
        let was = self.counts.failing.swap(failing, Ordering::Relaxed);
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let lost = load(&self.counts.dropped) + load(&self.counts.diverted);
        let path = self.file.path().display();
        let (log, missing) = (self.name, lost - self.lost);
        let since = self.told.map_or(Duration::MAX, |told| told.elapsed());
        let again = since >= AGAIN || failing != was && since >= LOOK;
        let fate = match self.instead {
            Some(_) => "its lines are on standard error instead",
            None => "its lines are lost",
        };
        match result {
            Err(Incomplete { source, .. }) if again => {
                error!(log, %path, problem = %source, missing, fate, "a log cannot be written");
            }
            Ok(()) if was && again => info!(log, %path, missing, "a log is written again"),
            Ok(()) if missing > 0 && again => {
                error!(log, %path, missing, fate, "a log did not take all of its lines: they came faster than the disk writes");
            }
            Ok(()) if self.file.is_stuck() && again => {
                error!(log, %path, "a log has reached its size and cannot be renamed; it goes on growing");
            }
            _ => return,
        }
        self.told = Some(Instant::now());
        self.lost = lost;
    }
}

fn lines_in(piece: &[u8]) -> u64 {
    piece.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn load(count: &AtomicU64) -> u64 {
        count.load(Ordering::Relaxed)
    }

    #[test]
    fn what_was_put_is_in_the_file_when_the_thread_has_ended() {
        let path = std::env::temp_dir().join(format!("spillway-{}-lines", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let file = Appended::new(path.clone(), u64::MAX, 1);
        let (lines, writing) = start("test", file, None).expect("a thread");
        for number in 0..1000 {
            lines.put(format!("{number}\n").into_bytes());
        }
        drop(writing);
        let text = std::fs::read_to_string(&path).expect("a file");
        assert_eq!(text.lines().count(), 1000);
        assert_eq!(load(&lines.counts.written), 1000);
        assert_eq!(lines.counts.waiting.load(Ordering::Relaxed), 0);
        let _ = std::fs::remove_file(&path);
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let file = Appended::new(PathBuf::from("/dev/full"), u64::MAX, 1);
        let (lines, writing) = start("test", file, None).expect("a thread");
        lines.put(b"1\n".to_vec());
        lines.put(b"2\n".to_vec());
        drop(writing);
        assert_eq!(load(&lines.counts.dropped), 2);
        assert!(lines.counts.failing.load(Ordering::Relaxed));
        // Nobody takes them any more.
        lines.put(b"3\n".to_vec());
        assert_eq!(load(&lines.counts.dropped), 3);
    }

    #[test]
    fn lines_that_come_faster_than_they_are_taken_wait_in_a_bound() {
        // Nobody takes any.
        let (queue, _waiting) = sync_channel(MOST_LINES);
        let lines = Lines {
            queue,
            counts: Arc::default(),
            instead: None,
        };
        for _ in 0..20 {
            lines.put(vec![b'a'; 1 << 20]);
        }
        assert_eq!(load(&lines.counts.dropped), 4, "beyond 16 MiB");
        let waiting = lines.counts.waiting.load(Ordering::Relaxed);
        assert_eq!(waiting, MOST_BYTES);
    }

    /// Written to, from another thread.
    #[derive(Clone, Debug, Default)]
    struct Seen(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_the_audit_log_does_not_take_is_written_elsewhere() {
        let seen = Seen::default();
        let (instead, guard) = tracing_appender::non_blocking(seen.clone());
        let file = Appended::new(PathBuf::from("/dev/full"), u64::MAX, 1);
        let (lines, writing) = start("test", file, Some(instead)).expect("a thread");
        lines.put(b"who\n".to_vec());
        drop(writing);
        drop(guard);
        assert_eq!(*seen.0.lock().expect("unpoisoned"), b"who\n");
        assert_eq!(load(&lines.counts.diverted), 1);
        assert_eq!(load(&lines.counts.dropped), 0);
    }
}
