//! A policy that comes from beside the configuration: read by the same rules, and kept from what is the host's alone.

use crate::model::{Config, PolicyDocument};
use crate::origin::Origins;
use crate::parse::read;
use crate::raw::{self, Scalar, at, at_value};
use crate::report::{Problems, Report};
use crate::resolve::{Values, in_order};
use crate::{limits, rules};

/// Every limit is asked for every request: so many in the configuration and a policy together.
const MAX_LIMITS: usize = 64;

/// The class of the built-in rules that no policy comes before.
const LIFE_SIGNS: &str = "life-signs";

impl PolicyDocument {
    /// Reads a policy that is to stand beside `config`; `source_name` is what the report calls the text.
    ///
    /// # Errors
    ///
    /// A [`Report`] of everything wrong: what [`Config::parse`] would find in rules and limits, any
    /// other section, names that the configuration has taken, and every reach for the most important
    /// class, for `life-signs`, or beyond `policy.highest_class`.
    pub fn parse(text: &str, source_name: &str, config: &Config) -> Result<Self, Report> {
        let mut problems = Problems::new(source_name, text);
        let document = read::<raw::PolicyDocument>(text, &mut problems)
            .map(|raw| resolve(raw, config, &mut problems));
        match (document, problems.into_report()) {
            (Some(document), None) => Ok(document),
            (_, Some(report)) => Err(report),
            (None, None) => Err(Report::unexplained(source_name)),
        }
    }

    /// Whether it adds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.limits.is_empty()
    }
}

fn resolve(
    raw: raw::PolicyDocument,
    config: &Config,
    problems: &mut Problems<'_>,
) -> PolicyDocument {
    let admission = raw::Admission {
        rules: raw.rules,
        limits: raw.limits,
        ..raw::Admission::default()
    };
    let classes = &config.admission.classes;
    let mut values = Values {
        problems,
        origins: Origins::default(),
        within: "",
    };
    let document = PolicyDocument {
        rules: rules::rules(&mut values, &admission, classes),
        limits: limits::limits(&mut values, &admission, classes),
    };
    keep_off(&admission, config, problems);
    document
}

