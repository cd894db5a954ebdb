//! The end of long-running answers when the process stops: cleanly, and not all at once.
//!
//! A watch never ends by itself. A reflector whose watch ends cleanly resumes from its last resource version; one whose
//! stream is reset or whose connection breaks may LIST anew, and thousands doing so at once is the storm this program is
//! there to prevent. So each worker keeps a list of its long-running answers and ends them one after the other.
//!
//! A reflector also begins anew when a watch ended without an event within its first second (client-go's
//! `VeryShortWatchError`), so the young are left for later.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use tokio::time::Instant;

use super::worker::Load;

/// The long-running answers of one worker.
#[derive(Debug, Default)]
pub(crate) struct Endings {
    slots: RefCell<Slots>,
    /// Where other threads see how many there are.
    load: Arc<Load>,
}

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Debug)]
enum Slot {
    Free,
    Running(Instant, Option<Waker>),
    Ended,
}

/// One long-running answer's place in the list; given up when dropped.
#[derive(Debug)]
pub(crate) struct Ending {
    endings: Rc<Endings>,
    index: usize,
}

impl Endings {
    /// Of a worker, in whose load they are counted.
    pub(crate) fn of(load: &Arc<Load>) -> Self {
        Self {
            slots: RefCell::default(),
            load: Arc::clone(load),
        }
    }

    /// Adds an answer.
    pub(crate) fn add(self: &Rc<Self>) -> Ending {
        self.load.endless.fetch_add(1, Ordering::Relaxed);
        let mut slots = self.slots.borrow_mut();
        let index = match slots.free.pop() {
            Some(index) => index,
            None => {
                slots.slots.push(Slot::Free);
                slots.slots.len() - 1
            }
        };
        if let Some(slot) = slots.slots.get_mut(index) {
            *slot = Slot::Running(Instant::now(), None);
        }
        Ending {
            endings: Rc::clone(self),
            index,
        }
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        let slots = self.slots.borrow();
        slots
            .slots
            .iter()
            .filter(|slot| matches!(slot, Slot::Running(..)))
            .count()
    }

    /// Ends `count` of those that began at or before `latest`.
    pub(crate) fn end(&self, count: usize, latest: Instant) {
        let mut woken = Vec::new();
        let mut slots = self.slots.borrow_mut();
        let old = |slot: &&mut Slot| matches!(slot, Slot::Running(since, _) if *since <= latest);
        for slot in slots.slots.iter_mut().filter(old).take(count) {
            if let Slot::Running(_, Some(waker)) = std::mem::replace(slot, Slot::Ended) {
                woken.push(waker);
            }
        }
        drop(slots);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl Ending {
    /// Whether this answer is to end now; if not, the task is woken when it is.
    pub(crate) fn is_now(&self, cx: &Context<'_>) -> bool {
        let mut slots = self.endings.slots.borrow_mut();
        match slots.slots.get_mut(self.index) {
            Some(Slot::Running(_, waker)) => {
                if !waker
                    .as_ref()
                    .is_some_and(|waker| waker.will_wake(cx.waker()))
                {
                    *waker = Some(cx.waker().clone());
                }
                false
            }
            _ => true,
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.endings.load.endless.fetch_sub(1, Ordering::Relaxed);
        let mut slots = self.endings.slots.borrow_mut();
        if let Some(slot) = slots.slots.get_mut(self.index) {
            *slot = Slot::Free;
            slots.free.push(self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn answers_end_in_portions_and_are_woken() {
        let endings = Rc::new(Endings::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        let all: Vec<_> = (0..10).map(|_| endings.add()).collect();
        assert!(all.iter().all(|ending| !ending.is_now(&cx)));
        endings.end(3, Instant::now());
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
        assert_eq!(all.iter().filter(|ending| ending.is_now(&cx)).count(), 3);
        assert_eq!(endings.running(), 7);
        endings.end(100, Instant::now());
        assert_eq!(count.0.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn the_young_are_left_for_later() {
        let endings = Rc::new(Endings::default());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let cx = Context::from_waker(&waker);
        let old = endings.add();
        let between = Instant::now();
        std::thread::sleep(std::time::Duration::from_millis(1));
        let young = endings.add();
        endings.end(2, between);
        assert!(old.is_now(&cx) && !young.is_now(&cx));
        endings.end(2, Instant::now());
        assert!(young.is_now(&cx));
    }

    #[test]
    fn places_are_used_again() {
        let endings = Rc::new(Endings::default());
        for _ in 0..1000 {
            drop(endings.add());
        }
        assert_eq!(endings.slots.borrow().slots.len(), 1);
    }
}
