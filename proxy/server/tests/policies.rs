//! Policies beside the configuration: staged by hand, delivered through the cluster, given up when they do harm.

mod support;

use std::path::PathBuf;

use config::{FromCluster, Mode};
use proxy_core::rollout::Share;
use serde_json::{Value, json};
use support::process::{self, Ended};
use support::{Client, POD, Page, Pki, Proxy, Upstream, World, bounded, eventually, upstream};

const REFUSED: Option<i32> = Some(65);

/// Puts `jane`'s requests into the class of anonymous clients.
const MOVES: &str =
    "rules: [{ name: jane-last, class: unattributed, when: { users: ['jane*'] } }]\n";
/// Refuses operators their single reads.
const DENIES: &str =
    "limits: [{ name: no-pods, class: operators, deny: true, when: { verbs: [get] } }]\n";

struct Place {
    world: World,
}

/// How a proxy is set up that has policies.
fn settings(pki: &Pki, from_cluster: bool) -> impl FnOnce(&mut config::Config) {
    let (socket, file) = (
        pki.path().join("admin.sock"),
        pki.path().join("policy.json"),
    );
    move |config| {
        config.admin.socket = Some(socket);
        config.admission.mode = Mode::Enforce;
        config.policy.file = Some(file);
        config.policy.from_cluster = from_cluster.then(FromCluster::default);
    }
}

impl Place {
    fn new(from_cluster: bool) -> Self {
        let pki = Pki::new();
        let upstream = Upstream::start(&pki, upstream::Settings::default());
        let proxy = Proxy::start(&pki, upstream.address(), settings(&pki, from_cluster));
        Self {
            world: World {
                proxy,
                upstream,
                pki,
            },
        }
    }

    /// Stops the proxy, and starts another on the same files.
    async fn restart(&mut self, from_cluster: bool, upstream: std::net::SocketAddr) {
        let pki = &self.world.pki;
        // In its own time: the old one goes first.
        let old = std::mem::replace(&mut self.world.proxy, Proxy::start(pki, upstream, |_| {}));
        old.stop().await;
        self.world.proxy = Proxy::start(pki, upstream, settings(pki, from_cluster));
    }

    fn ask(&self, arguments: &[&str]) -> Ended {
        let socket = self.world.pki.path().join("admin.sock");
        let socket = socket.to_str().expect("text");
        process::run(&[&["policy"], arguments, &["--socket", socket]].concat())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let ended = self.ask(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|_| panic!("{arguments:?}: {}", ended.stderr))
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.world.pki.write(name, text);
        path.to_str().expect("text").to_owned()
    }

    fn stage(&self) -> String {
        let page = self.json(&["status"]);
        page["stage"].as_str().expect("a stage").to_owned()
    }

    /// A member of a group of people, so of class `operators`.
    async fn person(&self, name: &str) -> Client {
        self.world.user(name, &["system:masters"]).await
    }

    async fn class_of(&self, name: &str) -> String {
        let mut client = self.person(name).await;
        let before = self.world.proxy.metrics().await;
        assert_eq!(client.get(POD, "echo").await.status, 200);
        let classes = ["operators", "unattributed"];
        let count =
            |page: &Page, class: &str| page.sum("spillway_requests_total", &[("class", class)]);
        let page = self
            .world
            .proxy
            .until("counted", |page| {
                classes
                    .iter()
                    .any(|class| count(page, class) > count(&before, class))
            })
            .await;
        let found = classes
            .into_iter()
            .find(|class| count(&page, class) > count(&before, class));
        found.expect("one of them").to_owned()
    }
}

/// Names of which the first is judged by a new policy at `percent`, and the second is not.
fn inside_and_outside(percent: u32) -> (String, String) {
    let share = Share::from_basis_points(percent * 100);
    let name = |wanted: bool| {
        let names = (0..).map(|number| format!("jane-{number}"));
        let mut fitting = names.filter(|name| share.contains(tenant(name)) == wanted);
        fitting.next().expect("a name")
    };
    (name(true), name(false))
}

/// The tenant of a person with a certificate.
fn tenant(name: &str) -> u64 {
    proxy_core::identity::Identity::certificate(
        name,
        vec!["system:masters".into()],
        None,
        Vec::new(),
    )
    .tenant()
}

