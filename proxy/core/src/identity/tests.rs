use super::*;

fn groups(names: &[&str]) -> Vec<Box<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

fn certificate(user: &str, of: &[&str]) -> Identity {
    Identity::certificate(user, groups(of), None, Vec::new())
}

#[test]
fn a_node_needs_both_the_name_and_the_group() {
    let node = certificate("system:node:a", &[NODES]);
    assert!(node.is_node());
    assert_eq!(node.node(), Some("a"));
    for other in [
        certificate("system:node:a", &[]),
        certificate("a", &[NODES]),
        certificate("system:node:", &[NODES]),
    ] {
        assert!(!other.is_node());
        assert_eq!(other.node(), None);
    }
}

#[test]
fn nodes_pay_together_and_are_told_apart() {
    let a = certificate("system:node:a", &[NODES]);
    let b = certificate("system:node:b", &[NODES]);
    assert_eq!(a.tenant(), b.tenant());
    assert_ne!(a.instance(1), b.instance(1));
    assert_eq!(a.instance(1), a.instance(2), "a node is not its address");
}

#[test]
fn pods_of_one_account_pay_together_and_are_told_apart() {
    let pod = |name| Identity::service_account("monitoring", "agent", None, Some(name), None);
    assert_eq!(pod("a").tenant(), pod("b").tenant());
    assert_ne!(pod("a").instance(0), pod("b").instance(0));
    let legacy = Identity::service_account("monitoring", "agent", None, None, None);
    assert_eq!(legacy.tenant(), pod("a").tenant());
    assert_ne!(legacy.instance(1), legacy.instance(2));
}

#[test]
fn an_account_pays_as_itself_whatever_its_credential() {
    let token = Identity::service_account("ns", "name", None, Some("p"), None);
    let extra = vec![(POD_NAME_EXTRA.into(), "p".into())];
    let user = "system:serviceaccount:ns:name";
    let learned = Identity::learned(user, Vec::new(), None, extra);
    let certificate = certificate(user, &[]);
    assert_eq!(token.user(), user);
    assert_eq!(token.tenant(), learned.tenant());
    assert_eq!(token.instance(9), learned.instance(9));
    assert_eq!(token.tenant(), certificate.tenant());
    let account = certificate
        .as_service_account()
        .map(ServiceAccount::qualified);
    assert_eq!(account, Some("ns/name"));
}

#[test]
fn a_user_cannot_pose_as_an_account_by_an_odd_name() {
    for user in [
        "system:serviceaccount:",
        "system:serviceaccount:a",
        "system:serviceaccount:a:",
        "system:serviceaccount::b",
        "system:serviceaccount:a:b:c",
        "system:serviceaccount:a/b:c",
        "serviceaccount:a:b",
    ] {
        assert_eq!(ServiceAccount::of_user(user), None, "{user}");
    }
    // Not the same tenant either: names are delimited.
    let a = Identity::service_account("ab", "c", None, None, None);
    let b = Identity::service_account("a", "bc", None, None, None);
    assert_ne!(a.tenant(), b.tenant());
}

#[test]
fn pod_extras_of_a_person_mean_nothing() {
    let extra = vec![(POD_NAME_EXTRA.into(), "p".into())];
    let person = Identity::learned("jane", Vec::new(), None, extra);
    assert_eq!(person.pod(), None);
}

#[test]
fn the_unverified_are_in_no_group_of_the_verified() {
    let learned_nobody = Identity::learned("system:anonymous", groups(&[NODES]), None, vec![]);
    for nobody in [
        Identity::anonymous(),
        Identity::unattributed(),
        learned_nobody,
    ] {
        assert!(!nobody.is_verified());
        assert!(!nobody.in_group("system:authenticated"));
        assert!(!nobody.in_group(NODES));
        assert!(nobody.in_group("system:unauthenticated"));
    }
    assert!(certificate("jane", &[]).in_group("system:authenticated"));
    assert_ne!(
        Identity::anonymous().tenant(),
        Identity::unattributed().tenant()
    );
}

#[test]
fn who_is_stated_in_headers_is_as_one_with_a_certificate() {
    let extra = vec![(POD_NAME_EXTRA.into(), "p".into())];
    let user = "system:serviceaccount:ns:name";
    let stated = Identity::request_header(user, Vec::new(), None, extra);
    assert_eq!(stated.source(), Source::RequestHeader);
    assert!(stated.is_verified());
    assert_eq!(stated.pod(), Some("p"));
    let token = Identity::service_account("ns", "name", None, Some("p"), None);
    assert_eq!(stated.tenant(), token.tenant());
    let node = Identity::request_header("system:node:a", groups(&[NODES]), None, Vec::new());
    assert!(node.is_node());
}

#[test]
fn nobody_stays_nobody_whoever_vouches() {
    for (user, group) in [(ANONYMOUS, "dev"), ("jane", UNAUTHENTICATED)] {
        for nobody in [
            certificate(user, &[group, "system:masters"]),
            Identity::request_header(user, groups(&[group]), None, Vec::new()),
        ] {
            assert!(!nobody.is_verified());
            assert!(!nobody.in_group(AUTHENTICATED));
            assert_eq!(
                nobody.user(),
                user,
                "what is asserted stays as it was stated"
            );
            assert!(nobody.in_group(group));
        }
    }
}
