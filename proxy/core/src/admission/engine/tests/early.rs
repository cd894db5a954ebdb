//! Who comes back before it was told to.

use std::time::Duration;

use super::bench::{Bench, ask, excess, settings};
use crate::admission::{Ask, Kind, Offer, Outcome, Shed, returns};

/// Two tenants of a class that is wanted more than it can be served: one asks for five seconds of the server a second, the
/// other for ten milliseconds; both were told to stay away for ten seconds.
fn pressed() -> (Bench, Ask, Ask) {
    let mut bench = Bench::new(settings());
    let greedy = ask(4, Kind::Short, 50_000);
    let small = Ask {
        tenant: 2,
        instance: 2,
        ..ask(4, Kind::Short, 1_000)
    };
    for _ in 0..30 {
        for _ in 0..10 {
            bench.offer(greedy);
        }
        bench.offer(small);
        bench.tick(100, &excess(15));
        // The server does a fifth of what is asked of it.
        let done = bench.permits.len().min(2);
        for permit in bench.permits.drain(..done) {
            permit.finish(Outcome::Served, bench.now);
        }
        bench.read();
    }
    while bench.offer(greedy) == "admitted" {}
    for told in [&greedy, &small] {
        let until = bench.now + Duration::from_secs(10);
        let returns = &bench.inner().front.returns;
        returns.expect(returns::client(told), until);
    }
    (bench, greedy, small)
}

fn refused(bench: &mut Bench, ask: Ask) -> Option<Shed> {
    let inbox = bench.inbox.clone();
    let waiter = || super::bench::Waiter {
        id: usize::MAX,
        inbox,
    };
    match bench.engine.offer(ask, bench.now, waiter) {
        Offer::Shed(refusal) => Some(refusal.shed),
        Offer::Admitted(_) | Offer::Waiting(_) => None,
    }
}

#[test]
fn whoever_asks_for_more_than_an_equal_share_and_comes_back_early_is_refused() {
    let (mut bench, greedy, _) = pressed();
    assert_eq!(refused(&mut bench, greedy), Some(Shed::Early));
}

#[test]
fn a_small_tenant_that_asks_for_several_things_at_once_is_not_kept_out_for_one_refusal() {
    let (mut bench, _, small) = pressed();
    assert_eq!(refused(&mut bench, small), None);
}

#[test]
fn a_list_is_not_sent_away_for_coming_early_before_others_have_waited_for_a_while() {
    let mut bench = Bench::new(settings());
    let greedy = ask(6, Kind::Long, 500_000);
    let small = Ask {
        tenant: 2,
        instance: 2,
        ..ask(6, Kind::Long, 20_000)
    };
    for _ in 0..150 {
        bench.offer(greedy);
        bench.offer(small);
        bench.tick(100, &excess(15));
    }
    // Who waited was told to come back, and only one who came since then waits.
    bench.tick(2_100, &excess(15));
    assert!(bench.tickets.is_empty());
    bench.tick(100, &excess(15));
    let until = bench.now + Duration::from_secs(10);
    let returns = &bench.inner().front.returns;
    returns.expect(returns::client(&greedy), until);
    assert_eq!(bench.offer(small), "waiting");
    for _ in 0..10 {
        assert_eq!(refused(&mut bench, greedy), None, "it may be a burst");
        bench.tick(100, &excess(15));
    }
    assert_eq!(refused(&mut bench, greedy), Some(Shed::Early));
}
