//! What the tuner is doing, and why, for those who watch it.

/// What the tuner is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunerState {
    /// Leaving the bounds alone.
    Hold,
    /// Shrinking one.
    Brake,
    /// Growing one.
    Grow,
    /// Coming back after an outage.
    SlowStart,
    /// Wide open, because nothing can be judged.
    FailOpen,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Nobody waits for room.
    NotBinding,
    /// The probe is neither calm enough to grow nor above the target.
    NearTarget,
    /// The last change is still being watched, or a failed step is still remembered.
    Watching,
    /// The probe is above the target, and what was taken back has yet to end.
    TakingEffect,
    /// The probe is above the target, but not through anything that could be taken back.
    NothingToTake,
    /// The probe is above the target.
    Probe,
    /// The server refuses by itself: 429, 504 or lost connections.
    ServerRefuses,
    /// The server's memory is nearly used up.
    Memory,
    /// Somebody waits and the server is calm.
    Calm,
    /// More was admitted and no more got done.
    NoGain,
    /// The server is not there.
    Outage,
    /// The server is back.
    Recovering,
    /// The probe is silent or disabled.
    Blind,
}

impl Reason {
    /// In words, for the middle of a line.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::NotBinding => "nobody waits for room",
            Self::NearTarget => "the delay is near its target",
            Self::Watching => "the last change is being watched",
            Self::TakingEffect => "what was taken back has yet to end",
            Self::NothingToTake => {
                "the delay is above its target, and not through what could be held back"
            }
            Self::Probe => "the delay is above its target",
            Self::ServerRefuses => "the apiserver refuses by itself",
            Self::Memory => "the apiserver's memory is nearly used up",
            Self::Calm => "somebody waits and the apiserver is calm",
            Self::NoGain => "more was admitted and no more got done",
            Self::Outage => "the apiserver is not there",
            Self::Recovering => "the apiserver is back",
            Self::Blind => "nothing can be judged: the probe is silent or disabled",
        }
    }
}
