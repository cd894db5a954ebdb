//! Admission as clients meet it: who runs, who waits, who is told to come back.

mod support;

use std::time::Duration;

use config::{Config, Mode, Rule};
use support::client::{Client, get};
use support::{Answer, POD, PODS, Page, World, bounded, upstream};

/// The class all users of these tests are in.
const CLASS: &str = "workload-reads";

/// Room for one LIST, however calm the server is; nothing depends on how fast this machine answers a probe.
fn room_for_one(config: &mut Config) {
    let admission = &mut config.admission;
    admission.mode = Mode::Enforce;
    admission.limit.initial = Duration::from_millis(20);
    admission.limit.min = Duration::from_millis(20);
    admission.limit.max = Duration::from_millis(20);
    admission.probe.target = Duration::from_secs(20);
    admission.probe.timeout = Duration::from_secs(30);
    admission.queue.long_deadline = Duration::from_secs(60);
    admission.rules = vec![Rule {
        name: "users of the test".to_owned(),
        when: config::Match {
            users: vec!["user-*".to_owned()],
            ..config::Match::default()
        },
        class: CLASS.to_owned(),
    }];
}

fn world(change: impl FnOnce(&mut Config)) -> World {
    World::with(upstream::Settings::default(), |config| {
        room_for_one(config);
        change(config);
    })
}

/// LISTs of different namespaces, so that none is known to be cheap.
fn list(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// Sends a LIST that the server holds until it is let through.
fn held(client: &Client, namespace: &str) -> tokio::task::JoinHandle<Answer> {
    let (mut client, path) = (client.again(), list(namespace));
    tokio::spawn(async move { client.get(&path, "gate").await })
}

fn waiting(page: &Page) -> f64 {
    page.sum("spillway_waiting_requests", &[])
}

async fn until_waiting(world: &World, count: f64) {
    world
        .proxy
        .until("waiting for admission", |page| waiting(page) == count)
        .await;
}

#[tokio::test]
async fn who_does_not_fit_waits_and_runs_when_there_is_room() {
    let world = world(|_| {});
    let client = world.user("user-a", &[]).await;
    let first = held(&client, "a");
    world.upstream.until_seen(1).await;
    let second = held(&client, "b");
    until_waiting(&world, 1.0).await;
    assert_eq!(
        world.upstream.seen().len(),
        1,
        "the second must not have reached the server"
    );
    world.upstream.let_through(1);
    assert_eq!(
        bounded("the first", first).await.expect("no panic").status,
        200
    );
    world.upstream.until_seen(2).await;
    world.upstream.let_through(1);
    assert_eq!(
        bounded("the second", second)
            .await
            .expect("no panic")
            .status,
        200
    );
    world.proxy.until_idle().await;
}

#[tokio::test]
async fn room_is_given_back_when_the_answer_ends_and_not_when_it_begins() {
    let world = world(|_| {});
    let client = world.user("user-a", &[]).await;
    let mut first = client.again();
    let begun = first
        .send(get(&list("a"), "gated-body 2"))
        .await
        .expect("a head");
    let second = held(&client, "b");
    until_waiting(&world, 1.0).await;
    assert_eq!(world.upstream.seen().len(), 1);
    world.upstream.let_through(1);
    Answer::read(begun).await;
    world.upstream.until_seen(2).await;
    world.upstream.let_through(1);
    bounded("the second", second).await.expect("no panic");
}

#[tokio::test]
async fn who_waited_too_long_is_told_to_come_back() {
    let world = world(|config| config.admission.queue.long_deadline = Duration::from_millis(50));
    let client = world.user("user-a", &[]).await;
    let _first = held(&client, "a");
    world.upstream.until_seen(1).await;
    let answer = client.again().get(&list("b"), "echo").await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("x-spillway-reason"), Some("deadline"));
    assert_eq!(answer.header("x-spillway-class"), Some(CLASS));
    let seconds: u32 = answer
        .header("retry-after")
        .and_then(|text| text.parse().ok())
        .expect("whole seconds");
    assert!((1..=32).contains(&seconds));
    let object = answer.json();
    assert_eq!(
        (object["kind"].as_str(), object["apiVersion"].as_str()),
        (Some("Status"), Some("v1"))
    );
    assert_eq!(
        (object["reason"].as_str(), object["code"].as_u64()),
        (Some("TooManyRequests"), Some(429))
    );
    assert_eq!(object["details"]["retryAfterSeconds"], seconds);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(
        world.upstream.seen().len(),
        1,
        "what is shed never reaches the server"
    );
    let labels = [("class", CLASS), ("reason", "deadline")];
    world
        .proxy
        .until("counted", |page| {
            page.sum("spillway_shed_total", &labels) == 1.0
        })
        .await;
}

