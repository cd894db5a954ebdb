//! The commands `simulate` and `scoreboard`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;

use crate::controllers::Choice;
use crate::report::{Line, csv, table};
use crate::run::Outcome;
use crate::scenario::Scenario;
use crate::scoreboard::Effort;
use crate::{chart, run, scoreboard};

/// Why a command could not be carried out.
pub type Failed = Box<dyn Error + Send + Sync>;

/// Runs scenarios with the engine and its rivals in virtual time; prints a table of each and draws its curves.
#[derive(Clone, Debug, Args)]
pub struct Simulate {
    /// A built-in scenario, a file, or `all`.
    #[arg(default_value = "all")]
    scenario: String,
    /// Who decides, in this order: spillway, none, apf, static-N, dagor, gradient2, envoy, pid, codel, and the controls
    /// that must fail: frozen, always-max, always-min. Built in: all of them.
    #[arg(long, value_delimiter = ',')]
    controllers: Vec<String>,
    /// Runs of each, with seeds from 1 on.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Where the curves go, one SVG and one CSV per scenario and controller and one SVG to
    /// compare them; none if not given.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where all numbers go.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn scenarios(named: &str) -> Result<Vec<Scenario>, Failed> {
    if named == "all" {
        return Scenario::names()
            .filter_map(Scenario::builtin)
            .map(|scenario| scenario.map_err(Into::into))
            .collect();
    }
    if let Some(scenario) = Scenario::builtin(named) {
        return Ok(vec![scenario?]);
    }
    let yaml = fs::read_to_string(named).map_err(|error| {
        let names: Vec<_> = Scenario::names().collect();
        format!(
            "{named} is neither a scenario ({}) nor a file that can be read: {error}",
            names.join(", ")
        )
    })?;
    Ok(vec![Scenario::read(named, &yaml)?])
}

fn choices(named: &[String]) -> Result<Vec<Choice>, Failed> {
    if named.is_empty() {
        return Ok(Choice::ALL.into_iter().chain(Choice::NEGATIVE).collect());
    }
    let choice = |name: &String| {
        Choice::named(name).ok_or_else(|| {
            let known: Vec<_> = Choice::ALL
                .into_iter()
                .chain(Choice::NEGATIVE)
                .map(Choice::name)
                .collect();
            format!(
                "{name} is no controller; choose from {}, static-N",
                known.join(", ")
            )
            .into()
        })
    };
    named.iter().map(choice).collect()
}

fn write(path: &Path, text: &str) -> Result<(), Failed> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn drawn(result: Result<String, Box<dyn Error>>) -> Result<String, Failed> {
    result.map_err(|error| error.to_string().into())
}

fn draw(folder: &Path, scenario: &Scenario, runs: &[Vec<Outcome>]) -> Result<(), Failed> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let firsts: Vec<&Outcome> = runs.iter().filter_map(|runs| runs.first()).collect();
    for outcome in &firsts {
        let name = outcome.choice.name();
        let svg = drawn(chart::run(&format!("{}: {name}", scenario.name), outcome))?;
        write(&folder.join(format!("{}-{name}.svg", scenario.name)), &svg)?;
        write(
            &folder.join(format!("{}-{name}.csv", scenario.name)),
            &csv(outcome),
        )?;
    }
    let svg = drawn(chart::compare(&scenario.name, &firsts))?;
    write(&folder.join(format!("{}.svg", scenario.name)), &svg)
}

/// Carries out `simulate`.
///
/// # Errors
/// What could not be read, run or written.
pub fn simulate(options: &Simulate) -> Result<(), Failed> {
    let choices = choices(&options.controllers)?;
    let mut all = Vec::new();
    for scenario in scenarios(&options.scenario)? {
        let runs = run::all(&scenario, &choices, options.seeds)?;
        let lines: Vec<Line> = runs.iter().map(|runs| Line::of(&scenario, runs)).collect();
        println!("{}", table(&scenario, &lines));
        if let Some(folder) = &options.out {
            draw(folder, &scenario, &runs)?;
        }
        all.push(serde_json::json!({"scenario": scenario.name, "seeds": options.seeds, "controllers": lines}));
    }
    if let Some(path) = &options.json {
        write(path, &serde_json::to_string_pretty(&all)?)?;
    }
    Ok(())
}

/// Measures every goal and prints it beside what others have published.
#[derive(Clone, Debug, Args)]
pub struct Scoreboard {
    /// Where all numbers go.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Under ten minutes: two seeds, fewer loads, an hour instead of a day.
    #[arg(long)]
    quick: bool,
    /// Only these rows.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<u32>,
}

/// Carries out `scoreboard`; `allocations` tells how often this thread has allocated so far, if the program counts it.
///
/// # Errors
/// What could not be run or written.
pub fn scoreboard(options: &Scoreboard, allocations: Option<fn() -> u64>) -> Result<(), Failed> {
    let effort = Effort {
        seeds: if options.quick { 2 } else { 5 },
        quick: options.quick,
        allocations,
    };
    let since = Instant::now();
    let rows = scoreboard::measure(&effort, &options.rows, |row| {
        let reached = if row.reached() {
            "reached"
        } else {
            "not reached"
        };
        for figure in &row.figures {
            eprintln!("  {}: {} {}", figure.what, figure.shown, figure.goal);
        }
        eprintln!(
            "row {}: {reached} ({} s)",
            row.number,
            since.elapsed().as_secs()
        );
    })?;
    println!("{}", scoreboard::table(&rows));
    if let Some(path) = &options.json {
        write(path, &serde_json::to_string_pretty(&rows)?)?;
    }
    Ok(())
}
