//! What an order keeps away, as it is told of a tenant.

use super::bench::{Bench, ask, excess, settings};
use crate::admission::{Ask, Kind, TenantView};

const AGENT: u64 = 2;
const OTHER: u64 = 1;

fn of(tenant: u64, work_us: u64) -> Ask {
    Ask {
        tenant,
        ..ask(6, Kind::Short, work_us)
    }
}

fn seen(bench: &Bench, tenant: u64) -> TenantView {
    let top = bench.engine.top_tenants(10);
    let found = top.into_iter().find(|view| view.tenant == tenant);
    found.expect("it asks for something")
}

#[test]
fn what_an_order_keeps_away_is_asked_for_and_refused() {
    let mut bench = Bench::new(settings());
    for _ in 0..20 {
        bench.engine.withheld(&of(AGENT, 9_000));
        bench.offer(of(OTHER, 1_000));
        bench.tick(100, &excess(0));
    }
    let (agent, other) = (seen(&bench, AGENT), seen(&bench, OTHER));
    assert_eq!((agent.refused, other.refused), (1.0, 0.0));
    assert!((agent.asked / other.asked - 9.0).abs() < 0.1, "{agent:?}");
    assert!((agent.share - 0.9).abs() < 0.01, "{agent:?}");
    assert!((agent.requests / other.requests - 1.0).abs() < 0.1);
    // Slowed and not blocked: what gets through is no part of the refused.
    for _ in 0..200 {
        bench.engine.withheld(&of(AGENT, 3_000));
        bench.offer(of(AGENT, 1_000));
        bench.permits.clear();
        bench.tick(100, &excess(0));
    }
    let agent = seen(&bench, AGENT);
    assert!((agent.refused - 0.75).abs() < 0.02, "{agent:?}");
    bench.end();
}

#[test]
fn whoever_is_kept_away_is_not_blamed_for_what_the_server_does_meanwhile() {
    let mut bench = Bench::new(settings());
    for _ in 0..80 {
        bench.engine.withheld(&of(AGENT, 900_000));
        bench.offer(of(OTHER, 400_000));
        bench.tick(100, &excess(50));
    }
    let culprit = bench.engine.culprit().expect("an overload");
    assert_eq!(culprit.tenant.tenant, OTHER);
    assert!(culprit.tenant.share > 0.99, "{culprit:?}");
    assert_eq!(seen(&bench, AGENT).refused, 1.0);
    bench.end();
}

#[test]
fn a_tenant_that_is_kept_away_is_forgotten_when_it_asks_no_more() {
    let mut bench = Bench::new(settings());
    for _ in 0..20 {
        bench.engine.withheld(&of(AGENT, 9_000));
        bench.tick(100, &excess(0));
    }
    for _ in 0..70 {
        bench.tick(1_000, &excess(0));
    }
    assert_eq!(bench.engine.top_tenants(10), []);
    bench.end();
}
