//! What `spillway policy` prints for people.

use serde_json::Value;

use crate::cli::output::{Table, moment, span};
use crate::clock;

/// A text of a page; other values as JSON writes them, and nothing where there is none.
pub(super) fn text(page: &Value, key: &str) -> String {
    match page.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn number(page: &Value, key: &str) -> u64 {
    page.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn list<'a>(page: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    page.get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn policy(page: Option<&Value>) -> String {
    match page {
        Some(page) if page.is_object() => {
            format!(
                "{}  from {}, {}",
                text(page, "digest"),
                text(page, "origin"),
                moment(number(page, "since"))
            )
        }
        _ => "none, the configuration alone".to_owned(),
    }
}

/// `status`, and what every change prints.
pub(super) fn status(page: &Value) -> String {
    let mut lines = vec![("current", policy(page.get("current")))];
    let now = clock::unix_seconds();
    let present = |key: &str| page.get(key).filter(|value| value.is_object());
    if let Some(previous) = present("previous") {
        lines.push(("previous", policy(previous.get("policy"))));
        if let Some(until) = previous.get("watched_until").and_then(Value::as_u64) {
            let left = span(until.saturating_sub(now));
            lines.push((
                "watched",
                format!("for another {left}; the previous policy returns if it must"),
            ));
        }
    }
    if let Some(candidate) = present("candidate") {
        lines.push(("candidate", policy(candidate.get("policy"))));
        let since = span(now.saturating_sub(number(candidate, "since")));
        let stage = text(candidate, "stage");
        let what = match stage.as_str() {
            "shadow" => "shadow: nobody is judged by it".to_owned(),
            percent => format!("{percent} of the tenants are judged by it"),
        };
        lines.push(("stage", format!("{what}, for {since}")));
        if let Some(returned) = candidate.get("returned").filter(|value| value.is_object()) {
            let what = match returned.get("undone").and_then(Value::as_bool) {
                Some(true) => "undone",
                _ => "GIVEN UP",
            };
            lines.push((
                what,
                format!(
                    "{}: {}",
                    moment(number(returned, "at")),
                    text(returned, "why")
                ),
            ));
        }
    }
    if let Some(guard) = present("guard") {
        let classes: Vec<&str> = list(guard, "classes").filter_map(Value::as_str).collect();
        lines.push((
            "guard",
            format!(
                "{}; {}% more are tolerated",
                classes.join(", "),
                text(guard, "tolerance_percent")
            ),
        ));
        for side in ["old", "new"] {
            let counts = guard.get(side).cloned().unwrap_or_default();
            let (requests, refused, failed) = (
                number(&counts, "requests"),
                number(&counts, "refused"),
                number(&counts, "failed"),
            );
            lines.push(("", format!("under the {side} policy: {requests} requests, {refused} refused, {failed} failed")));
        }
    }
    if let Some(cluster) = present("from_cluster") {
        let seen = match number(cluster, "seen") {
            0 => "not seen yet".to_owned(),
            at => format!(
                "version {}, seen {} ago",
                text(cluster, "resource_version"),
                span(now.saturating_sub(at))
            ),
        };
        lines.push((
            "ConfigMap",
            format!("{}, {seen}", text(cluster, "config_map")),
        ));
        let problem = text(cluster, "problem");
        if !problem.is_empty() {
            lines.push(("PROBLEM", format!("{problem}; the policy in force stays")));
        }
    }
    lines.push((
        "on disk",
        match page.get("kept") {
            Some(Value::Bool(true)) => format!("{}, survives a restart", text(page, "file")),
            Some(Value::Bool(false)) => {
                "nothing: no file is configured (policy.file); it ends with the process".to_owned()
            }
            problem => format!(
                "NOT KEPT: {}",
                problem.and_then(Value::as_str).unwrap_or_default()
            ),
        },
    ));
    let mut printed = String::new();
    for (name, value) in lines {
        let value = value.trim_end().replace('\n', "\n           ");
        printed += &format!("{name:<10} {value}\n");
    }
    printed + next(page)
}

/// What can be done now.
fn next(page: &Value) -> &'static str {
    match page.get("stage").and_then(Value::as_str) {
        Some("shadow") => {
            "look: spillway policy diff; go on: spillway policy percent 5; take it away: spillway policy abort\n"
        }
        Some("percent") => {
            "go on: spillway policy promote; back: spillway policy shadow; take it away: spillway policy abort\n"
        }
        Some("watched") => "back to the policy before: spillway policy undo\n",
        Some("returned" | "undone") => {
            "look: spillway policy diff; take it away: spillway policy abort; let it go on: spillway policy resume\n"
        }
        _ => "",
    }
}

/// `diff`.
pub(super) fn diff(page: &Value) -> String {
    let (compared, moved) = (number(page, "compared"), number(page, "moved"));
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let share = 100.0 * moved as f64 / compared.max(1) as f64;
    let mut moves = Table::new(&["FROM", "TO", "REQUESTS"]);
    for one in list(page, "moves") {
        moves.row([text(one, "from"), text(one, "to"), text(one, "requests")]);
    }
    let mut tenants = Table::new(&["TENANT", "FROM", "TO", "REQUESTS", "JUDGED BY IT"]);
    for one in list(page, "tenants") {
        let judged = one
            .get("judged_by_it")
            .and_then(Value::as_bool)
            .unwrap_or_default();
        tenants.row([
            text(one, "tenant"),
            text(one, "from"),
            text(one, "to"),
            text(one, "requests"),
            if judged { "yes" } else { "no" }.to_owned(),
        ]);
    }
    let limits = page.get("limits").cloned().unwrap_or_default();
    let (refused, passed) = (
        number(&limits, "newly_refused"),
        number(&limits, "newly_passed"),
    );
    let mut printed = format!(
        "policy {} ({}): {compared} requests compared, {moved} move to another class ({share:.1}%)\n",
        text(page, "policy"),
        text(page, "stage")
    );
    if refused + passed > 0 {
        printed += &format!(
            "in shadow its limits would have refused {refused} that pass, and passed {passed} that are refused\n"
        );
    }
    if !moves.is_empty() {
        printed += &format!("\n{moves}\n{tenants}");
    }
    printed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_that_was_given_up_is_said_with_what_to_do() {
        let page = json!({
            "stage": "returned",
            "current": null,
            "candidate": {
                "policy": { "digest": "abc", "origin": "uid 0", "since": 5 },
                "stage": "shadow",
                "since": 5,
                "returned": { "at": 7, "why": "20% of 100 requests were refused" },
            },
            "kept": true,
            "file": "/var/lib/spillway/policy.json",
        });
        let said = status(&page);
        assert!(
            said.contains("GIVEN UP   1970-01-01T00:00:07Z: 20% of 100"),
            "{said}"
        );
        assert!(
            said.contains("current    none") && said.contains("spillway policy resume"),
            "{said}"
        );
    }

    #[test]
    fn who_moves_where_is_a_table() {
        let page = json!({
            "policy": "abc", "stage": "shadow", "compared": 200, "moved": 50,
            "moves": [{ "from": "nodes", "to": "bulk", "requests": 50 }],
            "tenants": [{ "tenant": "jane", "from": "nodes", "to": "bulk", "requests": 50, "judged_by_it": false }],
            "limits": { "newly_refused": 3, "newly_passed": 0 },
        });
        let said = diff(&page);
        assert!(
            said.contains("50 move to another class (25.0%)")
                && said.contains("refused 3 that pass"),
            "{said}"
        );
        assert!(said.contains("jane    nodes  bulk  50        no"), "{said}");
    }
}
