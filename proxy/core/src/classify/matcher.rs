//! One rule's conditions, compiled.

use std::borrow::Cow;

use super::pattern::{Bits, Names, Networks, Resources};
use super::rule::SHAPES;
use super::{Client, Match, PolicyError};
use crate::attributes::{Attributes, RvMode, Scope, Source as ServedFrom, Verb};
use crate::identity::{Identity, Source};

/// Groups so large that belonging to them says nothing about who it is.
const BROAD_GROUPS: [&str; 4] = [
    "system:authenticated",
    "system:unauthenticated",
    "system:serviceaccounts",
    "system:serviceaccounts:",
];

/// The scopes a rule can name, by index.
const SCOPES: [(&str, Scope); 4] = [
    ("non-resource", Scope::NonResource),
    ("named", Scope::Named),
    ("namespaced", Scope::Namespaced),
    ("cluster", Scope::Cluster),
];

/// The conditions of a rule, ready to be asked. The default has none and matches
/// everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Matcher {
    users: Names,
    groups: Names,
    service_accounts: Names,
    sources: Bits,
    node: Option<bool>,
    user_agents: Names,
    addresses: Networks,
    verbs: Bits,
    api_groups: Names,
    resources: Resources,
    namespaces: Names,
    names: Names,
    scopes: Bits,
    shapes: Bits,
    non_resource: Names,
    /// Some condition only a resource request can meet.
    wants_resource: bool,
    only_lowers: bool,
}

impl Matcher {
    /// Compiles the conditions of the rule called `rule`.
    pub(super) fn compile(rule: &str, when: &Match) -> Result<Self, PolicyError> {
        let wrong = |field, expected: &str| {
            let expected: Box<str> = expected.into();
            move |value: &str| PolicyError::Value {
                rule: rule.into(),
                field,
                value: value.into(),
                expected,
            }
        };
        let names = |field, entries: &[String]| {
            Names::compile(entries)
                .map_err(wrong(field, "a name, or a prefix with one `*` at its end"))
        };
        let verbs = Verb::NAMED.map(Verb::as_str);
        let sources = Source::ALL.map(Source::as_str);
        let scopes = SCOPES.map(|(name, _)| name);
        let one_of = |field, entries: &[String], known: &[&str]| {
            Bits::compile(entries, |entry| {
                known.iter().position(|name| *name == entry)
            })
            .map_err(wrong(field, &format!("one of {}", known.join(", "))))
        };
        let mut matcher = Self {
            users: names("users", &when.users)?,
            groups: names("groups", &when.groups)?,
            service_accounts: service_accounts(&when.service_accounts).map_err(wrong(
                "service_accounts",
                "`namespace/name`, `namespace/*` or `*`",
            ))?,
            sources: one_of("sources", &when.sources, &sources)?,
            node: when.node,
            user_agents: names("user_agents", &when.user_agents)?,
            addresses: Networks::compile(&when.addresses).map_err(wrong(
                "addresses",
                "an address or a network such as 10.0.0.0/8 or fd00::/8",
            ))?,
            verbs: one_of("verbs", &when.verbs, &verbs)?,
            api_groups: names("api_groups", &core_is_empty(&when.api_groups))?,
            resources: Resources::compile(&when.resources).map_err(wrong(
                "resources",
                "`pods`, `pods/status`, `pods/*`, `*/scale` or `*`",
            ))?,
            namespaces: names("namespaces", &when.namespaces)?,
            names: names("names", &when.names)?,
            scopes: one_of("scopes", &when.scopes, &scopes)?,
            shapes: one_of("shapes", &when.shapes, &SHAPES)?,
            non_resource: paths(&when.non_resource).map_err(wrong(
                "non_resource",
                "a path that begins with `/`, with at most one `*`, at its end",
            ))?,
            wants_resource: false,
            only_lowers: false,
        };
        matcher.wants_resource = !(matcher.api_groups.is_empty()
            && matcher.resources.is_empty()
            && matcher.namespaces.is_empty()
            && matcher.names.is_empty());
        if matcher.wants_resource && !matcher.non_resource.is_empty() {
            return Err(PolicyError::Impossible {
                rule: rule.into(),
                why: "`non_resource` excludes api_groups, resources, namespaces and names; \
                      write two rules",
            });
        }
        matcher.only_lowers = !matcher.user_agents.is_empty() && !matcher.singles_out();
        Ok(matcher)
    }

    /// Whether the rule may only move a request down, see the parent module.
    pub(super) const fn only_lowers(&self) -> bool {
        self.only_lowers
    }

    /// Whether some condition names who may profit from the rule.
    fn singles_out(&self) -> bool {
        let groups = self.groups.singles_out()
            && !self
                .groups
                .included()
                .any(|group| BROAD_GROUPS.iter().any(|broad| broad.starts_with(group)));
        let accounts = self.service_accounts.singles_out();
        let users = self.users.singles_out()
            // A prefix of all system users, or of all service accounts, names nobody.
            && !self
                .users
                .included()
                .any(|user| "system:serviceaccount:".starts_with(user));
        users || groups || accounts || self.node == Some(true) || self.addresses.singles_out()
    }