#[tokio::test]
async fn beyond_the_queue_nobody_waits() {
    let world = world(|config| config.admission.queue.max_waiting = 1);
    let client = world.user("user-a", &[]).await;
    let _first = held(&client, "a");
    world.upstream.until_seen(1).await;
    let _second = held(&client, "b");
    until_waiting(&world, 1.0).await;
    let answer = client.again().get(&list("c"), "echo").await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("x-spillway-reason"), Some("queue_full"));
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_in_the_queue_back() {
    let world = world(|config| config.admission.queue.max_waiting = 1);
    let client = world.user("user-a", &[]).await;
    let first = held(&client, "a");
    world.upstream.until_seen(1).await;
    for _ in 0..3 {
        let leaving = world.user("user-a", &[]).await;
        let task = held(&leaving, "b");
        until_waiting(&world, 1.0).await;
        leaving.breaker().break_off();
        drop(task);
        until_waiting(&world, 0.0).await;
    }
    world.upstream.let_through(1);
    assert_eq!(
        bounded("the first", first).await.expect("no panic").status,
        200
    );
    world.proxy.until_idle().await;
    assert_eq!(world.upstream.seen().len(), 1, "who left was never sent on");
    assert_eq!(client.again().get(&list("c"), "echo").await.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_while_running_gives_its_room_back() {
    let world = world(|_| {});
    let leaving = world.user("user-a", &[]).await;
    let _task = held(&leaving, "a");
    world.upstream.until_seen(1).await;
    leaving.breaker().break_off();
    world.upstream.until_open(0).await;
    let mut client = world.user("user-a", &[]).await;
    assert_eq!(client.get(&list("b"), "echo").await.status, 200);
    world.proxy.until_idle().await;
}

#[tokio::test]
async fn a_failed_request_gives_its_room_back() {
    let world = world(|_| {});
    let mut client = world.user("user-a", &[]).await;
    for script in ["close", "die", "status 500", "apf", "status 404"] {
        if let Ok(answer) = client.send(get(&list("a"), script)).await {
            let _ = Answer::try_read(answer).await;
        }
        world.proxy.until_idle().await;
    }
    assert_eq!(client.get(&list("b"), "echo").await.status, 200);
}

#[tokio::test]
async fn the_reserved_lane_is_not_shed() {
    let world = world(|config| config.admission.queue.max_waiting = 0);
    let client = world.user("user-a", &[]).await;
    let _first = held(&client, "a");
    world.upstream.until_seen(1).await;
    assert_eq!(
        client.again().get(&list("b"), "echo").await.status,
        429,
        "the main lane is full"
    );
    let pair = world.pki.user("admin", &["system:masters"]);
    let mut admin =
        Client::http2(world.proxy.reserved(), &world.pki.tls().certificate(&pair)).await;
    for namespace in ["c", "d", "e"] {
        assert_eq!(admin.get(&list(namespace), "echo").await.status, 200);
    }
}

#[tokio::test]
async fn the_signs_of_life_pass_a_full_house() {
    let world = world(|config| config.admission.queue.max_waiting = 0);
    let client = world.user("user-a", &[]).await;
    let _first = held(&client, "a");
    world.upstream.until_seen(1).await;
    assert_eq!(client.again().get(&list("b"), "echo").await.status, 429);
    let mut node = world.user("system:node:n1", &["system:nodes"]).await;
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
    for _ in 0..5 {
        let renew = support::client::request(http::Method::PUT, lease, "echo", "{}".into());
        assert_eq!(node.call(renew).await.status, 200);
    }
}

#[tokio::test]
async fn a_shadow_counts_and_refuses_nobody() {
    let world = world(|config| {
        config.admission.mode = Mode::Shadow;
        config.admission.queue.max_waiting = 0;
        config.admission.queue.long_deadline = Duration::from_millis(1);
    });
    let client = world.user("user-a", &[]).await;
    let running: Vec<_> = (0..40)
        .map(|number| held(&client, &format!("n{number}")))
        .collect();
    world.upstream.until_open(40).await;
    let page = world
        .proxy
        .until("counted", |page| {
            page.sum("spillway_shadow_shed_total", &[("class", CLASS)]) > 0.0
        })
        .await;
    assert_eq!(page.sum("spillway_shed_total", &[]), 0.0);
    assert_eq!(waiting(&page), 0.0);
    world.upstream.let_through(40);
    for task in running {
        assert_eq!(
            bounded("an answer", task).await.expect("no panic").status,
            200
        );
    }
    world.proxy.until_idle().await;
}

#[tokio::test]
async fn switched_off_it_is_a_plain_proxy() {
    let world = world(|config| {
        config.admission.mode = Mode::Off;
        config.admission.queue.max_waiting = 0;
    });
    let client = world.user("user-a", &[]).await;
    let running: Vec<_> = (0..40)
        .map(|number| held(&client, &format!("n{number}")))
        .collect();
    world.upstream.until_open(40).await;
    let page = world.proxy.metrics().await;
    assert_eq!(
        page.sum("spillway_shed_total", &[]) + page.sum("spillway_shadow_shed_total", &[]),
        0.0
    );
    world.upstream.let_through(40);
    for task in running {
        assert_eq!(
            bounded("an answer", task).await.expect("no panic").status,
            200
        );
    }
}

#[tokio::test]
async fn a_watch_holds_no_room_once_it_runs() {
    let world = world(|_| {});
    let mut client = world.user("user-a", &[]).await;
    let mut watches = Vec::new();
    for _ in 0..30 {
        let watch = client
            .send(get(
                &format!("{PODS}?watch=true&resourceVersion=7"),
                "watch",
            ))
            .await
            .expect("a head");
        assert_eq!(watch.status(), 200);
        watches.push(watch);
    }
    let page = world
        .proxy
        .until("no permit held", |page| {
            page.sum("spillway_running_requests", &[]) == 0.0
        })
        .await;
    assert_eq!(
        page.sum("spillway_lane_in_flight", &[("lane", "main")]),
        30.0
    );
    assert_eq!(client.get(POD, "echo").await.status, 200);
}

#[tokio::test]
async fn a_watch_that_begins_with_everything_holds_its_room_until_it_falls_quiet() {
    let world = world(|_| {});
    let mut client = world.user("user-a", &[]).await;
    let path = format!(
        "{PODS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut response = client.send(get(&path, "watch")).await.expect("a head");
    let frame = bounded(
        "the first event",
        http_body_util::BodyExt::frame(&mut response),
    )
    .await;
    frame.expect("more").expect("a frame");
    // The body is asked for as long as the client reads it.
    let _reading = tokio::spawn(Answer::try_read(response));
    world
        .proxy
        .until("no permit held", |page| {
            page.sum("spillway_running_requests", &[]) == 0.0
        })
        .await;
    assert_eq!(client.get(&list("b"), "echo").await.status, 200);
}
