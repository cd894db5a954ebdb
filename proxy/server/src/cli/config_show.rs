//! `spillway config show`: every value in force and where it comes from.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use config::{Config, Origins};
use serde::Serialize;
use serde_json::Value;

use super::admin_client::Failed;
use super::output::{Format, Table, print};
use super::{Command, Reach};

const EXAMPLES: &str = "Examples:
  spillway config show                          the file's values, and the defaults of the rest
  spillway config show --running                what the running process goes by, and where the file differs
  spillway config show -o yaml > effective.yaml
  spillway config show -o json | jq '.[] | select(.origin != \"built-in\")'";

/// Look at the configuration.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: Wanted,
}

#[derive(Debug, Subcommand)]
enum Wanted {
    /// Show every value in force, and where it comes from.
    #[command(after_help = EXAMPLES)]
    Show {
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/spillway/config.yaml")]
        config: PathBuf,
        /// Show what the running process goes by.
        #[arg(long)]
        running: bool,
        #[command(flatten)]
        reach: Reach,
    },
}

/// One value.
#[derive(Debug, PartialEq, Serialize)]
struct Shown {
    key: String,
    value: Value,
    /// `FILE:LINE`, `built-in`, or what follows from another value.
    origin: String,
    /// What the file says, where the running process goes by something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<Value>,
}

impl Command for ConfigArgs {
    fn run(self) -> Result<(), Failed> {
        let Wanted::Show {
            config: file,
            running,
            reach,
        } = self.command;
        let read = read(&file);
        let (values, shown) = if running {
            let values: Value = reach.client().get("/config")?;
            let in_file = read.ok();
            let shown = match &in_file {
                Some((config, origins)) => {
                    let in_file = serde_json::to_value(config).unwrap_or_default();
                    compare(show(&values, origins, &file), &flat(&in_file))
                }
                None => show(&values, &Origins::default(), &file)
                    .into_iter()
                    .map(|shown| Shown {
                        origin: "running process".to_owned(),
                        ..shown
                    })
                    .collect(),
            };
            (values, shown)
        } else {
            let (config, origins) = read.map_err(|error| Failed::Refused {
                error,
                next: Some("name the file with --config, or ask the process: --running".to_owned()),
            })?;
            let values = serde_json::to_value(&config).unwrap_or_default();
            let shown = show(&values, &origins, &file);
            (values, shown)
        };
        if reach.output == Format::Yaml {
            print(Format::Yaml, &values, |_| String::new());
        } else {
            print(reach.output, &shown, |shown| table(shown));
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<(Config, Origins), String> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|problem| format!("{name}: cannot be read: {problem}"))?;
    Config::parse_with_origins(&text, &name).map_err(|report| report.to_string())
}

/// Every value with its key. Lists of plain values are one value, lists of mappings one for each.
fn flat(values: &Value) -> Vec<(String, Value)> {
    fn descend(key: &str, value: &Value, found: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (name, value) in map {
                    let dot = if key.is_empty() { "" } else { "." };
                    descend(&format!("{key}{dot}{name}"), value, found);
                }
            }
            Value::Array(list) if list.iter().any(Value::is_object) => {
                let elements = list.iter().enumerate();
                found.extend(elements.map(|(at, value)| (format!("{key}[{at}]"), value.clone())));
            }
            _ => found.push((key.to_owned(), value.clone())),
        }
    }
    let mut found = Vec::new();
    descend("", values, &mut found);
    found
}

fn show(values: &Value, origins: &Origins, file: &Path) -> Vec<Shown> {
    let origin = |key: &str| match origins.line(key) {
        Some(line) => format!("{}:{line}", file.display()),
        None if key == "listen.reserved" => "follows from listen.main".to_owned(),
        None if key == "reserved.revoked" && origins.line("reserved.client_ca").is_some() => {
            "follows from reserved.client_ca".to_owned()
        }
        None => "built-in".to_owned(),
    };
    let flat = flat(values).into_iter();
    let shown = flat.map(|(key, value)| Shown {
        origin: origin(&key),
        key,
        value,
        file: None,
    });
    shown.collect()
}

/// Marks where the running process goes by something else than the file says.
fn compare(running: Vec<Shown>, file: &[(String, Value)]) -> Vec<Shown> {
    let marked = running.into_iter().map(|shown| {
        let in_file = file.iter().find(|(key, _)| *key == shown.key);
        let in_file = in_file.map_or(&Value::Null, |(_, value)| value);
        if *in_file == shown.value {
            return shown;
        }
        Shown {
            origin: "running process".to_owned(),
            file: Some(in_file.clone()),
            ..shown
        }
    });
    marked.collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn table(shown: &[Shown]) -> String {
    let differs = shown.iter().any(|shown| shown.file.is_some());
    let mut head = vec!["KEY", "VALUE", "ORIGIN"];
    if differs {
        head.push("BUT THE FILE SAYS");
    }
    let mut table = Table::new(&head);
    for shown in shown {
        let mut row = vec![shown.key.clone(), text(&shown.value), shown.origin.clone()];
        if differs {
            row.push(shown.file.as_ref().map_or_else(String::new, text));
        }
        table.row(row);
    }
    let mut page = table.to_string();
    if differs {
        page += "\nThe process goes by other values than the file: was the reload refused (`journalctl -u spillway`), \
                 or do they need a restart (listen.*, admin.*)?\n";
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "pki: /p\nlisten:\n  main: [\"192.0.2.1:6443\"]\nadmission:\n  mode: shadow\n";

    fn shown() -> Vec<Shown> {
        let (config, origins) = Config::parse_with_origins(FILE, "f").expect("good");
        let values = serde_json::to_value(config).expect("JSON");
        show(&values, &origins, Path::new("f.yaml"))
    }

    #[test]
    fn every_value_says_where_it_comes_from() {
        let shown = shown();
        let of = |key: &str| shown.iter().find(|shown| shown.key == key).expect(key);
        assert_eq!(of("admission.mode").origin, "f.yaml:5");
        assert_eq!(of("listen.main").origin, "f.yaml:3");
        assert_eq!(of("listen.reserved").origin, "follows from listen.main");
        assert_eq!(of("admission.limit.max").origin, "built-in");
        assert_eq!(of("tls.key").value, "/p/apiserver.key");
        assert!(table(&shown).contains("admission.mode"));
    }

    #[test]
    fn what_runs_otherwise_is_marked() {
        let mut file = flat(&serde_json::to_value(Config::default()).expect("JSON"));
        file.retain(|(key, _)| key != "pki");
        let marked = compare(shown(), &file);
        let of = |key: &str| marked.iter().find(|shown| shown.key == key).expect(key);
        assert_eq!(of("admission.mode").file, Some("enforce".into()));
        assert_eq!(of("pki").file, Some(Value::Null));
        assert_eq!(of("admission.limit.max").file, None);
        assert!(table(&marked).contains("BUT THE FILE SAYS"));
    }
}
