//! The end of long-running answers when the process stops: cleanly, and not all at once.
//!
//! A watch never ends by itself. A reflector whose watch ends cleanly resumes from its last resource version; one whose
//! stream is reset or whose connection breaks may LIST anew, and thousands doing so at once is the storm this program is
//! there to prevent. So each worker keeps a list of its long-running answers and ends them one after the other.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Waker};

/// The long-running answers of one worker.
#[derive(Debug, Default)]
pub(crate) struct Endings(RefCell<Slots>);

#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Debug)]
enum Slot {
    Free,
    Running(Option<Waker>),
    Ended,
}

/// One long-running answer's place in the list; given up when dropped.
#[derive(Debug)]
pub(crate) struct Ending {
    endings: Rc<Endings>,
    index: usize,
}

impl Endings {
    /// Adds an answer.
    pub(crate) fn add(self: &Rc<Self>) -> Ending {
        let mut slots = self.0.borrow_mut();
        let index = match slots.free.pop() {
            Some(index) => index,
            None => {
                slots.slots.push(Slot::Free);
                slots.slots.len() - 1
            }
        };
        if let Some(slot) = slots.slots.get_mut(index) {
            *slot = Slot::Running(None);
        }
        Ending {
            endings: Rc::clone(self),
            index,
        }
    }

    /// How many run.
    pub(crate) fn running(&self) -> usize {
        let slots = self.0.borrow();
        slots
            .slots
            .iter()
            .filter(|slot| matches!(slot, Slot::Running(_)))
            .count()
    }

    /// Ends `count` of them, the longest-standing first.
    pub(crate) fn end(&self, count: usize) {
        let mut woken = Vec::new();
        let mut slots = self.0.borrow_mut();
        for slot in slots
            .slots
            .iter_mut()
            .filter(|slot| matches!(slot, Slot::Running(_)))
            .take(count)
        {
            if let Slot::Running(Some(waker)) = std::mem::replace(slot, Slot::Ended) {
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
        let mut slots = self.endings.0.borrow_mut();
        match slots.slots.get_mut(self.index) {
            Some(Slot::Running(waker)) => {
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
        let mut slots = self.endings.0.borrow_mut();
        if let Some(slot) = slots.slots.get_mut(self.index) {
            *slot = Slot::Free;
            slots.free.push(self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
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
        endings.end(3);
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
        assert_eq!(all.iter().filter(|ending| ending.is_now(&cx)).count(), 3);
        assert_eq!(endings.running(), 7);
        endings.end(100);
        assert_eq!(count.0.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn places_are_used_again() {
        let endings = Rc::new(Endings::default());
        for _ in 0..1000 {
            drop(endings.add());
        }
        assert_eq!(endings.0.borrow().slots.len(), 1);
    }
}
