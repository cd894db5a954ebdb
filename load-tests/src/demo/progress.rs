//! Showing what is going on: a table that is redrawn four times a second in a
//! terminal, a line now and then elsewhere.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use crossterm::{QueueableCommand, cursor, style::Print, terminal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::live::{Live, State};
use crate::record::Record;

const REDRAW: Duration = Duration::from_millis(250);
/// Redraws per line when the output is no terminal.
const PER_LINE: u32 = 8;

/// Shows the progress until finished.
pub(crate) struct Progress {
    task: JoinHandle<()>,
    live: Live,
    terminal: bool,
    drawn: Arc<std::sync::atomic::AtomicU16>,
}

impl Progress {
    pub(crate) fn begin(live: &Live) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let drawn: Arc<std::sync::atomic::AtomicU16> = Arc::default();
        let (shown, lines) = (live.clone(), drawn.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(REDRAW);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let mut rates = Rates::default();
            for turn in 0u32.. {
                ticks.tick().await;
                let state = shown.take();
                let rows = rates.rows(&state);
                let result = if terminal {
                    redraw(&state, &rows, &lines)
                } else {
                    let due = turn.is_multiple_of(PER_LINE);
                    say(&state, if due { Some(&rows) } else { None })
                };
                if result.is_err() {
                    return; // nobody looks any more
                }
            }
        });
        Self {
            task,
            live: live.clone(),
            terminal,
            drawn,
        }
    }

    /// Stops, leaving the cursor below what was told.
    pub(crate) async fn finish(self) {
        self.task.abort();
        let _ = self.task.await;
        let state = self.live.take();
        let _ = if self.terminal {
            clear(&self.drawn).and_then(|()| say(&state, None))
        } else {
            say(&state, None)
        };
    }
}

/// One class in the live table.
struct Row {
    class: &'static str,
    rate: f64,
    served: u64,
    shed: u64,
    lost: u64,
    p99: Option<Duration>,
}

/// Differences between two looks at a record.
#[derive(Default)]
struct Rates {
    record: Option<Arc<Record>>,
    /// A second or so ago.
    before: Vec<u64>,
    at: Option<Instant>,
    shown: Vec<f64>,
}

impl Rates {
    fn rows(&mut self, state: &State) -> Vec<Row> {
        let Some(record) = state.current.as_ref().map(|current| current.get()) else {
            return Vec::new();
        };
        let same = self
            .record
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &record));
        let classes = record.classes();
        let tallies: Vec<_> = classes.iter().map(|class| record.class(class)).collect();
        let offered: Vec<u64> = tallies.iter().map(|tally| tally.offered).collect();
        let now = Instant::now();
        if !same {
            self.before = vec![0; offered.len()];
            self.at = Some(record.opened());
            self.record = Some(record);
        }
        let since = self.at.map_or(0.0, |at| (now - at).as_secs_f64());
        if since >= 1.0 || self.shown.len() != offered.len() {
            let pairs = offered.iter().zip(&self.before);
            self.shown = pairs
                .map(|(now, before)| now.saturating_sub(*before) as f64 / since.max(0.25))
                .collect();
            self.before = offered;
            self.at = Some(now);
        }
        classes
            .into_iter()
            .zip(&tallies)
            .zip(&self.shown)
            .map(|((class, tally), rate)| Row {
                class,
                rate: *rate,
                served: tally.served,
                shed: tally.shed,
                lost: tally.failed + tally.timed_out,
                p99: tally.recent_p99(),
            })
            .collect()
    }
}

fn heading(state: &State) -> String {
    let mut line = format!(
        "{:<8} {:<10} {:>5.1} s",
        state.arm,
        state.phase,
        state.since.elapsed().as_secs_f64()
    );
    if let Some(gauges) = &state.gauges {
        // Writing to a string does not fail.
        let _ = write!(
            line,
            "   limit {:.0} ms, outstanding {:.0} ms, probe delay {:.1} ms, {}refused {:.0}",
            gauges.limit_seconds * 1e3,
            gauges.outstanding_seconds * 1e3,
            gauges.probe_delay_seconds * 1e3,
            if state.arm == "shadow" {
                "would have "
            } else {
                ""
            },
            gauges.shed
        );
    }
    line
}

fn redraw(
    state: &State,
    rows: &[Row],
    drawn: &std::sync::atomic::AtomicU16,
) -> std::io::Result<()> {
    clear(drawn)?;
    let mut out = std::io::stdout();
    for news in &state.news {
        writeln!(out, "{news}")?;
    }
    let width = terminal::size().map_or(80, |(columns, _)| usize::from(columns));
    let mut lines = vec![heading(state)];
    if !rows.is_empty() {
        lines.push(format!(
            "  {:<16} {:>8} {:>8} {:>8} {:>8} {:>10}",
            "class", "per s", "served", "shed", "failed", "p99"
        ));
    }
    for row in rows {
        lines.push(format!(
            "  {:<16} {:>8.1} {:>8} {:>8} {:>8} {:>10}",
            row.class,
            row.rate,
            row.served,
            row.shed,
            row.lost,
            millis(row.p99)
        ));
    }
    for line in &lines {
        let shown: String = line.chars().take(width.saturating_sub(1)).collect();
        out.queue(Print(shown))?.queue(Print("\r\n"))?;
    }
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    drawn.store(height, std::sync::atomic::Ordering::Relaxed);
    out.flush()
}

/// Takes the table away again.
fn clear(drawn: &std::sync::atomic::AtomicU16) -> std::io::Result<()> {
    let height = drawn.swap(0, std::sync::atomic::Ordering::Relaxed);
    let mut out = std::io::stdout();
    if height > 0 {
        out.queue(cursor::MoveToPreviousLine(height))?
            .queue(terminal::Clear(terminal::ClearType::FromCursorDown))?;
    }
    out.flush()
}

/// News, and perhaps a line of progress.
fn say(state: &State, rows: Option<&[Row]>) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    for news in &state.news {
        writeln!(out, "{news}")?;
    }
    let Some(rows) = rows else {
        return out.flush();
    };
    write!(out, "{}", heading(state))?;
    for row in rows {
        if ["life-signs", "operators", "bulk"].contains(&row.class) {
            write!(
                out,
                "   {}: {} served, {} shed, {} failed, p99 {}",
                row.class,
                row.served,
                row.shed,
                row.lost,
                millis(row.p99)
            )?;
        }
    }
    writeln!(out)?;
    out.flush()
}

fn millis(latency: Option<Duration>) -> String {
    latency.map_or_else(
        || "-".to_owned(),
        |latency| format!("{:.1} ms", latency.as_secs_f64() * 1e3),
    )
}
