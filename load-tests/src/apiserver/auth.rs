//! Authentication in the order of `pkg/kubeapiserver/authenticator`:
//! request-header, client certificate, bearer token, anonymous unless
//! something was presented and found wanting.
//!
//! Authorization is a stand-in: whoever is authenticated may do everything,
//! anonymous callers may read health, version and discovery.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, crypto::CryptoProvider};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Error;
use super::clock;
use super::lock;
use super::resources;
use super::status::ApiError;
use super::store::Store;
use super::tokens::Tokens;

/// A certificate is judged again after this long, for its dates.
const VERDICT: Duration = Duration::from_secs(10);

pub(super) const ANONYMOUS: &str = "system:anonymous";
const AUTHENTICATED: &str = "system:authenticated";
const FRONT_PROXY: &str = "front-proxy-client";
const EXTRA: &str = "x-remote-extra-";
const EXTRA_PREFIX: &str = "authentication.kubernetes.io/";

/// Who is calling.
#[derive(Debug, Clone, Default)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
            ..Self::default()
        }
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.name == ANONYMOUS
    }

    fn authenticated(mut self) -> Self {
        if !self.is_anonymous() && !self.groups.iter().any(|group| group == AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }

    /// `UserInfo`, as reviews return it.
    pub(super) fn to_json(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}

/// What a client's certificate is worth.
#[derive(Debug, Clone)]
enum Verdict {
    FrontProxy,
    User(User),
    Invalid,
}

/// A connection's peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// Leaf first; empty when the client showed none.
    pub(super) chain: Vec<CertificateDer<'static>>,
    verdict: Mutex<Option<(Instant, Verdict)>>,
}

impl Peer {
    pub(super) fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        Self {
            chain,
            verdict: Mutex::new(None),
        }
    }
}

/// Judges credentials.
pub(super) struct Authenticator {
    client_ca: Arc<dyn ClientCertVerifier>,
    front_proxy: Arc<dyn ClientCertVerifier>,
    pub(super) tokens: Tokens,
}

impl Authenticator {
    /// Takes both authorities as PEM.
    pub(super) fn new(
        provider: &Arc<CryptoProvider>,
        client_ca: &str,
        front_proxy_ca: &str,
        tokens: Tokens,
    ) -> Result<Self, Error> {
        Ok(Self {
            client_ca: verifier(provider, &[client_ca])?,
            front_proxy: verifier(provider, &[front_proxy_ca])?,
            tokens,
        })
    }

