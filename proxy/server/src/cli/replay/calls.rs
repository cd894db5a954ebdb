//! From a line of the audit log to what the engine needs to know of a request.

use std::borrow::Cow;
use std::collections::HashSet;

use http::HeaderMap;
use proxy_core::admission::Kind;
use proxy_core::admission::cost::Shape;
use proxy_core::attributes;
use proxy_core::classify::{ClassId, Client, Policy, RuleId};
use proxy_core::hash::Hash;
use proxy_core::identity::{Identity, ServiceAccount};
use serde::Deserialize;

use crate::attribute::Facts;
use crate::names;

/// An event, as far as it matters; everything else is passed over, the objects above all.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    #[serde(rename = "auditID", borrow, default)]
    audit_id: Cow<'a, str>,
    #[serde(borrow)]
    stage: Cow<'a, str>,
    #[serde(rename = "requestURI", borrow)]
    request_uri: Cow<'a, str>,
    #[serde(borrow)]
    verb: Cow<'a, str>,
    #[serde(borrow, default)]
    user: User<'a>,
    #[serde(rename = "sourceIPs", borrow, default)]
    source_ips: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    user_agent: Option<Cow<'a, str>>,
    #[serde(default)]
    response_status: Option<Status>,
    #[serde(borrow)]
    request_received_timestamp: Cow<'a, str>,
    #[serde(borrow)]
    stage_timestamp: Cow<'a, str>,
}

#[derive(Default, Deserialize)]
struct User<'a> {
    #[serde(borrow, default)]
    username: Cow<'a, str>,
    #[serde(borrow, default)]
    groups: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    extra: Option<Extra<'a>>,
}

#[derive(Default, Deserialize)]
struct Extra<'a> {
    #[serde(rename = "authentication.kubernetes.io/pod-name", borrow, default)]
    pod: Vec<Cow<'a, str>>,
    #[serde(rename = "authentication.kubernetes.io/node-name", borrow, default)]
    node: Vec<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// When it arrived, µs since the Unix epoch.
    pub(super) at: u64,
    /// When this stage was reached.
    pub(super) stage_at: u64,
    /// Which request it is, for those that have two stages.
    pub(super) id: u64,
    pub(super) class: ClassId,
    pub(super) rule: RuleId,
    pub(super) kind: Kind,
    pub(super) shape: Shape,
    pub(super) long_running: bool,
    pub(super) tenant: u64,
    pub(super) instance: u64,
    pub(super) status: u16,
}

/// What a block of lines held.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) calls: Vec<Call>,
    pub(super) lines: u64,
    /// Lines that are no audit events.
    pub(super) unreadable: u64,
    /// Events of other stages.
    pub(super) stages: u64,
    /// Requests that the proxy would refuse to read.
    pub(super) malformed: u64,
    /// Names behind hashes, each at least once.
    pub(super) names: Vec<(u64, Box<str>)>,
}

/// One thread's reading.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    policy: &'a Policy,
    /// Hashes whose names were given.
    named: HashSet<u64>,
}

/// Names given are forgotten beyond so many, and given again.
const NAMED: usize = 100_000;

impl<'a> Reader<'a> {
    pub(super) fn new(policy: &'a Policy) -> Self {
        Self {
            policy,
            named: HashSet::new(),
        }
    }

    /// Reads a block of whole lines.
    pub(super) fn read(&mut self, block: &[u8]) -> Batch {
        let mut batch = Batch::default();
        for line in block.split(|byte| *byte == b'\n') {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            batch.lines += 1;
            match serde_json::from_slice::<Event<'_>>(line) {
                Ok(event) => self.event(&event, &mut batch),
                Err(_) => batch.unreadable += 1,
            }
        }
        batch
    }

    fn event(&mut self, event: &Event<'_>, batch: &mut Batch) {
        if !matches!(
            &*event.stage,
            "ResponseStarted" | "ResponseComplete" | "Panic"
        ) {
            batch.stages += 1;
            return;
        }
        let (Some(at), Some(stage_at)) = (
            micros(&event.request_received_timestamp),
            micros(&event.stage_timestamp),
        ) else {
            batch.unreadable += 1;
            return;
        };
        let (path, query) = match event.request_uri.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*event.request_uri, None),
        };
        let Ok(attributes) = attributes::parse(method(&event.verb), path, query, None) else {
            batch.malformed += 1;
            return;
        };
        if &*event.stage == "ResponseStarted" && !attributes.long_running {
            batch.stages += 1;
            return;
        }
        let identity = identity(&event.user);
        let address = event.source_ips.first();
        let client = Client {
            user_agent: event.user_agent.as_deref(),
            address: address
                .and_then(|address| address.parse().ok())
                .unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
        };
        let classified = self.policy.classify(&attributes, &identity, &client);
        let facts = Facts::of(&attributes, &HeaderMap::new());
        let address = address.map_or("", |address| &**address);
        let call = Call {
            at,
            stage_at,
            id: Hash::new().text(&event.audit_id).finish(),
            class: classified.class,
            rule: classified.rule,
            kind: facts.kind,
            shape: facts.shape,
            long_running: attributes.long_running,
            tenant: identity.tenant(),
            instance: identity.instance(Hash::new().text(address).finish()),
            status: event
                .response_status
                .as_ref()
                .map_or(0, |status| status.code),
        };
        self.name(call.tenant, batch, || identity.tenant_name().into());
        self.name(call.shape.hash(), batch, || {
            names::shape(&attributes, &facts).into()
        });
        batch.calls.push(call);
    }

    fn name(&mut self, hash: u64, batch: &mut Batch, name: impl FnOnce() -> Box<str>) {
        if self.named.len() >= NAMED {
            self.named.clear();
        }
        if self.named.insert(hash) {
            batch.names.push((hash, name()));
        }
    }
}

fn micros(timestamp: &str) -> Option<u64> {
    let timestamp: jiff::Timestamp = timestamp.parse().ok()?;
    u64::try_from(timestamp.as_microsecond()).ok()
}

/// The method behind a verb: the log has verbs, and outside the resource API methods in lower case.
fn method(verb: &str) -> &'static str {
    match verb {
        "create" | "post" | "connect" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" | "deletecollection" => "DELETE",
        "head" => "HEAD",
        "options" => "OPTIONS",
        _ => "GET",
    }
}

/// As the proxy would have known it.
fn identity(user: &User<'_>) -> Identity {
    let name = &*user.username;
    if name.is_empty() || name == "system:anonymous" {
        return Identity::anonymous();
    }
    if let Some(account) = ServiceAccount::of_user(name) {
        let extra = user.extra.as_ref();
        let first = |values: Option<&Vec<Cow<'_, str>>>| {
            values
                .and_then(|values| values.first())
                .map(ToString::to_string)
        };
        let pod = first(extra.map(|extra| &extra.pod));
        let node = first(extra.map(|extra| &extra.node));
        return Identity::service_account(
            account.namespace(),
            account.name(),
            None,
            pod.as_deref(),
            node.as_deref(),
        );
    }
    let groups = user.groups.iter().map(|group| (&**group).into());
    Identity::certificate(name, groups.collect(), None, Vec::new())
}
