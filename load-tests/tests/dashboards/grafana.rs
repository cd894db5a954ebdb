//! Grafana's JSON from `deploy/grafana/dashboards.yaml`.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{current, read, repository, unknown};

const WIDTH: u64 = 24;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dashboard {
    file: String,
    title: String,
    description: String,
    /// One instance at a time.
    #[serde(default)]
    one: bool,
    /// The classes can be chosen.
    #[serde(default)]
    classes: bool,
    panels: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    Row { row: String },
    Panel(Panel),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Panel {
    title: String,
    description: String,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    unit: Option<String>,
    #[serde(default)]
    width: Option<u64>,
    #[serde(default)]
    height: Option<u64>,
    #[serde(default)]
    stack: bool,
    #[serde(default)]
    max: Option<f64>,
    #[serde(default)]
    steps: Vec<(f64, String)>,
    #[serde(default)]
    names: Vec<(i64, String)>,
    queries: Vec<Query>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    #[default]
    Timeseries,
    Stat,
    Table,
    Bargauge,
    StateTimeline,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Timeseries => "timeseries",
            Self::Stat => "stat",
            Self::Table => "table",
            Self::Bargauge => "bargauge",
            Self::StateTimeline => "state-timeline",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    expr: String,
    #[serde(default)]
    legend: String,
    /// Drawn as a line of its own in a stack.
    #[serde(default)]
    line: bool,
}

/// All dashboards, as they are written down.
pub(crate) fn dashboards() -> Vec<Dashboard> {
    let text = read(&repository("deploy/grafana/dashboards.yaml"));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("dashboards.yaml: {error}"))
}

/// (where, expression) of every query in the JSON files, annotations and variables included.
pub(crate) fn queries() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for dashboard in dashboards() {
        let path = repository(&format!("deploy/grafana/{}.json", dashboard.file));
        let value: Value = serde_json::from_str(&read(&path)).expect("JSON");
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for panel in list(&value["panels"]) {
            for target in list(&panel["targets"]) {
                let place = format!("{}: {}", text(&value["title"]), text(&panel["title"]));
                found.push((place, text(&target["expr"])));
            }
        }
        for variable in list(&value["templating"]["list"]) {
            // label_values(SERIES, LABEL)
            if let Some(inner) = text(&variable["query"]["query"]).strip_prefix("label_values(") {
                let (series, _) = inner.split_once(',').expect("two arguments");
                let place = format!("{}: ${}", text(&value["title"]), text(&variable["name"]));
                found.push((place, series.to_owned()));
            }
        }
        for annotation in list(&value["annotations"]["list"]) {
            let place = format!("{}: {}", text(&value["title"]), text(&annotation["name"]));
            found.push((place, text(&annotation["expr"])));
        }
    }
    found
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn variable(name: &str, label: &str, query: &str, multiple: bool) -> Value {
    let all = if multiple {
        json!({ "selected": true, "text": ["All"], "value": ["$__all"] })
    } else {
        json!({})
    };
    json!({
        "name": name, "label": label, "type": "query", "datasource": datasource(),
        "query": { "query": query, "refId": name }, "refresh": 2, "sort": 1,
        "multi": multiple, "includeAll": multiple, "allValue": ".+", "current": all,
    })
}

fn render(dashboard: &Dashboard) -> Value {
    let mut panels = Vec::new();
    let (mut x, mut y, mut tallest) = (0, 0, 0);
    for entry in &dashboard.panels {
        let id = panels.len() + 1;
        match entry {
            Entry::Row { row } => {
                (x, y) = (0, y + tallest);
                panels.push(json!({
                    "id": id, "type": "row", "title": row, "collapsed": false, "panels": [],
                    "gridPos": { "x": 0, "y": y, "w": WIDTH, "h": 1 },
                }));
                (y, tallest) = (y + 1, 0);
            }
            Entry::Panel(panel) => {
                let (width, height) = (panel.width.unwrap_or(WIDTH / 2), panel.height.unwrap_or(8));
                if x + width > WIDTH {
                    (x, y, tallest) = (0, y + tallest, 0);
                }
                let place = json!({ "x": x, "y": y, "w": width, "h": height });
                panels.push(draw(panel, id, &place));
                (x, tallest) = (x + width, tallest.max(height));
            }
        }
    }
    let mut variables = vec![
        json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
            "refresh": 1, "current": {},
        }),
        variable(
            "instance",
            "Proxy",
            "label_values(spillway_build_info, instance)",
            !dashboard.one,
        ),
    ];
    if dashboard.classes {
        let query = "label_values(spillway_queue_delay_seconds_count, class)";
        variables.push(variable("class", "Class", query, true));
    }
    json!({
        "uid": format!("spillway-{}", dashboard.file),
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["spillway"],
        "schemaVersion": 39,
        "version": 1,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": { "from": "now-1h", "to": "now" },
        "timezone": "",
        "links": [{
            "type": "dashboards", "title": "Spillway", "tags": ["spillway"], "asDropdown": true,
            "includeVars": true, "keepTime": true,
        }],
        "annotations": { "list": [{
            "name": "Culprit named", "datasource": datasource(), "enable": true, "iconColor": "red",
            "expr": "max by (instance, tenant) (spillway_culprit_share_ratio{instance=~\"$instance\"})",
            "titleFormat": "{{tenant}}", "textFormat": "is behind the overload at {{instance}}", "step": "30s",
        }] },
        "templating": { "list": variables },
        "panels": panels,
    })
}

