//! Row 8: after the storm, and after an outage.

use super::{Effort, Figure, Measured, each, scenario, seeds};
use crate::controllers::Choice;
use crate::measure::Sample;
use crate::run::Outcome;
use crate::world::SECOND;

const STORM_ENDS: u64 = 50;
const BACK: u64 = 40;

fn after(run: &Outcome, second: u64) -> impl Iterator<Item = &Sample> {
    run.record.samples.iter().filter(move |sample| sample.at > second * SECOND)
}

/// When after that second the last of the rest was refused or lost, s.
fn last_loss(run: &Outcome, second: u64) -> f64 {
    let last = after(run, second).filter(|sample| sample.victims > 0).last();
    last.map_or(0.0, |sample| (sample.at - second * SECOND) as f64 / 1e6)
}

/// Requests sent per call that wanted to be answered, in the half minute after the server is back.
fn amplification(run: &Outcome) -> f64 {
    let pending = run.record.samples.iter().filter(|sample| sample.at <= BACK * SECOND).last().map_or(0, |sample| sample.under_way);
    let within = || after(run, BACK).take_while(|sample| sample.at <= (BACK + 30) * SECOND);
    let requests: u64 = within().map(|sample| u64::from(sample.requests)).sum();
    let calls: u64 = within().map(|sample| u64::from(sample.calls)).sum();
    requests as f64 / (calls + u64::from(pending)).max(1) as f64
}

/// Row 8.
pub(super) fn both(effort: &Effort) -> Measured {
    let storm = scenario(&format!(
        "
length: 90s
warm_up: 5s
cluster: {{nodes: 500, pods_per_node: 10, everyday: 0.6}}
server: {{cores: 8, memory: 64GiB}}
clients:
- {{name: lists, who: {{service_account: s/l}}, call: GET /api/v1/pods?resourceVersion=0, work: 200ms, bytes: 14MiB, spread: exponential, demand: {{load: 5}}, patience: none, tenants: 5, culprit: true, from: 20s, until: {STORM_ENDS}s}}
- {{name: writes, who: {{service_account: s/w}}, call: PUT /api/v1/namespaces/s/configmaps/b, work: 2ms, demand: {{load: 5}}, patience: none, tenants: 5, culprit: true, from: 20s, until: {STORM_ENDS}s}}
"
    ))?;
    let outage = scenario(
        "
length: 90s
warm_up: 5s
cluster: {nodes: 1000, pods_per_node: 10, everyday: 0.5}
server: {cores: 8}
clients:
- {name: busy, who: {service_account: shop/worker}, call: PUT /api/v1/namespaces/shop/configmaps/state, work: 2ms, demand: {load: 0.3}, tenants: 20}
events:
- {at: 30s, do: {outage: 10s}}
",
    )?;
    let stormy = seeds(&storm, Choice::Spillway, effort, 100_000)?;
    let gone = seeds(&outage, Choice::Spillway, effort, 100_000)?;
    let figures = vec![
        Figure::new("last refusal after the storm", &each(&stormy, |run| last_loss(run, STORM_ENDS)), 1.0, 1, " s").at_most(2.0, "2 s"),
        Figure::new("last refusal or loss after the outage", &each(&gone, |run| last_loss(run, BACK)), 1.0, 1, " s").at_most(5.0, "5 s"),
        Figure::new("requests per call in the 30 s after it", &each(&gone, amplification), 1.0, 2, "").at_most(1.1, "1.1"),
    ];
    let mut remarks = vec![
        "storm: 8 cores, 60 % everyday load, 10× for 30 s; outage: 10 s at 80 % of 8 cores, clients as client-go repeats (Retry-After, ten \
         times). A refusal counts whoever it hits; within the storm's own clients none is left"
            .into(),
    ];
    for rival in [Choice::None, Choice::Dagor, Choice::Envoy, Choice::Pid] {
        let one = Effort { seeds: 1, ..*effort };
        let (stormy, gone) = (seeds(&storm, rival, &one, 100_000)?, seeds(&outage, rival, &one, 100_000)?);
        if let (Some(stormy), Some(gone)) = (stormy.first(), gone.first()) {
            remarks.push(format!(
                "{}: last refusal {:.1} s after the storm, last loss {:.1} s after the outage, {:.2} requests per call",
                rival.name(),
                last_loss(stormy, STORM_ENDS),
                last_loss(gone, BACK),
                amplification(gone)
            ));
        }
    }
    Ok((figures, remarks))
}
