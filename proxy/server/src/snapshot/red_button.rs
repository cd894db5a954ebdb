//! The red button of the built-in classes (`max_shed_share`), also where an own list of classes stands in their place.

use config::{Config, DEFAULT_CLASSES, Percent};
use proxy_core::admission::Settings;

use super::{policy, settings, share};

/// `max_shed_share` in force, by class, with these `classes`.
fn in_force(classes: &str) -> Vec<(String, f32)> {
    let text = format!(
        "listen: {{ main: [\"192.0.2.10:6443\"] }}\nadmission: {{ classes: [{classes}] }}\n"
    );
    let config = Config::parse(&text, "a test").unwrap_or_else(|report| panic!("{report}"));
    let policy = policy(&config).expect("a policy");
    let settings = settings(&config, &policy);
    let names = policy.classes().iter().map(|class| class.name.to_string());
    let shares = settings.classes.iter().map(|class| class.max_shed_share);
    names.zip(shares).collect()
}

fn listed(names: &[&str]) -> String {
    let classes = names.iter().map(|name| format!("{{ name: {name} }}"));
    classes.collect::<Vec<_>>().join(", ")
}

#[test]
fn what_the_configuration_takes_for_usual_is_what_is_built_in() {
    for (name, built_in) in DEFAULT_CLASSES.iter().zip(Settings::default().classes) {
        let usual = config::Class::usual_max_shed_share(name);
        assert_eq!(share(usual), built_in.max_shed_share, "{name}");
    }
    assert_eq!(
        config::Class::usual_max_shed_share("rollback"),
        Percent::HUNDRED
    );
}

#[test]
fn an_own_list_of_classes_keeps_the_red_button_of_the_built_in_ones() {
    let own = [
        "life-signs",
        "nodes",
        "rollback",
        "operators",
        "control-plane",
        "workload-writes",
        "workload-reads",
        "bulk",
        "unattributed",
    ];
    for (name, share) in in_force(&listed(&own)) {
        let kept = ["control-plane", "operators", "nodes"].contains(&&*name);
        // Where it stands in the list does not matter, nor who has taken its place.
        assert_eq!(share, if kept { 0.5 } else { 1.0 }, "{name}");
    }
}

#[test]
fn what_a_class_says_itself_counts() {
    let rest = listed(&DEFAULT_CLASSES[4..]);
    let own = format!(
        "{{ name: life-signs }}, {{ name: control-plane, max_shed_share: 100% }}, \
         {{ name: operators, max_shed_share: 20% }}, {{ name: nodes, reserve: 15% }}, {rest}"
    );
    let found = in_force(&own);
    let of = |wanted: &str| found.iter().find(|(name, _)| name == wanted);
    let shares =
        ["control-plane", "operators", "nodes"].map(|name| of(name).map(|(_, share)| *share));
    assert_eq!(shares, [Some(1.0), Some(0.2), Some(0.5)], "{found:?}");
}