fn draw(panel: &Panel, id: usize, place: &Value) -> Value {
    let table = panel.kind == Kind::Table;
    let now = table || matches!(panel.kind, Kind::Stat | Kind::Bargauge);
    let letters = "ABCDEFGH".chars();
    let targets: Vec<Value> = letters
        .zip(&panel.queries)
        .map(|(letter, query)| {
            json!({
                "refId": letter.to_string(), "datasource": datasource(), "editorMode": "code",
                "expr": query.expr,
                "legendFormat": if query.legend.is_empty() { "__auto" } else { &query.legend },
                "instant": now, "range": !now, "format": if table { "table" } else { "time_series" },
            })
        })
        .collect();
    let mut defaults = json!({ "unit": panel.unit.as_deref().unwrap_or("short"), "min": 0 });
    if let Some(max) = panel.max {
        defaults["max"] = json!(max);
    }
    if !panel.steps.is_empty() {
        let step = |(index, (value, colour)): (usize, &(f64, String))| json!({ "color": colour, "value": if index == 0 { Value::Null } else { json!(value) } });
        let steps: Vec<Value> = panel.steps.iter().enumerate().map(step).collect();
        defaults["thresholds"] = json!({ "mode": "absolute", "steps": steps });
        defaults["color"] = json!({ "mode": "thresholds" });
    }
    if !panel.names.is_empty() {
        let options: serde_json::Map<String, Value> = panel
            .names
            .iter()
            .enumerate()
            .map(|(index, (value, text))| {
                (value.to_string(), json!({ "text": text, "index": index }))
            })
            .collect();
        defaults["mappings"] = json!([{ "type": "value", "options": options }]);
    }
    if panel.kind == Kind::Timeseries {
        defaults["custom"] = json!({
            "fillOpacity": if panel.stack { 30 } else { 5 },
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": { "mode": if panel.stack { "normal" } else { "none" } },
        });
    }
    let overrides: Vec<Value> = panel
        .queries
        .iter()
        .filter(|query| query.line)
        .map(|query| {
            json!({
                "matcher": { "id": "byName", "options": query.legend },
                "properties": [
                    { "id": "custom.stacking", "value": { "mode": "none" } },
                    { "id": "custom.fillOpacity", "value": 0 },
                    { "id": "custom.lineWidth", "value": 2 },
                ],
            })
        })
        .collect();
    let options = match panel.kind {
        Kind::Timeseries => json!({
            "legend": { "displayMode": "table", "placement": "right", "calcs": ["lastNotNull", "max"] },
            "tooltip": { "mode": "multi", "sort": "desc" },
        }),
        Kind::Stat | Kind::Bargauge => {
            json!({ "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false } })
        }
        Kind::Table => json!({ "showHeader": true }),
        Kind::StateTimeline => json!({ "mergeValues": true, "showValue": "auto" }),
    };
    let mut drawn = json!({
        "id": id,
        "type": panel.kind.name(),
        "title": panel.title,
        "description": panel.description,
        "datasource": datasource(),
        "gridPos": place,
        "fieldConfig": { "defaults": defaults, "overrides": overrides },
        "options": options,
        "targets": targets,
    });
    if table {
        let hidden = ["Time", "__name__", "job"].map(|name| (name.to_owned(), Value::Bool(true)));
        let hidden = serde_json::Map::from_iter(hidden);
        drawn["transformations"] =
            json!([{ "id": "organize", "options": { "excludeByName": hidden } }]);
    }
    drawn
}

#[test]
fn the_dashboards_are_current() {
    for dashboard in dashboards() {
        let path = repository(&format!("deploy/grafana/{}.json", dashboard.file));
        let text = serde_json::to_string_pretty(&render(&dashboard)).expect("JSON");
        current(&path, &(text + "\n"));
    }
}

#[test]
fn every_dashboard_is_whole_and_asks_only_for_what_there_is() {
    let all = dashboards();
    let mut uids = BTreeSet::new();
    for dashboard in &all {
        let path = repository(&format!("deploy/grafana/{}.json", dashboard.file));
        let value: Value = serde_json::from_str(&read(&path)).expect("JSON");
        let name = &dashboard.file;
        assert!(
            uids.insert(value["uid"].to_string()),
            "{name}: its uid is another's, too"
        );
        let variables: Vec<&str> = value["templating"]["list"]
            .as_array()
            .expect("variables")
            .iter()
            .filter_map(|variable| variable["name"].as_str())
            .collect();
        assert!(
            variables.starts_with(&["datasource", "instance"]),
            "{name}: {variables:?}"
        );
        let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
        for panel in value["panels"].as_array().expect("panels") {
            let title = &panel["title"];
            assert!(ids.insert(panel["id"].to_string()), "{name}: {title}: id");
            let at = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
            assert!(at("x") + at("w") <= WIDTH, "{name}: {title} is too wide");
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(cells.insert((x, y)), "{name}: {title} lies on another");
                }
            }
            if panel["type"] == "row" {
                continue;
            }
            assert_eq!(
                panel["datasource"]["uid"], "${datasource}",
                "{name}: {title}"
            );
            let described = panel["description"]
                .as_str()
                .is_some_and(|text| !text.is_empty());
            assert!(described, "{name}: {title} has no description");
            for target in panel["targets"].as_array().expect("targets") {
                let expr = target["expr"].as_str().expect("an expression");
                let by_class = expr.contains("$class");
                assert!(
                    !by_class || variables.contains(&"class"),
                    "{name}: {title}: no $class"
                );
                assert!(
                    expr.contains("$instance"),
                    "{name}: {title}: not by $instance"
                );
            }
        }
    }
    assert_eq!(all.len(), 7);
    for (place, expr) in queries() {
        assert_eq!(unknown(&expr, &[]), Vec::<String>::new(), "{place}: {expr}");
    }
}
