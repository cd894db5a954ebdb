//! The last good answers of LISTs that the data plane lives on, for when the apiserver is away.
//!
//! Off unless an operator names who may have them. CoreDNS or kube-proxy that restarts during an outage begins with a LIST
//! of `resourceVersion=0`, which asks for any state the server happens to have, and without an answer serves nobody. It is
//! given what it was last given: the whole answer to the same question by the same user, marked as old, while the server
//! cannot be asked and not for longer than configured. Nobody sees what somebody else was answered, and secrets are kept
//! only if they are named.
//!
//! The same user is one of the same name, uid and groups, verified here and now. Not the same token: a pod that restarts
//! has another. What a token's pod or node adds to that (extras) is left out of account, as the apiserver's own
//! authorizers leave it.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue, WARNING};
use http::{Method, Response, StatusCode, request};
use proxy_core::attributes::{Attributes, RvMode, Verb};
use proxy_core::identity::Identity;
use proxy_core::time::Time;

use super::collapse::key;

/// Answers kept.
const MOST: usize = 1_024;
/// Kept again only when what is kept is older than this.
const RENEW: Duration = Duration::from_secs(10);
/// One answer may take this part of all room.
const PART: usize = 2;

const STALE: HeaderName = HeaderName::from_static("x-spillway-stale");
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Whose question it is, and which.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(Box<[u8]>);

impl Key {
    /// The key of a LIST whose answer may be kept; `None` for everything else.
    pub(crate) fn of(
        head: &request::Parts,
        attributes: &Attributes<'_>,
        identity: &Identity,
        stale: &config::Stale,
    ) -> Option<Self> {
        let named = |list: &[String], name: &str| {
            list.iter().any(|entry| match entry.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => entry == name,
            })
        };
        let list = head.method == Method::GET
            && attributes.verb == Verb::List
            && attributes.read.version == RvMode::Zero
            && !attributes.read.has_continue;
        if stale.users.is_empty() || !list || !identity.is_verified() {
            return None;
        }
        let resource = &*attributes.resource;
        let wanted = match stale.resources.as_slice() {
            [] => resource != "secrets",
            resources => named(resources, resource),
        };
        if !wanted || !named(&stale.users, identity.user()) {
            return None;
        }
        let mut bytes = Vec::with_capacity(512);
        key::put(&mut bytes, identity.user().as_bytes());
        key::put(&mut bytes, identity.uid().unwrap_or_default().as_bytes());
        let mut groups: Vec<&str> = identity.groups().iter().map(AsRef::as_ref).collect();
        groups.sort_unstable();
        bytes.extend_from_slice(&(groups.len() as u64).to_le_bytes());
        for group in groups {
            key::put(&mut bytes, group.as_bytes());
        }
        key::put(&mut bytes, head.uri.path_and_query()?.as_str().as_bytes());
        key::headers(&head.headers, &mut bytes);
        (bytes.len() <= key::LONGEST).then(|| Self(bytes.into()))
    }
}

#[derive(Debug)]
struct Kept {
    headers: HeaderMap,
    body: Bytes,
    at: Time,
}

/// All answers kept, bounded in number and bytes.
#[derive(Debug, Default)]
pub(crate) struct Store {
    inner: Mutex<Inner>,
    /// Bytes of answers that are being kept while they pass; as much room again, in all.
    passing: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    kept: HashMap<Key, Kept>,
    bytes: usize,
}

impl Inner {
    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.kept.remove(key) {
            self.bytes -= kept.body.len();
        }
    }

    fn oldest(&self) -> Option<Key> {
        let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.at);
        oldest.map(|(key, _)| key.clone())
    }
}

impl Store {
    /// What was last answered, marked with its age, if that is at most `max_age`.
    pub(crate) fn get(&self, key: &Key, max_age: Duration, now: Time) -> Option<Response<Bytes>> {
        let inner = self.inner.lock().ok()?;
        let kept = inner.kept.get(key)?;
        let age = now.saturating_since(kept.at);
        if age > max_age {
            return None;
        }
        let mut response = Response::new(kept.body.clone());
        *response.headers_mut() = kept.headers.clone();
        let headers = response.headers_mut();
        headers.insert(STALE, HeaderValue::from(age.as_secs()));
        headers.append(
            WARNING,
            HeaderValue::from_static("110 spillway \"Response is Stale\""),
        );
        Some(response)
    }

    /// Whether an answer to this question is worth keeping now.
    fn wants(&self, key: &Key, now: Time) -> bool {
        let inner = self.inner.lock();
        inner.is_ok_and(|inner| {
            let kept = inner.kept.get(key);
            kept.is_none_or(|kept| now.saturating_since(kept.at) >= RENEW)
        })
    }

    fn put(&self, key: Key, kept: Kept, room: usize) {
        let Ok(mut inner) = self.inner.lock() else {
            return;
        };
        inner.remove(&key);
        let length = kept.body.len();
        while inner.bytes + length > room || inner.kept.len() >= MOST {
            let Some(oldest) = inner.oldest() else { break };
            inner.remove(&oldest);
        }
        if length <= room {
            inner.bytes += length;
            inner.kept.insert(key, kept);
        }
    }

    /// Bytes kept, without those of answers that still pass.
    pub(crate) fn bytes(&self) -> usize {
        self.inner.lock().map_or(0, |inner| inner.bytes)
    }
}

/// An answer that is being kept while it passes.
#[derive(Debug)]
pub(crate) struct Keeping {
    store: Arc<Store>,
    key: Key,
    headers: HeaderMap,
    pieces: Vec<Bytes>,
    bytes: usize,
    room: usize,
}

