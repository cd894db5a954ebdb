//! What was learned about costs, for the process after this one: kept in a file when this one stops, and told to a
//! successor that asks. Without it a restart in the middle of a storm would take every LIST for what its URL says.
//!
//! A guess that is a day old is no better than none: the cluster has grown, the server was upgraded. What cannot be
//! understood is left out; costs are learned anew within a few calls.

use std::path::Path;

use proxy_core::admission::Cost;
use proxy_core::admission::cost::{CAPACITY, Encoding, Model, Scope, Shape, Source, Verb};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::clock;
use crate::kept::{self, KeptError};

/// The file's name in `admission.state`.
const NAME: &str = "costs.json";
/// Of what is written. Rises when shapes or their hashes mean something else.
const VERSION: u32 = 1;
/// Older is ignored, in seconds.
const OLDEST: u64 = 24 * 3600;
/// More than all shapes there may be can take, in bytes.
pub(crate) const LONGEST: u64 = 2 << 20;

/// Everything learned, at a time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Learned {
    version: u32,
    /// Unix seconds.
    at: u64,
    costs: Vec<Row>,
}

/// One shape: resource, verb, scope, source, encoding, gzip, selector, limit; work in µs, bytes, how often seen.
#[derive(Debug, Serialize, Deserialize)]
struct Row(u64, u8, u8, u8, u8, bool, bool, Option<u32>, u64, u64, u32);

const VERBS: [Verb; 7] = [
    Verb::Get,
    Verb::List,
    Verb::WatchInitial,
    Verb::WatchResume,
    Verb::Write,
    Verb::DeleteCollection,
    Verb::Other,
];
const SCOPES: [Scope; 3] = [Scope::Object, Scope::Namespace, Scope::Cluster];
const SOURCES: [Source; 2] = [Source::Cache, Source::Etcd];
const ENCODINGS: [Encoding; 4] = [
    Encoding::Json,
    Encoding::Protobuf,
    Encoding::Metadata,
    Encoding::Table,
];

/// Where it stands in the list of its kind.
fn number<T: PartialEq>(all: &[T], one: T) -> u8 {
    let at = all.iter().position(|other| *other == one);
    at.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)
}

impl Learned {
    /// What `model` knows now.
    pub(crate) fn of(model: &Model) -> Self {
        let known = model.known().into_iter();
        let row = |known: proxy_core::admission::cost::Known| {
            let shape = known.shape;
            Row(
                shape.resource,
                number(&VERBS, shape.verb),
                number(&SCOPES, shape.scope),
                number(&SOURCES, shape.source),
                number(&ENCODINGS, shape.encoding),
                shape.gzip,
                shape.selector,
                shape.limit,
                known.estimate.work_us,
                known.estimate.bytes,
                known.seen,
            )
        };
        Self {
            version: VERSION,
            at: clock::unix_seconds(),
            costs: known.map(row).collect(),
        }
    }

    /// Teaches `model` what it does not know by itself; how much.
    ///
    /// # Errors
    /// Why none of it counts.
    pub(crate) fn teach(&self, model: &Model, now: u64) -> Result<usize, String> {
        if self.version != VERSION {
            return Err(format!("its version is {}, not {VERSION}", self.version));
        }
        // A clock that was set back is no reason; one from tomorrow is.
        if now.saturating_sub(self.at) > OLDEST || self.at.saturating_sub(now) > OLDEST {
            return Err(format!("it is of {}, more than a day away", self.at));
        }
        let mut taught = 0;
        for row in self.costs.iter().take(CAPACITY) {
            if let Some((shape, cost)) = row.read()
                && model.restore(&shape, cost, row.10)
            {
                taught += 1;
            }
        }
        Ok(taught)
    }
}

