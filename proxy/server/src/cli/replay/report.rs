//! The result in words and numbers.

use std::time::Duration;

use proxy_core::classify::Policy;
use serde::Serialize;

use super::super::output::{Table, moment, span};
use super::tally::Tally;
use crate::explain::time;

/// Tenants listed.
const LISTED: usize = 15;

/// See the module.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    lines: u64,
    /// Lines that are no audit events.
    unreadable: u64,
    /// Events of stages that do not count.
    other_stages: u64,
    /// Requests that would be refused before they are classified.
    malformed: u64,
    requests: u64,
    out_of_order: u64,
    /// Unix seconds.
    from: u64,
    until: u64,
    capacity_cores: f64,
    /// Server time asked for per second, over everything and at its height.
    mean_cores: f64,
    peak_cores: f64,
    shed: u64,
    shed_percent: f64,
    lines_per_second: f64,
    classes: Vec<ClassRow>,
    tenants: Vec<TenantRow>,
    rules: Vec<RuleRow>,
    rules_never_matched: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ClassRow {
    class: String,
    requests: u64,
    /// Core-seconds asked for.
    work_seconds: f64,
    shed: u64,
    shed_percent: f64,
    shed_work_seconds: f64,
    waited: u64,
    longest_wait_ms: f64,
    reasons: std::collections::BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct TenantRow {
    tenant: String,
    class: String,
    requests: u64,
    work_seconds: f64,
    shed: u64,
    shed_percent: f64,
    shape: String,
}

#[derive(Debug, Serialize)]
struct RuleRow {
    rule: String,
    class: String,
    requests: u64,
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

impl Report {
    pub(super) fn of(tally: &Tally, policy: &Policy, capacity: f64, took: Duration) -> Self {
        let class_name = |at: usize| {
            let class = policy.classes().get(at);
            class.map_or_else(String::new, |class| class.name.to_string())
        };
        let classes = tally
            .classes
            .iter()
            .enumerate()
            .map(|(at, class)| ClassRow {
                class: class_name(at),
                requests: class.calls,
                work_seconds: seconds(class.work),
                shed: class.shed,
                shed_percent: percent(class.shed, class.calls),
                shed_work_seconds: seconds(class.shed_work),
                waited: class.waited,
                longest_wait_ms: class.longest_wait.as_secs_f64() * 1e3,
                reasons: class
                    .reasons
                    .iter()
                    .map(|(name, count)| ((*name).to_owned(), *count))
                    .collect(),
            });
        let name = |hash: u64| {
            let name = tally.names.get(&hash);
            name.map_or_else(|| format!("{hash:016x}"), ToString::to_string)
        };
        let mut tenants: Vec<_> = tally.tenants.iter().collect();
        tenants.sort_by_key(|(hash, tenant)| (std::cmp::Reverse(tenant.work), **hash));
        let tenants = tenants
            .into_iter()
            .take(LISTED)
            .map(|(hash, tenant)| TenantRow {
                tenant: name(*hash),
                class: class_name(tenant.class),
                requests: tenant.calls,
                work_seconds: seconds(tenant.work),
                shed: tenant.shed,
                shed_percent: percent(tenant.shed, tenant.calls),
                shape: name(tenant.shape),
            });
        let rules: Vec<RuleRow> = policy
            .rules()
            .zip(&tally.rules)
            .map(|((rule, class), requests)| RuleRow {
                rule: rule.to_owned(),
                class: class_name(class.index()),
                requests: *requests,
            })
            .collect();
        let never = rules.iter().filter(|rule| rule.requests == 0);
        let whole: u64 = tally.classes.iter().map(|class| class.work).sum();
        let shed = tally.classes.iter().map(|class| class.shed).sum();
        let point = |point: &Vec<(u64, u64)>| point.iter().map(|(work, _)| *work).sum::<u64>();
        let peak = tally.points.iter().map(point).max().unwrap_or(0);
        let length = (tally.last - tally.first).max(1_000_000);
        Self {
            lines: tally.lines,
            unreadable: tally.unreadable,
            other_stages: tally.stages,
            malformed: tally.malformed,
            requests: tally.calls,
            out_of_order: tally.late,
            from: tally.first / 1_000_000,
            until: tally.last / 1_000_000,
            capacity_cores: capacity,
            mean_cores: seconds(whole) / seconds(length),
            peak_cores: seconds(peak) / seconds(tally.width),
            shed,
            shed_percent: percent(shed, tally.calls),
            #[allow(clippy::cast_precision_loss, reason = "for people")]
            lines_per_second: tally.lines as f64 / took.as_secs_f64().max(1e-3),
            classes: classes.collect(),
            tenants: tenants.collect(),
            rules_never_matched: never.map(|rule| rule.rule.clone()).collect(),
            rules,
        }
    }

    pub(super) fn text(&self) -> String {
        let mut classes = Table::new(&[
            "CLASS",
            "REQUESTS",
            "WORK",
            "SHED",
            "SHED%",
            "SHED WORK",
            "WAITED",
            "LONGEST",
            "WHY",
        ]);
        for class in &self.classes {
            let reasons = class
                .reasons
                .iter()
                .map(|(name, count)| format!("{name} {count}"));
            classes.row([
                class.class.clone(),
                class.requests.to_string(),
                format!("{:.1}s", class.work_seconds),
                class.shed.to_string(),
                format!("{:.1}%", class.shed_percent),
                format!("{:.1}s", class.shed_work_seconds),
                class.waited.to_string(),
                time(Duration::from_secs_f64(class.longest_wait_ms / 1e3)),
                reasons.collect::<Vec<_>>().join(", "),
            ]);
        }
        let mut tenants = Table::new(&["TENANT", "CLASS", "REQUESTS", "WORK", "SHED%", "MOSTLY"]);
        for tenant in &self.tenants {
            tenants.row([
                tenant.tenant.clone(),
                tenant.class.clone(),
                tenant.requests.to_string(),
                format!("{:.1}s", tenant.work_seconds),
                format!("{:.1}%", tenant.shed_percent),
                tenant.shape.clone(),
            ]);
        }
        let mut rules = Table::new(&["RULE", "CLASS", "REQUESTS"]);
        for rule in self.rules.iter().filter(|rule| rule.requests > 0) {
            rules.row([
                rule.rule.clone(),
                rule.class.clone(),
                rule.requests.to_string(),
            ]);
        }
        let never = if self.rules_never_matched.is_empty() {
            "every rule matched".to_owned()
        } else {
            format!("never matched: {}", self.rules_never_matched.join(", "))
        };
        let mut text = format!(
            "{} requests in {} lines, {} to {} ({})\nasked for {:.2} cores on average, {:.2} at the height; capacity {}\n\
             would have been shed: {} ({:.2}%)\n\n{classes}\n{tenants}\n{rules}{never}\n",
            self.requests,
            self.lines,
            moment(self.from),
            moment(self.until),
            span(self.until.saturating_sub(self.from)),
            self.mean_cores,
            self.peak_cores,
            self.capacity_cores,
            self.shed,
            self.shed_percent,
        );
        for (count, what) in [
            (self.unreadable, "lines are no audit events"),
            (
                self.malformed,
                "requests would be refused before they are classified",
            ),
            (
                self.out_of_order,
                "events were out of order by more than a minute",
            ),
        ] {
            if count > 0 {
                text += &format!("note: {count} {what}\n");
            }
        }
        text + &format!("{:.0} lines per second\n", self.lines_per_second)
    }
}
