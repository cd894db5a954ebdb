//! What is remembered about bearer tokens, so that each is verified once and not per request.
//!
//! Shared by all workers and bounded; keyed by the token's digest, never the token. It lies beside the hot path: a
//! connection remembers the last token it saw, so this is asked once per connection and token.

use std::sync::Arc;

use dashmap::DashMap;
use proxy_core::identity::Identity;

/// SHA-256 of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(token: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What is known about a token.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// Signed by the cluster; the identity in its claims.
    Verified(Arc<Identity>),
    /// Not verifiable here; who it is the server said when it was asked.
    Learned(Arc<Identity>),
    /// Not verifiable here, but the server accepted it.
    Works,
    /// The server refused it.
    Refused,
}

#[derive(Clone, Debug)]
struct Entry {
    known: Known,
    /// Unix seconds after which this is no longer known.
    until: u64,
    /// Unix seconds after which the server is asked (again) whose token it is.
    ask_at: u64,
}

/// How long a token that is not verifiable here is trusted to work, in seconds.
const WORKS_FOR: u64 = 60;
/// How long the server's word on whose token it is holds, in seconds.
const LEARNED_FOR: u64 = 600;
/// When the server is asked anew, in seconds after its last word, so that a token in use is never unknown in between.
const ASK_AGAIN: u64 = 240;
/// How long a refusal is remembered, in seconds.
const REFUSED_FOR: u64 = 10;

/// A bounded memory of tokens.
#[derive(Debug)]
pub(crate) struct TokenMemory {
    entries: DashMap<Digest, Entry>,
    capacity: usize,
}

impl TokenMemory {
    /// Remembers about `capacity` tokens at most.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: DashMap::new(),
            capacity,
        }
    }

    pub(crate) fn recall(&self, digest: &Digest, now: u64) -> Option<Known> {
        let entry = self.entries.get(digest)?;
        (entry.until > now).then(|| entry.known.clone())
    }

    /// `not_after` in Unix seconds, from the token itself.
    pub(crate) fn verified(
        &self,
        digest: Digest,
        identity: Arc<Identity>,
        not_after: u64,
        now: u64,
    ) {
        let known = Known::Verified(identity);
        self.insert(
            digest,
            Entry {
                known,
                until: not_after,
                ask_at: u64::MAX,
            },
            now,
        );
    }

    /// The server accepted the token. Changes nothing about a token that is known already: the answer may be older
    /// than a refusal.
    pub(crate) fn works(&self, digest: Digest, now: u64) {
        if self.recall(&digest, now).is_none() {
            self.insert(
                digest,
                Entry {
                    known: Known::Works,
                    until: now + WORKS_FOR,
                    ask_at: now,
                },
                now,
            );
        }
    }

    /// Whether the server is to be asked whose token this is. Says so once: whoever is told asks.
    pub(crate) fn shall_ask(&self, digest: &Digest, now: u64) -> bool {
        match self.entries.get_mut(digest) {
            Some(mut entry) if entry.ask_at <= now && entry.until > now => {
                entry.ask_at = now + WORKS_FOR;
                true
            }
            _ => false,
        }
    }

    /// The server said whose token it is. Not believed of a token it has refused since.
    pub(crate) fn learned(&self, digest: Digest, identity: Arc<Identity>, now: u64) {
        if !matches!(self.recall(&digest, now), None | Some(Known::Refused)) {
            let known = Known::Learned(identity);
            self.insert(
                digest,
                Entry {
                    known,
                    until: now + LEARNED_FOR,
                    ask_at: now + ASK_AGAIN,
                },
                now,
            );
        }
    }

    /// The server refused the token. Only worth a place when something better was believed of it.
    pub(crate) fn refused(&self, digest: Digest, now: u64) {
        if self.entries.contains_key(&digest) {
            let until = now + REFUSED_FOR;
            self.insert(
                digest,
                Entry {
                    known: Known::Refused,
                    until,
                    ask_at: u64::MAX,
                },
                now,
            );
        }
    }

    /// Forgets everything, as when the keys change.
    pub(crate) fn clear(&self) {
        self.entries.clear();
    }

    fn insert(&self, digest: Digest, entry: Entry, now: u64) {
        if self.entries.len() >= self.capacity {
            self.entries.retain(|_, entry| entry.until > now);
        }
        if self.entries.len() >= self.capacity {
            // All still valid: let an eighth go. Digests are uniform, so which one does not matter.
            let unlucky = digest.0[0] & 7;
            self.entries.retain(|digest, _| digest.0[1] & 7 != unlucky);
        }
        self.entries.insert(digest, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Arc<Identity> {
        Arc::new(Identity::service_account(
            "default", "web", None, None, None,
        ))
    }

    #[test]
    fn a_token_is_forgotten_when_it_ends() {
        let memory = TokenMemory::new(10);
        let digest = Digest::of(b"token");
        memory.verified(digest, identity(), 100, 50);
        assert!(matches!(
            memory.recall(&digest, 99),
            Some(Known::Verified(_))
        ));
        assert!(memory.recall(&digest, 100).is_none());
    }

    #[test]
    fn a_refused_token_is_no_longer_believed() {
        let memory = TokenMemory::new(10);
        let digest = Digest::of(b"token");
        memory.verified(digest, identity(), 1000, 50);
        memory.refused(digest, 60);
        assert!(matches!(memory.recall(&digest, 61), Some(Known::Refused)));
        assert!(
            memory.recall(&digest, 70).is_none(),
            "a refusal ends, so that a mended account works again"
        );
    }

    #[test]
    fn refusals_of_unknown_tokens_take_no_place() {
        let memory = TokenMemory::new(10);
        memory.refused(Digest::of(b"guess"), 0);
        assert!(memory.recall(&Digest::of(b"guess"), 0).is_none());
    }

    #[test]
    fn the_server_is_asked_once_whose_token_it_is_and_again_before_its_word_ends() {
        let memory = TokenMemory::new(10);
        let digest = Digest::of(b"oidc");
        assert!(
            !memory.shall_ask(&digest, 0),
            "unknown tokens are not asked about"
        );
        memory.works(digest, 0);
        assert!(memory.shall_ask(&digest, 0));
        assert!(!memory.shall_ask(&digest, 1), "somebody asks already");
        memory.learned(digest, identity(), 1);
        assert!(!memory.shall_ask(&digest, 100));
        assert!(memory.shall_ask(&digest, 1 + ASK_AGAIN));
        assert!(matches!(
            memory.recall(&digest, 1 + ASK_AGAIN),
            Some(Known::Learned(_))
        ));
    }

    #[test]
    fn late_answers_do_not_mend_a_refused_token() {
        let memory = TokenMemory::new(10);
        let digest = Digest::of(b"oidc");
        memory.works(digest, 0);
        memory.refused(digest, 1);
        memory.works(digest, 2);
        memory.learned(digest, identity(), 2);
        assert!(matches!(memory.recall(&digest, 3), Some(Known::Refused)));
    }

    #[test]
    fn the_memory_is_bounded() {
        let memory = TokenMemory::new(64);
        for n in 0..10_000_u32 {
            memory.works(Digest::of(&n.to_le_bytes()), 0);
        }
        assert!(memory.entries.len() <= 64);
    }
}
