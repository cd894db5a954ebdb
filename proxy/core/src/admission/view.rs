//! What admission looks like from outside, for metrics and people.

use std::time::Duration;

use std::sync::atomic::Ordering::Relaxed;

use super::accounts::LAST_LEVEL;
use super::desk::Desk;
use super::gate::Front;
use super::reason::{Reason, TunerState};
use super::{Kind, MAX_CLASSES, Mode};
use crate::time::Time;

/// A bound and what is held against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BoundView {
    /// The bound, or the ceiling of one class, in outstanding server time.
    pub ceiling: Duration,
    /// Outstanding server time.
    pub outstanding: Duration,
    /// Requests running.
    pub running: u64,
    /// Requests waiting.
    pub waiting: usize,
    /// Tenants of a higher user level than this may not wait; 127: all may. Of a whole bound:
    /// that of the most important class in which tenants take turns.
    pub bar: u8,
}

/// One class.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassView {
    /// Short work.
    pub short: BoundView,
    /// Long work.
    pub long: BoundView,
    /// How long the first in either queue has waited.
    pub oldest_wait: Duration,
    /// Requests running that are not counted: modes `off` and `shadow`, and the red button.
    pub uncounted: u64,
    /// Requests refused since the start (in shadow: that would have been).
    pub shed: u64,
    /// Requests that waited, or would have, since the start.
    pub queued: u64,
    /// Requests admitted by the red button although they were to be refused.
    pub forced: u64,
    /// Served requests per second, smoothed over about 3 s.
    pub served_per_second: f32,
    /// Whether its decisions are carried out.
    pub mode: Mode,
    /// For which share of its tenants they are, 0..=1.
    pub enforced_tenants: f32,
}

/// Everything.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Whether decisions are carried out.
    pub mode: Mode,
    /// The limit and all short work.
    pub limit: BoundView,
    /// The breadth and all long work.
    pub breadth: BoundView,
    /// Bytes in flight of responses that count.
    pub bytes: u64,
    /// Budget of those; [`u64::MAX`] if nothing bounds them, because nothing can be judged.
    pub bytes_budget: u64,
    /// By class, most important first; as many as are set.
    pub classes: Vec<ClassView>,
    /// The probe's median delay above its baseline, as of the last tick.
    pub excess: Duration,
    /// What the tuner does.
    pub state: TunerState,
    /// Why.
    pub reason: Reason,
}

impl View {
    pub(super) fn of<W>(front: &Front, desk: &Desk<W>, now: Time) -> Self {
        let classes = desk.settings.classes.len().min(MAX_CLASSES);
        let whole = |kind: Kind| {
            let (outstanding, running) = front.ledgers[kind.index()].total();
            BoundView {
                ceiling: Duration::from_micros(desk.tuner.bound(kind)),
                outstanding: Duration::from_micros(outstanding),
                running,
                waiting: desk.queues[kind.index()]
                    .iter()
                    .map(|queue| queue.len())
                    .sum(),
                bar: (0..classes)
                    .map(|class| front.bar(kind, class))
                    .find(|bar| *bar < LAST_LEVEL)
                    .unwrap_or(LAST_LEVEL),
            }
        };
        let (state, reason) = desk.tuner.state();
        Self {
            mode: desk.settings.mode,
            limit: whole(Kind::Short),
            breadth: whole(Kind::Long),
            bytes: front.bytes.load(Relaxed),
            bytes_budget: desk.bytes.bytes(),
            classes: (0..classes)
                .map(|class| ClassView::of(front, desk, class, now))
                .collect(),
            excess: desk.tuner.excess(),
            state,
            reason,
        }
    }
}

impl ClassView {
    fn of<W>(front: &Front, desk: &Desk<W>, class: usize, now: Time) -> Self {
        let bound = |kind: Kind| {
            let held = front.ledgers[kind.index()].held(class);
            BoundView {
                ceiling: Duration::from_micros(front.ceiling(kind, class)),
                outstanding: Duration::from_micros(held.work()),
                running: held.running(),
                waiting: desk.queues[kind.index()][class].len(),
                bar: front.bar(kind, class),
            }
        };
        let books = desk.books.each_ref().map(|books| &books[class]);
        let holds = desk.settings.mode_of(class);
        let oldest = desk
            .queues
            .iter()
            .filter_map(|queues| queues[class].oldest())
            .min();
        Self {
            short: bound(Kind::Short),
            long: bound(Kind::Long),
            oldest_wait: oldest.map_or(Duration::ZERO, |since| now.saturating_since(since)),
            uncounted: front.uncounted[class].load(Relaxed),
            shed: books.iter().map(|books| books.shed).sum(),
            queued: books.iter().map(|books| books.queued).sum(),
            forced: books.iter().map(|books| books.forced).sum(),
            served_per_second: books.iter().map(|books| books.served_rate).sum::<f64>() as f32,
            mode: holds.mode,
            enforced_tenants: holds.enforced_tenants,
        }
    }
}
