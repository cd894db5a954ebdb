//! One way to the upstream, from calm through storm to recovery.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::cast::{Cast, create};
use super::exposition::Exposition;
use super::life::{Life, POPULATIONS, TELEMETRY};
use super::live::{Follower, Live};
use super::objects;
use super::proxy::Proxy;
use super::storm::{Agents, Storm, agents_are_killed, roll_back};
use super::upstream::Upstream;
use crate::record::{Current, Record, quantile};
use crate::report::{Arm, Capacity, Floor, Phase, Plan, ProxyReport};

/// The longest an operator tries before somebody blocks the culprit's network by
/// hand, in phases and at most.
const GIVE_UP: (u32, Duration) = (4, Duration::from_secs(60));
/// What is under way at the end may take as long as its patience.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_secs(12);
/// Before anything is counted: connections are made, the cost model learns what
/// a calm server needs.
pub(crate) const WARM_UP: Duration = Duration::from_secs(2);
/// Window of the recovery criterion.
const WINDOW: Duration = Duration::from_secs(2);
/// Life signs are well below this, whatever calm was.
const WELL: Duration = Duration::from_millis(50);

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Shadow,
    Enforce,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Shadow, Self::Enforce];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Shadow => "shadow",
            Self::Enforce => "enforce",
        }
    }
}

/// What all arms share.
pub(crate) struct Stage<'a> {
    pub(crate) upstream: &'a Upstream,
    pub(crate) cast: Arc<Cast>,
    pub(crate) plan: Plan,
    /// Settings for Spillway besides those every run needs.
    pub(crate) settings: Value,
    pub(crate) dir: &'a Path,
    pub(crate) live: Live,
}

/// What the first arm measures of the upstream.
pub(crate) type Measured = (Capacity, Floor);

