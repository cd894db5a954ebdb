//! Which policies there are, and what may become of them: the current one, the one before it, and a candidate.
//!
//! Decisions about texts, nothing is compiled or put in force here. Times are Unix seconds and handed in.

use proxy_core::rollout::Share;
use serde::{Deserialize, Serialize};

/// A policy's text, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) text: String,
    /// Who or what brought it.
    pub(crate) origin: String,
    /// When.
    pub(crate) since: u64,
}

impl Kept {
    /// Names its content: the beginning of its SHA-256, in hexadecimal digits.
    pub(crate) fn digest(&self) -> String {
        digest(&self.text)
    }
}

/// The beginning of a text's SHA-256, in hexadecimal digits.
pub(crate) fn digest(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    let bytes = digest.as_ref().iter().take(6);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// How far a candidate has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// It is asked about every request, and nobody is judged by it.
    Shadow,
    /// It judges this share of the tenants, in hundredths of a percent.
    Percent(u32),
}

impl Stage {
    /// Whom it judges.
    pub(crate) const fn share(self) -> Share {
        match self {
            Self::Shadow => Share::NOBODY,
            Self::Percent(points) => Share::from_basis_points(points),
        }
    }

    /// Reads `shadow`, `5%`, `5`.
    ///
    /// # Errors
    /// What it may be.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "shadow" {
            return Ok(Self::Shadow);
        }
        let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>();
        match number {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "in range"
            )]
            Ok(percent) if (0.01..=100.0).contains(&percent) => {
                Ok(Self::Percent((percent * 100.0).round() as u32))
            }
            _ => Err(format!(
                "`{text}` is no stage; write shadow, or a percentage from 0.01% to 100%"
            )),
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shadow => f.write_str("shadow"),
            Self::Percent(points) => write!(f, "{}%", f64::from(*points) / 100.0),
        }
    }
}

/// Why a policy was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Returned {
    pub(crate) at: u64,
    pub(crate) why: String,
    /// Whether an operator undid it.
    pub(crate) undone: bool,
}

/// A candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Staged {
    pub(crate) policy: Kept,
    pub(crate) stage: Stage,
    /// Since when in this stage.
    pub(crate) since: u64,
    /// It was given up, and goes no further until somebody says so.
    pub(crate) returned: Option<Returned>,
}

/// The policy before the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Previous {
    /// `None`: the configuration alone.
    pub(crate) policy: Option<Kept>,
    /// Until when the current one is watched, and this one returns by itself if it must.
    pub(crate) watched_until: Option<u64>,
}

/// What was last taken from the cluster, by digest, whether or not it still holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) policy: String,
    /// With its stage.
    pub(crate) candidate: Option<(String, Stage)>,
}

/// Why something cannot be done, and what can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) error: String,
    pub(crate) next: String,
}

fn refusal<T>(error: impl Into<String>, next: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal {
        error: error.into(),
        next: next.into(),
    })
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Book {
    /// `None`: the configuration alone.
    pub(crate) current: Option<Kept>,
    pub(crate) previous: Option<Previous>,
    pub(crate) candidate: Option<Staged>,
    pub(crate) taken: Option<Taken>,
}

impl Book {
    /// A new candidate, in place of any other. A current policy that was still watched has made it.
    ///
    /// # Errors
    /// It is in force already.
    pub(crate) fn stage(&mut self, policy: Kept, stage: Stage) -> Result<(), Refusal> {
        if self
            .current
            .as_ref()
            .is_some_and(|current| current.text == policy.text)
        {
            return refusal(
                format!("policy {} is in force already", policy.digest()),
                "see what is: spillway policy status",
            );
        }
        self.settle();
        let since = policy.since;
        self.candidate = Some(Staged {
            policy,
            stage,
            since,
            returned: None,
        });
        Ok(())
    }

