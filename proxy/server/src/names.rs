//! The names behind the hashes that admission works with, for people: of tenants and of request shapes.
//!
//! A request notes its names once per worker and a while; after that it costs two loads. Bounded: when there are too
//! many, all are forgotten, and those that still matter are noted again with their next request.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use proxy_core::attributes::{Attributes, Scope};

use crate::attribute::Facts;

/// Names kept.
const MOST: usize = 16_384;
/// Hashes that a worker remembers to have noted.
const REMEMBERED: usize = 4_096;
/// A name is cut after so many bytes.
const LONGEST: usize = 200;

/// All names, shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Names {
    names: DashMap<u64, Arc<str>>,
    forgotten: AtomicU64,
}

impl Names {
    /// The name behind a hash; the hash itself if it is not known.
    pub(crate) fn of(&self, hash: u64) -> Arc<str> {
        self.names
            .get(&hash)
            .map_or_else(|| format!("{hash:016x}").into(), |name| Arc::clone(&name))
    }

    /// The whole name behind a hash, if it is known and was not too long to be kept.
    pub(crate) fn known(&self, hash: u64) -> Option<Arc<str>> {
        let name = self.names.get(&hash)?;
        (name.len() < LONGEST).then(|| Arc::clone(&name))
    }

    fn insert(&self, hash: u64, name: &str) {
        if self.names.len() >= MOST {
            self.names.clear();
            self.forgotten.fetch_add(1, Ordering::Relaxed);
        }
        let mut end = LONGEST.min(name.len());
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        self.names
            .insert(hash, name.get(..end).unwrap_or("").into());
    }
}

/// What one worker has noted.
#[derive(Debug)]
pub(crate) struct Noted(RefCell<(u64, Box<[u64]>)>);

impl Default for Noted {
    fn default() -> Self {
        Self(RefCell::new((0, vec![0; REMEMBERED].into())))
    }
}

impl Noted {
    /// Sees to it that the name behind `hash` is known.
    pub(crate) fn note(&self, names: &Names, hash: u64, name: impl FnOnce() -> String) {
        let (seen, noted) = &mut *self.0.borrow_mut();
        let forgotten = names.forgotten.load(Ordering::Relaxed);
        if *seen != forgotten {
            *seen = forgotten;
            noted.fill(0);
        }
        if let Some(place) = noted.get_mut(hash as usize % REMEMBERED)
            && *place != hash
        {
            *place = hash;
            names.insert(hash, &name());
        }
    }
}

/// A request's shape in words: what is done to which resource, of how much, and how it is written.
pub(crate) fn shape(attributes: &Attributes<'_>, facts: &Facts) -> String {
    if !attributes.is_resource {
        let mut segments = attributes.path.trim_start_matches('/').splitn(3, '/');
        let (first, second) = (segments.next().unwrap_or(""), segments.next());
        let second = second.map_or(String::new(), |second| format!("/{second}"));
        return format!("{} /{first}{second}", attributes.verb.as_str());
    }
    let mut shape = format!("{} {}", attributes.verb.as_str(), attributes.resource);
    if !attributes.subresource.is_empty() {
        shape += &format!("/{}", attributes.subresource);
    }
    if !attributes.api_group.is_empty() {
        shape += &format!(".{}", attributes.api_group);
    }
    shape += &match attributes.scope() {
        Scope::Cluster => " of the whole cluster".to_owned(),
        Scope::Namespaced => format!(" of namespace {}", attributes.namespace),
        Scope::Named | Scope::NonResource => String::new(),
    };
    if let Some(limit) = facts.shape.limit {
        shape += &format!(", pages of {limit}");
    }
    if facts.shape.selector {
        shape += ", selected";
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_noted_again_when_forgotten() {
        let names = Names::default();
        let noted = Noted::default();
        noted.note(&names, 1, || "one".to_owned());
        noted.note(&names, 1, || unreachable!("noted already"));
        assert_eq!(&*names.of(1), "one");
        for hash in 2..=MOST as u64 + 1 {
            names.insert(hash, "other");
        }
        assert!(names.names.len() <= MOST);
        noted.note(&names, 1, || "one again".to_owned());
        assert_eq!(&*names.of(1), "one again");
    }

    #[test]
    fn a_name_is_cut_between_characters() {
        let names = Names::default();
        names.insert(7, &"ü".repeat(300));
        assert_eq!(names.of(7).len(), LONGEST);
        assert_eq!(names.of(8).len(), 16);
    }
}
