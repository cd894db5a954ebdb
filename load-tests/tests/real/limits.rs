//! Hard limits, measures and what is done about a culprit, on a real server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use config::{HardLimit, Match, Per};
use http::Request;
use http_body_util::BodyExt as _;
use load_tests::control_plane::{
    self, ApiClient, Auth, ControlPlane, KeyAlgorithm, Options, SeedKind, SeedPlan, Subject,
    TokenOptions, Who, seed,
};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{HOUR, Kubectl, Proxy, TestDir, plane, unique, until};

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

/// A token of a service account that may read everything.
async fn reader(plane: &ControlPlane, name: &str) -> Result<Auth> {
    let token = plane
        .service_account_token("telemetry", name, &TokenOptions::default())
        .await?;
    let subject = Subject::ServiceAccount {
        namespace: "telemetry".to_owned(),
        name: name.to_owned(),
    };
    plane.bind_cluster_role(&subject, "view").await?;
    let auth = Auth::Token(token);
    let straight = plane.client_with(auth.clone())?;
    until("the agent may read", async || {
        let answer = straight.get("/api/v1/configmaps?limit=1").await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    Ok(auth)
}

/// What the server's own clients make of a 403: kubectl, which asks for pages, is not concerned; a full LIST fails at
/// once and says why.
#[tokio::test]
async fn an_unlimited_list_of_all_namespaces_is_denied_and_kubectl_goes_on() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::with(&plane, |config| {
        config.admission.limits = vec![HardLimit {
            when: Match {
                verbs: vec!["list".to_owned()],
                scopes: vec!["cluster".to_owned()],
                shapes: vec!["unlimited".to_owned(), "!any-version".to_owned()],
                resources: vec!["configmaps".to_owned()],
                ..Match::default()
            },
            deny: true,
            ..limit("no-full-lists")
        }];
    })?;
    // Nobody is exempt, cluster administrators neither.
    let admin = plane.client_certificate("root", &["system:masters"], HOUR)?;
    let admin = Auth::Certificate(admin);
    let client = proxy.client(admin.clone())?;
    let answer = client.get("/api/v1/configmaps").await?;
    assert_eq!(answer.status, 403);
    assert_eq!(answer.json()["reason"], "Forbidden");
    assert_eq!(answer.headers["x-spillway-reason"], "denied");
    for allowed in [
        "/api/v1/configmaps?limit=500",
        "/api/v1/configmaps?resourceVersion=0",
        "/api/v1/namespaces/kube-system/configmaps",
    ] {
        assert_eq!(client.get(allowed).await?.status, 200, "{allowed}");
    }
    let reserved = proxy.reserved_client(admin.clone())?;
    assert_eq!(reserved.get("/api/v1/configmaps").await?.status, 200);

    let Some(kubectl) = Kubectl::find()? else {
        return Ok(());
    };
    let dir = TestDir::new()?;
    let kubeconfig = dir.path().join("admin.conf");
    proxy.kubeconfig(&kubeconfig, &admin)?;
    let paged = kubectl
        .run(&kubeconfig, &["get", "configmaps", "-A"], "")
        .await?;
    assert_eq!(paged.code, Some(0), "{}", paged.stderr);
    let full = ["get", "configmaps", "-A", "--chunk-size=0"];
    let before = Instant::now();
    let full = kubectl.run(&kubeconfig, &full, "").await?;
    assert_eq!(full.code, Some(1));
    assert!(full.stderr.contains("no-full-lists"), "{}", full.stderr);
    // It does not try again and again behind its user's back.
    eprintln!("kubectl gave up after {:?}", before.elapsed());
    let denied = proxy.metrics().await?;
    let denied = denied.sum("spillway_shed_total", &["reason=\"denied\""]);
    assert!(denied <= 3.0, "{denied} attempts");
    Ok(())
}

#[tokio::test]
async fn open_watches_of_a_tenant_are_counted_as_long_as_they_last() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let proxy = Proxy::with(&plane, |config| {
        config.admission.limits = vec![HardLimit {
            per: Per::Tenant,
            watches: Some(3),
            ..limit("watches")
        }];
    })?;
    let client = proxy.client(reader(&plane, &format!("watcher-{}", unique())).await?)?;
    let watch = async || {
        let request = Request::get("/api/v1/configmaps?watch=1").body(Bytes::new())?;
        anyhow::Ok(client.open(request).await?)
    };
    let mut open = Vec::new();
    for _ in 0..3 {
        let watch = watch().await?;
        assert_eq!(watch.status(), 200);
        open.push(watch);
    }
    let fourth = watch().await?;
    assert_eq!(fourth.status(), 429);
    assert_eq!(fourth.headers()["x-spillway-reason"], "rule");
    assert!(fourth.headers().contains_key("retry-after"));
    drop((open.pop(), fourth));
    until("there is room for another", async || {
        (watch().await.ok()?.status() == 200).then_some(())
    })
    .await;
    Ok(())
}

/// How a LIST of the storm ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Whole,
    Broken,
    Status(u16, String),
}

/// A LIST whose answer is read and thrown away. Compressed: so the server, and not the reader, has most to do.
async fn list(client: &ApiClient) -> Result<Ended> {
    let request = Request::get("/api/v1/configmaps?resourceVersion=0")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip")
        .body(Bytes::new())?;
    let Ok(response) = client.open(request).await else {
        return Ok(Ended::Broken);
    };
    if response.status() != 200 {
        let why = response.headers().get("x-spillway-reason");
        let why = why.and_then(|why| why.to_str().ok()).unwrap_or("none");
        return Ok(Ended::Status(response.status().as_u16(), why.to_owned()));
    }
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return Ok(Ended::Broken);
        }
    }
    Ok(Ended::Whole)
}

