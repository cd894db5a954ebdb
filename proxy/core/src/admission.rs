//! Whether a request may start now, waits, or is refused; and what the limits
//! become from what is measured.
//!
//! Two loops, both pure code fed with time, so the proxy, the simulation and a
//! replayed audit log decide alike:
//!
//! * **The gate** ([`Engine::offer`]) has no reaction time. It bounds *outstanding
//!   cost*: estimated server time admitted and not yet finished, of each request at most
//!   a slice ([`SLICE_US`]). A rate alone cannot bound the delay that a few huge requests
//!   cause.
//! * **The tuner** ([`Engine::tick`], every 100 ms) moves the bounds from the delay of
//!   a trivial probe, from the server's own refusals and from whether admitting more
//!   still gets more done.
//!
//! There are two bounds, because two things must be controlled separately:
//!
//! * the **limit** bounds [`Kind::Short`] work: single objects, writes, cheap watches;
//! * the **breadth** bounds [`Kind::Long`] work: LISTs and initial-state watches, of
//!   which one per core already uses the server up. It starts at about one request and
//!   is earned, one request at a time, while the probe is calm. A storm of LISTs can
//!   therefore neither find a wide open door nor use up what short calls need.
//!
//! Each is divided into **nested ceilings** (trunk reservation): a class sees the bound
//! less everything reserved for more important classes, so shrinking a bound closes the
//! least important class first, and a less important class can never occupy what is
//! reserved for the others, even when a bound shrinks below what is running.
//!
//! What cannot start waits in its class's short queue, fair between tenants by cost,
//! and is handed its [`Permit`] by whichever thread made room, through [`Wake`].
//!
//! The common path (room, nobody waiting) takes no lock and allocates nothing: one
//! atomic addition and a few loads to start, two additions to finish. `ledger.rs` says
//! which memory ordering this relies on, and why.
//!
//! In the order to read them: `settings`, [`cost`]; `ledger` and `gate` (whether there is
//! room, without a lock); `queue`, [`retry_after`], `returns` and `desk` (what happens when there
//! is none); `meter`, `accounts`, `level` and `culprit` (who asks for how much, whose turn it is,
//! and who it was); `engine` (both together) and `permit`; [`probe`], `history`, `dial` and
//! `tuner` (what the bounds become); `memory` (what its memory means for the bytes in flight);
//! [`ramp`] (how watches begin again, before the gate); `view`. [`limits`] stands beside all of
//! it: the operator's own bounds.

mod accounts;
pub mod cost;
mod culprit;
mod deferral;
pub mod delays;
mod desk;
mod dial;
mod engine;
mod gate;
mod history;
mod ledger;
mod level;
pub mod limits;
mod memory;
mod meter;
mod permit;
pub mod probe;
mod queue;
pub mod ramp;
mod reason;
pub mod retry_after;
mod returns;
mod settings;
mod tuner;
mod view;

use std::time::Duration;

pub use crate::classify::{ClassId, MAX_CLASSES};

pub use culprit::Culprit;
pub use engine::{Engine, Fate, Foresight};
pub use level::{Level, TenantView};
pub use memory::Memory;
pub use permit::{Outcome, Permit, Ticket};
pub use reason::{Reason, TunerState};
pub use settings::{
    ClassSettings, Gate, LimitSettings, Mode, Override, QueueSettings, Settings, WrongSettings,
};
pub use view::{BoundView, ClassView, View};

/// The longest server time one request is ever charged, in microseconds (10 min).
pub const MAX_WORK_US: u64 = 600_000_000;

/// A running request holds at most this much of a bound, in microseconds (20 ms).
///
/// What a request costs the others while it runs is not its length but its turns on a
/// core: Go gives each goroutine 10 ms at a time, so a LIST of 2 s delays a small call no
/// more than one of 200 ms does. Were whole lengths held, a single long LIST would keep
/// seven cores idle, and every error of the estimate would be one of the bound. Length
/// still counts where it matters: in the fairness of the queues, in what can wait, and in
/// throughput.
pub const SLICE_US: u64 = 20_000;

/// The most response bytes one request is ever charged (64 GiB).
pub const MAX_BYTES: u64 = 64 << 30;

/// Responses expected to stay below this many bytes do not count towards the bytes in
/// flight: the budget is about the few that hurt.
pub const SMALL_RESPONSE: u64 = 64 << 10;

/// Position of a class in tables of [`MAX_CLASSES`]; always in range, a class that cannot
/// exist counts as the least important one.
pub(crate) const fn slot(class: ClassId) -> usize {
    let index = class.0 as usize;
    if index < MAX_CLASSES {
        index
    } else {
        MAX_CLASSES - 1
    }
}

