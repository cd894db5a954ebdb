//! The console as a browser shows it: a real Chromium, a real Spillway, a small storm.
//!
//! Without Chromium it says that it is skipped; `SPILLWAY_REQUIRE_CHROMIUM=1` makes that a failure.
//! `SPILLWAY_SCREENSHOTS=FOLDER` keeps pictures.

mod chromium;
mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chromium::Chromium;
use config::{Collapse, Match, Mode, Rule};
use serde_json::Value;
use support::upstream::{self, Upstream};
use support::{Client, PODS, Pki, Proxy, process};

/// Whoever is behind the storm chose this name.
const HOSTILE: &str = "agent <img src=x onerror=hacked=1>";
/// And somebody was looked for by this user agent.
const HOSTILE_AGENT: &str = "<script>hacked=1</script>";

const DEVICES: [(&str, (u32, u32)); 2] = [("desktop", (1280, 900)), ("phone", (360, 780))];

/// Everything whose text has too little contrast with what is behind it, as `ratio: text`.
const FAINT: &str = r"(() => {
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).slice(0, 3).map((part) => { part /= 255; return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return getComputedStyle(at).backgroundColor;
    }
    return 'rgb(255, 255, 255)';
  };
  const faint = [];
  let seen = 0;
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    const box = element.getBoundingClientRect();
    if (!own || box.width < 2 || box.height < 2 || getComputedStyle(element).visibility !== 'visible') continue;
    seen += 1;
    const style = getComputedStyle(element);
    const [one, other] = [light(element instanceof SVGElement ? style.fill : style.color), light(behind(element))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) faint.push(ratio.toFixed(2) + ': ' + element.textContent.slice(0, 40));
  }
  return seen < 100 ? ['only ' + seen + ' texts were looked at'] : faint;
})()";

/// What reaches beyond the right edge, by its tag and class.
const WIDE: &str = r"(() => [...document.querySelectorAll('body *')]
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 1 && getComputedStyle(element).position !== 'absolute')
  .map((element) => element.tagName + '.' + element.className).concat(
    document.documentElement.scrollWidth > innerWidth ? ['the page: ' + document.documentElement.scrollWidth] : []))()";

fn socket(pki: &Pki) -> PathBuf {
    pki.path().join("admin.sock")
}

