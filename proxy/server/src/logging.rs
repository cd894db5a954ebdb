//! Logs: JSON lines or text on standard error, written by a thread of their own so that a full pipe blocks nobody; what
//! does not fit is dropped and counted by the writer.

use std::cell::Cell;

use config::{Format, Level, Log};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Sets logging up for the process. Keep the guard: it writes what is left when dropped. A second call does nothing.
pub fn start(log: &Log) -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .thread_name("log")
        .finish(std::io::stderr());
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
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let started = match log.format {
        Format::Json => {
            let lines = lines
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false);
            tracing_subscriber::registry()
                .with(lines.with_filter(targets))
                .try_init()
        }
        Format::Text => tracing_subscriber::registry()
            .with(lines.with_ansi(false).with_filter(targets))
            .try_init(),
    };
    drop(started);
    guard
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
