//! `spillway level` and `spillway culprit`: how bad it is, and who it is.

use clap::Args;
use serde_json::{Value, json};

use super::admin_client::Failed;
use super::output::{millis, moment, print};
use super::{Command, Reach};
use crate::admin::status::Status;

const LEVEL_EXAMPLES: &str = "Examples:
  spillway level                 is anything refused, and beyond which level
  spillway level -o json | jq -r .level

Exit status: 0 also when requests are refused; 69 when no process answers.";

/// Say beyond which level requests are refused, and what the tuner does.
#[derive(Debug, Args)]
#[command(after_help = LEVEL_EXAMPLES)]
pub(super) struct LevelArgs {
    #[command(flatten)]
    reach: Reach,
}

impl Command for LevelArgs {
    fn run(self) -> Result<(), Failed> {
        let status: Status = self.reach.client().get("/status")?;
        let page = json!({
            "level": status.level,
            "mode": status.mode,
            "tuner": status.tuner,
            "reason": status.reason,
            "upstream": status.upstream,
            "probe_delay_ms": status.probe_delay_ms,
            "limit_ms": status.short.ceiling_ms,
            "breadth_ms": status.long.ceiling_ms,
        });
        print(self.reach.output, &page, |_| level_text(&status));
        Ok(())
    }
}

/// The class of a compound level, `6.42`.
fn class_of(level: &str) -> Option<usize> {
    level.split('.').next()?.parse().ok()
}

fn level_text(status: &Status) -> String {
    let level = match &status.level {
        None => "nothing is refused".to_owned(),
        Some(level) => {
            let class = class_of(level).and_then(|class| status.classes.get(class));
            let name = class.map_or_else(String::new, |class| format!(" (class {})", class.class));
            format!("requests beyond level {level}{name} are refused")
        }
    };
    let upstream = if status.upstream {
        format!("answers, {} late", millis(status.probe_delay_ms))
    } else {
        "DOES NOT ANSWER".to_owned()
    };
    format!(
        "{level}\nmode: {}\ntuner: {} ({})\napiserver: {upstream}\nlimit: {} of short work, {} of long\n",
        status.mode.as_str(),
        status.tuner,
        status.reason,
        millis(status.short.ceiling_ms),
        millis(status.long.ceiling_ms),
    )
}

const CULPRIT_EXAMPLES: &str = "Examples:
  spillway culprit
  spillway culprit -o json | jq -r .tenant

Exit status: 0 when somebody is named, 1 when nobody is, 69 when no process answers.";

/// Say who is behind the present overload.
#[derive(Debug, Args)]
#[command(after_help = CULPRIT_EXAMPLES)]
pub(super) struct CulpritArgs {
    #[command(flatten)]
    reach: Reach,
}

impl CulpritArgs {
    /// Whether somebody was named.
    pub(super) fn run(self) -> Result<bool, Failed> {
        let page: Value = self.reach.client().get("/tenants")?;
        let culprit = page.get("culprit").cloned().unwrap_or_default();
        let named = !culprit.is_null();
        print(self.reach.output, &culprit, culprit_text);
        Ok(named)
    }
}

fn culprit_text(culprit: &Value) -> String {
    if culprit.is_null() {
        return "no overload, or nobody in particular is behind it\n\
                who asks for most: spillway top --once\n"
            .to_owned();
    }
    let text = |key: &str| {
        let found = culprit.get(key).cloned().unwrap_or_default();
        found
            .as_str()
            .map_or_else(|| found.to_string(), str::to_owned)
    };
    let number = |key: &str| culprit.get(key).and_then(Value::as_f64).unwrap_or_default();
    let since = |key: &str| moment(culprit.get(key).and_then(Value::as_u64).unwrap_or_default());
    let herd = culprit
        .get("herd")
        .and_then(Value::as_bool)
        .unwrap_or_default();
    format!(
        "{}{}\n  class:     {}\n  sends:     {}\n  instances: {}\n  share:     {:.0} % of all server time asked for\n  \
         rate:      {:.1} requests/s, {:.2} cores\n  refused:   {:.0} %\n  overload:  since {}\n  named:     {}\n",
        text("tenant"),
        if herd { " (a herd)" } else { "" },
        text("class"),
        text("shape"),
        text("instances"),
        number("share_ratio") * 100.0,
        number("requests_per_second"),
        number("demand_cores"),
        number("refused_ratio") * 100.0,
        since("overload_since"),
        since("named_at"),
    )
}

#[cfg(test)]
mod tests {
    use proxy_core::admission::Level;
    use proxy_core::classify::ClassId;

    #[test]
    fn the_class_of_a_level_is_found_as_levels_are_written() {
        let level = Level {
            class: ClassId(6),
            user: 42,
        };
        assert_eq!(super::class_of(&level.to_string()), Some(6));
        assert_eq!(super::class_of("none"), None);
    }
}
