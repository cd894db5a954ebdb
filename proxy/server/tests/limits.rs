//! Hard limits and measures as clients meet them.

mod support;

use std::time::Duration;

use config::{Cancel, Config, Confine, HardLimit, Match, Mode, Per, Percent, Period, Rate, Rule};
use http::Method;
use support::client::{Client, get, request, with};
use support::{Answer, EXEC, POD, PODS, Proxy, Upstream, WATCH, World, bounded, upstream};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";

fn limit(name: &str) -> HardLimit {
    HardLimit {
        name: name.to_owned(),
        when: Match::default(),
        class: None,
        per: Per::Rule,
        concurrency: None,
        rate: None,
        burst: None,
        server_time: None,
        watches: None,
        sessions: None,
        deny: false,
        message: None,
    }
}

fn one_each() -> HardLimit {
    HardLimit {
        per: Per::Tenant,
        concurrency: Some(1),
        watches: Some(1),
        sessions: Some(1),
        ..limit("one-each")
    }
}

/// Decisions are carried out, but the engine itself never has a reason to refuse.
fn world(change: impl FnOnce(&mut Config)) -> World {
    World::with(upstream::Settings::default(), |config| {
        let admission = &mut config.admission;
        admission.mode = Mode::Enforce;
        admission.limit.initial = Duration::from_secs(30);
        admission.limit.min = Duration::from_secs(30);
        change(config);
    })
}

fn refused(answer: &Answer, reason: &str) -> bool {
    answer.header("x-spillway-reason") == Some(reason)
}

/// A 429 that clients understand; seconds until they come back.
fn told_to_come_back(answer: &Answer, reason: &str) -> u32 {
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(refused(answer, reason), "{answer:?}");
    assert!(answer.header("x-spillway-class").is_some());
    let object = answer.json();
    assert_eq!(object["reason"], "TooManyRequests");
    let seconds = answer.header("retry-after").expect("Retry-After");
    let seconds: u32 = seconds.parse().expect("whole seconds");
    assert_eq!(object["details"]["retryAfterSeconds"], seconds);
    seconds
}

/// Sends a request that the server holds until it is let through.
fn held(client: &Client, path: &str) -> tokio::task::JoinHandle<Answer> {
    let (mut client, path) = (client.again(), path.to_owned());
    tokio::spawn(async move { client.get(&path, "gate").await })
}

#[tokio::test]
async fn a_tenant_has_so_many_at_once_and_others_have_their_own() {
    let world = world(|config| config.admission.limits = vec![one_each()]);
    let jane = world.user("jane", &[]).await;
    let first = held(&jane, PODS);
    world.upstream.until_seen(1).await;
    let second = jane.again().get(POD, "echo").await;
    let seconds = told_to_come_back(&second, "rule");
    assert!((1..=10).contains(&seconds));
    let message = second.json()["message"].to_string();
    assert!(
        message.contains("one-each") && message.contains("concurrency"),
        "{message}"
    );
    let mut joe = world.user("joe", &[]).await;
    assert_eq!(joe.get(POD, "echo").await.status, 200);
    world.upstream.let_through(1);
    assert_eq!(
        bounded("the first", first).await.expect("no panic").status,
        200
    );
    world.proxy.until_idle().await;
    assert_eq!(jane.again().get(POD, "echo").await.status, 200);
    assert_eq!(
        world.upstream.seen().len(),
        3,
        "what is refused is never sent"
    );
    let page = world.proxy.metrics().await;
    assert_eq!(page.sum("spillway_shed_total", &[("reason", "rule")]), 1.0);
    let labels = [("limit", "one-each"), ("bound", "concurrency")];
    assert_eq!(page.sum("spillway_limit_refused_total", &labels), 1.0);
    assert_eq!(page.sum("spillway_limit_bound", &labels), 1.0);
    assert_eq!(page.sum("spillway_limit_in_use", &labels), 0.0);
}

