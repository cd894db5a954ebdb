//! What would become of a request, and why: the data path's own stages, asked without sending anything.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::header::{ACCEPT, HeaderValue, USER_AGENT};
use http::{Method, Request, Uri, request};
use proxy_core::admission::cost::Model;
use proxy_core::admission::{Ask, Fate, Foresight, Kind};
use proxy_core::classify::{ClassId, Client, Policy};
use proxy_core::identity::Identity;
use proxy_core::time::Time;
use serde::{Deserialize, Serialize};

use crate::attribute::{self, Facts};
use crate::metrics::reason;
use crate::names;
use crate::overrides::ModeName;
use crate::recent::Record;

/// A request that somebody asks about. Whoever it says it is from counts as verified: this is about what would happen to
/// that user, not about a credential.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Question {
    pub(crate) method: String,
    /// Path and query, or a whole URL.
    pub(crate) url: String,
    /// Empty: anonymous.
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
    pub(crate) user_agent: Option<String>,
    pub(crate) accept: Option<String>,
    pub(crate) address: Option<IpAddr>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// The method is none.
    #[error("`{0}` is not a method; write GET, POST, PUT, PATCH or DELETE")]
    Method(String),
    /// The URL is none.
    #[error("`{0}` is not a URL: {1}; write it as kubectl -v=8 shows it, /api/v1/pods?limit=500")]
    Url(String, String),
    /// Neither of the texts can be a header.
    #[error("the user agent and the accept text must be printable text on one line")]
    Header,
    /// Kubernetes could not read it either.
    #[error("it would be refused before it is classified: {0}")]
    Unreadable(String),
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// The verb, as Kubernetes reads it.
    pub(crate) verb: String,
    /// What is asked for, in words.
    pub(crate) shape: String,
    pub(crate) tenant: String,
    pub(crate) class: String,
    /// Position of the class; 0 is the most important.
    pub(crate) importance: usize,
    /// The rule that matched.
    pub(crate) rule: String,
    /// `short` or `long`.
    pub(crate) kind: String,
    /// Estimated server time.
    pub(crate) cost: Duration,
    /// Estimated bytes of the answer.
    pub(crate) bytes: u64,
    /// Whether the cost was learned from requests of this shape, or is what such a shape is taken for at first.
    pub(crate) now: Option<Now>,
    /// While a new policy is tried: what the policy says that does not judge this tenant.
    #[serde(default)]
    pub(crate) beside: Option<Beside>,
}

/// What another policy says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Beside {
    /// `old` or `new`: which of the two it is.
    pub(crate) policy: String,
    pub(crate) class: String,
    pub(crate) rule: String,
}

/// What would happen now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Now {
    pub(crate) mode: ModeName,
    /// `start`, `wait` or `refuse`, as the gate says; carried out only in mode enforce.
    pub(crate) verdict: String,
    /// The reason of a refusal, as in `X-Spillway-Reason`.
    pub(crate) reason: Option<String>,
    /// The whole of it in a sentence.
    pub(crate) because: String,
    pub(crate) ceiling: Duration,
    pub(crate) outstanding: Duration,
    pub(crate) running: u64,
    pub(crate) waiting: usize,
    pub(crate) user_level: u8,
    /// User level up to which tenants may wait; 127: all.
    pub(crate) user_level_bar: u8,
}

/// What became of a request that is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Past {
    pub(crate) record: Record,
    pub(crate) because: String,
}

/// An identity somebody claims to ask for.
fn identity(question: &Question) -> Identity {
    let user = question.user.as_str();
    if user.is_empty() || user == "system:anonymous" {
        return Identity::anonymous();
    }
    if let Some((namespace, name)) = user
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
    {
        return Identity::service_account(namespace, name, None, None, None);
    }
    let groups = question.groups.iter().map(|group| group.as_str().into());
    Identity::certificate(user, groups.collect(), None, Vec::new())
}

fn head(question: &Question) -> Result<request::Parts, NoAnswer> {
    let method = Method::from_bytes(question.method.to_ascii_uppercase().as_bytes())
        .map_err(|_| NoAnswer::Method(question.method.clone()))?;
    let uri: Uri = question
        .url
        .parse()
        .map_err(|problem: http::uri::InvalidUri| {
            NoAnswer::Url(question.url.clone(), problem.to_string())
        })?;
    if !uri.path().starts_with('/') {
        let problem = "it does not begin with `/`".to_owned();
        return Err(NoAnswer::Url(question.url.clone(), problem));
    }
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    for (name, value) in [
        (USER_AGENT, &question.user_agent),
        (ACCEPT, &question.accept),
    ] {
        if let Some(value) = value {
            let value = HeaderValue::from_str(value).map_err(|_| NoAnswer::Header)?;
            request.headers_mut().insert(name, value);
        }
    }
    Ok(request.into_parts().0)
}

