//! Who holds how much: one account per key, in a table of fixed size, without a lock.
//!
//! **Never beyond the bound.** A count is raised only by replacing a value below the bound, so
//! it cannot pass the bound for a moment either, and nobody is refused because somebody else
//! was trying.
//!
//! **A place changes hands only when nobody holds anything there.** Its count is then
//! exchanged for [`CLOSED`], which nobody can raise. Whoever looked the place up just before
//! looks at the key once more after having taken, and gives back if it is another's by now.
//! Only the opener of a place takes the lock: that is, the first request of a key, and every
//! request of a key for which there is no place.
//!
//! **A full table** (more keys at once than it has places) puts the newcomers together into
//! one account: they share one bound. Were they let pass instead, whoever can make up keys
//! would have found the way around the limit.

use super::bucket::Bucket;
use crate::hash::mix;
use crate::sync::{AtomicU64, Mutex, SeqCst};
use crate::time::Time;

/// How far from its first choice a key's place may be.
const REACH: usize = if cfg!(all(loom, test)) { 2 } else { 16 };

/// What can be held; each has 20 bits of an account's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// Requests that end by themselves, and watches until they have sent the state.
    Concurrency,
    /// Open watches.
    Watches,
    /// Open sessions: exec, attach, port-forward, proxy, logs.
    Sessions,
}

impl Bound {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Concurrency, Self::Watches, Self::Sessions];

    /// The name in configuration and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Concurrency => "concurrency",
            Self::Watches => "watches",
            Self::Sessions => "sessions",
        }
    }

    const fn shift(self) -> u32 {
        20 * self as u32
    }

    const fn one(self) -> u64 {
        1 << self.shift()
    }

    const fn of(self, held: u64) -> u32 {
        ((held >> self.shift()) & MOST as u64) as u32
    }
}

/// The highest bound.
pub const MOST: u32 = (1 << 20) - 1;
/// The place is changing hands.
const CLOSED: u64 = 1 << 63;

/// One account.
#[derive(Debug)]
#[repr(align(32))]
struct Account {
    /// Zero: nobody's.
    key: AtomicU64,
    held: AtomicU64,
    /// What may begin, and server time.
    buckets: [Bucket; 2],
}

impl Account {
    fn new(key: u64) -> Self {
        Self {
            key: AtomicU64::new(key),
            held: AtomicU64::new(0),
            buckets: [Bucket::default(), Bucket::default()],
        }
    }
}

/// Why there is nothing to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// The bound is reached.
    Full,
    /// The account is somebody else's by now.
    Moved,
}

/// Where an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    /// The last one is that of all who found no place.
    accounts: Box<[Account]>,
    /// Whether keys are looked up; else they are positions.
    keyed: bool,
    opening: Mutex<()>,
}

impl Table {
    /// `places` accounts, found by their position.
    pub(super) fn fixed(places: usize) -> Self {
        Self::new(places, false)
    }

    /// Room for `places` keys.
    pub(super) fn keyed(places: usize) -> Self {
        Self::new(places, true)
    }

    fn new(places: usize, keyed: bool) -> Self {
        Self {
            accounts: (0..=places).map(|_| Account::new(0)).collect(),
            keyed,
            opening: Mutex::new(()),
        }
    }

    /// Which accounts a key may have: some in a row, from one that follows from the key.
    fn around(&self, key: u64) -> impl Iterator<Item = usize> {
        let places = self.accounts.len() - 1;
        let first = (mix(key) >> 32) as usize % places;
        (0..REACH.min(places)).map(move |step| (first + step) % places)
    }

    fn account(&self, place: usize) -> &Account {
        &self.accounts[place.min(self.accounts.len() - 1)]
    }

    fn find(&self, key: u64) -> Option<usize> {
        self.around(key)
            .find(|place| self.account(*place).key.load(SeqCst) == key)
    }

    /// The account of a key: its own, or that of all for whom there is no place. One load
    /// mostly; the lock for a newcomer.
    pub(super) fn place(&self, key: u64, now: Time) -> Place {
        let last = self.accounts.len() - 1;
        if !self.keyed {
            return Place(usize::try_from(key).map_or(last, |key| key.min(last)) as u32);
        }
        // Zero means nobody's; one key in many shares its account with another.
        let key = key.max(1);
        let place = self.find(key).unwrap_or_else(|| self.open(key, now));
        Place(place as u32)
    }

    fn open(&self, key: u64, now: Time) -> usize {
        // Nothing under it panics.
        let _opening = self.opening.lock();
        if let Some(place) = self.find(key) {
            return place;
        }
        for place in self.around(key) {
            let account = self.account(place);
            let full = account.buckets.iter().all(|bucket| bucket.is_full(now));
            let idle = full && account.held.load(SeqCst) == 0;
            let closed = || account.held.compare_exchange(0, CLOSED, SeqCst, SeqCst);
            if idle && closed().is_ok() {
                account.key.store(key, SeqCst);
                account.held.store(0, SeqCst);
                return place;
            }
        }
        self.accounts.len() - 1
    }

