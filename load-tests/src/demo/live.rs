//! What is going on, shared between those who do it and those who show it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::exposition::Exposition;
use super::proxy::Scraper;
use crate::record::Current;

/// How often Spillway's metrics are read.
const SCRAPE: Duration = Duration::from_millis(500);

/// The state of the demonstration.
#[derive(Clone)]
pub(crate) struct Live(Arc<Mutex<State>>);

#[derive(Clone)]
pub(crate) struct State {
    /// `direct`, `shadow`, `enforce`, or nothing yet.
    pub(crate) arm: &'static str,
    pub(crate) phase: &'static str,
    pub(crate) since: Instant,
    pub(crate) current: Option<Current>,
    pub(crate) gauges: Option<Gauges>,
    /// Something worth a line of its own, newest last.
    pub(crate) news: Vec<String>,
}

/// What Spillway says of its admission.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Gauges {
    pub(crate) limit_seconds: f64,
    pub(crate) outstanding_seconds: f64,
    pub(crate) probe_delay_seconds: f64,
    pub(crate) shed: f64,
}

/// The extremes of the gauges.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Extremes {
    pub(crate) least_limit_seconds: Option<f64>,
    pub(crate) most_probe_delay_seconds: Option<f64>,
}

impl Live {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            arm: "",
            phase: "preparing",
            since: Instant::now(),
            current: None,
            gauges: None,
            news: Vec::new(),
        })))
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A phase begins.
    pub(crate) fn phase(&self, phase: &'static str) {
        self.change(|state| {
            state.phase = phase;
            state.since = Instant::now();
        });
    }

    /// Something worth a line has happened.
    pub(crate) fn tell(&self, news: impl Into<String>) {
        self.change(|state| state.news.push(news.into()));
    }

    /// The state now; its news are handed out once.
    pub(crate) fn take(&self) -> State {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = state.clone();
        state.news.clear();
        taken
    }
}

/// Follows the metrics of one Spillway until dropped.
pub(crate) struct Follower {
    task: JoinHandle<()>,
    extremes: Arc<Mutex<Extremes>>,
}

impl Follower {
    pub(crate) fn begin(scraper: Scraper, live: &Live) -> Self {
        let extremes: Arc<Mutex<Extremes>> = Arc::default();
        let (live, kept) = (live.clone(), extremes.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(SCRAPE);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let Ok(page) = scraper.scrape().await else {
                    continue;
                };
                let gauges = gauges(&page);
                live.change(|state| state.gauges = Some(gauges));
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.include(&gauges);
            }
        });
        Self { task, extremes }
    }

    /// The extremes since the last call.
    pub(crate) fn turn(&self) -> Extremes {
        std::mem::take(&mut *self.extremes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Extremes {
    fn include(&mut self, gauges: &Gauges) {
        let limit = self.least_limit_seconds.unwrap_or(f64::INFINITY);
        self.least_limit_seconds = Some(limit.min(gauges.limit_seconds));
        let delay = self.most_probe_delay_seconds.unwrap_or(0.0);
        self.most_probe_delay_seconds = Some(delay.max(gauges.probe_delay_seconds));
    }
}

fn gauges(page: &Exposition) -> Gauges {
    Gauges {
        limit_seconds: page.sum("spillway_limit_seconds", &[]),
        outstanding_seconds: page.sum("spillway_outstanding_seconds", &[]),
        probe_delay_seconds: page.sum("spillway_probe_delay_seconds", &[]),
        shed: page.sum("spillway_shed_total", &[]) + page.sum("spillway_shadow_shed_total", &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_are_kept_until_they_are_taken() {
        let mut extremes = Extremes::default();
        for (limit, delay) in [(0.4, 0.01), (0.1, 0.3), (0.2, 0.0)] {
            extremes.include(&Gauges {
                limit_seconds: limit,
                probe_delay_seconds: delay,
                ..Gauges::default()
            });
        }
        assert_eq!(extremes.least_limit_seconds, Some(0.1));
        assert_eq!(extremes.most_probe_delay_seconds, Some(0.3));
    }

    #[tokio::test]
    async fn news_are_told_once() {
        let live = Live::new();
        live.tell("rollback done");
        assert_eq!(live.take().news, ["rollback done"]);
        assert!(live.take().news.is_empty());
    }
}
