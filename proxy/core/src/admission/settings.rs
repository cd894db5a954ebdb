//! What an operator may set about admission, checked once.

use std::time::Duration;

use thiserror::Error;

use super::{Kind, MAX_CLASSES, SLICE_US};

/// Whether decisions are made, and whether they are carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A pure proxy: everything is admitted, nothing is charged.
    Off,
    /// Decide and count, but admit everything. Takes the desk's lock for every request.
    /// Nothing is counted against the bounds that would have been refused.
    Shadow,
    /// Decide and carry it out.
    #[default]
    Enforce,
}

/// What holds for one class in place of [`Settings::mode`] and
/// [`Settings::enforced_tenants`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Override {
    /// Whether its decisions are carried out.
    pub mode: Mode,
    /// Share of tenants, 0..=1, for which [`Mode::Enforce`] is.
    pub enforced_tenants: f32,
}

/// How a class is held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gate {
    /// Counted, never queued, refused only beyond this much outstanding work of its own:
    /// for the signs of life that keep nodes alive.
    HardBound(Duration),
    /// Held against the nested ceilings.
    Ceiling {
        /// Whether a request larger than the class's ceiling may start as soon as the
        /// class has none running (`true`: people, the control plane), or only when no
        /// other class has such a whale running either (`false`).
        own_whale: bool,
    },
}

/// What all classes' guarantees together may be of the bounds.
const MAX_GUARANTEES: f32 = 0.5;

/// One class, in order of importance.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassSettings {
    /// Share of both bounds, 0..=1, that no less important class may use.
    pub reserve: f32,
    /// Share of both bounds, 0..=1, that this class may use whatever more important classes ask for, and
    /// one request of each kind at a time if that is more. Only for classes with a ceiling. 0: importance
    /// is strict.
    pub guarantee: f32,
    /// How it is held.
    pub gate: Gate,
    /// Red button: the largest share, 0..=1, of their recent server time that the tenants of this
    /// class may be refused on average, each counted as one; beyond it they are admitted
    /// uncounted, unless the probe is above three times its target. 1 never intervenes.
    pub max_shed_share: f32,
}

/// Bounds in outstanding server time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Where the limit starts.
    pub initial: Duration,
    /// The limit is not tuned below this; the breadth not below [`SLICE_US`]. One request
    /// of each class that sees room can always run.
    pub min: Duration,
    /// Neither bound is tuned above this.
    pub max: Duration,
}

impl LimitSettings {
    /// Where the limit of a server with so many cores should start: 100 ms of work a core, which
    /// its small calls need when LISTs keep all cores busy and the limit is not free to grow, and
    /// which delays nobody by more when they come all at once.
    #[must_use]
    pub const fn initial(cores: u32) -> Duration {
        let cores = if cores > 512 { 512 } else { cores };
        Duration::from_millis(100 * if cores == 0 { 1 } else { cores as u64 })
    }
}

/// Queues, each per class and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// How long a short request may wait.
    pub short_deadline: Duration,
    /// How long a long request may wait.
    pub long_deadline: Duration,
    /// How many may wait.
    pub max_waiting: usize,
}

impl QueueSettings {
    /// How long a request of this kind may wait.
    #[must_use]
    pub const fn deadline(&self, kind: Kind) -> Duration {
        match kind {
            Kind::Short => self.short_deadline,
            Kind::Long => self.long_deadline,
        }
    }
}

/// Everything about admission.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether decisions are carried out.
    pub mode: Mode,
    /// Share of tenants, 0..=1 by hash, for which [`Mode::Enforce`] is carried out; the
    /// others are treated as in [`Mode::Shadow`].
    pub enforced_tenants: f32,
    /// Bounds of outstanding server time.
    pub limit: LimitSettings,
    /// Where the breadth (outstanding long work) starts, and returns to when unused; one
    /// long request holds [`SLICE_US`] of it.
    pub initial_breadth: Duration,
    /// The probe's delay above its baseline that is tolerated.
    pub target: Duration,
    /// Queues.
    pub queue: QueueSettings,
    /// Whether the tenants of a class take turns when not all can be served.
    pub turns: bool,
    /// Response bytes in flight, over all classes.
    pub bytes: u64,
    /// Classes, most important first; 1..=[`MAX_CLASSES`].
    pub classes: Vec<ClassSettings>,
    /// By class: what holds in place of the mode of all, if anything.
    pub overrides: [Option<Override>; MAX_CLASSES],
}

impl Default for Settings {
    /// The default classes: life-signs, control-plane, operators, nodes,
    /// workload-writes, workload-reads, bulk, unattributed.
    fn default() -> Self {
        let gated = |reserve, own_whale, max_shed_share| ClassSettings {
            reserve,
            guarantee: 0.0,
            gate: Gate::Ceiling { own_whale },
            max_shed_share,
        };
        Self {
            mode: Mode::Enforce,
            enforced_tenants: 1.0,
            limit: LimitSettings {
                initial: LimitSettings::initial(4),
                min: Duration::from_millis(50),
                max: Duration::from_secs(30),
            },
            initial_breadth: Duration::from_micros(SLICE_US),
            target: Duration::from_millis(20),
            queue: QueueSettings {
                short_deadline: Duration::from_millis(250),
                long_deadline: Duration::from_secs(2),
                max_waiting: 2_000,
            },
            turns: true,
            bytes: 512 << 20,
            classes: vec![
                ClassSettings {
                    reserve: 0.05,
                    guarantee: 0.0,
                    gate: Gate::HardBound(Duration::from_secs(5)),
                    max_shed_share: 1.0,
                },
                gated(0.15, true, 0.5),
                gated(0.10, true, 0.5),
                gated(0.15, true, 0.5),
                gated(0.15, false, 1.0),
                gated(0.10, false, 1.0),
                gated(0.20, false, 1.0),
                gated(0.10, false, 1.0),
            ],
            overrides: [None; MAX_CLASSES],
        }
    }
}

