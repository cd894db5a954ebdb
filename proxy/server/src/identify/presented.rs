//! What a client showed in its handshake, and what the authorities say about it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use http::header::HeaderValue;
use rustls::pki_types::CertificateDer;

use super::certificate::{self, CertificateIdentity};
use super::{Credential, Identified};
use crate::lane::Lane;
use crate::snapshot::Snapshot;

/// How often a certificate's chain is judged anew on one connection, in seconds; the dates of what the client sent are
/// looked at on every request.
const JUDGE_EVERY: u64 = 60;

/// What a client showed in its handshake, with the last judgements on it.
#[derive(Debug, Default)]
pub(crate) struct Presented {
    chain: Vec<CertificateDer<'static>>,
    judged: RefCell<Option<Judged>>,
    pub(super) last_token: RefCell<Option<LastToken>>,
}

#[derive(Clone, Debug)]
struct Judged {
    generation: u64,
    at: u64,
    /// Unix seconds at which something the client sent begins or ends.
    until: u64,
    verdict: Verdict,
}

/// What the authorities say about a client's certificate.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// A user of the cluster, or of the break-glass authority.
    User(Rc<Identified>),
    /// One that may state identities in headers.
    Peer,
    /// Nobody: not vouched for, ended, malformed, or without a name.
    Nobody,
}

/// The last token a connection brought, and what it was taken for.
#[derive(Debug)]
pub(super) struct LastToken {
    pub(super) value: HeaderValue,
    pub(super) generation: u64,
    /// Unix seconds.
    pub(super) until: u64,
    pub(super) identified: Rc<Identified>,
}

impl Presented {
    /// `chain` as the client sent it, leaf first; empty without a certificate.
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        Self {
            chain,
            ..Self::default()
        }
    }

    /// Whether there was no certificate at all.
    pub(super) fn is_empty(&self) -> bool {
        self.chain.is_empty()
    }

    pub(super) fn judge(&self, lane: Lane, snapshot: &Snapshot, now: u64) -> Verdict {
        if let Some(judged) = &*self.judged.borrow()
            && judged.generation == snapshot.generation
            && (judged.at..judged.until).contains(&now)
        {
            return judged.verdict.clone();
        }
        let verdict = self.judge_anew(lane, snapshot, now);
        *self.judged.borrow_mut() = Some(Judged {
            generation: snapshot.generation,
            at: now,
            until: self.next_date(now).min(now.saturating_add(JUDGE_EVERY)),
            verdict: verdict.clone(),
        });
        verdict
    }

    fn judge_anew(&self, lane: Lane, snapshot: &Snapshot, now: u64) -> Verdict {
        let Some(read) = self.chain.first().and_then(|leaf| certificate::read(leaf)) else {
            return Verdict::Nobody;
        };
        // Go compares with fractions of a second: in the second of its end a certificate has ended.
        if !(read.not_before..read.not_after).contains(&now) {
            return Verdict::Nobody;
        }
        if snapshot.client_authority.vouches_for(&self.chain, now) {
            return user(read, false);
        }
        match lane {
            // Only here, and only who is none of the cluster's own clients.
            Lane::Main => {
                let peers = snapshot.request_header.as_ref();
                let may =
                    peers.is_some_and(|peers| peers.may_state(&self.chain, &read.common_name, now));
                if may { Verdict::Peer } else { Verdict::Nobody }
            }
            Lane::Reserved => {
                let authority = snapshot.break_glass_authority.as_ref();
                if snapshot.revoked.contains(&read.serial) {
                    return Verdict::Nobody;
                }
                if authority.is_some_and(|authority| authority.vouches_for(&self.chain, now)) {
                    user(read, true)
                } else {
                    Verdict::Nobody
                }
            }
        }
    }

    /// The next date after `now` on which one of the certificates begins or ends.
    fn next_date(&self, now: u64) -> u64 {
        let dates = self.chain.iter().filter_map(|der| certificate::dates(der));
        dates
            .flat_map(|(not_before, not_after)| [not_before, not_after])
            .filter(|date| *date > now)
            .min()
            .unwrap_or(u64::MAX)
    }
}

/// A certificate without a name is nobody's: the server's x509 authenticator has no opinion on it, but its request-header
/// authenticator calls it an error, which rules anonymous out.
fn user(read: CertificateIdentity, break_glass: bool) -> Verdict {
    read.identity.map_or(Verdict::Nobody, |identity| {
        Verdict::User(Rc::new(Identified {
            credential: Credential::asserting(&identity),
            identity: Arc::new(identity),
            token: None,
            break_glass,
            stated: false,
        }))
    })
}
