//! Who would move where: the tenants that move most, in a table of fixed size.

use crate::classify::ClassId;

/// Moves told apart.
pub const MOST_MOVERS: usize = 128;

/// Requests of one tenant that move from one class to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mover {
    /// The tenant's hash.
    pub tenant: u64,
    /// Under the old policy.
    pub from: ClassId,
    /// Under the new one.
    pub to: ClassId,
    /// Requests, at most; the place may have been another's before.
    pub requests: u64,
    /// Of those, so many may have been the other's.
    pub doubtful: u64,
}

/// See the module. The least frequent move gives its place to a new one (Metwally et al., 2005,
/// "Efficient Computation of Frequent and Top-k Elements in Data Streams"), so that whoever makes
/// more than a 128th of all moves is always among them.
#[derive(Clone, Debug)]
pub struct Movers(Vec<Mover>);

impl Default for Movers {
    fn default() -> Self {
        Self(Vec::with_capacity(MOST_MOVERS))
    }
}

impl Movers {
    /// One more request that moves. Allocates nothing.
    pub fn note(&mut self, tenant: u64, from: ClassId, to: ClassId) {
        let same =
            |mover: &&mut Mover| mover.tenant == tenant && mover.from == from && mover.to == to;
        if let Some(mover) = self.0.iter_mut().find(same) {
            mover.requests += 1;
            return;
        }
        let new = |before| Mover {
            tenant,
            from,
            to,
            requests: before + 1,
            doubtful: before,
        };
        if self.0.len() < MOST_MOVERS {
            self.0.push(new(0));
        } else if let Some(least) = self.0.iter_mut().min_by_key(|mover| mover.requests) {
            *least = new(least.requests);
        }
    }

    /// The `most` that move most, first the first.
    #[must_use]
    pub fn top(&self, most: usize) -> Vec<Mover> {
        let mut movers = self.0.clone();
        movers.sort_by_key(|mover| {
            let sure = mover.requests - mover.doubtful;
            (
                std::cmp::Reverse(mover.requests),
                std::cmp::Reverse(sure),
                mover.tenant,
            )
        });
        movers.truncate(most);
        movers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_moves_often_is_found_among_many_who_move_once() {
        let mut movers = Movers::default();
        let (from, to) = (ClassId::NODES, ClassId::BULK);
        for number in 0..10_000_u64 {
            movers.note(1_000 + number, from, to);
            if number % 20 == 0 {
                movers.note(7, from, to);
            }
        }
        assert!(movers.0.len() <= MOST_MOVERS);
        let first = movers.top(1)[0];
        assert_eq!((first.tenant, first.from, first.to), (7, from, to));
        // Never less than there were, and by no more than it says.
        assert!(
            first.requests >= 500 && first.requests - first.doubtful <= 500,
            "{first:?}"
        );
    }

    #[test]
    fn moves_of_one_tenant_to_different_classes_are_told_apart() {
        let mut movers = Movers::default();
        movers.note(7, ClassId::NODES, ClassId::BULK);
        movers.note(7, ClassId::NODES, ClassId::BULK);
        movers.note(7, ClassId::NODES, ClassId::UNATTRIBUTED);
        let counts: Vec<_> = movers
            .top(9)
            .iter()
            .map(|mover| (mover.to, mover.requests))
            .collect();
        assert_eq!(counts, [(ClassId::BULK, 2), (ClassId::UNATTRIBUTED, 1)]);
    }
}
