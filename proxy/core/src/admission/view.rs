//! What admission looks like from outside, for metrics and people.

use std::time::Duration;

use super::Mode;
use super::tuner::{Reason, TunerState};

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
    /// Budget of those.
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
