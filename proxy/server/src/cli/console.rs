//! `spillway console`: a link to the console that unlocks its switches.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::admin_client::Failed;
use super::output::{print, span};
use super::{Command, Reach, operator};

const EXAMPLES: &str = "Examples:
  spillway console                 a link whose switches work for half an hour
  spillway console --for 2h
  spillway console --end           lock the switches of all who have them

To look, no link is needed: http://127.0.0.1:9443/console (listen.admin) shows everything to whoever reaches that port.
From another machine: ssh -L 9443:127.0.0.1:9443 NODE, and open the same address there.
The link is good once and for two minutes. What is switched is in the log, as with the other commands.";

/// Print a link to the console that unlocks its switches.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ConsoleArgs {
    /// How long the switches work, 1m to 8h.
    #[arg(long = "for", value_name = "DURATION", default_value = "30m", value_parser = super::duration)]
    lasts: Duration,
    /// Lock the switches of all who have them, and make links that were not used worthless.
    #[arg(long, conflicts_with = "lasts")]
    end: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Command for ConsoleArgs {
    fn run(self) -> Result<(), Failed> {
        let client = self.reach.client();
        if self.end {
            let done: Value = client.post("/console/end", &json!({}))?;
            print(self.reach.output, &done, |done| {
                let ended = done.get("ended").and_then(Value::as_u64);
                format!("ended: {} links and sessions\n", ended.unwrap_or_default())
            });
            return Ok(());
        }
        let wish = json!({ "author": operator(), "seconds": self.lasts.as_secs() });
        let issued: Value = client.post("/console", &wish)?;
        print(self.reach.output, &issued, told);
        Ok(())
    }
}

fn told(issued: &Value) -> String {
    let text = |key: &str| issued.get(key).and_then(Value::as_str).unwrap_or_default();
    let seconds = |key: &str| span(issued.get(key).and_then(Value::as_u64).unwrap_or_default());
    let address = text("address");
    let port = address.rsplit(':').next().unwrap_or_default();
    format!(
        "{}\n  good once, within {}; the switches work for {}, in the tab that opens it\n  \
         from another machine, first: ssh -L {port}:{address} THIS-NODE\n  \
         lock them again: spillway console --end\n",
        text("url"),
        seconds("ticket_seconds"),
        seconds("seconds"),
    )
}
