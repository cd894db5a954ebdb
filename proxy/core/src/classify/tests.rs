//! What rules can say, and what no rule can change.

mod defaults;

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;
use crate::attributes::parse;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

fn groups(names: &[&str]) -> Vec<Box<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

/// An identity in short: `cert:CN[:group]`, `sa:namespace/name`, `oidc:user`,
/// `anonymous`, `unattributed`.
fn identity(text: &str) -> Identity {
    let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
    match kind {
        "certificate" => {
            let (user, of) = rest.split_once(' ').unwrap_or((rest, ""));
            let of: Vec<&str> = of.split_whitespace().collect();
            Identity::certificate(user, groups(&of), None, Vec::new())
        }
        "account" => {
            let (namespace, name) = rest.split_once('/').unwrap();
            Identity::service_account(namespace, name, None, Some("pod"), Some("node"))
        }
        "learned" => {
            let (user, of) = rest.split_once(' ').unwrap_or((rest, ""));
            let of: Vec<&str> = of.split_whitespace().collect();
            Identity::learned(user, groups(&of), None, Vec::new())
        }
        "anonymous" => Identity::anonymous(),
        "unattributed" => Identity::unattributed(),
        other => panic!("what is {other:?}?"),
    }
}

fn ask(policy: &Policy, who: &str, request: &str, user_agent: Option<&str>) -> Classified {
    let (method, uri) = request.split_once(' ').unwrap();
    let (path, query) = match uri.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (uri, None),
    };
    let attributes = parse(method, path, query, None).unwrap();
    let client = Client {
        user_agent,
        address: HERE,
    };
    policy.classify(&attributes, &identity(who), &client)
}

fn class<'p>(policy: &'p Policy, who: &str, request: &str) -> &'p str {
    policy.class_name(ask(policy, who, request, None).class)
}

fn texts(entries: &[&str]) -> Vec<String> {
    entries.iter().map(|entry| (*entry).to_owned()).collect()
}

const AGENT: &str = "account monitoring/agent";
const ADMIN: &str = "certificate kubernetes-admin kubeadm:cluster-admins";

#[test]
fn rules_are_asked_in_order_and_name_themselves() {
    let ours = Rule::new(
        "rollback",
        "operators",
        Match {
            service_accounts: texts(&["argocd/*", "!argocd/argocd-server"]),
            ..Match::default()
        },
    );
    let policy = Policy::with_rules_before_defaults(vec![ours]).unwrap();
    let request = "PATCH /apis/apps/v1/namespaces/a/deployments/d";
    let raised = ask(&policy, "account argocd/controller", request, None);
    assert_eq!(policy.rule_name(raised.rule), "rollback");
    assert_eq!(raised.class, ClassId::OPERATORS);
    let excluded = ask(&policy, "account argocd/argocd-server", request, None);
    assert_eq!(policy.rule_name(excluded.rule), "single-objects");
    let person = ask(&policy, ADMIN, request, None);
    assert_eq!(policy.rule_name(person.rule), "administrators");
    let nobody = ask(&policy, "anonymous", request, None);
    assert_eq!(policy.rule_name(nobody.rule), UNVERIFIED_RULE);
    let health = ask(&policy, "anonymous", "GET /livez", None);
    assert_eq!(policy.rule_name(health.rule), HEALTH_RULE);
}

