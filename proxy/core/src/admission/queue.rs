//! Those who wait, of one class and kind: bounded, and fair by cost between tenants, and between
//! the instances of each tenant.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng 1996), twice: each tenant, and within it each
//! request, is stamped with the virtual time at which what was sent earlier would have been
//! served had all shared the room equally, and the lowest stamp goes first. A tenant that sends
//! a hundred LISTs delays itself, not the tenant that sends one; a pod gone wild delays itself,
//! not its deployment.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Ask;
use crate::time::Time;

/// Position in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    tenant: u64,
    turn: Turn,
}

/// Virtual start time, then order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
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

/// A tenant with somebody waiting.
#[derive(Debug)]
struct Tenant<W> {
    /// Its place among the tenants.
    turn: Turn,
    entries: BTreeMap<Turn, Entry<W>>,
    /// By instance: the virtual time, of this tenant alone, at which what it sent is served.
    finish: HashMap<u64, u64>,
    virtual_time: u64,
    /// Work waiting.
    work: u64,
}

/// A queue; see the module.
#[derive(Debug)]
pub(super) struct Queue<W> {
    tenants: HashMap<u64, Tenant<W>>,
    /// Tenants with somebody waiting, by whose turn it is.
    turns: BTreeSet<(Turn, u64)>,
    /// The same, by the work that waits.
    heaviest: BTreeSet<(u64, u64)>,
    /// All who wait, by arrival: since when, and until when.
    times: BTreeMap<u64, Time>,
    deadlines: BTreeSet<(Time, u64, Place)>,
    /// Tenants of whom nobody waits, but who were served ahead of the virtual time.
    ahead: HashMap<u64, u64>,
    len: usize,
    work: u64,
    virtual_time: u64,
    arrivals: u64,
}

