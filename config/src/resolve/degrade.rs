//! What comes before refusing: shared calls and last good answers.

use super::{Values, seconds};
use crate::model::{Collapse, Stale};
use crate::raw::{self, Scalar};

impl Values<'_, '_> {
    pub(super) fn collapse(&mut self, raw: Option<&Scalar>) -> Collapse {
        let choices = [
            ("off", Collapse::Off),
            ("congested", Collapse::Congested),
            ("always", Collapse::Always),
        ];
        self.choice("admission.collapse", raw, Collapse::default(), &choices)
    }

    pub(super) fn stale(&mut self, raw: &raw::Stale) -> Stale {
        let default = Stale::default();
        Stale {
            users: self.texts("admission.stale.users", raw.users.as_ref()),
            resources: self.texts("admission.stale.resources", raw.resources.as_ref()),
            bytes: self.bytes("admission.stale.bytes", raw.bytes.as_ref(), default.bytes),
            max_age: self.duration(
                "admission.stale.max_age",
                raw.max_age.as_ref(),
                default.max_age,
                seconds(1)..=seconds(24 * 3600),
            ),
        }
    }
}
