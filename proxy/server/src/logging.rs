//! Logs: JSON lines or text on standard error, written by a thread of their own so that a full pipe blocks nobody; what
//! does not fit is dropped and counted by the writer. Beside it files, if they are configured ([`lines`]): of finished
//! requests, which each account writes itself, and of what operators did, which is whatever is said to [`AUDITED`].

mod appended;
mod lines;

use std::cell::Cell;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use config::{Format, Level, Log};
use tracing::{Subscriber, error};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use appended::Appended;
use lines::Counts;
pub(crate) use lines::{Lines, Writing, reopen};

use crate::metrics::Metrics;

/// What is said to these targets is what operators did.
const AUDITED: [&str; 2] = ["spillway::audit", "spillway::reserved"];

/// What of this process's logs is counted; there is one subscriber for all of it.
static AUDIT: OnceLock<Arc<Counts>> = OnceLock::new();
static STDERR: OnceLock<ErrorCounter> = OnceLock::new();

/// Writes what is left when dropped.
#[derive(Debug)]
pub struct Guard {
    _audit: Option<Writing>,
    // After the above: what that cannot write goes there.
    _stderr: WorkerGuard,
}

/// Sets logging up for the process. Keep the guard. A second call does nothing.
pub fn start(log: &Log) -> Guard {
    let (writer, stderr) = NonBlockingBuilder::default()
        .lossy(true)
        .thread_name("log")
        .finish(io::stderr());
    let _ = STDERR.set(writer.error_counter());
    let level = match log.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    // Only our own lines at the wished level: h2 and rustls would write headers, and with them tokens, at `trace`.
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("spillway", level)
        .with_target("proxy_server", level);
    let (audit, writing, problem) = match audit(log, &writer) {
        Ok(Some((lines, writing))) => (Some(lines), Some(writing), None),
        Ok(None) => (None, None, None),
        Err(problem) => (None, None, Some(problem)),
    };
    let audit = audit.map(|lines| json(lines).with_filter(audited()));
    let started = match log.format {
        Format::Json => tracing_subscriber::registry()
            .with(audit)
            .with(json(writer).with_filter(targets))
            .try_init(),
        Format::Text => {
            let lines = tracing_subscriber::fmt::layer().with_writer(writer);
            tracing_subscriber::registry()
                .with(audit)
                .with(lines.with_ansi(false).with_filter(targets))
                .try_init()
        }
    };
    drop(started);
    if let Some(problem) = problem {
        error!(%problem, "there is no audit log: its lines are on standard error alone");
    }
    Guard {
        _audit: writing,
        _stderr: stderr,
    }
}

/// The file of what operators did.
fn audit(log: &Log, instead: &NonBlocking) -> io::Result<Option<(Lines, Writing)>> {
    let Some(path) = log.audit.file.clone() else {
        return Ok(None);
    };
    let file = Appended::new(path, log.audit.max_size.get(), log.audit.keep);
    let (lines, writing) = lines::start("audit", file, Some(instead.clone()))?;
    let _ = AUDIT.set(lines.counts());
    Ok(Some((lines, writing)))
}

/// The file of finished requests.
///
/// # Errors
/// The system's, if it refuses a thread.
pub(crate) fn access(log: &Log) -> io::Result<Option<(Lines, Writing)>> {
    let Some(path) = log.access.file.clone() else {
        return Ok(None);
    };
    let file = Appended::new(path, log.access.max_size.get(), log.access.keep);
    lines::start("access", file, None).map(Some)
}

/// Whatever the level of the log is.
fn audited() -> Targets {
    Targets::new().with_targets(AUDITED.map(|target| (target, LevelFilter::INFO)))
}

fn json<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static + Send + Sync,
{
    tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = OneLine<'a>;

    fn make_writer(&'a self) -> OneLine<'a> {
        OneLine(self)
    }
}

/// Each event is given to it in one piece.
#[derive(Debug)]
pub struct OneLine<'a>(&'a Lines);

impl io::Write for OneLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.put(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Shows what became of the lines of all logs.
pub(crate) fn refresh(metrics: &Metrics, access: Option<&Counts>) {
    let files = [
        ("access", access),
        ("audit", AUDIT.get().map(|counts| &**counts)),
    ];
    for (log, counts) in files {
        let Some(counts) = counts else { continue };
        for (result, count) in [
            ("written", &counts.written),
            ("dropped", &counts.dropped),
            ("diverted", &counts.diverted),
        ] {
            let labels = [("log", log), ("result", result)];
            let counter = metrics.counter("spillway_log_lines_total", &labels);
            counter.absolute(count.load(Ordering::Relaxed));
        }
        let failing = counts.failing.load(Ordering::Relaxed);
        let gauge = metrics.gauge("spillway_log_writable", &[("log", log)]);
        gauge.set(f64::from(u8::from(!failing)));
    }
    if let Some(stderr) = STDERR.get() {
        let labels = [("log", "stderr"), ("result", "dropped")];
        let counter = metrics.counter("spillway_log_lines_total", &labels);
        counter.absolute(stderr.dropped_lines() as u64);
    }
}

/// Lines about refusals and failures a worker writes per second; what exceeds it is counted and told.
const LINES_PER_SECOND: u32 = 20;

/// Lets through a bounded number of lines per second.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    second: Cell<u64>,
    written: Cell<u32>,
    suppressed: Cell<u64>,
}

impl Throttle {
    /// `Some(n)`: write, `n` lines were suppressed before this one.
    pub(crate) fn pass(&self, now: proxy_core::time::Time) -> Option<u64> {
        let second = now.0 / 1_000_000;
        if self.second.replace(second) != second {
            self.written.set(0);
        }
        if self.written.get() >= LINES_PER_SECOND {
            self.suppressed.set(self.suppressed.get() + 1);
            return None;
        }
        self.written.set(self.written.get() + 1);
        Some(self.suppressed.replace(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_core::time::Time;

    #[test]
    fn lines_are_bounded_per_second_and_the_rest_is_counted() {
        let throttle = Throttle::default();
        let passed = (0..100)
            .filter(|_| throttle.pass(Time(5_000_000)).is_some())
            .count();
        assert_eq!(passed, LINES_PER_SECOND as usize);
        assert_eq!(
            throttle.pass(Time(6_000_000)),
            Some(100 - u64::from(LINES_PER_SECOND))
        );
    }
}
