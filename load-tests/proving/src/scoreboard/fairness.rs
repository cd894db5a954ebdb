//! Row 9: equals, and one who asks for a hundred times as much.

use super::{Effort, Figure, Measured, each, scenario, seeds};
use crate::controllers::Choice;
use crate::world::SECOND;

/// Row 9.
pub(super) fn both(effort: &Effort) -> Measured {
    let equals = |call: &str, work: &str, bytes: &str| {
        scenario(&format!(
            "
length: 40s
warm_up: 30s
server: {{cores: 4, memory: 64GiB}}
clients:
- {{name: equals, who: {{service_account: shop/web}}, call: '{call}', work: {work}, bytes: {bytes}, demand: {{load: 3}}, patience: none, tenants: 20, count: 200}}
"
        ))
    };
    let writes = equals("PUT /api/v1/namespaces/a/configmaps/b", "2ms", "4KiB")?;
    let lists = equals(
        "GET /api/v1/namespaces/a/pods?resourceVersion=0",
        "20ms",
        "1MiB",
    )?;
    let abused = |abuser: &str| {
        scenario(&format!(
            "
length: 60s
warm_up: 20s
server: {{cores: 4, memory: 64GiB}}
clients:
- {{name: others, who: {{service_account: shop/web}}, call: PUT /api/v1/namespaces/a/configmaps/b, work: 2ms, demand: {{load: 0.6}}, patience: none, tenants: 20, count: 20}}
{abuser}
"
        ))
    };
    let calm = abused("")?;
    let abuse = abused(
        "- {name: abuser, who: {service_account: bad/one}, call: PUT /api/v1/namespaces/a/configmaps/b, work: 2ms, demand: {load: 3}, patience: none, count: 1, culprit: true}",
    )?;
    let jain = |choice, effort: &Effort| -> Result<Vec<f64>, crate::scenario::WrongScenario> {
        Ok(each(&seeds(&writes, choice, effort, SECOND)?, |run| {
            run.jain("equals")
        }))
    };
    let long = each(&seeds(&lists, Choice::Spillway, effort, SECOND)?, |run| {
        run.jain("equals")
    });
    // The worst of the others, beside what it got without the abuser.
    let cost = |choice, effort: &Effort| -> Result<Vec<f64>, crate::scenario::WrongScenario> {
        let (with, without) = (
            seeds(&abuse, choice, effort, SECOND)?,
            seeds(&calm, choice, effort, SECOND)?,
        );
        Ok(with
            .iter()
            .zip(&without)
            .map(|(with, without)| {
                let others = |run: &crate::run::Outcome| {
                    run.in_time(|population: &crate::population::Population| {
                        population.name == "others"
                    })
                };
                1.0 - others(with) / others(without).max(1e-9)
            })
            .collect())
    };
    let figures = vec![
        Figure::new("Jain, writes", &jain(Choice::Spillway, effort)?, 1.0, 4, "")
            .at_least(0.99, "0.99"),
        Figure::new("Jain, LISTs", &long, 1.0, 4, "").at_least(0.99, "0.99"),
        Figure::new(
            "lost by the others to the abuser",
            &cost(Choice::Spillway, effort)?,
            100.0,
            2,
            " %",
        )
        .at_most(0.01, "1 %"),
    ];
    let mut remarks = vec![
        "4 cores; 20 tenants that together ask for 3× over 10 s; and 20 that ask for 60 % of the server beside one that asks for as much as \
         a hundred of them"
            .into(),
    ];
    for rival in [
        Choice::None,
        Choice::Apf,
        Choice::Dagor,
        Choice::Pid,
        Choice::Codel,
    ] {
        let one = Effort {
            seeds: 1,
            ..*effort
        };
        remarks.push(format!(
            "{}: Jain {:.3}, the others lose {:.1} %",
            rival.name(),
            jain(rival, &one)?.first().copied().unwrap_or(0.0),
            cost(rival, &one)?.first().copied().unwrap_or(0.0) * 100.0
        ));
    }
    Ok((figures, remarks))
}
