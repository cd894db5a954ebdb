use super::*;

fn key(text: &str) -> Key {
    Key::made_up(text, false)
}

fn leads(calls: &Rc<Calls>, key: Key) -> Leader {
    match calls.join(key) {
        Joining::Leads(leader) => leader,
        _ => panic!("does not lead"),
    }
}

fn joins(calls: &Rc<Calls>, key: Key) -> Follower {
    match calls.join(key) {
        Joining::Joins(follower) => follower,
        _ => panic!("does not join"),
    }
}

#[test]
fn who_wants_the_most_recent_state_joins_only_what_has_not_been_sent() {
    let calls = Rc::new(Calls::default());
    let leader = leads(&calls, key("a"));
    let _early = joins(&calls, key("a"));
    leader.sent();
    let late = leads(&calls, key("a"));
    // Their calls are not mixed up.
    drop(leader);
    let _later = joins(&calls, key("a"));
    drop(late);
    assert_eq!(calls.open(), 0);
}

#[test]
fn who_is_content_with_any_state_joins_what_is_on_its_way() {
    let calls = Rc::new(Calls::default());
    let leader = leads(&calls, Key::made_up("a", true));
    leader.sent();
    joins(&calls, Key::made_up("a", true));
    assert!(matches!(calls.join(key("a")), Joining::Leads(_)));
}

#[tokio::test]
async fn those_whose_leader_leaves_ask_for_themselves() {
    let calls = Rc::new(Calls::default());
    let leader = leads(&calls, key("a"));
    let followers = [joins(&calls, key("a")), joins(&calls, key("a"))];
    drop(leader);
    for follower in followers {
        assert!(follower.answer().await.is_none());
    }
    assert_eq!(calls.open(), 0);
}

#[test]
fn calls_and_those_who_join_them_are_bounded() {
    let calls = Rc::new(Calls::default());
    let leader = leads(&calls, key("a"));
    let followers: Vec<_> = (0..MOST_JOINED).map(|_| joins(&calls, key("a"))).collect();
    assert!(matches!(calls.join(key("a")), Joining::Alone));
    let others: Vec<_> = (1..MOST_CALLS)
        .map(|number| leads(&calls, key(&number.to_string())))
        .collect();
    assert!(matches!(calls.join(key("z")), Joining::Alone));
    assert_eq!(leader.call.joined.get(), MOST_JOINED);
    drop(followers);
    assert_eq!(leader.call.joined.get(), 0, "who leaves does not count");
    drop((leader, others));
    assert_eq!(calls.open(), 0);
}
