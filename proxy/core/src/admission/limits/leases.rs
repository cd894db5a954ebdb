//! What a request holds of limits.

use std::fmt;
use std::sync::Arc;

use super::Limits;
use super::table::{Bound, Place};

/// A request that holds more than so many leases allocates.
pub const FEW: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Lease {
    limit: u16,
    what: Bound,
    place: Place,
}

/// What one request holds of limits; given back when dropped, to the account it was taken
/// from, whatever was reloaded meanwhile.
#[must_use = "dropping leases gives them back"]
#[derive(Default)]
pub struct Leases {
    limits: Option<Arc<Limits>>,
    few: [Option<Lease>; FEW],
    more: Vec<Lease>,
}

impl Leases {
    /// Nothing.
    pub const fn none() -> Self {
        Self {
            limits: None,
            few: [None; FEW],
            more: Vec::new(),
        }
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many leases it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.few.iter().flatten().count() + self.more.len()
    }

    pub(super) fn add(&mut self, limits: &Arc<Limits>, limit: usize, place: Place, what: Bound) {
        self.limits.get_or_insert_with(|| Arc::clone(limits));
        let lease = Lease {
            // In range: at most MAX_LIMITS.
            limit: limit as u16,
            what,
            place,
        };
        match self.few.iter_mut().find(|few| few.is_none()) {
            Some(free) => *free = Some(lease),
            None => self.more.push(lease),
        }
    }

    /// A watch has sent the state it began with: it is no LIST any more.
    pub fn delivered(&mut self) {
        self.give_back(|lease| lease.what == Bound::Concurrency);
    }

    fn give_back(&mut self, which: impl Fn(&Lease) -> bool) {
        let Some(limits) = &self.limits else { return };
        let give = |lease: &Lease| limits.give(lease.limit.into(), lease.place, lease.what);
        for few in &mut self.few {
            if let Some(lease) = few.take_if(|lease| which(lease)) {
                give(&lease);
            }
        }
        self.more.retain(|lease| {
            let which = which(lease);
            if which {
                give(lease);
            }
            !which
        });
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.give_back(|_| true);
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.few.iter().flatten())
            .entries(&self.more)
            .finish()
    }
}