#[tokio::test]
async fn a_staged_policy_is_compared_then_judges_some_then_all_and_is_taken_back() {
    let mut place = Place::new(false);
    let (inside, outside) = inside_and_outside(30);
    let file = place.file("new.yaml", MOVES);
    assert_eq!(place.stage(), "none");
    assert_eq!(
        place.ask(&["percent", "5"]).code,
        REFUSED,
        "nothing is staged"
    );

    let page = place.json(&["stage", &file]);
    assert_eq!(
        (&page["stage"], &page["kept"]),
        (&json!("shadow"), &json!(true))
    );
    for name in [&inside, &outside] {
        assert_eq!(
            place.class_of(name).await,
            "operators",
            "nobody is judged by it"
        );
    }
    let diff = place.json(&["diff"]);
    assert_eq!((&diff["compared"], &diff["moved"]), (&json!(2), &json!(2)));
    assert_eq!(
        diff["moves"],
        json!([{ "from": "operators", "to": "unattributed", "requests": 2 }])
    );
    let movers: Vec<_> = diff["tenants"]
        .as_array()
        .expect("tenants")
        .iter()
        .map(|one| &one["tenant"])
        .collect();
    assert!(
        movers.contains(&&json!(inside)) && movers.contains(&&json!(outside)),
        "{diff}"
    );

    assert_eq!(place.json(&["percent", "30"])["candidate"]["stage"], "30%");
    assert_eq!(place.class_of(&inside).await, "unattributed");
    assert_eq!(place.class_of(&outside).await, "operators");
    let page = place.world.proxy.metrics().await;
    assert_eq!(page.sum("spillway_policy_candidate_ratio", &[]), 0.3);
    let moved = [("from", "operators"), ("to", "unattributed")];
    assert_eq!(page.sum("spillway_policy_moved_total", &moved), 4.0);

    // A restart in the middle changes nothing.
    let upstream = place.world.upstream.address();
    place.restart(false, upstream).await;
    assert_eq!(place.stage(), "percent");
    assert_eq!(place.class_of(&inside).await, "unattributed");
    assert_eq!(place.class_of(&outside).await, "operators");

    assert_eq!(place.json(&["promote"])["stage"], "watched");
    assert_eq!(place.class_of(&outside).await, "unattributed");
    let shown = place.json(&["show"]);
    assert_eq!(shown["text"], MOVES);
    assert_eq!(
        place.ask(&["stage", &file]).code,
        REFUSED,
        "it is in force already"
    );

    place.json(&["undo"]);
    assert_eq!(place.class_of(&outside).await, "operators");
    assert_eq!(
        place.ask(&["promote"]).code,
        REFUSED,
        "it was undone on purpose"
    );
    assert_eq!(place.stage(), "undone");
    place.json(&["abort"]);
    assert_eq!(place.stage(), "none");
}

#[tokio::test]
async fn a_policy_that_refuses_protected_classes_is_given_up_at_once_and_goes_no_further() {
    let place = Place::new(false);
    let (inside, outside) = inside_and_outside(50);
    let file = place.file("denies.yaml", DENIES);
    place.json(&["stage", &file]);
    let (mut one, mut other) = (place.person(&inside).await, place.person(&outside).await);
    assert_eq!(one.get(POD, "echo").await.status, 200);
    let differences = place.json(&["diff"]);
    assert_eq!(differences["limits"]["newly_refused"], 1, "{differences}");
    for _ in 0..60 {
        assert_eq!(one.get(POD, "echo").await.status, 200);
    }
    place.json(&["percent", "50"]);
    assert_eq!(one.get(POD, "echo").await.status, 403);
    bounded("given up", async {
        // As fast as it goes, until nobody is refused any more.
        while one.get(POD, "echo").await.status != 200 {
            assert_eq!(other.get(POD, "echo").await.status, 200);
        }
    })
    .await;
    let page = place.json(&["status"]);
    assert_eq!(page["stage"], "returned");
    let why = page["candidate"]["returned"]["why"].as_str().expect("why");
    assert!(why.contains("were refused"), "{why}");
    let metrics = place.world.proxy.metrics().await;
    assert_eq!(
        metrics.sum("spillway_policy_returns_total", &[("harm", "refusals")]),
        1.0
    );
    assert_eq!(
        metrics.sum("spillway_policy_stage", &[("stage", "returned")]),
        1.0
    );
    assert_eq!(place.ask(&["status"]).code, Some(1));
    for further in [&["percent", "1"][..], &["promote"]] {
        let refused = place.ask(further);
        assert_eq!(refused.code, REFUSED);
        assert!(
            refused.stderr.contains("spillway policy resume"),
            "{}",
            refused.stderr
        );
    }
    place.json(&["resume"]);
    assert_eq!(place.stage(), "shadow");
    place.json(&["percent", "50"]);
    assert_eq!(one.get(POD, "echo").await.status, 403);
}

