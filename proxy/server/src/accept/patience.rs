//! Requests that wait for their own client, who must not keep anything from others meanwhile.
//!
//! An answer nobody reads and a body that never comes to its end hold work of admission although the server has nothing
//! to do. So every request's permit is kept here, and holds no work any more when the client has kept its request waiting
//! for half a second (a short one: as soon as its answer has begun), or for a second altogether: who reads a little now and then does not hold it either. The answer's
//! bytes it holds on to, for the server does too. A client that takes nothing for half a minute loses the request: what is
//! buffered for it takes memory, here and at the server. Together such answers may take only so many bytes; beyond that the
//! one that has waited longest goes.
//!
//! One table per worker, looked through four times a second: nothing is allocated or timed per request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use proxy_core::admission::{Kind, Outcome, Permit};
use proxy_core::time::Time;
use tokio::task::AbortHandle;

/// How often the table is looked through.
pub(crate) const LOOK: Duration = Duration::from_millis(250);
/// A client that keeps its request waiting for longer holds no work with it any more.
const SEAT: Duration = Duration::from_millis(500);
/// Nor one that kept it waiting, again and again, for so long altogether, as far as it is seen.
const SEAT_ALTOGETHER: Duration = Duration::from_secs(1);
/// And longer than this, it loses the request. kube-apiserver gives up on the whole request after 60 s.
const LONGEST: Duration = Duration::from_secs(30);
/// Answers in part unread may be so large together, of one worker, in bytes.
const UNREAD: u64 = 64 << 20;
/// How large an answer of long work is taken to be at least: what nobody reads is never learned.
const LONG: u64 = 4 << 20;
/// And of short work: that much may be buffered for it.
const SHORT: u64 = 256 << 10;

/// The requests of one worker that hold a permit or may be waiting for their client.
#[derive(Debug)]
pub(crate) struct Patience {
    slots: RefCell<Slots>,
    /// As of the last look.
    now: Cell<Time>,
}

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Told apart from who was here before.
    generation: u64,
    permit: Option<Permit>,
    /// The permit is given back then, whoever waits for whom.
    until: Option<Time>,
    /// Since when it has been waiting for its client.
    waits: Option<Time>,
    /// How long it has waited for its client in all: the time between two looks counts if it waits at the second.
    waited: Duration,
    /// What its answer is held to be, while nobody reads it.
    bytes: u64,
    /// Ends the request.
    cut: Option<AbortHandle>,
}

/// One request's place; given up when dropped, and its permit with it.
#[derive(Debug)]
pub(crate) struct Hold {
    patience: Rc<Patience>,
    index: usize,
}

/// The same for those who only know of the request.
#[derive(Debug)]
pub(crate) struct Sight {
    patience: Rc<Patience>,
    index: usize,
    generation: u64,
}

impl Patience {
    /// An empty table.
    pub(crate) fn new(now: Time) -> Self {
        Self {
            slots: RefCell::default(),
            now: Cell::new(now),
        }
    }

    /// Keeps `permit`; `cut` ends the request.
    pub(crate) fn hold(self: &Rc<Self>, permit: Option<Permit>, cut: Option<AbortHandle>) -> Hold {
        let mut slots = self.slots.borrow_mut();
        let index = match slots.free.pop() {
            Some(index) => index,
            None => {
                slots.slots.push(Slot::default());
                slots.slots.len() - 1
            }
        };
        if let Some(slot) = slots.slots.get_mut(index) {
            let bytes = permit.as_ref().map_or(SHORT, |permit| {
                let least = match permit.kind() {
                    Kind::Long => LONG,
                    Kind::Short => SHORT,
                };
                permit.estimate().bytes.max(least)
            });
            *slot = Slot {
                generation: slot.generation + 1,
                permit,
                until: None,
                waits: None,
                waited: Duration::ZERO,
                bytes,
                cut,
            };
        }
        Hold {
            patience: Rc::clone(self),
            index,
        }
    }

    /// Gives back and ends what is due. Returns how many requests were ended.
    pub(crate) fn look(&self, now: Time) -> u64 {
        let passed = now.saturating_since(self.now.replace(now));
        let mut slots = self.slots.borrow_mut();
        let mut unread = 0;
        let mut cut = 0;
        for slot in &mut slots.slots {
            let waited = slot.waits.map(|since| now.saturating_since(since));
            if slot.until.is_some_and(|until| now >= until) {
                slot.until = None;
                if let Some(permit) = slot.permit.take() {
                    permit.finish(Outcome::Served, now);
                }
            }
            if let Some(waited) = waited {
                slot.waited = slot.waited.saturating_add(passed.min(waited));
            }
            let long = waited.is_some_and(|waited| waited >= SEAT);
            if (long || slot.waited >= SEAT_ALTOGETHER)
                && let Some(permit) = &mut slot.permit
                && permit.charged().is_some_and(|charged| charged.work_us > 0)
            {
                permit.rest(now);
            }
            match waited {
                Some(waited) if waited >= LONGEST => cut += slot.end(),
                Some(waited) if waited >= SEAT => unread += slot.bytes,
                _ => {}
            }
        }
        while unread > UNREAD {
            let waiting = slots.slots.iter_mut().filter(|slot| slot.bytes > 0);
            let longest = waiting
                .filter(|slot| {
                    slot.waits
                        .is_some_and(|since| now.saturating_since(since) >= SEAT)
                })
                .min_by_key(|slot| slot.waits);
            let Some(slot) = longest else { break };
            unread = unread.saturating_sub(slot.bytes);
            cut += slot.end();
        }
        cut
    }