impl Keeping {
    /// Begins with the head of an answer, if it is one to keep.
    pub(crate) fn begin(
        store: &Arc<Store>,
        key: Key,
        status: StatusCode,
        headers: &HeaderMap,
        stale: &config::Stale,
        now: Time,
    ) -> Option<Self> {
        if status != StatusCode::OK || !store.wants(&key, now) {
            return None;
        }
        let mut headers = headers.clone();
        headers.remove(AUDIT_ID);
        Some(Self {
            store: Arc::clone(store),
            key,
            headers,
            pieces: Vec::new(),
            bytes: 0,
            room: usize::try_from(stale.bytes.get()).unwrap_or(usize::MAX),
        })
    }

    /// A piece has passed; `false` when it has become too large, or all that pass together have.
    pub(crate) fn passed(&mut self, piece: &Bytes) -> bool {
        self.bytes += piece.len();
        let passing = self.store.passing.fetch_add(piece.len(), Relaxed) + piece.len();
        if self.bytes > self.room / PART || passing > self.room {
            return false;
        }
        // Copied: a piece holds on to the buffer it came in.
        self.pieces.push(Bytes::copy_from_slice(piece));
        true
    }

    /// It has passed whole.
    pub(crate) fn end(mut self, now: Time) {
        let mut body = BytesMut::with_capacity(self.bytes);
        for piece in &self.pieces {
            body.extend_from_slice(piece);
        }
        let kept = Kept {
            headers: std::mem::take(&mut self.headers),
            body: body.freeze(),
            at: now,
        };
        self.store.put(self.key.clone(), kept, self.room);
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.store.passing.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stale() -> config::Stale {
        config::Stale {
            users: vec!["system:serviceaccount:kube-system:coredns".to_owned()],
            bytes: config::ByteSize::mebibytes(1),
            ..config::Stale::default()
        }
    }

    fn key(name: &str) -> Key {
        Key(name.as_bytes().into())
    }

    fn keep(store: &Arc<Store>, name: &str, body: &[u8], now: Time) {
        let headers = HeaderMap::new();
        let keeping = Keeping::begin(store, key(name), StatusCode::OK, &headers, &stale(), now);
        let mut keeping = keeping.expect("worth keeping");
        if body
            .chunks(1_000)
            .all(|piece| keeping.passed(&Bytes::copy_from_slice(piece)))
        {
            keeping.end(now);
        }
    }

    const NOW: Time = Time(1_000_000_000);

    #[test]
    fn what_is_kept_is_given_with_its_age_and_not_for_ever() {
        let store = Arc::new(Store::default());
        keep(&store, "a", b"list", NOW);
        let later = NOW + Duration::from_secs(90);
        let given = store
            .get(&key("a"), Duration::from_secs(100), later)
            .expect("kept");
        assert_eq!(&given.body()[..], b"list");
        assert_eq!(given.headers()["x-spillway-stale"], "90");
        assert!(
            given.headers()["warning"]
                .to_str()
                .is_ok_and(|text| text.starts_with("110 "))
        );
        assert!(
            store
                .get(&key("a"), Duration::from_secs(80), later)
                .is_none()
        );
        assert!(
            store
                .get(&key("b"), Duration::from_secs(100), later)
                .is_none()
        );
    }

    #[test]
    fn it_never_takes_more_than_its_room_and_forgets_the_oldest() {
        let store = Arc::new(Store::default());
        for number in 0..50_u64 {
            let body = vec![0; 100_000];
            keep(&store, &number.to_string(), &body, Time(NOW.0 + number));
            assert!(store.bytes() <= 1 << 20);
        }
        let long = Duration::from_secs(1_000);
        assert!(store.get(&key("49"), long, NOW).is_some());
        assert!(store.get(&key("1"), long, NOW).is_none());
        keep(&store, "whale", &vec![0; 900_000], NOW);
        assert!(
            store.get(&key("whale"), long, NOW).is_none(),
            "half of the room at most"
        );
    }

    #[test]
    fn answers_that_pass_at_once_take_no_more_than_as_much_again() {
        let store = Arc::new(Store::default());
        let begin = |number: usize| {
            let (key, headers) = (key(&number.to_string()), HeaderMap::new());
            Keeping::begin(&store, key, StatusCode::OK, &headers, &stale(), NOW)
                .expect("worth keeping")
        };
        let mut passing: Vec<_> = (0..4).map(begin).collect();
        let piece = Bytes::from(vec![0; 300 << 10]);
        let fit: Vec<bool> = passing
            .iter_mut()
            .map(|keeping| keeping.passed(&piece))
            .collect();
        assert_eq!(fit, [true, true, true, false]);
        drop(passing);
        assert!(begin(9).passed(&piece), "nothing of it is left");
        assert_eq!(store.passing.load(Relaxed), 0);
    }

    #[test]
    fn failures_and_what_is_fresh_are_not_kept_again() {
        let store = Arc::new(Store::default());
        keep(&store, "a", b"list", NOW);
        let begin = |name: &str, status, now| {
            Keeping::begin(&store, key(name), status, &HeaderMap::new(), &stale(), now).is_some()
        };
        assert!(!begin("a", StatusCode::OK, NOW + Duration::from_secs(1)));
        assert!(begin("a", StatusCode::OK, NOW + RENEW));
        assert!(!begin("b", StatusCode::FORBIDDEN, NOW));
    }
}
