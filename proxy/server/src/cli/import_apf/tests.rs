use super::*;

const OBJECTS: &str = r#"
apiVersion: v1
kind: List
items:
- apiVersion: flowcontrol.apiserver.k8s.io/v1
  kind: PriorityLevelConfiguration
  metadata: { name: CI_builds }
  spec: { type: Limited, limited: { nominalConcurrencyShares: 20, lendablePercent: 50 } }
- apiVersion: flowcontrol.apiserver.k8s.io/v1
  kind: PriorityLevelConfiguration
  metadata: { name: workload-low }
  spec: { type: Limited, limited: { nominalConcurrencyShares: 80 } }
- apiVersion: flowcontrol.apiserver.k8s.io/v1
  kind: FlowSchema
  metadata: { name: second }
  spec:
    priorityLevelConfiguration: { name: workload-low }
    matchingPrecedence: 9500
    rules:
    - subjects: [{ kind: Group, group: { name: "system:authenticated" } }]
      resourceRules: [{ verbs: [list], apiGroups: [""], resources: [pods], namespaces: ["*"], clusterScope: true }]
- apiVersion: flowcontrol.apiserver.k8s.io/v1
  kind: FlowSchema
  metadata: { name: first }
  spec:
    priorityLevelConfiguration: { name: CI_builds }
    matchingPrecedence: 300
    rules:
    - subjects:
      - { kind: User, user: { name: "build: \"bot\" #1" } }
      - { kind: ServiceAccount, serviceAccount: { namespace: ci, name: "*" } }
      - { kind: Group, group: { name: "system:unauthenticated" } }
      resourceRules: [{ verbs: ["*"], apiGroups: ["*"], resources: ["*"], namespaces: [ci, cd] }]
      nonResourceRules: [{ verbs: [get], nonResourceURLs: ["/metrics", "/debug/*"] }]
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: { name: global-default }
spec:
  priorityLevelConfiguration: { name: global-default }
  matchingPrecedence: 9900
  rules: []
"#;

fn imported(all: bool) -> convert::Imported {
    let mut objects = Objects::default();
    objects.add(OBJECTS).expect("objects");
    convert::convert(&objects, all)
}

#[test]
fn what_is_written_is_a_configuration_whose_rules_are_in_the_order_of_precedence() {
    let imported = imported(false);
    let text = imported.text();
    check(&text).unwrap_or_else(|problem| panic!("{problem}\n{text}"));
    let names: Vec<&str> = imported.rules.iter().map(|rule| &*rule.name).collect();
    assert_eq!(names, ["first", "first-2", "first-3", "first-4", "second"]);
    assert_eq!(imported.left_out, ["global-default"]);
    let first = &imported.rules[0];
    assert_eq!(first.class, "ci-builds");
    assert_eq!(
        first.when[0],
        ("users", r#"["build: \"bot\" #1"]"#.to_owned())
    );
    assert!(
        imported
            .rules
            .iter()
            .all(|rule| !format!("{rule:?}").contains("unauthenticated\""))
    );
    let second = &imported.rules[4];
    assert_eq!(second.class, "workload-reads");
    assert!(
        second.when.contains(&("node", "false".to_owned())),
        "{second:?}"
    );
}

#[test]
fn a_level_becomes_a_class_at_its_place_with_what_it_does_not_lend() {
    let imported = imported(false);
    let position = |name: &str| {
        let found = imported.classes.iter().position(|class| class.name == name);
        found.unwrap_or_else(|| panic!("no class {name}"))
    };
    assert!(position("operators") < position("ci-builds"));
    assert!(position("ci-builds") < position("nodes"));
    // 20 of 100 shares, of which half is lent.
    assert_eq!(imported.classes[position("ci-builds")].reserve, 10.0);
    assert_eq!(imported.classes[position("bulk")].reserve, 10.0);
    assert_eq!(imported.classes.len(), 9);
}

#[test]
fn requests_are_classified_as_apf_would() {
    let text = imported(false).text();
    let whole = format!("listen: {{ main: [\"192.0.2.1:6443\"] }}\n{text}");
    let config = Config::parse(&whole, "import").expect("good");
    let policy = snapshot::policy(&config).expect("compiles");
    let class = |method: &str, url: &str, user: &str, groups: &[&str]| {
        let question = crate::explain::Question {
            method: method.into(),
            url: url.into(),
            user: user.into(),
            groups: groups.iter().map(|group| (*group).into()).collect(),
            ..Default::default()
        };
        let explained = crate::explain::offline(&question, &policy).expect("a request");
        format!("{} by {}", explained.class, explained.rule)
    };
    let bot = "system:serviceaccount:ci:bot";
    assert_eq!(
        class("GET", "/api/v1/namespaces/ci/pods", bot, &[]),
        "ci-builds by first-3"
    );
    assert_eq!(class("GET", "/metrics", bot, &[]), "ci-builds by first-4");
    assert_ne!(
        class("GET", "/api/v1/namespaces/other/pods", bot, &[]),
        "ci-builds by first-3"
    );
    assert_eq!(
        class("GET", "/api/v1/pods", "jane", &[]),
        "workload-reads by second"
    );
    let node = class("GET", "/api/v1/pods", "system:node:n1", &["system:nodes"]);
    assert!(!node.contains("second"), "{node}");
}

#[test]
fn what_is_none_of_these_objects_is_refused_with_what_to_give() {
    let mut objects = Objects::default();
    objects
        .add("kind: Pod\nmetadata: { name: x }\n")
        .expect("passed over");
    assert!(objects.is_empty());
    assert!(
        objects
            .add("kind: FlowSchema\nmetadata: { name: x }\n")
            .expect_err("no spec")
            .contains("FlowSchema x")
    );
    assert!(objects.add("{").is_err());
}
