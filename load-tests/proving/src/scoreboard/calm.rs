//! Row 10: a day on which nothing should be refused.

use super::{Effort, Figure, Measured, each, scenario, seeds};
use crate::controllers::Choice;
use crate::world::SECOND;

/// Row 10.
pub(super) fn day(effort: &Effort) -> Measured {
    let hours = if effort.quick { 1 } else { 24 };
    let at = |load: f64, hours: u64| {
        scenario(&format!(
            "
length: {hours}h
warm_up: 60s
cluster: {{nodes: 300, pods_per_node: 10, everyday: {load}}}
server: {{cores: 4}}
faults: {{estimates: 0.5, pause_every: 30s, pause: 15ms, compaction_every: 5m, compaction: 300ms}}
"
        ))
    };
    let (mut figures, mut remarks) = (Vec::new(), Vec::new());
    for (load, hours) in [(0.84, hours), (0.65, hours.min(6))] {
        let runs = seeds(&at(load, hours)?, Choice::Spillway, effort, 10 * SECOND)?;
        let shed = each(&runs, |run| run.sum(|_| true, |tally| tally.shed) as f64);
        let per_million = each(&runs, |run| {
            run.sum(|_| true, |tally| tally.shed) as f64 * 1e6
                / run.sum(|_| true, |tally| tally.requests).max(1) as f64
        });
        figures.push(
            Figure::new(
                format!("refused in {hours} h at {load}×"),
                &shed,
                1.0,
                0,
                "",
            )
            .at_most(0.0, "0"),
        );
        figures.push(Figure::new(
            format!("per million requests at {load}×"),
            &per_million,
            1.0,
            2,
            "",
        ));
        if let Some(run) = runs.first() {
            let by: Vec<String> = run
                .populations
                .iter()
                .zip(&run.record.tallies)
                .filter(|(_, tally)| tally.shed > 0)
                .map(|(population, tally)| {
                    format!("{} {} of {}", population.name, tally.shed, tally.requests)
                })
                .collect();
            if !by.is_empty() {
                remarks.push(format!("refused at {load}×, seed 1: {}", by.join(", ")));
            }
        }
    }
    remarks.push(
        "0.84× in requests is 0.9× with the garbage collection they cause; 4 cores, 300 nodes; pauses of 15 ms in the mean (exponential) every 30 s in the mean, etcd stalls for 300 ms every 5 min, estimates wrong by \
         a log-normal factor of σ = 0.5"
            .into(),
    );
    for rival in [Choice::Envoy, Choice::Gradient2, Choice::Pid, Choice::Dagor] {
        let runs = seeds(
            &at(0.84, 1)?,
            rival,
            &Effort {
                seeds: 1,
                ..*effort
            },
            10 * SECOND,
        )?;
        let Some(run) = runs.first() else { continue };
        let (shed, requests) = (
            run.sum(|_| true, |tally| tally.shed),
            run.sum(|_| true, |tally| tally.requests),
        );
        remarks.push(format!(
            "{} in 1 h: {shed} of {requests} refused",
            rival.name()
        ));
    }
    Ok((figures, remarks))
}