/// Judges a request by `policy` and `costs`, and by what `foresee` says of it, where something runs.
///
/// # Errors
/// [`NoAnswer`] when it is no request.
pub(crate) fn explain(
    question: &Question,
    policy: &Policy,
    costs: &Model,
    foresee: Option<&dyn Fn(Ask) -> Foresight>,
) -> Result<Explanation, NoAnswer> {
    let head = head(question)?;
    let attributes =
        attribute::read(&head).map_err(|refused| NoAnswer::Unreadable(refused.to_string()))?;
    let identity = identity(question);
    let client = Client {
        user_agent: question.user_agent.as_deref(),
        address: question.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    };
    let classified = policy.classify(&attributes, &identity, &client);
    let facts = Facts::of(&attributes, &head.headers);
    let cost = costs.estimate(&facts.shape);
    let ask = Ask {
        class: classified.class,
        cost,
        kind: facts.kind,
        tenant: identity.tenant(),
        instance: identity.instance(0),
        shape: facts.shape.hash(),
    };
    Ok(Explanation {
        verb: attributes.verb.as_str().to_owned(),
        shape: names::shape(&attributes, &facts),
        tenant: identity.tenant_name().to_owned(),
        class: class_name(policy, classified.class),
        importance: classified.class.index(),
        rule: policy.rule_name(classified.rule).to_owned(),
        kind: match facts.kind {
            Kind::Short => "short",
            Kind::Long => "long",
        }
        .to_owned(),
        cost: cost.work(),
        bytes: cost.bytes,
        now: foresee.map(|foresee| now(&foresee(ask))),
        beside: None,
    })
}

fn class_name(policy: &Policy, class: ClassId) -> String {
    let classes = policy.classes();
    classes
        .get(class.index())
        .map_or_else(String::new, |class| class.name.to_string())
}

fn now(foreseen: &Foresight) -> Now {
    let bound = &foreseen.bound;
    let mode = ModeName::from(foreseen.mode);
    let (verdict, refusal) = match foreseen.fate {
        Fate::Starts => ("start", None),
        Fate::Waits(_) => ("wait", None),
        Fate::Refused(shed) => ("refuse", Some(reason(shed))),
    };
    let gate = match foreseen.fate {
        Fate::Starts if foreseen.guaranteed => format!(
            "others go first or the room is taken, but its class may use what is guaranteed to it; it holds {}",
            time(foreseen.holds)
        ),
        Fate::Starts if bound.outstanding + foreseen.holds > bound.ceiling => format!(
            "it holds {} and its class has {}, but as the only one of its class it may start",
            time(foreseen.holds),
            time(bound.ceiling)
        ),
        Fate::Starts => format!(
            "there is room: {} of {} are in use, and it holds {}",
            time(bound.outstanding),
            time(bound.ceiling),
            time(foreseen.holds)
        ),
        Fate::Waits(ahead) if foreseen.others_first => {
            format!("others wait who go first ({ahead} of its class and kind)")
        }
        Fate::Waits(_) => format!(
            "no room: {} of {} are in use by its class and what it shares with, and it holds {}",
            time(bound.outstanding),
            time(bound.ceiling),
            time(foreseen.holds)
        ),
        Fate::Refused(_) if foreseen.level > bound.bar => format!(
            "others wait and it is not this tenant's turn (user level {}, served up to {})",
            foreseen.level, bound.bar
        ),
        Fate::Refused(_) => format!(
            "no room, and no place to wait: {} wait already, {} of {} are in use",
            bound.waiting,
            time(bound.outstanding),
            time(bound.ceiling)
        ),
    };
    let because = match mode {
        ModeName::Off => format!("mode off: it would be passed on whatever the gate says; {gate}"),
        ModeName::Shadow => {
            format!("mode shadow: it would be passed on, and only counted; {gate}")
        }
        ModeName::Enforce => gate,
    };
    Now {
        mode,
        verdict: verdict.to_owned(),
        reason: refusal.map(str::to_owned),
        because,
        ceiling: bound.ceiling,
        outstanding: bound.outstanding,
        running: bound.running,
        waiting: bound.waiting,
        user_level: foreseen.level,
        user_level_bar: bound.bar,
    }
}

