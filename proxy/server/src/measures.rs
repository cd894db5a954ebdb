//! Measures: one tenant, node, user agent or request shape is blocked or slowed for a while, by an operator
//! (`quarantine`) or by the proxy itself (`admission.confine_culprit`).
//!
//! A table of at most [`MOST`] in memory, read without a lock; the way past an empty one is one load. Kept in a file, if
//! one is configured, so that a restart in the middle of an incident forgets nothing. Every change is a line of the audit
//! log. Measures hold for everybody, but never on the reserved lane, and never for the most important class unless they
//! name it: a node whose lease is refused is a node lost.

mod file;
mod target;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use proxy_core::admission::limits::{Asked, Bucket};
use proxy_core::classify::{ClassId, Condition, PolicyError};
use proxy_core::time::Time;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

pub(crate) use target::Target;

use crate::kept::KeptError;

/// Measures at once.
pub(crate) const MOST: usize = 256;
/// A measure lasts at most so long, in seconds (30 days): what is to last is a rule of the configuration.
pub(crate) const LONGEST: u64 = 30 * 24 * 3600;
/// Of a reason or an author, in characters.
const LONGEST_TEXT: usize = 200;
/// A slowed tenant's next request starts when what it owes is paid but for this.
const TOLERANCE: Duration = Duration::from_secs(1);
/// The author of what the proxy does by itself.
pub(crate) const ITSELF: &str = "spillway";

/// What is done to those a measure is about.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    /// Nothing of theirs is let through.
    Block,
    /// Their requests together may take this share of the server's time, above 0 and up to 1.
    Slow(f32),
}

/// A measure to be taken.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewMeasure {
    /// Whom it is about.
    pub(crate) target: Target,
    /// What is done.
    pub(crate) action: Action,
    /// Why; required, one line.
    pub(crate) reason: String,
    /// Who says so; required, one line.
    pub(crate) author: String,
    /// For how many seconds, 1 to [`LONGEST`].
    pub(crate) seconds: u64,
}

/// A measure in force, or one that was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measure {
    /// Names it.
    pub(crate) id: u64,
    pub(crate) target: Target,
    pub(crate) action: Action,
    pub(crate) reason: String,
    pub(crate) author: String,
    /// Unix seconds.
    pub(crate) created: u64,
    /// Unix seconds: from then on it holds no more.
    pub(crate) expires: u64,
}

/// A measure with what it did.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Listed {
    #[serde(flatten)]
    pub(crate) measure: Measure,
    /// Requests refused by it since this process knows it.
    pub(crate) refused: u64,
}

/// What came of an addition or a removal.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) measure: Measure,
    /// Whether it survives a restart; an error if it should and could not be written.
    pub(crate) kept: Result<bool, KeptError>,
}

/// Why a measure cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeasureError {
    /// It would be about everybody.
    #[error(
        "a measure needs a target: tenant, node, user_agent, verb, resource, namespace, shape or class"
    )]
    Everybody,
    /// A part of the target means nothing.
    #[error("{0}")]
    Target(#[from] PolicyError),
    /// The share is none.
    #[error("slow: the share must be above 0 and at most 1 (100 %), not {0}")]
    Share(f32),
    /// No reason or no author, or an unprintable or endless one.
    #[error("{0}: 1 to {LONGEST_TEXT} characters on one line are needed")]
    Text(&'static str),
    /// It would last too long, or not at all.
    #[error(
        "it must last 1 to {LONGEST} seconds (30 days); for longer, write a rule into admission.limits"
    )]
    Lasting,
    /// There are too many.
    #[error("{MOST} measures are in force; remove one first")]
    TooMany,
}

/// A measure, ready to be asked.
#[derive(Debug)]
struct InForce {
    measure: Measure,
    condition: Condition,
    owed: Bucket,
    refused: AtomicU64,
}

/// A request that a measure holds back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldBack {
    /// Which measure.
    pub(crate) id: u64,
    /// Until when it holds, Unix seconds.
    pub(crate) expires: u64,
    /// Whether an operator said so, and not the proxy itself.
    pub(crate) ordered: bool,
    /// How long until the request may start, as things are; `None`: not before the measure ends.
    pub(crate) wait: Option<Duration>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Measures {
    count: AtomicUsize,
    table: ArcSwap<Vec<Arc<InForce>>>,
    /// Whoever changes the table holds it.
    next: Mutex<u64>,
    file: Option<file::File>,
    /// What the server does, in microseconds of work per second: what shares are of.
    capacity: AtomicU64,
}

