//! Who asks for how much: one account per tenant, class and kind, in a table of fixed size
//! that every request writes to without a lock.
//!
//! The front only adds; [`super::level`] reads once per tick, turns sums into rates, and
//! gives places back that nobody uses. A table of fixed size can be full: then newcomers
//! share one account, and only lose being told apart.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::meter::Meter;
use super::{Ask, Kind, slot};
use crate::hash::mix;

/// Places in the table: half a MiB.
pub(super) const PLACES: usize = 4_096;
/// Instances are counted in so many bits.
const INSTANCE_BITS: u64 = 192;
/// More instances than this are not told apart.
pub(super) const MOST_INSTANCES: u32 = 1_000;
/// How far from its first choice an account may be.
const REACH: usize = 16;
/// The last bits of a tag hold the user level.
const LEVEL: u64 = 0x7f;
/// The least important user level; there are as many as in DAGOR.
pub(super) const LAST_LEVEL: u8 = 127;
/// Of newcomers, and of whoever asks for no more than an equal share; of nobody else while more is wanted than can be served.
pub(super) const MODEST_LEVEL: u8 = 0;

/// One account: two cache lines, of which requests touch the first, so that workers busy with
/// different tenants do not share.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Account {
    /// Zero: free. Otherwise whose it is, and in the last bits its user level.
    tag: AtomicU64,
    /// What it asked for, granted or not.
    pub(super) offered: Meter,
    /// What of it was refused.
    pub(super) refused: Meter,
    /// The request shape that most of the offered work has, if any has more than half, by a
    /// majority vote weighted with work (Boyer and Moore 1981); and its lead over the rest.
    /// Two threads may overwrite each other's vote, which costs a vote.
    pub(super) shape: AtomicU64,
    lead: AtomicU64,
    /// Which instances were seen: linear counting (Whang et al. 1990).
    instances: [AtomicU64; 3],
    /// What was refused before it got this far, by an order: in neither of the two above. On the second line, as requests that
    /// are admitted or refused here do not touch it.
    pub(super) withheld: Meter,
    /// Whose it is, for those who read the table: the tenant, and one more than class and kind.
    tenant: AtomicU64,
    which: AtomicU64,
}

const _: () = assert!(std::mem::offset_of!(Account, withheld) == 64);

/// Whose an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) tenant: u64,
    pub(super) class: usize,
    pub(super) kind: Kind,
}

/// The table; see the module.
#[derive(Debug)]
pub(super) struct Accounts {
    places: Box<[Account]>,
    /// Of all who found no place.
    pub(super) others: Account,
}

/// Class and kind in one number.
fn which(ask: &Ask) -> u64 {
    ((slot(ask.class) as u64) << 1) | ask.kind.index() as u64
}

/// A tag without its level. Zero means free; one tenant in many must share an account for it.
fn key(ask: &Ask) -> u64 {
    (mix(ask.tenant.wrapping_add(mix(which(ask)))) & !LEVEL).max(LEVEL + 1)
}

impl Accounts {
    pub(super) fn new() -> Self {
        Self {
            places: (0..PLACES).map(|_| Account::default()).collect(),
            others: Account::default(),
        }
    }

    /// All places, taken or not.
    pub(super) fn places(&self) -> &[Account] {
        &self.places
    }

    /// Count a request as asked for.
    pub(super) fn offered(&self, ask: &Ask) {
        let account = self.find_or_open(ask);
        let work = ask.cost.work_us;
        account.offered.add(work);
        account.vote(ask.shape, work);
        account.saw(ask.instance);
    }

    /// Count a request that an order keeps away: asked for and refused, but no part of what turns and blame are about.
    pub(super) fn withheld(&self, ask: &Ask) {
        let account = self.find_or_open(ask);
        let work = ask.cost.work_us;
        account.withheld.add(work);
        // What gets through names the shape where anything does: a culprit is blamed for that.
        if account.shape().is_none() {
            account.vote(ask.shape, work);
        }
        account.saw(ask.instance);
    }

    /// Count a request as refused.
    pub(super) fn refused(&self, ask: &Ask) {
        self.find(ask).refused.add(ask.cost.work_us);
    }

    /// The user level of who asks; newcomers begin as the most important.
    pub(super) fn level(&self, ask: &Ask) -> u8 {
        (self.find(ask).tag.load(Relaxed) & LEVEL) as u8
    }

    fn around(&self, key: u64) -> impl Iterator<Item = &Account> {
        let first = (key >> 32) as usize;
        (0..REACH).filter_map(move |step| self.places.get((first + step) % PLACES))
    }

    fn find(&self, ask: &Ask) -> &Account {
        let key = key(ask);
        self.around(key)
            .find(|account| account.tag.load(Relaxed) & !LEVEL == key)
            .unwrap_or(&self.others)
    }

    fn find_or_open(&self, ask: &Ask) -> &Account {
        let key = key(ask);
        let mut free = None;
        for account in self.around(key) {
            match account.tag.load(Relaxed) & !LEVEL {
                tag if tag == key => return account,
                0 => free = free.or(Some(account)),
                _ => {}
            }
        }
        let Some(account) = free else {
            return &self.others;
        };
        match account.tag.compare_exchange(0, key, Relaxed, Relaxed) {
            Ok(_) => {
                account.give_to(ask);
                account
            }
            // Somebody was quicker, perhaps for the same tenant.
            Err(tag) if tag & !LEVEL == key => account,
            Err(_) => &self.others,
        }
    }
}

impl Account {
    /// Whose it is; `None` if it is free.
    pub(super) fn owner(&self) -> Option<Owner> {
        let which = self.which.load(Acquire).checked_sub(1)?;
        Some(Owner {
            tenant: self.tenant.load(Relaxed),
            class: (which >> 1) as usize,
            kind: if which & 1 == 0 {
                Kind::Short
            } else {
                Kind::Long
            },
        })
    }