#[tokio::test]
async fn a_policy_is_given_up_though_the_disk_hangs_and_that_outlives_the_process() {
    let mut place = Place::new(false);
    let (inside, _) = inside_and_outside(50);
    let staged = place.file("denies.yaml", DENIES);
    place.json(&["stage", &staged]);
    let mut one = place.person(&inside).await;
    for _ in 0..60 {
        assert_eq!(one.get(POD, "echo").await.status, 200);
    }
    place.json(&["percent", "50"]);
    // A pipe that nobody reads: whoever writes the next copy waits in `open`.
    let disk = place.world.pki.path().join("policy.json.new");
    let made = std::process::Command::new("mkfifo").arg(&disk).status();
    assert!(made.expect("mkfifo").success());
    bounded("given up", async {
        while one.get(POD, "echo").await.status != 200 {}
    })
    .await;
    // The control thread counts it when it has done with it, and goes on.
    let counted = |page: &Page| page.sum("spillway_policy_returns_total", &[]) == 1.0;
    let proxy = &place.world.proxy;
    let page = proxy.until("the control thread goes on", counted).await;
    let probes = |page: &Page| page.sum("spillway_probes_total", &[]);
    let before = probes(&page);
    let goes_on = |page: &Page| probes(page) > before;
    proxy.until("probed again", goes_on).await;
    assert_eq!(place.stage(), "returned");

    let (hangs, on_disk) = (disk.clone(), place.world.pki.path().join("policy.json"));
    let kept = || std::fs::read_to_string(&on_disk).expect("a copy");
    assert!(!kept().contains("were refused"), "{}", kept());
    // It writes now, and cannot be sure that it lasts: this is no disk.
    let written = tokio::task::spawn_blocking(move || std::fs::read_to_string(hangs));
    let written = bounded("written", written).await.expect("no panic");
    assert!(written.expect("text").contains("were refused"));
    std::fs::remove_file(disk).expect("removed");
    let upstream = place.world.upstream.address();
    place.restart(false, upstream).await;
    assert!(kept().contains("were refused"), "{}", kept());
    assert_eq!(place.stage(), "returned");
}

#[tokio::test]
async fn what_a_policy_may_not_say_is_refused_with_where_and_what_to_do() {
    let place = Place::new(false);
    for (text, said) in [
        (
            "reserved: { groups: ['system:authenticated'] }\n",
            "unknown key `reserved`",
        ),
        (
            "rules: [{ name: up, class: life-signs }]\n",
            "no policy may lead to `life-signs`",
        ),
        ("rules: [{ name: up, class: reserved }]\n", "`reserved`"),
        (
            "rules: [{ name: node-leases, class: bulk }]\n",
            "node-leases",
        ),
        (
            "limits: [{ name: none, class: life-signs, concurrency: 0 }]\n",
            "no policy may limit",
        ),
    ] {
        let file = place.file("wrong.yaml", text);
        let refused = place.ask(&["stage", &file]);
        assert_eq!(refused.code, REFUSED, "{text}");
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
        let config = place.file(
            "config.yaml",
            &support::proxy::config_text(&place.world.pki, place.world.upstream.address(), ""),
        );
        let checked = process::run(&["policy", "check", &file, "--config", &config]);
        assert_eq!(checked.code, Some(78), "{}", checked.stderr);
        assert!(checked.stderr.contains(said), "{}", checked.stderr);
    }
    assert_eq!(place.stage(), "none");
    let good = place.file("good.yaml", MOVES);
    let config = place.file(
        "config.yaml",
        &support::proxy::config_text(&place.world.pki, place.world.upstream.address(), ""),
    );
    let checked = process::run(&["policy", "check", &good, "--config", &config]);
    assert_eq!(
        (checked.code, checked.stdout.contains("1 rules")),
        (Some(0), true),
        "{}",
        checked.stderr
    );
}

