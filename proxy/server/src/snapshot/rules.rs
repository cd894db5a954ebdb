//! From rules and limits as they are written to what the core compiles.

use config::{Config, PolicyDocument};
use proxy_core::admission::limits::{self, LimitSpec, Limits};
use proxy_core::classify::{
    ClassSpec, Match, Policy, PolicyError, Rule, default_classes, default_rules,
};

use super::SnapshotError;

/// The class that holds what keeps nodes and leaders alive.
const LIFE_SIGNS: &str = "life-signs";

/// The operator's rules before the built-in ones, over the operator's classes or the built-in ones.
pub(crate) fn policy(config: &Config) -> Result<Policy, PolicyError> {
    policy_with(config, &[])
}

/// The same with `delivered` rules: behind the operator's, and behind the built-in ones for the signs of life, which are
/// the configuration's alone to change.
pub(super) fn policy_with(
    config: &Config,
    delivered: &[config::Rule],
) -> Result<Policy, PolicyError> {
    let admission = &config.admission;
    let classes = match admission.classes.as_slice() {
        [] => default_classes(),
        classes => classes
            .iter()
            .map(|class| ClassSpec::new(&class.name))
            .collect(),
    };
    let written = |rule: &config::Rule| Rule::new(&rule.name, &rule.class, conditions(&rule.when));
    let mut rules: Vec<Rule> = admission.rules.iter().map(written).collect();
    let (life_signs, others): (Vec<Rule>, Vec<Rule>) = default_rules()
        .into_iter()
        .partition(|rule| &*rule.class == LIFE_SIGNS);
    rules.extend(life_signs);
    rules.extend(delivered.iter().map(written));
    rules.extend(others);
    Policy::compile(classes, rules)
}

/// Whether a policy can be used beside `config`.
///
/// # Errors
/// [`SnapshotError`] when it does not compile.
pub(crate) fn compiles(config: &Config, delivered: &PolicyDocument) -> Result<(), SnapshotError> {
    let policy = policy_with(config, &delivered.rules)?;
    hard_limits(&delivered.limits, &policy, None).map(|_| ())
}

/// The operator's hard limits, in the order in which they are written.
pub(super) fn hard_limits(
    written: &[config::HardLimit],
    policy: &Policy,
    before: Option<&Limits>,
) -> Result<Limits, SnapshotError> {
    let specs = written.iter().map(|limit| LimitSpec {
        name: limit.name.as_str().into(),
        when: conditions(&limit.when),
        class: limit
            .class
            .as_deref()
            .and_then(|class| policy.class_named(class)),
        per: match limit.per {
            config::Per::Rule => limits::Per::Rule,
            config::Per::Class => limits::Per::Class,
            config::Per::Tenant => limits::Per::Tenant,
            config::Per::Instance => limits::Per::Instance,
        },
        bounds: [limit.concurrency, limit.watches, limit.sessions],
        rate: limit.rate.map(|rate| {
            let burst = limit.burst.unwrap_or_else(|| rate.per_second());
            limits::Rate::new(rate.count(), rate.period(), burst)
        }),
        server_time: limit.server_time,
        deny: limit.deny,
    });
    Limits::compile(specs.collect(), before).map_err(SnapshotError::Limits)
}

fn conditions(when: &config::Match) -> Match {
    let config::Match {
        users,
        groups,
        service_accounts,
        sources,
        node,
        user_agents,
        addresses,
        verbs,
        api_groups,
        resources,
        namespaces,
        names,
        scopes,
        shapes,
        non_resource,
    } = when.clone();
    Match {
        users,
        groups,
        service_accounts,
        sources,
        node,
        user_agents,
        addresses,
        verbs,
        api_groups,
        resources,
        namespaces,
        names,
        scopes,
        shapes,
        non_resource,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(policy: &Policy) -> Vec<(String, u8)> {
        let rules = policy.rules();
        rules
            .map(|(name, class)| (name.to_owned(), class.0))
            .collect()
    }

    /// Nothing but the signs of life comes before a delivered rule that did not before, and they were first all along.
    #[test]
    fn without_delivered_rules_the_built_in_ones_stand_in_their_own_order() {
        assert_eq!(
            names(&policy(&Config::default()).expect("compiles")),
            names(&Policy::default_policy())
        );
    }

    #[test]
    fn delivered_rules_come_behind_the_configurations_and_the_signs_of_life_and_before_all_others()
    {
        let text = "listen: { main: ['192.0.2.1:6443'] }\nadmission: { rules: [{ name: own, class: nodes }] }\n";
        let config = Config::parse(text, "test").expect("a configuration");
        let delivered =
            config::PolicyDocument::parse("rules: [{ name: new, class: bulk }]", "p", &config);
        let policy = policy_with(&config, &delivered.expect("a policy").rules).expect("compiles");
        let names = names(&policy);
        let at = |name: &str| {
            names
                .iter()
                .position(|(other, _)| other == name)
                .expect(name)
        };
        assert!(at("own") < at("node-leases") && at("leader-election") < at("new"));
        let behind: Vec<_> = names
            .iter()
            .skip(at("new"))
            .filter(|(_, class)| *class == 0)
            .collect();
        assert!(behind.is_empty(), "{behind:?}");
    }
}
