//! From APF to classes and rules.
//!
//! Both decide by the first match in order, so FlowSchemas become rules in the order of their precedence. Priority levels
//! have no order of importance, only shares: a level's place among the classes is that of the first schema that leads to
//! it, between the levels that Kubernetes itself creates, and its reserve is its share, less what it lends.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::objects::{FlowSchema, Level, Objects, PolicyRules, Subject};

/// What Kubernetes creates by itself (pkg/apis/flowcontrol/bootstrap), and where its requests belong here.
const LEVELS: [(&str, &str); 8] = [
    ("exempt", "control-plane"),
    ("leader-election", "life-signs"),
    ("node-high", "life-signs"),
    ("system", "nodes"),
    ("workload-high", "control-plane"),
    ("workload-low", "workload-reads"),
    ("global-default", "workload-reads"),
    ("catch-all", "bulk"),
];

/// The schemas it creates by itself.
const SCHEMAS: [&str; 13] = [
    "exempt",
    "probes",
    "system-leader-election",
    "endpoint-controller",
    "workload-leader-election",
    "system-node-high",
    "system-nodes",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-system-service-accounts",
    "service-accounts",
    "global-default",
    "catch-all",
];

/// The built-in classes with their reserves, in percent; bulk gives to what is imported.
const CLASSES: [(&str, f64); 8] = [
    ("life-signs", 5.0),
    ("control-plane", 15.0),
    ("operators", 10.0),
    ("nodes", 15.0),
    ("workload-writes", 15.0),
    ("workload-reads", 10.0),
    ("bulk", 20.0),
    ("unattributed", 10.0),
];
/// What bulk gives at most.
const FOR_OWN: f64 = 15.0;
/// Schemas up to this precedence come before Kubernetes' own for nodes.
const BEFORE_NODES: i64 = 500;

/// Fields of a rule with their values, as YAML writes them.
type Conditions = Vec<(&'static str, String)>;

/// A class of the result.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ClassOut {
    pub(super) name: String,
    pub(super) reserve: f64,
    comment: Option<String>,
}

/// A rule of the result.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RuleOut {
    pub(super) name: String,
    pub(super) class: String,
    /// In order.
    pub(super) when: Conditions,
    comments: Vec<String>,
}

/// The result.
#[derive(Clone, Debug, Default)]
pub(super) struct Imported {
    pub(super) classes: Vec<ClassOut>,
    pub(super) own_classes: usize,
    pub(super) rules: Vec<RuleOut>,
    pub(super) left_out: Vec<String>,
    notes: Vec<String>,
}

/// Converts; what Kubernetes creates by itself only with `all`.
pub(super) fn convert(objects: &Objects, all: bool) -> Imported {
    let mut imported = Imported::default();
    let mut schemas: Vec<&FlowSchema> = objects.schemas.iter().collect();
    schemas.sort_by_key(|schema| (schema.spec.matching_precedence, &schema.metadata.name));
    classes(&mut imported, objects, &schemas);
    let mut taken: BTreeSet<String> = ["health", "otherwise", "unverified"]
        .map(String::from)
        .into();
    taken.extend(
        proxy_core::classify::default_rules()
            .iter()
            .map(|rule| rule.name.to_string()),
    );
    for schema in schemas {
        let name = &schema.metadata.name;
        if !all && SCHEMAS.contains(&&**name) {
            imported.left_out.push(name.clone());
            continue;
        }
        let class = class_of(
            &schema.spec.priority_level_configuration.name,
            &objects.levels,
        );
        for rules in &schema.spec.rules {
            let made = rules_of(schema, rules);
            if made.is_empty() {
                imported.notes.push(format!(
                    "FlowSchema {name}: a rule is left out, because it is only about anonymous requests or none"
                ));
            }
            for mut rule in made {
                rule.name = fresh(&mut taken, name);
                rule.class.clone_from(&class);
                imported.rules.push(rule);
            }
        }
    }
    imported
}

/// Where a level's requests go.
fn class_of(level: &str, levels: &[Level]) -> String {
    if let Some((_, class)) = LEVELS.iter().find(|(name, _)| *name == level) {
        return (*class).to_owned();
    }
    let exempt = levels
        .iter()
        .any(|known| known.metadata.name == level && known.spec.kind == "Exempt");
    if exempt {
        return "control-plane".to_owned();
    }
    sound_name(level)
}

/// Lower-case letters, digits and `-`, beginning with a letter, at most 40.
fn sound_name(name: &str) -> String {
    let mut sound: String = name
        .to_ascii_lowercase()
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .take(36)
        .collect();
    if !sound.starts_with(|letter: char| letter.is_ascii_lowercase()) {
        sound.insert_str(0, "p-");
    }
    sound.trim_end_matches('-').to_owned()
}