/// What became of a request that is over.
pub(crate) fn past(record: Record) -> Past {
    let because = match (&*record.refused, record.waited) {
        ("", Some(waited)) if waited >= Duration::from_millis(1) => format!(
            "it waited {} for admission and was passed on; the server answered {}",
            time(waited),
            record.status
        ),
        ("", _) => format!(
            "it was passed on at once; the server answered {}",
            record.status
        ),
        (refused, _) => format!("Spillway answered {} itself: {refused}", record.status),
    };
    Past { record, because }
}

/// A duration as people read it.
pub(crate) fn time(duration: Duration) -> String {
    let us = duration.as_micros();
    match us {
        0..1_000 => format!("{us}µs"),
        1_000..10_000_000 => format!("{}ms", us / 1_000),
        _ => format!("{:.1}s", duration.as_secs_f64()),
    }
}

/// For judging by a policy alone.
pub(crate) fn offline(question: &Question, policy: &Policy) -> Result<Explanation, NoAnswer> {
    explain(question, policy, &Model::new(), None)
}

/// As the running engine would judge.
pub(crate) fn live(
    question: &Question,
    shared: &crate::shared::Shared,
    now: Time,
) -> Result<Explanation, NoAnswer> {
    let snapshot = shared.snapshot.load();
    let foresee = |ask| shared.engine.foresee(ask, now);
    let judge = |policy| explain(question, policy, &shared.costs, Some(&foresee));
    let Some(trial) = snapshot.trial.as_deref() else {
        return judge(&snapshot.policy);
    };
    let by_other = trial.judges(identity(question).tenant());
    let (policy, beside) = match by_other {
        true => (&trial.other.policy, &snapshot.policy),
        false => (&snapshot.policy, &trial.other.policy),
    };
    let other = judge(beside)?;
    Ok(Explanation {
        beside: Some(Beside {
            policy: match by_other == trial.other_is_new {
                true => "old",
                false => "new",
            }
            .to_owned(),
            class: other.class,
            rule: other.rule,
        }),
        ..judge(policy)?
    })
}

#[cfg(test)]
mod tests {
    use proxy_core::admission::BoundView;

    use super::*;

    fn question(method: &str, url: &str, user: &str, groups: &[&str]) -> Question {
        Question {
            method: method.into(),
            url: url.into(),
            user: user.into(),
            groups: groups.iter().map(|group| (*group).into()).collect(),
            ..Question::default()
        }
    }

    #[test]
    fn a_request_is_judged_as_the_data_path_would() {
        let policy = Policy::default_policy();
        let herd = question(
            "get",
            "/api/v1/pods",
            "system:serviceaccount:mon:agent",
            &[],
        );
        let explained = offline(&herd, &policy).expect("a request");
        assert_eq!(
            (&*explained.verb, &*explained.class, &*explained.kind),
            ("list", "bulk", "long")
        );
        assert_eq!(explained.tenant, "system:serviceaccount:mon:agent");
        assert!(explained.cost >= Duration::from_millis(500));
        let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
        let node = question("PUT", lease, "system:node:n1", &["system:nodes"]);
        assert_eq!(
            offline(&node, &policy).expect("a request").class,
            "life-signs"
        );
        let stranger = question("GET", "/version", "", &[]);
        assert_eq!(
            offline(&stranger, &policy).expect("a request").class,
            "unattributed"
        );
    }

    #[test]
    fn who_starts_by_a_guarantee_is_not_told_that_there_is_room() {
        let full = BoundView {
            ceiling: Duration::from_millis(40),
            outstanding: Duration::from_millis(40),
            running: 4,
            waiting: 0,
            bar: 127,
        };
        let foreseen = |guaranteed| Foresight {
            mode: proxy_core::admission::Mode::Enforce,
            fate: Fate::Starts,
            bound: full,
            holds: Duration::from_millis(3),
            guaranteed,
            others_first: true,
            level: 0,
        };
        let told = now(&foreseen(true)).because;
        assert!(
            told.contains("guaranteed to it") && told.contains("3ms"),
            "{told}"
        );
        assert!(!now(&foreseen(false)).because.contains("guaranteed"));
    }

    #[test]
    fn what_is_no_request_is_said_to_be_none() {
        let policy = Policy::default_policy();
        for (method, url) in [("G T", "/"), ("GET", "pods"), ("GET", "/%zz"), ("GET", "")] {
            let asked = offline(&question(method, url, "jane", &[]), &policy);
            assert!(asked.is_err(), "{method} {url}");
        }
    }
}