#[test]
fn a_user_agent_lowers_but_never_raises() {
    let kubectl = |class: &str, when: Match| {
        let rule = Rule::new(
            "agent",
            class,
            Match {
                user_agents: texts(&["kubectl/*"]),
                ..when
            },
        );
        Policy::with_rules_before_defaults(vec![rule]).unwrap()
    };
    let list = "GET /api/v1/pods";
    let answer = |policy: &Policy, who, agent| {
        let classified = ask(policy, who, list, Some(agent));
        (
            classified.class,
            policy.rule_name(classified.rule).to_owned(),
        )
    };
    let bulk = (ClassId::BULK, "bulk-reads".to_owned());

    // Whatever does not say who does not raise, however it is dressed.
    for vague in [
        Match::default(),
        Match {
            users: texts(&["*"]),
            ..Match::default()
        },
        Match {
            users: texts(&["!jane"]),
            ..Match::default()
        },
        Match {
            users: texts(&["system:*"]),
            ..Match::default()
        },
        Match {
            groups: texts(&["system:authenticated"]),
            ..Match::default()
        },
        Match {
            groups: texts(&["system:serviceaccounts:*"]),
            ..Match::default()
        },
        Match {
            groups: texts(&["sys*"]),
            ..Match::default()
        },
        Match {
            service_accounts: texts(&["*"]),
            ..Match::default()
        },
        Match {
            sources: texts(&["service-account"]),
            ..Match::default()
        },
        Match {
            node: Some(false),
            ..Match::default()
        },
        Match {
            addresses: texts(&["0.0.0.0/0"]),
            ..Match::default()
        },
    ] {
        let policy = kubectl("life-signs", vague.clone());
        assert_eq!(answer(&policy, AGENT, "kubectl/v1"), bulk, "{vague:?}");
    }

    // What says who may: it is the identity that is raised.
    let named = Match {
        service_accounts: texts(&["monitoring/agent"]),
        ..Match::default()
    };
    let policy = kubectl("operators", named);
    let raised = (ClassId::OPERATORS, "agent".to_owned());
    assert_eq!(answer(&policy, AGENT, "kubectl/v1"), raised);
    assert_eq!(answer(&policy, AGENT, "curl"), bulk);

    // Down it works on everybody.
    let policy = kubectl("unattributed", Match::default());
    let lowered = (ClassId::UNATTRIBUTED, "agent".to_owned());
    assert_eq!(answer(&policy, ADMIN, "kubectl/v1"), lowered);
    assert_eq!(answer(&policy, AGENT, "kubectl/v1"), lowered);
    assert_eq!(answer(&policy, ADMIN, "curl").0, ClassId::OPERATORS);
    assert_eq!(ask(&policy, ADMIN, list, None).class, ClassId::OPERATORS);
}

#[test]
fn no_rule_lifts_the_unverified() {
    let everybody = Rule::new("lift", "life-signs", Match::default());
    let anonymous = Match {
        sources: texts(&["anonymous", "unattributed"]),
        addresses: texts(&["10.0.0.7"]),
        ..Match::default()
    };
    let quarantine = Rule::new("known-scanner", "unattributed", anonymous.clone());
    let trusted = Rule::new("trusted-network", "operators", anonymous);
    let rules = vec![trusted, quarantine, everybody];
    let policy = Policy::with_rules_before_defaults(rules).unwrap();
    for who in ["anonymous", "unattributed"] {
        let answer = ask(&policy, who, "GET /api/v1/pods", None);
        assert_eq!(answer.class, ClassId::UNATTRIBUTED);
        // Rules that lead to the last class are met, and named.
        assert_eq!(policy.rule_name(answer.rule), "known-scanner");
    }
    assert_eq!(class(&policy, AGENT, "GET /api/v1/pods"), "life-signs");
}

#[test]
fn without_rules_everything_still_has_a_class() {
    let names = ["vital", "rest", "strangers"];
    let classes = |count| names.into_iter().take(count).map(ClassSpec::new).collect();
    let policy = Policy::compile(classes(3), Vec::new()).unwrap();
    assert_eq!(class(&policy, ADMIN, "GET /api/v1/pods"), "rest");
    assert_eq!(class(&policy, "anonymous", "GET /api/v1/pods"), "strangers");
    assert_eq!(class(&policy, "anonymous", "GET /livez"), "vital");
    let single = Policy::compile(classes(1), Vec::new()).unwrap();
    assert_eq!(class(&single, ADMIN, "GET /api/v1/pods"), "vital");
    assert_eq!(class(&single, "anonymous", "GET /api/v1/pods"), "vital");
}

