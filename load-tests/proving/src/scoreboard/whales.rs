//! Rows 6 and 7: few clients that ask for everything.

use super::{Effort, Figure, Measured, each, scenario, seeds};
use crate::controllers::Choice;
use crate::population::Population;
use crate::scenario::{Scenario, WrongScenario};
use crate::world::SECOND;

fn rest(population: &Population) -> bool {
    !population.culprit
}

fn builtin(name: &str) -> Result<Scenario, WrongScenario> {
    Scenario::builtin(name).unwrap_or_else(|| {
        Err(WrongScenario::Senseless {
            name: name.into(),
            what: "is not built in".into(),
        })
    })
}

/// Row 6.
pub(super) fn attack(effort: &Effort) -> Measured {
    let with = builtin("whale-attack")?;
    let without = Scenario {
        clients: Vec::new(),
        ..with.clone()
    };
    let calm = seeds(&without, Choice::Spillway, effort, SECOND)?;
    let kept = |choice: Choice, effort: &Effort| -> Result<_, WrongScenario> {
        let runs = seeds(&with, choice, effort, SECOND)?;
        // Work answered in time, beside the same everyday life without the attack.
        let share: Vec<f64> = runs
            .iter()
            .zip(&calm)
            .map(|(run, calm)| run.in_time(rest) / calm.in_time(rest).max(1e-9))
            .collect();
        Ok((runs, share))
    };
    let (runs, share) = kept(Choice::Spillway, effort)?;
    let lost = each(&runs, |run| {
        run.sum(rest, |tally| tally.shed + tally.lost + tally.gave_up) as f64
    });
    let asked = each(&runs, |run| run.sum(rest, |tally| tally.calls) as f64);
    let whales = each(&runs, |run| {
        run.sum(|population| population.culprit, |tally| tally.served) as f64
    });
    let figures = vec![
        Figure::new("kept for the rest", &share, 100.0, 2, " %").at_least(0.97, "97 %"),
        Figure::new("refused or cancelled of the rest", &lost, 1.0, 0, "").at_most(0.0, "0"),
        Figure::new("calls of the rest", &asked, 1.0, 0, ""),
        Figure::new("LISTs of the whales served", &whales, 1.0, 0, ""),
    ];
    let mut remarks = vec!["scenario whale-attack: 8 cores, 50 % everyday load, 50 clients with full LISTs of 0.5 s for a minute".into()];
    for run in &runs {
        for (population, tally) in run
            .populations
            .iter()
            .zip(&run.record.tallies)
            .filter(|(population, _)| rest(population))
        {
            let lost = tally.shed + tally.lost + tally.gave_up;
            if lost > 0 {
                remarks.push(format!(
                    "seed {}: {} (class {}) refused {} times and lost {} of {} calls",
                    run.seed,
                    population.name,
                    population.call.class.0,
                    tally.shed,
                    tally.lost + tally.gave_up,
                    tally.calls
                ));
            }
        }
    }
    for rival in [Choice::None, Choice::Apf, Choice::Dagor, Choice::Pid] {
        let (_, share) = kept(
            rival,
            &Effort {
                seeds: 1,
                ..*effort
            },
        )?;
        remarks.push(format!(
            "{}: {:.1} % kept",
            rival.name(),
            share.first().copied().unwrap_or(0.0) * 100.0
        ));
    }
    Ok((figures, remarks))
}

/// Row 7.
pub(super) fn memory(effort: &Effort) -> Measured {
    let storm = scenario(
        "
length: 90s
warm_up: 5s
cluster: {nodes: 500, pods_per_node: 10, everyday: 0.3}
server: {cores: 16, memory: 16GiB, base: 3GiB}
clients:
- {name: lists, who: {service_account: s/l}, call: GET /api/v1/configmaps?resourceVersion=0, work: 2s, bytes: 160MiB, demand: {again: 10ms}, count: 1000, culprit: true, from: 10s, until: 80s}
",
    )?;
    let runs = seeds(&storm, Choice::Spillway, effort, SECOND)?;
    let figures = vec![
        Figure::new(
            "most memory",
            &each(&runs, |run| run.record.memory),
            100.0,
            1,
            " % of the limit",
        )
        .at_most(0.85, "85 %"),
        Figure::new(
            "killed",
            &each(&runs, |run| run.record.killed as f64),
            1.0,
            0,
            "",
        )
        .at_most(0.0, "0"),
        Figure::new(
            "LISTs served",
            &each(&runs, |run| {
                run.sum(|population| population.culprit, |tally| tally.served) as f64
            }),
            1.0,
            0,
            "",
        ),
    ];
    let mut remarks = vec![
        "16 cores, 16 GiB of which 3 live at rest (twice that before Go collects), LISTs of 160 MiB JSON and 2 s, 2.5 bytes live per byte \
         under way; 512 MiB of answers at once is the default budget, of which bulk sees 55 %"
            .into(),
    ];
    for rival in [Choice::None, Choice::Apf, Choice::Dagor, Choice::Gradient2] {
        let runs = seeds(
            &storm,
            rival,
            &Effort {
                seeds: 1,
                ..*effort
            },
            SECOND,
        )?;
        let Some(run) = runs.first() else { continue };
        remarks.push(format!(
            "{}: {:.0} % of the limit, killed {} times",
            rival.name(),
            run.record.memory * 100.0,
            run.record.killed
        ));
    }
    Ok((figures, remarks))
}
