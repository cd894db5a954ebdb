//! The keys kube-apiserver publishes, as last fetched; the files' keys always count beside them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::keys::PublicKey;

/// Shared by all workers: they read and ask, the control thread fetches.
#[derive(Debug, Default)]
pub(crate) struct PublishedKeys {
    keys: ArcSwap<Vec<PublicKey>>,
    wanted: Notify,
}

impl PublishedKeys {
    /// The keys as last fetched; none before.
    pub(crate) fn get(&self) -> arc_swap::Guard<Arc<Vec<PublicKey>>> {
        self.keys.load()
    }

    /// Puts new keys in force. Says whether they differ from the old.
    pub(crate) fn set(&self, keys: Vec<PublicKey>) -> bool {
        let differ = **self.keys.load() != keys;
        if differ {
            self.keys.store(Arc::new(keys));
        }
        differ
    }

    /// A token names a key nobody knows: perhaps the server has a new one. However often this is said, it is heard once.
    pub(crate) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Waits until somebody wants a key.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }
}
