//! `spillway quarantine`: block or slow one tenant, node, user agent or request shape, now and for a while.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{AdminClient, Failed};
use super::output::{Table, moment, print, span};
use super::{Command, Reach, operator};
use crate::clock;

const EXAMPLES: &str = "Examples:
  spillway culprit                                       who it is
  spillway quarantine add --tenant system:serviceaccount:telemetry:agent --reason INC-4711
  spillway quarantine add --tenant system:serviceaccount:telemetry:agent --slow 5% --for 1h --reason INC-4711
  spillway quarantine add --verb list --resource pods --shape all-namespaces --for 10m --reason INC-4711
  spillway quarantine list
  spillway quarantine remove 1

All that is given must hold. Nothing is held back on the reserved lane, and nothing of the most
important class unless --class names it. Works while the apiserver is down; survives a restart
where admission.measures names a file.";

/// Block or slow one tenant, node, user agent or request shape, with reason and expiry.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct QuarantineArgs {
    #[command(subcommand)]
    command: Wanted,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Target {
    /// A tenant, as `spillway top` names it: a user, system:serviceaccount:NAMESPACE:NAME, or system:nodes for all nodes.
    #[arg(long)]
    tenant: Option<String>,
    /// A node: its kubelet, and the pods whose tokens are bound to it.
    #[arg(long)]
    node: Option<String>,
    /// A User-Agent, exactly, or a prefix with `*` at its end.
    #[arg(long)]
    user_agent: Option<String>,
    /// A verb, as list.
    #[arg(long)]
    verb: Option<String>,
    /// A resource, as pods, pods/exec or deployments.apps.
    #[arg(long)]
    resource: Option<String>,
    /// A namespace.
    #[arg(long)]
    namespace: Option<String>,
    /// A shape, as all-namespaces or unlimited.
    #[arg(long)]
    shape: Option<String>,
    /// A class.
    #[arg(long)]
    class: Option<String>,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one per process")]
enum Wanted {
    /// Take a measure.
    #[command(after_help = EXAMPLES)]
    Add {
        #[command(flatten)]
        target: Target,
        /// Let through as much as this share of the server's time, as 5%; without it, nothing.
        #[arg(long, value_name = "PERCENT", value_parser = share)]
        slow: Option<f32>,
        /// For how long, up to 30 days (720h).
        #[arg(long = "for", value_name = "DURATION", default_value = "30m", value_parser = super::duration)]
        lasts: Duration,
        /// Why.
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// List what is in force.
    List {
        #[command(flatten)]
        reach: Reach,
    },
    /// End a measure.
    Remove {
        /// Its number, as `list` shows it.
        id: u64,
        #[command(flatten)]
        reach: Reach,
    },
}

/// Reads `5%` or `5`.
fn share(text: &str) -> Result<f32, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f32>();
    match number {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent / 100.0),
        _ => Err(format!("`{text}` is no share; write 0.1% to 100%")),
    }
}

impl Command for QuarantineArgs {
    fn run(self) -> Result<(), Failed> {
        match self.command {
            Wanted::Add {
                target,
                slow,
                lasts,
                reason,
                reach,
            } => {
                let parts = [
                    ("tenant", target.tenant),
                    ("node", target.node),
                    ("user_agent", target.user_agent),
                    ("verb", target.verb),
                    ("resource", target.resource),
                    ("namespace", target.namespace),
                    ("shape", target.shape),
                    ("class", target.class),
                ];
                let given = parts
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value?)));
                let done = take(&reach.client(), given, slow, &reason, lasts)?;
                print(reach.output, &done, |done| told(done, "in force"));
            }
            Wanted::List { reach } => {
                let list: Value = reach.client().get("/quarantine")?;
                print(reach.output, &list, table);
            }
            Wanted::Remove { id, reach } => {
                let wish = json!({ "id": id, "author": operator() });
                let done: Value = reach.client().post("/quarantine/remove", &wish)?;
                print(reach.output, &done, |done| told(done, "ended"));
            }
        }
        Ok(())
    }
}

/// Takes a measure against whoever is all of `target`: lets as much as the share `slow` through, without it nothing.
///
/// # Errors
/// [`Failed`].
pub(super) fn take(
    client: &AdminClient,
    target: impl Iterator<Item = (&'static str, String)>,
    slow: Option<f32>,
    reason: &str,
    lasts: Duration,
) -> Result<Value, Failed> {
    let target: std::collections::BTreeMap<_, _> = target.collect();
    let wish = json!({
        "target": target,
        "action": slow.map_or_else(|| json!("block"), |share| json!({ "slow": share })),
        "reason": reason,
        "author": operator(),
        "seconds": lasts.as_secs(),
    });
    client.post("/quarantine", &wish)
}

fn text(value: &Value, key: &str) -> String {
    let found = value.get(key).cloned().unwrap_or_default();
    found
        .as_str()
        .map_or_else(|| found.to_string(), str::to_owned)
}

/// Whom a measure is about, in words.
fn whom(measure: &Value) -> String {
    let target = measure.get("target").and_then(Value::as_object);
    let parts = target.into_iter().flatten();
    let parts = parts.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()));
    parts.collect::<Vec<_>>().join(" ")
}

fn action(measure: &Value) -> String {
    let slow = measure.pointer("/action/slow").and_then(Value::as_f64);
    slow.map_or_else(
        || "block".to_owned(),
        |share| format!("slow to {:.1}%", share * 100.0),
    )
}

pub(super) fn told(done: &Value, what: &str) -> String {
    let measure = done.get("measure").unwrap_or(&Value::Null);
    let expires = measure
        .get("expires")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    let kept = match done.get("kept") {
        Some(Value::Bool(true)) => "it survives a restart".to_owned(),
        Some(Value::Bool(false)) => {
            "it ends with the process: no file is configured (admission.measures)".to_owned()
        }
        Some(problem) => format!("NOT KEPT: {}", problem.as_str().unwrap_or_default()),
        None => String::new(),
    };
    let until = moment(expires);
    let (id, action, whom) = (text(measure, "id"), action(measure), whom(measure));
    match what {
        "ended" => format!("ended: {id}, {action}: {whom}\n"),
        _ => format!(
            "{what}: {action}: {whom}, until {until}\n  {kept}\n  end it with: spillway quarantine remove {id}\n"
        ),
    }
}

fn table(list: &Value) -> String {
    let now = clock::unix_seconds();
    let mut table = Table::new(&["ID", "ACTION", "WHOM", "ENDS", "REFUSED", "BY", "REASON"]);
    for measure in list.as_array().into_iter().flatten() {
        let expires = measure
            .get("expires")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        table.row([
            text(measure, "id"),
            action(measure),
            whom(measure),
            format!("in {}", span(expires.saturating_sub(now))),
            text(measure, "refused"),
            text(measure, "author"),
            text(measure, "reason"),
        ]);
    }
    if table.is_empty() {
        "nobody is in quarantine\n".to_owned()
    } else {
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_with_and_without_their_sign() {
        assert_eq!(share("5%"), Ok(0.05));
        assert_eq!(share("100"), Ok(1.0));
        for wrong in ["0", "101%", "much", "NaN"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
