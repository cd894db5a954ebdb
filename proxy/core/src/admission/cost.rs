//! What a request will take from the server: a prior from its shape, then what requests of
//! the same shape were seen to take.
//!
//! * Unknown is expensive. A LIST across all namespaces counts half a second until the
//!   model has seen how large it is; the cost of being wrong in that direction is that the
//!   first few go one after the other.
//! * Estimates **rise at once and fall slowly**: a client whose first call is cheap, or
//!   that alternates cheap and dear calls of one shape, gains nothing.
//! * Bytes are learnt always. Service time is learnt only while the server was calm, and
//!   only as far as the bytes make it plausible: under load it measures the queue, and
//!   with a slow reader it measures the reader. Then an answer says only that it took at least
//!   what its bytes take (on a real server, 12 ns per byte of JSON and 17 per byte of protobuf)
//!   and at most the time that passed. An estimate between the two stays as it is: were it
//!   replaced by the lower one, everything would become cheap as soon as the server is busy,
//!   and more of it would be let in.
//!
//! The table is set-associative: a shape can stand in eight places of one set and takes
//! that of the least recently used. It never grows, and a request holds the lock of its
//! set, one of 512, for a search through eight entries.

mod prior;
mod restore;
mod shape;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Cost, MAX_BYTES, MAX_WORK_US};
use crate::hash::mix;
use prior::Stock;
pub use prior::Stored;
pub use shape::{Encoding, Scope, Shape, Source, Verb};

/// No answer is taken for less work, in microseconds: a free one would never wait.
const LEAST_WORK_US: u64 = 200;

const SETS: usize = 512;
const WAYS: usize = 8;

/// Most shapes remembered.
pub const CAPACITY: usize = SETS * WAYS;

/// How one request of a shape went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Bytes of the answer, as they came from the server.
    pub bytes: u64,
    /// From sending the request to the end of the answer, without time spent waiting for
    /// the client to read.
    pub service: Duration,
    /// Whether the probe was calm while it ran, so that `service` means the request itself.
    pub calm: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// The shape's hash; 0 is free.
    key: u64,
    used: u32,
    seen: u32,
    work_us: f32,
    bytes: f32,
}

impl Entry {
    const fn cost(&self) -> Cost {
        Cost {
            work_us: self.work_us as u64,
            bytes: self.bytes as u64,
        }
    }
}

#[derive(Debug, Default)]
struct Set {
    clock: u32,
    ways: [Entry; WAYS],
    /// What the entries are of, for people.
    shapes: [Option<Shape>; WAYS],
}

/// The model; see the module. Shared by all workers.
#[derive(Debug)]
pub struct Model {
    sets: Box<[Mutex<Set>]>,
    stock: Stock,
}

/// A shape that has been seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// Which.
    pub shape: Shape,
    /// What it would be taken for had it never been seen.
    pub prior: Cost,
    /// What it is taken for.
    pub estimate: Cost,
    /// Requests learned from.
    pub seen: u32,
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

