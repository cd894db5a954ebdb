//! Policies beside the configuration: staged by an operator or delivered through the cluster, judged by in stages, given up
//! when they do harm, and kept on disk.
//!
//! `book.rs` says what may become of them; here they are compiled and put in force as a whole, or not at all. Every change
//! is a line of the audit log. The path of a request reads the snapshot it holds anyway; see `trial.rs`.

pub(crate) mod book;
mod file;
pub(crate) mod page;
pub(crate) mod trial;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::{Config, PolicyDocument};
use tracing::{error, info, warn};

use crate::clock;
use crate::metrics::Metrics;
use crate::shared::Shared;
use crate::snapshot::{Base, Snapshot, SnapshotError};
use book::{Book, Kept, Refusal, Stage, Taken};
use trial::{Tally, Trial};

/// Protected classes where none are named.
const PROTECTED: usize = 3;

/// Why policies cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyProblem {
    /// The text.
    #[error("{0}")]
    Text(#[from] config::Report),
    /// What only shows together with the configuration.
    #[error("{0}")]
    Compile(#[from] SnapshotError),
}

/// What is known of the ConfigMap.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterView {
    /// Unix seconds of the last look that found it; 0: never.
    pub(crate) seen: u64,
    /// Its resourceVersion then.
    pub(crate) version: String,
    /// Why it cannot be read, or is not in force.
    pub(crate) problem: Option<String>,
}

/// What the ConfigMap says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) policy: String,
    pub(crate) candidate: Option<(String, Stage)>,
    /// The ConfigMap, for people.
    pub(crate) origin: String,
}

