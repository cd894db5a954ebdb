//! `docs/metrics.md` says what the source says, and the page has no series that the reference does not know.
//!
//! After a change, write it anew with `UPDATE_METRICS=1 cargo test -p proxy-server --test metrics_reference`.

mod support;

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use proxy_server::metrics::{Family, families, reference};
use support::{POD, World, bounded};

#[test]
fn the_committed_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let current = reference();
    if std::env::var_os("UPDATE_METRICS").is_some() {
        std::fs::write(&path, &current).expect("written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == current,
        "docs/metrics.md is stale; run UPDATE_METRICS=1 cargo test -p proxy-server --test metrics_reference"
    );
}

fn family<'a>(families: &'a [Family], name: &str) -> Option<&'a Family> {
    let of = |family: &&Family| {
        family.name == name
            || (family.kind == "histogram"
                && ["_bucket", "_sum", "_count"]
                    .iter()
                    .any(|end| name.strip_suffix(end) == Some(&family.name)))
    };
    families.iter().find(of)
}

#[tokio::test]
async fn every_series_of_the_page_is_as_the_reference_says() {
    let world = World::new();
    let mut client = world.user("jane", &[]).await;
    for script in ["echo", "status 404", "close", "apf"] {
        client.get(POD, script).await;
    }
    let page = world
        .proxy
        .until("all are counted", |page| {
            page.sum("spillway_requests_total", &[]) == 4.0
        })
        .await;
    let families = families();
    let mut counted: HashMap<&str, usize> = HashMap::new();
    for sample in &page.samples {
        let family = family(&families, &sample.name)
            .unwrap_or_else(|| panic!("{} is not in the reference", sample.name));
        *counted.entry(&family.name).or_default() += 1;
        let labels: BTreeSet<&str> = sample
            .labels
            .iter()
            .map(|(name, _)| &**name)
            .filter(|name| *name != "le")
            .collect();
        let known: BTreeSet<&str> = family.labels.iter().copied().collect();
        assert_eq!(labels, known, "{sample:?}");
    }
    for (name, count) in counted {
        let family = family(&families, name).expect("found before");
        assert!(count <= family.most, "{name}: {count} > {}", family.most);
    }
    for (name, kind) in &page.types {
        let family = family(&families, name).expect("in the reference");
        assert_eq!(family.kind, kind, "{name}");
    }
}

/// Names of users have no bound; those told apart do.
#[tokio::test]
async fn tenants_beyond_the_twentieth_are_one() {
    let upstream = support::upstream::Settings::default();
    let world = World::with(upstream, |config| {
        config.admission.mode = config::Mode::Enforce;
    });
    let mut clients = Vec::new();
    for number in 0..30 {
        clients.push(world.user(&format!("user-{number}"), &[]).await);
    }
    const DEMAND: &str = "spillway_tenant_demand_cores";
    let page = bounded("others", async {
        loop {
            for client in &mut clients {
                client.get("/api/v1/namespaces/busy/pods", "echo").await;
            }
            let page = world.proxy.metrics().await;
            if page.sum(DEMAND, &[("tenant", "other")]) > 0.0 {
                return page;
            }
        }
    })
    .await;
    let series = page.samples.iter().filter(|sample| sample.name == DEMAND);
    assert_eq!(series.count(), 21);
}