    /// Whether all conditions hold. `scope` is that of `attributes`.
    pub(super) fn matches(
        &self,
        attributes: &Attributes<'_>,
        scope: Scope,
        identity: &Identity,
        client: &Client<'_>,
    ) -> bool {
        self.matches_request(attributes, scope) && self.matches_caller(identity, client)
    }

    fn matches_request(&self, attributes: &Attributes<'_>, scope: Scope) -> bool {
        if !self.verbs.is_empty() && !self.verbs.matches(verb_bit(attributes.verb)) {
            return false;
        }
        if self.wants_resource && !attributes.is_resource {
            return false;
        }
        if !self.non_resource.is_empty()
            && (attributes.is_resource || !self.non_resource.matches(&attributes.path))
        {
            return false;
        }
        (self.resources.is_empty()
            || self
                .resources
                .matches(&attributes.resource, &attributes.subresource))
            && (self.api_groups.is_empty() || self.api_groups.matches(&attributes.api_group))
            && (self.scopes.is_empty() || self.scopes.matches(scope_bit(scope)))
            && (self.namespaces.is_empty() || self.namespaces.matches(&attributes.namespace))
            && (self.names.is_empty() || self.names.matches(&attributes.name))
            && (self.shapes.is_empty() || self.shapes.matches(shape_bits(attributes, scope)))
    }

    fn matches_caller(&self, identity: &Identity, client: &Client<'_>) -> bool {
        let optional = |names: &Names, value: Option<&str>| {
            names.is_empty()
                || value.map_or_else(|| names.matches_absent(), |value| names.matches(value))
        };
        let source = 1 << (identity.source() as u32);
        self.node.is_none_or(|node| node == identity.is_node())
            && (self.sources.is_empty() || self.sources.matches(source))
            && optional(
                &self.service_accounts,
                identity
                    .as_service_account()
                    .map(|account| account.qualified()),
            )
            && (self.users.is_empty() || self.users.matches(identity.user()))
            && self.matches_groups(identity)
            && optional(&self.user_agents, client.user_agent)
            && (self.addresses.is_empty() || self.addresses.matches(client.address))
    }

    fn matches_groups(&self, identity: &Identity) -> bool {
        if self.groups.is_empty() {
            return true;
        }
        // Certificates do not carry the group the server adds to all of them.
        let added = identity.is_verified().then_some("system:authenticated");
        let own = identity.groups().iter().map(|group| &**group);
        self.groups.matches_any(own.chain(added))
    }
}

const fn verb_bit(verb: Verb) -> u32 {
    // `Other`, which no rule can name, has the bit behind the named ones.
    1 << (verb as u32)
}

fn scope_bit(scope: Scope) -> u32 {
    let index = SCOPES.iter().position(|(_, known)| *known == scope);
    index.map_or(0, |index| 1 << index)
}

/// The shapes a request has, as bits in the order of [`SHAPES`].
fn shape_bits(attributes: &Attributes<'_>, scope: Scope) -> u32 {
    let collection = attributes.is_collection_read();
    let limited = attributes.effective_limit().is_some();
    let initial = attributes.is_initial_state_watch();
    let watch = attributes.is_resource && attributes.verb == Verb::Watch;
    let list = attributes.is_resource && attributes.verb == Verb::List;
    let read = matches!(attributes.verb, Verb::Get | Verb::List | Verb::Watch);
    [
        collection,
        collection && !limited,
        list && (limited || attributes.read.has_continue),
        collection && scope == Scope::Cluster,
        initial,
        watch && !initial,
        attributes.is_resource && read && attributes.served_from() == ServedFrom::Etcd,
        collection && attributes.read.version == RvMode::Zero,
        attributes.long_running,
        attributes.dry_run,
    ]
    .into_iter()
    .enumerate()
    .fold(0, |bits, (index, has)| bits | u32::from(has) << index)
}

/// Service accounts need their slash: a bare name would never match, and would
/// silently protect nobody.
fn service_accounts(entries: &[String]) -> Result<Names, &str> {
    for entry in entries {
        let pattern = super::pattern::bare(entry);
        let sound = pattern == "*"
            || pattern.split_once('/').is_some_and(|(namespace, name)| {
                !namespace.is_empty() && !namespace.contains('*') && !name.is_empty()
            });
        if !sound {
            return Err(entry);
        }
    }
    Names::compile(entries)
}

fn paths(entries: &[String]) -> Result<Names, &str> {
    let wrong = entries.iter().find(|entry| {
        let pattern = super::pattern::bare(entry);
        pattern != "*" && !pattern.starts_with('/')
    });
    wrong.map_or_else(|| Names::compile(entries), |entry| Err(entry))
}

/// `core` is how people call the group whose name is empty.
fn core_is_empty(entries: &[String]) -> Cow<'_, [String]> {
    if !entries
        .iter()
        .any(|entry| super::pattern::bare(entry) == "core")
    {
        return Cow::Borrowed(entries);
    }
    let renamed = entries.iter().map(|entry| match entry.as_str() {
        "core" => String::new(),
        "!core" => "!".to_owned(),
        _ => entry.clone(),
    });
    Cow::Owned(renamed.collect())
}
