//! Every order in which threads can meet at a table, within loom's bound on preemptions.

use loom::sync::Arc;
use loom::thread;

use super::*;

const NOW: Time = Time::from_millis(1_000);
const WHAT: Bound = Bound::Concurrency;

fn held(table: &Table) -> u64 {
    table.held(WHAT).1
}

/// As a request does: looks up, takes, and looks up again if the account moved meanwhile.
fn hold(table: &Table, key: u64, bound: u32) -> Option<Place> {
    loop {
        let place = table.place(key, NOW);
        match table.take(place, key, WHAT, bound) {
            Ok(()) => return Some(place),
            Err(NotTaken::Full) => return None,
            Err(NotTaken::Moved) => thread::yield_now(),
        }
    }
}

fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

#[test]
fn loom_the_bound_holds_and_nothing_is_lost() {
    model(|| {
        let table = Arc::new(Table::fixed(1));
        let mine = table.place(0, NOW);
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    let got = table.take(mine, 0, WHAT, 1).is_ok();
                    assert!(held(&table) <= 1, "beyond the bound");
                    if got {
                        table.give(mine, WHAT);
                    }
                    got
                })
            })
            .collect();
        let got = table.take(mine, 0, WHAT, 1).is_ok();
        if got {
            table.give(mine, WHAT);
        }
        let others = threads.into_iter().map(|thread| thread.join());
        let others: Vec<_> = others.collect::<Result<_, _>>().expect("no panic");
        assert!(got || others.contains(&true), "somebody must get it");
        assert_eq!(held(&table), 0);
    });
}

#[test]
fn loom_nobody_is_refused_for_somebody_elses_try() {
    model(|| {
        let table = Arc::new(Table::fixed(1));
        let mine = table.place(0, NOW);
        // Two of three places are taken; one of them is given back while two try.
        assert!(table.take(mine, 0, WHAT, 2).is_ok());
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || table.take(mine, 0, WHAT, 2).is_ok())
        };
        let got = table.take(mine, 0, WHAT, 2).is_ok();
        let other = other.join().expect("no panic");
        assert!(got != other, "exactly one of two may have the last");
        assert_eq!(held(&table), 2);
    });
}

#[test]
fn loom_an_account_that_changes_hands_loses_and_doubles_nothing() {
    model(|| {
        // One place for three keys.
        let table = Arc::new(Table::keyed(1));
        let threads: Vec<_> = [1, 2]
            .into_iter()
            .map(|key| {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    if let Some(place) = hold(&table, key, 1) {
                        table.give(place, WHAT);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert_eq!(held(&table), 0);
        assert!(hold(&table, 3, 1).is_some(), "nothing is left behind");
    });
}

#[test]
fn loom_a_key_has_one_account_however_many_open_it() {
    model(|| {
        let table = Arc::new(Table::keyed(2));
        let other = {
            let table = Arc::clone(&table);
            thread::spawn(move || hold(&table, 7, 1).is_some())
        };
        let mine = hold(&table, 7, 1).is_some();
        let other = other.join().expect("no panic");
        assert!(mine != other, "one bound, one holder");
        assert_eq!(held(&table), 1);
    });
}