#[tokio::test]
async fn nobody_is_exempt_outside_the_reserved_lane() {
    let world = world(|config| {
        config.admission.limits = vec![HardLimit {
            concurrency: Some(0),
            ..limit("nothing")
        }];
    });
    let mut admin = world.user("admin", &["system:masters"]).await;
    told_to_come_back(&admin.get(POD, "echo").await, "rule");
    let pair = world.pki.user("admin", &["system:masters"]);
    let tls = world.pki.tls().certificate(&pair);
    let mut reserved = Client::http2(world.proxy.reserved(), &tls).await;
    assert_eq!(reserved.get(POD, "echo").await.status, 200);
    // What keeps nodes alive is meant only by limits that name its class.
    let mut node = world.user("system:node:n1", &["system:nodes"]).await;
    let renew = request(Method::PUT, LEASE, "echo", "{}".into());
    assert_eq!(node.call(renew).await.status, 200);
}

#[tokio::test]
async fn watches_and_sessions_count_for_their_whole_life() {
    let world = world(|config| config.admission.limits = vec![one_each()]);
    let watching = world.user("jane", &[]).await;
    let watch = watching
        .again()
        .send(get(WATCH, "watch"))
        .await
        .expect("a watch");
    assert_eq!(watch.status(), 200);
    let mut jane = world.user("jane", &[]).await;
    told_to_come_back(&jane.get(WATCH, "watch").await, "rule");
    assert_eq!(
        jane.get(POD, "echo").await.status,
        200,
        "a watch is no request at once"
    );

    let exec = || {
        with(
            with(get(EXEC, "tunnel"), "connection", "Upgrade"),
            "upgrade",
            "SPDY/3.1",
        )
    };
    let mut session = world.user_http1("jane", &[]).await;
    let breaker = session.breaker();
    let switched = session.send(exec()).await.expect("an answer");
    assert_eq!(switched.status(), 101);
    let mut another = world.user_http1("jane", &[]).await;
    told_to_come_back(&another.call(exec()).await, "rule");
    let page = world.proxy.metrics().await;
    let in_use = |bound| page.sum("spillway_limit_in_use", &[("bound", bound)]);
    assert_eq!((in_use("watches"), in_use("sessions")), (1.0, 1.0));

    breaker.break_off();
    drop((watch, switched, session));
    watching.breaker().break_off();
    let nothing = |page: &support::Page| page.sum("spillway_limit_in_use", &[]) == 0.0;
    world.proxy.until("everything is given back", nothing).await;
    let again = jane.send(get(WATCH, "watch")).await.expect("a watch");
    assert_eq!(again.status(), 200);
}

#[tokio::test]
async fn a_rate_lets_a_burst_through_and_says_when_to_come_back() {
    let world = world(|config| {
        config.admission.limits = vec![HardLimit {
            per: Per::Tenant,
            rate: Some(Rate::new(1, Period::Hour)),
            burst: Some(2),
            ..limit("slowly")
        }];
    });
    let mut jane = world.user("jane", &[]).await;
    for _ in 0..2 {
        assert_eq!(jane.get(POD, "echo").await.status, 200);
    }
    // An hour is longer than anybody is told to wait; those told together are spread.
    let seconds = told_to_come_back(&jane.get(POD, "echo").await, "rule");
    assert!((23..=32).contains(&seconds), "{seconds}");
    let mut joe = world.user("joe", &[]).await;
    assert_eq!(joe.get(POD, "echo").await.status, 200);
}

