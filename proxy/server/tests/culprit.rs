//! Who is behind an overload, as the operator is told.

mod support;

use std::time::Duration;

use config::{Match, Mode, Rule};
use serde_json::Value;
use support::{World, bounded, page, upstream};

/// Room for one LIST and one more that waits; whatever else comes is refused.
fn crowded() -> World {
    World::with(upstream::Settings::default(), |config| {
        let admission = &mut config.admission;
        admission.mode = Mode::Enforce;
        admission.limit.initial = Duration::from_millis(20);
        admission.limit.min = Duration::from_millis(20);
        admission.limit.max = Duration::from_millis(20);
        admission.probe.target = Duration::from_secs(20);
        admission.probe.timeout = Duration::from_secs(30);
        admission.queue.long_deadline = Duration::from_secs(600);
        admission.queue.max_waiting = 1;
        admission.rules = vec![Rule {
            name: "users of the test".to_owned(),
            when: Match {
                users: vec!["agent*".to_owned()],
                ..Match::default()
            },
            class: "workload-reads".to_owned(),
        }];
    })
}

async fn tenants(world: &World) -> Value {
    let (status, text) = page::get(world.proxy.admin(), "/tenants").await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

#[tokio::test]
async fn the_operator_is_told_who_overloads_the_server_and_with_what() {
    let world = crowded();
    assert_eq!(tenants(&world).await["culprit"], Value::Null);
    let client = world.user("agent \"x\"", &[]).await;
    let hold = |namespace: &str| {
        let mut client = client.again();
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        tokio::spawn(async move { client.get(&path, "gate").await })
    };
    let _running = hold("busy");
    world.upstream.until_seen(1).await;
    let _waiting = hold("busy");
    world
        .proxy
        .until("one waits", |page| {
            page.sum("spillway_waiting_requests", &[]) == 1.0
        })
        .await;

    let mut client = client.again();
    let refused = |level: bool| {
        move |answer: &support::Answer| {
            answer.status == 429 && answer.header("x-spillway-level").is_some() == level
        }
    };
    let first = client.get("/api/v1/namespaces/busy/pods", "echo").await;
    assert!(refused(false)(&first), "{first:?}");
    let named = bounded("a culprit", async {
        loop {
            let answer = client.get("/api/v1/namespaces/busy/pods", "echo").await;
            assert_eq!(answer.status, 429);
            let page = tenants(&world).await;
            if !page["culprit"].is_null() {
                return page;
            }
        }
    })
    .await;
    let culprit = &named["culprit"];
    assert_eq!(culprit["tenant"], "agent \"x\"");
    assert_eq!(culprit["class"], "workload-reads");
    assert_eq!(culprit["shape"], "list pods of namespace busy");
    assert_eq!(culprit["herd"], false);
    assert!(
        culprit["share_ratio"]
            .as_f64()
            .is_some_and(|share| share > 0.9)
    );
    assert!(
        culprit["refused_ratio"]
            .as_f64()
            .is_some_and(|share| share > 0.5)
    );
    assert_eq!(named["tenants"][0]["tenant"], "agent \"x\"");

    // Those who can hold back by themselves are told beyond which level to.
    let answer = client.get("/api/v1/namespaces/busy/pods", "echo").await;
    assert_eq!(answer.header("x-spillway-level"), Some("5.127"));
    let page = world.proxy.metrics().await;
    let labels = [
        ("tenant", "agent \"x\""),
        ("shape", "list pods of namespace busy"),
    ];
    assert!(page.sum("spillway_culprit_share_ratio", &labels) > 0.9);
    assert!(page.sum("spillway_tenant_demand_cores", &labels[..1]) > 0.0);
    assert_eq!(page.sum("spillway_level_class", &[]), 5.0);
}