    fn candidate(&mut self) -> Result<&mut Staged, Refusal> {
        match &mut self.candidate {
            Some(candidate) => Ok(candidate),
            None => refusal(
                "no policy is staged",
                "stage one: spillway policy stage FILE",
            ),
        }
    }

    /// A candidate that may go on.
    fn willing(&mut self) -> Result<&mut Staged, Refusal> {
        let candidate = self.candidate()?;
        match &candidate.returned {
            Some(returned) => {
                let error = format!(
                    "policy {} was given up and goes no further: {}",
                    candidate.policy.digest(),
                    returned.why
                );
                refusal(
                    error,
                    "look at it: spillway policy diff; take it away: spillway policy abort; or let it go on: spillway policy resume",
                )
            }
            None => Ok(candidate),
        }
    }

    /// The candidate's next stage, or an earlier one.
    ///
    /// # Errors
    /// There is none, or it was given up.
    pub(crate) fn to(&mut self, stage: Stage, now: u64) -> Result<(), Refusal> {
        let candidate = match stage {
            Stage::Shadow => self.candidate()?,
            Stage::Percent(_) => self.willing()?,
        };
        if candidate.stage != stage {
            candidate.stage = stage;
            candidate.since = now;
        }
        Ok(())
    }

    /// The candidate becomes the policy, and is watched until `watched_until`.
    ///
    /// # Errors
    /// There is none, or it was given up.
    pub(crate) fn promote(&mut self, watched_until: u64) -> Result<(), Refusal> {
        let policy = self.willing()?.policy.clone();
        self.candidate = None;
        self.replace(Some(policy), watched_until);
        Ok(())
    }

    /// Another policy takes the place of the current one, and is watched until `watched_until`.
    pub(crate) fn replace(&mut self, policy: Option<Kept>, watched_until: u64) {
        self.previous = Some(Previous {
            policy: std::mem::replace(&mut self.current, policy),
            watched_until: Some(watched_until),
        });
    }

