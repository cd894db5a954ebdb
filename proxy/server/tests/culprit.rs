//! Who is behind an overload, as the operator is told.

mod support;

use std::time::Duration;

use config::{HardLimit, Match, Mode, Per, Rule};
use serde_json::{Value, json};
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

#[tokio::test]
async fn what_a_quarantine_or_a_limit_refuses_is_in_the_tenants_refused_share() {
    let file = std::env::temp_dir().join(format!("spillway-refused-{}.json", std::process::id()));
    let measure = json!({
        "id": 1, "target": { "tenant": "agent" }, "action": "block", "reason": "it storms", "author": "jane",
        "created": 1, "expires": u32::MAX,
    });
    let text = json!({ "version": 1, "measures": [measure] }).to_string();
    std::fs::write(&file, text).expect("a file");
    let world = World::with(upstream::Settings::default(), |config| {
        let admission = &mut config.admission;
        admission.mode = Mode::Enforce;
        admission.measures = Some(file.clone());
        admission.limits = vec![HardLimit {
            name: "no logs".to_owned(),
            when: Match {
                users: vec!["limited".to_owned()],
                ..Match::default()
            },
            class: None,
            per: Per::Rule,
            concurrency: None,
            rate: None,
            burst: None,
            server_time: None,
            watches: None,
            sessions: None,
            deny: true,
            message: None,
        }];
    });
    let asking = [("agent", 429), ("limited", 403), ("jane", 200)];
    let mut clients = Vec::new();
    for (name, status) in asking {
        clients.push((name, status, world.user(name, &[]).await));
    }
    let ratio = |page: &Value, name: &str| {
        let tenants = page["tenants"].as_array()?;
        let found = tenants.iter().find(|one| one["tenant"] == name)?;
        found["refused_ratio"].as_f64()
    };
    let shown = bounded("all three are shown", async {
        loop {
            for (_, status, client) in &mut clients {
                let answer = client.get("/api/v1/namespaces/busy/pods", "echo").await;
                assert_eq!(answer.status, *status, "{answer:?}");
            }
            let page = tenants(&world).await;
            let found: Option<Vec<f64>> =
                asking.iter().map(|(name, _)| ratio(&page, name)).collect();
            if let Some(found) = found {
                return found;
            }
        }
    })
    .await;
    assert_eq!(shown, [1.0, 1.0, 0.0]);
    let _ = std::fs::remove_file(file);
}
