//! What is claimed of `enforce`, and whether it held.

use std::collections::BTreeMap;

use crate::report::{Arm, Counts, Criterion, Report, Verdict};

/// The rollback is one call of less than this, seconds.
const AT_ONCE: f64 = 1.0;
/// Share of requests of the other classes that must be served.
const HELD: f64 = 0.99;
/// What two measurements of the same thing differ by on a busy machine.
const NOISE: f64 = 0.10;
/// Of the intended storm, what must at least have been offered.
const STORM: f64 = 0.95;

/// The population that storms.
const CULPRIT: &str = "telemetry";
/// Classes that may be refused: the culprit's, and what is less important.
const CULPRITS: [&str; 2] = ["bulk", "unattributed"];

/// Judges a report that is otherwise complete.
pub(crate) fn judge(report: &Report) -> Verdict {
    let arm = |name: &str| report.arms.iter().find(|arm| arm.name == name);
    let (Some(direct), Some(enforce)) = (arm("direct"), arm("enforce")) else {
        return Verdict::default();
    };
    let criteria = vec![
        rollback_at_once(enforce),
        life_signs_served(enforce),
        goodput_held(enforce),
        life_signs_at_the_floor(report, enforce),
        only_bulk_shed(enforce),
        nothing_shed_in_calm(enforce),
        throughput_kept(direct, enforce),
        recovered(enforce),
        storm_was_one(report),
        direct_was_ruined(direct),
    ];
    Verdict {
        passed: criteria
            .iter()
            .all(|criterion| criterion.met || !criterion.required),
        criteria,
    }
}

fn criterion(name: &str, required: bool, met: bool, finding: String) -> Criterion {
    Criterion {
        name: name.to_owned(),
        required,
        met,
        finding,
    }
}

fn rollback_at_once(enforce: &Arm) -> Criterion {
    let rollback = &enforce.rollback;
    let took = rollback.call_seconds;
    let met = rollback.succeeded && rollback.tries == 1 && took.is_some_and(|took| took < AT_ONCE);
    let finding = match took {
        Some(took) => format!(
            "try {} succeeded after {:.0} ms; expected: the first, below {AT_ONCE} s",
            rollback.tries,
            took * 1000.0
        ),
        None => format!("none of {} tries succeeded", rollback.tries),
    };
    criterion("rollback at once", true, met, finding)
}

fn life_signs_served(enforce: &Arm) -> Criterion {
    let counts = enforce
        .phases
        .iter()
        .filter_map(|phase| phase.class("life-signs"));
    let (mut offered, mut lost) = (0, 0);
    for counts in counts {
        offered += counts.offered;
        lost += counts.shed + counts.failed + counts.timed_out;
    }
    let finding = format!("{lost} of {offered} lost, in all phases; expected: 0");
    criterion("life signs served", true, offered > 0 && lost == 0, finding)
}

fn goodput_held(enforce: &Arm) -> Criterion {
    let storm = enforce.phase("storm");
    let others: Vec<&Counts> = storm
        .iter()
        .flat_map(|phase| &phase.classes)
        .filter(|counts| !CULPRITS.contains(&&*counts.name) && counts.offered > 0)
        .collect();
    let worst = others
        .iter()
        .min_by(|a, b| a.served_share().total_cmp(&b.served_share()));
    let (met, finding) = match worst {
        Some(worst) => (
            worst.served_share() >= HELD,
            format!(
                "worst of {} classes: {} with {:.2} % served; expected: {:.0} %",
                others.len(),
                worst.name,
                worst.served_share() * 100.0,
                HELD * 100.0
            ),
        ),
        None => (false, "no requests of other classes".to_owned()),
    };
    criterion("goodput of the others held", true, met, finding)
}

fn life_signs_at_the_floor(report: &Report, enforce: &Arm) -> Criterion {
    let floor = report
        .floor
        .as_ref()
        .and_then(|floor| floor.life_sign_p99_ms);
    let found = storm_class(enforce, "life-signs").and_then(|counts| counts.p99_ms);
    let (met, finding) = match (found, floor) {
        (Some(found), Some(floor)) => (
            found <= floor * (1.0 + NOISE),
            format!(
                "p99 {found:.0} ms in the storm; a single LIST alone causes {floor:.0} ms \
                 ({:.0} % tolerance)",
                NOISE * 100.0
            ),
        ),
        _ => (false, "not measured".to_owned()),
    };
    criterion("life signs as with a single LIST", false, met, finding)
}

fn only_bulk_shed(enforce: &Arm) -> Criterion {
    let shed = enforce.proxy.as_ref().map(|proxy| &proxy.shed);
    let sums: Vec<(String, u64)> = shed.map(by_class).unwrap_or_default();
    let met = shed.is_some() && sums.iter().all(|(class, _)| CULPRITS.contains(&&**class));
    let text: Vec<_> = sums
        .iter()
        .map(|(class, n)| format!("{class} {n}"))
        .collect();
    let finding = match (shed, text.is_empty()) {
        (None, _) => "not measured".to_owned(),
        (_, true) => "nothing was refused".to_owned(),
        _ => format!("refused by class: {}", text.join(", ")),
    };
    criterion("only bulk refused", false, met, finding)
}