impl<W> Queue<W> {
    pub(super) fn new() -> Self {
        Self {
            tenants: HashMap::new(),
            turns: BTreeSet::new(),
            heaviest: BTreeSet::new(),
            times: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            ahead: HashMap::new(),
            len: 0,
            work: 0,
            virtual_time: 0,
            arrivals: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Work of all who wait, in microseconds.
    #[cfg(test)]
    pub(super) const fn work(&self) -> u64 {
        self.work
    }

    /// When the one who came first of those that wait came.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.times.first_key_value().map(|(_, since)| *since)
    }

    /// Whose turn it is.
    pub(super) fn head(&self) -> Option<&Entry<W>> {
        let (_, tenant) = self.turns.first()?;
        let (_, entry) = self.tenants.get(tenant)?.entries.first_key_value()?;
        Some(entry)
    }

    /// Let a newcomer wait if at most `max_waiting` requests with `max_work` µs wait then,
    /// itself always allowed to be the only one. If that takes others out, they are the
    /// last of whichever tenants have most work waiting; if that is the newcomer's own
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
        while !self.is_empty() && (self.len >= max_waiting || self.work + work > max_work) {
            match self.heaviest.last().copied() {
                Some((most, tenant)) if most > own && tenant != ask.tenant => {
                    displaced.extend(self.take_last_of(tenant));
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
        let entry = Entry {
            ask,
            since,
            deadline,
            waiter: waiter(),
        };
        let place = self.insert(entry);
        self.forget_who_is_ahead(max_waiting);
        Pushed::Waits(place, displaced)
    }

    fn insert(&mut self, entry: Entry<W>) -> Place {
        let Ask {
            tenant: id,
            instance,
            cost,
            ..
        } = entry.ask;
        self.arrivals += 1;
        let arrival = self.arrivals;
        let tenant = self.tenants.entry(id).or_insert_with(|| {
            let finish = self.ahead.remove(&id).unwrap_or(0);
            let turn = Turn {
                start: finish.max(self.virtual_time),
                arrival,
            };
            self.turns.insert((turn, id));
            Tenant {
                turn,
                entries: BTreeMap::new(),
                finish: HashMap::new(),
                virtual_time: 0,
                work: 0,
            }
        });
        let finish = tenant.finish.entry(instance).or_insert(0);
        let start = (*finish).max(tenant.virtual_time);
        *finish = start.saturating_add(cost.work_us);
        let turn = Turn { start, arrival };
        let place = Place { tenant: id, turn };
        self.times.insert(arrival, entry.since);
        self.deadlines.insert((entry.deadline, arrival, place));
        tenant.entries.insert(turn, entry);
        self.heaviest.remove(&(tenant.work, id));
        tenant.work += cost.work_us;
        self.heaviest.insert((tenant.work, id));
        self.work += cost.work_us;
        self.len += 1;
        place
    }

    /// Take out the one whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Entry<W>> {
        let (turn, id) = *self.turns.first()?;
        self.virtual_time = self.virtual_time.max(turn.start);
        let tenant = self.tenants.get_mut(&id)?;
        let (first, entry) = tenant.entries.first_key_value()?;
        let first = *first;
        tenant.virtual_time = tenant.virtual_time.max(first.start);
        self.turns.remove(&(turn, id));
        tenant.turn.start = turn.start.saturating_add(entry.ask.cost.work_us);
        self.turns.insert((tenant.turn, id));
        self.remove(Place {
            tenant: id,
            turn: first,
        })
    }

    /// Take out one that gave up, if it still waits. What it will not be served does not
    /// count against its tenant.
    pub(super) fn remove(&mut self, place: Place) -> Option<Entry<W>> {
        let id = place.tenant;
        let tenant = self.tenants.get_mut(&id)?;
        let entry = tenant.entries.remove(&place.turn)?;
        let arrival = place.turn.arrival;
        self.times.remove(&arrival);
        self.deadlines.remove(&(entry.deadline, arrival, place));
        let work = entry.ask.cost.work_us;
        self.heaviest.remove(&(tenant.work, id));
        tenant.work -= work;
        self.work -= work;
        self.len -= 1;
        if tenant.entries.is_empty() {
            let turn = tenant.turn;
            self.turns.remove(&(turn, id));
            self.tenants.remove(&id);
            if turn.start > self.virtual_time {
                self.ahead.insert(id, turn.start);
            }
        } else {
            self.heaviest.insert((tenant.work, id));
        }
        if self.len == 0 {
            // Nobody waits, so nobody is owed anything: the virtual time has caught up.
            self.ahead.clear();
            self.virtual_time = 0;
        }
        Some(entry)
    }

    /// Take out all whose deadline has passed, in the order they came in: the same every time.
    pub(super) fn expire(&mut self, now: Time) -> Vec<Entry<W>> {
        let late = self.deadlines.iter();
        let mut late: Vec<Place> = late
            .take_while(|(deadline, ..)| *deadline <= now)
            .map(|(_, _, place)| *place)
            .collect();
        late.sort_unstable_by_key(|place| place.turn.arrival);
        late.into_iter()
            .filter_map(|place| self.remove(place))
            .collect()
    }

    /// The one of a tenant whose turn would come last: the latest of the instance that sent most.
    fn take_last_of(&mut self, id: u64) -> Option<Entry<W>> {
        let tenant = self.tenants.get_mut(&id)?;
        let (turn, entry) = tenant.entries.last_key_value()?;
        let (turn, instance, work) = (*turn, entry.ask.instance, entry.ask.cost.work_us);
        if let Some(finish) = tenant.finish.get_mut(&instance) {
            *finish = finish.saturating_sub(work);
        }
        self.remove(Place { tenant: id, turn })
    }

    /// Tenants are remembered after their last request has left only while that still
    /// matters for the order, and never more than twice as many as may wait.
    fn forget_who_is_ahead(&mut self, max_waiting: usize) {
        let most = 2 * max_waiting + 64;
        if self.ahead.len() > most {
            let virtual_time = self.virtual_time;
            self.ahead.retain(|_, finish| *finish > virtual_time);
        }
        if self.ahead.len() > most {
            self.ahead.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cost, Kind};
    use super::*;
    use crate::classify::ClassId;

    fn ask(tenant: u64, work_us: u64) -> Ask {
        Ask {
            class: ClassId(6),
            cost: Cost { work_us, bytes: 0 },
            kind: Kind::Long,
            tenant,
            instance: 0,
            shape: 0,
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
    fn an_instance_gone_wild_delays_itself_and_not_the_others_of_its_tenant() {
        let mut queue = Queue::new();
        let mut wait = |tenant: u64, instance: u64, waiter: u64| {
            let ask = Ask {
                instance,
                ..ask(tenant, 100)
            };
            queue.push(ask, Time(0), Time(9), 10, u64::MAX, || waiter);
        };
        for waiter in 10..13 {
            wait(1, 1, waiter);
        }
        wait(1, 2, 20);
        wait(2, 3, 30);
        assert_eq!(order(&mut queue), [10, 30, 20, 11, 12]);
    }

    #[test]
    fn who_was_served_ahead_of_the_others_stays_behind_them() {
        let mut queue = Queue::new();
        push(&mut queue, 1, 1_000, 10);
        for _ in 0..3 {
            push(&mut queue, 2, 100, 10);
        }
        // Tenant 1 has nobody left waiting, and has had its share for a while.
        assert_eq!(queue.pop().map(|entry| entry.waiter), Some(1));
        push(&mut queue, 1, 100, 10);
        assert_eq!(order(&mut queue), [2, 2, 2, 1]);
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
            assert!(queue.tenants.len() <= 4 && queue.ahead.len() <= 2 * 4 + 65);
        }
    }

    #[test]
    fn only_those_past_their_deadline_expire() {
        let mut queue = Queue::new();
        queue.push(ask(1, 1), Time(0), Time(10), 10, u64::MAX, || 1);
        queue.push(ask(2, 1), Time(5), Time(30), 10, u64::MAX, || 2);
        assert_eq!(queue.oldest(), Some(Time(0)));
        let late: Vec<_> = queue
            .expire(Time(10))
            .into_iter()
            .map(|e| e.waiter)
            .collect();
        assert_eq!(late, [1]);
        assert_eq!(queue.oldest(), Some(Time(5)));
        assert_eq!(order(&mut queue), [2]);
        assert_eq!(queue.work(), 0);
        assert!(queue.heaviest.is_empty() && queue.turns.is_empty() && queue.tenants.is_empty());
        assert!(queue.times.is_empty() && queue.deadlines.is_empty());
    }
}
