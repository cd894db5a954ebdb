//! The engine, its rivals, and the controls that must fail.

pub mod apf;
pub mod codel;
pub mod dagor;
pub mod envoy;
pub mod gradient;
pub mod limit;
pub mod none;
pub mod pid;
pub mod spillway;

use crate::controller::Controller;

/// What a controller may know beforehand.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Cores of the server; only those that are tuned by hand look at it.
    pub cores: usize,
    /// For those that draw lots.
    pub seed: u64,
}

/// Which controller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// The real engine with its defaults.
    Spillway,
    /// Nothing.
    None,
    /// Kubernetes' priority and fairness: static seats, fair queues.
    Apf,
    /// At most so many requests at once, whatever they are.
    Static(u32),
    /// The same without a queue.
    Bare(u32),
    /// DAGOR as published.
    Dagor,
    /// Netflix' Gradient2.
    Gradient2,
    /// Envoy's adaptive concurrency.
    Envoy,
    /// After Uber's Cinnamon: a PID on the share of refusals, and a tuned limit.
    Pid,
    /// Facebook's controlled delay with a LIFO.
    Codel,
    /// Negative control: the real gate, its bounds as they start.
    Frozen,
    /// Negative control: the real gate, its bounds as wide as they go.
    AlwaysMax,
    /// Negative control: the real gate, its bounds as narrow as they go.
    AlwaysMin,
}

impl Choice {
    /// The engine and its rivals, but for the static limit, which needs a number.
    pub const ALL: [Self; 8] = [
        Self::Spillway,
        Self::None,
        Self::Apf,
        Self::Dagor,
        Self::Gradient2,
        Self::Envoy,
        Self::Pid,
        Self::Codel,
    ];
    /// The controls that must fail.
    pub const NEGATIVE: [Self; 3] = [Self::Frozen, Self::AlwaysMax, Self::AlwaysMin];

    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Spillway => "spillway".into(),
            Self::None => "none".into(),
            Self::Apf => "apf".into(),
            Self::Static(limit) => format!("static-{limit}"),
            Self::Bare(limit) => format!("bare-{limit}"),
            Self::Dagor => "dagor".into(),
            Self::Gradient2 => "gradient2".into(),
            Self::Envoy => "envoy".into(),
            Self::Pid => "pid".into(),
            Self::Codel => "codel".into(),
            Self::Frozen => "frozen".into(),
            Self::AlwaysMax => "always-max".into(),
            Self::AlwaysMin => "always-min".into(),
        }
    }

    /// The controller of that name; `static-20` for a limit of 20, `bare-20` for one without a queue.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let number = |limit: &str| limit.parse::<u32>().ok().filter(|limit| *limit > 0);
        if let Some(limit) = name.strip_prefix("static-") {
            return number(limit).map(Self::Static);
        }
        if let Some(limit) = name.strip_prefix("bare-") {
            return number(limit).map(Self::Bare);
        }
        Self::ALL
            .into_iter()
            .chain(Self::NEGATIVE)
            .find(|choice| choice.name() == name)
    }

    /// A new one.
    #[must_use]
    pub fn make(self, setup: Setup) -> Box<dyn Controller> {
        use spillway::{Spillway, Tuning};
        match self {
            Self::Spillway => Box::new(Spillway::new(Tuning::Real, setup.cores, setup.seed)),
            Self::Frozen => Box::new(Spillway::new(Tuning::Frozen, setup.cores, setup.seed)),
            Self::AlwaysMax => Box::new(Spillway::new(Tuning::AlwaysMax, setup.cores, setup.seed)),
            Self::AlwaysMin => Box::new(Spillway::new(Tuning::AlwaysMin, setup.cores, setup.seed)),
            Self::None => Box::new(none::Nothing),
            Self::Apf => Box::new(apf::Apf::new()),
            Self::Static(limit) => Box::new(limit::Limit::new(limit, true)),
            Self::Bare(limit) => Box::new(limit::Limit::new(limit, false)),
            Self::Dagor => Box::new(dagor::Dagor::new()),
            Self::Gradient2 => Box::new(gradient::Gradient::new()),
            Self::Envoy => Box::new(envoy::Envoy::new(setup.seed)),
            Self::Pid => Box::new(pid::Pid::new()),
            Self::Codel => Box::new(codel::Codel::new(setup.cores)),
        }
    }
}
