//! The examples are what people start from: every one must load, and fit the schema.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use config::{Config, Mode, Percent, schema};
use serde_json::Value;

/// Name below the folder, and text, of every example; the cookbook's are in a folder of their own.
fn examples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut found = Vec::new();
    for (folder, prefix) in [(folder.clone(), ""), (folder.join("cookbook"), "cookbook/")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.file_name().unwrap().to_str().unwrap();
                found.push((
                    format!("{prefix}{name}"),
                    fs::read_to_string(&path).unwrap(),
                ));
            }
        }
    }
    found.sort();
    found
}

fn example(name: &str) -> Config {
    let found = examples().into_iter().find(|(other, _)| other == name);
    Config::parse(&found.unwrap().1, name).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn every_example_loads() {
    let examples = examples();
    assert!(examples.len() >= 10);
    for (name, text) in examples {
        if let Err(report) = Config::parse(&text, &name) {
            panic!("{report}");
        }
    }
}

#[test]
fn the_full_example_says_the_defaults() {
    let full = example("full.yaml");
    let mut expected = Config::default();
    expected.listen.main = vec![
        "192.0.2.10:6443".parse().unwrap(),
        "[2001:db8::10]:6443".parse().unwrap(),
    ];
    expected.listen.reserved = vec![
        "192.0.2.10:7443".parse().unwrap(),
        "[2001:db8::10]:7443".parse().unwrap(),
    ];
    assert_eq!(full, expected);
}

#[test]
fn the_full_example_names_every_key() {
    let text = examples()
        .into_iter()
        .find(|(name, _)| name == "full.yaml")
        .unwrap()
        .1;
    let written: Value = serde_saphyr::from_str(&text).unwrap();
    let model = serde_json::to_value(Config::default()).unwrap();
    assert_eq!(keys(&written), keys(&model));
}

fn keys(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if let Value::Object(map) = value {
        for (key, value) in map {
            found.insert(key.clone());
            found.extend(keys(value).iter().map(|inner| format!("{key}.{inner}")));
        }
    }
    found
}

#[test]
fn the_minimal_example_leaves_the_rest_to_the_defaults() {
    let minimal = example("minimal.yaml");
    let mut expected = Config::default();
    expected.listen.main = vec!["192.0.2.10:6443".parse().unwrap()];
    expected.listen.reserved = vec!["192.0.2.10:7443".parse().unwrap()];
    assert_eq!(minimal, expected);
}

#[test]
fn the_shadow_example_refuses_nothing() {
    let shadow = example("shadow.yaml").admission;
    assert_eq!(shadow.mode, Mode::Shadow);
    assert_eq!(shadow.max_shed_share, Percent::from_basis_points(500));
}

#[test]
fn the_rules_example_keeps_its_order_and_its_exclusions() {
    let admission = example("rules.yaml").admission;
    let names: Vec<&str> = admission
        .rules
        .iter()
        .map(|rule| rule.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "deployments",
            "ingress",
            "telemetry",
            "builds",
            "node-agents"
        ]
    );
    let telemetry = &admission.rules[2].when;
    assert_eq!(telemetry.verbs, ["list", "watch"]);
    assert_eq!(telemetry.groups, ["!system:masters"]);
    assert_eq!(admission.rules[4].when.node, Some(false));
    assert_eq!(admission.classes.len(), 9);
}

#[test]
fn every_example_fits_the_schema() {
    let schema = schema();
    for (name, text) in examples() {
        let value: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(
            misfits(&schema, &schema, &value, "", false),
            Vec::<String>::new(),
            "{name}"
        );
    }
}

#[test]
fn the_schema_refuses_what_the_parser_refuses() {
    let schema = schema();
    for text in [
        "colour: blue",
        "log: { level: verbose }",
        "listen: { workers: 1000 }",
        "listen: { workers: many }",
        "admission: { rules: [{ name: a }] }",
        "admission: { rules: [{ name: a, class: b, when: { wen: [] } }] }",
        "admission: { bytes: 512 }",
    ] {
        let value: Value = serde_saphyr::from_str(text).unwrap();
        assert_ne!(
            misfits(&schema, &schema, &value, "", false),
            Vec::<String>::new(),
            "{text}"
        );
        assert!(Config::parse(text, "f").is_err(), "{text}");
    }
}

/// A judge for the part of JSON Schema that ours uses; patterns are left to the parser.
/// `open`: unknown keys belong to a schema that includes this one.
fn misfits(root: &Value, schema: &Value, value: &Value, at: &str, open: bool) -> Vec<String> {
    let mut found = Vec::new();
    let Value::Object(schema) = schema else {
        return found;
    };
    for (keyword, rule) in schema {
        match keyword.as_str() {
            "$ref" => {
                let name = rule.as_str().unwrap().strip_prefix("#").unwrap();
                found.extend(misfits(root, root.pointer(name).unwrap(), value, at, open));
            }
            "type" => {
                let kinds: Vec<&str> = match rule {
                    Value::Array(kinds) => {
                        kinds.iter().map(|kind| kind.as_str().unwrap()).collect()
                    }
                    one => vec![one.as_str().unwrap()],
                };
                if !kinds.contains(&kind(value)) {
                    found.push(format!("{at}: {value} is not {kinds:?}"));
                }
            }
            "properties" => {
                for (key, inner) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        found.extend(misfits(root, inner, value, &format!("{at}.{key}"), false));
                    }
                }
            }
            "additionalProperties" => {
                assert_eq!(rule, &Value::Bool(false));
                for key in value.as_object().into_iter().flat_map(|map| map.keys()) {
                    if !open
                        && schema
                            .get("properties")
                            .is_none_or(|known| known.get(key).is_none())
                    {
                        found.push(format!("{at}: unknown key {key}"));
                    }
                }
            }
            "required" => {
                for key in rule.as_array().unwrap() {
                    if value.get(key.as_str().unwrap()).is_none() {
                        found.push(format!("{at}: {key} is missing"));
                    }
                }
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(misfits(root, rule, value, &format!("{at}[{index}]"), false));
                }
            }
            "enum" => {
                if !rule.as_array().unwrap().contains(value) {
                    found.push(format!("{at}: {value} is none of {rule}"));
                }
            }
            "const" => {
                if rule != value {
                    found.push(format!("{at}: {value} is not {rule}"));
                }
            }
            "oneOf" | "anyOf" => {
                let fits = rule.as_array().unwrap().iter();
                if !fits
                    .into_iter()
                    .any(|one| misfits(root, one, value, at, open).is_empty())
                {
                    found.push(format!("{at}: {value} fits no alternative"));
                }
            }
            "minimum" => {
                if value
                    .as_f64()
                    .is_some_and(|number| number < rule.as_f64().unwrap())
                {
                    found.push(format!("{at}: {value} is below {rule}"));
                }
            }
            "maximum" => {
                if value
                    .as_f64()
                    .is_some_and(|number| number > rule.as_f64().unwrap())
                {
                    found.push(format!("{at}: {value} is above {rule}"));
                }
            }
            "$schema" | "$defs" | "title" | "description" | "default" | "format" | "pattern" => {}
            other => panic!("the schema uses {other}, which this judge does not know"),
        }
    }
    found
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
