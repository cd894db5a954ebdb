//! The object store: what etcd holds and what the watch caches remember.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::lock;
use super::object::Object;
use super::resources::Resource;
use super::status::ApiError;

/// Namespace and name; cluster-scoped objects have an empty namespace.
pub(super) type Key = (Box<str>, Box<str>);

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Added,
    Modified,
    Deleted,
}

/// One entry of a resource's history.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) version: u64,
    pub(super) change: Change,
    /// The object after the change; at a deletion its last state, carrying
    /// the version of the deletion.
    pub(super) object: Arc<Object>,
    pub(super) previous: Option<Arc<Object>>,
}

/// A resource's objects at one version.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) version: u64,
    /// In key order.
    pub(super) objects: Vec<Arc<Object>>,
}

#[derive(Debug)]
struct Collection {
    objects: BTreeMap<Key, Arc<Object>>,
    bytes: u64,
    history: VecDeque<Event>,
    /// Events of later versions are complete in `history`.
    floor: u64,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    version: u64,
    bytes: u64,
    collections: HashMap<&'static str, Collection>,
}

/// All objects. Versions are global and only grow; version 1 is the empty
/// store.
#[derive(Debug)]
pub(super) struct Store {
    inner: Mutex<Inner>,
    history: usize,
}

impl Store {
    /// Keeps the last `history` events of every resource.
    pub(super) fn new(history: usize) -> Self {
        Self {
            inner: Mutex::new(Inner {
                version: 1,
                ..Inner::default()
            }),
            history,
        }
    }

    fn with<T>(&self, resource: &Resource, act: impl FnOnce(&mut u64, &mut Collection) -> T) -> T {
        let mut inner = lock(&self.inner);
        let Inner {
            version,
            bytes,
            collections,
        } = &mut *inner;
        let collection = collections
            .entry(resource.key)
            .or_insert_with(|| Collection {
                objects: BTreeMap::new(),
                bytes: 0,
                history: VecDeque::new(),
                floor: *version,
                changed: watch::Sender::new(*version),
            });
        let before = collection.bytes;
        let result = act(version, collection);
        *bytes = *bytes - before + collection.bytes;
        result
    }

    /// The newest version.
    pub(super) fn version(&self) -> u64 {
        lock(&self.inner).version
    }

