//! The console in a real browser, in front of a real server: what it shows of real clients, and what its switches do to them.
//!
//! Without Chromium it says that it is skipped; `SPILLWAY_REQUIRE_CHROMIUM=1` makes that a failure.

// What only the test beside the model of a server needs is not needed here.
#[allow(dead_code)]
#[path = "../../../proxy/server/tests/chromium/mod.rs"]
mod chromium;

use std::time::Duration;

use anyhow::{Context as _, Result};
use chromium::Chromium;
use load_tests::control_plane::{ApiClient, Auth, TokenOptions};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{HOUR, ProxyProcess, TestDir, audited, plane, spillway, unique, until};

const AGENT: &str = "/api/v1/namespaces/console/configmaps?limit=5";

/// Asks again and again.
async fn again(client: ApiClient, path: &'static str) {
    loop {
        // A refusal is an answer, too.
        let _ = client.get(path).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

fn text_has(text: &str) -> String {
    format!(
        "document.querySelector('main').innerText.includes({})",
        json!(text)
    )
}

fn drawn(chart: &str) -> String {
    format!(
        "[...document.querySelectorAll('svg[data-chart={chart}] path')].some((path) => path.getAttribute('d').length > 40)"
    )
}

/// Why a request is refused, if it is.
async fn reason(client: &ApiClient) -> Option<String> {
    let answer = client.get(AGENT).await.ok()?;
    let reason = answer.headers.get("x-spillway-reason");
    Some(reason.map_or_else(String::new, |reason| {
        reason.to_str().unwrap_or_default().to_owned()
    }))
}

/// A browser that is driven blocks this thread; the clients live on another.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_console_shows_real_clients_and_its_switches_hold_them_back() -> Result<()> {
    let Some(plane) = plane() else { return Ok(()) };
    let Some(browser) = chromium::find() else {
        assert!(
            std::env::var_os("SPILLWAY_REQUIRE_CHROMIUM").is_none(),
            "no chromium found, and SPILLWAY_REQUIRE_CHROMIUM demands one"
        );
        eprintln!("skipped: no chromium here (apt-get install chromium)");
        return Ok(());
    };
    let dir = TestDir::new()?;
    let name = format!("agent-{}", unique());
    let tenant = format!("system:serviceaccount:console:{name}");
    let token = plane
        .service_account_token("console", &name, &TokenOptions::default())
        .await?;
    let proxy = ProxyProcess::with_socket(&plane, &dir, None, "").await?;
    let agent = proxy.client(Auth::Token(token))?;
    let jane = plane.client_certificate("jane", &["people"], HOUR)?;
    let jane = proxy.client(Auth::Certificate(jane))?;
    let mut clients = JoinSet::new();
    clients.spawn(again(agent.clone(), AGENT));
    clients.spawn(again(jane.clone(), "/version"));

    let mut page = Chromium::start(&browser, &dir.path().join("chromium"));
    let console = format!("http://{}/console", proxy.admin);
    page.open(&console);
    page.until(
        "the page is there",
        "document.readyState === 'complete' && typeof charts === 'object'",
    );
    for chart in ["requests", "admitted", "limit", "probe"] {
        page.until(chart, &drawn(chart));
    }
    page.until("a real client, by its name", &text_has(&tenant));
    page.until(
        "its requests are counted",
        "points.some((point) => offered(point) > 0)",
    );
    assert_eq!(page.complaints, Vec::<String>::new());

    // By the link, and the row of whoever asks.
    let link = spillway(&dir, &["console"]).await?;
    page.open(link["url"].as_str().context("a link")?);
    page.until("unlocked", "!document.body.classList.contains('locked')");
    let row = format!(
        "[...document.querySelectorAll('#tenants tbody tr')].find((row) => row.innerText.includes({}))",
        json!(tenant)
    );
    page.until("its row", &row);
    page.value(&format!("{row}.querySelector('button').click()"));
    page.value(
        "(() => { const form = document.querySelector('#measure-dialog form'); form.elements.action.value = ''; \
         form.elements.reason.value = 'INC-7'; form.requestSubmit(); })()",
    );
    page.until("the measure is shown", &text_has("INC-7"));
    until("the agent is held back", async || {
        (reason(&agent).await? == "quarantined").then_some(())
    })
    .await;
    assert_eq!(jane.get("/version").await?.status, 200);
    page.until("its refusals are drawn", &drawn("refused"));
    let listed = spillway(&dir, &["quarantine", "list"]).await?;
    assert_eq!(listed[0]["target"]["tenant"], *tenant, "{listed}");

    // Asked twice, so that nobody ends one by a slip.
    let end = "[...document.querySelectorAll('#measures tbody tr')].find((row) => row.innerText.includes('INC-7')).querySelector('button').click()";
    page.value(end);
    page.value(end);
    until("the agent is served again", async || {
        reason(&agent).await?.is_empty().then_some(())
    })
    .await;
    let by = |line: &Value| line["by"].as_str().map(str::to_owned);
    let ended = until("it is in the audit log", async || {
        let lines = audited(&dir);
        lines
            .iter()
            .find(|line| line["event"] == "measure_ended_by")
            .and_then(by)
    })
    .await;
    assert!(ended.contains("by the console"), "{ended}");
    assert_eq!(page.complaints, Vec::<String>::new());
    Ok(())
}
