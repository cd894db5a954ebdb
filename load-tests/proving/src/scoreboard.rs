//! The scoreboard: every goal measured, reached or not, beside what others have published.

mod calm;
mod decision;
mod fairness;
mod goodput;
mod recovery;
mod step;
mod whales;

use std::fmt::Write as _;

use serde::Serialize;

use crate::controllers::Choice;
use crate::report::Spread;
use crate::run::{Outcome, once, several};
use crate::scenario::{Scenario, WrongScenario};

/// How much is run.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Seeds of everything.
    pub seeds: u64,
    /// Under ten minutes in all: fewer loads, fewer hours.
    pub quick: bool,
    /// How often this thread has allocated so far, where the program counts it.
    pub allocations: Option<fn() -> u64>,
}

/// One measured number.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What.
    pub what: String,
    /// Over the seeds.
    pub is: Spread,
    /// As people read it.
    pub shown: String,
    /// What was asked for; empty where it is told for comparison.
    pub goal: String,
    /// Whether it was reached, by every seed; `None` where nothing was asked for.
    pub reached: Option<bool>,
}

impl Figure {
    fn new(
        what: impl Into<String>,
        values: &[f64],
        factor: f64,
        decimals: usize,
        unit: &str,
    ) -> Self {
        let is = Spread::of(values.iter().copied());
        let shown = format!("{}{unit}", is.show(factor, decimals));
        Self {
            what: what.into(),
            is,
            shown,
            goal: String::new(),
            reached: None,
        }
    }

    fn at_least(mut self, goal: f64, shown: &str) -> Self {
        self.goal = format!("≥ {shown}");
        self.reached = Some(self.is.least >= goal);
        self
    }

    fn at_most(mut self, goal: f64, shown: &str) -> Self {
        self.goal = format!("≤ {shown}");
        self.reached = Some(self.is.most <= goal);
        self
    }
}

/// A row of the scoreboard.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its number.
    pub number: u32,
    /// The goal.
    pub goal: &'static str,
    /// What others have published.
    pub reference: &'static str,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// The conditions, and what is behind a goal that was not reached.
    pub remarks: Vec<String>,
}

impl Row {
    /// Whether everything that was asked for was reached.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.figures
            .iter()
            .all(|figure| figure.reached != Some(false))
    }
}

type Measured = Result<(Vec<Figure>, Vec<String>), WrongScenario>;

/// A goal and how it is measured.
struct Goal {
    number: u32,
    goal: &'static str,
    reference: &'static str,
    measure: fn(&Effort) -> Measured,
}

const GOALS: [Goal; 11] = [
    Goal {
        number: 1,
        goal: "goodput by cost ≥ 98 % of the best static limit from 1× to 10×, ≥ 95 % at 50×",
        reference: "DAGOR shown to 2×; Uber +80 % over token bucket",
        measure: goodput::loads,
    },
    Goal {
        number: 2,
        goal: "step to 10×: class 0–1 backlog never above 100 ms; probe back under target within 250 ms",
        reference: "DAGOR 500 ms at 1.4×; Breakwater < 20 ms with client credits",
        measure: step::storm,
    },
    Goal {
        number: 3,
        goal: "reserved lane: 0 refusals and p99 within 5 ms of calm at 100×",
        reference: "Netflix 99.4 % at 12×",
        measure: step::reserved,
    },
    Goal {
        number: 4,
        goal: "priority inversions: 0",
        reference: "nobody publishes it",
        measure: step::inversions,
    },
    Goal {
        number: 5,
        goal: "decision: p50 ≤ 200 ns, p99 ≤ 1 µs, no allocation, uncontended and with all workers busy",
        reference: "Cinnamon ~1 µs",
        measure: decision::costs,
    },
    Goal {
        number: 6,
        goal: "whale attack: ≥ 97 % of throughput kept for the rest; all refused are the culprit's",
        reference: "Atropos 96 %",
        measure: whales::attack,
    },
    Goal {
        number: 7,
        goal: "memory ≤ 85 % of its limit under 1,000 concurrent full LISTs of 100k objects; no OOM",
        reference: "a real apiserver died at 16 informers",
        measure: whales::memory,
    },
    Goal {
        number: 8,
        goal: "readmission within 2 s of the storm's end, no second dip; after a 10 s outage stable within 5 s, amplification ≤ 1.1",
        reference: "DAGOR ~90 windows",
        measure: recovery::both,
    },
    Goal {
        number: 9,
        goal: "Jain index ≥ 0.99 among equal tenants over 10 s; an abuser at 100× costs each other tenant ≤ 1 %",
        reference: "–",
        measure: fairness::both,
    },
    Goal {
        number: 10,
        goal: "24 h at ≤ 0.9× with GC pauses, etcd compaction and estimate errors: 0 false sheds",
        reference: "Envoy refuses during its own probes",
        measure: calm::day,
    },
    Goal {
        number: 11,
        goal: "no tuning: within 5 % of a hand-tuned limit from 1 to 64 cores and 1 ms to 10 s",
        reference: "Breakwater's authors retuned DAGOR 40×",
        measure: goodput::no_tuning,
    },
];

/// Measures the rows of these numbers (all if none is given), telling each when it is done.
///
/// # Errors
/// [`WrongScenario`] if one of the built-in scenarios cannot be read, which a test excludes.
pub fn measure(
    effort: &Effort,
    numbers: &[u32],
    mut done: impl FnMut(&Row),
) -> Result<Vec<Row>, WrongScenario> {
    let mut rows = Vec::new();
    for goal in &GOALS {
        if !numbers.is_empty() && !numbers.contains(&goal.number) {
            continue;
        }
        let (figures, remarks) = (goal.measure)(effort)?;
        let row = Row {
            number: goal.number,
            goal: goal.goal,
            reference: goal.reference,
            figures,
            remarks,
        };
        done(&row);
        rows.push(row);
    }
    Ok(rows)
}

/// The scoreboard as a table, and below it the conditions.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| # | goal | measured: mean (least–most of the seeds) | reached | published reference |\n",
    );
    text += "| --- | --- | --- | --- | --- |\n";
    for row in rows {
        let figure = |figure: &Figure| {
            let mark = if figure.reached == Some(false) {
                " **✗**"
            } else {
                ""
            };
            format!("{}: {}{mark}", figure.what, figure.shown)
        };
        let figures: Vec<String> = row.figures.iter().map(figure).collect();
        let reached = if row.reached() { "yes" } else { "**no**" };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {reached} | {} |",
            row.number,
            row.goal,
            figures.join("<br>"),
            row.reference
        );
    }
    for row in rows {
        for remark in &row.remarks {
            let _ = writeln!(text, "\nRow {}: {remark}", row.number);
        }
    }
    text
}

/// A scenario written in the program.
fn scenario(yaml: &str) -> Result<Scenario, WrongScenario> {
    let head = "name: scoreboard\nabout: a row of the scoreboard\nexpect: {}\n";
    Scenario::read("scoreboard", &format!("{head}{yaml}"))
}

/// One controller with every seed, with a sample this often.
fn seeds(
    scenario: &Scenario,
    choice: Choice,
    effort: &Effort,
    sample_every: u64,
) -> Result<Vec<Outcome>, WrongScenario> {
    several(effort.seeds as usize, |nth| {
        once(scenario, choice, nth as u64 + 1, Some(sample_every))
    })
    .into_iter()
    .collect()
}

fn each(runs: &[Outcome], of: impl Fn(&Outcome) -> f64) -> Vec<f64> {
    runs.iter().map(of).collect()
}