fn fresh(taken: &mut BTreeSet<String>, name: &str) -> String {
    let base = sound_name(name);
    let mut numbered = (2..).map(|number| format!("{base}-{number}"));
    let mut fresh = base.clone();
    while !taken.insert(fresh.clone()) {
        fresh = numbered.next().unwrap_or_default();
    }
    fresh
}

/// The classes: the built-in ones, with the cluster's own levels among them.
fn classes(imported: &mut Imported, objects: &Objects, schemas: &[&FlowSchema]) {
    let shares = |level: &Level| {
        let limited = level.spec.limited.as_ref();
        limited.map_or(0.0, |limited| {
            limited.nominal_concurrency_shares.unwrap_or(30.0)
        })
    };
    let whole: f64 = objects.levels.iter().map(shares).sum();
    let own: Vec<&Level> = objects
        .levels
        .iter()
        .filter(|level| level.spec.kind != "Exempt")
        .filter(|level| !LEVELS.iter().any(|(name, _)| *name == level.metadata.name))
        .collect();
    let wanted = |level: &Level| {
        let lends = level
            .spec
            .limited
            .as_ref()
            .map_or(0.0, |limited| limited.lendable_percent);
        shares(level) / whole.max(1.0) * 100.0 * (1.0 - lends.clamp(0.0, 100.0) / 100.0)
    };
    let sum: f64 = own.iter().map(|level| wanted(level)).sum();
    let scale = if sum > FOR_OWN { FOR_OWN / sum } else { 1.0 };
    let mut given = 0.0;
    let mut placed: Vec<(usize, ClassOut)> = Vec::new();
    // 16 classes at most, 8 of them built in.
    for level in own.iter().take(8) {
        let name = &level.metadata.name;
        let leads = |schema: &&&FlowSchema| schema.spec.priority_level_configuration.name == *name;
        let first = schemas
            .iter()
            .find(leads)
            .map(|schema| schema.spec.matching_precedence);
        let before = match first {
            Some(..=BEFORE_NODES) => "nodes",
            Some(501..=1_000) => "workload-writes",
            Some(1_001..=9_000) => "workload-reads",
            _ => "bulk",
        };
        let at = CLASSES
            .iter()
            .position(|(class, _)| *class == before)
            .unwrap_or(0);
        let reserve = (wanted(level) * scale * 10.0).floor() / 10.0;
        given += reserve;
        let comment = format!(
            "from PriorityLevelConfiguration {name}: {:.0} of {whole:.0} shares; first precedence {}",
            shares(level),
            first.map_or_else(
                || "none, no FlowSchema leads to it".to_owned(),
                |first| first.to_string()
            )
        );
        placed.push((
            at,
            ClassOut {
                name: sound_name(name),
                reserve,
                comment: Some(comment),
            },
        ));
    }
    for level in own.iter().skip(8) {
        imported.notes.push(format!(
            "PriorityLevelConfiguration {}: no room for another class; its schemas' rules need a class of yours",
            level.metadata.name
        ));
    }
    imported.own_classes = placed.len();
    for (at, (name, reserve)) in CLASSES.iter().enumerate() {
        let own = placed.iter().filter(|(before, _)| *before == at);
        imported.classes.extend(own.map(|(_, class)| class.clone()));
        let reserve = if *name == "bulk" {
            reserve - given
        } else {
            *reserve
        };
        imported.classes.push(ClassOut {
            name: (*name).to_owned(),
            reserve: (reserve * 10.0).round() / 10.0,
            comment: None,
        });
    }
}

