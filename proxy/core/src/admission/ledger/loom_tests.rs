//! What `ledger.rs` claims about its orderings, in every order in which threads can meet.

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::thread;

use super::*;

fn ledger(ceiling: u64) -> Ledger {
    let ledger = Ledger::new();
    for class in 0..MAX_CLASSES {
        ledger.set_ceiling(class, ceiling);
    }
    ledger
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // A look at all classes is thirty loads; more preemptions take hours.
    builder.preemption_bound = Some(2);
    builder.check(test);
}

#[test]
fn loom_two_classes_that_do_not_fit_together_never_both_run() {
    model(|| {
        let ledger = Arc::new(ledger(13));
        // Each has one running: the first of a class may exceed the ceiling on purpose.
        assert!(ledger.try_add(0, 1).is_ok() && ledger.try_add(1, 1).is_ok());
        let other = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || ledger.try_add(0, 6).is_ok())
        };
        let mine = ledger.try_add(1, 6).is_ok();
        let other = other.join().expect("no panic");
        let running = u64::from(mine) + u64::from(other);
        assert_eq!(
            ledger.total(),
            (2 + 6 * running, 2 + running),
            "lost or doubled"
        );
        assert!(!(mine && other), "a ceiling was exceeded by a race");
    });
}

#[test]
fn loom_who_waits_is_seen_by_who_makes_room() {
    model(|| {
        let ledger = Arc::new(ledger(10));
        let flag = Arc::new(AtomicBool::new(false));
        assert!(ledger.try_add(0, 10).is_ok());
        let finishing = {
            let (ledger, flag) = (Arc::clone(&ledger), Arc::clone(&flag));
            thread::spawn(move || {
                ledger.take(0, 10);
                flag.load(SeqCst)
            })
        };
        // The waiter: raises its flag, then looks a last time.
        flag.store(true, SeqCst);
        let found_room = ledger.try_add(0, 10).is_ok();
        let woken = finishing.join().expect("no panic");
        assert!(found_room || woken, "it would wait for ever");
    });
}

#[test]
fn loom_finish_and_true_up_meet_without_loss() {
    model(|| {
        let ledger = Arc::new(ledger(100));
        assert!(ledger.try_add(0, 10).is_ok());
        assert!(ledger.try_add(0, 20).is_ok());
        let other = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || {
                ledger.adjust(0, 10, 35);
                ledger.take(0, 35);
            })
        };
        ledger.adjust(0, 20, 5);
        ledger.take(0, 5);
        other.join().expect("no panic");
        assert_eq!(ledger.total(), (0, 0));
    });
}