    fn give_to(&self, ask: &Ask) {
        self.tenant.store(ask.tenant, Relaxed);
        self.which.store(which(ask) + 1, Release);
    }

    /// Take the place back. Whoever writes to it at this moment writes to nobody's account.
    pub(super) fn close(&self) {
        self.which.store(0, Release);
        self.offered.reset();
        self.refused.reset();
        self.withheld.reset();
        self.lead.store(0, Relaxed);
        self.forget_instances();
        self.tag.store(0, Release);
    }

    /// Only the tick does this, and it alone closes accounts, so nobody else writes the tag.
    pub(super) fn set_level(&self, level: u8) {
        let tag = self.tag.load(Relaxed);
        if tag != 0 {
            let level = u64::from(level.min(LAST_LEVEL));
            self.tag.store((tag & !LEVEL) | level, Relaxed);
        }
    }

    /// The shape of most of its work, if one has most.
    pub(super) fn shape(&self) -> Option<u64> {
        (self.lead.load(Relaxed) > 0).then(|| self.shape.load(Relaxed))
    }

    fn vote(&self, shape: u64, work: u64) {
        let lead = self.lead.load(Relaxed);
        if self.shape.load(Relaxed) == shape {
            self.lead.store(lead.saturating_add(work), Relaxed);
        } else if lead > work {
            self.lead.store(lead - work, Relaxed);
        } else {
            self.shape.store(shape, Relaxed);
            self.lead.store(work - lead, Relaxed);
        }
    }

    /// Halve the lead, so that what was asked for long ago does not outvote the present.
    pub(super) fn age_vote(&self) {
        self.lead.store(self.lead.load(Relaxed) / 2, Relaxed);
    }

    fn saw(&self, instance: u64) {
        let bit = (mix(instance) >> 32) % INSTANCE_BITS;
        let word = &self.instances[(bit / 64) as usize];
        let mask = 1 << (bit % 64);
        if word.load(Relaxed) & mask == 0 {
            word.fetch_or(mask, Relaxed);
        }
    }

    /// How many instances were seen since they were last forgotten: within about a tenth up
    /// to 300, and told apart up to [`MOST_INSTANCES`].
    pub(super) fn instances(&self) -> u32 {
        let seen: u32 = self
            .instances
            .iter()
            .map(|word| word.load(Relaxed).count_ones())
            .sum();
        let all = INSTANCE_BITS as f64;
        let free = (all - f64::from(seen)).max(0.5);
        ((all * (all / free).ln()).round() as u32).min(MOST_INSTANCES)
    }

    pub(super) fn forget_instances(&self) {
        for word in &self.instances {
            word.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{ClassId, Cost};

    fn ask(tenant: u64, shape: u64, work_us: u64) -> Ask {
        Ask {
            class: ClassId(6),
            cost: Cost { work_us, bytes: 0 },
            kind: Kind::Long,
            tenant,
            instance: tenant,
            shape,
        }
    }

    #[test]
    fn tenants_classes_and_kinds_have_accounts_of_their_own() {
        let accounts = Accounts::new();
        let one = ask(1, 0, 10);
        accounts.offered(&one);
        accounts.offered(&ask(2, 0, 10));
        accounts.offered(&Ask {
            class: ClassId(5),
            ..one
        });
        accounts.offered(&Ask {
            kind: Kind::Short,
            ..one
        });
        let owners: Vec<_> = accounts
            .places()
            .iter()
            .filter_map(Account::owner)
            .collect();
        assert_eq!(owners.len(), 4);
        assert!(owners.contains(&Owner {
            tenant: 1,
            class: 5,
            kind: Kind::Long
        }));
    }

    #[test]
    fn what_is_full_counts_newcomers_together_and_forgets_nobody_else() {
        let accounts = Accounts::new();
        for tenant in 0..3 * PLACES as u64 {
            accounts.offered(&ask(tenant, 0, 10));
        }
        let (_, others) = accounts.others.offered.read().since(Default::default());
        let placed: u64 = accounts
            .places()
            .iter()
            .map(|account| account.offered.read().since(Default::default()).1)
            .sum();
        assert_eq!(placed + others, 3 * PLACES as u64);
        assert!(placed > PLACES as u64 * 9 / 10, "{placed}");
    }

    #[test]
    fn the_shape_of_most_of_the_work_wins_the_vote() {
        let accounts = Accounts::new();
        for _ in 0..100 {
            accounts.offered(&ask(1, 7, 10));
            accounts.offered(&ask(1, 8, 100));
            accounts.offered(&ask(1, 9, 10));
        }
        assert_eq!(accounts.find(&ask(1, 0, 0)).shape(), Some(8));
    }

    #[test]
    fn instances_are_estimated_within_a_fifth() {
        for many in [1_u64, 10, 100, 300] {
            let account = Account::default();
            (0..many).for_each(|instance| account.saw(instance));
            let estimate = f64::from(account.instances());
            let error = (estimate - many as f64).abs() / many as f64;
            assert!(error < 0.2, "{many}: {estimate}");
        }
    }

    #[test]
    fn a_closed_account_is_as_new_for_the_next_owner() {
        let accounts = Accounts::new();
        accounts.offered(&ask(1, 7, 10));
        let account = accounts.find(&ask(1, 0, 0));
        account.set_level(90);
        assert_eq!(accounts.level(&ask(1, 0, 0)), 90);
        account.close();
        assert_eq!(account.owner(), None);
        accounts.offered(&ask(1, 7, 10));
        assert_eq!(accounts.level(&ask(1, 0, 0)), 0);
    }
}
