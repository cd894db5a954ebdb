//! Stage 2: who is calling, from verified credentials only.
//!
//! Follows kube-apiserver's order of authenticators: request headers, client certificate, bearer token, anonymous; a
//! certificate that names nobody is an error that rules anonymous out. What comes out is the identity for
//! classification and the [`Credential`] that decides which upstream pool may carry the request.

pub(crate) mod bearer;
pub(crate) mod certificate;
pub(crate) mod keys;
pub(crate) mod memory;
mod presented;
pub(crate) mod published;
pub(crate) mod request_header;
pub(crate) mod revoked;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod verify;

use std::rc::Rc;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use proxy_core::identity::Identity;

use crate::error::{Error, Refused};
use crate::lane::Lane;
use crate::snapshot::Snapshot;
use memory::{Digest, Known, TokenMemory};
pub(crate) use presented::Presented;
use presented::{LastToken, Verdict};
use published::PublishedKeys;
use request_header::Stated;
use token::Unverified;

/// What the request may be forwarded as, which is also the upstream pool it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Credential {
    /// A verified client certificate: we assert the identity with the front-proxy certificate.
    Asserted,
    /// As [`Self::Asserted`], of somebody whom the server calls anonymous: on connections the server may tear down.
    AssertedNobody,
    /// A bearer token that verified or was seen to work: passed through, no client certificate.
    Token,
    /// Anonymous, or a token nobody vouches for: passed through on connections the server may tear down.
    Unverified,
}

impl Credential {
    /// What an identity takes that we assert.
    pub(crate) fn asserting(identity: &Identity) -> Self {
        if identity.is_verified() {
            Self::Asserted
        } else {
            Self::AssertedNobody
        }
    }

    /// Whether somebody proved who they are.
    pub(crate) const fn proves(self) -> bool {
        matches!(self, Self::Asserted | Self::Token)
    }

    /// Whether we assert the identity, with the front-proxy certificate.
    pub(crate) const fn is_asserted(self) -> bool {
        matches!(self, Self::Asserted | Self::AssertedNobody)
    }
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
    /// Stated in headers by a client that may.
    pub(crate) stated: bool,
}

/// How long a connection goes by its own memory of its last token, in seconds. The server's verdicts (a token that
/// began to work, or was refused) are seen at the latest after this.
const LAST_TOKEN_FOR: u64 = 2;

/// What identities are judged by.
pub(crate) struct Judge<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) tokens: &'a TokenMemory,
    pub(crate) published: &'a PublishedKeys,
    /// Unix seconds.
    pub(crate) now: u64,
}

impl Judge<'_> {
    /// Who sent a request with `headers` over a connection of `lane` that presented `presented`.
    ///
    /// # Errors
    /// [`Refused::Unauthorized`] when a certificate that names nobody came without any token: the server's own answer.
    /// Also for a stated identity that could not be passed on as it is.
    pub(crate) fn identify(
        &self,
        presented: &Presented,
        headers: &HeaderMap,
        lane: Lane,
    ) -> Result<Rc<Identified>, Error> {
        if !presented.is_empty() {
            match presented.judge(lane, self.snapshot, self.now) {
                Verdict::User(identified) => return Ok(identified),
                Verdict::Peer => {
                    if let Some(identified) = self.by_request_header(headers)? {
                        return Ok(identified);
                    }
                }
                Verdict::Nobody => {}
            }
        }
        if let Some(value) = headers.get(AUTHORIZATION)
            && let Some(token) = bearer::of_header(value)
        {
            return Ok(self.by_header(presented, value, token));
        }
        if let Some(token) = bearer::of_websocket(headers) {
            return Ok(Rc::new(self.by_token(&token).0));
        }
        if !presented.is_empty() {
            return Err(Refused::Unauthorized.into());
        }
        Ok(anonymous())
    }

    fn by_request_header(&self, headers: &HeaderMap) -> Result<Option<Rc<Identified>>, Error> {
        let peers = self.snapshot.request_header.as_ref();
        match peers.map_or(Stated::Nothing, |peers| peers.stated(headers)) {
            Stated::Nothing => Ok(None),
            Stated::Unreadable => Err(Refused::Unauthorized.into()),
            Stated::Somebody(identity) => Ok(Some(Rc::new(Identified {
                credential: Credential::asserting(&identity),
                identity: Arc::new(identity),
                token: None,
                break_glass: false,
                stated: true,
            }))),
        }
    }

    fn by_header(
        &self,
        presented: &Presented,
        value: &HeaderValue,
        token: &[u8],
    ) -> Rc<Identified> {
        if let Some(last) = &*presented.last_token.borrow()
            && last.value == value
            && last.generation == self.snapshot.generation
            && last.until > self.now
        {
            return Rc::clone(&last.identified);
        }
        let (identified, not_after) = self.by_token(token);
        let identified = Rc::new(identified);
        *presented.last_token.borrow_mut() = Some(LastToken {
            value: value.clone(),
            generation: self.snapshot.generation,
            until: not_after.min(self.now + LAST_TOKEN_FOR),
            identified: Rc::clone(&identified),
        });
        identified
    }

    /// Whose token it is, and until when (Unix seconds) that holds.
    fn by_token(&self, token: &[u8]) -> (Identified, u64) {
        let digest = Digest::of(token);
        let found = |identity, credential| Identified {
            identity,
            credential,
            token: Some(digest),
            break_glass: false,
            stated: false,
        };
        let known = match self.tokens.recall(&digest, self.now) {
            Some(Known::Verified(identity) | Known::Learned(identity)) => {
                Some((identity, Credential::Token))
            }
            Some(Known::Works) => Some((unattributed(), Credential::Token)),
            Some(Known::Refused) => Some((unattributed(), Credential::Unverified)),
            None => None,
        };
        if let Some((identity, credential)) = known {
            return (found(identity, credential), u64::MAX);
        }
        let verifier = &self.snapshot.tokens;
        let verified = std::str::from_utf8(token)
            .map_err(|_| Unverified::NotOurs)
            .and_then(|token| verifier.verify(token, &self.published.get(), self.now));
        match verified {
            Ok(verified) => {
                let (identity, until) = (Arc::new(verified.identity), verified.not_after);
                self.tokens
                    .verified(digest, Arc::clone(&identity), until, self.now);
                (found(identity, Credential::Token), until)
            }
            Err(reason) => {
                if reason == Unverified::UnknownKey {
                    self.published.want();
                }
                (found(unattributed(), Credential::Unverified), u64::MAX)
            }
        }
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
            stated: false,
        });
    }
    ANONYMOUS.with(Rc::clone)
}