/// What is in force, and how it came about.
#[derive(Debug)]
struct State {
    book: Book,
    kept: Result<bool, String>,
    /// There is something that is not on disk yet.
    due: bool,
    cluster: ClusterView,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Policies {
    state: Mutex<State>,
    /// One writes at a time, so that the last one has the last word; and nobody else waits for the disk.
    writing: Mutex<()>,
    file: Option<PathBuf>,
}

impl Policies {
    /// What `path` holds; nothing without one.
    pub(crate) fn load(path: Option<PathBuf>) -> Self {
        let book = path.as_deref().map(file::read).unwrap_or_default();
        Self {
            state: Mutex::new(State {
                book,
                kept: Ok(path.is_some()),
                due: false,
                cluster: ClusterView::default(),
            }),
            writing: Mutex::new(()),
            file: path,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is.
    pub(crate) fn book(&self) -> Book {
        self.lock().book.clone()
    }

    /// What is known of the ConfigMap.
    pub(crate) fn cluster(&self) -> ClusterView {
        self.lock().cluster.clone()
    }

    /// Whether the copy on disk is the last one; `Ok(false)` without a file.
    pub(crate) fn kept(&self) -> Result<bool, String> {
        self.lock().kept.clone()
    }

    /// Notes what was found of the ConfigMap.
    pub(crate) fn note_cluster(&self, note: impl FnOnce(&mut ClusterView)) {
        note(&mut self.lock().cluster);
    }

    /// Whether the ConfigMap says something that was not acted on.
    pub(crate) fn is_new(&self, delivered: &Delivered) -> bool {
        self.lock().book.taken.as_ref() != Some(&taken(delivered))
    }

    /// Writes what there is now, if it is not on disk yet. Blocks on the disk.
    pub(crate) fn keep(&self) {
        let Some(path) = &self.file else { return };
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        if !std::mem::take(&mut state.due) {
            return;
        }
        let book = state.book.clone();
        drop(state);
        let kept = file::write(path, &book)
            .map(|()| true)
            .map_err(|problem| problem.to_string());
        if let Err(problem) = &kept {
            error!(problem, "the policies on disk are not the last ones");
        }
        let mut state = self.lock();
        state.due |= kept.is_err();
        state.kept = kept;
    }
}

/// Puts what was kept in force when the process starts. What does not go with the configuration any more is left out; it
/// stays on disk until the next change.
pub(crate) fn restore(shared: &Shared) {
    let mut state = shared.policies.lock();
    if state.book == Book::default() {
        return;
    }
    let without_candidate = Book {
        candidate: None,
        ..state.book.clone()
    };
    let before = shared.snapshot.load_full();
    for book in [state.book.clone(), without_candidate, Book::default()] {
        match build(before.base(), &book, &before, &shared.metrics) {
            Ok(snapshot) => {
                shared.snapshot.store(Arc::new(snapshot));
                let current = book.current.as_ref().map(Kept::digest);
                let candidate = book.candidate.as_ref().map(|staged| staged.policy.digest());
                info!(current, candidate, "policies kept on disk are in force");
                state.book = book;
                return;
            }
            Err(problem) => {
                error!(target: "spillway::audit", event = "policy_lost", %problem,
                       "a policy kept on disk does not go with the configuration, and is not in force");
                state.kept = Err(format!(
                    "what is there does not go with the configuration: {problem}"
                ));
            }
        }
    }
}

/// Changes what there is, puts it in force, and keeps it. Blocks on the disk.
///
/// # Errors
/// [`Refusal`] when it may not be, or cannot be used; nothing is changed then.
pub(crate) fn change(
    shared: &Shared,
    by: &str,
    what: &'static str,
    act: impl FnOnce(&mut Book, u64) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    put_in_force(shared, by, what, act)?;
    shared.policies.keep();
    Ok(())
}

/// As [`change`], on a thread that may not wait for the disk: another one keeps it.
fn change_here(
    shared: &Shared,
    by: &str,
    what: &'static str,
    act: impl FnOnce(&mut Book, u64) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    put_in_force(shared, by, what, act)?;
    // A successor keeps its own; without one it is kept at the end.
    if !shared.stopping.load(Ordering::Relaxed) {
        let policies = Arc::clone(&shared.policies);
        drop(tokio::task::spawn_blocking(move || policies.keep()));
    }
    Ok(())
}

fn put_in_force(
    shared: &Shared,
    by: &str,
    what: &'static str,
    act: impl FnOnce(&mut Book, u64) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut state = shared.policies.lock();
    let mut book = state.book.clone();
    act(&mut book, clock::unix_seconds())?;
    let before = shared.snapshot.load_full();
    let snapshot =
        build(before.base(), &book, &before, &shared.metrics).map_err(|problem| Refusal {
            error: problem.to_string(),
            next: "correct it; `spillway policy check FILE` judges without changing anything"
                .to_owned(),
        })?;
    shared.snapshot.store(Arc::new(snapshot));
    audit(&book, by, what);
    state.book = book;
    state.due = true;
    Ok(())
}

fn audit(book: &Book, by: &str, what: &str) {
    let current = book.current.as_ref().map(Kept::digest);
    let candidate = book.candidate.as_ref();
    let stage = candidate.map(|candidate| candidate.stage.to_string());
    let returned = candidate
        .and_then(|candidate| candidate.returned.as_ref())
        .map(|returned| returned.why.as_str());
    let candidate = candidate.map(|candidate| candidate.policy.digest());
    warn!(target: "spillway::audit", event = "policy_changed", by, current, candidate, stage, returned, "policy: {what}");
}

/// Puts the policies on another configuration.
///
/// # Errors
/// When they do not go together; nothing is changed then.
pub(crate) fn rebase(shared: &Shared, base: Arc<Base>) -> Result<(), PolicyProblem> {
    let state = shared.policies.lock();
    let before = shared.snapshot.load_full();
    let snapshot = build(&base, &state.book, &before, &shared.metrics)?;
    shared.snapshot.store(Arc::new(snapshot));
    Ok(())
}

/// Acts on what the ConfigMap says, as far as it says something new.
///
/// # Errors
/// A text for people; nothing is changed then.
pub(crate) fn take(shared: &Shared, delivered: &Delivered) -> Result<(), String> {
    let watched = watched_for(shared);
    let outcome = change_here(
        shared,
        &delivered.origin,
        "taken from the cluster",
        |book, now| {
            let before = book.taken.clone().unwrap_or_default();
            let after = taken(delivered);
            let kept = |text: &str| Kept {
                text: text.to_owned(),
                origin: delivered.origin.clone(),
                since: now,
            };
            let in_force = book
                .current
                .as_ref()
                .is_some_and(|current| current.text == delivered.policy);
            if after.policy != before.policy && !in_force {
                let staged = book.candidate.as_ref();
                if staged.is_some_and(|staged| staged.policy.text == delivered.policy) {
                    // Its own promotion; unless it was given up: then only a person lets it go on.
                    book.promote(now + watched)?;
                } else {
                    book.replace(Some(kept(&delivered.policy)), now + watched);
                }
            }
            match (&delivered.candidate, before.candidate == after.candidate) {
                (_, true) => {}
                // What is a candidate there and in force here was promoted by hand.
                (Some((text, _)), _)
                    if book
                        .current
                        .as_ref()
                        .is_some_and(|current| current.text == *text) => {}
                (Some((text, stage)), _) => match &book.candidate {
                    Some(staged) if staged.policy.text == *text => book.to(*stage, now)?,
                    _ => book.stage(kept(text), *stage)?,
                },
                (None, _) => {
                    let own = |staged: &book::Staged| {
                        staged.policy.origin == delivered.origin && staged.returned.is_none()
                    };
                    if book.candidate.as_ref().is_some_and(own) {
                        book.candidate = None;
                    }
                }
            }
            book.taken = Some(after);
            Ok(())
        },
    );
    outcome.map_err(|refusal| refusal.error)
}

fn taken(delivered: &Delivered) -> Taken {
    Taken {
        policy: book::digest(&delivered.policy),
        candidate: delivered
            .candidate
            .as_ref()
            .map(|(text, stage)| (book::digest(text), *stage)),
    }
}

/// For how many seconds a policy is watched that all are judged by.
pub(crate) fn watched_for(shared: &Shared) -> u64 {
    shared.snapshot.load().config.policy.guard.watch.as_secs()
}

/// Gives the new policy up: everybody is judged by the old one again. `false` if there is none.
pub(crate) fn give_up(shared: &Shared, why: &str) -> bool {
    let refused = || Refusal {
        error: "nobody is judged by a new policy".to_owned(),
        next: String::new(),
    };
    let done = change_here(shared, "spillway", "given up", |book, now| {
        book.give_up(why, now).then_some(()).ok_or_else(refused)
    });
    done.is_ok()
}

/// The current policy has been watched long enough.
pub(crate) fn settle(shared: &Shared) {
    let now = clock::unix_seconds();
    let due = |book: &Book| {
        let previous = book.previous.as_ref();
        previous
            .and_then(|previous| previous.watched_until)
            .is_some_and(|until| until <= now)
    };
    if due(&shared.policies.lock().book) {
        let _ = change_here(shared, "spillway", "watched long enough", |book, _| {
            book.settle();
            Ok(())
        });
    }
}

/// Everything that `book` says, compiled upon `base`. What `before` has counted goes on counting.
fn build(
    base: &Arc<Base>,
    book: &Book,
    before: &Snapshot,
    metrics: &Metrics,
) -> Result<Snapshot, PolicyProblem> {
    let current = document(book.current.as_ref(), &base.config)?;
    let mut snapshot = Snapshot::on(base, &current, Some(&before.limits))?;
    let previous = || {
        book.previous
            .as_ref()
            .filter(|previous| previous.watched_until.is_some())
    };
    let (other, stage, new) = match (&book.candidate, previous()) {
        (Some(staged), _) => (Some(&staged.policy), staged.stage, Some(&staged.policy)),
        (None, Some(previous)) => (
            previous.policy.as_ref(),
            Stage::Percent(0),
            book.current.as_ref(),
        ),
        (None, None) => return Ok(snapshot),
    };
    let other_is_new = book.candidate.is_some();
    let document = document(other, &base.config)?;
    let earlier = before.trial.as_ref();
    let name = new.map(Kept::digest).unwrap_or_default();
    let known = earlier.filter(|earlier| earlier.name == name);
    // In shadow a policy counts for itself; where it judges, both count together, or a bound would hold twice.
    let limits = match stage {
        Stage::Shadow => known
            .filter(|known| known.stage == Stage::Shadow)
            .map(|known| &*known.other.limits),
        Stage::Percent(_) => Some(&*snapshot.limits),
    };
    let other = Snapshot::on(base, &document, limits)?;
    let tally = known.map_or_else(
        || Arc::new(Tally::new(metrics)),
        |known| Arc::clone(&known.tally),
    );
    snapshot.trial = Some(Arc::new(Trial {
        name,
        other: Arc::new(other),
        other_is_new,
        stage,
        share: stage.share(),
        tally,
        protected: protected(&snapshot),
    }));
    Ok(snapshot)
}

fn document(policy: Option<&Kept>, config: &Config) -> Result<PolicyDocument, PolicyProblem> {
    let Some(kept) = policy else {
        return Ok(PolicyDocument::default());
    };
    Ok(PolicyDocument::parse(&kept.text, "policy.yaml", config)?)
}

/// The classes the guard looks at, a bit each.
fn protected(snapshot: &Snapshot) -> u32 {
    let named = &snapshot.config.policy.guard.classes;
    let classes = snapshot.policy.classes().iter().enumerate();
    let counts = |index: usize, name: &str| match named.as_slice() {
        [] => index < PROTECTED,
        named => named.iter().any(|class| class == name),
    };
    classes
        .filter(|(index, class)| counts(*index, &class.name))
        .fold(0, |bits, (index, _)| bits | (1 << index))
}
