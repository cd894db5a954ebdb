//! How important a request is: the first matching rule of a compiled policy.
//!
//! A [`Policy`] is an ordered list of classes, most important first, and an
//! ordered list of rules. Three properties hold whatever the rules say:
//!
//! * **Everything has a class.** Behind the last rule stand two implicit ones:
//!   an unverified identity lands in the last class, a verified one in the class
//!   before it.
//! * **The unverified stay at the bottom.** An anonymous or unattributed client
//!   never even meets a rule that leads anywhere but to the last class. The one
//!   exception is the health endpoints ([`HEALTH_RULE`]), which load balancers and
//!   kubelets ask anonymously and which the server's own flow control exempts.
//!   Everything else anonymous clients may read (`/version`, OIDC discovery,
//!   `kube-public/cluster-info`) waits at the bottom: joining a node or
//!   discovering keys can be retried, and a flood of it must not hurt.
//! * **A User-Agent never raises.** Anybody can send any User-Agent. A rule that
//!   looks at it without naming who may profit can only move a request *down*:
//!   the rest of the policy is still asked, and the less important answer counts.
//!
//! Classifying allocates nothing and takes time linear in the number of rules.

mod condition;
mod defaults;
mod matcher;
mod pattern;
mod rule;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use thiserror::Error;

pub use condition::Condition;
pub use defaults::{default_classes, default_rules};
pub use rule::{Match, Rule, SHAPES};

use crate::attributes::{Attributes, Scope, Verb};
use crate::identity::Identity;
use matcher::Matcher;

/// The most classes a policy may have.
pub const MAX_CLASSES: usize = 16;
/// The most rules a policy may have, the implicit ones not counted.
pub const MAX_RULES: usize = 1_024;
/// Name of the built-in rule for `/livez`, `/readyz`, `/healthz` and what lies
/// below them. It is always asked first and leads to the most important class.
pub const HEALTH_RULE: &str = "health";
/// Name of the implicit rule for verified identities no other rule wanted.
pub const OTHERWISE_RULE: &str = "otherwise";
/// Name of the implicit rule for unverified identities.
pub const UNVERIFIED_RULE: &str = "unverified";

/// A class, by its index in [`Policy::classes`]: 0 is the most important.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u8);

impl ClassId {
    /// The class as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The classes of the default policy.
impl ClassId {
    /// Leases, node status, authentication and authorisation reviews, health.
    pub const LIFE_SIGNS: Self = Self(0);
    /// Controllers, scheduler, and the readers the data plane lives on.
    pub const CONTROL_PLANE: Self = Self(1);
    /// People.
    pub const OPERATORS: Self = Self(2);
    /// Kubelets.
    pub const NODES: Self = Self(3);
    /// Writes and single reads of workloads.
    pub const WORKLOAD_WRITES: Self = Self(4);
    /// Namespaced collections and cheap watches of workloads.
    pub const WORKLOAD_READS: Self = Self(5);
    /// Collections across all namespaces: where telemetry herds land.
    pub const BULK: Self = Self(6);
    /// Anonymous and unverified clients.
    pub const UNATTRIBUTED: Self = Self(7);
}

/// A rule, by its index in [`Policy::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u16);

impl RuleId {
    /// The rule as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A class as the policy names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSpec {
    /// Its name, unique in the policy.
    pub name: Box<str>,
}

impl ClassSpec {
    /// A class of that name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into() }
    }
}

/// What a connection says about its client, beside the identity.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The User-Agent header: a claim, see the module.
    pub user_agent: Option<&'a str>,
    /// The peer's address, as the socket reports it.
    pub address: IpAddr,
}

/// The answer, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// The class.
    pub class: ClassId,
    /// The rule that decided; [`Policy::rule_name`] names it.
    pub rule: RuleId,
}