    /// Whether the account is still that of `key`.
    fn is_of(&self, place: Place, key: u64) -> bool {
        let place = place.0 as usize;
        !self.keyed
            || place == self.accounts.len() - 1
            || self.account(place).key.load(SeqCst) == key.max(1)
    }

    /// Takes one of `what` from the account of `key`, if fewer than `bound` are taken.
    pub(super) fn take(
        &self,
        place: Place,
        key: u64,
        what: Bound,
        bound: u32,
    ) -> Result<(), NotTaken> {
        let held = &self.account(place.0 as usize).held;
        let mut before = held.load(SeqCst);
        loop {
            if before & CLOSED != 0 {
                return Err(NotTaken::Moved);
            }
            if what.of(before) >= bound.min(MOST) {
                return Err(if self.is_of(place, key) {
                    NotTaken::Full
                } else {
                    NotTaken::Moved
                });
            }
            match held.compare_exchange(before, before + what.one(), SeqCst, SeqCst) {
                Ok(_) => break,
                Err(other) => before = other,
            }
        }
        if self.is_of(place, key) {
            return Ok(());
        }
        self.give(place, what);
        Err(NotTaken::Moved)
    }

    /// Gives back what was taken.
    pub(super) fn give(&self, place: Place, what: Bound) {
        self.account(place.0 as usize)
            .held
            .fetch_sub(what.one(), SeqCst);
    }

    /// Of an account: what may begin.
    pub(super) fn beginnings(&self, place: Place) -> &Bucket {
        &self.account(place.0 as usize).buckets[0]
    }

    /// Of an account: server time.
    pub(super) fn time(&self, place: Place) -> &Bucket {
        &self.account(place.0 as usize).buckets[1]
    }

    /// How much of `what` is held by whoever holds most, and by all together.
    pub(super) fn held(&self, what: Bound) -> (u32, u64) {
        let held = self
            .accounts
            .iter()
            .map(|account| what.of(account.held.load(SeqCst)));
        held.fold((0, 0), |(most, sum), held| {
            (most.max(held), sum + u64::from(held))
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(1_000);

    #[test]
    fn each_key_has_its_own_bound() {
        let table = Table::keyed(64);
        for key in [5, 6] {
            let place = table.place(key, NOW);
            assert_eq!(table.take(place, key, Bound::Watches, 2), Ok(()));
            assert_eq!(table.take(place, key, Bound::Watches, 2), Ok(()));
            let third = table.take(place, key, Bound::Watches, 2);
            assert_eq!(third, Err(NotTaken::Full));
            assert_eq!(table.take(place, key, Bound::Sessions, 1), Ok(()));
        }
        assert_eq!(table.held(Bound::Watches), (2, 4));
        assert_eq!(table.held(Bound::Sessions), (1, 2));
        assert_eq!(table.held(Bound::Concurrency), (0, 0));
    }

    #[test]
    fn a_full_table_puts_newcomers_together_and_keeps_everybody_elses_count() {
        let table = Table::keyed(4);
        let old: Vec<_> = (1..=4)
            .map(|key| {
                let place = table.place(key, NOW);
                assert_eq!(table.take(place, key, Bound::Concurrency, 1), Ok(()));
                (key, place)
            })
            .collect();
        let (seventh, eighth) = (table.place(7, NOW), table.place(8, NOW));
        assert_eq!(seventh, eighth);
        assert_eq!(table.take(seventh, 7, Bound::Concurrency, 1), Ok(()));
        let second = table.take(eighth, 8, Bound::Concurrency, 1);
        assert_eq!(second, Err(NotTaken::Full));
        // Who leaves makes room for one of them.
        table.give(old[2].1, Bound::Concurrency);
        assert_ne!(table.place(8, NOW), seventh);
        for (key, place) in old.iter().filter(|(key, _)| *key != 3) {
            let again = table.take(*place, *key, Bound::Concurrency, 1);
            assert_eq!(again, Err(NotTaken::Full), "{key}");
        }
    }

    #[test]
    fn a_place_is_not_given_away_while_its_rate_still_counts() {
        let table = Table::keyed(1);
        let rate = super::super::Rate::new(1, std::time::Duration::from_secs(1), 1);
        let mine = table.place(1, NOW);
        assert_eq!(table.beginnings(mine).take(rate, NOW), Ok(()));
        assert_ne!(table.place(2, NOW), mine);
        assert_eq!(table.place(2, Time::from_millis(2_000)), mine);
    }

    #[test]
    fn whoever_looked_a_place_up_before_it_changed_hands_takes_nothing_from_its_new_owner() {
        let table = Table::keyed(1);
        let place = table.place(1, NOW);
        assert_eq!(table.place(2, NOW), place);
        let late = table.take(place, 1, Bound::Concurrency, 5);
        assert_eq!(late, Err(NotTaken::Moved));
        assert_eq!(table.held(Bound::Concurrency), (0, 0));
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
