//! Rows 2, 3 and 4: a load that comes from one moment to the next.

use super::{Effort, Figure, Measured, each, scenario, seeds};
use crate::controllers::Choice;
use crate::measure::Sample;
use crate::population::Population;
use crate::run::Outcome;
use crate::scenario::{Scenario, WrongScenario};
use crate::world::SECOND;

const CORES: usize = 8;
const BEGINS: u64 = 20;

/// Half of the server every day, and from 20 s on a storm: nine parts in ten LISTs, the rest writes.
fn stepped(load: f64, ends: u64, length: u64) -> Result<Scenario, WrongScenario> {
    let (lists, writes) = ((load - 0.5) * 0.9, (load - 0.5) * 0.1);
    scenario(&format!(
        "
length: {length}s
warm_up: 5s
cluster: {{nodes: 500, pods_per_node: 10, everyday: 0.5}}
server: {{cores: {CORES}, memory: 64GiB}}
clients:
- {{name: on-call, who: {{admin: on-call}}, call: GET /api/v1/namespaces/a/pods/b, work: 2ms, demand: {{per_second: 40}}, reserved: true}}
- {{name: lists, who: {{service_account: s/l}}, call: GET /api/v1/pods?resourceVersion=0, work: 200ms, bytes: 14MiB, spread: exponential, demand: {{load: {lists}}}, patience: none, tenants: 5, culprit: true, from: {BEGINS}s, until: {ends}s}}
- {{name: writes, who: {{service_account: s/w}}, call: PUT /api/v1/namespaces/s/configmaps/b, work: 2ms, demand: {{load: {writes}}}, patience: none, tenants: 5, culprit: true, from: {BEGINS}s, until: {ends}s}}
"
    ))
}

fn during(run: &Outcome, from: u64, to: u64) -> impl Iterator<Item = &Sample> {
    run.record
        .samples
        .iter()
        .filter(move |sample| (from * SECOND..to * SECOND).contains(&sample.at))
}

/// How long after the step the probe was above its target for the last time, ms.
fn settled(run: &Outcome, target_ms: f64) -> f64 {
    let over = during(run, BEGINS, BEGINS + 6).filter(|sample| sample.probe_ms > target_ms);
    over.last()
        .map_or(0.0, |sample| (sample.at - BEGINS * SECOND) as f64 / 1e3)
}

/// The longest time without a break that the probe was above its target during the storm, ms.
fn longest(run: &Outcome, target_ms: f64) -> f64 {
    let (mut longest, mut since) = (0, None);
    for sample in during(run, BEGINS, 50) {
        if sample.probe_ms > target_ms {
            longest = longest.max(sample.at - *since.get_or_insert(sample.at - 50_000));
        } else {
            since = None;
        }
    }
    longest as f64 / 1e3
}

/// Share of the storm's time that the probe was above its target.
fn over(run: &Outcome, target_ms: f64) -> f64 {
    let all = during(run, BEGINS, 50).count().max(1);
    during(run, BEGINS, 50)
        .filter(|sample| sample.probe_ms > target_ms)
        .count() as f64
        / all as f64
}

fn backlog(run: &Outcome) -> f64 {
    during(run, BEGINS, 50)
        .map(|sample| sample.backlog_ms)
        .fold(0.0, f64::max)
}

/// Row 2.
pub(super) fn storm(effort: &Effort) -> Measured {
    let scenario = stepped(10.0, 50, 50)?;
    let runs = seeds(&scenario, Choice::Spillway, effort, 50_000)?;
    let below_two = |population: &Population| population.call.class.0 < 2 && !population.culprit;
    let figures = vec![
        Figure::new(
            "most work of classes 0–1 under way",
            &each(&runs, backlog),
            1.0,
            1,
            " ms of the server",
        )
        .at_most(100.0, "100 ms"),
        Figure::new(
            "probe last above 20 ms within 6 s of the step",
            &each(&runs, |run| settled(run, 20.0)),
            1.0,
            0,
            " ms after it",
        )
        .at_most(250.0, "250 ms"),
        Figure::new(
            "longest the probe stayed above 20 ms in the 30 s of the storm",
            &each(&runs, |run| longest(run, 20.0)),
            1.0,
            0,
            " ms",
        )
        .at_most(250.0, "250 ms"),
        Figure::new(
            "probe above 20 ms",
            &each(&runs, |run| over(run, 20.0)),
            100.0,
            1,
            " % of the storm",
        ),
        Figure::new(
            "p99 of classes 0–1",
            &each(&runs, |run| run.latency(below_two, 0.99) as f64 / 1e3),
            1.0,
            1,
            " ms",
        ),
    ];
    let mut remarks = vec![
        "the breadth starts at one LIST and is earned, and while the storm's writes are refused, none of its LISTs starts: importance is strict"
            .into(),
    ];
    remarks.push(format!(
        "{CORES} cores, 50 % everyday load of 500 nodes, then 10× (nine parts LISTs of 200 ms, one part writes), 30 s"
    ));
    for rival in [
        Choice::None,
        Choice::Dagor,
        Choice::Pid,
        Choice::Codel,
        Choice::Envoy,
        Choice::Gradient2,
    ] {
        let runs = seeds(
            &scenario,
            rival,
            &Effort {
                seeds: 1,
                ..*effort
            },
            50_000,
        )?;
        let Some(run) = runs.first() else { continue };
        remarks.push(format!(
            "{}: {:.0} ms of classes 0–1 under way, probe above 20 ms {:.0} % of the storm, p99 of classes 0–1 {:.0} ms",
            rival.name(),
            backlog(run),
            over(run, 20.0) * 100.0,
            run.latency(below_two, 0.99) as f64 / 1e3
        ));
    }
    Ok((figures, remarks))
}