/// Why settings cannot be used.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum WrongSettings {
    /// The number of classes.
    #[error("admission.classes: {0} classes; give between 1 and {MAX_CLASSES}")]
    Classes(usize),
    /// A share outside its range.
    #[error("admission.classes[{class}].{field}: {value} is not a share between 0 and 1")]
    Share {
        /// Which class, by position.
        class: usize,
        /// Which field.
        field: &'static str,
        /// What was given.
        value: f32,
    },
    /// The least important class is left with nothing.
    #[error(
        "admission.classes: the reserves of all classes but the last add up to {sum}; keep them \
         below 1, or the last class can never run"
    )]
    Reserves {
        /// Their sum.
        sum: f32,
    },
    /// Importance would mean little.
    #[error(
        "admission.classes: the guarantees add up to {sum}; keep them at most {MAX_GUARANTEES}, or \
         nothing is left to give by importance"
    )]
    Guarantees {
        /// Their sum.
        sum: f32,
    },
    /// The limits are out of order.
    #[error("admission.limit: want 0 < min <= initial <= max, and all at most 1h")]
    Limit,
    /// No target.
    #[error("admission.probe.target: must be above 0")]
    Target,
    /// A share of tenants outside its range.
    #[error("admission.enforced_tenants: {0} is not a share between 0 and 1")]
    EnforcedTenants(f32),
}

impl Settings {
    /// Whether the settings make sense.
    ///
    /// # Errors
    /// The first thing found wrong. [`super::Engine`] never fails on unchecked settings:
    /// it uses the nearest sensible value.
    pub fn check(&self) -> Result<(), WrongSettings> {
        let count = self.classes.len();
        if !(1..=MAX_CLASSES).contains(&count) {
            return Err(WrongSettings::Classes(count));
        }
        for (class, settings) in self.classes.iter().enumerate() {
            for (field, value) in [
                ("reserve", settings.reserve),
                ("guarantee", settings.guarantee),
                ("max_shed_share", settings.max_shed_share),
            ] {
                if !(0.0..=1.0).contains(&value) {
                    return Err(WrongSettings::Share {
                        class,
                        field,
                        value,
                    });
                }
            }
        }
        let sum: f32 = self
            .classes
            .iter()
            .rev()
            .skip(1)
            .map(|class| class.reserve)
            .sum();
        if sum >= 1.0 {
            return Err(WrongSettings::Reserves { sum });
        }
        let sum: f32 = self.classes.iter().map(|class| class.guarantee).sum();
        if sum > MAX_GUARANTEES {
            return Err(WrongSettings::Guarantees { sum });
        }
        let limit = &self.limit;
        let ordered =
            !limit.min.is_zero() && limit.min <= limit.initial && limit.initial <= limit.max;
        if !ordered || limit.max > Duration::from_secs(3_600) {
            return Err(WrongSettings::Limit);
        }
        if self.target.is_zero() {
            return Err(WrongSettings::Target);
        }
        if !(0.0..=1.0).contains(&self.enforced_tenants) {
            return Err(WrongSettings::EnforcedTenants(self.enforced_tenants));
        }
        Ok(())
    }

    /// The mode that holds for a class (by position), and for which share of its tenants.
    #[must_use]
    pub fn mode_of(&self, class: usize) -> Override {
        let own = self.overrides.get(class).copied().flatten();
        own.unwrap_or(Override {
            mode: self.mode,
            enforced_tenants: self.enforced_tenants,
        })
    }

    /// Whether any class's decisions are carried out.
    pub(crate) fn enforces(&self) -> bool {
        (0..self.classes.len()).any(|class| self.mode_of(class).mode == Mode::Enforce)
    }

    /// What share of a bound each class may see, most important first. Classes that do
    /// not exist see what the last one sees.
    ///
    /// Short work sees the bound less what more important classes reserve. Long work sees
    /// the square root of that share: the breadth is earned by the class that needs it,
    /// usually the least important one, and must not thereby open several times as much
    /// to the classes above it that have never been seen to use it.
    pub(crate) fn shares(&self) -> [[f32; MAX_CLASSES]; 2] {
        let mut left = 1.0_f32;
        let short: [f32; MAX_CLASSES] = std::array::from_fn(|class| {
            // A class always sees something, or its requests could never run.
            let share = left.clamp(0.01, 1.0);
            // The last class's own reserve means nothing, nor does that of classes that
            // do not exist.
            if class + 1 < self.classes.len() {
                let reserve = self.classes.get(class).map_or(0.0, |class| class.reserve);
                left -= if reserve.is_finite() {
                    reserve.clamp(0.0, 1.0)
                } else {
                    0.0
                };
            }
            share
        });
        [short, short.map(f32::sqrt)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_pass_their_own_check() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn reserves_that_leave_nothing_for_the_last_class_are_refused() {
        let mut settings = Settings::default();
        settings.classes[1].reserve = 0.9;
        assert!(matches!(
            settings.check(),
            Err(WrongSettings::Reserves { .. })
        ));
    }

    #[test]
    fn shares_fall_with_importance_and_never_reach_zero() {
        let mut settings = Settings::default();
        settings.classes[1].reserve = 5.0;
        for shares in settings.shares() {
            assert!(shares.windows(2).all(|pair| pair[0] >= pair[1]));
            assert!(shares.iter().all(|share| *share > 0.0));
        }
    }

    #[test]
    fn limits_out_of_order_are_refused() {
        let mut settings = Settings::default();
        settings.limit.min = Duration::from_secs(40);
        assert_eq!(settings.check(), Err(WrongSettings::Limit));
    }
}