/// Why a policy cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// No class, or too many.
    #[error("a policy needs 1 to {MAX_CLASSES} classes, this one has {0}")]
    ClassCount(usize),
    /// Two classes share a name, or one has none.
    #[error("class {index} is called {name:?}; every class needs a name of its own")]
    ClassName {
        /// Its index.
        index: usize,
        /// Its name.
        name: Box<str>,
    },
    /// Too many rules.
    #[error("a policy may have {MAX_RULES} rules, this one has {0}")]
    RuleCount(usize),
    /// Two rules share a name, one has none, or takes a built-in one.
    #[error(
        "rule {index} is called {name:?}; every rule needs a name of its own, and \
         {HEALTH_RULE:?}, {OTHERWISE_RULE:?}, {UNVERIFIED_RULE:?} are taken"
    )]
    RuleName {
        /// Its index.
        index: usize,
        /// Its name.
        name: Box<str>,
    },
    /// The rule leads to a class that does not exist.
    #[error("rule {rule:?} leads to class {class:?}; the classes are {known}")]
    UnknownClass {
        /// The rule.
        rule: Box<str>,
        /// What it says.
        class: Box<str>,
        /// What it could say.
        known: Box<str>,
    },
    /// A condition has a value that means nothing.
    #[error("rule {rule:?}, {field}: {value:?} is not {expected}")]
    Value {
        /// The rule.
        rule: Box<str>,
        /// The condition's field.
        field: &'static str,
        /// What it says.
        value: Box<str>,
        /// What it could say.
        expected: Box<str>,
    },
    /// The conditions exclude each other.
    #[error("rule {rule:?} can never match: {why}")]
    Impossible {
        /// The rule.
        rule: Box<str>,
        /// Which conditions, and why.
        why: &'static str,
    },
}

/// A compiled rule.
#[derive(Clone, Debug)]
struct Compiled {
    name: Box<str>,
    class: ClassId,
    matcher: Matcher,
}

/// Classes and rules, ready to be asked.
#[derive(Clone, Debug)]
pub struct Policy {
    classes: Vec<ClassSpec>,
    /// `health`, the given rules, `otherwise`, `unverified`.
    rules: Vec<Compiled>,
    last: ClassId,
}

impl Policy {
    /// Compiles classes (most important first) and rules (first match wins).
    ///
    /// # Errors
    ///
    /// [`PolicyError`], which names the rule and what would be accepted.
    pub fn compile(classes: Vec<ClassSpec>, rules: Vec<Rule>) -> Result<Self, PolicyError> {
        check_classes(&classes)?;
        if rules.len() > MAX_RULES {
            return Err(PolicyError::RuleCount(rules.len()));
        }
        // In range: at most MAX_CLASSES, at least one.
        let last = ClassId(classes.len().saturating_sub(1) as u8);
        let implicit = |name: &str, class| Compiled {
            name: name.into(),
            class,
            matcher: Matcher::default(),
        };
        let mut compiled: Vec<Compiled> = Vec::with_capacity(rules.len() + 3);
        compiled.push(implicit(HEALTH_RULE, ClassId(0)));
        for (index, rule) in rules.into_iter().enumerate() {
            let taken = compiled.iter().any(|other| other.name == rule.name)
                || matches!(&*rule.name, "" | OTHERWISE_RULE | UNVERIFIED_RULE);
            if taken {
                return Err(PolicyError::RuleName {
                    index,
                    name: rule.name,
                });
            }
            compiled.push(compile_rule(&classes, rule)?);
        }
        compiled.push(implicit(OTHERWISE_RULE, ClassId(last.0.saturating_sub(1))));
        compiled.push(implicit(UNVERIFIED_RULE, last));
        Ok(Self {
            classes,
            rules: compiled,
            last,
        })
    }

    /// The built-in policy: [`default_classes`] and [`default_rules`].
    ///
    /// # Panics
    ///
    /// Never: a test compiles it.
    #[must_use]
    pub fn default_policy() -> Self {
        match Self::compile(default_classes(), default_rules()) {
            Ok(policy) => policy,
            Err(error) => unreachable!("the built-in policy compiles: {error}"),
        }
    }

    /// The built-in policy with `rules` asked before its own.
    ///
    /// # Errors
    ///
    /// As [`Policy::compile`]; a rule may not take the name of a built-in one.
    pub fn with_rules_before_defaults(rules: Vec<Rule>) -> Result<Self, PolicyError> {
        let mut all = rules;
        all.extend(default_rules());
        Self::compile(default_classes(), all)
    }