/// What one arm came to.
#[derive(Debug)]
struct Arm {
    /// From the moment at which nothing new was let in until the server did not queue any more.
    calm_after: Duration,
    ended: f64,
    storm: Vec<Ended>,
}

/// LISTs are let in while decisions are not carried out; then they are.
async fn storm(plane: &ControlPlane, agent: &Auth, lists: usize, last_step: bool) -> Result<Arm> {
    let dir = TestDir::new()?;
    let file = dir.path().join("spillway.yaml");
    let measures = dir.path().join("measures.json");
    let admission = |mode: &str| {
        let cancel = if last_step {
            "cancel_culprit: { after: 1s, rate: 10/s }, "
        } else {
            ""
        };
        format!(
            "{{ mode: {mode}, measures: {}, culprit_events: default, {cancel}\
             confine_culprit: {{ after: 2s, share: 1%, for: 10m }} }}",
            measures.display()
        )
    };
    let proxy = Proxy::on_file(plane, &file, &admission("off"))?;
    let client = proxy.client(agent.clone())?;
    let probe = async || {
        let metrics = proxy.metrics().await.ok()?;
        Some(metrics.sum("spillway_probe_delay_seconds", &[]))
    };
    let mut running = JoinSet::new();
    for _ in 0..lists {
        let client = client.clone();
        running.spawn(async move { list(&client).await });
    }
    until("the server queues", async || {
        (probe().await? > 0.05).then_some(())
    })
    .await;
    std::fs::write(&file, Proxy::text(plane, &admission("enforce")))?;

    // The herd goes on, as herds do.
    let go_on = Arc::new(AtomicBool::new(true));
    let herd = tokio::spawn({
        let (client, go_on) = (proxy.client(agent.clone())?, Arc::clone(&go_on));
        async move {
            while go_on.load(Ordering::Relaxed) {
                let client = client.clone();
                tokio::spawn(async move { list(&client).await });
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    until("the culprit is confined", async || {
        let metrics = proxy.metrics().await.ok()?;
        (metrics.sum("spillway_measures", &["action=\"slow\""]) == 1.0).then_some(())
    })
    .await;
    let confined = Instant::now();
    assert!(std::fs::read_to_string(&measures).is_ok_and(|text| text.contains("telemetry")));
    until("the server does not queue any more", async || {
        (probe().await? <= 0.02).then_some(())
    })
    .await;
    let calm_after = confined.elapsed();
    go_on.store(false, Ordering::Relaxed);
    herd.await?;
    let metrics = proxy.metrics().await?;
    let ended = metrics.sum("spillway_culprit_ended_total", &[]);
    // Who is confined gets a little, and is told so.
    assert!(metrics.sum("spillway_shed_total", &["reason=\"quarantined\""]) > 0.0);
    let mut storm = Vec::new();
    while let Some(one) = running.join_next().await {
        storm.push(one??);
    }
    Ok(Arm {
        calm_after,
        ended,
        storm,
    })
}

/// The last step, on a server of its own with one core: with it, the CPU is free sooner.
#[tokio::test]
#[ignore = "its storm is over before the culprit is confined, so it shows nothing yet"]
async fn breaking_off_what_the_culprit_has_running_frees_the_server() -> Result<()> {
    const LISTS: usize = 60;
    let plane = control_plane::start_for_tests(Options {
        key_algorithm: KeyAlgorithm::EcdsaP256,
        pin_to_core: Some(0),
        ..Options::default()
    });
    let Some(plane) = plane else { return Ok(()) };
    let agent = reader(&plane, "herd").await?;
    // Whoever creates Events has to be allowed to.
    let admin = plane.client(Who::SuperAdmin)?;
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({
        "metadata": { "name": "spillway-events" },
        "rules": [{ "apiGroups": [""], "resources": ["events"], "verbs": ["create"] }],
    });
    let binding = json!({
        "metadata": { "name": "spillway-events" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "spillway-events" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:spillway" }],
    });
    admin
        .post(&format!("{rbac}/roles"), &role)
        .await?
        .accept("a role", &[])?;
    admin
        .post(&format!("{rbac}/rolebindings"), &binding)
        .await?
        .accept("a binding", &[])?;
    let plan = SeedPlan {
        kind: SeedKind::ConfigMaps,
        namespaces: 2,
        count: 8000,
        bytes_each: 3000,
        concurrency: 32,
    };
    seed(&admin, plan, |_| ()).await?;

    let with = storm(&plane, &agent, LISTS, true).await?;
    eprintln!(
        "with the last step: calm after {:?}, {} ended",
        with.calm_after, with.ended
    );
    let events = admin.get("/api/v1/namespaces/default/events").await?.json();
    let events = events["items"]
        .as_array()
        .context("a list of Events")?
        .clone();
    let named = events
        .iter()
        .find(|event| event["reason"] == "OverloadCulprit");
    let named = named.context("no Event names the culprit")?;
    assert_eq!(
        named["involvedObject"]["name"],
        "system:serviceaccount:telemetry:herd"
    );
    assert!(
        named["message"].to_string().contains("list configmaps"),
        "{named}"
    );
    let without = storm(&plane, &agent, LISTS, false).await?;
    eprintln!("without: calm after {:?}", without.calm_after);

    assert!(with.ended > 0.0 && without.ended == 0.0);
    let cut = |one: &&Ended| {
        matches!(one, Ended::Broken) || **one == Ended::Status(429, "ended".to_owned())
    };
    let broken = with.storm.iter().filter(cut).count();
    assert!(broken > 0, "{:?}", with.storm);
    assert_eq!(
        without.storm.iter().filter(cut).count(),
        0,
        "{:?}",
        without.storm
    );
    assert!(with.calm_after < without.calm_after, "{with:?} {without:?}");
    Ok(())
}
