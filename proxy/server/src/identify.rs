//! Stage 2: who is calling, from verified credentials only.
//!
//! Follows kube-apiserver's order of authenticators: client certificate, then bearer token, then anonymous; a
//! certificate that is not good is an error that rules anonymous out. What comes out is the identity for
//! classification and the [`Credential`] that decides which upstream pool may carry the request.

pub(crate) mod certificate;
pub(crate) mod memory;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod verify;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use proxy_core::identity::Identity;
use rustls::pki_types::CertificateDer;

use crate::error::{Error, Refused};
use crate::lane::Lane;
use crate::snapshot::Snapshot;
use memory::{Digest, Known, TokenMemory};

/// The sub-protocol prefix under which browsers send a bearer token with a WebSocket.
const WEBSOCKET_BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// How often a certificate's chain is judged anew on one connection, in seconds; its own dates are looked at on every
/// request.
const JUDGE_EVERY: u64 = 60;

/// What the request may be forwarded as, which is also the upstream pool it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Credential {
    /// A verified client certificate: we assert the identity with the front-proxy certificate.
    Asserted,
    /// A bearer token that verified or was seen to work: passed through, no client certificate.
    Token,
    /// Anonymous, or a token nobody vouches for: passed through on connections the server may tear down.
    Unverified,
}

/// Who is calling.
#[derive(Debug)]
pub(crate) struct Identified {
    pub(crate) identity: Arc<Identity>,
    pub(crate) credential: Credential,
    /// The token's digest, so that the server's verdict on it can be remembered.
    pub(crate) token: Option<Digest>,
    /// Vouched for by the break-glass authority of the reserved lane.
    pub(crate) break_glass: bool,
}

/// What a client showed in its handshake, with the last judgements on it.
#[derive(Debug, Default)]
pub(crate) struct Presented {
    chain: Vec<CertificateDer<'static>>,
    judged: RefCell<Option<Judged>>,
    last_token: RefCell<Option<LastToken>>,
}

#[derive(Clone, Debug)]
struct Judged {
    generation: u64,
    at: u64,
    verdict: Verdict,
}

#[derive(Clone, Debug)]
enum Verdict {
    Good {
        identified: Rc<Identified>,
        not_before: u64,
        not_after: u64,
    },
    NoOpinion,
    Bad,
}

#[derive(Debug)]
struct LastToken {
    value: HeaderValue,
    generation: u64,
    /// Unix seconds.
    until: u64,
    identified: Rc<Identified>,
}

/// How long a connection goes by its own memory of its last token, in seconds. The server's verdicts (a token that
/// began to work, or was refused) are seen at the latest after this.
const LAST_TOKEN_FOR: u64 = 2;

impl Presented {
    /// `chain` as the client sent it, leaf first; empty without a certificate.
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        Self {
            chain,
            ..Self::default()
        }
    }

    fn judge(&self, lane: Lane, snapshot: &Snapshot, now: u64) -> Verdict {
        if let Some(judged) = &*self.judged.borrow()
            && judged.generation == snapshot.generation
            && now.saturating_sub(judged.at) < JUDGE_EVERY
        {
            return judged.verdict.clone();
        }
        let verdict = self.judge_anew(lane, snapshot, now);
        *self.judged.borrow_mut() = Some(Judged {
            generation: snapshot.generation,
            at: now,
            verdict: verdict.clone(),
        });
        verdict
    }

    fn judge_anew(&self, lane: Lane, snapshot: &Snapshot, now: u64) -> Verdict {
        let by_cluster = snapshot.client_authority.vouches_for(&self.chain, now);
        let break_glass = !by_cluster
            && lane == Lane::Reserved
            && snapshot
                .break_glass_authority
                .as_ref()
                .is_some_and(|ca| ca.vouches_for(&self.chain, now));
        if !by_cluster && !break_glass {
            return Verdict::Bad;
        }
        let Some(read) = self.chain.first().and_then(|leaf| certificate::read(leaf)) else {
            return Verdict::Bad;
        };
        let Some(identity) = read.identity else {
            return Verdict::NoOpinion;
        };
        let identified = Identified {
            identity: Arc::new(identity),
            credential: Credential::Asserted,
            token: None,
            break_glass,
        };
        Verdict::Good {
            identified: Rc::new(identified),
            not_before: read.not_before,
            not_after: read.not_after,
        }
    }
}

