//! What the proving ground itself must do, or its numbers mean nothing.

use proving::controllers::Choice;
use proving::run::{Outcome, once};
use proving::scenario::Scenario;

/// Four cores at three times what they can do, all kinds of calls.
const OVERLOAD: &str = "
name: overload
about: three times too much
length: 25s
warm_up: 5s
cluster: {nodes: 200, pods_per_node: 10, everyday: 0.3}
server: {cores: 4}
clients:
- {name: writes, who: {service_account: s/w}, call: PUT /api/v1/namespaces/s/configmaps/b, work: 2ms, demand: {load: 1.5}, patience: none, tenants: 10, culprit: true}
- {name: lists, who: {service_account: s/l}, call: GET /api/v1/pods?resourceVersion=0, work: 100ms, bytes: 8MiB, demand: {load: 1.2}, patience: none, tenants: 10, culprit: true}
expect: {important: 0.99, useful: 0.9}
";

fn overload(choice: Choice, seed: u64) -> Outcome {
    let scenario = Scenario::read("overload", OVERLOAD).unwrap();
    once(&scenario, choice, seed, None).unwrap()
}

fn shed(run: &Outcome) -> u64 {
    run.sum(|_| true, |tally| tally.shed)
}

fn rivals() -> impl Iterator<Item = Choice> {
    Choice::ALL
        .into_iter()
        .chain([Choice::Static(8)])
        .filter(|choice| *choice != Choice::None)
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    for choice in rivals() {
        let run = |seed| format!("{:?}", overload(choice, seed).record);
        let first = run(1);
        assert_eq!(first, run(1), "{choice:?}");
        assert_ne!(first, run(2), "{choice:?}");
    }
}

#[test]
fn every_rival_refuses_in_overload_and_without_control_nobody_is_refused() {
    for choice in rivals() {
        assert!(shed(&overload(choice, 1)) > 100, "{choice:?}");
    }
    assert_eq!(shed(&overload(Choice::None, 1)), 0);
}

#[test]
fn no_controller_gets_more_done_than_the_cores_can_do() {
    for choice in rivals() {
        let run = overload(choice, 1);
        let work = run.sum(|_| true, |tally| tally.work);
        // What was begun before the end of the warm-up may end after it.
        assert!(
            work as f64 <= run.record.capacity as f64 * 1.02,
            "{choice:?}: {work} of {}",
            run.record.capacity
        );
        assert!(
            work as f64 > run.record.capacity as f64 * 0.02,
            "{choice:?}: {work}"
        );
    }
}

#[test]
fn every_call_is_accounted_for() {
    for choice in rivals() {
        let run = overload(choice, 1);
        for (population, tally) in run.populations.iter().zip(&run.record.tallies) {
            assert_eq!(
                tally.calls,
                tally.served + tally.lost + tally.gave_up,
                "{choice:?}: {}",
                population.name
            );
            assert!(tally.in_time <= tally.served && tally.useful <= tally.work);
        }
    }
}

#[test]
fn without_overload_nobody_is_refused_by_the_engine() {
    let calm = OVERLOAD
        .replace("load: 1.5", "load: 0.1")
        .replace("load: 1.2", "load: 0.1");
    let scenario = Scenario::read("calm", &calm).unwrap();
    let run = once(&scenario, Choice::Spillway, 1, None).unwrap();
    assert_eq!((shed(&run), run.record.inversions), (0, [0, 0]));
    assert!(
        run.kept() > 0.999 && run.useful() > 0.99,
        "{} {}",
        run.kept(),
        run.useful()
    );
}

#[test]
fn memory_runs_out_without_control_and_not_with_the_engine() {
    let yaml = "
name: memory
about: two hundred large LISTs at once
length: 40s
cluster: {nodes: 100, pods_per_node: 10, everyday: 0.2}
server: {cores: 8, memory: 8GiB, base: 1GiB}
clients:
- {name: lists, who: {service_account: s/l}, call: GET /api/v1/configmaps?resourceVersion=0, work: 1s, bytes: 100MiB, demand: {again: 10ms}, count: 200, from: 5s, culprit: true}
expect: {}
";
    let scenario = Scenario::read("memory", yaml).unwrap();
    let run = |choice| once(&scenario, choice, 1, None).unwrap().record;
    assert!(run(Choice::None).killed > 0);
    let held = run(Choice::Spillway);
    assert!(
        held.killed == 0 && held.memory < 0.85,
        "{} {}",
        held.killed,
        held.memory
    );
}

#[test]
fn informers_list_again_after_a_crash_and_only_watch_again_after_an_outage() {
    let yaml = |act: &str| {
        format!(
            "
name: informers
about: watches break
length: 40s
server: {{cores: 4}}
clients:
- {{name: agents, who: {{service_account: s/l}}, call: GET /api/v1/pods?resourceVersion=0, work: 10ms, bytes: 1MiB, count: 50, demand: {{informer: {{}}}}}}
events: [{{at: 5s, do: {act}}}]
expect: {{}}
"
        )
    };
    let work = |act: &str| {
        let scenario = Scenario::read("informers", &yaml(act)).unwrap();
        once(&scenario, Choice::None, 1, None)
            .unwrap()
            .sum(|_| true, |tally| tally.work)
    };
    assert_eq!(work("{outage: 3s}"), 50 * 500);
    assert_eq!(
        work("{crash: {}}"),
        50 * (500 + 10_000 + 500),
        "told that it is too old, lists, watches"
    );
}

#[test]
fn negative_controls_fail_where_it_matters_that_the_bounds_move() {
    for name in ["capacity-halved", "whale-attack"] {
        let mut scenario = Scenario::builtin(name).unwrap().unwrap();
        // Enough of it to tell, in a test.
        scenario.length = scenario
            .length
            .min(proving::units::Span(std::time::Duration::from_secs(70)));
        for choice in Choice::NEGATIVE {
            let failures = once(&scenario, choice, 1, None)
                .unwrap()
                .failures(&scenario.expect);
            assert!(
                !failures.is_empty(),
                "{name} is too easy: {choice:?} passes"
            );
        }
    }
}
