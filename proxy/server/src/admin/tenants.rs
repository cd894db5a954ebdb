//! Who asks for how much, and who is behind an overload: as JSON, and as series for Prometheus.
//!
//! The series are written by hand because their labels come and go: the tenants that ask for most now, and one `other`
//! for all the rest. A registry would keep every tenant that was ever among them.

use std::fmt::Write as _;

use proxy_core::admission::{Culprit, Kind, TenantView};
use serde_json::{Value, json};

use crate::clock;
use crate::shared::Shared;
use crate::snapshot::Snapshot;

/// Tenants with series of their own.
pub(crate) const SERIES: usize = 20;
/// Name and text of the families written here, all gauges: demand, refused, culprit.
pub(crate) const FAMILIES: [(&str, &str); 3] = [
    (
        "spillway_tenant_demand_cores",
        "Server time asked for per second, refused or not, by tenant, for those who ask for most; `other` is the rest.",
    ),
    (
        "spillway_tenant_refused_ratio",
        "Of the server time a tenant asks for, the share that was refused, by load, a limit or a quarantine, for those who ask for most.",
    ),
    (
        "spillway_culprit_share_ratio",
        "Of all server time asked for, the share of the tenant behind the present overload; absent without one.",
    ),
];
/// Tenants told apart in JSON.
const LISTED: usize = 100;

/// The page of all tenants: `{"tenants": […], "culprit": …}`.
pub(super) fn page(shared: &Shared) -> Value {
    let snapshot = shared.snapshot.load();
    let tenants: Vec<Value> = shared
        .engine
        .top_tenants(LISTED)
        .iter()
        .map(|tenant| describe(shared, &snapshot, tenant))
        .collect();
    json!({
        "level": shared.engine.level().map(|level| level.to_string()),
        "culprit": culprit(shared, &snapshot),
        "tenants": tenants,
    })
}

fn culprit(shared: &Shared, snapshot: &Snapshot) -> Value {
    let Some(culprit) = shared.engine.culprit() else {
        return Value::Null;
    };
    let Culprit {
        tenant,
        herd,
        overload,
        named,
    } = culprit;
    let mut described = describe(shared, snapshot, &tenant);
    if let Some(object) = described.as_object_mut() {
        object.insert("herd".to_owned(), json!(herd));
        object.insert("overload_since".to_owned(), json!(clock::to_unix(overload)));
        object.insert("named_at".to_owned(), json!(clock::to_unix(named)));
    }
    described
}

fn describe(shared: &Shared, snapshot: &Snapshot, tenant: &TenantView) -> Value {
    json!({
        "tenant": &*shared.names.of(tenant.tenant),
        "class": &*snapshot.class(tenant.class).name,
        "kind": match tenant.kind { Kind::Short => "short", Kind::Long => "long" },
        "shape": tenant.shape.map(|shape| shared.names.of(shape).to_string()),
        "instances": tenant.instances,
        "requests_per_second": tenant.requests,
        "demand_cores": tenant.asked,
        "refused_ratio": tenant.refused,
        "share_ratio": tenant.share,
        "surging_since": tenant.since.map(clock::to_unix),
        "user_level": tenant.level,
    })
}

/// Series of those who ask for most, to be appended to the page for Prometheus.
pub(super) fn series(shared: &Shared) -> String {
    let snapshot = shared.snapshot.load();
    let top = shared.engine.top_tenants(SERIES);
    let mut page = String::new();
    let mut demand = String::new();
    let mut refused = String::new();
    for tenant in &top {
        let labels = format!(
            "{{tenant=\"{}\",class=\"{}\",kind=\"{}\"}}",
            escape(&shared.names.of(tenant.tenant)),
            escape(&snapshot.class(tenant.class).name),
            match tenant.kind {
                Kind::Short => "short",
                Kind::Long => "long",
            },
        );
        let _ = writeln!(
            demand,
            "spillway_tenant_demand_cores{labels} {}",
            tenant.asked
        );
        let _ = writeln!(
            refused,
            "spillway_tenant_refused_ratio{labels} {}",
            tenant.refused
        );
    }
    if let Some(first) = top.first().filter(|first| first.share > 0.0) {
        let listed: f32 = top.iter().map(|tenant| tenant.asked).sum();
        // With all of them listed there is no rest, but what rounding leaves.
        let others = match top.len() < SERIES {
            true => 0.0,
            false => (first.asked / first.share - listed).max(0.0),
        };
        let _ = writeln!(
            demand,
            "spillway_tenant_demand_cores{{tenant=\"other\",class=\"\",kind=\"\"}} {others}"
        );
    }
    let mut gauge = |name: &str, help: &str, lines: &str| {
        let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} gauge\n{lines}\n");
    };
    let [
        (demand_name, demand_help),
        (refused_name, refused_help),
        (culprit_name, culprit_help),
    ] = FAMILIES;
    gauge(demand_name, demand_help, &demand);
    gauge(refused_name, refused_help, &refused);
    let culprit = shared.engine.culprit().map_or(String::new(), |culprit| {
        let tenant = culprit.tenant;
        let shape = tenant.shape.map(|shape| shared.names.of(shape));
        format!(
            "spillway_culprit_share_ratio{{tenant=\"{}\",class=\"{}\",shape=\"{}\"}} {}\n",
            escape(&shared.names.of(tenant.tenant)),
            escape(&snapshot.class(tenant.class).name),
            escape(shape.as_deref().unwrap_or("")),
            tenant.share
        )
    });
    gauge(culprit_name, culprit_help, &culprit);
    page
}

/// A label's value as the exposition format wants it.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_name_cannot_break_out_of_its_label() {
        assert_eq!(escape("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
