use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::attributes::parse;

const LIST: &str = "/api/v1/pods";
const WATCH: &str = "/api/v1/pods?watch=1&resourceVersion=7";
const INITIAL: &str = "/api/v1/pods?watch=1";
const EXEC: &str = "/api/v1/namespaces/a/pods/b/exec";
const BULK: ClassId = ClassId::BULK;

fn limit(name: &str, per: Per) -> LimitSpec {
    LimitSpec {
        name: name.into(),
        per,
        ..LimitSpec::default()
    }
}

fn bounded(name: &str, per: Per, bound: Bound, most: u32) -> LimitSpec {
    let mut limit = limit(name, per);
    limit.bounds[bound as usize] = Some(most);
    limit
}

fn limits(specs: Vec<LimitSpec>) -> Arc<Limits> {
    Arc::new(Limits::compile(specs, None).expect("limits that compile"))
}

fn account(name: &str) -> Identity {
    Identity::service_account("telemetry", name, None, None, None)
}

fn ask_as(
    limits: &Arc<Limits>,
    identity: &Identity,
    target: &str,
    class: ClassId,
    now: Time,
) -> Result<Leases, Exceeded> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let attributes = parse("GET", path, Some(query), None).expect("a request");
    let asked = Asked {
        attributes: &attributes,
        identity,
        client: Client {
            user_agent: None,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        },
        class,
        instance: identity.instance(1),
        work: Duration::from_millis(500),
    };
    limits.take(&asked, now)
}

fn ask(limits: &Arc<Limits>, who: &str, target: &str) -> Result<Leases, Exceeded> {
    ask_as(limits, &account(who), target, BULK, Time(1_000_000))
}

fn all(limits: &Limits) -> u64 {
    limits.in_use().map(|used| used.all).sum()
}

#[test]
fn without_limits_nothing_is_held() {
    let limits = limits(Vec::new());
    assert!(ask(&limits, "a", LIST).expect("no limit").is_empty());
}

#[test]
fn each_tenant_has_its_own_bound_and_a_rule_one_for_all() {
    let limits = limits(vec![
        bounded("own", Per::Tenant, Bound::Concurrency, 1),
        bounded("all", Per::Rule, Bound::Concurrency, 2),
    ]);
    let first = ask(&limits, "a", LIST).expect("the first of a");
    let second = ask(&limits, "a", LIST).expect_err("the second of a");
    assert_eq!(
        (limits.name(second.limit), second.why),
        ("own", Why::Bound(Bound::Concurrency))
    );
    let other = ask(&limits, "b", LIST).expect("the first of b");
    let third = ask(&limits, "c", LIST).expect_err("the third of all");
    assert_eq!(limits.name(third.limit), "all");
    // What was taken from the first limit before the second refused is given back.
    assert_eq!(all(&limits), 4);
    drop((first, other));
    assert_eq!(all(&limits), 0);
    let _again = ask(&limits, "c", LIST).expect("room again");
}

#[test]
fn each_class_has_its_own_bound() {
    let limits = limits(vec![bounded("c", Per::Class, Bound::Concurrency, 1)]);
    let now = Time(1);
    let _bulk = ask_as(&limits, &account("a"), LIST, BULK, now).expect("bulk");
    assert!(ask_as(&limits, &account("b"), LIST, BULK, now).is_err());
    let reads = ask_as(&limits, &account("b"), LIST, ClassId::WORKLOAD_READS, now);
    assert!(reads.is_ok());
}

#[test]
fn nobody_is_exempt_and_only_life_signs_have_to_be_named() {
    let admin = Identity::certificate("admin", vec!["system:masters".into()], None, Vec::new());
    let life = limits(vec![bounded("l", Per::Rule, Bound::Concurrency, 0)]);
    let now = Time(1);
    for class in 1..16 {
        let refused = ask_as(&life, &admin, LIST, ClassId(class), now);
        assert!(refused.is_err(), "class {class}");
    }
    assert!(ask_as(&life, &admin, LIST, ClassId::LIFE_SIGNS, now).is_ok());
    let named = limits(vec![LimitSpec {
        class: Some(ClassId::LIFE_SIGNS),
        ..bounded("l", Per::Rule, Bound::Concurrency, 0)
    }]);
    assert!(ask_as(&named, &admin, LIST, ClassId::LIFE_SIGNS, now).is_err());
    assert!(ask_as(&named, &admin, LIST, BULK, now).is_ok());
}