    /// Encoded bytes of everything.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.inner).bytes
    }

    /// Objects and encoded bytes of a resource, narrowed to a namespace.
    pub(super) fn size(&self, resource: &Resource, namespace: Option<&str>) -> (u64, u64) {
        self.with(resource, |_, collection| match namespace {
            None => (collection.objects.len() as u64, collection.bytes),
            Some(namespace) => collection
                .range(namespace)
                .fold((0, 0), |(count, bytes), object| {
                    (count + 1, bytes + object.json().len() as u64)
                }),
        })
    }

    /// Resources that hold objects, with their encoded bytes.
    pub(super) fn resources(&self) -> Vec<(&'static str, u64)> {
        lock(&self.inner)
            .collections
            .iter()
            .filter(|(_, collection)| collection.bytes > 0)
            .map(|(key, collection)| (*key, collection.bytes))
            .collect()
    }

    pub(super) fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, ApiError> {
        self.with(resource, |_, collection| {
            collection.objects.get(&key(namespace, name)).cloned()
        })
        .ok_or_else(|| ApiError::not_found(resource.plural, name))
    }

    /// Adds an object built for the version it will get; 409 if it exists.
    pub(super) fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        build: impl FnOnce(u64) -> Object,
    ) -> Result<Arc<Object>, ApiError> {
        self.with(resource, |version, collection| {
            let key = key(namespace, name);
            if collection.objects.contains_key(&key) {
                return Err(ApiError::already_exists(resource.plural, name));
            }
            *version += 1;
            let object = Arc::new(build(*version));
            collection.bytes += object.json().len() as u64;
            collection.objects.insert(key, object.clone());
            collection.record(self.history, *version, Change::Added, object.clone(), None);
            Ok(object)
        })
    }

    /// Replaces an object if it still is at the version it was read at, else
    /// 409; 404 if it is gone.
    pub(super) fn update(
        &self,
        resource: &Resource,
        read: &Object,
        build: impl FnOnce(u64) -> Object,
    ) -> Result<Arc<Object>, ApiError> {
        self.with(resource, |version, collection| {
            let key = (read.namespace.clone(), read.name.clone());
            let Some(slot) = collection.objects.get_mut(&key) else {
                return Err(ApiError::not_found(resource.plural, &read.name));
            };
            if slot.version != read.version {
                return Err(ApiError::modified(resource.plural, &read.name));
            }
            *version += 1;
            let object = Arc::new(build(*version));
            let previous = std::mem::replace(slot, object.clone());
            collection.bytes =
                collection.bytes - previous.json().len() as u64 + object.json().len() as u64;
            collection.record(
                self.history,
                *version,
                Change::Modified,
                object.clone(),
                Some(previous),
            );
            Ok(object)
        })
    }

    /// Removes an object; `build` makes its last state from the stored one.
    pub(super) fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        build: impl FnOnce(&Object, u64) -> Object,
    ) -> Result<Arc<Object>, ApiError> {
        self.with(resource, |version, collection| {
            let Some(previous) = collection.objects.remove(&key(namespace, name)) else {
                return Err(ApiError::not_found(resource.plural, name));
            };
            *version += 1;
            collection.bytes -= previous.json().len() as u64;
            let last = Arc::new(build(&previous, *version));
            collection.record(
                self.history,
                *version,
                Change::Deleted,
                last.clone(),
                Some(previous),
            );
            Ok(last)
        })
    }

    /// The newest objects, narrowed to a namespace, from a key on.
    pub(super) fn snapshot(&self, resource: &Resource, namespace: Option<&str>) -> Snapshot {
        self.with(resource, |version, collection| Snapshot {
            version: *version,
            objects: match namespace {
                None => collection.objects.values().cloned().collect(),
                Some(namespace) => collection.range(namespace).cloned().collect(),
            },
        })
    }

    /// The objects as they were at `at`, by undoing the events since; 410
    /// when the history does not reach back that far.
    pub(super) fn snapshot_at(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        at: u64,
    ) -> Result<Snapshot, ApiError> {
        self.with(resource, |version, collection| {
            if at > *version {
                return Err(ApiError::too_large_version(at, *version));
            }
            if at < collection.floor {
                return Err(ApiError::expired(
                    "The provided continue parameter or resource version is too old to display a consistent list result.",
                ));
            }
            let within = |object: &Object| namespace.is_none_or(|name| *object.namespace == *name);
            let mut objects: BTreeMap<Key, Arc<Object>> = match namespace {
                None => collection.objects.clone(),
                Some(namespace) => collection
                    .range(namespace)
                    .map(|object| (object_key(object), object.clone()))
                    .collect(),
            };
            for event in collection.history.iter().rev() {
                if event.version <= at {
                    break;
                }
                if !within(&event.object) {
                    continue;
                }
                match &event.previous {
                    Some(previous) => objects.insert(object_key(previous), previous.clone()),
                    None => objects.remove(&object_key(&event.object)),
                };
            }
            Ok(Snapshot {
                version: at,
                objects: objects.into_values().collect(),
            })
        })
    }

    /// A signal that fires with every change of the resource.
    pub(super) fn subscribe(&self, resource: &Resource) -> watch::Receiver<u64> {
        self.with(resource, |_, collection| collection.changed.subscribe())
    }

    /// At most `most` events after version `after`; 410 when some of them are
    /// no longer remembered.
    pub(super) fn events_after(
        &self,
        resource: &Resource,
        after: u64,
        most: usize,
    ) -> Result<Vec<Event>, ApiError> {
        self.with(resource, |_, collection| {
            if after < collection.floor {
                return Err(ApiError::expired(format!(
                    "too old resource version: {after} ({})",
                    collection.floor
                )));
            }
            let start = collection
                .history
                .partition_point(|event| event.version <= after);
            Ok(collection
                .history
                .iter()
                .skip(start)
                .take(most)
                .cloned()
                .collect())
        })
    }

    /// What a restart does: the objects stay, the watch caches start anew at
    /// the newest version.
    pub(super) fn forget_history(&self) {
        let mut inner = lock(&self.inner);
        let version = inner.version;
        for collection in inner.collections.values_mut() {
            collection.history.clear();
            collection.floor = version;
        }
    }
}

impl Collection {
    /// A namespace's objects, in order.
    fn range<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Object>> {
        self.objects
            .range(key(namespace, "")..)
            .take_while(move |((have, _), _)| **have == *namespace)
            .map(|(_, object)| object)
    }

    fn record(
        &mut self,
        capacity: usize,
        version: u64,
        change: Change,
        object: Arc<Object>,
        previous: Option<Arc<Object>>,
    ) {
        self.history.push_back(Event {
            version,
            change,
            object,
            previous,
        });
        while self.history.len() > capacity {
            if let Some(evicted) = self.history.pop_front() {
                self.floor = evicted.version;
            }
        }
        self.changed.send_replace(version);
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.into(), name.into())
}

/// An object's place in the store.
pub(super) fn object_key(object: &Object) -> Key {
    (object.namespace.clone(), object.name.clone())
}
