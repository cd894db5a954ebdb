//! `spillway mode`: look at the mode and change it at run time.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::Command;
use super::Reach;
use super::admin_client::Failed;
use super::output::{Table, moment, print, span};
use crate::clock;
use crate::overrides::ModeChange;

const EXAMPLES: &str = "Examples:
  spillway mode                                   what holds now, and who changed it
  spillway mode off --for 30m --reason INC-4711   a plain proxy for half an hour
  spillway mode shadow --class bulk               decide and count, admit all the same
  spillway mode enforce --percent 10              carried out for a tenth of the tenants
  spillway mode configured                        take all run-time changes back

A change stands above the configuration and survives its reload and a replacement of the
process, and a restart where admission.state names a folder. The last word counts: a change
for all classes takes those of single classes back.";

/// Look at the mode, or change it at run time.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ModeArgs {
    /// What shall hold; without it, what holds is shown.
    mode: Option<Wanted>,
    /// Only this class.
    #[arg(long)]
    class: Option<String>,
    /// For how many of a hundred tenants `enforce` is carried out; for the others it is `shadow`.
    #[arg(long, value_name = "0..100")]
    percent: Option<f32>,
    /// Return by itself after this long, as 30m or 2h; without it the change stays until it is taken back.
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
    lasts: Option<Duration>,
    /// Why, for the log and for whoever comes next.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Wanted {
    /// A plain proxy: nothing is decided.
    Off,
    /// Decide and count, but admit everything.
    Shadow,
    /// Decide and carry it out.
    Enforce,
    /// What the configuration says: take run-time changes back.
    Configured,
}

impl Command for ModeArgs {
    fn run(self) -> Result<(), Failed> {
        let client = self.reach.client();
        let page: Value = match self.mode {
            None => client.get("/mode")?,
            Some(wanted) => {
                let mode = match wanted {
                    Wanted::Off => Some("off"),
                    Wanted::Shadow => Some("shadow"),
                    Wanted::Enforce => Some("enforce"),
                    Wanted::Configured => None,
                };
                let wish = json!({
                    "class": self.class, "mode": mode, "percent": self.percent,
                    "lasts": self.lasts.map(|lasts| lasts.as_secs()), "reason": self.reason,
                });
                client.post("/mode", &wish)?
            }
        };
        print(self.reach.output, &page, table);
        Ok(())
    }
}

fn table(page: &Value) -> String {
    let text = |value: &Value, key: &str| {
        let found = value.get(key).cloned().unwrap_or_default();
        found
            .as_str()
            .map_or_else(|| found.to_string(), str::to_owned)
    };
    let list = |key: &str| {
        page.get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut classes = Table::new(&["CLASS", "MODE", "TENANTS"]);
    for class in list("classes") {
        let percent = text(&class, "percent");
        classes.row([
            text(&class, "class"),
            text(&class, "mode"),
            format!("{}%", percent.trim_end_matches(".0")),
        ]);
    }
    let mut changes = Table::new(&["CHANGE", "CLASS", "SINCE", "ENDS", "BY", "REASON"]);
    for change in list("changes") {
        let Ok(change) = serde_json::from_value::<ModeChange>(change) else {
            continue;
        };
        let ends = |until: u64| format!("in {}", span(until.saturating_sub(clock::unix_seconds())));
        changes.row([
            change.mode.as_str().to_owned(),
            change.class.unwrap_or_else(|| "all".to_owned()),
            moment(change.since),
            change.until.map_or_else(|| "never".to_owned(), ends),
            change.by,
            change.reason.unwrap_or_default(),
        ]);
    }
    let changes = if changes.is_empty() {
        "no run-time changes: the configuration holds\n".to_owned()
    } else {
        format!("{changes}take back with: spillway mode configured\n")
    };
    let kept = match page.get("kept") {
        Some(Value::Bool(false)) if !list("changes").is_empty() => {
            "it ends with the process: no folder is configured (admission.state)\n".to_owned()
        }
        None | Some(Value::Bool(_)) => String::new(),
        Some(problem) => format!("NOT KEPT: {}\n", problem.as_str().unwrap_or_default()),
    };
    format!(
        "configured: {}\n\n{classes}\n{changes}{kept}",
        text(page, "configured")
    )
}