impl Stage<'_> {
    /// Goes one way. `measured` is filled by the arm that finds it empty.
    pub(crate) async fn run(
        &self,
        way: Way,
        measured: &mut Option<Measured>,
    ) -> anyhow::Result<Arm> {
        let phase_time = Duration::from_secs_f64(self.plan.seconds_per_phase);
        let direct = &self.upstream.endpoint;
        let proxy = match way {
            Way::Direct => None,
            Way::Shadow | Way::Enforce => {
                Some(Proxy::start(self.upstream, way.name(), &self.settings, self.dir).await?)
            }
        };
        let endpoint = proxy
            .as_ref()
            .map_or_else(|| direct.clone(), |proxy| self.upstream.behind(proxy.main));
        let operators = match (way, &proxy) {
            (Way::Enforce, Some(proxy)) => self.upstream.behind(proxy.reserved),
            _ => endpoint.clone(),
        };
        let current = Current::open(POPULATIONS);
        self.live.change(|state| {
            state.arm = way.name();
            state.current = Some(current.clone());
            state.gauges = None;
        });
        let follower = proxy
            .as_ref()
            .map(|proxy| Follower::begin(proxy.scraper(), &self.live));
        let admin = direct.client(&self.upstream.admin)?;
        let (daemon_sets, _) = self
            .cast
            .daemon_set
            .rsplit_once('/')
            .context("the DaemonSet's path")?;
        create(&admin, daemon_sets, &objects::daemon_set()).await?;

        self.live.phase("warm-up");
        let life = Life::begin(&self.cast, &endpoint, &current, self.plan.seed)?;
        let agents = Agents::connect(&self.cast, &endpoint)?;
        agents.greet().await;
        sleep(WARM_UP).await;

        self.live.phase("calm");
        current.turn();
        sleep(phase_time).await;
        let calm = Finished::turn("calm", &current);

        let (capacity, _) = match measured {
            Some(known) => known.clone(),
            None => {
                let found = self.measure(&agents, &current, phase_time).await?;
                measured.insert(found).clone()
            }
        };
        current.turn();
        let rate = self.plan.factor * capacity.best();
        let give_up = (GIVE_UP.0 * phase_time).min(GIVE_UP.1);
        let before = page_of(proxy.as_ref()).await;

        self.live.phase("storm");
        if let Some(follower) = &follower {
            follower.turn();
        }
        let began = Instant::now();
        // One LIST in ten is of something small; the large ones alone make up
        // the rate.
        let storm = Storm::begin(&agents, rate / 0.9, self.plan.seed, &current);
        sleep_until(began + phase_time).await;
        let rollback = roll_back(&self.cast, &operators, began, give_up).await?;
        self.live.tell(match rollback.after_storm_start_seconds {
            Some(after) => format!("{}: rolled back {after:.2} s into the storm", way.name()),
            None => format!("{}: the operator gave up", way.name()),
        });
        agents_are_killed().await;
        storm.end().await;
        let extremes = follower.as_ref().map(Follower::turn);
        let stormy = Finished::turn("storm", &current);

        self.live.phase("recovery");
        drop(agents);
        sleep((phase_time).max(2 * WINDOW)).await;
        let recovery = Finished::turn("recovery", &current);
        self.live.phase("ending");
        life.end(LAST_ANSWERS).await;

        let after = page_of(proxy.as_ref()).await;
        let reported = before
            .zip(after)
            .map(|(before, after)| proxy_report(&before, &after));
        let reported = reported.map(|report| match extremes {
            Some(extremes) => ProxyReport {
                least_limit_seconds: extremes.least_limit_seconds,
                most_probe_delay_ms: extremes.most_probe_delay_seconds.map(|s| s * 1e3),
                ..report
            },
            None => report,
        });
        let (cpu_seconds, resident_bytes) = match &proxy {
            Some(proxy) => proxy.usage(),
            None => (None, None),
        };
        Ok(Arm {
            name: way.name().to_owned(),
            recovery_seconds: recovered_after(&calm, &recovery),
            phases: [calm, stormy, recovery].map(Finished::into_phase).into(),
            rollback,
            storm_rate: rate,
            upstream_restarts: 0,
            proxy: reported.map(|report| ProxyReport {
                cpu_seconds,
                resident_bytes,
                ..report
            }),
        })
    }

    /// What the upstream can serve, and what one LIST at a time does to the life
    /// signs.
    async fn measure(
        &self,
        agents: &Agents,
        current: &Current,
        phase_time: Duration,
    ) -> anyhow::Result<Measured> {
        let rate = |finished: &Finished| {
            let bulk = finished.record.population(TELEMETRY);
            (bulk.served as f64 / finished.seconds, bulk)
        };
        // At least a few LISTs, however slow one is.
        self.live.phase("one LIST");
        current.turn();
        agents.in_turns(1, phase_time, current).await;
        let alone = Finished::turn("alone", current);
        // The life signs due then have ended soon after.
        sleep(Duration::from_secs(1)).await;
        let (alone_per_second, bulk) = rate(&alone);
        anyhow::ensure!(
            bulk.served > 0,
            "not one LIST of {} was served in {:.1} s ({} failed, {} timed out): nothing to \
             measure a storm by",
            self.cast.bulk_path,
            alone.seconds,
            bulk.failed,
            bulk.timed_out
        );
        let signs = alone.record.class("life-signs");
        let millis = |latency: Option<Duration>| latency.map(|l| l.as_secs_f64() * 1e3);
        let floor = Floor {
            life_sign_p50_ms: millis(signs.quantile(0.5)),
            life_sign_p99_ms: millis(signs.quantile(0.99)),
            life_signs: signs.latency.len(),
            list_p50_ms: millis(bulk.quantile(0.5)),
        };

        self.live.phase("LISTs");
        current.turn();
        let width = 2 * self.upstream.cores.unwrap_or(1);
        agents.in_turns(width, phase_time / 2, current).await;
        let wide = Finished::turn("wide", current);
        let (wide_per_second, _) = rate(&wide);
        let capacity = Capacity {
            list_bytes: bulk.bytes as f64 / bulk.served as f64,
            alone_per_second,
            width,
            wide_per_second,
        };
        self.live.tell(format!(
            "capacity: {:.2} LISTs/s of {:.1} MB; the storm will be {:.1}/s",
            capacity.best(),
            capacity.list_bytes / 1e6,
            self.plan.factor * capacity.best()
        ));
        Ok((capacity, floor))
    }
}

/// A phase that is over, although requests of it may still be under way.
pub(crate) struct Finished {
    name: &'static str,
    seconds: f64,
    record: Arc<Record>,
}

impl Finished {
    pub(crate) fn turn(name: &'static str, current: &Current) -> Self {
        let record = current.turn();
        Self {
            name,
            seconds: record.opened().elapsed().as_secs_f64(),
            record,
        }
    }

    pub(crate) fn into_phase(self) -> Phase {
        Phase::of(self.name, self.seconds, &self.record)
    }
}

/// From the end of the storm to the instant from which life signs were well
/// again, seconds.
pub(crate) fn recovered_after(calm: &Finished, recovery: &Finished) -> Option<f64> {
    let normal = calm.record.class("life-signs").quantile(0.99)?;
    let bound = (2 * normal).max(WELL);
    let timeline = recovery.record.class("life-signs").timeline;
    let end = Duration::from_secs_f64(recovery.seconds);
    well_from(timeline, end, bound).map(|instant| instant.as_secs_f64())
}