#[tokio::test]
async fn a_denied_shape_is_forbidden_and_the_client_told_what_to_do_instead() {
    let world = world(|config| {
        config.admission.limits = vec![HardLimit {
            when: Match {
                verbs: vec!["list".to_owned()],
                scopes: vec!["cluster".to_owned()],
                shapes: vec!["unlimited".to_owned(), "!any-version".to_owned()],
                ..Match::default()
            },
            deny: true,
            ..limit("no-full-lists")
        }];
    });
    let mut jane = world.user("jane", &["system:masters"]).await;
    let answer = jane.get("/api/v1/pods", "echo").await;
    assert_eq!(answer.status, 403);
    assert!(refused(&answer, "denied"));
    // With one, client-go would repeat it ten times.
    assert_eq!(answer.header("retry-after"), None);
    let object = answer.json();
    assert_eq!(
        (object["kind"].as_str(), object["reason"].as_str()),
        (Some("Status"), Some("Forbidden"))
    );
    let message = object["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("no-full-lists") && message.contains("limit=500"),
        "{message}"
    );
    for allowed in [
        "/api/v1/pods?limit=500",
        "/api/v1/pods?resourceVersion=0",
        "/api/v1/pods?watch=1&resourceVersion=5",
        PODS,
    ] {
        assert_eq!(jane.get(allowed, "echo").await.status, 200, "{allowed}");
    }
    let page = world.proxy.metrics().await;
    assert_eq!(
        page.sum("spillway_shed_total", &[("reason", "denied")]),
        1.0
    );
}

#[tokio::test]
async fn in_shadow_limits_are_counted_and_off_they_are_nothing() {
    for (mode, counted) in [(Mode::Shadow, 1.0), (Mode::Off, 0.0)] {
        let world = world(|config| {
            config.admission.mode = mode;
            config.admission.limits = vec![HardLimit {
                concurrency: Some(0),
                ..limit("nothing")
            }];
        });
        let mut jane = world.user("jane", &[]).await;
        assert_eq!(jane.get(POD, "echo").await.status, 200);
        let page = world.proxy.metrics().await;
        let labels = [("reason", "rule")];
        assert_eq!(page.sum("spillway_shadow_shed_total", &labels), counted);
        assert_eq!(page.sum("spillway_shed_total", &labels), 0.0);
    }
}

#[tokio::test]
async fn a_client_that_leaves_or_fails_gives_back_what_it_held() {
    let world = world(|config| config.admission.limits = vec![one_each()]);
    let nothing = |page: &support::Page| page.sum("spillway_limit_in_use", &[]) == 0.0;
    for path in [POD, PODS] {
        let leaving = world.user("jane", &[]).await;
        let before = world.upstream.seen().len();
        let task = held(&leaving, path);
        world.upstream.until_seen(before + 1).await;
        leaving.breaker().break_off();
        drop(task);
        world.proxy.until("given back", nothing).await;
    }
    let mut jane = world.user("jane", &[]).await;
    for script in ["close", "die", "status 500", "apf"] {
        if let Ok(answer) = jane.send(get(PODS, script)).await {
            let _ = Answer::try_read(answer).await;
        }
        world.proxy.until("given back", nothing).await;
    }
    assert_eq!(jane.get(POD, "echo").await.status, 200);
}

#[tokio::test]
async fn a_reload_keeps_the_count_of_what_runs() {
    let pki = support::Pki::new();
    let upstream = Upstream::start(&pki, upstream::Settings::default());
    let text = |concurrency| {
        let more = format!(
            "admission: {{ limits: [{{ name: few, per: tenant, concurrency: {concurrency} }}] }}\n"
        );
        support::proxy::config_text(&pki, upstream.address(), &more)
    };
    let proxy = Proxy::from_file(pki.write("config.yaml", &text(2)));
    let tls = pki.tls().certificate(&pki.user("jane", &[]));
    let mut jane = Client::http2(proxy.main(), &tls).await;
    let running = held(&jane, POD);
    upstream.until_seen(1).await;
    assert_eq!(jane.get(POD, "echo").await.status, 200);
    pki.write("config.yaml", &text(1));
    let applied = |page: &support::Page| {
        page.sum("spillway_config_reloads_total", &[("result", "applied")]) >= 1.0
    };
    proxy.until("reloaded", applied).await;
    told_to_come_back(&jane.get(POD, "echo").await, "rule");
    upstream.let_through(1);
    bounded("the first", running).await.expect("no panic");
    proxy.until_idle().await;
    assert_eq!(jane.get(POD, "echo").await.status, 200);
    assert_eq!(proxy.metrics().await.sum("spillway_limit_in_use", &[]), 0.0);
}