/// Row 3.
pub(super) fn reserved(effort: &Effort) -> Measured {
    let on_call = |population: &Population| population.name == "on-call";
    let p99 = |runs: &[Outcome]| each(runs, |run| run.latency(on_call, 0.99) as f64 / 1e3);
    let calm = p99(&seeds(
        &stepped(0.5, 21, 50)?,
        Choice::Spillway,
        effort,
        SECOND,
    )?);
    let mut storm = stepped(100.0, 50, 50)?;
    storm.warm_up = crate::units::Span(std::time::Duration::from_secs(BEGINS));
    let runs = seeds(&storm, Choice::Spillway, effort, SECOND)?;
    let above: Vec<f64> = p99(&runs)
        .iter()
        .zip(&calm)
        .map(|(storm, calm)| storm - calm)
        .collect();
    let refused = each(&runs, |run| {
        (run.record.reserved_refused + run.sum(on_call, |tally| tally.lost + tally.gave_up)) as f64
    });
    let figures = vec![
        Figure::new("refused or lost", &refused, 1.0, 0, "").at_most(0.0, "0"),
        Figure::new("p99 above calm", &above, 1.0, 1, " ms").at_most(5.0, "5 ms"),
        Figure::new("p99 when calm", &calm, 1.0, 1, " ms"),
    ];
    let remarks = vec![format!(
        "{CORES} cores, 40 calls of 2 ms per second on the reserved lane, 100× for 30 s. The lane is a lane through the proxy only: on the \
         server its calls share the cores with what runs there, and with one LIST on every core each of five hops waits for a turn of \
         10 ms. Only an idle core would keep p99 within 5 ms, and the tuner's target (20 ms) does not leave one."
    )];
    Ok((figures, remarks))
}

/// Row 4.
pub(super) fn inversions(effort: &Effort) -> Measured {
    let mut all = Vec::new();
    for load in [2.0, 10.0] {
        all.push(seeds(
            &stepped(load, 50, 60)?,
            Choice::Spillway,
            effort,
            SECOND,
        )?);
    }
    for name in ["openai-2024-12-11", "whale-attack", "create-storm"] {
        if let Some(scenario) = Scenario::builtin(name) {
            all.push(seeds(&scenario?, Choice::Spillway, effort, SECOND)?);
        }
    }
    let sum = |of: &dyn Fn(&Outcome) -> u64| -> Vec<f64> {
        (0..effort.seeds as usize)
            .map(|seed| {
                all.iter()
                    .filter_map(|runs| runs.get(seed))
                    .map(of)
                    .sum::<u64>() as f64
            })
            .collect()
    };
    let figures = vec![
        Figure::new(
            "inversions",
            &sum(&|run| run.record.inversions[1]),
            1.0,
            0,
            "",
        )
        .at_most(0.0, "0"),
        Figure::new(
            "of these within one kind (short or long)",
            &sum(&|run| run.record.inversions[0]),
            1.0,
            0,
            "",
        ),
        Figure::new(
            "decisions",
            &sum(&|run| run.record.decisions),
            1e-6,
            2,
            " million per seed",
        ),
    ];
    let mut patterns = std::collections::BTreeMap::new();
    for (pattern, count) in all.iter().flatten().flat_map(|run| &run.record.patterns) {
        *patterns.entry(*pattern).or_insert(0_u64) += count;
    }
    let mut by: Vec<_> = patterns.into_iter().collect();
    by.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let kind = |long: bool| if long { "long" } else { "short" };
    let by = by.iter().take(6).map(|(pattern, count)| {
        let waited = if pattern.waited {
            "after waiting"
        } else {
            "at once"
        };
        format!(
            "{count} × {} of class {} refused {waited}, {} of class {} admitted",
            kind(pattern.long),
            pattern.refused,
            kind(pattern.admitted_long),
            pattern.admitted
        )
    });
    let by: Vec<String> = by.collect();
    let mut remarks = vec![
        "steps to 2× and 10× and the scenarios openai-2024-12-11, whale-attack and create-storm. An inversion: refused while something \
         less important that holds at least as much was admitted after it had arrived and before it was refused, or within 100 ms \
         of its arrival"
            .into(),
    ];
    if !by.is_empty() {
        remarks.push(format!(
            "the most frequent, over all seeds: {}",
            by.join("; ")
        ));
    }
    Ok((figures, remarks))
}
