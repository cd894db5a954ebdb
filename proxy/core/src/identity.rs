//! Who is calling.
//!
//! An [`Identity`] is made from credentials that were *verified* (a client
//! certificate of the cluster's CA, a service-account token of its key, an answer
//! of the server itself), or it says that there are none. Nothing a client merely
//! claims is ever part of it: a header or an unverified token must not raise
//! anybody's priority.
//!
//! The fields are private because two numbers are derived from them once, so
//! that the data path need not hash names: who pays ([`Identity::tenant`]) and
//! which member of the payer asks ([`Identity::instance`]).

use crate::hash::{self, Hash};

/// Prefix of the user names of service accounts.
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// Prefix of the user names of nodes.
const NODE_PREFIX: &str = "system:node:";
/// The group of nodes.
const NODES: &str = "system:nodes";
/// The group the server adds to everybody it has authenticated.
const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody else.
const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user name of the anonymous.
const ANONYMOUS: &str = "system:anonymous";
/// Extra keys in which the server reports the claims of a bound token.
const POD_NAME_EXTRA: &str = "authentication.kubernetes.io/pod-name";
const NODE_NAME_EXTRA: &str = "authentication.kubernetes.io/node-name";

/// How an identity became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A client certificate, chain and dates verified.
    Certificate,
    /// Stated in headers by a client that may state identities, its certificate verified.
    RequestHeader,
    /// A service-account token, signature and dates verified.
    ServiceAccountToken,
    /// The server said so (TokenReview, SelfSubjectReview), not long ago.
    Learned,
    /// No credentials were sent.
    Anonymous,
    /// Credentials were sent, but nobody has vouched for them yet.
    Unattributed,
}

impl Source {
    /// Every source, in the order of declaration.
    pub const ALL: [Self; 6] = [
        Self::Certificate,
        Self::RequestHeader,
        Self::ServiceAccountToken,
        Self::Learned,
        Self::Anonymous,
        Self::Unattributed,
    ];

    /// The name used in rules, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::RequestHeader => "request-header",
            Self::ServiceAccountToken => "service-account",
            Self::Learned => "learned",
            Self::Anonymous => "anonymous",
            Self::Unattributed => "unattributed",
        }
    }

    /// The source of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.as_str() == name)
    }
}

/// A service account: `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    qualified: Box<str>,
    slash: usize,
}

impl ServiceAccount {
    /// The account `name` in `namespace`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            qualified: format!("{namespace}/{name}").into(),
            slash: namespace.len(),
        }
    }

    /// Reads `system:serviceaccount:NAMESPACE:NAME`; `None` for any other user.
    #[must_use]
    pub fn of_user(user: &str) -> Option<Self> {
        let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
        let sound = |part: &str| !part.is_empty() && !part.contains([':', '/']);
        (sound(namespace) && sound(name)).then(|| Self::new(namespace, name))
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.qualified.get(..self.slash).unwrap_or_default()
    }

    /// The name within the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        self.qualified.get(self.slash + 1..).unwrap_or_default()
    }

    /// `namespace/name`, as rules write it.
    #[must_use]
    pub fn qualified(&self) -> &str {
        &self.qualified
    }
}

/// Who is calling, and who pays for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    user: Box<str>,
    groups: Vec<Box<str>>,
    uid: Option<Box<str>>,
    extra: Vec<(Box<str>, Box<str>)>,
    source: Source,
    service_account: Option<ServiceAccount>,
    pod: Option<Box<str>>,
    node: Option<Box<str>>,
    is_node: bool,
    tenant: u64,
    instance: Option<u64>,
}

impl Identity {
    /// The subject of a verified client certificate: common name, organisations,
    /// and what else the server derives from it. The groups are those of the
    /// certificate alone, ready to be asserted; `system:authenticated`, which
    /// the server adds, counts in [`Identity::in_group`].
    #[must_use]
    pub fn certificate(
        common_name: &str,
        groups: Vec<Box<str>>,
        uid: Option<Box<str>>,
        extra: Vec<(Box<str>, Box<str>)>,
    ) -> Self {
        Self::verified(Source::Certificate, common_name, groups, uid, extra)
    }

    /// What a client that may state identities said in its headers; as
    /// [`Identity::certificate`] otherwise.
    #[must_use]
    pub fn request_header(
        user: &str,
        groups: Vec<Box<str>>,
        uid: Option<Box<str>>,
        extra: Vec<(Box<str>, Box<str>)>,
    ) -> Self {
        Self::verified(Source::RequestHeader, user, groups, uid, extra)
    }

