use std::io::Write as _;
use std::time::Duration;

use super::*;

/// A line of an audit log, as kube-apiserver writes it.
fn line(at_ms: u64, took_ms: u64, user: &str, verb: &str, uri: &str, stage: &str) -> String {
    let stamp = |ms: u64| {
        let at =
            jiff::Timestamp::from_millisecond(i64::try_from(1_700_000_000_000 + ms).expect("fits"));
        format!("{:.6}", at.expect("a time"))
    };
    format!(
        "{{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",\"level\":\"Metadata\",\"auditID\":\"id-{at_ms}-{user}\",\
         \"stage\":\"{stage}\",\"requestURI\":\"{uri}\",\"verb\":\"{verb}\",\"user\":{{\"username\":\"{user}\",\
         \"groups\":[\"system:authenticated\"]}},\"sourceIPs\":[\"192.0.2.7\"],\"userAgent\":\"agent\\/1 (\\\"x\\\")\",\
         \"responseStatus\":{{\"metadata\":{{}},\"code\":200}},\"requestReceivedTimestamp\":\"{}\",\"stageTimestamp\":\"{}\",\
         \"annotations\":{{\"authorization.k8s.io/decision\":\"allow\"}}}}\n",
        stamp(at_ms),
        stamp(at_ms + took_ms),
    )
}

/// A calm minute, with a herd of LISTs for twenty seconds of it.
fn log() -> String {
    let mut lines = Vec::new();
    for number in 0..600_u64 {
        let at = number * 100;
        lines.push((
            at + 5,
            line(
                at,
                5,
                "jane",
                "get",
                "/api/v1/namespaces/a/pods/p",
                "ResponseComplete",
            ),
        ));
    }
    for number in 0..400_u64 {
        let at = 20_000 + number * 50;
        let herd = "system:serviceaccount:mon:agent";
        lines.push((
            at + 900,
            line(at, 900, herd, "list", "/api/v1/pods", "ResponseComplete"),
        ));
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn played(name: &str, content: &[u8], capacity: f64) -> (tally::Tally, Policy) {
    let path = std::env::temp_dir().join(format!("spillway-replay-{}-{name}", std::process::id()));
    std::fs::write(&path, content).expect("written");
    let (policy, settings) = plan(None).expect("built-in");
    let source = lines::Source::open(std::slice::from_ref(&path)).expect("a file");
    let tally = stage::play(source, &policy, settings, capacity, &ProgressBar::hidden());
    let _ = std::fs::remove_file(&path);
    (tally.expect("played"), policy)
}

#[test]
fn a_herd_is_shed_at_a_small_capacity_and_people_are_not() {
    let (tally, policy) = played("herd", log().as_bytes(), 2.0);
    assert_eq!((tally.calls, tally.unreadable, tally.late), (1_000, 0, 0));
    let report = Report::of(&tally, &policy, 2.0, Duration::from_secs(1));
    let report = serde_json::to_value(report).expect("JSON");
    let class = |name: &str| {
        let classes = report["classes"].as_array().expect("classes").iter();
        classes
            .into_iter()
            .find(|class| class["class"] == name)
            .expect("a class")
            .clone()
    };
    let bulk = class("bulk");
    assert_eq!(bulk["requests"], 400);
    // 18 cores are asked for and 2 are there.
    assert!(bulk["shed_percent"].as_f64() > Some(70.0), "{bulk}");
    assert_eq!(class("operators")["shed"], 0);
    assert_eq!(
        report["tenants"][0]["tenant"],
        "system:serviceaccount:mon:agent"
    );
    assert_eq!(
        report["tenants"][0]["shape"],
        "list pods of the whole cluster"
    );
    let never = report["rules_never_matched"].as_array().expect("rules");
    assert!(never.contains(&"node-leases".into()), "{never:?}");
    let svg = picture::svg(&tally, &policy, 2.0);
    assert!(svg.starts_with("<svg") && svg.contains("capacity 2") && svg.contains("bulk"));
}

fn shed(tally: &tally::Tally) -> u64 {
    tally.classes.iter().map(|class| class.shed).sum()
}

#[test]
fn a_log_in_gz_gives_the_same() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(log().as_bytes()).expect("packed");
    let (packed, _) = played("gz", &packed.finish().expect("packed"), 2.0);
    let (plain, _) = played("plain", log().as_bytes(), 2.0);
    assert_eq!((packed.calls, shed(&packed)), (1_000, shed(&plain)));
}

#[test]
fn more_capacity_sheds_less_and_what_fits_is_not_shed() {
    // The breadth is earned while the probe is calm, so a herd that comes at once meets a narrow door at first.
    let (small, _) = played("small", log().as_bytes(), 2.0);
    let (large, _) = played("large", log().as_bytes(), 64.0);
    assert!(
        shed(&large) < shed(&small),
        "{} and {}",
        shed(&large),
        shed(&small)
    );
    let modest: String = (0..300)
        .map(|number| {
            line(
                number * 200,
                50,
                "jane",
                "list",
                "/api/v1/namespaces/a/pods",
                "ResponseComplete",
            )
        })
        .collect();
    let (fits, _) = played("fits", modest.as_bytes(), 2.0);
    assert_eq!((fits.calls, shed(&fits)), (300, 0));
}

#[test]
fn the_same_log_gives_the_same_result() {
    let result = |name| {
        let (tally, policy) = played(name, log().as_bytes(), 2.0);
        let mut report =
            serde_json::to_value(Report::of(&tally, &policy, 2.0, Duration::ZERO)).expect("JSON");
        report["lines_per_second"] = 0.into();
        report
    };
    assert_eq!(result("one"), result("two"));
}

#[test]
fn a_watch_counts_once_and_what_is_no_event_is_counted_apart() {
    let mut text = line(
        0,
        1,
        "jane",
        "watch",
        "/api/v1/pods?watch=1&resourceVersion=5",
        "RequestReceived",
    );
    text += &line(
        0,
        1,
        "jane",
        "watch",
        "/api/v1/pods?watch=1&resourceVersion=5",
        "ResponseStarted",
    );
    text += &line(
        0,
        300_000,
        "jane",
        "watch",
        "/api/v1/pods?watch=1&resourceVersion=5",
        "ResponseComplete",
    );
    text += &line(
        9,
        9,
        "bob",
        "watch",
        "/api/v1/pods?watch=1&resourceVersion=5",
        "ResponseComplete",
    );
    text += "not json\n{\"kind\":\"Event\"}\n\n";
    // No end of the last line.
    text += line(10, 1, "jane", "get", "/api", "ResponseComplete").trim_end();
    let (tally, _) = played("watch", text.as_bytes(), 4.0);
    assert_eq!((tally.calls, tally.unreadable, tally.stages), (3, 2, 1));
}

#[test]
fn a_policy_is_read_with_or_without_the_rest_of_a_configuration() {
    let path = std::env::temp_dir().join(format!("spillway-policy-{}", std::process::id()));
    let write = |text: &str| std::fs::write(&path, text).expect("written");
    write("admission:\n  rules:\n    - { name: mine, class: bulk, when: { users: [jane] } }\n");
    let (policy, _) = plan(Some(&path)).expect("good");
    assert!(policy.rules().any(|(name, _)| name == "mine"));
    write("admission:\n  rulez: []\n");
    let wrong = plan(Some(&path)).expect_err("wrong").to_string();
    let _ = std::fs::remove_file(&path);
    assert!(wrong.contains(":2:3"), "{wrong}");
}
