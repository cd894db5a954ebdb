//! Who may use the console's switches, and for how long.
//!
//! The admin port asks nobody who they are; the admin socket knows. So a ticket is issued over the socket, and the page
//! exchanges it for a session. A ticket is good once and for two minutes: what stays of it in a browser's history, a
//! scrollback or a chat opens nothing. Both are 256 random bits; kept is only their SHA-256. All end with the process.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proxy_core::time::Time;

/// How long a ticket may be exchanged.
pub(crate) const TICKET: Duration = Duration::from_secs(120);
/// The longest session.
pub(crate) const LONGEST: Duration = Duration::from_secs(8 * 3600);
/// Tickets and sessions at once; the one that ends first makes room.
const MOST: usize = 16;

/// On whose behalf a session acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// As they call themselves.
    pub(crate) name: String,
    /// As the kernel knows whoever asked for the ticket.
    pub(crate) uid: u32,
    pub(crate) pid: Option<i32>,
}

/// What a secret is good for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Good {
    /// To be exchanged for a session of this length.
    Ticket(Duration),
    Session,
}

#[derive(Debug)]
struct Secret {
    digest: [u8; 32],
    good: Good,
    holder: Holder,
    ends: Time,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Vec<Secret>>);

/// The system has no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes; nothing was issued")]
pub(crate) struct NoRandom;

fn hash(secret: &str) -> [u8; 32] {
    let mut place = [0; 32];
    place.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    place
}

impl Sessions {
    /// A ticket for a session that will last so long.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub(crate) fn issue(
        &self,
        holder: Holder,
        lasts: Duration,
        now: Time,
    ) -> Result<String, NoRandom> {
        self.add(Good::Ticket(lasts.min(LONGEST)), holder, now + TICKET, now)
    }

    /// Exchanges a ticket: the session's secret, whose it is, and how long it lasts. `None` for a ticket that is none, any
    /// more or yet.
    pub(crate) fn open(&self, ticket: &str, now: Time) -> Option<(String, Holder, Duration)> {
        let taken = self.with(now, |secrets| {
            let is_ticket = |secret: &Secret| matches!(secret.good, Good::Ticket(_));
            let at = position(secrets, ticket, is_ticket)?;
            Some(secrets.swap_remove(at))
        })?;
        let Good::Ticket(lasts) = taken.good else {
            return None;
        };
        let holder = taken.holder;
        let session = self.add(Good::Session, holder.clone(), now + lasts, now);
        session.ok().map(|session| (session, holder, lasts))
    }

    /// Whose session this is, and for how long still.
    pub(crate) fn holder(&self, session: &str, now: Time) -> Option<(Holder, Duration)> {
        self.with(now, |secrets| {
            let at = position(secrets, session, |secret| secret.good == Good::Session)?;
            let secret = secrets.get(at)?;
            Some((secret.holder.clone(), secret.ends.saturating_since(now)))
        })
    }

    /// Ends one session; whose it was.
    pub(crate) fn end(&self, session: &str, now: Time) -> Option<Holder> {
        self.with(now, |secrets| {
            let at = position(secrets, session, |secret| secret.good == Good::Session)?;
            Some(secrets.swap_remove(at).holder)
        })
    }

    /// Ends all sessions and tickets; how many there were.
    pub(crate) fn end_all(&self, now: Time) -> usize {
        self.with(now, |secrets| std::mem::take(secrets).len())
    }

    fn add(&self, good: Good, holder: Holder, ends: Time, now: Time) -> Result<String, NoRandom> {
        let mut random = [0_u8; 32];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| NoRandom)?;
        let text = URL_SAFE_NO_PAD.encode(random);
        let secret = Secret {
            digest: hash(&text),
            good,
            holder,
            ends,
        };
        self.with(now, |secrets| {
            while secrets.len() >= MOST {
                let first =
                    (0..secrets.len()).min_by_key(|at| secrets.get(*at).map(|one| one.ends));
                secrets.swap_remove(first.unwrap_or(0));
            }
            secrets.push(secret);
        });
        Ok(text)
    }

    fn with<T>(&self, now: Time, act: impl FnOnce(&mut Vec<Secret>) -> T) -> T {
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.retain(|secret| secret.ends > now);
        act(&mut secrets)
    }
}

fn position(secrets: &[Secret], text: &str, is: impl Fn(&Secret) -> bool) -> Option<usize> {
    let digest = hash(text);
    let same =
        |secret: &Secret| verify_slices_are_equal(&secret.digest, &digest).is_ok() && is(secret);
    secrets.iter().position(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn holder() -> Holder {
        Holder {
            name: "jane".to_owned(),
            uid: 7,
            pid: Some(1),
        }
    }

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000)
    }

    #[test]
    fn a_ticket_is_good_once_and_for_two_minutes() {
        let sessions = Sessions::default();
        let ticket = sessions.issue(holder(), HOUR, at(1)).expect("random");
        assert!(sessions.holder(&ticket, at(2)).is_none(), "no session yet");
        let (session, whose, lasts) = sessions.open(&ticket, at(2)).expect("opened");
        assert_eq!((whose, lasts), (holder(), HOUR));
        assert_ne!(session, ticket);
        assert!(sessions.open(&ticket, at(3)).is_none(), "used");
        assert!(
            sessions.open(&session, at(3)).is_none(),
            "a session is no ticket"
        );
        let late = sessions.issue(holder(), HOUR, at(1)).expect("random");
        assert!(sessions.open(&late, at(121)).is_none(), "late");
    }

    #[test]
    fn a_session_ends_in_time_by_itself_and_when_it_is_told_to() {
        let sessions = Sessions::default();
        let open = |lasts, from| {
            let ticket = sessions.issue(holder(), lasts, at(from)).expect("random");
            sessions.open(&ticket, at(from)).expect("opened").0
        };
        let session = open(HOUR, 1);
        assert_eq!(
            sessions.holder(&session, at(3600)),
            Some((holder(), Duration::from_secs(1)))
        );
        assert_eq!(sessions.holder(&session, at(3601)), None);
        let long = open(100 * HOUR, 1);
        assert_eq!(
            sessions.holder(&long, at(8 * 3600 + 2)),
            None,
            "at most 8 hours"
        );
        let (one, other) = (open(HOUR, 1), open(HOUR, 1));
        assert_eq!(sessions.end(&one, at(2)), Some(holder()));
        assert_eq!(sessions.holder(&one, at(2)), None);
        assert!(sessions.holder(&other, at(2)).is_some());
        assert!(sessions.end_all(at(2)) >= 1);
        assert_eq!(sessions.holder(&other, at(2)), None);
    }

    #[test]
    fn what_was_never_issued_opens_nothing_and_tickets_are_bounded() {
        let sessions = Sessions::default();
        for wrong in ["", "x", &"A".repeat(43)] {
            assert!(sessions.holder(wrong, at(1)).is_none());
            assert!(sessions.open(wrong, at(1)).is_none());
        }
        let first = sessions.issue(holder(), HOUR, at(1)).expect("random");
        for _ in 0..MOST {
            sessions.issue(holder(), HOUR, at(2)).expect("random");
        }
        assert!(sessions.open(&first, at(3)).is_none(), "made room");
        assert_eq!(sessions.end_all(at(3)), MOST);
    }
}
