//! What is counted: by class, rule, tenant and time. Sums only, however long the log.

use std::collections::HashMap;
use std::time::Duration;

use proxy_core::admission::Shed;

use super::calls::{Batch, Call};
use crate::metrics::reason;

/// Tenants told apart.
const TENANTS: usize = 100_000;
/// Names kept, of tenants and shapes.
const NAMES: usize = 300_000;
/// Points of the picture; when there are more, two become one.
const POINTS: usize = 600;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fate {
    /// After a wait.
    Admitted(Duration),
    Shed(Shed),
}

/// Of one class.
#[derive(Clone, Debug, Default)]
pub(super) struct ClassTally {
    pub(super) calls: u64,
    /// Server time asked for, µs.
    pub(super) work: u64,
    pub(super) shed: u64,
    pub(super) shed_work: u64,
    pub(super) waited: u64,
    pub(super) longest_wait: Duration,
    /// By reason.
    pub(super) reasons: HashMap<&'static str, u64>,
}

/// Of one tenant.
#[derive(Clone, Debug, Default)]
pub(super) struct TenantTally {
    pub(super) calls: u64,
    pub(super) work: u64,
    pub(super) shed: u64,
    /// The class of its last call.
    pub(super) class: usize,
    /// A shape that most of its work has, by a majority vote.
    pub(super) shape: u64,
    lead: u64,
}

/// Of one stretch of time, by class: server time asked for and shed, µs.
pub(super) type Point = Vec<(u64, u64)>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) lines: u64,
    pub(super) unreadable: u64,
    pub(super) stages: u64,
    pub(super) malformed: u64,
    /// Requests played.
    pub(super) calls: u64,
    /// Of those, out of order beyond what is put in order.
    pub(super) late: u64,
    /// When the first and the last arrived, µs since the Unix epoch.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Server time spent, µs.
    pub(super) done_us: f64,
    pub(super) classes: Vec<ClassTally>,
    /// Requests by rule.
    pub(super) rules: Vec<u64>,
    pub(super) tenants: HashMap<u64, TenantTally>,
    pub(super) names: HashMap<u64, Box<str>>,
    pub(super) points: Vec<Point>,
    /// Of one point, µs.
    pub(super) width: u64,
}

impl Tally {
    pub(super) fn new(classes: usize, rules: usize) -> Self {
        Self {
            classes: vec![ClassTally::default(); classes],
            rules: vec![0; rules],
            width: 1_000_000,
            ..Self::default()
        }
    }

    pub(super) fn count(&mut self, batch: &Batch) {
        self.lines += batch.lines;
        self.unreadable += batch.unreadable;
        self.stages += batch.stages;
        self.malformed += batch.malformed;
    }

    pub(super) fn name(&mut self, hash: u64, name: Box<str>) {
        if self.names.len() < NAMES {
            self.names.entry(hash).or_insert(name);
        }
    }

    /// A request arrives.
    pub(super) fn arrive(&mut self, call: &Call, work: u64) {
        if self.calls == 0 {
            self.first = call.at;
        }
        self.calls += 1;
        self.last = self.last.max(call.at);
        if let Some(class) = self.classes.get_mut(call.class.index()) {
            class.calls += 1;
            class.work += work;
        }
        if let Some(rule) = self.rules.get_mut(call.rule.index()) {
            *rule += 1;
        }
        if let Some(point) = self.point(call) {
            point.0 += work;
        }
        if let Some(tenant) = self.tenant(call.tenant) {
            tenant.calls += 1;
            tenant.work += work;
            tenant.class = call.class.index();
            let shape = call.shape.hash();
            if tenant.shape == shape {
                tenant.lead += work;
            } else if tenant.lead >= work {
                tenant.lead -= work;
            } else {
                (tenant.shape, tenant.lead) = (shape, work - tenant.lead);
            }
        }
    }

    fn tenant(&mut self, tenant: u64) -> Option<&mut TenantTally> {
        if self.tenants.len() >= TENANTS && !self.tenants.contains_key(&tenant) {
            return None;
        }
        Some(self.tenants.entry(tenant).or_default())
    }

    /// The engine has decided.
    pub(super) fn decided(&mut self, call: &Call, work: u64, fate: Fate) {
        let Some(class) = self.classes.get_mut(call.class.index()) else {
            return;
        };
        match fate {
            Fate::Admitted(waited) => {
                class.waited += u64::from(!waited.is_zero());
                class.longest_wait = class.longest_wait.max(waited);
            }
            Fate::Shed(shed) => {
                class.shed += 1;
                class.shed_work += work;
                *class.reasons.entry(reason(shed)).or_default() += 1;
                if let Some(point) = self.point(call) {
                    point.1 += work;
                }
                if let Some(tenant) = self.tenants.get_mut(&call.tenant) {
                    tenant.shed += 1;
                }
            }
        }
    }

    fn point(&mut self, call: &Call) -> Option<&mut (u64, u64)> {
        let classes = self.classes.len();
        let mut at = call.at.saturating_sub(self.first) / self.width;
        while at >= POINTS as u64 {
            self.width *= 2;
            at /= 2;
            let halves = std::mem::take(&mut self.points);
            self.points = halves
                .chunks(2)
                .map(|pair| {
                    let sum = |class: usize| {
                        let of = |point: &Point| point.get(class).copied().unwrap_or_default();
                        pair.iter()
                            .map(of)
                            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
                    };
                    (0..classes).map(sum).collect()
                })
                .collect();
        }
        let at = usize::try_from(at).ok()?;
        if self.points.len() <= at {
            self.points.resize(at + 1, vec![(0, 0); classes]);
        }
        self.points.get_mut(at)?.get_mut(call.class.index())
    }
}