/// Waits until the ConfigMap's state is as `holds` says.
async fn until(place: &Place, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || holds(&place.json(&["status"]))).await;
    place.json(&["status"])
}

#[tokio::test]
async fn the_cluster_delivers_a_policy_and_an_outage_or_a_mistake_never_loses_it() {
    let mut place = Place::new(true);
    let config_map = place.world.upstream.config_map();
    let missing = until(&place, "looked for", |page| {
        page["from_cluster"]["problem"].is_string()
    })
    .await;
    assert!(
        missing["from_cluster"]["problem"]
            .as_str()
            .expect("text")
            .contains("no such ConfigMap")
    );

    config_map.put(Some(json!({ "policy.yaml": MOVES })));
    until(&place, "taken", |page| page["current"].is_object()).await;
    assert_eq!(place.class_of("jane").await, "unattributed");
    let asked = config_map.asked();
    let read = &asked[0];
    assert_eq!(
        read.path,
        "/api/v1/namespaces/kube-system/configmaps/spillway-policy"
    );
    assert_eq!(read.values("x-remote-user"), ["system:spillway"]);

    // What is wrong changes nothing, and is said.
    config_map.put(Some(
        json!({ "policy.yaml": "rules: [{ name: up, class: life-signs }]" }),
    ));
    let page = until(&place, "refused", |page| {
        page["from_cluster"]["problem"].is_string()
    })
    .await;
    assert!(
        page["from_cluster"]["problem"]
            .as_str()
            .expect("text")
            .contains("life-signs"),
        "{page}"
    );
    assert_eq!(place.class_of("jane").await, "unattributed");
    let metrics = place.world.proxy.metrics().await;
    assert_eq!(
        metrics.sum(
            "spillway_policy_cluster_updates_total",
            &[("result", "refused")]
        ),
        1.0
    );
    assert_eq!(metrics.sum("spillway_policy_cluster_up", &[]), 0.0);

    // Neither does taking it away.
    let config_map = place.world.upstream.config_map();
    config_map.put(None);
    until(&place, "gone", |page| {
        page["from_cluster"]["problem"]
            .as_str()
            .is_some_and(|problem| problem.contains("no such"))
    })
    .await;
    assert_eq!(place.class_of("jane").await, "unattributed");

    // Nor a start while nobody answers: what is on disk holds.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    place.restart(true, nobody).await;
    let page = place.json(&["status"]);
    assert!(
        page["current"]["origin"]
            .as_str()
            .expect("text")
            .contains("ConfigMap"),
        "{page}"
    );
    assert_eq!(place.json(&["show"])["text"], MOVES);
}

#[tokio::test]
async fn the_cluster_stages_a_candidate_and_promotes_it() {
    let place = Place::new(true);
    let (inside, outside) = inside_and_outside(40);
    let config_map = place.world.upstream.config_map();
    let data = |stage: &str| json!({ "policy.yaml": "", "candidate.yaml": MOVES, "stage": stage });
    config_map.put(Some(data("shadow")));
    until(&place, "shadow", |page| page["stage"] == "shadow").await;
    assert_eq!(place.class_of(&inside).await, "operators");
    config_map.put(Some(data("40%")));
    until(&place, "a share", |page| page["stage"] == "percent").await;
    assert_eq!(place.class_of(&inside).await, "unattributed");
    assert_eq!(place.class_of(&outside).await, "operators");
    config_map.put(Some(json!({ "policy.yaml": MOVES })));
    until(&place, "promoted", |page| page["stage"] == "watched").await;
    assert_eq!(place.class_of(&outside).await, "unattributed");
    // The last word counts: by hand now, and from the cluster when that says something new.
    place.json(&["undo"]);
    assert_eq!(place.class_of(&outside).await, "operators");
    assert_eq!(place.stage(), "undone");
    let other = MOVES.replace("jane-last", "jane-behind");
    config_map.put(Some(json!({ "policy.yaml": other })));
    until(&place, "taken", |page| page["current"].is_object()).await;
    assert_eq!(place.class_of(&outside).await, "unattributed");
}
