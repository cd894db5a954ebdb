//! Those who wait, of one class and kind: bounded, and fair between tenants by cost.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng 1996): each request is stamped with the
//! virtual time at which its tenant's earlier requests would have been served had all
//! waiting tenants shared the room equally, and the lowest stamp goes first. A tenant
//! that sends a hundred LISTs delays itself, not the tenant that sends one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Ask, Cost};
use crate::time::Time;

/// Position in the queue: virtual start time, then order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    start: u64,
    arrival: u64,
}

/// One who waits.
#[derive(Debug)]
pub(super) struct Entry<W> {
    pub(super) ask: Ask,
    pub(super) since: Time,
    pub(super) deadline: Time,
    pub(super) waiter: W,
}

/// What happened to a newcomer that found the queue full or not.
#[derive(Debug)]
pub(super) enum Pushed<W> {
    /// It waits; whoever had to go for it is handed back.
    Waits(Place, Vec<Entry<W>>),
    /// It cannot wait: its own tenant has most of what waits.
    Refused,
}

#[derive(Debug, Default)]
struct Tenant {
    /// Virtual time at which what it has sent so far would be served.
    finish: u64,
    /// Work waiting.
    work: u64,
    /// Requests waiting.
    waiting: usize,
}

/// A queue; see the module.
#[derive(Debug)]
pub(super) struct Queue<W> {
    entries: BTreeMap<Place, Entry<W>>,
    /// The same entries by tenant.
    places: BTreeSet<(u64, Place)>,
    tenants: HashMap<u64, Tenant>,
    /// Tenants with something waiting, by the work of it.
    heaviest: BTreeSet<(u64, u64)>,
    work: u64,
    virtual_time: u64,
    arrivals: u64,
}

impl<W> Queue<W> {
    pub(super) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            places: BTreeSet::new(),
            tenants: HashMap::new(),
            heaviest: BTreeSet::new(),
            work: 0,
            virtual_time: 0,
            arrivals: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Work of all who wait, in microseconds.
    #[cfg(test)]
    pub(super) fn work(&self) -> u64 {
        self.work
    }