fn unix() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// A file of measures that block these targets for another `seconds`.
fn blocking(targets: &[serde_json::Value], seconds: u64) -> serde_json::Value {
    let measures: Vec<_> = (1..)
        .zip(targets)
        .map(|(id, target)| {
            serde_json::json!({
                "id": id, "target": target, "action": "block", "reason": "it storms", "author": "jane",
                "created": unix() - 5, "expires": unix() + seconds,
            })
        })
        .collect();
    serde_json::json!({ "version": 1, "measures": measures })
}

fn with_measures(mode: Mode, file: &str, name: &str) -> World {
    let path = std::env::temp_dir().join(format!("spillway-{name}-{}.json", std::process::id()));
    std::fs::write(&path, file).expect("a file");
    world(move |config| {
        config.admission.mode = mode;
        config.admission.measures = Some(path);
    })
}

#[tokio::test]
async fn whoever_is_quarantined_is_held_back_after_a_restart_and_in_shadow_too() {
    let targets = [
        serde_json::json!({ "tenant": "agent" }),
        serde_json::json!({ "user_agent": "noisy/*" }),
        serde_json::json!({ "node": "n1" }),
    ];
    let file = blocking(&targets, 600).to_string();
    for (mode, carried_out) in [
        (Mode::Enforce, true),
        (Mode::Shadow, true),
        (Mode::Off, false),
    ] {
        let world = with_measures(mode, &file, "quarantine");
        let mut agent = world.user("agent", &["system:masters"]).await;
        let answer = agent.get(POD, "echo").await;
        if !carried_out {
            assert_eq!(answer.status, 200, "{mode:?}");
            continue;
        }
        let seconds = told_to_come_back(&answer, "quarantined");
        assert!((23..=32).contains(&seconds), "{seconds}");
        assert!(answer.json()["message"].to_string().contains("measure 1"));
        let mut joe = world.user("joe", &[]).await;
        assert_eq!(joe.get(POD, "echo").await.status, 200);
        let noisy = with(get(POD, "echo"), "user-agent", "noisy/1.0");
        told_to_come_back(&joe.call(noisy).await, "quarantined");
        // A node's lease is not among what it is held back from.
        let mut node = world.user("system:node:n1", &["system:nodes"]).await;
        told_to_come_back(&node.get(POD, "echo").await, "quarantined");
        let renew = request(Method::PUT, LEASE, "echo", "{}".into());
        assert_eq!(node.call(renew).await.status, 200);
        // The reserved lane is never held back.
        let tls = world
            .pki
            .tls()
            .certificate(&world.pki.user("agent", &["system:masters"]));
        let mut reserved = Client::http2(world.proxy.reserved(), &tls).await;
        assert_eq!(reserved.get(POD, "echo").await.status, 200);
        let page = world.proxy.metrics().await;
        assert_eq!(
            page.sum("spillway_shed_total", &[("reason", "quarantined")]),
            3.0
        );
        assert_eq!(page.sum("spillway_measures", &[("action", "block")]), 3.0);
    }
}