/// A list of subjects that one condition can name.
struct Who {
    when: Option<(&'static str, Vec<String>)>,
    /// Everybody verified, so that it also catches whom Kubernetes' own schemas would have caught before.
    broad: bool,
}

fn subjects(subjects: &[Subject]) -> Vec<Who> {
    let (mut users, mut groups, mut accounts) = (Vec::new(), Vec::new(), Vec::new());
    let mut anybody = false;
    for subject in subjects {
        if let Some(user) = &subject.user {
            anybody |= user.name == "*";
            users.push(user.name.clone());
        }
        if let Some(group) = &subject.group {
            anybody |= group.name == "*" || group.name == "system:authenticated";
            groups.push(group.name.clone());
        }
        if let Some(account) = &subject.service_account {
            accounts.push(format!("{}/{}", account.namespace, account.name));
        }
    }
    if anybody {
        return vec![Who {
            when: None,
            broad: true,
        }];
    }
    // Whoever is not verified never rises, whatever a rule says.
    users.retain(|user| user != "system:anonymous");
    groups.retain(|group| group != "system:unauthenticated");
    let broad = groups.iter().any(|group| group == "system:serviceaccounts");
    let mut found = Vec::new();
    for (field, names) in [
        ("users", users),
        ("groups", groups),
        ("service_accounts", accounts),
    ] {
        if !names.is_empty() {
            found.push(Who {
                when: Some((field, names)),
                broad: broad && field == "groups",
            });
        }
    }
    found
}

/// Every combination of subjects with what they ask for.
fn rules_of(schema: &FlowSchema, rules: &PolicyRules) -> Vec<RuleOut> {
    let mut asked: Vec<(Conditions, Vec<String>)> = Vec::new();
    for resource in &rules.resource_rules {
        let mut when = Vec::new();
        let mut comments = Vec::new();
        push(&mut when, "verbs", &resource.verbs);
        push(&mut when, "api_groups", &resource.api_groups);
        // In APF `*` means every resource and subresource; so it does here.
        push(&mut when, "resources", &resource.resources);
        if !resource.namespaces.iter().any(|namespace| namespace == "*") {
            push(&mut when, "namespaces", &resource.namespaces);
            if resource.cluster_scope {
                comments.push(
                    "clusterScope: requests outside any namespace are not told apart here; write a rule for them"
                        .to_owned(),
                );
            }
        }
        if resource.resources.iter().any(|resource| resource == "*") {
            when.push(("scopes", "[named, namespaced, cluster]".to_owned()));
        }
        asked.push((when, comments));
    }
    for other in &rules.non_resource_rules {
        let mut when = Vec::new();
        push(&mut when, "verbs", &other.verbs);
        let urls: Vec<String> = if other.urls.iter().any(|url| url == "*") {
            vec!["*".to_owned()]
        } else {
            other.urls.clone()
        };
        when.push(("non_resource", list(&urls)));
        asked.push((when, Vec::new()));
    }
    let precedence = schema.spec.matching_precedence;
    let mut made = Vec::new();
    for who in subjects(&rules.subjects) {
        for (conditions, comments) in &asked {
            let mut when = Vec::new();
            if let Some((field, names)) = &who.when {
                when.push((*field, list(names)));
            }
            let mut comments = comments.clone();
            if who.broad && precedence > BEFORE_NODES {
                when.push(("node", "false".to_owned()));
                comments.push(
                    "not for nodes, whom Kubernetes' own schemas catch before; so are the control plane's own \
                     users and kube-system: put rules for them before this one if it reaches them"
                        .to_owned(),
                );
            }
            when.extend(conditions.clone());
            comments.insert(
                0,
                format!(
                    "FlowSchema {}, precedence {precedence}",
                    schema.metadata.name
                ),
            );
            made.push(RuleOut {
                when,
                comments,
                ..RuleOut::default()
            });
        }
    }
    made
}

/// A condition, unless it says `*`, which is none.
fn push(when: &mut Conditions, field: &'static str, values: &[String]) {
    if !values.is_empty() && !values.iter().any(|value| value == "*") {
        when.push((field, list(values)));
    }
}

/// A list in YAML's flow style, quoted as JSON.
fn list(values: &[String]) -> String {
    serde_json::to_string(values).unwrap_or_default()
}

impl Imported {
    /// As a configuration's `admission` section.
    pub(super) fn text(&self) -> String {
        let mut text = "# Imported from FlowSchemas and PriorityLevelConfigurations. Review the reserves: APF shares out \
                        concurrency,\n# a reserve is the share of the limit that less important classes never use.\n"
            .to_owned();
        for note in &self.notes {
            let _ = writeln!(text, "# {note}");
        }
        text += "admission:\n";
        if self.own_classes > 0 {
            text += "  classes:\n";
            for class in &self.classes {
                if let Some(comment) = &class.comment {
                    let _ = writeln!(text, "    # {comment}");
                }
                let _ = writeln!(
                    text,
                    "    - {{ name: {}, reserve: {}% }}",
                    class.name, class.reserve
                );
            }
        }
        if self.rules.is_empty() {
            return text + "  rules: []\n";
        }
        text += "  rules:\n";
        for rule in &self.rules {
            for comment in &rule.comments {
                let _ = writeln!(text, "    # {}", comment.replace(['\n', '\r'], " "));
            }
            let _ = writeln!(
                text,
                "    - name: {}\n      class: {}\n      when:",
                rule.name, rule.class
            );
            for (field, value) in &rule.when {
                let _ = writeln!(text, "        {field}: {value}");
            }
            if rule.when.is_empty() {
                text.truncate(text.trim_end().len());
                text += " {}\n";
            }
        }
        text
    }
}
