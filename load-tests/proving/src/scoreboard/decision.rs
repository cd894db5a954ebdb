//! Row 5: what one decision costs this machine.

use std::hint::black_box;
use std::num::NonZero;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use proxy_core::admission::{
    Ask, ClassId, Cost, Decision, Engine, Kind, Offer, Outcome, Settings, Wake,
};
use proxy_core::time::Time;

use super::{Effort, Figure, Measured};

const DECISIONS: usize = 200_000;
const ROUNDS: usize = 5;
/// Decisions timed together where the clock itself would be most of what is seen.
const TOGETHER: usize = 16;

struct Nobody;

impl Wake for Nobody {
    fn decide(self, _: Decision) {}
}

fn ask(worker: u64) -> Ask {
    Ask {
        class: ClassId::WORKLOAD_WRITES,
        cost: Cost {
            work_us: 1_000,
            bytes: 4_000,
        },
        kind: Kind::Short,
        tenant: worker,
        instance: worker,
        shape: 3,
    }
}

fn decide(engine: &Engine<Nobody>, ask: Ask) {
    match engine.offer(black_box(ask), Time(1), || Nobody) {
        Offer::Admitted(permit) => permit.finish(Outcome::Served, Time(2)),
        other => drop(black_box(other)),
    }
}

/// What reading the clock takes, ns.
fn clock() -> u64 {
    let mut all: Vec<u64> = (0..10_000).map(|_| nanos(Instant::now())).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Times decisions: ns per decision in groups (for the middle), and one by one (for the tail), sorted.
fn time(engine: &Engine<Nobody>, ask: Ask) -> (Vec<f64>, Vec<u64>) {
    let overhead = clock();
    let mut groups = Vec::with_capacity(DECISIONS / TOGETHER);
    for _ in 0..DECISIONS / TOGETHER {
        let since = Instant::now();
        for _ in 0..TOGETHER {
            decide(engine, ask);
        }
        groups.push(nanos(since).saturating_sub(overhead) as f64 / TOGETHER as f64);
    }
    let mut singles = Vec::with_capacity(DECISIONS);
    for _ in 0..DECISIONS {
        let since = Instant::now();
        decide(engine, ask);
        singles.push(nanos(since).saturating_sub(overhead));
    }
    groups.sort_unstable_by(f64::total_cmp);
    singles.sort_unstable();
    (groups, singles)
}

/// Median and 99th percentile, ns, of every round; the worst of all workers counts.
fn rounds(workers: usize) -> (Vec<f64>, Vec<f64>) {
    let engine = Engine::new(Settings::default(), Time(0));
    let start = Barrier::new(workers);
    let (mut medians, mut tails) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..workers)
                .map(|worker| {
                    let (engine, start) = (&engine, &start);
                    scope.spawn(move || {
                        start.wait();
                        time(engine, ask(worker as u64 + 1))
                    })
                })
                .collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().ok())
                .collect()
        });
        let middle = |(groups, _): &(Vec<f64>, Vec<u64>)| {
            groups.get(groups.len() / 2).copied().unwrap_or(0.0)
        };
        let tail = |(_, singles): &(Vec<f64>, Vec<u64>)| {
            singles.get(singles.len() * 99 / 100).copied().unwrap_or(0) as f64
        };
        medians.push(results.iter().map(middle).fold(0.0, f64::max));
        tails.push(results.iter().map(tail).fold(0.0, f64::max));
    }
    (medians, tails)
}

/// Row 5.
pub(super) fn costs(effort: &Effort) -> Measured {
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let (alone_p50, alone_p99) = rounds(1);
    let (busy_p50, busy_p99) = rounds(workers);
    let mut figures = vec![
        Figure::new("alone p50", &alone_p50, 1.0, 0, " ns").at_most(200.0, "200 ns"),
        Figure::new("alone p99", &alone_p99, 1.0, 0, " ns").at_most(1_000.0, "1 µs"),
        Figure::new(format!("{workers} workers p50"), &busy_p50, 1.0, 0, " ns")
            .at_most(200.0, "200 ns"),
        Figure::new(format!("{workers} workers p99"), &busy_p99, 1.0, 0, " ns")
            .at_most(1_000.0, "1 µs"),
    ];
    let mut remarks = vec![format!(
        "offer and finish with room, {ROUNDS} rounds of {DECISIONS}; the middle from groups of {TOGETHER}, the tail one by one less the \
         clock's own time. Real time on this machine: other programs running on it are in the tail."
    )];
    match effort.allocations {
        Some(count) => {
            let engine = Engine::new(Settings::default(), Time(0));
            let before = count();
            (0..DECISIONS).for_each(|_| decide(&engine, ask(1)));
            let each = (count() - before) as f64 / DECISIONS as f64;
            figures.push(
                Figure::new("allocations", &[each], 1.0, 3, " per decision").at_most(0.0, "0"),
            );
        }
        None => remarks.push(
            "this program does not count allocations; proxy/core/tests/allocations.rs does".into(),
        ),
    }
    Ok((figures, remarks))
}