#[test]
fn watches_and_sessions_are_counted_apart_from_what_ends_by_itself() {
    let limits = limits(vec![LimitSpec {
        bounds: [Some(1), Some(1), Some(1)],
        ..limit("l", Per::Tenant)
    }]);
    let _list = ask(&limits, "a", LIST).expect("a list");
    let _watch = ask(&limits, "a", WATCH).expect("a watch");
    let _session = ask(&limits, "a", EXEC).expect("a session");
    for (target, what) in [
        (LIST, Bound::Concurrency),
        (WATCH, Bound::Watches),
        (EXEC, Bound::Sessions),
    ] {
        let refused = ask(&limits, "a", target).expect_err("a second one");
        assert_eq!(refused.why, Why::Bound(what));
    }
}

#[test]
fn a_watch_is_a_list_until_it_has_sent_the_state() {
    let limits = limits(vec![LimitSpec {
        bounds: [Some(1), Some(5), None],
        ..limit("l", Per::Tenant)
    }]);
    let mut watch = ask(&limits, "a", INITIAL).expect("a watch");
    assert!(ask(&limits, "a", LIST).is_err());
    watch.delivered();
    let _list = ask(&limits, "a", LIST).expect("room for a list");
    let watches = limits.in_use().find(|used| used.what == Bound::Watches);
    assert_eq!(watches.map(|used| used.all), Some(1));
}

#[test]
fn a_rate_says_when_to_come_back_and_takes_no_token_for_what_another_refuses() {
    let rate = |count| Some(Rate::new(count, Duration::from_secs(1), 1));
    let limits = limits(vec![
        LimitSpec {
            rate: rate(1),
            ..limit("tenant", Per::Tenant)
        },
        LimitSpec {
            rate: rate(2),
            ..limit("all", Per::Rule)
        },
    ]);
    let at = |who: &str, ms| ask_as(&limits, &account(who), LIST, BULK, Time::from_millis(ms));
    assert!(at("a", 10_000).is_ok());
    let early = at("b", 10_000).expect_err("the second of all in half a second");
    assert_eq!(limits.name(early.limit), "all");
    assert_eq!(early.why, Why::Rate(Duration::from_millis(500)));
    assert!(at("b", 10_500).is_ok(), "b's own token was given back");
    let soon = at("a", 10_500).expect_err("a's second within a second");
    assert_eq!(limits.name(soon.limit), "tenant");
}

#[test]
fn a_budget_of_server_time_is_overdrawn_once_and_paid_back() {
    let limits = limits(vec![LimitSpec {
        server_time: Some(Duration::from_millis(100)),
        rate: Some(Rate::new(1_000, Duration::from_secs(1), 1_000)),
        ..limit("budget", Per::Tenant)
    }]);
    assert!(limits.want_work());
    let at = |who: &str, ms| ask_as(&limits, &account(who), LIST, BULK, Time::from_millis(ms));
    // Each takes 500 ms: five seconds of the budget.
    assert!(at("a", 10_000).is_ok());
    let early = at("a", 10_000).expect_err("overdrawn");
    assert_eq!(early.why, Why::Time(Duration::from_secs(4)));
    assert!(
        at("b", 10_000).is_ok(),
        "everybody has a budget of their own"
    );
    assert!(at("a", 14_000).is_ok(), "all but a second is paid back");
    assert!(at("a", 18_999).is_err());
    assert!(at("a", 19_000).is_ok());
    // In the long run no more than the budget.
    let begun = (0..1_000).filter(|tenth| at("c", 100_000 + 100 * tenth).is_ok());
    assert!((20..=21).contains(&begun.count()), "20 × 500 ms in 100 s");
}

#[test]
fn a_denied_shape_is_denied_before_anything_is_taken() {
    let mut deny = limit("no-full-lists", Per::Rule);
    deny.deny = true;
    deny.when.verbs = vec!["list".to_owned()];
    deny.when.scopes = vec!["cluster".to_owned()];
    deny.when.shapes = vec!["unlimited".to_owned(), "!any-version".to_owned()];
    let limits = limits(vec![bounded("l", Per::Rule, Bound::Concurrency, 9), deny]);
    let refused = ask(&limits, "a", LIST).expect_err("a full list");
    assert_eq!(
        (limits.name(refused.limit), refused.why),
        ("no-full-lists", Why::Denied)
    );
    assert_eq!(all(&limits), 0);
    for allowed in [
        "/api/v1/pods?limit=500",
        "/api/v1/pods?resourceVersion=0",
        "/api/v1/namespaces/a/pods",
        "/api/v1/pods?limit=500&continue=x",
    ] {
        assert!(ask(&limits, "a", allowed).is_ok(), "{allowed}");
    }
}

