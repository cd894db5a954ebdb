//! Row 8: after the storm, and after an outage.

use super::{Effort, Figure, Measured, each, scenario, seeds};
use crate::controllers::Choice;
use crate::measure::Sample;
use crate::run::Outcome;
use crate::world::SECOND;

const STORM_ENDS: u64 = 50;
const BACK: u64 = 40;

fn after(run: &Outcome, second: u64) -> impl Iterator<Item = &Sample> {
    run.record
        .samples
        .iter()
        .filter(move |sample| sample.at > second * SECOND)
}

/// When after that second somebody was refused for the last time, s.
fn last_refusal(run: &Outcome, second: u64) -> f64 {
    let last = after(run, second)
        .filter(|sample| sample.shed.iter().any(|shed| *shed > 0))
        .last();
    last.map_or(0.0, |sample| (sample.at - second * SECOND) as f64 / 1e6)
}

/// When after that second useful work was for the last time below 95 % of what was due, or the probe above its target, over
/// a second each, s.
fn unstable(run: &Outcome, second: u64) -> f64 {
    let samples: Vec<&Sample> = after(run, second).collect();
    let mut last = 0.0;
    for (nth, window) in samples.chunks(10).enumerate() {
        let sum =
            |of: fn(&Sample) -> u64| window.iter().map(|sample| of(sample)).sum::<u64>() as f64;
        let due = sum(|sample| sample.offered.iter().sum());
        let useful = sum(|sample| sample.useful.iter().sum());
        let probe = window.iter().map(|sample| sample.probe_ms).sum::<f64>() / window.len() as f64;
        if useful < due * 0.95 || probe > 20.0 {
            last = (nth + 1) as f64;
        }
    }
    last
}

/// Requests sent per call that wanted to be answered, in the half minute after the server is back.
fn amplification(run: &Outcome) -> f64 {
    let pending = run
        .record
        .samples
        .iter()
        .rfind(|sample| sample.at <= BACK * SECOND)
        .map_or(0, |sample| sample.under_way);
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
- {name: busy, who: {service_account: shop/worker}, call: PUT /api/v1/namespaces/shop/configmaps/state, work: 2ms, demand: {load: 0.2}, tenants: 20}
events:
- {at: 30s, do: {outage: 10s}}
",
    )?;
    let stormy = seeds(&storm, Choice::Spillway, effort, 100_000)?;
    let gone = seeds(&outage, Choice::Spillway, effort, 100_000)?;
    let figures = vec![
        Figure::new(
            "last refusal after the storm",
            &each(&stormy, |run| last_refusal(run, STORM_ENDS)),
            1.0,
            1,
            " s",
        )
        .at_most(2.0, "2 s"),
        Figure::new(
            "useful work below 95 % or probe above 20 ms, last after the outage",
            &each(&gone, |run| unstable(run, BACK)),
            1.0,
            0,
            " s",
        )
        .at_most(5.0, "5 s"),
        Figure::new(
            "last refusal after the outage",
            &each(&gone, |run| last_refusal(run, BACK)),
            1.0,
            1,
            " s",
        ),
        Figure::new(
            "requests per call in the 30 s after it",
            &each(&gone, amplification),
            1.0,
            2,
            "",
        )
        .at_most(1.1, "1.1"),
    ];
    let mut remarks = vec![
        "storm: 8 cores, 60 % everyday load, 10× for 30 s; outage: 10 s at 70 % of 8 cores, clients as client-go repeats (Retry-After, ten \
         times). What had become due during \
         the outage is still wanted after it (clients give up after 10 s): up to seven seconds' work, for which 30 % of the server are free"
            .into(),
    ];
    for rival in [Choice::None, Choice::Dagor, Choice::Envoy, Choice::Pid] {
        let one = Effort {
            seeds: 1,
            ..*effort
        };
        let (stormy, gone) = (
            seeds(&storm, rival, &one, 100_000)?,
            seeds(&outage, rival, &one, 100_000)?,
        );
        if let (Some(stormy), Some(gone)) = (stormy.first(), gone.first()) {
            remarks.push(format!(
                "{}: last refusal {:.1} s after the storm; after the outage unstable for {:.0} s, {:.2} requests per call",
                rival.name(),
                last_refusal(stormy, STORM_ENDS),
                unstable(gone, BACK),
                amplification(gone)
            ));
        }
    }
    Ok((figures, remarks))
}
