//! Identical reads that share a call: which do, which must not, and what a slow reader costs the others.

mod support;

use std::time::Duration;

use config::{Collapse, Config, Mode, Rule};
use support::client::{Client, get, with};
use support::{Answer, World, bounded, pattern_digest, upstream};
use tokio::task::JoinHandle;

/// Any state will do.
const CACHED: &str = "/api/v1/namespaces/a/pods?resourceVersion=0";
/// The most recent state.
const RECENT: &str = "/api/v1/namespaces/a/pods";

/// Room for one LIST, however calm the server is.
fn one_list(config: &mut Config) {
    let admission = &mut config.admission;
    admission.mode = Mode::Enforce;
    admission.collapse = Collapse::Always;
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
        class: "workload-reads".to_owned(),
    }];
}

fn world() -> World {
    World::with(upstream::Settings::default(), one_list)
}

fn ask(client: &Client, path: &str, script: &str) -> JoinHandle<Answer> {
    let (mut client, path, script) = (client.again(), path.to_owned(), script.to_owned());
    tokio::spawn(async move { client.get(&path, &script).await })
}

/// Clients of one certificate, with connections of their own.
async fn same_user(world: &World, count: usize) -> Vec<Client> {
    let pair = world.pki.user("user-a", &["dev"]);
    let tls = world.pki.tls().certificate(&pair);
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(Client::http2(world.proxy.main(), &tls).await);
    }
    clients
}

/// Waits until so many requests are inside the proxy.
async fn until_in_flight(world: &World, count: f64) {
    world
        .proxy
        .until("in flight", |page| {
            page.sum("spillway_lane_in_flight", &[]) == count
        })
        .await;
}

async fn collapsed(world: &World) -> f64 {
    let page = world.proxy.metrics().await;
    page.sum("spillway_collapsed_total", &[("class", "workload-reads")])
}

async fn all(asked: Vec<JoinHandle<Answer>>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for one in asked {
        answers.push(bounded("an answer", one).await.expect("no panic"));
    }
    answers
}

#[tokio::test]
async fn reads_of_any_state_join_a_call_on_its_way_and_all_get_the_whole_answer() {
    let world = world();
    let clients = same_user(&world, 4).await;
    let script = "gated-stream 40";
    let mut asked = vec![ask(&clients[0], CACHED, script)];
    world.upstream.until_seen(1).await;
    for number in 1..12 {
        asked.push(ask(&clients[number % 4], CACHED, script));
    }
    until_in_flight(&world, 12.0).await;
    world.upstream.let_through(1);
    for answer in all(asked).await {
        assert_eq!(answer.status, 200);
        assert_eq!(pattern_digest(40), support::body::digest(&answer.body));
    }
    assert_eq!(world.upstream.seen().len(), 1, "one call for all");
    assert_eq!(collapsed(&world).await, 11.0);
    world.proxy.until_idle().await;
}

#[tokio::test]
async fn reads_of_the_most_recent_state_join_a_call_only_before_it_is_sent() {
    let world = world();
    let client = world.user("user-a", &[]).await;
    let before = ask(&client, "/api/v1/namespaces/b/pods", "gate");
    world.upstream.until_seen(1).await;
    // No room: they wait, and those behind the first join it.
    let waiting: Vec<_> = (0..3).map(|_| ask(&client, RECENT, "gate")).collect();
    until_in_flight(&world, 4.0).await;
    world.upstream.let_through(1);
    world.upstream.until_seen(2).await;
    // The call has been sent; what the server says may be older than this question.
    let late = ask(&client, RECENT, "gate");
    until_in_flight(&world, 4.0).await;
    world.upstream.let_through(2);
    assert!(all(waiting).await.iter().all(|answer| answer.status == 200));
    assert_eq!(all(vec![before, late]).await.len(), 2);
    assert_eq!(world.upstream.seen().len(), 3);
    assert_eq!(collapsed(&world).await, 2.0);
}

