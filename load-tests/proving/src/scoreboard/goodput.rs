//! Rows 1 and 11: how much useful work gets done, beside the best static limit.

use super::{Effort, Figure, Measured, scenario};
use crate::controllers::Choice;
use crate::run::{once, several};
use crate::scenario::{Scenario, WrongScenario};

/// Static limits tried, per core.
const PER_CORE: [f64; 9] = [0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 25.0, 60.0];
const CORES: usize = 4;

/// The mix of row 1 at `load` times what the server can do: three tenths everyday calls of all classes, and the rest in equal
/// parts writes of 2 ms, namespaced LISTs of 10 ms and LISTs of 200 ms in the mean. No repetitions: what is offered stays
/// what it is.
fn mix(load: f64) -> Result<Scenario, WrongScenario> {
    let third = (load - 0.3) / 3.0;
    scenario(&format!(
        "
length: 40s
warm_up: 15s
server: {{cores: {CORES}, memory: 64GiB}}
clients:
- {{name: leases, who: node, call: PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n, work: 1ms, demand: {{load: 0.02}}, patience: none}}
- {{name: control, who: {{user: 'system:kube-scheduler'}}, call: POST /api/v1/namespaces/a/pods/b/binding, work: 2ms, demand: {{load: 0.06}}, patience: none}}
- {{name: people, who: {{user: alice}}, call: GET /api/v1/namespaces/a/pods/b, work: 2ms, demand: {{load: 0.02}}, patience: none}}
- {{name: kubelets, who: node, call: GET /api/v1/namespaces/a/configmaps/b, work: 1ms, demand: {{load: 0.08}}, patience: none, count: 500}}
- {{name: few-writes, who: {{service_account: a/b}}, call: PUT /api/v1/namespaces/a/configmaps/b, work: 2ms, demand: {{load: 0.07}}, patience: none}}
- {{name: few-reads, who: {{service_account: a/b}}, call: GET /api/v1/namespaces/a/pods?resourceVersion=0, work: 10ms, bytes: 600KiB, demand: {{load: 0.05}}, patience: none}}
- {{name: writes, who: {{service_account: s/w}}, call: PUT /api/v1/namespaces/s/configmaps/b, work: 2ms, demand: {{load: {third}}}, patience: none, tenants: 20, culprit: true}}
- {{name: reads, who: {{service_account: s/r}}, call: GET /api/v1/namespaces/s/pods?resourceVersion=0, work: 10ms, bytes: 600KiB, demand: {{load: {third}}}, patience: none, tenants: 20, culprit: true}}
- {{name: lists, who: {{service_account: s/l}}, call: GET /api/v1/pods?resourceVersion=0, work: 200ms, bytes: 14MiB, spread: exponential, demand: {{load: {third}}}, patience: none, tenants: 20, culprit: true}}
"
    ))
}

