//! Curves over time, as SVG.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::measure::{CLASSES, Sample};
use crate::run::Outcome;
use crate::world::SECOND;

const SIZE: (u32, u32) = (1_000, 900);
/// Points of a curve at most.
const POINTS: usize = 120;
const NAMES: [&str; CLASSES] = [
    "life-signs",
    "control-plane",
    "operators",
    "nodes",
    "writes",
    "reads",
    "bulk",
    "unattributed",
];
const COLOURS: [RGBColor; CLASSES] = [
    RGBColor(0, 0, 0),
    RGBColor(31, 119, 180),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(188, 189, 34),
    RGBColor(214, 39, 40),
    RGBColor(127, 127, 127),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

struct Curve {
    name: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

fn curve(name: &str, colour: RGBColor, samples: &[Sample], of: impl Fn(&Sample) -> f64) -> Curve {
    // Few points, each the mean of those it stands for: a picture and not an archive.
    let each = samples.len().div_ceil(POINTS).max(1);
    let points = samples
        .chunks(each)
        .filter_map(|chunk| {
            let last = chunk.last()?;
            let mean = chunk.iter().map(&of).sum::<f64>() / chunk.len() as f64;
            Some((last.at as f64 / SECOND as f64, (mean * 1e3).round() / 1e3))
        })
        .collect();
    Curve {
        name: name.into(),
        colour,
        points,
    }
}

fn panel(area: &Area<'_>, title: &str, curves: &[Curve]) -> Result<(), Box<dyn Error>> {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let end = all().map(|(x, _)| *x).fold(1.0, f64::max);
    let top = all().map(|(_, y)| *y).fold(1e-3, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(6)
        .x_label_area_size(22)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_labels(7)
        .y_labels(5)
        .label_style(("sans-serif", 11))
        .draw()?;
    for curve in curves {
        let colour = curve.colour;
        let drawn = chart.draw_series(LineSeries::new(
            curve.points.iter().copied(),
            colour.stroke_width(1),
        ))?;
        if curves.len() > 1 {
            drawn.label(curve.name.as_str()).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 12, y)], colour.stroke_width(2))
            });
        }
    }
    if curves.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .label_font(("sans-serif", 11))
            .draw()?;
    }
    Ok(())
}

/// One run's curves.
///
/// # Errors
/// When drawing fails, which it does not do into memory.
pub fn run(title: &str, outcome: &Outcome) -> Result<String, Box<dyn Error>> {
    let samples = &outcome.record.samples;
    let gap = samples.first().map_or(1, |sample| sample.at.max(1)) as f64;
    let share = move |work: u64, sample: &Sample| work as f64 / (gap * sample.cores.max(1) as f64);
    let total = |of: &[u64; CLASSES]| of.iter().sum::<u64>();
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let root = root.titled(title, ("sans-serif", 18))?;
        let panels = root.split_evenly((4, 2));
        let black = COLOURS[0];
        let shed = (0..CLASSES)
            .filter(|class| samples.iter().any(|sample| sample.shed[*class] > 0))
            .map(|class| {
                curve(NAMES[class], COLOURS[class], samples, move |sample| {
                    f64::from(sample.shed[class]) * 1e6 / gap
                })
            })
            .collect::<Vec<_>>();
        let useful = (0..CLASSES)
            .filter(|class| samples.iter().any(|sample| sample.useful[*class] > 0))
            .map(|class| {
                curve(NAMES[class], COLOURS[class], samples, move |sample| {
                    share(sample.useful[class], sample)
                })
            })
            .collect::<Vec<_>>();
        let load = [
            curve("offered", COLOURS[6], samples, |sample| {
                share(total(&sample.offered), sample)
            }),
            curve("goodput", COLOURS[2], samples, |sample| {
                share(total(&sample.useful), sample)
            }),
        ];
        let one = |of: fn(&Sample) -> f64| [curve("", black, samples, of)];
        let drawings: [(&str, &[Curve]); 8] = [
            ("offered and goodput, of the server", &load),
            ("goodput by class, of the server", &useful),
            ("refused by class, per second", &shed),
            ("limit", &one(|sample| sample.limit)),
            (
                "probe above its baseline, ms",
                &one(|sample| sample.probe_ms),
            ),
            (
                "99th percentile of classes 0 to 3, ms",
                &one(|sample| sample.p99_ms),
            ),
            (
                "server memory, GiB",
                &one(|sample| sample.memory as f64 / f64::from(1 << 30)),
            ),
            (
                "classes 0 and 1 under way, ms of the server",
                &one(|sample| sample.backlog_ms),
            ),
        ];
        for (area, (title, curves)) in panels.iter().zip(drawings) {
            panel(area, title, curves)?;
        }
        root.present()?;
    }
    Ok(text)
}

/// Several controllers beside each other: goodput, probe, and the important ones' latency.
///
/// # Errors
/// As [`run`].
pub fn compare(title: &str, outcomes: &[&Outcome]) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (1_000, 700)).into_drawing_area();
        root.fill(&WHITE)?;
        let root = root.titled(title, ("sans-serif", 18))?;
        let panels = root.split_evenly((3, 1));
        let each = |of: &dyn Fn(&Sample, f64) -> f64| -> Vec<Curve> {
            outcomes
                .iter()
                .enumerate()
                .map(|(nth, outcome)| {
                    let samples = &outcome.record.samples;
                    let gap = samples.first().map_or(1, |sample| sample.at.max(1)) as f64;
                    let colour = COLOURS[(nth + 2) % CLASSES];
                    curve(&outcome.choice.name(), colour, samples, |sample| {
                        of(sample, gap)
                    })
                })
                .collect()
        };
        let goodput = each(&|sample, gap| {
            sample.useful.iter().sum::<u64>() as f64 / (gap * sample.cores.max(1) as f64)
        });
        let slow = each(&|sample, _| sample.p99_ms.max(1.0).log10());
        let probe = each(&|sample, _| sample.probe_ms.max(1.0).log10());
        panel(&panels[0], "goodput, of the server", &goodput)?;
        panel(
            &panels[1],
            "99th percentile of classes 0 to 3, powers of ten ms",
            &slow,
        )?;
        panel(
            &panels[2],
            "probe above its baseline, powers of ten ms",
            &probe,
        )?;
        root.present()?;
    }
    Ok(text)
}
