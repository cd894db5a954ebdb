//! The result as a picture: what was asked for over time, stacked by class; what would have been shed, hatched below zero.

use std::fmt::Write as _;

use proxy_core::classify::Policy;

use super::super::output::moment;
use super::tally::Tally;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 60.0;
/// Of the plot, for what is shed.
const BELOW: f64 = 140.0;

/// Distinguishable also by those who do not see red (Okabe and Ito).
const COLOURS: [&str; 8] = [
    "#0072b2", "#56b4e9", "#009e73", "#f0e442", "#e69f00", "#d55e00", "#cc79a7", "#999999",
];

fn colour(class: usize) -> &'static str {
    COLOURS
        .get(class % COLOURS.len())
        .copied()
        .unwrap_or("#000000")
}

/// Draws it.
#[allow(clippy::cast_precision_loss, reason = "pixels")]
pub(super) fn svg(tally: &Tally, policy: &Policy, capacity: f64) -> String {
    let cores = |us: u64| us as f64 / tally.width as f64;
    let total = |of: fn(&(u64, u64)) -> u64| {
        let point = |point: &Vec<(u64, u64)>| cores(point.iter().map(of).sum());
        tally.points.iter().map(point).fold(0.0, f64::max)
    };
    let height = total(|point| point.0).max(capacity) * 1.05;
    let depth = total(|point| point.1).max(height / 20.0);
    let step = WIDTH / tally.points.len().max(1) as f64;
    let zero = TOP + HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"16\">Server time asked for (above) and shed (below), in cores, by class</text>\n",
        LEFT + WIDTH + 170.0,
        zero + BELOW + 50.0
    );
    for (shed, scale) in [(false, HEIGHT / height), (true, -BELOW / depth)] {
        let mut floor = vec![0.0; tally.points.len()];
        for class in 0..tally.classes.len() {
            let mut upper = String::new();
            let mut lower = Vec::new();
            for (at, point) in tally.points.iter().enumerate() {
                let (asked, refused) = point.get(class).copied().unwrap_or_default();
                let value = cores(if shed { refused } else { asked });
                let Some(base) = floor.get_mut(at) else {
                    continue;
                };
                let (left, right) = (LEFT + at as f64 * step, LEFT + (at + 1) as f64 * step);
                lower.push((left, right, zero - *base * scale));
                *base += value;
                let y = zero - *base * scale;
                let _ = write!(upper, "{left:.1},{y:.1} {right:.1},{y:.1} ");
            }
            for (left, right, y) in lower.into_iter().rev() {
                let _ = write!(upper, "{right:.1},{y:.1} {left:.1},{y:.1} ");
            }
            let _ = writeln!(
                svg,
                "<polygon points=\"{}\" fill=\"{}\"/>",
                upper.trim_end(),
                colour(class)
            );
        }
    }
    let line = zero - capacity * HEIGHT / height;
    let right = LEFT + WIDTH;
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{line:.1}\" y2=\"{line:.1}\" stroke=\"black\" stroke-dasharray=\"6 4\"/>\n\
         <text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">capacity {capacity}</text>\n\
         <line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{zero}\" y2=\"{zero}\" stroke=\"black\"/>",
        line - 5.0
    );
    for (y, value) in [(TOP, height), (zero, 0.0), (zero + BELOW, -depth)] {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    for (x, anchor, at) in [(LEFT, "start", tally.first), (right, "end", tally.last)] {
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            zero + BELOW + 25.0,
            moment(at / 1_000_000)
        );
    }
    for (class, spec) in policy.classes().iter().enumerate() {
        let y = TOP + 22.0 * class as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"14\" height=\"14\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            right + 15.0,
            colour(class),
            right + 35.0,
            y + 12.0,
            spec.name
        );
    }
    svg + "</svg>\n"
}
