//! What a request is taken for before any of its shape has been seen.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::{Cost, Encoding, Scope, Shape, Source, Verb, ns_per_byte};

/// Resources the server's word is kept of.
const MOST: usize = 4_096;
/// What the server says makes a LIST cheaper by this factor at most.
const LEAST: u64 = 4;
/// Looking at an object costs so much, whatever becomes of it (measured), in nanoseconds.
const SCAN_NS: f64 = 1_200.0;

/// What the server says it stores of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Objects.
    pub objects: u64,
    /// Their bytes as stored; 0 if the server does not say.
    pub bytes: u64,
}

/// The server's word on what it stores, by the hash of the resource.
#[derive(Debug, Default)]
pub(super) struct Stock(RwLock<HashMap<u64, Stored>>);

impl Stock {
    pub(super) fn tell(&self, resource: u64, stored: Stored) {
        let mut stock = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if stock.len() >= MOST && !stock.contains_key(&resource) {
            stock.clear();
        }
        stock.insert(resource, stored);
    }

    /// What there is of what this shape collects in the whole cluster.
    pub(super) fn of(&self, shape: &Shape) -> Option<Stored> {
        let collection = matches!(
            shape.verb,
            Verb::List | Verb::WatchInitial | Verb::DeleteCollection
        );
        if !collection || shape.scope != Scope::Cluster {
            return None;
        }
        let stock = self.0.read().unwrap_or_else(PoisonError::into_inner);
        stock.get(&shape.resource).copied()
    }
}

/// A collection of which the server has told how much there is.
fn counted(shape: &Shape, stored: Stored) -> Cost {
    let objects = stored.objects as f64;
    let listed = match shape.limit {
        Some(limit) if limit > 0 => objects.min(f64::from(limit)),
        _ => objects,
    };
    let (each, least) = match shape.encoding {
        // Stored as protobuf; written as JSON it is two to three times as long.
        Encoding::Json => (2.5, 1_000.0),
        Encoding::Protobuf => (1.1, 400.0),
        Encoding::Metadata => (0.0, 700.0),
        Encoding::Table => (0.0, 1_500.0),
    };
    let stored_each = stored.bytes as f64 / objects.max(1.0);
    let plain = listed * (stored_each * each).max(least);
    let sent = if shape.gzip { plain / 8.0 } else { plain };
    // Pages come from a sorted store; everything else looks at every object.
    let scanned = if shape.selector { objects } else { listed };
    let us = 1_000.0 + (scanned * SCAN_NS + sent * ns_per_byte(shape)) / 1e3;
    let source = if shape.source == Source::Etcd {
        1.5
    } else {
        1.0
    };
    Cost {
        work_us: (us * source) as u64,
        bytes: sent as u64,
    }
}

/// What a request is taken for before any of its shape has been seen.
/// `stored` is what the server says there is of it.
pub(super) fn prior(shape: &Shape, stored: Option<Stored>) -> Cost {
    let ms = |ms: u64| ms * 1_000;
    let kib = |kib: u64| kib << 10;
    let collection = |shape: &Shape| {
        let (objects, unknown) = match shape.scope {
            Scope::Object => (1_u64, false),
            Scope::Namespace => (250, false),
            Scope::Cluster => (2_500, true),
        };
        // A page cannot be larger than asked for.
        let objects = match shape.limit {
            Some(limit) if limit > 0 => objects.min(u64::from(limit)),
            _ => objects,
        };
        let (us, bytes) = match shape.encoding {
            Encoding::Json => (200, kib(12)),
            Encoding::Protobuf => (120, kib(6)),
            Encoding::Metadata => (40, kib(1)),
            Encoding::Table => (250, kib(2)),
        };
        let gzip = if shape.gzip { 2 } else { 1 };
        let source = if shape.source == Source::Etcd && unknown {
            2
        } else {
            1
        };
        let usual = Cost {
            work_us: ms(1) + objects * us * gzip * source,
            bytes: objects * bytes,
        };
        // The server counts once a minute, and begins with 0 when it starts: what it says may make a
        // LIST much dearer, but not cheap.
        stored.map_or(usual, |stored| {
            let counted = counted(shape, stored);
            Cost {
                work_us: counted.work_us.max(usual.work_us / LEAST),
                bytes: counted.bytes.max(usual.bytes / LEAST),
            }
        })
    };
    match shape.verb {
        Verb::Get => Cost {
            work_us: ms(1),
            bytes: kib(8),
        },
        Verb::List | Verb::WatchInitial => collection(shape),
        // Starting one is a look into the cache; a thousand informers start theirs at once.
        Verb::WatchResume => Cost {
            work_us: 500,
            bytes: kib(8),
        },
        Verb::Write => Cost {
            work_us: ms(2),
            bytes: kib(8),
        },
        Verb::DeleteCollection => Cost {
            work_us: 4 * collection(shape).work_us,
            bytes: collection(shape).bytes,
        },
        Verb::Other => Cost {
            work_us: ms(2),
            bytes: kib(8),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Model, Observation};
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

    #[test]
    fn what_the_server_says_it_stores_makes_the_first_list_no_surprise() {
        let model = Model::new();
        let unknown = model.estimate(&LIST);
        model.tell(
            7,
            Stored {
                objects: 3,
                bytes: 3_000,
            },
        );
        assert_eq!(model.estimate(&LIST).work_us, unknown.work_us / LEAST);
        model.tell(
            7,
            Stored {
                objects: 100_000,
                bytes: 150 << 20,
            },
        );
        let many = model.estimate(&LIST);
        assert!(many.work_us > 5 * unknown.work_us, "{many:?}");
        assert!(many.bytes > 300 << 20, "{many:?}");
        let page = model.estimate(&Shape {
            limit: Some(500),
            ..LIST
        });
        assert!(page.work_us < many.work_us / 50, "{page:?}");
        let other = Shape {
            resource: 8,
            ..LIST
        };
        assert_eq!(model.estimate(&other), unknown);
        let named = Shape {
            scope: Scope::Namespace,
            ..LIST
        };
        assert!(model.estimate(&named).work_us < unknown.work_us);
    }

    #[test]
    fn what_was_seen_counts_more_than_what_the_server_says() {
        let model = Model::new();
        let seen = Observation {
            bytes: 1_000,
            service: std::time::Duration::from_millis(2),
            calm: true,
        };
        for _ in 0..60 {
            model.observe(&LIST, &seen);
        }
        model.tell(
            7,
            Stored {
                objects: 100_000,
                bytes: 150 << 20,
            },
        );
        assert!(model.estimate(&LIST).work_us < 5_000);
        let known = model.known();
        assert_eq!((known.len(), known[0].seen, known[0].shape), (1, 60, LIST));
        assert!(known[0].prior.work_us > 1_000_000);
    }

    #[test]
    fn what_the_server_makes_up_is_bounded() {
        let model = Model::new();
        for resource in 0..3 * MOST as u64 {
            model.tell(
                resource,
                Stored {
                    objects: u64::MAX,
                    bytes: u64::MAX,
                },
            );
        }
        let stock = model.stock.0.read().expect("no panic");
        assert!(stock.len() <= MOST);
        drop(stock);
        let last = Shape {
            resource: 3 * MOST as u64 - 1,
            ..LIST
        };
        assert!(model.estimate(&last).bounded().bytes <= super::super::MAX_BYTES);
    }
}
