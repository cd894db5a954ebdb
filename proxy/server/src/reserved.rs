//! Who may use the reserved lane: decided offline, from files alone.

use std::collections::HashSet;

use config::Reserved;

use crate::error::Refused;
use crate::identify::Identified;

/// The list of those the reserved lane is kept for.
#[derive(Debug)]
pub(crate) struct ReservedAccess {
    users: HashSet<Box<str>>,
    groups: HashSet<Box<str>>,
    service_accounts: HashSet<Box<str>>,
}

impl ReservedAccess {
    pub(crate) fn new(reserved: &Reserved) -> Self {
        let set = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
        Self {
            users: set(&reserved.users),
            groups: set(&reserved.groups),
            service_accounts: set(&reserved.service_accounts),
        }
    }

    /// A client certificate of the break-glass authority, or a verified identity on the list.
    ///
    /// # Errors
    /// [`Refused::Unauthorized`] for the anonymous, [`Refused::NotForTheReservedLane`] for everybody else.
    pub(crate) fn check(&self, identified: &Identified) -> Result<(), Refused> {
        let identity = &identified.identity;
        if !identity.is_verified() {
            return Err(Refused::Unauthorized);
        }
        let listed = identified.break_glass
            || self.users.contains(identity.user())
            || identity
                .groups()
                .iter()
                .any(|group| self.groups.contains(group))
            || identity
                .as_service_account()
                .is_some_and(|account| self.service_accounts.contains(account.qualified()));
        if listed {
            Ok(())
        } else {
            Err(Refused::NotForTheReservedLane {
                user: identity.user().into(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proxy_core::identity::Identity;

    use super::*;
    use crate::identify::Credential;

    fn access() -> ReservedAccess {
        ReservedAccess::new(&Reserved {
            users: vec!["jane".into()],
            groups: vec!["system:masters".into()],
            service_accounts: vec!["argocd/controller".into()],
            ..Reserved::default()
        })
    }

    fn identified(identity: Identity, break_glass: bool) -> Identified {
        Identified {
            identity: Arc::new(identity),
            credential: Credential::Asserted,
            token: None,
            break_glass,
            stated: false,
        }
    }

    fn user(name: &str, group: &str) -> Identity {
        Identity::certificate(name, vec![group.into()], None, Vec::new())
    }

    #[test]
    fn the_listed_may_and_nobody_else() {
        let access = access();
        let argo = Identity::service_account("argocd", "controller", None, None, None);
        for allowed in [user("jane", "dev"), user("bob", "system:masters"), argo] {
            assert!(access.check(&identified(allowed, false)).is_ok());
        }
        let other = Identity::service_account("default", "controller", None, None, None);
        for denied in [user("bob", "dev"), other] {
            let refused = access.check(&identified(denied, false));
            assert!(matches!(
                refused,
                Err(Refused::NotForTheReservedLane { .. })
            ));
        }
    }

    #[test]
    fn a_break_glass_certificate_opens_it_for_anyone() {
        assert!(
            access()
                .check(&identified(user("on-call", "dev"), true))
                .is_ok()
        );
    }

    #[test]
    fn the_unverified_are_unauthorized() {
        for identity in [Identity::anonymous(), Identity::unattributed()] {
            assert!(matches!(
                access().check(&identified(identity, false)),
                Err(Refused::Unauthorized)
            ));
        }
    }
}