#[test]
fn a_reload_keeps_the_count_of_what_runs() {
    let before = limits(vec![
        bounded("kept", Per::Tenant, Bound::Concurrency, 2),
        bounded("gone", Per::Rule, Bound::Concurrency, 5),
        bounded("other", Per::Rule, Bound::Concurrency, 5),
    ]);
    let running = ask(&before, "a", LIST).expect("room");
    let specs = vec![
        bounded("other", Per::Class, Bound::Concurrency, 1),
        bounded("kept", Per::Tenant, Bound::Concurrency, 1),
    ];
    let after = Arc::new(Limits::compile(specs, Some(&before)).expect("limits"));
    let refused = ask(&after, "a", LIST).expect_err("the one before the reload still runs");
    assert_eq!(after.name(refused.limit), "kept");
    drop(running);
    assert_eq!((all(&before), all(&after)), (0, 0));
    assert!(ask(&after, "a", LIST).is_ok());
}

#[test]
fn more_limits_than_few_are_all_held_and_all_given_back() {
    let specs = (0..20).map(|n| bounded(&format!("l{n}"), Per::Rule, Bound::Concurrency, 1));
    let limits = limits(specs.collect());
    let leases = ask(&limits, "a", LIST).expect("room");
    assert_eq!(all(&limits), 20);
    drop(leases);
    assert_eq!(all(&limits), 0);
}

#[test]
fn there_is_a_most_of_limits() {
    let specs = (0..=MAX_LIMITS).map(|n| limit(&format!("l{n}"), Per::Rule));
    assert!(Limits::compile(specs.collect(), None).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Ask {
        who: u8,
        what: u8,
        class: u8,
    },
    /// Finished, cancelled, timed out: for limits all the same.
    End(usize),
    Deliver(usize),
    Reload(u32),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..6_u8, 0..4_u8, 0..8_u8).prop_map(|(who, what, class)| Step::Ask { who, what, class }),
        3 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::Deliver),
        1 => (0..5_u32).prop_map(Step::Reload),
        1 => (0..2_000_000_u64).prop_map(Step::Pass),
    ]
}

fn some(most: u32) -> Vec<LimitSpec> {
    vec![
        LimitSpec {
            bounds: [Some(most), Some(2), Some(1)],
            ..limit("tenant", Per::Tenant)
        },
        LimitSpec {
            bounds: [Some(4), Some(most), None],
            rate: Some(Rate::new(20, Duration::from_secs(1), 9)),
            ..limit("all", Per::Rule)
        },
        bounded("class", Per::Class, Bound::Concurrency, 3),
        bounded("instance", Per::Instance, Bound::Sessions, most),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_lease_is_lost_or_doubled_whatever_happens(steps in prop::collection::vec(step(), 1..200)) {
        let mut limits = limits(some(2));
        let mut running: Vec<Leases> = Vec::new();
        let mut now = Time(1_000_000);
        for step in steps {
            match step {
                Step::Ask { who, what, class } => {
                    let target = [LIST, WATCH, INITIAL, EXEC][usize::from(what)];
                    let who = account(&who.to_string());
                    if let Ok(leases) = ask_as(&limits, &who, target, ClassId(class), now) {
                        running.push(leases);
                    }
                }
                Step::End(at) if !running.is_empty() => drop(running.swap_remove(at % running.len())),
                Step::Deliver(at) if !running.is_empty() => {
                    let at = at % running.len();
                    running[at].delivered();
                }
                Step::End(_) | Step::Deliver(_) => {}
                Step::Reload(most) => {
                    let next = Limits::compile(some(most), Some(&limits)).expect("limits");
                    limits = Arc::new(next);
                }
                Step::Pass(micros) => now += Duration::from_micros(micros),
            }
            // Every lease held is in a count, and every count is a lease.
            let held: u64 = running.iter().map(|leases| leases.len() as u64).sum();
            prop_assert_eq!(all(&limits), held);
        }
        drop(running);
        prop_assert_eq!(all(&limits), 0);
    }

    /// With threads, as it is in the proxy.
    #[test]
    fn bounds_hold_between_threads(bound in 1_u32..4) {
        let limits = limits(vec![bounded("l", Per::Tenant, Bound::Concurrency, bound)]);
        let highest = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| {
                (0..50).map(|_| {
                    let leases = ask(&limits, "a", LIST);
                    let most = limits.in_use().map(|used| used.most).max().unwrap_or(0);
                    drop(leases);
                    most
                }).max().unwrap_or(0)
            })).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).max()
        });
        prop_assert!(highest <= Some(bound));
        prop_assert_eq!(all(&limits), 0);
    }
}