#[test]
fn each_condition_is_asked() {
    let request = "GET /apis/apps/v1/namespaces/prod/deployments?limit=5";
    let agent = Some("helm/3");
    let matched = |when: Match| {
        let rule = Rule::new("r", "operators", when);
        let policy = Policy::compile(default_classes(), vec![rule]).unwrap();
        ask(&policy, AGENT, request, agent).class == ClassId::OPERATORS
    };
    let some = |entry: &str| texts(&[entry]);
    let agent_account = "system:serviceaccount:monitoring:agent";
    type Case = (&'static str, fn(Vec<String>) -> Match, &'static str);
    let cases: [Case; 13] = [
        (
            agent_account,
            |users| Match {
                users,
                ..Match::default()
            },
            "jane",
        ),
        (
            "system:serviceaccounts:monitoring",
            |groups| Match {
                groups,
                ..Match::default()
            },
            "dev",
        ),
        (
            "monitoring/*",
            |service_accounts| Match {
                service_accounts,
                ..Match::default()
            },
            "dev/agent",
        ),
        (
            "service-account",
            |sources| Match {
                sources,
                ..Match::default()
            },
            "learned",
        ),
        (
            "10.0.0.0/8",
            |addresses| Match {
                addresses,
                ..Match::default()
            },
            "10.1.0.0/16",
        ),
        (
            "list",
            |verbs| Match {
                verbs,
                ..Match::default()
            },
            "get",
        ),
        (
            "apps",
            |api_groups| Match {
                api_groups,
                ..Match::default()
            },
            "core",
        ),
        (
            "deployments",
            |resources| Match {
                resources,
                ..Match::default()
            },
            "deployments/*",
        ),
        (
            "prod",
            |namespaces| Match {
                namespaces,
                ..Match::default()
            },
            "pro",
        ),
        (
            "*",
            |names| Match {
                names,
                ..Match::default()
            },
            "web",
        ),
        (
            "namespaced",
            |scopes| Match {
                scopes,
                ..Match::default()
            },
            "cluster",
        ),
        (
            "paged",
            |shapes| Match {
                shapes,
                ..Match::default()
            },
            "unlimited",
        ),
        (
            "/api*",
            |non_resource| Match {
                non_resource,
                ..Match::default()
            },
            "/metrics",
        ),
    ];
    for (fits, condition, other) in cases {
        let on_resource = fits != "/api*";
        assert_eq!(matched(condition(some(fits))), on_resource, "{fits}");
        assert!(!matched(condition(some(other))), "{other}");
        assert!(!matched(condition(some(&format!("!{fits}")))), "!{fits}");
        assert_eq!(
            matched(condition(some(&format!("!{other}")))),
            on_resource,
            "!{other}"
        );
    }
    assert!(matched(Match {
        node: Some(false),
        ..Match::default()
    }));
    assert!(!matched(Match {
        node: Some(true),
        ..Match::default()
    }));
    let helm = |pattern| Match {
        user_agents: some(pattern),
        users: some(agent_account),
        ..Match::default()
    };
    assert!(matched(helm("helm/*")));
    assert!(!matched(helm("kubectl/*")));
}