impl Measures {
    /// Those that `path` holds and that are still in force at `unix`; none if it cannot be read, which is said in the log.
    pub(crate) fn load(path: Option<PathBuf>, unix: u64) -> Self {
        let file = path.map(file::File::new);
        let found = file.as_ref().map_or_else(Vec::new, file::File::read);
        let in_force: Vec<_> = found
            .into_iter()
            .filter(|measure| measure.expires > unix)
            .take(MOST)
            .filter_map(|measure| match InForce::new(measure) {
                Ok(in_force) => Some(Arc::new(in_force)),
                Err(problem) => {
                    warn!(target: "spillway::audit", event = "measure_lost", %problem, "a measure of the file means nothing and is left out");
                    None
                }
            })
            .collect();
        for one in &in_force {
            one.measure.audit("measure_goes_on", "a measure goes on");
        }
        let next = in_force.iter().map(|one| one.measure.id).max().unwrap_or(0);
        Self {
            count: AtomicUsize::new(in_force.len()),
            table: ArcSwap::from_pointee(in_force),
            next: Mutex::new(next),
            file,
            capacity: AtomicU64::new(0),
        }
    }

    /// Takes a measure, from now on, and keeps it. Blocks on the disk.
    ///
    /// # Errors
    /// [`MeasureError`]; nothing is changed then. That it could not be kept is no error: see [`Done::kept`].
    pub(crate) fn add(&self, new: NewMeasure, unix: u64) -> Result<Done, MeasureError> {
        let measure = self.take(new, unix)?;
        Ok(Done {
            measure,
            kept: self.save(),
        })
    }

    /// As [`Self::add`], without keeping it: [`Self::save`] does.
    pub(crate) fn take(&self, new: NewMeasure, unix: u64) -> Result<Measure, MeasureError> {
        new.check()?;
        let NewMeasure {
            target,
            action,
            reason,
            author,
            seconds,
        } = new;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Vec::clone(&self.table.load());
        table.retain(|one| one.measure.expires > unix);
        if table.len() >= MOST {
            return Err(MeasureError::TooMany);
        }
        let measure = Measure {
            id: next.saturating_add(1),
            target,
            action,
            reason,
            author,
            created: unix,
            expires: unix.saturating_add(seconds),
        };
        table.push(Arc::new(InForce::new(measure.clone())?));
        *next = measure.id;
        self.publish(table);
        measure.audit("measure_taken", "a measure is taken");
        Ok(measure)
    }

    /// Ends a measure; `None` if there is none of that number. Blocks on the disk.
    pub(crate) fn remove(&self, id: u64, author: &str) -> Option<Done> {
        let lock = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Vec::clone(&self.table.load());
        let at = table.iter().position(|one| one.measure.id == id)?;
        let removed = table.remove(at);
        self.publish(table);
        drop(lock);
        removed.measure.audit("measure_ended", "a measure is ended");
        info!(target: "spillway::audit", event = "measure_ended_by", id, by = author, "who ended it");
        Some(Done {
            measure: removed.measure.clone(),
            kept: self.save(),
        })
    }