impl Row {
    fn read(&self) -> Option<(Shape, Cost)> {
        let Self(resource, verb, scope, source, encoding, gzip, selector, limit, work_us, bytes, _) =
            *self;
        let shape = Shape {
            resource,
            verb: *VERBS.get(usize::from(verb))?,
            scope: *SCOPES.get(usize::from(scope))?,
            source: *SOURCES.get(usize::from(source))?,
            encoding: *ENCODINGS.get(usize::from(encoding))?,
            gzip,
            selector,
            limit,
        };
        Some((shape, Cost { work_us, bytes }))
    }
}

/// Teaches `model` what the process before kept in `folder`.
pub(crate) fn load(folder: &Path, model: &Model) {
    let path = folder.join(NAME);
    let found = match kept::read::<Learned>(&path, LONGEST) {
        Ok(None) => return,
        Ok(Some(found)) => found.teach(model, clock::unix_seconds()),
        Err(problem) => Err(problem),
    };
    let path = path.display();
    match found {
        Ok(shapes) => info!(%path, shapes, "costs learned before are known"),
        Err(problem) => warn!(%path, problem, "costs learned before are not used"),
    }
}

/// Keeps what `model` knows in `folder`. Blocks on the disk.
///
/// # Errors
/// [`KeptError`].
pub(crate) fn save(folder: &Path, model: &Model) -> Result<(), KeptError> {
    kept::write(&folder.join(NAME), &Learned::of(model))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proxy_core::admission::cost::Observation;

    use super::*;

    const LIST: Shape = Shape {
        resource: u64::MAX - 7,
        verb: Verb::List,
        scope: Scope::Cluster,
        source: Source::Etcd,
        encoding: Encoding::Table,
        gzip: true,
        selector: false,
        limit: Some(500),
    };

    fn taught() -> Model {
        let model = Model::new();
        let seen = Observation {
            bytes: 3 << 20,
            service: Duration::from_millis(40),
            calm: true,
        };
        for _ in 0..20 {
            model.observe(&LIST, &seen);
        }
        model
    }

    fn again(learned: &Learned) -> Learned {
        let text = serde_json::to_string(learned).expect("text");
        serde_json::from_str(&text).expect("the same")
    }

    #[test]
    fn another_process_knows_what_this_one_learned() {
        let (model, next) = (taught(), Model::new());
        let learned = again(&Learned::of(&model));
        assert_eq!(learned.teach(&next, learned.at), Ok(1));
        assert_eq!(next.estimate(&LIST), model.estimate(&LIST));
        assert_eq!(next.known()[0].seen, 20);
    }

    #[test]
    fn what_is_old_foreign_or_nonsense_is_not_taken() {
        let learned = Learned::of(&taught());
        let next = Model::new();
        assert!(learned.teach(&next, learned.at + OLDEST + 1).is_err());
        let mut other = again(&learned);
        other.version += 1;
        assert!(other.teach(&next, other.at).is_err());
        let mut nonsense = again(&learned);
        nonsense.costs[0].1 = 99;
        assert_eq!(nonsense.teach(&next, nonsense.at), Ok(0));
        assert!(next.known().is_empty());
        let mut endless = again(&learned);
        endless.costs[0].8 = u64::MAX;
        assert_eq!(endless.teach(&next, endless.at), Ok(1));
        assert!(next.estimate(&LIST).work_us < u64::MAX / 2);
    }

    #[test]
    fn all_that_can_be_known_fits_into_what_is_read() {
        let model = Model::new();
        for resource in 0..4 * CAPACITY as u64 {
            let shape = Shape {
                resource: u64::MAX - resource,
                ..LIST
            };
            model.restore(
                &shape,
                Cost {
                    work_us: u64::MAX,
                    bytes: u64::MAX,
                },
                u32::MAX,
            );
        }
        let learned = Learned::of(&model);
        assert!(learned.costs.len() > CAPACITY / 2);
        let text = serde_json::to_vec(&learned).expect("text");
        assert!((text.len() as u64) < LONGEST, "{}", text.len());
    }
}