#[tokio::test]
async fn a_measure_ends_by_itself() {
    let file = blocking(&[serde_json::json!({ "tenant": "agent" })], 2).to_string();
    let world = with_measures(Mode::Enforce, &file, "ends");
    let mut agent = world.user("agent", &[]).await;
    bounded("the measure is over", async {
        while agent.get(POD, "echo").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let over = |page: &support::Page| page.sum("spillway_measures", &[]) == 0.0;
    world.proxy.until("swept", over).await;
}

/// Room for one LIST; whoever storms is confined soon.
fn confining(file: std::path::PathBuf) -> World {
    world(move |config| {
        let admission = &mut config.admission;
        admission.limit.initial = Duration::from_millis(20);
        admission.limit.min = Duration::from_millis(20);
        admission.limit.max = Duration::from_millis(20);
        admission.probe.target = Duration::from_millis(20);
        admission.queue.max_waiting = 0;
        admission.rules = vec![Rule {
            name: "lists of the test".to_owned(),
            when: Match {
                users: vec!["agent".to_owned()],
                verbs: vec!["list".to_owned()],
                ..Match::default()
            },
            class: "bulk".to_owned(),
        }];
        admission.measures = Some(file);
        admission.culprit_events = Some("default".to_owned());
        admission.confine_culprit = Some(Confine {
            after: Duration::from_secs(2),
            share: Percent::from_basis_points(100),
            period: Duration::from_secs(600),
        });
        admission.cancel_culprit = Some(Cancel {
            after: Duration::from_secs(1),
            rate: Rate::new(10, Period::Second),
        });
    })
}

#[tokio::test]
async fn the_culprit_is_confined_and_then_what_it_has_running_is_broken_off() {
    let file = std::env::temp_dir().join(format!("spillway-confine-{}.json", std::process::id()));
    let _ = std::fs::remove_file(&file);
    let world = confining(file.clone());
    let agent = world.user("agent", &[]).await;
    let running = held(&agent, "/api/v1/pods");
    world.upstream.until_seen(1).await;
    let mut storming = agent.again();
    let confined = bounded("the culprit is confined", async {
        loop {
            let answer = storming.get("/api/v1/pods", "echo").await;
            assert_eq!(answer.status, 429, "{answer:?}");
            if refused(&answer, "quarantined") {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    told_to_come_back(&confined, "quarantined");
    // In the class in which it storms, and no other.
    assert_eq!(storming.get(POD, "echo").await.status, 200);
    let page = world.proxy.metrics().await;
    assert_eq!(page.sum("spillway_measures", &[("action", "slow")]), 1.0);
    support::eventually("it is kept", || {
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("culprit of an overload"))
    })
    .await;
    support::eventually("an Event is asked for", || {
        let event = "/api/v1/namespaces/default/events";
        world.upstream.seen().iter().any(|seen| seen.path == event)
    })
    .await;
    assert!(
        !running.is_finished(),
        "while the server does not queue, nothing is broken off"
    );
    world.upstream.delay_probes(200);
    let ended = bounded("the running one", running).await.expect("no panic");
    let seconds = told_to_come_back(&ended, "ended");
    assert!((30..=60).contains(&seconds), "{seconds}");
    world.upstream.until_open(0).await;
    let page = world.proxy.metrics().await;
    assert_eq!(page.sum("spillway_culprit_ended_total", &[]), 1.0);
}

#[tokio::test]
async fn an_answer_that_has_begun_is_broken_off_and_not_ended_as_if_it_were_whole() {
    let file = std::env::temp_dir().join(format!("spillway-broken-{}.json", std::process::id()));
    let _ = std::fs::remove_file(&file);
    let world = confining(file);
    let agent = world.user("agent", &[]).await;
    let running = agent
        .again()
        .send(get("/api/v1/pods", "gated-body 2"))
        .await
        .expect("a head");
    assert_eq!(running.status(), 200);
    let reading = tokio::spawn(Answer::try_read(running));
    world.upstream.delay_probes(200);
    let mut storming = agent.again();
    let ended = |page: &support::Page| page.sum("spillway_culprit_ended_total", &[]) >= 1.0;
    bounded("it is broken off", async {
        while !ended(&world.proxy.metrics().await) {
            storming.get("/api/v1/pods", "echo").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let read = bounded("the answer", reading).await.expect("no panic");
    assert!(
        read.is_err(),
        "half an answer must not look like a whole one"
    );
    world.upstream.until_open(0).await;
}