/// What the configuration and the most important class keep to themselves.
fn keep_off(raw: &raw::Admission, config: &Config, problems: &mut Problems<'_>) {
    let classes = in_order(&config.admission.classes);
    let rank = |name: &str| classes.iter().position(|class| *class == name);
    let highest = config
        .policy
        .highest_class
        .as_deref()
        .and_then(rank)
        .unwrap_or(1)
        .max(1);
    let allowed: Vec<&str> = classes
        .iter()
        .copied()
        .skip(highest)
        .filter(|class| *class != LIFE_SIGNS)
        .collect();
    let written = |scalar: Option<&Scalar>| scalar.map(|scalar| scalar.value.trim().to_owned());
    let rules = &config.admission.rules;
    let listed = raw.rules.as_deref().unwrap_or_default();
    for (index, rule) in listed.iter().enumerate() {
        let (name, class) = (rule.value.name.as_ref(), rule.value.class.as_ref());
        if let Some(text) = written(name)
            && rules.iter().any(|other| other.name == text)
        {
            let what = format!("rules[{index}].name: `{text}` is a rule of the configuration");
            problems.add(at_value(name), what, "a name of its own");
        }
        if let Some(text) = written(class)
            && rank(&text).is_some()
            && !allowed.contains(&text.as_str())
        {
            let what = format!(
                "rules[{index}].class: no policy may lead to `{text}`; the configuration may"
            );
            problems.add(at_value(class), what, allowed.join(", "));
        }
    }
    let limits = &config.admission.limits;
    let listed = raw.limits.as_deref().unwrap_or_default();
    for (index, limit) in listed.iter().enumerate() {
        let (name, class) = (limit.value.name.as_ref(), limit.value.class.as_ref());
        if let Some(text) = written(name)
            && limits.iter().any(|other| other.name == text)
        {
            let what = format!("limits[{index}].name: `{text}` is a limit of the configuration");
            problems.add(at_value(name), what, "a name of its own");
        }
        if let Some(text) = written(class)
            && (rank(&text) == Some(0) || text == LIFE_SIGNS)
        {
            let what = format!(
                "limits[{index}].class: no policy may limit `{text}`; the configuration may"
            );
            problems.add(at_value(class), what, "another class");
        }
        if index + limits.len() == MAX_LIMITS {
            let what = format!(
                "{} limits, with those of the configuration",
                listed.len() + limits.len()
            );
            problems.add(
                at(&limit.referenced),
                what,
                format!("up to {MAX_LIMITS} limits"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Config {
        let text = format!("listen: {{ main: ['192.0.2.1:6443'] }}\n{more}");
        Config::parse(&text, "config").unwrap()
    }

    fn refused(text: &str, config: &Config) -> String {
        PolicyDocument::parse(text, "policy.yaml", config)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn rules_and_limits_are_read_as_in_the_configuration() {
        let text = "rules:\n  - { name: agents, class: bulk, when: { service_accounts: [mon/agent] } }\n\
                    limits:\n  - { name: few, class: bulk, per: tenant, concurrency: 3 }\n";
        let document = PolicyDocument::parse(text, "policy.yaml", &config("")).unwrap();
        assert_eq!((document.rules.len(), document.limits.len()), (1, 1));
        assert!(
            PolicyDocument::parse("", "policy.yaml", &config(""))
                .unwrap()
                .is_empty()
        );
        let wrong = refused("rules:\n  - { name: agents, class: bluk }\n", &config(""));
        assert!(
            wrong.starts_with("policy.yaml:2:28: rules[0].class: "),
            "{wrong}"
        );
    }

    #[test]
    fn nothing_but_rules_and_limits_can_be_said() {
        for section in [
            "reserved: {}",
            "listen: {}",
            "admission: {}",
            "tls: {}",
            "classes: []",
            "upstream: {}",
        ] {
            let wrong = refused(&format!("{section}\n"), &config(""));
            assert!(
                wrong.contains("unknown key") && wrong.contains("accepted: limits, rules"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn nobody_reaches_the_most_important_class_or_takes_from_it() {
        let up = "rules:\n  - { name: up, class: life-signs }\n";
        assert!(refused(up, &config("")).contains("no policy may lead to `life-signs`"));
        let limit = "limits:\n  - { name: none, class: life-signs, concurrency: 0 }\n";
        assert!(refused(limit, &config("")).contains("no policy may limit `life-signs`"));
        let control = "rules:\n  - { name: up, class: control-plane }\n";
        assert!(PolicyDocument::parse(control, "p", &config("")).is_ok());
        let below = config("policy: { highest_class: nodes }\n");
        let wrong = refused(control, &below);
        assert!(
            wrong.contains("no policy may lead to `control-plane`"),
            "{wrong}"
        );
        assert!(
            wrong.contains("accepted: nodes, workload-writes"),
            "{wrong}"
        );
    }

    #[test]
    fn names_of_the_configuration_are_taken() {
        let own = config(
            "admission: { rules: [{ name: one, class: bulk }], limits: [{ name: two, concurrency: 1, class: bulk }] }\n",
        );
        let wrong = refused(
            "rules: [{ name: one, class: nodes }]\nlimits: [{ name: two, concurrency: 9 }]\n",
            &own,
        );
        assert!(
            wrong.contains("`one` is a rule of the configuration"),
            "{wrong}"
        );
        assert!(
            wrong.contains("`two` is a limit of the configuration"),
            "{wrong}"
        );
    }

    #[test]
    fn limits_are_counted_with_those_of_the_configuration() {
        let many = |count: usize, name: &str| -> String {
            let limits: Vec<String> = (0..count)
                .map(|n| format!("{{ name: {name}{n}, class: bulk, concurrency: 1 }}"))
                .collect();
            format!("limits: [{}]", limits.join(", "))
        };
        let own = config(&format!("admission: {{ {} }}\n", many(60, "own")));
        assert!(PolicyDocument::parse(&many(4, "new"), "p", &own).is_ok());
        assert!(refused(&many(5, "new"), &own).contains("65 limits"));
    }
}