fn command(pki: &Pki, arguments: &[&str]) -> Value {
    let socket = socket(pki);
    let socket = socket.to_str().expect("text");
    let ended = process::run(&[arguments, &["--socket", socket, "-o", "json"]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// Clients that ask for more than there is room for, an ordinary user and an operator, on a thread of their own.
struct Storm {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Storm {
    fn start(pki: &Pki, upstream: Arc<Upstream>, main: SocketAddr, reserved: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let certificate = |user, groups: &[&str]| pki.tls().certificate(&pki.user(user, groups));
        let herd = certificate(HOSTILE, &[]);
        let jane = certificate("jane", &["developers"]);
        let node = certificate("system:node:worker-1", &["system:nodes"]);
        let operator = certificate("kubernetes-admin", &["system:masters"]);
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.expect("a runtime").block_on(async {
                    let herd = Client::http2(main, &herd).await;
                    for number in 0..12 {
                        let path = format!("/api/v1/namespaces/n{}/pods", number % 2);
                        repeat(herd.again(), path, "gate", 25);
                    }
                    let lease =
                        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/worker-1";
                    repeat(
                        Client::http2(main, &jane).await,
                        PODS.to_owned(),
                        "echo",
                        40,
                    );
                    repeat(
                        Client::http2(main, &node).await,
                        lease.to_owned(),
                        "echo",
                        30,
                    );
                    let operator = Client::http2(reserved, &operator).await;
                    repeat(operator, PODS.to_owned(), "echo", 400);
                    while !stop.load(Ordering::Relaxed) {
                        upstream.let_through(1);
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                });
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends a GET again and again with a pause in milliseconds between, until the runtime ends.
fn repeat(mut client: Client, path: String, script: &'static str, pause: u64) {
    tokio::spawn(async move {
        loop {
            let Ok(response) = client
                .send_patiently(support::client::get(&path, script))
                .await
            else {
                return;
            };
            let _ = support::Answer::try_read(response).await;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    });
}

/// Room for one LIST and four that wait; whatever else comes is refused.
fn crowded(config: &mut config::Config) {
    let admission = &mut config.admission;
    admission.mode = Mode::Enforce;
    admission.limit.initial = Duration::from_millis(20);
    admission.limit.min = Duration::from_millis(20);
    admission.limit.max = Duration::from_millis(20);
    admission.probe.target = Duration::from_secs(20);
    admission.probe.timeout = Duration::from_secs(30);
    admission.queue.max_waiting = 4;
    admission.collapse = Collapse::Off;
    admission.rules = vec![Rule {
        name: "the herd".to_owned(),
        when: Match {
            users: vec!["agent*".to_owned()],
            ..Match::default()
        },
        class: "bulk".to_owned(),
    }];
}

/// What must hold of the page on every device.
fn judge(page: &mut Chromium, what: &str) {
    assert_eq!(page.complaints, Vec::<String>::new(), "{what}");
    assert_eq!(page.value(WIDE), serde_json::json!([]), "{what}: too wide");
    assert_eq!(
        page.value(FAINT),
        serde_json::json!([]),
        "{what}: too faint"
    );
    let made = page.value(
        "document.querySelectorAll('main img, main script, dialog img, dialog script').length",
    );
    assert_eq!(made, 0, "{what}: text became markup");
    assert_eq!(page.value("typeof hacked"), "undefined", "{what}");
}

fn text_has(text: &str) -> String {
    format!(
        "document.querySelector('main').innerText.includes({})",
        serde_json::json!(text)
    )
}

#[test]
fn the_console_shows_a_storm_on_every_device_and_switches_only_when_unlocked() {
    let Some(browser) = chromium::find() else {
        assert!(
            std::env::var_os("SPILLWAY_REQUIRE_CHROMIUM").is_none(),
            "no chromium found, and SPILLWAY_REQUIRE_CHROMIUM demands one"
        );
        eprintln!("skipped: no chromium here (apt-get install chromium)");
        return;
    };
    let pki = Pki::new();
    let lane = pki.user("kube-apiserver-kubelet-client", &["system:masters"]);
    pki.write("apiserver-kubelet-client.crt", &lane.certificate);
    pki.write("apiserver-kubelet-client.key", &lane.key);
    let answers = upstream::Settings {
        reviewed_as: Some("kube-apiserver-kubelet-client"),
        ..upstream::Settings::default()
    };
    let upstream = Arc::new(Upstream::start(&pki, answers));
    let proxy = Proxy::start(&pki, upstream.address(), |config| {
        crowded(config);
        config.admin.socket = Some(socket(&pki));
    });
    let (main, reserved, admin) = (proxy.main(), proxy.reserved(), proxy.admin());
    let storm = Storm::start(&pki, Arc::clone(&upstream), main, reserved);
    let hostile = ["--user-agent", HOSTILE_AGENT, "--reason", "<b>INC-1</b>"];
    command(&pki, &[&["quarantine", "add"], &hostile[..]].concat());

    let profile = pki.path().join("chromium");
    let mut page = Chromium::start(&browser, &profile);
    let console = format!("http://{admin}/console");
    for (device, size) in DEVICES {
        for (scheme, dark) in [("light", false), ("dark", true)] {
            let what = format!("{device}-{scheme}");
            page.device(size, dark);
            page.open(&console);
            page.until(
                "the page is there",
                "document.readyState === 'complete' && typeof charts === 'object'",
            );
            for chart in [
                "requests", "refused", "admitted", "wait", "level", "limit", "breadth", "probe",
                "lane",
            ] {
                let drawn = format!(
                    "[...document.querySelectorAll('svg[data-chart={chart}] path')].some((path) => path.getAttribute('d').length > 40)"
                );
                page.until(chart, &drawn);
            }
            page.until("the culprit is named", &text_has("Behind the overload"));
            page.until("by its name, as text", &text_has(HOSTILE));
            page.until("a measure, as text", &text_has(HOSTILE_AGENT));
            page.until("its reason, as text", &text_has("<b>INC-1</b>"));
            page.until("the reserved lane is tested", &text_has("works, "));
            page.until(
                "what is refused, by reason",
                "reasons.some((_, at) => points.some((point) => point.why[at] > 0))",
            );
            let scheme = page.value("getComputedStyle(document.body).backgroundColor");
            assert_eq!(scheme == "rgb(14, 19, 26)", dark, "{what}: {scheme}");
            let said = page.value(
                "document.querySelector('svg[data-chart=requests]').getAttribute('aria-label')",
            );
            let said = said.as_str().expect("a label").to_owned();
            assert!(
                said.contains("offered") && said.contains("refused"),
                "{said}"
            );
            judge(&mut page, &what);
            page.picture(&what, true);
        }
    }

    // Locked: nothing to press, and nothing comes of asking all the same.
    let hidden =
        "[...document.querySelectorAll('.switch')].every((one) => one.offsetParent === null)";
    assert_eq!(page.value(hidden), true);
    let asked = "fetch('/console/mode', { method: 'POST', headers: { 'Content-Type': 'application/json' }, \
                 body: JSON.stringify({ mode: 'off' }) }).then((answer) => answer.status)";
    assert_eq!(page.value(asked), 401);
    assert_eq!(command(&pki, &["mode"])["changes"], serde_json::json!([]));
    page.complaints.clear();

    // Unlocked by the link that the command prints, which stays in no history.
    let link = command(&pki, &["console"])["url"]
        .as_str()
        .expect("a link")
        .to_owned();
    page.device(DEVICES[0].1, false);
    page.open(&link);
    page.until("unlocked", "!document.body.classList.contains('locked')");
    assert_eq!(page.value("location.href"), console.as_str());
    page.value("document.getElementById('change-mode').click()");
    let fill = "(() => { const form = document.querySelector('#mode-dialog form'); form.elements.class.value = 'bulk'; \
                form.elements.mode.value = 'shadow'; form.elements.reason.value = 'INC-2'; \
                form.dispatchEvent(new Event('input')); return form.querySelector('.says').textContent; })()";
    let says = page.value(fill);
    let says = says.as_str().expect("a sentence");
    assert!(says.contains("bulk: shadow for 30 minutes"), "{says}");
    judge(&mut page, "dialog");
    page.picture("mode-dialog", false);
    page.value("document.querySelector('#mode-dialog form').requestSubmit()");
    page.until("the change is shown", &text_has("INC-2"));
    let changes = command(&pki, &["mode"])["changes"].clone();
    assert_eq!(
        (&changes[0]["class"], &changes[0]["mode"]),
        (&"bulk".into(), &"shadow".into())
    );
    let by = changes[0]["by"].as_str().expect("who");
    assert!(by.contains("by the console"), "{by}");

    // Whoever is in the table is slowed from there, under that very name.
    let row = "[...document.querySelectorAll('#tenants tbody tr')].find((row) => row.innerText.includes('agent <img'))";
    page.value(&format!("{row}.querySelector('button').click()"));
    let fill = "(() => { const form = document.querySelector('#measure-dialog form'); form.elements.action.value = '0.05'; \
                form.elements.reason.value = 'INC-3'; form.requestSubmit(); })()";
    page.value(fill);
    page.until("the measure is shown", &text_has("INC-3"));
    let listed = command(&pki, &["quarantine", "list"]);
    assert_eq!(listed[1]["target"]["tenant"], HOSTILE);
    page.picture("unlocked", true);
    let end = "[...document.querySelectorAll('#measures tbody tr')].find((row) => row.innerText.includes('INC-3')).querySelector('button').click()";
    page.value(end);
    assert_eq!(
        command(&pki, &["quarantine", "list"])
            .as_array()
            .map(Vec::len),
        Some(2),
        "asked once more"
    );
    page.value(end);
    page.until("the measure is gone", "![...document.querySelectorAll('#measures tbody tr')].some((row) => row.innerText.includes('INC-3'))");
    command(&pki, &["console", "--end"]);
    page.until(
        "locked from outside",
        "document.body.classList.contains('locked')",
    );

    // Spillway goes: the last picture stays, and says so.
    drop(storm);
    page.complaints.clear();
    drop(proxy);
    page.until("it is said", &text_has("No data since"));
    let still = "document.querySelectorAll('#tenants tbody tr').length > 0 && document.querySelector('svg[data-chart=requests] path') !== null";
    assert_eq!(page.value(still), true);
    page.picture("lost", true);
}
