//! What another process learned, taken over.

use super::{Cost, LEAST_WORK_US, Model, Shape, WAYS, key};

impl Model {
    /// Takes `cost` for what requests of this shape take, as if `seen` of them had been observed, unless this model has seen
    /// one itself or has no room left where the shape would stand. Says whether it did.
    pub fn restore(&self, shape: &Shape, cost: Cost, seen: u32) -> bool {
        let key = key(shape);
        let cost = cost.bounded();
        self.with_set(key, |set| {
            let known = set.ways.iter().any(|entry| entry.key == key);
            let free = (0..WAYS).find(|way| set.ways[*way].key == 0);
            let Some(way) = free.filter(|_| !known) else {
                return false;
            };
            set.shapes[way] = Some(*shape);
            let entry = &mut set.ways[way];
            entry.key = key;
            entry.used = set.clock;
            entry.seen = seen.max(1);
            entry.work_us = cost.work_us.max(LEAST_WORK_US) as f32;
            entry.bytes = cost.bytes as f32;
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Encoding, MAX_WORK_US, Observation, Scope, Source, Verb};
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

    const SMALL: Cost = Cost {
        work_us: 9_000,
        bytes: 70_000,
    };

    #[test]
    fn what_was_learned_elsewhere_holds_until_something_is_seen_here() {
        let model = Model::new();
        assert!(model.restore(&LIST, SMALL, 12));
        assert_eq!(model.estimate(&LIST), SMALL);
        let seen = Observation {
            bytes: 40 << 20,
            service: Duration::from_millis(400),
            calm: true,
        };
        model.observe(&LIST, &seen);
        let learned = model.estimate(&LIST);
        assert!(learned.work_us > 200_000, "{learned:?}");
        assert!(!model.restore(&LIST, SMALL, 12));
        assert_eq!(model.estimate(&LIST), learned);
    }

    #[test]
    fn it_is_bounded_and_pushes_nothing_out() {
        let model = Model::new();
        let shapes = (0..100_000).map(|resource| Shape { resource, ..LIST });
        let taken = shapes
            .filter(|shape| model.restore(shape, SMALL, 1))
            .count();
        assert!(taken <= super::super::CAPACITY);
        assert_eq!(model.known().len(), taken);
        let most = Cost {
            work_us: u64::MAX,
            bytes: u64::MAX,
        };
        let model = Model::new();
        model.restore(&LIST, most, 0);
        assert!(model.estimate(&LIST).work_us <= MAX_WORK_US);
        let page = Shape {
            limit: Some(1),
            ..LIST
        };
        model.restore(
            &page,
            Cost {
                work_us: 0,
                bytes: 0,
            },
            0,
        );
        assert_eq!(model.estimate(&page).work_us, 200);
    }
}