fn by_class(shed: &BTreeMap<String, BTreeMap<String, u64>>) -> Vec<(String, u64)> {
    shed.iter()
        .map(|(class, reasons)| (class.clone(), reasons.values().sum()))
        .collect()
}

fn nothing_shed_in_calm(enforce: &Arm) -> Criterion {
    let shed = enforce.proxy.as_ref().map(|proxy| &proxy.shed_in_calm);
    let text: Vec<_> = shed
        .map(by_class)
        .unwrap_or_default()
        .iter()
        .map(|(class, n)| format!("{class} {n}"))
        .collect();
    let met = shed.is_some() && text.is_empty();
    let finding = match (shed, text.is_empty()) {
        (None, _) => "not measured".to_owned(),
        (_, true) => "nothing was refused before the storm".to_owned(),
        _ => format!("refused before the storm: {}", text.join(", ")),
    };
    criterion("nothing refused in calm", false, met, finding)
}

/// Bytes of bulk answers per second of storm, finished or not: work the server
/// did.
pub(crate) fn bulk_bytes_per_second(arm: &Arm) -> Option<f64> {
    let phase = arm.phase("storm")?;
    Some(phase.population(CULPRIT)?.bytes as f64 / phase.seconds.max(f64::EPSILON))
}

/// Bulk LISTs finished per second of storm.
pub(crate) fn bulk_served_per_second(arm: &Arm) -> Option<f64> {
    let phase = arm.phase("storm")?;
    Some(phase.population(CULPRIT)?.served as f64 / phase.seconds.max(f64::EPSILON))
}

fn throughput_kept(direct: &Arm, enforce: &Arm) -> Criterion {
    let rates = (
        bulk_bytes_per_second(direct),
        bulk_bytes_per_second(enforce),
    );
    let (met, finding) = match rates {
        (Some(without), Some(with)) => (
            with >= without * (1.0 - NOISE),
            format!(
                "{:.1} MB/s of LISTs; without the proxy {:.1} MB/s, unfinished ones included \
                 ({:.0} % tolerance)",
                with / 1e6,
                without / 1e6,
                NOISE * 100.0
            ),
        ),
        _ => (false, "not measured".to_owned()),
    };
    criterion("server throughput kept", false, met, finding)
}

fn recovered(enforce: &Arm) -> Criterion {
    let finding = match enforce.recovery_seconds {
        Some(seconds) => format!("{seconds:.1} s after the storm"),
        None => "not before the end".to_owned(),
    };
    criterion(
        "recovered",
        false,
        enforce.recovery_seconds.is_some(),
        finding,
    )
}

fn storm_was_one(report: &Report) -> Criterion {
    let wanted = report.plan.factor * report.capacity.best() * STORM;
    let mut least = f64::INFINITY;
    for arm in &report.arms {
        let storm = arm.phase("storm");
        let offered = storm.and_then(|phase| {
            Some(phase.population(CULPRIT)?.offered as f64 / phase.seconds.max(f64::EPSILON))
        });
        least = least.min(offered.unwrap_or(0.0));
    }
    let finding = format!(
        "at least {least:.1} LISTs/s were offered; capacity is {:.1}/s",
        report.capacity.best()
    );
    let met = wanted > 0.0 && least >= wanted;
    criterion("the storm was one", false, met, finding)
}

fn direct_was_ruined(direct: &Arm) -> Criterion {
    let p99 = |phase: &str| direct.phase(phase)?.class("life-signs")?.p99_ms;
    let (calm, storm) = (p99("calm"), p99("storm"));
    let rollback = match direct.rollback.after_storm_start_seconds {
        Some(seconds) => format!(
            "rollback {seconds:.1} s after the storm began, at try {}",
            direct.rollback.tries
        ),
        None => "no rollback".to_owned(),
    };
    let ruined = calm
        .zip(storm)
        .is_some_and(|(calm, storm)| storm > 5.0 * calm);
    let finding = format!(
        "life signs' p99 {:.0} ms, calm {:.0} ms; {rollback}",
        storm.unwrap_or(f64::NAN),
        calm.unwrap_or(f64::NAN)
    );
    criterion("without the proxy it was ruined", false, ruined, finding)
}