/// Useful work of a choice, of what the server can do, by seed.
fn useful(scenario: &Scenario, choice: Choice, seeds: u64) -> Result<Vec<f64>, WrongScenario> {
    several(seeds as usize, |nth| {
        let run = once(scenario, choice, nth as u64 + 1, Some(1_000_000))?;
        Ok(run.sum(|_| true, |tally| tally.useful) as f64 / run.record.capacity.max(1) as f64)
    })
    .into_iter()
    .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The best static limit, with a queue or without: which, and its useful work in the mean of the seeds.
fn best_static(scenario: &Scenario, seeds: u64) -> Result<(String, f64), WrongScenario> {
    let cores = scenario.server.cores as f64;
    let limits = PER_CORE
        .iter()
        .map(|each| ((each * cores).ceil() as u32).max(1));
    let choices: Vec<Choice> = limits
        .flat_map(|limit| [Choice::Static(limit), Choice::Bare(limit)])
        .collect();
    let seeds = seeds.max(1) as usize;
    let results = several(choices.len() * seeds, |nth| {
        let run = once(
            scenario,
            choices[nth / seeds],
            (nth % seeds) as u64 + 1,
            Some(1_000_000),
        )?;
        let useful = run.sum(|_| true, |tally| tally.useful);
        Ok(useful as f64 / run.record.capacity.max(1) as f64)
    });
    let results: Vec<f64> = results.into_iter().collect::<Result<_, WrongScenario>>()?;
    let means = results.chunks(seeds).map(mean);
    let best = choices.iter().zip(means).max_by(|a, b| a.1.total_cmp(&b.1));
    Ok(best.map_or_else(
        || (String::new(), 0.0),
        |(choice, useful)| (choice.name(), useful),
    ))
}

/// Row 1.
pub(super) fn loads(effort: &Effort) -> Measured {
    let loads: &[f64] = if effort.quick {
        &[1.0, 2.0, 10.0, 50.0]
    } else {
        &[1.0, 1.2, 1.4, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0, 50.0]
    };
    let rivals = [
        Choice::Dagor,
        Choice::Gradient2,
        Choice::Envoy,
        Choice::Pid,
        Choice::Codel,
        Choice::Apf,
        Choice::None,
    ];
    let mut figures = Vec::new();
    let mut remarks = vec![format!(
        "{CORES} cores, open loop, nobody repeats; 30 % everyday calls of classes 0 to 5, the rest in equal parts writes of 2 ms, LISTs \
         of 10 ms in a namespace and LISTs of 200 ms (exponential). Best static: the best of {} limits for each load, each with a queue (250 ms, 2 s) and bare, first come, \
         first served; it has no priorities, and loses everyday calls like all others.",
        PER_CORE.len()
    )];
    for load in loads {
        let scenario = mix(*load)?;
        let (limit, best) = best_static(&scenario, effort.seeds.min(3))?;
        let ours: Vec<f64> = useful(&scenario, Choice::Spillway, effort.seeds)?
            .iter()
            .map(|value| value / best)
            .collect();
        let figure = Figure::new(format!("{load}×"), &ours, 100.0, 1, " %");
        figures.push(match load {
            load if *load <= 10.0 => figure.at_least(0.98, "98 %"),
            load if *load >= 50.0 => figure.at_least(0.95, "95 %"),
            _ => figure,
        });
        let mut others = Vec::new();
        for rival in rivals {
            let value = mean(&useful(&scenario, rival, 1)?) / best;
            others.push(format!("{} {:.0} %", rival.name(), value * 100.0));
        }
        remarks.push(format!(
            "at {load}× the best static limit is {limit} ({:.1} % of the server); beside it: {} (one seed)",
            best * 100.0,
            others.join(", ")
        ));
    }
    Ok((figures, remarks))
}

/// One cell of row 11: twice what the server can do, all of it alike.
fn alike(cores: usize, work_ms: f64) -> Result<Scenario, WrongScenario> {
    let (call, kind) = if work_ms < 50.0 {
        ("PUT /api/v1/namespaces/a/configmaps/b", "bytes: 4KiB")
    } else {
        ("GET /api/v1/configmaps?resourceVersion=0", "bytes: 1MiB")
    };
    let in_time = (work_ms * 10.0).max(if work_ms < 50.0 { 1_000.0 } else { 10_000.0 });
    let gives_up = in_time * 2.0;
    // Long work earns its breadth one by one.
    let (warm, long) = if work_ms < 50.0 {
        (10.0, 20.0)
    } else {
        // Two hundred of them per core, so that the first and the last do not decide.
        (30.0 + cores as f64 * 2.0, 40.0 + work_ms / 5.0)
    };
    let length = warm + long;
    scenario(&format!(
        "
length: {length}s
warm_up: {warm}s
server: {{cores: {cores}, memory: 256GiB, writes_per_second: 1000000}}
clients:
- {{name: all, who: {{service_account: a/b}}, call: '{call}', work: {work_ms}ms, {kind}, demand: {{load: 2}}, patience: none, tenants: 20, in_time: {in_time}ms, gives_up: {gives_up}ms}}
"
    ))
}

/// Row 11.
pub(super) fn no_tuning(effort: &Effort) -> Measured {
    let (cores, works): (&[usize], &[f64]) = if effort.quick {
        (&[1, 16, 64], &[1.0, 100.0, 10_000.0])
    } else {
        (&[1, 4, 16, 64], &[1.0, 10.0, 100.0, 1_000.0, 10_000.0])
    };
    let seeds = if effort.quick { 1 } else { effort.seeds.min(3) };
    let mut figures = Vec::new();
    let mut remarks = vec![format!(
        "twice what the server can do, all requests alike, {seeds} seed(s); 1 and 10 ms are writes of workloads, from 100 ms on LISTs. \
         LISTs are counted from 30 s + 2 s per core on, because the breadth is earned."
    )];
    for cores in cores {
        for work in works {
            let scenario = alike(*cores, *work)?;
            let (limit, best) = best_static(&scenario, seeds)?;
            let ours: Vec<f64> = useful(&scenario, Choice::Spillway, seeds)?
                .iter()
                .map(|value| value / best)
                .collect();
            let figure = Figure::new(format!("{cores} cores, {work} ms"), &ours, 100.0, 1, " %");
            figures.push(figure.at_least(0.95, "95 %"));
            remarks.push(format!(
                "{cores} cores, {work} ms: best static {limit}, {:.1} % of the server",
                best * 100.0
            ));
        }
    }
    Ok((figures, remarks))
}