#[test]
fn a_wrong_policy_says_which_rule_and_what_would_do() {
    let compile = |rule: Rule| {
        Policy::with_rules_before_defaults(vec![rule])
            .unwrap_err()
            .to_string()
    };
    let value = |when| compile(Rule::new("mine", "bulk", when));
    let texts = |entry| texts(&[entry]);
    for (message, needles) in [
        (
            compile(Rule::new("mine", "bulky", Match::default())),
            ["\"mine\"", "\"bulky\"", "workload-reads, bulk"],
        ),
        (
            compile(Rule::new("health", "bulk", Match::default())),
            ["health", "otherwise", "unverified"],
        ),
        (
            compile(Rule::new("", "bulk", Match::default())),
            ["rule 0", "\"\"", "name"],
        ),
        (
            value(Match {
                verbs: texts("GET"),
                ..Match::default()
            }),
            ["mine", "verbs", "deletecollection"],
        ),
        (
            value(Match {
                shapes: texts("!huge"),
                ..Match::default()
            }),
            ["mine", "!huge", "all-namespaces"],
        ),
        (
            value(Match {
                users: texts("a*b"),
                ..Match::default()
            }),
            ["mine", "users", "a*b"],
        ),
        (
            value(Match {
                service_accounts: texts("agent"),
                ..Match::default()
            }),
            ["mine", "service_accounts", "namespace/name"],
        ),
        (
            value(Match {
                addresses: texts("10/8"),
                ..Match::default()
            }),
            ["mine", "10/8", "10.0.0.0/8"],
        ),
        (
            value(Match {
                non_resource: texts("metrics"),
                ..Match::default()
            }),
            ["mine", "metrics", "/"],
        ),
        (
            value(Match {
                non_resource: texts("/metrics"),
                names: texts("a"),
                ..Match::default()
            }),
            ["mine", "non_resource", "never"],
        ),
    ] {
        for needle in needles {
            assert!(message.contains(needle), "{needle:?} not in {message:?}");
        }
    }
    let twice = vec![
        Rule::new("a", "bulk", Match::default()),
        Rule::new("a", "bulk", Match::default()),
    ];
    assert!(matches!(
        Policy::with_rules_before_defaults(twice),
        Err(PolicyError::RuleName { index: 1, .. })
    ));
    let many = (0..17)
        .map(|index| ClassSpec::new(&index.to_string()))
        .collect();
    assert_eq!(
        Policy::compile(many, Vec::new()).unwrap_err(),
        PolicyError::ClassCount(17)
    );
    let same = vec![ClassSpec::new("a"), ClassSpec::new("a")];
    assert!(matches!(
        Policy::compile(same, Vec::new()),
        Err(PolicyError::ClassName { index: 1, .. })
    ));
}

fn request() -> impl Strategy<Value = (String, String, Option<String>)> {
    let methods = prop::sample::select(vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "X"]);
    let path =
        "/(api|apis|livez|healthz|metrics)?(/(v1|apps|watch|namespaces|pods|leases|x|)){0,6}";
    let query = proptest::option::of("((watch|limit|resourceVersion|continue)=[0-9x]?&?){0,3}");
    (methods, path, query).prop_map(|(method, path, query)| (method.to_owned(), path, query))
}

proptest! {
    #[test]
    fn the_unverified_get_nothing_but_health(
        (method, path, query) in request(),
        user_agent in proptest::option::of(".{0,12}"),
        who in prop::sample::select(vec!["anonymous", "unattributed"]),
    ) {
        let policy = Policy::default_policy();
        let Ok(attributes) = parse(&method, &path, query.as_deref(), None) else {
            return Ok(());
        };
        let client = Client { user_agent: user_agent.as_deref(), address: HERE };
        let answer = policy.classify(&attributes, &identity(who), &client);
        let health = ["/livez", "/healthz"].iter().any(|endpoint| {
            path == *endpoint || path.starts_with(&format!("{endpoint}/"))
        });
        if !(health && matches!(method.as_str(), "GET" | "HEAD")) {
            prop_assert_eq!(answer.class, ClassId::UNATTRIBUTED);
        }
    }

    #[test]
    fn every_request_has_a_class_and_a_rule(
        (method, path, query) in request(),
        user in ".{0,24}",
        of in proptest::collection::vec("system:[a-z]{0,8}|[a-z]{0,4}", 0..3),
        address in any::<u128>(),
    ) {
        let policy = Policy::default_policy();
        let Ok(attributes) = parse(&method, &path, query.as_deref(), None) else {
            return Ok(());
        };
        let of: Vec<&str> = of.iter().map(String::as_str).collect();
        let identity = Identity::certificate(&user, groups(&of), None, Vec::new());
        let client = Client { user_agent: None, address: IpAddr::V6(address.into()) };
        let answer = policy.classify(&attributes, &identity, &client);
        prop_assert!(answer.class < ClassId::UNATTRIBUTED, "verified, yet {answer:?}");
        prop_assert!(!policy.rule_name(answer.rule).is_empty());
        prop_assert!(!policy.class_name(answer.class).is_empty());
    }
}
