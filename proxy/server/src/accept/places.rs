//! Bounded places for those who have yet to show something: handshakes under way, and connections on which nobody has yet
//! proved who they are.
//!
//! Whoever opens connections and says nothing holds a place each until a deadline passes. Were newcomers simply refused when
//! all places are taken, a single machine could keep everybody out, the operators of the reserved lane included. So a
//! newcomer gets the place of the oldest of the address that has most of them, if that address has more than the
//! newcomer's, or if it has had time enough: who means it needs milliseconds.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

/// One may be displaced by another from the same address after this.
const TIME_ENOUGH: Duration = Duration::from_millis(500);

/// Room for strangers always, where so many connections are allowed at all.
const FEW_STRANGERS: u64 = 64;

/// How many of a worker's connections may be strangers', when `workers` share `max_connections`: a quarter, so that those
/// who cannot say who they are never fill a lane.
pub(crate) fn max_strangers(max_connections: u64, workers: usize) -> u32 {
    let quarter = max_connections / 4;
    let most = quarter.max(FEW_STRANGERS).min(max_connections / 2);
    let each = most / workers.max(1) as u64;
    u32::try_from(each.max(1)).unwrap_or(u32::MAX)
}

/// The places of one kind of one worker.
#[derive(Debug, Default)]
pub(crate) struct Places(RefCell<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Oldest first, so ordered by number.
    taken: VecDeque<Taken>,
    by_address: HashMap<IpAddr, u32>,
    next: u64,
}

#[derive(Debug)]
struct Taken {
    number: u64,
    address: IpAddr,
    began: Instant,
    task: Option<AbortHandle>,
}

/// A place; given up when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Rc<Places>,
    number: u64,
}

/// What a newcomer was told.
#[derive(Debug)]
pub(crate) enum Entry {
    /// There was room.
    Free(Place),
    /// Another was ended for it.
    Displacing(Place),
    /// There is no room.
    Refused,
}

impl Places {
    /// A place among at most `most` for somebody at `address`.
    pub(crate) fn enter(self: &Rc<Self>, address: IpAddr, most: u32, now: Instant) -> Entry {
        let mut table = self.0.borrow_mut();
        let full = table.taken.len() >= most as usize;
        let displaced = if full {
            match table.least_deserving(address, now) {
                Some(index) => table.remove(index),
                None => return Entry::Refused,
            }
        } else {
            None
        };
        let number = table.next;
        table.next += 1;
        table.taken.push_back(Taken {
            number,
            address,
            began: now,
            task: None,
        });
        *table.by_address.entry(address).or_default() += 1;
        drop(table);
        let place = Place {
            places: Rc::clone(self),
            number,
        };
        match displaced {
            None => Entry::Free(place),
            Some(handshake) => {
                if let Some(task) = handshake.task {
                    task.abort();
                }
                Entry::Displacing(place)
            }
        }
    }

    /// The task that has place `number`, to be ended if that is given to another.
    pub(crate) fn run_by(&self, number: u64, task: AbortHandle) {
        let mut table = self.0.borrow_mut();
        if let Some(index) = table.find(number)
            && let Some(handshake) = table.taken.get_mut(index)
        {
            handshake.task = Some(task);
        }
    }
}

impl Table {
    /// Whose place a newcomer from `address` may have.
    fn least_deserving(&self, address: IpAddr, now: Instant) -> Option<usize> {
        let of = |address: &IpAddr| self.by_address.get(address).copied().unwrap_or_default();
        let most = self.by_address.values().copied().max()?;
        let index = self
            .taken
            .iter()
            .position(|place| of(&place.address) == most)?;
        let oldest = self.taken.get(index)?;
        let may =
            most > of(&address) + 1 || now.saturating_duration_since(oldest.began) >= TIME_ENOUGH;
        may.then_some(index)
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.taken
            .binary_search_by_key(&number, |place| place.number)
            .ok()
    }

    fn remove(&mut self, index: usize) -> Option<Taken> {
        let taken = self.taken.remove(index)?;
        if let Some(count) = self.by_address.get_mut(&taken.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&taken.address);
            }
        }
        Some(taken)
    }
}

impl Place {
    /// The number by which [`Places::run_by`] finds it.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.0.borrow_mut();
        if let Some(index) = table.find(self.number) {
            table.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn entered(entry: Entry) -> Place {
        match entry {
            Entry::Free(place) => place,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn strangers_never_fill_a_lane() {
        for (connections, workers, strangers) in [
            (20_000, 1, 5000),
            (20_000, 8, 625),
            (256, 1, 64),
            (100, 1, 50),
            (16, 4, 2),
            (1, 8, 1),
        ] {
            assert_eq!(
                max_strangers(connections, workers),
                strangers,
                "{connections}"
            );
        }
    }

    #[test]
    fn places_are_given_back() {
        let places = Rc::new(Places::default());
        let now = Instant::now();
        for _ in 0..1000 {
            let one = entered(places.enter(address(1), 2, now));
            let two = entered(places.enter(address(2), 2, now));
            drop((one, two));
        }
        assert!(places.0.borrow().by_address.is_empty());
        assert!(places.0.borrow().taken.is_empty());
    }

    #[test]
    fn a_burst_from_one_address_is_refused_beyond_the_bound() {
        let places = Rc::new(Places::default());
        let now = Instant::now();
        let held: Vec<_> = (0..8)
            .map(|_| entered(places.enter(address(1), 8, now)))
            .collect();
        let soon = now + TIME_ENOUGH / 2;
        assert!(matches!(places.enter(address(1), 8, soon), Entry::Refused));
        drop(held);
    }

    #[tokio::test]
    async fn an_address_that_takes_all_places_makes_room_for_others() {
        let places = Rc::new(Places::default());
        let now = Instant::now();
        let silent = tokio::spawn(std::future::pending::<()>());
        let first = entered(places.enter(address(1), 8, now));
        places.run_by(first.number(), silent.abort_handle());
        let _others: Vec<_> = (0..7)
            .map(|_| entered(places.enter(address(1), 8, now)))
            .collect();
        let newcomer = places.enter(address(2), 8, now);
        assert!(matches!(newcomer, Entry::Displacing(_)), "{newcomer:?}");
        assert!(silent.await.expect_err("ended").is_cancelled());
        assert_eq!(places.0.borrow().taken.len(), 8);
        // What lost its place gives nothing back.
        drop(first);
        assert_eq!(places.0.borrow().taken.len(), 8);
    }

    #[test]
    fn old_handshakes_make_room_even_for_their_own_address() {
        let places = Rc::new(Places::default());
        let now = Instant::now();
        let _held: Vec<_> = (0..8)
            .map(|_| entered(places.enter(address(1), 8, now)))
            .collect();
        let later = now + TIME_ENOUGH;
        assert!(matches!(
            places.enter(address(1), 8, later),
            Entry::Displacing(_)
        ));
    }
}
