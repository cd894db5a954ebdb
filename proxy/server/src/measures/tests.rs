use std::net::{IpAddr, Ipv4Addr};

use proxy_core::attributes::parse;
use proxy_core::classify::Client;
use proxy_core::identity::Identity;

use super::*;

const NOW: Time = Time(5_000_000);
const UNIX: u64 = 1_800_000_000;
const LIST: &str = "/api/v1/pods";

fn target() -> Target {
    Target::default()
}

fn on_tenant(tenant: &str) -> Target {
    Target {
        tenant: Some(tenant.to_owned()),
        ..target()
    }
}

fn new(target: Target, action: Action) -> NewMeasure {
    NewMeasure {
        target,
        action,
        reason: "it storms".to_owned(),
        author: "jane".to_owned(),
        seconds: 600,
    }
}

fn agent() -> Identity {
    Identity::service_account("telemetry", "agent", None, Some("agent-1"), Some("node-1"))
}

const AGENT: &str = "system:serviceaccount:telemetry:agent";

struct Call<'a> {
    who: &'a Identity,
    target: &'a str,
    user_agent: &'a str,
    class: u8,
    now: Time,
    unix: u64,
}

fn call(who: &Identity) -> Call<'_> {
    Call {
        who,
        target: LIST,
        user_agent: "agent/1.0",
        class: 6,
        now: NOW,
        unix: UNIX,
    }
}

fn ask(measures: &Measures, call: &Call<'_>) -> Option<HeldBack> {
    let (path, query) = call.target.split_once('?').unwrap_or((call.target, ""));
    let attributes = parse("GET", path, Some(query), None).expect("a request");
    let asked = Asked {
        attributes: &attributes,
        identity: call.who,
        client: Client {
            user_agent: Some(call.user_agent),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        },
        class: ClassId(call.class),
        instance: 1,
        work: Duration::ZERO,
    };
    let class = [
        "life-signs",
        "control-plane",
        "operators",
        "nodes",
        "4",
        "5",
        "bulk",
        "7",
    ][usize::from(call.class)];
    let work = || Duration::from_secs(2);
    measures.judge(&asked, class, work, call.now, call.unix)
}