impl Model {
    /// A model that knows priors only.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sets: (0..SETS).map(|_| Mutex::default()).collect(),
            stock: Stock::default(),
        }
    }

    /// What a request of this shape is expected to take.
    #[must_use]
    pub fn estimate(&self, shape: &Shape) -> Cost {
        let key = key(shape);
        self.with_set(key, |set| {
            set.clock = set.clock.wrapping_add(1);
            let clock = set.clock;
            let known = set.ways.iter_mut().find(|entry| entry.key == key)?;
            known.used = clock;
            Some(known.cost())
        })
        .unwrap_or_else(|| self.prior(shape))
    }

    /// What the server says it stores of a resource; `resource` is the hash that shapes of its
    /// collections in the whole cluster have. Makes their first LIST no surprise; never
    /// needed.
    pub fn tell(&self, resource: u64, stored: Stored) {
        self.stock.tell(resource, stored);
    }

    /// Every shape that has been seen and is not forgotten. Takes every set's lock in turn.
    #[must_use]
    pub fn known(&self) -> Vec<Known> {
        let mut known = Vec::new();
        for set in &self.sets {
            let set = set.lock().unwrap_or_else(PoisonError::into_inner);
            for (entry, shape) in set.ways.iter().zip(&set.shapes) {
                if let Some(shape) = shape.filter(|_| entry.key != 0) {
                    known.push(Known {
                        shape,
                        prior: self.prior(&shape),
                        estimate: entry.cost(),
                        seen: entry.seen,
                    });
                }
            }
        }
        known
    }

    fn prior(&self, shape: &Shape) -> Cost {
        prior::prior(shape, self.stock.of(shape))
    }

    /// Learn from a request that was served. Do not call this for refusals, errors and
    /// cancelled requests: their size says nothing.
    pub fn observe(&self, shape: &Shape, seen: &Observation) {
        let key = key(shape);
        let work = Work::of(shape, seen);
        let bytes = seen.bytes.min(MAX_BYTES) as f32;
        self.with_set(key, |set| {
            set.clock = set.clock.wrapping_add(1);
            let clock = set.clock;
            let known = set.ways.iter().position(|entry| entry.key == key);
            // Ages survive the clock's wrapping.
            let age = |entry: &Entry| {
                if entry.key == 0 {
                    u32::MAX
                } else {
                    clock.wrapping_sub(entry.used)
                }
            };
            let oldest = || {
                (0..WAYS)
                    .max_by_key(|way| age(&set.ways[*way]))
                    .unwrap_or(0)
            };
            let way = known.unwrap_or_else(oldest);
            if known.is_none() {
                let prior = self.prior(shape);
                set.shapes[way] = Some(*shape);
                let entry = &mut set.ways[way];
                *entry = Entry {
                    key,
                    used: clock,
                    seen: 1,
                    work_us: prior.work_us as f32,
                    bytes: prior.bytes as f32,
                };
                // What has been seen is better than any prior, but the first call alone
                // does not make a shape cheap.
                entry.work_us = learn(entry.work_us, work.given(entry.work_us), 0.5);
                entry.bytes = learn(entry.bytes, bytes, 0.5);
            } else {
                let entry = &mut set.ways[way];
                entry.used = clock;
                entry.seen = entry.seen.saturating_add(1);
                entry.work_us = learn(entry.work_us, work.given(entry.work_us), 0.1);
                entry.bytes = learn(entry.bytes, bytes, 0.1);
            }
        });
    }

    fn with_set<T>(&self, key: u64, act: impl FnOnce(&mut Set) -> T) -> T {
        let set = &self.sets[(key >> 40) as usize % SETS];
        act(&mut set.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Up at once (most of the way), down by `fall`.
fn learn(old: f32, new: f32, fall: f32) -> f32 {
    old + (new - old) * if new > old { 0.7 } else { fall }
}

/// What an answer says about the work it took, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Work {
    least: f32,
    most: f32,
    /// The server was calm: `most` is what it took.
    calm: bool,
}

impl Work {
    fn of(shape: &Shape, seen: &Observation) -> Self {
        let service = u64::try_from(seen.service.as_micros()).unwrap_or(u64::MAX);
        let by_bytes = 500 + (seen.bytes.min(MAX_BYTES) as f64 * ns_per_byte(shape) / 1e3) as u64;
        // An expensive scan can precede a small answer, so the bytes bound it generously. A call on
        // one object scans nothing: what it takes longer is waiting, for etcd or a webhook.
        let scan = match shape.verb {
            Verb::List | Verb::WatchInitial | Verb::DeleteCollection => 50_000,
            Verb::Get | Verb::Write | Verb::WatchResume | Verb::Other => 3_000,
        };
        let bounded = |work: u64| work.min(service).clamp(LEAST_WORK_US, MAX_WORK_US) as f32;
        Self {
            least: bounded(by_bytes),
            most: bounded(by_bytes.saturating_mul(4).saturating_add(scan)),
            calm: seen.calm,
        }
    }

    /// What it took, as far as can be told by somebody who thought `known`.
    fn given(self, known: f32) -> f32 {
        if self.calm {
            self.most
        } else {
            known.clamp(self.least, self.most)
        }
    }
}

/// Server time per byte of answer.
fn ns_per_byte(shape: &Shape) -> f64 {
    let plain = match shape.encoding {
        Encoding::Json => 12.0,
        Encoding::Protobuf | Encoding::Metadata => 17.0,
        Encoding::Table => 30.0,
    };
    // Answers that come compressed are about an eighth as large and cost twice as much.
    if shape.gzip { plain * 16.0 } else { plain }
}

impl Shape {
    /// A stable hash of it.
    #[must_use]
    pub fn hash(&self) -> u64 {
        key(self)
    }
}

/// A hash of the shape, never 0. Pages are told apart by the magnitude of their limit.
fn key(shape: &Shape) -> u64 {
    let limit = shape
        .limit
        .filter(|limit| *limit > 0)
        .map_or(0, |limit| limit.ilog2() + 1);
    let traits = (shape.verb as u64)
        | (shape.scope as u64) << 8
        | (shape.source as u64) << 16
        | (shape.encoding as u64) << 24
        | u64::from(shape.gzip) << 32
        | u64::from(shape.selector) << 33
        | u64::from(limit) << 40;
    mix(shape.resource ^ mix(traits)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: Shape = Shape {
        resource: 7,
        verb: Verb::List,
        scope: Scope::Cluster,
        source: Source::Cache,
        encoding: Encoding::Json,
        gzip: false,
        selector: false,
        limit: None,
    };

    fn seen(bytes: u64, ms: u64, calm: bool) -> Observation {
        Observation {
            bytes,
            service: Duration::from_millis(ms),
            calm,
        }
    }

    #[test]
    fn an_unknown_cluster_list_is_expensive_and_a_page_of_it_is_not() {
        let model = Model::new();
        assert!(model.estimate(&LIST).work_us >= 500_000);
        let page = Shape {
            limit: Some(100),
            ..LIST
        };
        assert!(model.estimate(&page).work_us < 50_000);
        let get = Shape {
            verb: Verb::Get,
            scope: Scope::Object,
            ..LIST
        };
        assert_eq!(model.estimate(&get).work_us, 1_000);
    }

    #[test]
    fn estimates_converge_to_what_is_seen_while_calm() {
        let model = Model::new();
        for _ in 0..40 {
            model.observe(&LIST, &seen(44 << 20, 190, true));
        }
        let cost = model.estimate(&LIST);
        assert!((180_000..220_000).contains(&cost.work_us), "{cost:?}");
        assert!((43 << 20..48 << 20).contains(&cost.bytes), "{cost:?}");
    }

    #[test]
    fn queueing_under_load_is_not_taken_for_work() {
        let model = Model::new();
        for _ in 0..40 {
            model.observe(&LIST, &seen(44 << 20, 8_000, false));
        }
        let work = model.estimate(&LIST).work_us;
        assert!((300_000..700_000).contains(&work), "{work}");
    }

    #[test]
    fn what_was_learnt_while_calm_does_not_become_cheap_under_load() {
        let model = Model::new();
        let write = Shape {
            verb: Verb::Write,
            scope: Scope::Object,
            ..LIST
        };
        for shape in [write, LIST] {
            for _ in 0..80 {
                model.observe(&shape, &seen(1_000, 3, true));
            }
            let calm = model.estimate(&shape).work_us;
            assert!((2_900..3_300).contains(&calm), "{calm}");
            for _ in 0..200 {
                model.observe(&shape, &seen(1_000, 900, false));
            }
            assert_eq!(model.estimate(&shape).work_us, calm);
            // What passed is the most it can have taken, though.
            for _ in 0..80 {
                model.observe(&shape, &seen(1_000, 1, false));
            }
            assert!(model.estimate(&shape).work_us < 1_100);
        }
    }

    #[test]
    fn a_slow_reader_does_not_make_a_shape_dear() {
        let model = Model::new();
        let get = Shape {
            verb: Verb::Get,
            scope: Scope::Object,
            ..LIST
        };
        for _ in 0..40 {
            model.observe(&get, &seen(4_000, 30_000, true));
        }
        assert!(model.estimate(&get).work_us < 60_000);
    }

    #[test]
    fn a_cheap_first_call_does_not_make_a_shape_cheap() {
        let model = Model::new();
        model.observe(&LIST, &seen(100, 1, true));
        assert!(model.estimate(&LIST).work_us > 200_000);
        for _ in 0..50 {
            model.observe(&LIST, &seen(100, 1, true));
        }
        assert!(model.estimate(&LIST).work_us < 10_000);
        model.observe(&LIST, &seen(139 << 20, 1_600, true));
        assert!(
            model.estimate(&LIST).work_us > 1_000_000,
            "one dear call is enough"
        );
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_least_recently_used() {
        let model = Model::new();
        for resource in 0..3 * CAPACITY as u64 {
            let rare = Shape { resource, ..LIST };
            model.observe(&rare, &seen(1_000, 1, true));
            model.observe(&LIST, &seen(1 << 20, 20, true));
        }
        assert!(
            model.estimate(&LIST).work_us < 60_000,
            "what is in use is kept"
        );
        assert_eq!(
            model.estimate(&Shape {
                resource: 0,
                ..LIST
            }),
            model.prior(&LIST),
            "the rest goes"
        );
    }

    #[test]
    fn pages_and_whole_lists_are_learnt_apart() {
        let model = Model::new();
        let page = Shape {
            limit: Some(500),
            ..LIST
        };
        for _ in 0..40 {
            model.observe(&page, &seen(7 << 20, 100, true));
        }
        assert_eq!(model.estimate(&LIST), model.prior(&LIST));
        assert!(model.estimate(&page).work_us < 150_000);
    }
}