    /// The caller, impersonation included. 401 when a credential was
    /// presented and none was good.
    pub(super) fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        store: &Store,
    ) -> Result<User, ApiError> {
        let user = self.caller(headers, peer, store)?.authenticated();
        impersonate(user, headers)
    }

    fn caller(&self, headers: &HeaderMap, peer: &Peer, store: &Store) -> Result<User, ApiError> {
        let mut failed = false;
        match self.verdict(peer) {
            None => {}
            Some(Verdict::User(user)) => return Ok(user),
            Some(Verdict::FrontProxy) => match asserted(headers) {
                Some(user) => return Ok(user),
                // Not of the client CA, so the x509 authenticator objects.
                None => failed = true,
            },
            Some(Verdict::Invalid) => failed = true,
        }
        if let Some(token) = bearer(headers) {
            match self.token_user(token, store) {
                Some(user) => return Ok(user),
                None => failed = true,
            }
        }
        if failed {
            Err(ApiError::unauthorized())
        } else {
            Ok(User::anonymous())
        }
    }

    fn verdict(&self, peer: &Peer) -> Option<Verdict> {
        let (leaf, intermediates) = peer.chain.split_first()?;
        let now = Instant::now();
        let mut known = lock(&peer.verdict);
        if let Some((at, verdict)) = known.as_ref()
            && now.duration_since(*at) < VERDICT
        {
            return Some(verdict.clone());
        }
        let verdict = self.judge(leaf, intermediates);
        *known = Some((now, verdict.clone()));
        Some(verdict)
    }

    fn judge(&self, leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Verdict {
        let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
            return Verdict::Invalid;
        };
        let subject = parsed.subject();
        let name = subject
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .unwrap_or("");
        let signed_by = |ca: &Arc<dyn ClientCertVerifier>| {
            ca.verify_client_cert(leaf, chain, UnixTime::now()).is_ok()
        };
        if name == FRONT_PROXY && signed_by(&self.front_proxy) {
            return Verdict::FrontProxy;
        }
        if name.is_empty() || !signed_by(&self.client_ca) {
            return Verdict::Invalid;
        }
        let fingerprint: String = digest(&SHA256, leaf)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Verdict::User(User {
            name: name.to_owned(),
            uid: String::new(),
            groups: subject
                .iter_organization()
                .filter_map(|group| group.as_str().ok().map(str::to_owned))
                .collect(),
            extra: BTreeMap::from([(
                format!("{EXTRA_PREFIX}credential-id"),
                vec![format!("X509SHA256={fingerprint}")],
            )]),
        })
    }

    /// The service account behind a token, if it still exists.
    pub(super) fn token_user(&self, token: &str, store: &Store) -> Option<User> {
        let claims = self.tokens.verify(token, clock::unix_now())?;
        let bound = &claims["kubernetes.io"];
        let namespace = bound["namespace"].as_str()?;
        let account = bound["serviceaccount"]["name"].as_str()?;
        let uid = bound["serviceaccount"]["uid"].as_str()?;
        let accounts = resources::by_plural("serviceaccounts")?;
        let stored = store.get(accounts, namespace, account).ok()?;
        if *stored.uid != *uid {
            return None;
        }
        let mut extra = BTreeMap::new();
        let mut add = |key: &str, value: &Value| {
            if let Some(value) = value.as_str() {
                extra.insert(format!("{EXTRA_PREFIX}{key}"), vec![value.to_owned()]);
            }
        };
        add("pod-name", &bound["pod"]["name"]);
        add("pod-uid", &bound["pod"]["uid"]);
        add("node-name", &bound["node"]["name"]);
        add("node-uid", &bound["node"]["uid"]);
        if let Some(id) = claims["jti"].as_str() {
            add("credential-id", &json!(format!("JTI={id}")));
        }
        Some(User {
            name: claims["sub"].as_str()?.to_owned(),
            uid: uid.to_owned(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
            ],
            extra,
        })
    }
}

/// A verifier for chains that end in one of the PEM authorities.
pub(super) fn verifier(
    provider: &Arc<CryptoProvider>,
    authorities: &[&str],
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for pem in authorities {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.map_err(|error| Error::Tls(error.to_string()))?)?;
        }
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| Error::Tls(error.to_string()))
}

fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| std::str::from_utf8(value.as_bytes()).ok())
        .filter(|value| !value.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Headers `<prefix><key>` with their keys decoded.
fn extras(headers: &HeaderMap, prefix: &str) -> BTreeMap<String, Vec<String>> {
    headers
        .keys()
        .filter_map(|name| Some((name.as_str().strip_prefix(prefix)?, name.as_str())))
        .map(|(key, name)| {
            let key = percent_decode_str(key).decode_utf8_lossy().to_lowercase();
            (key, values(headers, name))
        })
        .collect()
}

/// The user a trusted front proxy speaks for.
fn asserted(headers: &HeaderMap) -> Option<User> {
    Some(User {
        name: values(headers, "x-remote-user").into_iter().next()?,
        uid: String::new(),
        groups: values(headers, "x-remote-group"),
        extra: extras(headers, EXTRA),
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .trim()
        .split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn impersonate(user: User, headers: &HeaderMap) -> Result<User, ApiError> {
    let groups = values(headers, "impersonate-group");
    let extra = extras(headers, "impersonate-extra-");
    let Some(name) = values(headers, "impersonate-user").into_iter().next() else {
        return if groups.is_empty() && extra.is_empty() {
            Ok(user)
        } else {
            Err(ApiError::bad_request(
                "requested groups or extra without impersonating a user",
            ))
        };
    };
    if user.is_anonymous() {
        return Err(ApiError::forbidden(&user.name, "impersonate"));
    }
    Ok(User {
        name,
        uid: values(headers, "impersonate-uid")
            .into_iter()
            .next()
            .unwrap_or_default(),
        groups,
        extra,
    }
    .authenticated())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::apiserver::pki::Pki;

    struct World {
        dir: std::path::PathBuf,
        pki: Pki,
        auth: Authenticator,
        store: Store,
    }

    impl World {
        fn new() -> Self {
            let dir = std::env::temp_dir().join(format!("model-auth-{}", clock::uuid()));
            let pki = Pki::open(&dir).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let tokens = Tokens::new(&pki.token_key).unwrap();
            let auth =
                Authenticator::new(&provider, &pki.client_ca, &pki.front_proxy_ca, tokens).unwrap();
            Self {
                dir,
                pki,
                auth,
                store: Store::new(10),
            }
        }

        /// The user's name, or the error's code.
        fn who(&self, certificate: Option<&str>, headers: &[(&'static str, &str)]) -> String {
            let chain = certificate
                .map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
                .into_iter()
                .collect();
            let headers = headers
                .iter()
                .map(|(name, value)| {
                    let name = http::HeaderName::from_static(name);
                    (name, http::HeaderValue::from_str(value).unwrap())
                })
                .collect();
            match self
                .auth
                .authenticate(&headers, &Peer::new(chain), &self.store)
            {
                Ok(user) => user.name,
                Err(error) => error.code.to_string(),
            }
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    #[test]
    fn credentials_are_judged_in_the_order_of_the_real_server() {
        let world = World::new();
        let user = world.pki.client("jane", &["g1", "g2"]).unwrap().certificate;
        let proxy = std::fs::read_to_string(world.dir.join("pki/front-proxy-client.crt")).unwrap();
        let foreign = World::new().pki.client("jane", &[]).unwrap().certificate;
        let server = world.pki.server.certificate.clone();
        let impostor = world
            .pki
            .client("front-proxy-client", &[])
            .unwrap()
            .certificate;
        let joe = ("x-remote-user", "joe");
        let bad = ("authorization", "Bearer junk");

        assert_eq!(world.who(None, &[]), ANONYMOUS);
        assert_eq!(
            world.who(None, &[joe]),
            ANONYMOUS,
            "nobody vouches for the header"
        );
        assert_eq!(world.who(None, &[bad]), "401");
        assert_eq!(world.who(Some(&user), &[]), "jane");
        assert_eq!(world.who(Some(&user), &[joe, bad]), "jane");
        assert_eq!(world.who(Some(&foreign), &[]), "401", "not anonymous");
        assert_eq!(world.who(Some(&server), &[]), "401", "not for clients");
        assert_eq!(world.who(Some(&proxy), &[joe, bad]), "joe");
        assert_eq!(world.who(Some(&proxy), &[]), "401", "not anonymous");
        assert_eq!(world.who(Some(&impostor), &[joe]), "front-proxy-client");
        let other = ("impersonate-user", "other");
        assert_eq!(world.who(Some(&user), &[other]), "other");
        assert_eq!(world.who(None, &[other]), "403");
        assert_eq!(world.who(Some(&user), &[("impersonate-group", "g")]), "400");
    }

    #[test]
    fn tokens_work_as_long_as_their_account_exists() {
        use crate::apiserver::{review, seed};
        let world = World::new();
        seed::namespace_exists(&world.store, "ns").unwrap();
        let accounts = resources::by_plural("serviceaccounts").unwrap();
        let target = super::super::request::Target {
            namespace: Some("ns".to_owned()),
            name: Some("default".to_owned()),
            ..Default::default()
        };
        let answer = review::token_request(&target, &world.auth, &world.store, b"{}").unwrap();
        let bearer = format!("Bearer {}", answer["status"]["token"].as_str().unwrap());
        let token = ("authorization", bearer.as_str());
        let proxy = std::fs::read_to_string(world.dir.join("pki/front-proxy-client.crt")).unwrap();
        assert_eq!(
            world.who(None, &[token]),
            "system:serviceaccount:ns:default"
        );
        assert_eq!(
            world.who(Some(&proxy), &[token]),
            "system:serviceaccount:ns:default",
            "a front proxy that asserts nobody passes tokens on"
        );
        world
            .store
            .delete(accounts, "ns", "default", |last, version| {
                let mut value = last.value();
                value["metadata"]["resourceVersion"] = json!(version.to_string());
                super::super::object::Object::encode("v1", "ServiceAccount", value, last.created)
            })
            .unwrap();
        assert_eq!(world.who(None, &[token]), "401");
    }
}