#[tokio::test]
async fn only_what_the_server_could_not_tell_apart_is_shared() {
    let world = World::with(upstream::Settings::default(), |config| {
        one_list(config);
        config.admission.limit.initial = Duration::from_secs(1);
        config.admission.limit.max = Duration::from_secs(1);
    });
    // Small reads, so that there is room for all of them.
    const POD: &str = "/api/v1/namespaces/a/pods/x?resourceVersion=0";
    let a = world.user("user-a", &["dev"]).await;
    let others = [
        world.user("user-b", &["dev"]).await,
        world.user("user-a", &["ops"]).await,
    ];
    let mut asked = vec![ask(&a, POD, "gate")];
    world.upstream.until_seen(1).await;
    asked.extend(others.iter().map(|other| ask(other, POD, "gate")));
    asked.push(ask(&a, &format!("{POD}&pretty=1"), "gate"));
    for (name, value) in [
        ("accept", "application/vnd.kubernetes.protobuf"),
        ("accept-encoding", "gzip"),
        ("impersonate-user", "somebody"),
        ("x-unknown", "1"),
    ] {
        let mut client = a.again();
        let request = with(get(POD, "gate"), name, value);
        asked.push(tokio::spawn(async move { client.call(request).await }));
    }
    world.upstream.until_seen(8).await;
    // And who only calls itself otherwise shares.
    let mut client = a.again();
    let request = with(get(POD, "gate"), "user-agent", "another");
    asked.push(tokio::spawn(async move { client.call(request).await }));
    until_in_flight(&world, 9.0).await;
    world.upstream.let_through(9);
    assert!(all(asked).await.iter().all(|answer| answer.status == 200));
    assert_eq!(world.upstream.seen().len(), 8);
    assert_eq!(collapsed(&world).await, 1.0);
}

#[tokio::test]
async fn cookies_and_failures_are_nobody_elses() {
    let world = world();
    let client = world.user("user-a", &[]).await;
    for (number, script) in ["gated-cookie", "gated-status 500", "gated-status 404"]
        .into_iter()
        .enumerate()
    {
        let first = ask(&client, CACHED, script);
        world.upstream.until_seen(2 * number + 1).await;
        let second = ask(&client, CACHED, script);
        until_in_flight(&world, 2.0).await;
        world.upstream.let_through(2);
        all(vec![first, second]).await;
        assert_eq!(world.upstream.seen().len(), 2 * number + 2, "{script}");
        world.proxy.until_idle().await;
    }
    assert_eq!(collapsed(&world).await, 0.0);
}

#[tokio::test]
async fn those_whose_leader_hangs_up_are_answered_all_the_same() {
    let world = world();
    let client = world.user("user-a", &[]).await;
    let first = ask(&client, CACHED, "gate");
    world.upstream.until_seen(1).await;
    let others: Vec<_> = (0..3).map(|_| ask(&client, CACHED, "gate")).collect();
    until_in_flight(&world, 4.0).await;
    first.abort();
    world.upstream.let_through(4);
    assert!(all(others).await.iter().all(|answer| answer.status == 200));
    world.proxy.until_idle().await;
}

#[tokio::test]
async fn a_reader_that_stalls_loses_its_answer_and_costs_the_others_nothing() {
    // 20 MiB, several times what is kept for those behind.
    const SCRIPT: &str = "gated-stream 320";
    for leader_stalls in [true, false] {
        let world = world();
        let mut clients = same_user(&world, 2).await;
        let (stalling, reading) = clients.split_at_mut(1);
        let (stalling, reading) = (&mut stalling[0], &mut reading[0]);
        let (first, second) = if leader_stalls {
            (stalling, reading)
        } else {
            (reading, stalling)
        };
        let mut client = first.again();
        let first = tokio::spawn(async move { client.send_patiently(get(CACHED, SCRIPT)).await });
        world.upstream.until_seen(1).await;
        let mut client = second.again();
        let second = tokio::spawn(async move { client.send_patiently(get(CACHED, SCRIPT)).await });
        until_in_flight(&world, 2.0).await;
        world.upstream.let_through(1);
        let first = bounded("a head", first)
            .await
            .expect("no panic")
            .expect("a head");
        let second = bounded("a head", second)
            .await
            .expect("no panic")
            .expect("a head");
        let (stalled, read) = if leader_stalls {
            (first, second)
        } else {
            (second, first)
        };
        let answer = bounded("the reader", Answer::read(read)).await;
        assert_eq!(pattern_digest(320), support::body::digest(&answer.body));
        let rest = bounded("the stalled one", Answer::try_read(stalled)).await;
        assert!(rest.is_err(), "it has missed some, and must know it");
        assert_eq!(world.upstream.seen().len(), 1);
        world.proxy.until_idle().await;
    }
}

#[tokio::test]
async fn on_a_calm_server_and_in_shadow_everybody_asks_for_themselves() {
    for (collapse, mode) in [
        (Collapse::Off, Mode::Enforce),
        (Collapse::Always, Mode::Shadow),
        (Collapse::Always, Mode::Off),
    ] {
        let world = World::with(upstream::Settings::default(), |config| {
            one_list(config);
            config.admission.limit.initial = Duration::from_secs(1);
            config.admission.limit.max = Duration::from_secs(1);
            config.admission.collapse = collapse;
            config.admission.mode = mode;
        });
        let client = world.user("user-a", &[]).await;
        const POD: &str = "/api/v1/namespaces/a/pods/x?resourceVersion=0";
        let asked = (0..2).map(|_| ask(&client, POD, "gate")).collect();
        world.upstream.until_seen(2).await;
        world.upstream.let_through(2);
        all(asked).await;
    }
}