    /// A service account whose token was verified, with the pod and node its
    /// claims name. The groups are those the server gives it.
    #[must_use]
    pub fn service_account(
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        pod: Option<&str>,
        node: Option<&str>,
    ) -> Self {
        let groups = vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{namespace}").into(),
            AUTHENTICATED.into(),
        ];
        let identity = Self {
            user: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}").into(),
            groups,
            uid: uid.map(Into::into),
            extra: Vec::new(),
            source: Source::ServiceAccountToken,
            service_account: Some(ServiceAccount::new(namespace, name)),
            pod: pod.map(Into::into),
            node: node.map(Into::into),
            is_node: false,
            tenant: 0,
            instance: None,
        };
        identity.hashed()
    }

    /// What the server said about a credential. Knows service accounts (with
    /// the pod and node of the extras) and nodes by their names; if the server
    /// said `system:anonymous`, that is what it is.
    #[must_use]
    pub fn learned(
        user: &str,
        groups: Vec<Box<str>>,
        uid: Option<Box<str>>,
        extra: Vec<(Box<str>, Box<str>)>,
    ) -> Self {
        if user == ANONYMOUS || user.is_empty() {
            return Self::anonymous();
        }
        Self::verified(Source::Learned, user, groups, uid, extra)
    }

    /// Nobody: no credentials at all.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::unverified(Source::Anonymous)
    }

    /// Somebody with credentials nobody has vouched for yet.
    #[must_use]
    pub fn unattributed() -> Self {
        Self::unverified(Source::Unattributed)
    }

    fn unverified(source: Source) -> Self {
        let identity = Self {
            user: ANONYMOUS.into(),
            groups: vec![UNAUTHENTICATED.into()],
            uid: None,
            extra: Vec::new(),
            source,
            service_account: None,
            pod: None,
            node: None,
            is_node: false,
            tenant: 0,
            instance: None,
        };
        identity.hashed()
    }

    fn verified(
        source: Source,
        user: &str,
        groups: Vec<Box<str>>,
        uid: Option<Box<str>>,
        extra: Vec<(Box<str>, Box<str>)>,
    ) -> Self {
        // Whoever vouches for it: nobody is nobody. The server keeps both, name and group,
        // apart from everybody it has authenticated.
        let nobody = user == ANONYMOUS || groups.iter().any(|group| &**group == UNAUTHENTICATED);
        let source = if nobody { Source::Anonymous } else { source };
        let service_account = ServiceAccount::of_user(user);
        let node_name = user
            .strip_prefix(NODE_PREFIX)
            .filter(|name| !name.is_empty() && groups.iter().any(|group| &**group == NODES));
        let claim = |key: &str| {
            service_account.as_ref()?;
            let (_, value) = extra.iter().find(|(name, _)| &**name == key)?;
            Some(value.clone())
        };
        let pod = claim(POD_NAME_EXTRA);
        let node = node_name.map(Into::into).or_else(|| claim(NODE_NAME_EXTRA));
        let identity = Self {
            user: user.into(),
            is_node: node_name.is_some(),
            groups,
            uid,
            extra,
            source,
            service_account,
            pod,
            node,
            tenant: 0,
            instance: None,
        };
        identity.hashed()
    }

    /// Fills in the two derived numbers.
    fn hashed(mut self) -> Self {
        let tenant = match (&self.service_account, self.source) {
            (_, Source::Anonymous | Source::Unattributed) => {
                Hash::new().text("source").text(self.source.as_str())
            }
            // All nodes pay together; each is an instance.
            _ if self.is_node => Hash::new().text("group").text(NODES),
            (Some(account), _) => Hash::new()
                .text("service-account")
                .text(account.namespace())
                .text(account.name()),
            (None, _) => Hash::new().text("user").text(&self.user),
        };
        self.tenant = tenant.finish();
        let member = |kind: &str, name: &str| {
            let tenant = Hash::new().number(self.tenant);
            tenant.text(kind).text(name).finish()
        };
        self.instance = match (&self.pod, &self.node) {
            (Some(pod), _) => Some(member("pod", pod)),
            (None, Some(node)) => Some(member("node", node)),
            (None, None) => None,
        };
        self
    }

    /// The user name.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The groups, as the constructor describes them.
    #[must_use]
    pub fn groups(&self) -> &[Box<str>] {
        &self.groups
    }

    /// The user's UID, if the credential holds one.
    #[must_use]
    pub fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }

    /// Extra attributes, key and value; a key may occur several times.
    #[must_use]
    pub fn extra(&self) -> &[(Box<str>, Box<str>)] {
        &self.extra
    }

    /// How the identity became known.
    #[must_use]
    pub const fn source(&self) -> Source {
        self.source
    }

    /// The service account, if it is one.
    #[must_use]
    pub const fn as_service_account(&self) -> Option<&ServiceAccount> {
        self.service_account.as_ref()
    }

    /// The pod a bound token names.
    #[must_use]
    pub fn pod(&self) -> Option<&str> {
        self.pod.as_deref()
    }

    /// The node it is, or on which the pod of a bound token runs.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Whether this is a node itself: `system:node:NAME` in `system:nodes`.
    #[must_use]
    pub const fn is_node(&self) -> bool {
        self.is_node
    }

    /// Whether somebody trustworthy vouches for it.
    #[must_use]
    pub const fn is_verified(&self) -> bool {
        !matches!(self.source, Source::Anonymous | Source::Unattributed)
    }

    /// Whether the server will count it among `group`.
    #[must_use]
    pub fn in_group(&self, group: &str) -> bool {
        (group == AUTHENTICATED && self.is_verified())
            || self.groups.iter().any(|member| &**member == group)
    }

    /// Who pays: the service account, the user, the nodes together, the
    /// anonymous together. Stable across processes and restarts.
    #[must_use]
    pub const fn tenant(&self) -> u64 {
        self.tenant
    }

    /// The name that goes with [`Self::tenant`], for people: the user name, the group of all
    /// nodes, or how little is known.
    #[must_use]
    pub fn tenant_name(&self) -> &str {
        match self.source {
            Source::Anonymous | Source::Unattributed => self.source.as_str(),
            _ if self.is_node => NODES,
            _ => &self.user,
        }
    }

    /// Which member of the tenant asks: its pod, else its node, else its address
    /// (a hash of it, from the caller).
    #[must_use]
    pub const fn instance(&self, address_hash: u64) -> u64 {
        match self.instance {
            Some(instance) => instance,
            None => hash::mix(self.tenant ^ hash::mix(address_hash)),
        }
    }
}

#[cfg(test)]
mod tests;