    fn with<T>(&self, index: usize, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        self.slots.borrow_mut().slots.get_mut(index).map(change)
    }
}

impl Slot {
    /// Ends the request; how many that were.
    fn end(&mut self) -> u64 {
        self.waits = None;
        self.bytes = 0;
        let Some(cut) = self.cut.take() else { return 0 };
        cut.abort();
        1
    }
}

impl Hold {
    /// Whether it still holds its permit.
    pub(crate) fn is_held(&self) -> bool {
        let held = self.patience.with(self.index, |slot| slot.permit.is_some());
        held.unwrap_or_default()
    }

    /// Something was handed to the client: until the next is asked for, the request waits for it.
    pub(crate) fn waits(&self) {
        let now = self.patience.now.get();
        self.patience.with(self.index, |slot| {
            slot.waits = Some(now);
            // A short answer is made before any of it is sent: from here on nobody but its client keeps it.
            if let Some(permit) = &mut slot.permit
                && permit.kind() == Kind::Short
                && permit.charged().is_some_and(|charged| charged.work_us > 0)
            {
                permit.rest(crate::clock::now());
            }
        });
    }

    /// The request waits for the server.
    pub(crate) fn goes_on(&self) {
        self.patience.with(self.index, |slot| slot.waits = None);
    }

    /// Gives the permit back after `time` at the latest.
    pub(crate) fn at_most(&self, time: Duration) {
        let until = self.patience.now.get() + time;
        self.patience
            .with(self.index, |slot| slot.until = Some(until));
    }

    /// The answer has become as large as this; changes the permit, if there is one, with `change`.
    pub(crate) fn outgrown(&self, bytes: u64, change: impl FnOnce(&mut Permit)) {
        self.patience.with(self.index, |slot| {
            slot.bytes = slot.bytes.max(bytes);
            if let Some(permit) = &mut slot.permit {
                change(permit);
            }
        });
    }

    /// Changes the permit, if it is still there.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Permit)) {
        self.patience.with(self.index, |slot| {
            if let Some(permit) = &mut slot.permit {
                change(permit);
            }
        });
    }

    /// Takes the permit out, if it is still there.
    pub(crate) fn take(&self) -> Option<Permit> {
        self.patience
            .with(self.index, |slot| slot.permit.take())
            .flatten()
    }

    /// For others who know whether the request waits.
    pub(crate) fn sight(&self) -> Sight {
        let generation = self.patience.with(self.index, |slot| slot.generation);
        Sight {
            patience: Rc::clone(&self.patience),
            index: self.index,
            generation: generation.unwrap_or_default(),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let permit = {
            let mut slots = self.patience.slots.borrow_mut();
            slots.free.push(self.index);
            slots.slots.get_mut(self.index).and_then(|slot| {
                slot.cut = None;
                slot.waits = None;
                slot.until = None;
                slot.bytes = 0;
                slot.permit.take()
            })
        };
        // Without the table borrowed: giving back wakes others.
        drop(permit);
    }
}

impl Sight {
    /// The request waits for its client, and has since it first did.
    pub(crate) fn waits(&self) {
        let now = self.patience.now.get();
        self.change(|slot| {
            slot.waits.get_or_insert(now);
        });
    }

    /// The request waits for the server.
    pub(crate) fn goes_on(&self) {
        self.change(|slot| slot.waits = None);
    }

    /// Takes the permit out, if it is still there.
    pub(crate) fn take(&self) -> Option<Permit> {
        let mut permit = None;
        self.change(|slot| permit = slot.permit.take());
        permit
    }