    /// Takes the candidate away.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn abort(&mut self) -> Result<(), Refusal> {
        self.candidate().map(|_| ())?;
        self.candidate = None;
        Ok(())
    }

    /// The policy before the current one is in force again; the current one becomes a candidate that was given up.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn undo(&mut self, why: &str, now: u64) -> Result<(), Refusal> {
        self.back(why, true, now)
    }

    fn back(&mut self, why: &str, undone: bool, now: u64) -> Result<(), Refusal> {
        let Some(previous) = self.previous.take() else {
            return refusal(
                "there is no policy before this one",
                "see what there is: spillway policy status; a candidate is taken away with: spillway policy abort",
            );
        };
        let before = std::mem::replace(&mut self.current, previous.policy);
        if let Some(policy) = before {
            self.candidate = Some(Staged {
                policy,
                stage: Stage::Shadow,
                since: now,
                returned: Some(Returned {
                    at: now,
                    why: why.to_owned(),
                    undone,
                }),
            });
        }
        Ok(())
    }

    /// What the guard found: whoever is judged by the new policy is judged by the old one again. `false` if there is no
    /// new policy by which anybody is judged.
    pub(crate) fn give_up(&mut self, why: &str, now: u64) -> bool {
        if let Some(candidate) = &mut self.candidate {
            let judged = candidate.stage != Stage::Shadow;
            if judged {
                candidate.stage = Stage::Shadow;
                candidate.since = now;
                candidate.returned = Some(Returned {
                    at: now,
                    why: why.to_owned(),
                    undone: false,
                });
            }
            return judged;
        }
        self.is_watched() && self.back(why, false, now).is_ok()
    }

    /// Lets a candidate go on that was given up; it begins in shadow.
    ///
    /// # Errors
    /// There is none, or it was not.
    pub(crate) fn resume(&mut self) -> Result<(), Refusal> {
        let candidate = self.candidate()?;
        match candidate.returned.take() {
            Some(_) => Ok(()),
            None => refusal(
                "the candidate was not given up",
                "take it further: spillway policy percent N, or spillway policy promote",
            ),
        }
    }

    /// Whether the current policy may still be given up by itself.
    pub(crate) fn is_watched(&self) -> bool {
        self.previous
            .as_ref()
            .is_some_and(|previous| previous.watched_until.is_some())
    }

    /// The current policy is watched no more. `false` if it was not.
    pub(crate) fn settle(&mut self) -> bool {
        self.previous
            .as_mut()
            .is_some_and(|previous| previous.watched_until.take().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> Kept {
        Kept {
            text: text.to_owned(),
            origin: "a test".to_owned(),
            since: 100,
        }
    }

    fn current(book: &Book) -> Option<&str> {
        book.current.as_ref().map(|kept| kept.text.as_str())
    }

    #[test]
    fn a_candidate_goes_from_stage_to_stage_and_becomes_the_policy() {
        let mut book = Book::default();
        assert!(
            book.to(Stage::Percent(500), 1).is_err(),
            "nothing is staged"
        );
        book.stage(kept("one"), Stage::Shadow).expect("staged");
        book.to(Stage::Percent(500), 110).expect("a percentage");
        assert_eq!(current(&book), None, "nobody else is judged by it yet");
        book.promote(900).expect("promoted");
        assert_eq!(current(&book), Some("one"));
        assert!(book.is_watched() && book.candidate.is_none());
        assert!(
            book.stage(kept("one"), Stage::Shadow).is_err(),
            "in force already"
        );
        assert!(book.settle() && !book.settle());
        book.undo("jane", 2_000).expect("back");
        assert_eq!(current(&book), None);
        assert!(book.undo("jane", 2_000).is_err(), "nothing before it");
    }

    #[test]
    fn what_was_given_up_goes_no_further_until_told() {
        let mut book = Book::default();
        book.stage(kept("one"), Stage::Percent(1_000))
            .expect("staged");
        assert!(book.give_up("refusals", 120));
        assert!(
            !book.give_up("refusals", 121),
            "nobody is judged by it any more"
        );
        let candidate = book.candidate.as_ref().expect("kept to be looked at");
        assert_eq!(candidate.stage, Stage::Shadow);
        for refused in [
            book.clone().to(Stage::Percent(100), 130),
            book.clone().promote(900),
        ] {
            let refusal = refused.expect_err("refused");
            assert!(
                refusal.error.contains("refusals") && refusal.next.contains("resume"),
                "{refusal:?}"
            );
        }
        book.resume().expect("told");
        assert!(book.resume().is_err());
        book.promote(900).expect("now it may");
    }

    #[test]
    fn a_promoted_policy_returns_while_it_is_watched_and_not_after() {
        let mut book = Book::default();
        book.replace(Some(kept("old")), 10);
        book.settle();
        book.stage(kept("new"), Stage::Shadow).expect("staged");
        book.promote(900).expect("promoted");
        let mut settled = book.clone();
        settled.settle();
        assert!(!settled.give_up("errors", 200));
        assert_eq!(current(&settled), Some("new"));
        assert!(book.give_up("errors", 200));
        assert_eq!(current(&book), Some("old"));
        let candidate = book.candidate.as_ref().expect("the new one");
        assert!(candidate.policy.text == "new" && candidate.returned.is_some());
    }

    #[test]
    fn stages_are_read_as_people_write_them() {
        for (text, stage) in [
            ("shadow", Stage::Shadow),
            (" 5% ", Stage::Percent(500)),
            ("0.5", Stage::Percent(50)),
            ("100%", Stage::Percent(10_000)),
        ] {
            assert_eq!(Stage::parse(text), Ok(stage), "{text}");
        }
        for text in ["", "0", "101%", "all", "-1", "NaN", "inf"] {
            assert!(Stage::parse(text).is_err(), "{text}");
        }
        assert_eq!(Stage::Percent(50).to_string(), "0.5%");
    }
}