/// What a request is expected to take from the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Server time in microseconds; counted up to [`MAX_WORK_US`].
    pub work_us: u64,
    /// Response bytes held by the server while it answers; counted up to [`MAX_BYTES`],
    /// and not at all below [`SMALL_RESPONSE`].
    pub bytes: u64,
}

impl Cost {
    /// Work as a duration.
    #[must_use]
    pub const fn work(self) -> Duration {
        Duration::from_micros(self.work_us)
    }

    /// The same cost within what can be counted. Free work is counted as 1 µs, so that
    /// every running request is visible.
    pub(crate) fn bounded(self) -> Self {
        Self {
            work_us: self.work_us.clamp(1, MAX_WORK_US),
            bytes: self.bytes.min(MAX_BYTES),
        }
    }

    /// What it holds of a bound while it runs.
    pub(crate) const fn held_us(self) -> u64 {
        if self.work_us < SLICE_US {
            self.work_us
        } else {
            SLICE_US
        }
    }

    /// What of the bytes counts towards the budget.
    pub(crate) const fn counted_bytes(self) -> u64 {
        if self.bytes >= SMALL_RESPONSE {
            self.bytes
        } else {
            0
        }
    }
}

/// Which bound a request is held against, and how long it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Single-object calls, writes, watches that resume from a resource version.
    Short,
    /// LIST and watches that begin with the whole state.
    Long,
}

impl Kind {
    /// Both, in the order they are served within a class.
    pub(crate) const BOTH: [Self; 2] = [Self::Short, Self::Long];

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Short => 0,
            Self::Long => 1,
        }
    }
}

/// One request, as admission sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// How important it is.
    pub class: ClassId,
    /// What it is expected to take ([`cost::Model::estimate`]).
    pub cost: Cost,
    /// Short or long.
    pub kind: Kind,
    /// Who pays: a stable hash. Queues are fair between tenants.
    pub tenant: u64,
    /// Which member of the tenant asks: a stable hash.
    pub instance: u64,
    /// What is asked for, of whichever object: a stable hash. Only counted, to name it.
    pub shape: u64,
}

/// Why a request was refused, or would have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shed {
    /// No room, and the queue of its class is full of requests that are not costlier
    /// for their tenants than this one is for its own.
    QueueFull,
    /// It waited, and a tenant that had less waiting took its place.
    Displaced,
    /// No room, and others of its class whose turn it is want all there will be.
    Level,
    /// No room, and it came back before the time it was told while others wait.
    Early,
    /// It waited until its deadline.
    Deadline,
    /// Life-signs only: beyond the class's own hard bound.
    HardBound,
}

/// A refusal: what to answer 429 with, and what to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Class of the refused request.
    pub class: ClassId,
    /// Short or long.
    pub kind: Kind,
    /// Why.
    pub shed: Shed,
    /// How long it waited before it was refused.
    pub waited: Duration,
    /// Who is expected back: a hash of the instance and what it asked for.
    pub client: u64,
}

/// What becomes of an offered request.
#[derive(Debug)]
pub enum Offer {
    /// Start now; the permit gives the room back.
    Admitted(Permit),
    /// Wait: the waiter made for it will be told. Dropping the ticket withdraws.
    Waiting(Ticket),
    /// Refused.
    Shed(Refusal),
}

/// What a waiter is told, exactly once unless its [`Ticket`] is dropped first.
#[derive(Debug)]
pub enum Decision {
    /// Start now.
    Admitted(Permit),
    /// Refused.
    Shed(Refusal),
}

/// Somebody who waits for a decision.
///
/// Called without any lock held, from whichever thread made room or ticked, so it must
/// be quick and must not block. It may call back into the engine, and dropping the
/// decision is fine: a permit nobody wants gives its room back.
pub trait Wake: Send + 'static {
    /// Hand over the decision.
    fn decide(self, decision: Decision);
}

/// What was measured since the last tick.
#[derive(Clone, Copy, Debug)]
pub struct Signals {
    /// The probe's state now ([`probe::Tracker::view`]).
    pub probe: probe::ProbeView,
    /// 429 answers by the server itself (APF) in this window.
    pub upstream_429: u32,
    /// 504 answers by the server in this window.
    pub upstream_504: u32,
    /// Connections to the server that could not be made in this window.
    pub connect_failures: u32,
    /// The server's memory, if it is known.
    pub memory: Option<Memory>,
}

impl Signals {
    /// Nothing but the probe.
    #[must_use]
    pub const fn of(probe: probe::ProbeView) -> Self {
        Self {
            probe,
            upstream_429: 0,
            upstream_504: 0,
            connect_failures: 0,
            memory: None,
        }
    }

    /// The server's memory as a share of what it may use, if known.
    pub(crate) fn memory_pressure(&self) -> Option<f32> {
        self.memory.map(|memory| memory.pressure())
    }
}