    /// When the one who has waited longest came.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.entries.values().map(|entry| entry.since).min()
    }

    /// Whose turn it is.
    pub(super) fn head(&self) -> Option<&Entry<W>> {
        self.entries.first_key_value().map(|(_, entry)| entry)
    }

    /// Let a newcomer wait if at most `max_waiting` requests with `max_work` µs wait then,
    /// itself always allowed to be the only one. If that takes others out, they are the
    /// latest of whichever tenants have most work waiting; if that is the newcomer's own
    /// tenant, the newcomer is refused instead.
    pub(super) fn push(
        &mut self,
        ask: Ask,
        since: Time,
        deadline: Time,
        max_waiting: usize,
        max_work: u64,
        waiter: impl FnOnce() -> W,
    ) -> Pushed<W> {
        let work = ask.cost.work_us;
        let mut displaced = Vec::new();
        let own = self
            .tenants
            .get(&ask.tenant)
            .map_or(0, |tenant| tenant.work)
            + work;
        while !self.is_empty() && (self.len() >= max_waiting || self.work + work > max_work) {
            match self.heaviest.last().copied() {
                Some((most, tenant)) if most > own && tenant != ask.tenant => {
                    displaced.extend(self.take_latest_of(tenant));
                }
                // Displacing some and then refusing the newcomer all the same would help
                // nobody; but each step strictly lightens the heaviest, and the first
                // step decides in all but the rarest case.
                _ if displaced.is_empty() => return Pushed::Refused,
                _ => break,
            }
        }
        if max_waiting == 0 {
            return Pushed::Refused;
        }

        self.arrivals += 1;
        let virtual_time = self.virtual_time;
        let tenant = self.tenants.entry(ask.tenant).or_default();
        let start = tenant.finish.max(virtual_time);
        tenant.finish = start.saturating_add(work);
        let place = Place {
            start,
            arrival: self.arrivals,
        };
        self.heaviest.remove(&(tenant.work, ask.tenant));
        tenant.work += work;
        tenant.waiting += 1;
        self.heaviest.insert((tenant.work, ask.tenant));
        self.work += work;
        self.places.insert((ask.tenant, place));
        self.entries.insert(
            place,
            Entry {
                ask,
                since,
                deadline,
                waiter: waiter(),
            },
        );
        self.forget_idle_tenants(max_waiting);
        Pushed::Waits(place, displaced)
    }

    /// Take out the one whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Entry<W>> {
        let place = *self.entries.first_key_value()?.0;
        self.virtual_time = self.virtual_time.max(place.start);
        self.remove(place)
    }

    /// Take out one that gave up, if it still waits.
    pub(super) fn remove(&mut self, place: Place) -> Option<Entry<W>> {
        let entry = self.entries.remove(&place)?;
        let Ask {
            tenant: id,
            cost: Cost { work_us, .. },
            ..
        } = entry.ask;
        self.places.remove(&(id, place));
        self.work -= work_us;
        if let Some(tenant) = self.tenants.get_mut(&id) {
            self.heaviest.remove(&(tenant.work, id));
            tenant.work -= work_us;
            tenant.waiting -= 1;
            if tenant.waiting > 0 {
                self.heaviest.insert((tenant.work, id));
            }
        }
        if self.entries.is_empty() {
            // Nobody waits, so nobody is owed anything: the virtual time has caught up.
            self.tenants.clear();
            self.virtual_time = 0;
        }
        Some(entry)
    }

    /// Take out all whose deadline has passed.
    pub(super) fn expire(&mut self, now: Time) -> Vec<Entry<W>> {
        let late: Vec<Place> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.deadline <= now)
            .map(|(place, _)| *place)
            .collect();
        late.into_iter()
            .filter_map(|place| self.remove(place))
            .collect()
    }

    fn take_latest_of(&mut self, tenant: u64) -> Option<Entry<W>> {
        let all = (
            tenant,
            Place {
                start: 0,
                arrival: 0,
            },
        )
            ..=(
                tenant,
                Place {
                    start: u64::MAX,
                    arrival: u64::MAX,
                },
            );
        let (_, place) = *self.places.range(all).next_back()?;
        // What it will not be served must not count against its later requests.
        let work = self
            .entries
            .get(&place)
            .map_or(0, |entry| entry.ask.cost.work_us);
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.finish = tenant.finish.saturating_sub(work);
        }
        self.remove(place)
    }

    /// Tenants are remembered after their last request has left only while that still
    /// matters for the order, and never more than twice as many as may wait.
    fn forget_idle_tenants(&mut self, max_waiting: usize) {
        if self.tenants.len() <= 2 * max_waiting + 64 {
            return;
        }
        let virtual_time = self.virtual_time;
        self.tenants
            .retain(|_, tenant| tenant.waiting > 0 || tenant.finish > virtual_time);
        if self.tenants.len() > 2 * max_waiting + 64 {
            self.tenants.retain(|_, tenant| tenant.waiting > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;
    use crate::classify::ClassId;

    fn ask(tenant: u64, work_us: u64) -> Ask {
        Ask {
            class: ClassId(6),
            cost: Cost { work_us, bytes: 0 },
            kind: Kind::Long,
            tenant,
            instance: 0,
        }
    }

    fn push(queue: &mut Queue<u64>, tenant: u64, work: u64, max: usize) -> Pushed<u64> {
        queue.push(
            ask(tenant, work),
            Time(0),
            Time(1_000),
            max,
            u64::MAX,
            || tenant,
        )
    }

    fn order(queue: &mut Queue<u64>) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop().map(|entry| entry.waiter)).collect()
    }

    #[test]
    fn a_tenant_that_sends_many_delays_itself_and_not_the_others() {
        let mut queue = Queue::new();
        for _ in 0..4 {
            push(&mut queue, 1, 100, 10);
        }
        push(&mut queue, 2, 100, 10);
        assert_eq!(order(&mut queue), [1, 2, 1, 1, 1]);
    }

    #[test]
    fn fairness_is_by_cost_and_not_by_count() {
        let mut queue = Queue::new();
        for _ in 0..2 {
            push(&mut queue, 1, 300, 10);
        }
        for _ in 0..3 {
            push(&mut queue, 2, 100, 10);
        }
        assert_eq!(order(&mut queue), [1, 2, 2, 2, 1]);
    }

    #[test]
    fn a_full_queue_sheds_the_latest_of_whoever_has_most_waiting() {
        let mut queue = Queue::new();
        for _ in 0..3 {
            push(&mut queue, 1, 100, 3);
        }
        let Pushed::Waits(_, displaced) = push(&mut queue, 2, 100, 3) else {
            panic!("refused")
        };
        assert_eq!(displaced.len(), 1);
        assert_eq!(displaced[0].ask.tenant, 1);
        assert!(matches!(push(&mut queue, 1, 100, 3), Pushed::Refused));
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn the_work_that_waits_is_bounded_but_one_may_always_wait() {
        let mut queue = Queue::new();
        let wait = |queue: &mut Queue<u64>, tenant| {
            queue.push(ask(tenant, 500), Time(0), Time(9), 10, 400, || tenant)
        };
        assert!(matches!(wait(&mut queue, 1), Pushed::Waits(..)));
        assert!(matches!(wait(&mut queue, 2), Pushed::Refused));
    }

    #[test]
    fn tenants_that_left_are_forgotten() {
        let mut queue = Queue::new();
        push(&mut queue, 0, 1, 4);
        for tenant in 1..10_000 {
            push(&mut queue, tenant, 1_000_000, 4);
            if queue.len() == 4 {
                queue.pop();
            }
            assert!(queue.tenants.len() <= 2 * 4 + 65);
        }
    }

    #[test]
    fn only_those_past_their_deadline_expire() {
        let mut queue = Queue::new();
        queue.push(ask(1, 1), Time(0), Time(10), 10, u64::MAX, || 1);
        queue.push(ask(2, 1), Time(0), Time(30), 10, u64::MAX, || 2);
        let late: Vec<_> = queue
            .expire(Time(10))
            .into_iter()
            .map(|e| e.waiter)
            .collect();
        assert_eq!(late, [1]);
        assert_eq!(order(&mut queue), [2]);
        assert_eq!(queue.work(), 0);
        assert!(queue.heaviest.is_empty() && queue.places.is_empty() && queue.tenants.is_empty());
    }
}