/// The first instant from which the 99th percentile over [`WINDOW`] stays within
/// `bound` until `end`.
fn well_from(
    mut timeline: Vec<(Duration, Duration)>,
    end: Duration,
    bound: Duration,
) -> Option<Duration> {
    const STEP: Duration = Duration::from_millis(100);
    timeline.sort_unstable();
    let mut well = Duration::ZERO;
    let mut start = Duration::ZERO;
    while start + WINDOW <= end {
        let from = timeline.partition_point(|(due, _)| *due < start);
        let to = timeline.partition_point(|(due, _)| *due < start + WINDOW);
        let window = timeline.get(from..to).unwrap_or_default();
        let mut latencies: Vec<_> = window.iter().map(|(_, latency)| *latency).collect();
        latencies.sort_unstable();
        // Without a life sign nothing is known to be well.
        if quantile(&latencies, 0.99).is_none_or(|p99| p99 > bound) {
            well = start + STEP;
        }
        start += STEP;
    }
    (well + WINDOW <= end).then_some(well)
}

async fn page_of(proxy: Option<&Proxy>) -> Option<Exposition> {
    proxy?.scraper().scrape().await.ok()
}

/// What was refused before the storm and from then on.
fn proxy_report(before: &Exposition, after: &Exposition) -> ProxyReport {
    const SHED: &str = "spillway_shed_total";
    const SHADOW_SHED: &str = "spillway_shadow_shed_total";
    let by_class = |page: &Exposition, earlier: &Exposition, name: &str| {
        let mut by: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (class, reason, count) in page.by(name, "class", "reason") {
            let known = earlier.sum(name, &[("class", class), ("reason", reason)]);
            let more = (count - known) as u64;
            if more > 0 {
                by.entry(class.to_owned())
                    .or_default()
                    .insert(reason.to_owned(), more);
            }
        }
        by
    };
    ProxyReport {
        shed_in_calm: by_class(before, &Exposition::default(), SHED),
        shed: by_class(after, before, SHED),
        shadow_shed: by_class(after, before, SHADOW_SHED),
        ..ProxyReport::default()
    }
}

/// Waits until trivial calls are answered quickly again, at most a minute.
pub(crate) async fn until_calm(upstream: &Upstream) -> anyhow::Result<()> {
    const LONGEST: Duration = Duration::from_secs(60);
    const QUICK: Duration = Duration::from_millis(20);
    const IN_A_ROW: u32 = 10;
    let client = upstream.endpoint.client(&upstream.admin)?;
    let quick = async {
        let mut row = 0;
        while row < IN_A_ROW {
            let start = Instant::now();
            let answer = client.get("/readyz/ping").await;
            let good = answer.is_ok_and(|answer| answer.status == 200) && start.elapsed() < QUICK;
            row = if good { row + 1 } else { 0 };
            sleep(Duration::from_millis(100)).await;
        }
    };
    // A server that does not calm down is a finding of the next arm, too.
    let _ = timeout(LONGEST, quick).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_millis(50);

    /// Ten life signs a second for ten seconds, slow while `slow` says so.
    fn timeline(slow: impl Fn(f64) -> bool) -> Vec<(Duration, Duration)> {
        (0..100)
            .map(|index| {
                let due = f64::from(index) / 10.0;
                let latency = if slow(due) { 900 } else { 5 };
                (Duration::from_secs_f64(due), Duration::from_millis(latency))
            })
            .collect()
    }

    fn well(slow: impl Fn(f64) -> bool) -> Option<f64> {
        let end = Duration::from_secs(10);
        well_from(timeline(slow), end, BOUND).map(|instant| instant.as_secs_f64())
    }

    #[test]
    fn refusals_are_told_apart_by_when_they_were() {
        let page = |bulk: u32, nodes: u32| {
            Exposition::parse(&format!(
                "spillway_shed_total{{class=\"bulk\",reason=\"deadline\"}} {bulk}\n\
                 spillway_shed_total{{class=\"nodes\",reason=\"deadline\"}} {nodes}\n"
            ))
        };
        let report = proxy_report(&page(0, 2), &page(5, 2));
        let of = |by: &BTreeMap<String, BTreeMap<String, u64>>| {
            by.iter()
                .map(|(class, reasons)| (class.clone(), reasons["deadline"]))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&report.shed_in_calm), [("nodes".to_owned(), 2)]);
        assert_eq!(of(&report.shed), [("bulk".to_owned(), 5)]);
    }

    #[test]
    fn recovery_is_when_life_signs_stay_well() {
        assert_eq!(well(|_| false), Some(0.0));
        let after_three = well(|due| due < 3.0).expect("recovers");
        assert!((2.9..3.2).contains(&after_three), "{after_three}");
        let relapse = well(|due| due < 1.0 || (5.0..5.5).contains(&due)).expect("recovers");
        assert!((5.4..5.7).contains(&relapse), "{relapse}");
    }

    #[test]
    fn who_is_still_ill_at_the_end_has_not_recovered() {
        assert_eq!(well(|_| true), None);
        assert_eq!(well(|due| due > 9.0), None);
    }

    #[test]
    fn silence_is_not_recovery() {
        let end = Duration::from_secs(10);
        assert_eq!(well_from(Vec::new(), end, BOUND), None);
    }
}
