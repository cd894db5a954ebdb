//! No text makes the parser panic, and no report is empty or unbounded.

use config::{Config, MAX_TEXT, PolicyDocument};
use proptest::prelude::*;

const FULL: &str = include_str!("../examples/full.yaml");
const RULES: &str = include_str!("../examples/rules.yaml");

fn judge(text: &str) -> Result<(), TestCaseError> {
    if let Err(report) = Config::parse(text, "any.yaml") {
        prop_assert!(!report.issues().is_empty());
        prop_assert!(report.issues().len() <= 50);
        prop_assert!(report.to_string().starts_with("any.yaml"));
    }
    if let Err(report) = PolicyDocument::parse(text, "any.yaml", &Config::default()) {
        prop_assert!(!report.issues().is_empty());
    }
    Ok(())
}

/// A sound file with one piece replaced: closer to real mistakes than random text.
fn damaged(sound: &'static str) -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        "\\PC{0,8}",
        "[ \\t\\n:\\-\\[\\]{}&*!|>'\"%@`,#?~]{0,6}",
        "[0-9]{1,30}(ms|MiB|%)?",
        Just("<<: *a\n".to_owned()),
        Just("&a ".to_owned()),
    ];
    (0..sound.len(), 0..12usize, pieces).prop_map(|(from, length, piece)| {
        let cut = |at: usize| (at..=sound.len()).find(|at| sound.is_char_boundary(*at));
        let start = cut(from).unwrap_or(sound.len());
        let end = cut((from + length).min(sound.len())).unwrap_or(sound.len());
        format!("{}{piece}{}", &sound[..start], &sound[end..])
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn arbitrary_text_is_survived(text in "(?s).{0,300}") {
        judge(&text)?;
    }

    #[test]
    fn text_of_yaml_signs_is_survived(text in "[a-c \\n:\\-\\[\\]{}&*!|>'\"%,#?~0-9]{0,200}") {
        judge(&text)?;
    }

    #[test]
    fn damaged_values_are_survived(text in damaged(FULL)) {
        judge(&text)?;
    }

    #[test]
    fn damaged_rules_are_survived(text in damaged(RULES)) {
        judge(&text)?;
    }
}

#[test]
fn deep_nesting_and_alias_bombs_are_refused() {
    let deep = format!("admission: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Config::parse(&deep, "f").is_err());
    let mut bomb = "users: &a0 [x, x]\n".to_owned();
    for level in 1..30 {
        bomb += &format!("k{level}: &a{level} [*a{0}, *a{0}]\n", level - 1);
    }
    assert!(Config::parse(&bomb, "f").is_err());
}

#[test]
fn a_text_too_long_for_a_configuration_is_not_read() {
    let text = "#".repeat(MAX_TEXT + 1);
    let report = Config::parse(&text, "f").unwrap_err();
    assert!(report.to_string().contains("not a configuration"));
}

#[test]
fn what_the_model_writes_is_what_the_parser_reads() {
    for text in [FULL, RULES] {
        let config = Config::parse(text, "f").unwrap();
        // JSON is YAML.
        let written = serde_json::to_value(&config).unwrap();
        let again = Config::parse(&written.to_string(), "written");
        assert_eq!(again.unwrap_or_else(|report| panic!("{report}")), config);
    }
}