fn storm_class<'a>(arm: &'a Arm, class: &str) -> Option<&'a Counts> {
    arm.phase("storm")?.class(class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Capacity, Floor, Phase, Plan, ProxyReport, Rollback};

    fn counts(name: &str, offered: u64, p99_ms: f64) -> Counts {
        Counts {
            name: name.to_owned(),
            offered,
            served: offered,
            p99_ms: Some(p99_ms),
            ..Counts::default()
        }
    }

    fn arm(name: &str) -> Arm {
        let phase = |name: &str, p99| Phase {
            name: name.to_owned(),
            seconds: 10.0,
            classes: vec![
                counts("life-signs", 500, p99),
                counts("operators", 20, p99),
                counts("bulk", 1100, 900.0),
            ],
            populations: vec![Counts {
                bytes: 1_000_000_000,
                ..counts(CULPRIT, 1000, 900.0)
            }],
        };
        let shed = BTreeMap::from([("timeout".to_owned(), 900)]);
        Arm {
            name: name.to_owned(),
            phases: vec![
                phase("calm", 5.0),
                phase("storm", 80.0),
                phase("recovery", 5.0),
            ],
            rollback: Rollback {
                succeeded: true,
                tries: 1,
                call_seconds: Some(0.02),
                after_storm_start_seconds: Some(10.0),
                ..Rollback::default()
            },
            recovery_seconds: Some(0.5),
            proxy: Some(ProxyReport {
                shed: BTreeMap::from([("bulk".to_owned(), shed)]),
                ..ProxyReport::default()
            }),
            ..Arm::default()
        }
    }

    fn good() -> Report {
        Report {
            plan: Plan {
                factor: 10.0,
                ..Plan::default()
            },
            capacity: Capacity {
                alone_per_second: 5.0,
                wide_per_second: 10.0,
                ..Capacity::default()
            },
            floor: Some(Floor {
                life_sign_p99_ms: Some(80.0),
                ..Floor::default()
            }),
            arms: vec![arm("direct"), arm("shadow"), arm("enforce")],
            ..Report::default()
        }
    }

    /// The criteria that are not met, and whether all in all it passed.
    fn missed(report: &Report) -> (Vec<String>, bool) {
        let verdict = judge(report);
        let missed = verdict.criteria.iter().filter(|criterion| !criterion.met);
        (
            missed.map(|criterion| criterion.name.clone()).collect(),
            verdict.passed,
        )
    }

    #[test]
    fn a_good_run_meets_everything() {
        assert_eq!(missed(&good()), (vec![], true));
    }

    #[test]
    fn each_criterion_can_be_missed_and_only_the_required_ones_fail() {
        type Spoil = fn(&mut Report);
        let cases: [(&str, bool, Spoil); 17] = [
            ("nothing refused in calm", true, |r| {
                let proxy = r.arms[2].proxy.as_mut().expect("a proxy");
                let reasons = BTreeMap::from([("queue_full".to_owned(), 1)]);
                proxy.shed_in_calm.insert("bulk".to_owned(), reasons);
            }),
            ("rollback at once", false, |r| r.arms[2].rollback.tries = 2),
            ("rollback at once", false, |r| {
                r.arms[2].rollback.call_seconds = Some(1.1);
            }),
            ("rollback at once", false, |r| {
                r.arms[2].rollback = Rollback::default();
            }),
            ("life signs served", false, |r| {
                r.arms[2].phases[1].classes[0].timed_out = 1;
            }),
            ("life signs served", false, |r| {
                r.arms[2].phases[2].classes[0].shed = 1;
            }),
            ("life signs served", false, |r| {
                r.arms[2].phases[0].classes[0].failed = 1;
            }),
            ("goodput of the others held", false, |r| {
                r.arms[2].phases[1].classes[1].served = 19;
            }),
            ("life signs as with a single LIST", true, |r| {
                r.arms[2].phases[1].classes[0].p99_ms = Some(100.0);
            }),
            ("life signs as with a single LIST", true, |r| r.floor = None),
            ("only bulk refused", true, |r| {
                let proxy = r.arms[2].proxy.as_mut().expect("a proxy");
                let reasons = BTreeMap::from([("queue_full".to_owned(), 1)]);
                proxy.shed.insert("nodes".to_owned(), reasons);
            }),
            ("server throughput kept", true, |r| {
                r.arms[2].phases[1].populations[0].bytes = 800_000_000;
            }),
            ("recovered", true, |r| r.arms[2].recovery_seconds = None),
            ("the storm was one", true, |r| {
                r.arms[0].phases[1].populations[0].offered = 500;
            }),
            ("the storm was one", true, |r| {
                r.capacity = Capacity::default();
            }),
            ("without the proxy it was ruined", true, |r| {
                r.arms[0].phases[1].classes[0].p99_ms = Some(6.0);
            }),
            ("goodput of the others held", false, |r| {
                r.arms[2].phases[1].classes.retain(|c| c.name == "bulk");
                r.arms[2].phases[1]
                    .classes
                    .push(counts("life-signs", 0, 80.0));
            }),
        ];
        for (name, passes, spoil) in cases {
            let mut report = good();
            spoil(&mut report);
            assert_eq!(missed(&report), (vec![name.to_owned()], passes));
        }
    }

    #[test]
    fn what_spillway_did_not_say_is_not_taken_for_good() {
        let mut report = good();
        report.arms[2].proxy = None;
        let names = ["only bulk refused", "nothing refused in calm"].map(str::to_owned);
        assert_eq!(missed(&report), (names.to_vec(), true));
    }

    #[test]
    fn a_run_without_its_arms_does_not_pass() {
        let mut report = good();
        report.arms.pop();
        assert!(!judge(&report).passed);
    }
}