/// Who sent a request with `headers` over a connection that presented `presented`.
///
/// # Errors
/// [`Refused::Unauthorized`] when a certificate that is not good came without any token: the server's own answer.
pub(crate) fn identify(
    presented: &Presented,
    headers: &HeaderMap,
    lane: Lane,
    snapshot: &Snapshot,
    tokens: &TokenMemory,
    now: u64,
) -> Result<Rc<Identified>, Error> {
    let mut bad_certificate = false;
    if !presented.chain.is_empty() {
        match presented.judge(lane, snapshot, now) {
            Verdict::Good {
                identified,
                not_before,
                not_after,
            } if (not_before..=not_after).contains(&now) => {
                return Ok(identified);
            }
            Verdict::NoOpinion => {}
            Verdict::Good { .. } | Verdict::Bad => bad_certificate = true,
        }
    }
    if let Some(value) = headers.get(AUTHORIZATION)
        && let Some(token) = bearer(value)
    {
        return Ok(by_header(presented, value, token, snapshot, tokens, now));
    }
    if let Some(token) = websocket_bearer(headers) {
        return Ok(Rc::new(by_token(&token, snapshot, tokens, now).0));
    }
    if bad_certificate {
        return Err(Refused::Unauthorized.into());
    }
    Ok(anonymous())
}

/// The token of an `Authorization` header, split as kube-apiserver's bearer-token authenticator splits it.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let mut parts = value
        .as_bytes()
        .trim_ascii()
        .splitn(3, |byte| *byte == b' ');
    let scheme = parts.next()?;
    let token = parts.next()?;
    (scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty()).then_some(token)
}

fn websocket_bearer(headers: &HeaderMap) -> Option<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(WEBSOCKET_BEARER))
        .and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded).ok())
}

fn by_header(
    presented: &Presented,
    value: &HeaderValue,
    token: &[u8],
    snapshot: &Snapshot,
    tokens: &TokenMemory,
    now: u64,
) -> Rc<Identified> {
    if let Some(last) = &*presented.last_token.borrow()
        && last.value == value
        && last.generation == snapshot.generation
        && last.until > now
    {
        return Rc::clone(&last.identified);
    }
    let (identified, not_after) = by_token(token, snapshot, tokens, now);
    let identified = Rc::new(identified);
    *presented.last_token.borrow_mut() = Some(LastToken {
        value: value.clone(),
        generation: snapshot.generation,
        until: not_after.min(now + LAST_TOKEN_FOR),
        identified: Rc::clone(&identified),
    });
    identified
}

fn by_token(
    token: &[u8],
    snapshot: &Snapshot,
    tokens: &TokenMemory,
    now: u64,
) -> (Identified, u64) {
    let digest = Digest::of(token);
    let found = |identity, credential| Identified {
        identity,
        credential,
        token: Some(digest),
        break_glass: false,
    };
    match tokens.recall(&digest, now) {
        Some(Known::Verified(identity)) => return (found(identity, Credential::Token), u64::MAX),
        Some(Known::Learned(identity)) => return (found(identity, Credential::Token), u64::MAX),
        Some(Known::Works) => return (found(unattributed(), Credential::Token), u64::MAX),
        Some(Known::Refused) => return (found(unattributed(), Credential::Unverified), u64::MAX),
        None => {}
    }
    let verified = std::str::from_utf8(token)
        .ok()
        .and_then(|token| snapshot.tokens.verify(token));
    match verified {
        Some(verified) => {
            let identity = Arc::new(verified.identity);
            tokens.verified(digest, Arc::clone(&identity), verified.not_after, now);
            (found(identity, Credential::Token), verified.not_after)
        }
        None => (found(unattributed(), Credential::Unverified), u64::MAX),
    }
}

fn unattributed() -> Arc<Identity> {
    use std::sync::OnceLock;
    static UNATTRIBUTED: OnceLock<Arc<Identity>> = OnceLock::new();
    Arc::clone(UNATTRIBUTED.get_or_init(|| Arc::new(Identity::unattributed())))
}

fn anonymous() -> Rc<Identified> {
    thread_local! {
        static ANONYMOUS: Rc<Identified> = Rc::new(Identified {
            identity: Arc::new(Identity::anonymous()),
            credential: Credential::Unverified,
            token: None,
            break_glass: false,
        });
    }
    ANONYMOUS.with(Rc::clone)
}