    /// The class of a request, and the rule that decided.
    #[must_use]
    pub fn classify(
        &self,
        attributes: &Attributes<'_>,
        identity: &Identity,
        client: &Client<'_>,
    ) -> Classified {
        let scope = attributes.scope();
        if scope == Scope::NonResource && is_health(attributes) {
            return self.decided(0);
        }
        let verified = identity.is_verified();
        let mut lowered: Option<Classified> = None;
        for (index, rule) in self.given() {
            let may_meet = verified || rule.class == self.last;
            if !may_meet || !rule.matcher.matches(attributes, scope, identity, client) {
                continue;
            }
            if rule.matcher.only_lowers() {
                let answer = self.decided(index);
                if lowered.is_none_or(|before| answer.class > before.class) {
                    lowered = Some(answer);
                }
                continue;
            }
            return less_important(self.decided(index), lowered);
        }
        let implicit = self.rules.len().saturating_sub(1 + usize::from(verified));
        less_important(self.decided(implicit), lowered)
    }

    /// The rules somebody wrote, with their indices.
    fn given(&self) -> impl Iterator<Item = (usize, &Compiled)> {
        let given = self.rules.len().saturating_sub(2);
        self.rules.iter().enumerate().take(given).skip(1)
    }

    fn decided(&self, index: usize) -> Classified {
        Classified {
            class: self.rules.get(index).map_or(self.last, |rule| rule.class),
            // In range: at most MAX_RULES and three.
            rule: RuleId(index as u16),
        }
    }

    /// The classes, most important first.
    #[must_use]
    pub fn classes(&self) -> &[ClassSpec] {
        &self.classes
    }

    /// The name of a class; empty for a foreign id.
    #[must_use]
    pub fn class_name(&self, class: ClassId) -> &str {
        self.classes
            .get(class.index())
            .map_or("", |class| &class.name)
    }

    /// The class of that name.
    #[must_use]
    pub fn class_named(&self, name: &str) -> Option<ClassId> {
        class_named(&self.classes, name)
    }

    /// The rules in the order they are asked: name and class. The first is
    /// [`HEALTH_RULE`], the last two are implicit.
    pub fn rules(&self) -> impl Iterator<Item = (&str, ClassId)> {
        self.rules.iter().map(|rule| (&*rule.name, rule.class))
    }

    /// The name of a rule; empty for a foreign id.
    #[must_use]
    pub fn rule_name(&self, rule: RuleId) -> &str {
        self.rules.get(rule.index()).map_or("", |rule| &rule.name)
    }
}

/// What anybody may ask, however unknown: GET and HEAD of the health endpoints.
/// The caller has made sure that no resource is addressed.
fn is_health(attributes: &Attributes<'_>) -> bool {
    if !matches!(attributes.verb, Verb::Get | Verb::Head) {
        return false;
    }
    ["/livez", "/readyz", "/healthz"].iter().any(|endpoint| {
        attributes
            .path
            .strip_prefix(endpoint)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

fn less_important(answer: Classified, lowered: Option<Classified>) -> Classified {
    match lowered {
        Some(lowered) if lowered.class > answer.class => lowered,
        _ => answer,
    }
}

fn class_named(classes: &[ClassSpec], name: &str) -> Option<ClassId> {
    let index = classes.iter().position(|class| &*class.name == name)?;
    u8::try_from(index).ok().map(ClassId)
}

fn check_classes(classes: &[ClassSpec]) -> Result<(), PolicyError> {
    if classes.is_empty() || classes.len() > MAX_CLASSES {
        return Err(PolicyError::ClassCount(classes.len()));
    }
    for (index, class) in classes.iter().enumerate() {
        let first = classes.iter().position(|other| other.name == class.name);
        if class.name.is_empty() || first != Some(index) {
            return Err(PolicyError::ClassName {
                index,
                name: class.name.clone(),
            });
        }
    }
    Ok(())
}

fn compile_rule(classes: &[ClassSpec], rule: Rule) -> Result<Compiled, PolicyError> {
    let Some(class) = class_named(classes, &rule.class) else {
        let known: Vec<&str> = classes.iter().map(|class| &*class.name).collect();
        return Err(PolicyError::UnknownClass {
            rule: rule.name,
            class: rule.class,
            known: known.join(", ").into(),
        });
    };
    let matcher = Matcher::compile(&rule.name, &rule.when)?;
    Ok(Compiled {
        name: rule.name,
        class,
        matcher,
    })
}
