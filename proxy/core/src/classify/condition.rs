//! A rule's conditions without a class: for limits and measures.

use super::matcher::Matcher;
use super::{Client, Match, PolicyError};
use crate::attributes::{Attributes, Scope};
use crate::identity::Identity;

/// Conditions, compiled. Those of the default hold for every request.
///
/// Unlike in a [`Policy`](super::Policy), an unverified identity meets them like any other:
/// what they are used for only ever holds somebody back.
#[derive(Clone, Debug, Default)]
pub struct Condition(Matcher);

impl Condition {
    /// Compiles the conditions of what is called `name`.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Value`] or [`PolicyError::Impossible`].
    pub fn compile(name: &str, when: &Match) -> Result<Self, PolicyError> {
        Matcher::compile(name, when).map(Self)
    }

    /// Whether all of them hold. `scope` is that of `attributes`.
    #[must_use]
    pub fn holds(
        &self,
        attributes: &Attributes<'_>,
        scope: Scope,
        identity: &Identity,
        client: &Client<'_>,
    ) -> bool {
        self.0.matches(attributes, scope, identity, client)
    }
}
