//! What stands in front of the server and decides: the real engine, or one of its rivals.

use proxy_core::admission::probe::ProbeView;

use crate::call::Call;

/// A request that arrives.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Its number, for later.
    pub id: u64,
    /// What it is.
    pub call: &'a Call,
    /// Who pays.
    pub tenant: u64,
    /// Which member of the payer.
    pub instance: u64,
    /// The factor by which its cost is misjudged, where cost is estimated.
    pub misjudged: f64,
    /// It came by the reserved lane.
    pub reserved: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It starts.
    Start,
    /// It waits; a [`Decided`] follows.
    Wait,
    /// It is refused, and told to come back after so many seconds.
    Refuse(Option<u32>),
}

/// A verdict on one that waited; never [`Verdict::Wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Which.
    pub id: u64,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// How one that had started ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Answered.
    Served,
    /// Its connection broke, or there was none.
    Failed,
    /// Its client went away.
    Cancelled,
}

/// What is known of it then.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Bytes of the answer.
    pub bytes: u64,
    /// From its start to its end, µs.
    pub service: u64,
}

/// What the sensors say at a tick.
#[derive(Clone, Copy, Debug)]
pub struct Sensed {
    /// The probe.
    pub probe: ProbeView,
    /// Connections that could not be made since the last tick.
    pub connect_failures: u32,
    /// Requests the server itself broke off after a minute since the last tick.
    pub timeouts: u32,
    /// Cores in use since the last tick, 0..1; only for rivals that run inside the server.
    pub busy: f64,
}

/// Decides about requests. Times are virtual, in µs. Verdicts on those that wait go to `out`.
pub trait Controller: Send {
    /// A request arrives.
    fn offer(&mut self, arrival: &Arrival<'_>, now: u64, out: &mut Vec<Decided>) -> Verdict;

    /// One that had started got its first turn on a core after waiting so long for it: the queueing time DAGOR looks at.
    fn began(&mut self, _id: u64, _waited: u64, _now: u64) {}

    /// The server has nothing to do for it until its client goes on reading.
    fn rests(&mut self, _id: u64, _now: u64, _out: &mut Vec<Decided>) {}

    /// One that had started ended.
    fn ended(&mut self, id: u64, ending: Ending, seen: Seen, now: u64, out: &mut Vec<Decided>);

    /// One that waited went away.
    fn withdrawn(&mut self, id: u64, now: u64, out: &mut Vec<Decided>);

    /// 100 ms have passed.
    fn tick(&mut self, sensed: &Sensed, now: u64, out: &mut Vec<Decided>);

    /// Its present limit, in whatever it limits, for the curve.
    fn limit(&self) -> f64;

    /// Whether it is a process of its own that answers while the server is away.
    fn is_proxy(&self) -> bool {
        true
    }

    /// Core time a refusal takes of the server, µs: those inside it have authenticated before they refuse.
    fn refusal_work(&self) -> u64 {
        0
    }
}