fn path(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("spillway-measures-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name);
    let _ = std::fs::remove_file(&path);
    path
}

#[test]
fn nobody_is_held_back_without_a_measure() {
    let measures = Measures::load(None, UNIX);
    assert!(measures.is_empty());
    assert_eq!(ask(&measures, &call(&agent())), None);
}

#[test]
fn whom_a_measure_names_is_held_back_and_nobody_else_until_it_is_over() {
    let measures = Measures::load(None, UNIX);
    let done = measures
        .add(new(on_tenant(AGENT), Action::Block), UNIX)
        .expect("a measure");
    assert!(!done.kept.expect("no file, no error"), "there is no file");
    let (agent, other) = (
        agent(),
        Identity::certificate("jane", Vec::new(), None, Vec::new()),
    );
    let held = ask(&measures, &call(&agent)).expect("held back");
    assert_eq!(
        (held.id, held.expires, held.ordered, held.wait),
        (1, UNIX + 600, true, None)
    );
    assert_eq!(ask(&measures, &call(&other)), None);
    assert_eq!(measures.list()[0].refused, 1);
    assert_eq!(measures.on_tenant(AGENT, UNIX + 1), Some(UNIX));
    let late = Call {
        unix: UNIX + 600,
        ..call(&agent)
    };
    assert_eq!(ask(&measures, &late), None, "to the second, swept or not");
    assert_eq!(measures.sweep(UNIX + 599), 0);
    assert_eq!(measures.sweep(UNIX + 600), 1);
    assert!(measures.is_empty());
}

#[test]
fn every_part_of_a_target_narrows_it() {
    let some = |text: &str| Some(text.to_owned());
    let agent = agent();
    let list = call(&agent);
    let watch = Call {
        target: "/apis/apps/v1/deployments?watch=1&resourceVersion=1",
        ..call(&agent)
    };
    let paged = Call {
        target: "/api/v1/namespaces/a/pods?limit=5",
        ..call(&agent)
    };
    let kubectl = Call {
        user_agent: "kubectl/v1.36",
        ..call(&agent)
    };
    let nodes = Call {
        class: 3,
        ..call(&agent)
    };
    // (target, whom of these it holds)
    for (target, holds) in [
        (
            Target {
                node: some("node-1"),
                ..target()
            },
            [true; 5],
        ),
        (
            Target {
                node: some("node-2"),
                ..target()
            },
            [false; 5],
        ),
        (
            Target {
                user_agent: some("kubectl/*"),
                ..target()
            },
            [false, false, false, true, false],
        ),
        (
            Target {
                verb: some("watch"),
                ..target()
            },
            [false, true, false, false, false],
        ),
        (
            Target {
                resource: some("deployments.apps"),
                ..target()
            },
            [false, true, false, false, false],
        ),
        (
            Target {
                resource: some("deployments.extensions"),
                ..target()
            },
            [false; 5],
        ),
        (
            Target {
                namespace: some("a"),
                ..target()
            },
            [false, false, true, false, false],
        ),
        (
            Target {
                shape: some("unlimited"),
                ..target()
            },
            [true, false, false, true, true],
        ),
        (
            Target {
                class: some("nodes"),
                ..target()
            },
            [false, false, false, false, true],
        ),
        (
            Target {
                shape: some("unlimited"),
                user_agent: some("kubectl/*"),
                ..target()
            },
            [false, false, false, true, false],
        ),
    ] {
        let measures = Measures::load(None, UNIX);
        measures
            .add(new(target.clone(), Action::Block), UNIX)
            .expect("a measure");
        let held =
            [&list, &watch, &paged, &kubectl, &nodes].map(|call| ask(&measures, call).is_some());
        assert_eq!(held, holds, "{target:?}");
    }
}

#[test]
fn the_signs_of_life_are_held_back_only_by_a_measure_that_names_them() {
    let agent = agent();
    let measures = Measures::load(None, UNIX);
    measures
        .add(new(on_tenant(AGENT), Action::Block), UNIX)
        .expect("a measure");
    let lease = Call {
        class: 0,
        ..call(&agent)
    };
    assert_eq!(ask(&measures, &lease), None);
    let named = Target {
        class: Some("life-signs".to_owned()),
        ..on_tenant(AGENT)
    };
    measures
        .add(new(named, Action::Block), UNIX)
        .expect("a measure");
    assert!(ask(&measures, &lease).is_some());
}

#[test]
fn a_slowed_tenant_gets_its_share_of_the_server_and_no_more() {
    let agent = agent();
    let measures = Measures::load(None, UNIX);
    measures
        .add(new(on_tenant(AGENT), Action::Slow(0.1)), UNIX)
        .expect("a measure");
    // Each takes 2 s of a server of one core: a tenth of it is one in 20 s.
    let mut started = 0;
    for tenth in 0..2_000_u64 {
        let now = NOW + Duration::from_millis(100 * tenth);
        started += u32::from(
            ask(
                &measures,
                &Call {
                    now,
                    ..call(&agent)
                },
            )
            .is_none(),
        );
    }
    assert!((10..=11).contains(&started), "{started} in 200 s");
    let held = ask(
        &measures,
        &Call {
            now: NOW + Duration::from_secs(200),
            ..call(&agent)
        },
    );
    assert!(held.is_none() || held.is_some_and(|held| held.wait.is_some()));
    // On four cores it may do four times as much.
    let four = Measures::load(None, UNIX);
    four.set_capacity(4e6);
    four.add(new(on_tenant(AGENT), Action::Slow(0.1)), UNIX)
        .expect("a measure");
    let started = (0..2_000_u64).filter(|tenth| {
        let now = NOW + Duration::from_millis(100 * tenth);
        ask(
            &four,
            &Call {
                now,
                ..call(&agent)
            },
        )
        .is_none()
    });
    assert!((38..=42).contains(&started.count()));
}

#[test]
fn what_means_nothing_is_refused_with_what_would() {
    let measures = Measures::load(None, UNIX);
    let good = || new(on_tenant(AGENT), Action::Block);
    let refused = |new: NewMeasure| measures.add(new, UNIX).expect_err("refused").to_string();
    assert!(refused(new(target(), Action::Block)).contains("needs a target"));
    assert!(refused(new(on_tenant(AGENT), Action::Slow(0.0))).contains("share"));
    assert!(refused(new(on_tenant(AGENT), Action::Slow(f32::NAN))).contains("share"));
    assert!(
        refused(NewMeasure {
            reason: " ".to_owned(),
            ..good()
        })
        .contains("reason")
    );
    assert!(
        refused(NewMeasure {
            author: "a\nb".to_owned(),
            ..good()
        })
        .contains("author")
    );
    assert!(
        refused(NewMeasure {
            seconds: 0,
            ..good()
        })
        .contains("seconds")
    );
    assert!(
        refused(NewMeasure {
            seconds: LONGEST + 1,
            ..good()
        })
        .contains("30 days")
    );
    let verb = Target {
        verb: Some("lst".to_owned()),
        ..target()
    };
    assert!(refused(new(verb, Action::Block)).contains("one of get, list"));
    assert!(measures.is_empty());
}

#[test]
fn only_so_many_are_in_force() {
    let measures = Measures::load(None, UNIX);
    for _ in 0..MOST {
        measures
            .take(new(on_tenant(AGENT), Action::Block), UNIX)
            .expect("room");
    }
    let more = measures.take(new(on_tenant(AGENT), Action::Block), UNIX);
    assert!(matches!(more, Err(MeasureError::TooMany)));
    // Those that are over make room, swept or not.
    assert!(
        measures
            .take(new(on_tenant(AGENT), Action::Block), UNIX + 600)
            .is_ok()
    );
}

#[test]
fn a_restart_forgets_nothing_that_is_still_in_force() {
    let path = path("restart.json");
    let measures = Measures::load(Some(path.clone()), UNIX);
    let short = NewMeasure {
        seconds: 10,
        ..new(on_tenant("short"), Action::Block)
    };
    measures.add(short, UNIX).expect("a measure");
    let done = measures
        .add(new(on_tenant(AGENT), Action::Slow(0.25)), UNIX)
        .expect("a measure");
    assert!(done.kept.expect("written"));
    let again = Measures::load(Some(path.clone()), UNIX + 60);
    let listed = again.list();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].measure, done.measure);
    assert!(
        ask(&again, &call(&agent())).is_none(),
        "the first of a share"
    );
    // A number names one measure, ever.
    let next = again
        .add(new(on_tenant("x"), Action::Block), UNIX + 60)
        .expect("a measure");
    assert_eq!(next.measure.id, 3);
    let removed = again.remove(2, "joe").expect("there is one");
    assert_eq!(removed.measure.id, 2);
    assert!(again.remove(2, "joe").is_none());
    let last = Measures::load(Some(path), UNIX + 60).list();
    assert_eq!(
        last.iter().map(|one| one.measure.id).collect::<Vec<_>>(),
        [3]
    );
}