    fn change(&self, change: impl FnOnce(&mut Slot)) {
        self.patience.with(self.index, |slot| {
            if slot.generation == self.generation {
                change(slot);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::admission::{Ask, Cost, Decision, Engine, Mode, Offer, Settings, Wake};
    use proxy_core::classify::ClassId;

    use super::*;

    const START: Time = Time(1_000_000);

    fn patience() -> Rc<Patience> {
        Rc::new(Patience::new(START))
    }

    fn task() -> (tokio::task::JoinHandle<()>, AbortHandle) {
        let task = tokio::spawn(std::future::pending());
        let handle = task.abort_handle();
        (task, handle)
    }

    fn large(hold: &Hold, bytes: u64) {
        hold.outgrown(bytes, |_| {});
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_for_half_a_minute_loses_its_request() {
        let patience = patience();
        let (task, cut) = task();
        let hold = patience.hold(None, Some(cut));
        hold.waits();
        assert_eq!(patience.look(START + LONGEST / 2), 0);
        assert_eq!(patience.look(START + LONGEST), 1);
        assert!(task.await.expect_err("ended").is_cancelled());
        assert_eq!(patience.look(START + LONGEST * 2), 0, "once");
    }

    #[tokio::test]
    async fn a_client_that_takes_something_now_and_then_does_not() {
        let patience = patience();
        let (_task, cut) = task();
        let hold = patience.hold(None, Some(cut));
        for piece in 0..100 {
            hold.waits();
            assert_eq!(patience.look(START + LONGEST / 2 * piece), 0);
        }
    }

    #[derive(Debug)]
    struct Nobody;

    impl Wake for Nobody {
        fn decide(self, _: Decision) {}
    }

    /// A request under way.
    fn permit(kind: Kind) -> Permit {
        let settings = Settings {
            mode: Mode::Enforce,
            ..Settings::default()
        };
        let engine = Engine::new(settings, START);
        let ask = Ask {
            class: ClassId(1),
            cost: Cost {
                work_us: 15_000,
                bytes: 1_000,
            },
            kind,
            tenant: 1,
            instance: 1,
            shape: 1,
        };
        match engine.offer(ask, START, || Nobody) {
            Offer::Admitted(permit) => permit,
            _ => panic!("an empty server"),
        }
    }

    fn holds_work(patience: &Patience) -> bool {
        let slots = patience.slots.borrow();
        let charged = slots.slots[0].permit.as_ref().and_then(Permit::charged);
        charged.is_some_and(|charged| charged.work_us > 0)
    }

    #[test]
    fn a_client_that_reads_a_little_now_and_then_holds_no_work_for_long() {
        let patience = patience();
        let hold = patience.hold(Some(permit(Kind::Long)), None);
        for look in 1..=4 {
            assert!(holds_work(&patience), "look {look}");
            // It took something a moment ago, and has the next before it.
            hold.goes_on();
            hold.waits();
            patience.look(START + LOOK * look);
        }
        assert!(!holds_work(&patience));
    }

    #[test]
    fn a_short_answer_that_has_begun_holds_no_work() {
        let patience = patience();
        let hold = patience.hold(Some(permit(Kind::Short)), None);
        assert!(holds_work(&patience));
        hold.waits();
        assert!(!holds_work(&patience));
    }

    #[test]
    fn a_client_that_keeps_up_with_the_server_holds_its_work_for_as_long_as_it_takes() {
        let patience = patience();
        let hold = patience.hold(Some(permit(Kind::Long)), None);
        for look in 1..=100 {
            hold.waits();
            hold.goes_on();
            patience.look(START + LOOK * look);
        }
        assert!(holds_work(&patience));
    }

    #[tokio::test]
    async fn a_slow_server_is_not_the_clients_fault() {
        let patience = patience();
        let (_task, cut) = task();
        let hold = patience.hold(None, Some(cut));
        hold.waits();
        hold.goes_on();
        assert_eq!(patience.look(START + LONGEST * 10), 0);
    }

    #[tokio::test]
    async fn of_unread_answers_beyond_the_bound_the_oldest_go() {
        let patience = patience();
        let mut all = Vec::new();
        for number in 0..4_u32 {
            assert_eq!(patience.look(START + LOOK * number), 0);
            let (task, cut) = task();
            let hold = patience.hold(None, Some(cut));
            large(&hold, UNREAD / 3 + 1);
            hold.waits();
            all.push((hold, task));
        }
        // Two of them have waited long enough to count, which is not too much; then three, which is.
        assert_eq!(patience.look(START + SEAT + LOOK), 0);
        assert_eq!(patience.look(START + SEAT + LOOK * 2), 1);
        tokio::task::yield_now().await;
        let ended: Vec<bool> = all.iter().map(|(_, task)| task.is_finished()).collect();
        assert_eq!(ended, [true, false, false, false]);
    }

    #[tokio::test]
    async fn who_takes_a_place_over_is_not_confused_with_who_had_it() {
        let patience = patience();
        let (_first, cut) = task();
        let hold = patience.hold(None, Some(cut));
        let sight = hold.sight();
        drop(hold);
        let (_second, cut) = task();
        let _hold = patience.hold(None, Some(cut));
        sight.waits();
        assert_eq!(patience.look(START + LONGEST * 2), 0);
        assert_eq!(patience.slots.borrow().slots.len(), 1);
    }
}
