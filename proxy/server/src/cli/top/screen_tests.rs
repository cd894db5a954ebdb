//! The view, drawn into a buffer from a fixed state.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;

use super::*;

fn status() -> Status {
    let bound = json!({ "ceiling_ms": 400.0, "outstanding_ms": 12.0, "running": 3, "waiting": 0 });
    let tenant = |name: &str, class: &str, refused: f32| {
        json!({
            "tenant": name, "class": class, "kind": "long", "shape": "list pods of the whole cluster",
            "instances": 500, "requests_per_second": 42.0, "demand_cores": 3.5, "refused_ratio": refused,
            "share_ratio": 0.8, "surging_since": 1000, "user_level": 90,
        })
    };
    let class = |name: &str, mode: &str, shed: u64| {
        json!({
            "class": name, "mode": mode, "enforced_percent": 100.0, "short": bound, "long": bound,
            "oldest_wait_ms": 0.0, "shed": shed, "queued": 0, "served_per_second": 1.5,
        })
    };
    serde_json::from_value(json!({
        "version": "0.1.0", "pid": 7, "at": 1060, "generation": 1, "mode": "enforce",
        "enforced_percent": 100.0, "mode_changes": [], "tuner": "brake", "reason": "ProbeLate",
        "short": bound, "long": bound, "bytes": 1 << 20, "bytes_budget": 512 << 20,
        "probe_delay_ms": 31.0, "probe_baseline_ms": 0.4, "upstream": true, "level": "6/90",
        "lanes": [
            { "lane": "main", "up": true, "connections": 900, "in_flight": 50, "tunnels": 1 },
            { "lane": "reserved", "up": true, "connections": 1, "in_flight": 0, "tunnels": 0 },
        ],
        "classes": [class("life-signs", "enforce", 0), class("bulk", "shadow", 100)],
        "tenants": [
            tenant("system:serviceaccount:telemetry:agent", "bulk", 0.9),
            tenant("jane", "operators", 0.0),
        ],
        "culprit": { "tenant": "system:serviceaccount:telemetry:agent", "shape": "list pods of the whole cluster" },
        "reserved_check": { "at": 1050, "success": true, "what": "", "took_ms": 3.0 },
    }))
    .expect("a status")
}

fn drawn(screen: &Screen) -> String {
    let mut terminal = Terminal::new(TestBackend::new(140, 24)).expect("a buffer");
    terminal.draw(|frame| screen.draw(frame)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let width = usize::from(buffer.area.width);
    let cells: Vec<&str> = buffer.content.iter().map(|cell| cell.symbol()).collect();
    let lines = cells
        .chunks(width)
        .map(|line| line.concat().trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn line<'a>(picture: &'a str, with: &str) -> &'a str {
    let found = picture.lines().find(|line| line.contains(with));
    found.unwrap_or_else(|| panic!("no `{with}` in\n{picture}"))
}

#[test]
fn the_picture_says_how_bad_it_is_and_who_it_is() {
    let mut screen = Screen::new(status());
    let mut later = status();
    later.at += 2;
    later.classes[1].shed += 50;
    screen.update(Ok(later));
    let picture = drawn(&screen);
    line(&picture, "REFUSING beyond level 6/90");
    line(&picture, "CULPRIT system:serviceaccount:telemetry:agent");
    line(&picture, "answers, 31ms late");
    line(&picture, "tested 12s ago");
    let bulk = line(&picture, "bulk  ");
    assert!(bulk.contains("shadow") && bulk.ends_with("25.0"), "{bulk}");
    let agent = line(&picture, "telemetry:agent   ");
    assert!(
        agent.contains("80%") && agent.contains("90%") && agent.contains("500"),
        "{agent}"
    );
}

#[test]
fn the_selection_follows_its_tenant_and_is_explained() {
    let mut screen = Screen::new(status());
    screen.select(1);
    screen.select(5);
    let mut later = status();
    later.tenants.reverse();
    screen.update(Ok(later));
    assert_eq!(screen.position(), Some(0), "jane is the first now");
    screen.select(1);
    screen.explaining = true;
    let picture = drawn(&screen);
    line(&picture, "surging     for 1m");
    line(&picture, "It would be refused in part, but is passed on.");
    // Whoever is gone is not explained; the first one is selected instead.
    let mut gone = status();
    gone.tenants.remove(0);
    screen.update(Ok(gone));
    assert_eq!(screen.position(), Some(0));
}

#[test]
fn without_an_answer_the_old_picture_stays_and_says_so() {
    let mut screen = Screen::new(status());
    screen.update(Err("nobody serves it\n  start it".to_owned()));
    let picture = drawn(&screen);
    line(&picture, "NO ANSWER, old picture: nobody serves it");
    line(&picture, "jane");
    let mut restarted = status();
    restarted.pid += 1;
    restarted.classes[1].shed = 3;
    screen.update(Ok(restarted));
    assert!(line(&drawn(&screen), "bulk  ").ends_with("0.0"));
}

#[test]
fn a_small_terminal_is_survived() {
    for (width, height) in [(1, 1), (20, 5), (80, 10)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a buffer");
        let mut screen = Screen::new(status());
        screen.explaining = true;
        terminal.draw(|frame| screen.draw(frame)).expect("drawn");
    }
}

#[test]
fn one_look_has_everything_too() {
    let text = once(&status());
    for said in [
        "REFUSING",
        "CULPRIT",
        "life-signs",
        "jane",
        "CLASS  ",
        "TENANT  ",
    ] {
        assert!(text.contains(said), "no `{said}` in\n{text}");
    }
}
