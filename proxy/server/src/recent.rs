//! The last few thousand requests, for people who hold an audit id and ask what became of it.
//!
//! Bounded, and without credentials: the path without its query, the user's name, no header but the User-Agent. Kept by
//! shards, so that workers do not share a lock, in records that are written over: once warm, nothing is allocated.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;

/// Shards; workers beyond share.
const SHARDS: usize = 8;
/// Records in each: 4,096 in all.
const EACH: usize = 512;
/// A text is cut after so many bytes.
const LONGEST: usize = 200;

/// A finished request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) audit_id: String,
    /// Unix seconds of its end.
    pub(crate) ended: u64,
    pub(crate) lane: String,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) verb: String,
    pub(crate) user: String,
    pub(crate) user_agent: String,
    pub(crate) class: String,
    pub(crate) rule: String,
    /// Estimated server time it was admitted as.
    pub(crate) cost: Duration,
    pub(crate) status: u16,
    /// Why it was refused or failed; empty if it was not.
    pub(crate) refused: String,
    /// `None`: never admitted.
    pub(crate) waited: Option<Duration>,
    pub(crate) took: Duration,
    pub(crate) bytes: u64,
}

/// A record's text, written over.
pub(crate) fn put(place: &mut String, text: &str) {
    let mut end = LONGEST.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    place.clear();
    place.push_str(text.get(..end).unwrap_or_default());
}

#[derive(Debug, Default)]
struct Ring {
    records: Vec<Record>,
    next: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Recent([Mutex<Ring>; SHARDS]);

impl Recent {
    /// Writes a record over the oldest one of worker `worker`'s shard.
    pub(crate) fn note(&self, worker: usize, write: impl FnOnce(&mut Record)) {
        let Some(shard) = self.0.get(worker % SHARDS) else {
            return;
        };
        let mut ring = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let Ring { records, next } = &mut *ring;
        if records.len() < EACH {
            records.push(Record::default());
        }
        let at = *next % EACH;
        *next = (at + 1) % EACH;
        if let Some(record) = records.get_mut(at) {
            record.ended = clock::unix_seconds();
            write(record);
        }
    }

    /// The latest record with that audit id.
    pub(crate) fn find(&self, audit_id: &str) -> Option<Record> {
        let found = self.0.iter().filter_map(|shard| {
            let ring = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let with_it = ring
                .records
                .iter()
                .filter(|record| record.audit_id == audit_id);
            with_it.max_by_key(|record| record.ended).cloned()
        });
        found.max_by_key(|record| record.ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_found_and_the_oldest_go() {
        let recent = Recent::default();
        for number in 0..EACH + 10 {
            recent.note(3, |record| put(&mut record.audit_id, &number.to_string()));
        }
        assert!(recent.find("9").is_none());
        assert!(recent.find("10").is_some());
        assert!(recent.find(&(EACH + 9).to_string()).is_some());
        // Another worker's do not push them out.
        for number in 0..2 * EACH {
            recent.note(4, |record| {
                put(&mut record.audit_id, &format!("other {number}"))
            });
        }
        assert!(recent.find("10").is_some());
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let mut text = String::new();
        put(&mut text, &"ü".repeat(300));
        assert_eq!(text.len(), LONGEST);
        put(&mut text, "short");
        assert_eq!(text, "short");
    }
}