#[test]
fn a_file_that_is_none_is_put_aside_and_the_proxy_starts() {
    let path = path("broken.json");
    std::fs::write(&path, "{\"version\":1,\"measures\":[{").expect("a file");
    let measures = Measures::load(Some(path.clone()), UNIX);
    assert!(measures.is_empty());
    let aside = path.with_extension("json.unreadable");
    assert!(
        std::fs::read_to_string(aside)
            .expect("put aside")
            .ends_with("[{")
    );
    assert!(
        measures
            .add(new(on_tenant(AGENT), Action::Block), UNIX)
            .expect("a measure")
            .kept
            .is_ok()
    );
}

#[test]
fn one_measure_that_is_not_understood_does_not_cost_the_others() {
    let path = path("newer.json");
    let measures = Measures::load(Some(path.clone()), UNIX);
    measures
        .add(new(on_tenant(AGENT), Action::Block), UNIX)
        .expect("a measure");
    let text = std::fs::read_to_string(&path).expect("a file");
    let mut value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut newer = value["measures"][0].clone();
    newer["target"]["moon_phase"] = "full".into();
    value["measures"]
        .as_array_mut()
        .expect("a list")
        .push(newer);
    std::fs::write(&path, value.to_string()).expect("a file");
    // A condition that is not understood would make the measure wider than it was meant.
    assert_eq!(Measures::load(Some(path), UNIX).list().len(), 1);
}

#[test]
fn a_measure_that_cannot_be_kept_holds_all_the_same() {
    let measures = Measures::load(Some("/dev/null/measures.json".into()), UNIX);
    let done = measures
        .add(new(on_tenant(AGENT), Action::Block), UNIX)
        .expect("a measure");
    let problem = done.kept.expect_err("no folder").to_string();
    assert!(problem.contains("would not survive a restart"), "{problem}");
    assert!(ask(&measures, &call(&agent())).is_some());
}
