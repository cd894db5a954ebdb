//! What `spillway policy` asks and changes.

use serde::Deserialize;
use serde_json::{Value, json};

use super::commands::{Caller, Problem};
use crate::policy::book::{Kept, Refusal, Stage};
use crate::policy::{self, page};
use crate::shared::Shared;

/// A change.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, tag = "do", rename_all = "lowercase")]
enum Wish {
    /// A new candidate.
    Stage {
        text: String,
        stage: String,
    },
    /// The candidate's stage.
    To {
        stage: String,
    },
    Promote,
    Abort,
    Undo,
    Resume,
}

/// A page.
pub(super) fn get(shared: &Shared, path: &str) -> Result<Value, Problem> {
    match path {
        "/policy" => Ok(page::status(shared)),
        "/policy/diff" => page::diff(shared).ok_or_else(|| {
            Problem::not_found(
                "no policy is staged, and none was promoted lately: nothing is compared",
            )
            .or_try("stage one: spillway policy stage FILE")
        }),
        _ => {
            let book = shared.policies.book();
            let kept = match path.rsplit('/').next() {
                Some("current") => book.current,
                Some("candidate") => book.candidate.map(|staged| staged.policy),
                Some("previous") => book.previous.and_then(|previous| previous.policy),
                _ => None,
            };
            let kept = kept.ok_or_else(|| {
                Problem::not_found("there is no such policy: the configuration stands alone there")
                    .or_try("see what there is: spillway policy status")
            })?;
            Ok(
                json!({ "digest": kept.digest(), "origin": kept.origin, "since": kept.since, "text": kept.text }),
            )
        }
    }
}

/// Does what is asked, and tells how things stand then.
pub(super) fn post(shared: &Shared, caller: &Caller, body: &[u8]) -> Result<Value, Problem> {
    let wish: Wish = super::commands::parse(body)?;
    let by = caller.name();
    let watched = policy::watched_for(shared);
    let stage = |text: &str| Stage::parse(text).map_err(Problem::request);
    let done = match wish {
        Wish::Stage { text, stage: to } => {
            let to = stage(&to)?;
            policy::change(shared, &by, "staged", |book, now| {
                let policy = Kept {
                    text,
                    origin: by.clone(),
                    since: now,
                };
                book.stage(policy, to)
            })
        }
        Wish::To { stage: to } => {
            let to = stage(&to)?;
            policy::change(shared, &by, "stage changed", |book, now| book.to(to, now))
        }
        Wish::Promote => policy::change(shared, &by, "promoted", |book, now| {
            book.promote(now + watched)
        }),
        Wish::Abort => policy::change(shared, &by, "candidate taken away", |book, _| book.abort()),
        Wish::Undo => policy::change(shared, &by, "undone", |book, now| {
            book.undo(&format!("undone by {by}"), now)
        }),
        Wish::Resume => policy::change(shared, &by, "may go on", |book, _| book.resume()),
    };
    done.map(|()| page::status(shared)).map_err(refused)
}

fn refused(refusal: Refusal) -> Problem {
    Problem::request(refusal.error).or_try(refusal.next)
}