    /// Drops those that hold no more. Says how many.
    pub(crate) fn sweep(&self, unix: u64) -> usize {
        if self.is_empty() {
            return 0;
        }
        let _lock = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, over): (Vec<_>, Vec<_>) = self
            .table
            .load()
            .iter()
            .cloned()
            .partition(|one| one.measure.expires > unix);
        if over.is_empty() {
            return 0;
        }
        self.publish(left);
        for one in &over {
            one.measure.audit("measure_over", "a measure is over");
        }
        over.len()
    }

    /// Writes what is in force to the file; `false` if there is none. Blocks on the disk.
    ///
    /// # Errors
    /// [`KeptError`]; what was written before is still there.
    pub(crate) fn save(&self) -> Result<bool, KeptError> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        file.write(|| self.list().into_iter().map(|one| one.measure).collect())?;
        Ok(true)
    }

    /// All that are in force, the oldest first.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let table = self.table.load();
        let listed = table.iter().map(|one| Listed {
            measure: one.measure.clone(),
            refused: one.refused.load(Ordering::Relaxed),
        });
        listed.collect()
    }

    /// Whether a measure is in force that names this tenant; since when, Unix seconds.
    pub(crate) fn on_tenant(&self, tenant: &str, unix: u64) -> Option<u64> {
        let table = self.table.load();
        let on = table.iter().filter(|one| {
            one.measure.target.tenant.as_deref() == Some(tenant) && one.measure.expires > unix
        });
        on.map(|one| one.measure.created).min()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// What the server was seen to do, in microseconds of work per second. At least one core is assumed, and the most of
    /// the last quarter of an hour or so.
    pub(crate) fn set_capacity(&self, work_per_second: f64) {
        let before = self.capacity.load(Ordering::Relaxed) as f64;
        let capacity = work_per_second.max(1e6).max(before * 0.999);
        self.capacity.store(capacity as u64, Ordering::Relaxed);
    }

    /// Whether a request in the class of this name, which will take `work`, is held back, and by what. A slowed one that
    /// is not is charged.
    pub(crate) fn judge(
        &self,
        asked: &Asked<'_>,
        class: &str,
        work: impl Fn() -> Duration,
        now: Time,
        unix: u64,
    ) -> Option<HeldBack> {
        let scope = asked.attributes.scope();
        let table = self.table.load();
        let meant = table.iter().filter(|one| {
            one.measure.expires > unix
                && one
                    .measure
                    .target
                    .is_of(asked.identity, class, asked.class == ClassId(0))
                && one
                    .condition
                    .holds(asked.attributes, scope, asked.identity, &asked.client)
        });
        for one in meant {
            let wait = match one.measure.action {
                Action::Block => None,
                Action::Slow(share) => {
                    let capacity = (self.capacity.load(Ordering::Relaxed) as f64).max(1e6) / 1e6;
                    // The share is above zero, and a day is longer than anything may take.
                    let owed = work().as_secs_f64() / (f64::from(share) * capacity);
                    let owed = Duration::from_secs_f64(owed.clamp(0.0, 86_400.0));
                    match one.owed.owe(owed, TOLERANCE, now) {
                        Ok(()) => continue,
                        Err(wait) => Some(wait),
                    }
                }
            };
            one.refused.fetch_add(1, Ordering::Relaxed);
            return Some(HeldBack {
                id: one.measure.id,
                expires: one.measure.expires,
                ordered: one.measure.author != ITSELF,
                wait,
            });
        }
        None
    }

    fn publish(&self, table: Vec<Arc<InForce>>) {
        let count = table.len();
        self.table.store(Arc::new(table));
        self.count.store(count, Ordering::Relaxed);
    }
}

impl InForce {
    fn new(measure: Measure) -> Result<Self, PolicyError> {
        Ok(Self {
            condition: measure.target.condition(measure.id)?,
            measure,
            owed: Bucket::default(),
            refused: AtomicU64::new(0),
        })
    }
}

impl NewMeasure {
    fn check(&self) -> Result<(), MeasureError> {
        let text = |text: &str| {
            !text.trim().is_empty()
                && text.chars().count() <= LONGEST_TEXT
                && !text.chars().any(char::is_control)
        };
        if self.target == Target::default() {
            return Err(MeasureError::Everybody);
        }
        if let Action::Slow(share) = self.action
            && !(share > 0.0 && share <= 1.0)
        {
            return Err(MeasureError::Share(share));
        }
        if !text(&self.reason) {
            return Err(MeasureError::Text("reason"));
        }
        if !text(&self.author) {
            return Err(MeasureError::Text("author"));
        }
        if !(1..=LONGEST).contains(&self.seconds) {
            return Err(MeasureError::Lasting);
        }
        Ok(())
    }
}

impl Measure {
    fn audit(&self, event: &str, what: &str) {
        // Not `target`: every line has one, and of two keys with one name most readers lose the first.
        let whom = serde_json::to_string(&self.target).unwrap_or_default();
        let action = match self.action {
            Action::Block => "block".to_owned(),
            Action::Slow(share) => format!("slow to {:.1} %", f64::from(share) * 100.0),
        };
        warn!(target: "spillway::audit", event, id = self.id, whom, action, reason = self.reason, author = self.author,
              created = self.created, expires = self.expires, "{what}");
    }
}
