//! Logs: JSON lines or text on standard error, written by a thread of their own so that a full pipe blocks nobody; what
//! does not fit is dropped and counted by the writer.

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
