use super::*;

fn stated_in(names: StatedIn, headers: &[(&str, &[u8])]) -> Stated {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("name");
        let value = http::HeaderValue::from_bytes(value).expect("value");
        map.append(name, value);
    }
    names.read(&map)
}

fn stated(headers: &[(&str, &[u8])]) -> Stated {
    stated_in(StatedIn::new(&RequestHeader::default()), headers)
}

fn somebody(stated: Stated) -> Identity {
    match stated {
        Stated::Somebody(identity) => identity,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_usual_headers_state_user_groups_and_extras() {
    let identity = somebody(stated(&[
        ("X-Remote-User", b"jane"),
        ("X-Remote-Group", b"dev"),
        ("x-remote-group", b"ops"),
        ("X-Remote-Extra-Acme.Com%2FProject", b"a"),
        ("X-Remote-Extra-Acme.Com%2fProject", b"b"),
        ("X-Remote-Uid", b"u-1"),
    ]));
    assert_eq!(identity.user(), "jane");
    assert_eq!(identity.groups(), ["dev".into(), "ops".into()]);
    let project = |value: &str| ("acme.com/project".into(), value.into());
    assert_eq!(identity.extra(), [project("a"), project("b")]);
    assert_eq!(identity.uid(), None, "the server has to be told to read it");
}

#[test]
fn without_a_user_nothing_is_stated() {
    for headers in [
        &[][..],
        &[("x-remote-group", &b"system:masters"[..])],
        &[
            ("x-remote-user", b""),
            ("x-remote-group", b"system:masters"),
        ],
        // As Go's `Header.Get`: the first value counts.
        &[("x-remote-user", b""), ("x-remote-user", b"jane")],
    ] {
        assert!(matches!(stated(headers), Stated::Nothing), "{headers:?}");
    }
}

#[test]
fn the_first_header_with_a_value_is_the_user() {
    let names = StatedIn::new(&RequestHeader {
        user_headers: vec!["X-One".into(), "X-Two".into()],
        uid_headers: vec!["X-Uid".into()],
        group_headers: vec!["X-G".into(), "X-H".into()],
        extra_prefixes: vec!["X-P-".into(), "X-Q-".into()],
        ..RequestHeader::default()
    });
    let identity = somebody(stated_in(
        names,
        &[
            ("x-h", b"second"),
            ("x-two", b"jane"),
            ("x-one", b""),
            ("x-g", b"first"),
            ("x-g", b""),
            ("x-uid", b"u-1"),
            ("x-q-k", b"2"),
            ("x-p-k", b"1"),
        ],
    ));
    assert_eq!(identity.user(), "jane");
    assert_eq!(identity.groups(), ["first".into(), "second".into()]);
    assert_eq!(identity.uid(), Some("u-1"));
    let values: Vec<_> = identity.extra().iter().map(|(_, value)| &**value).collect();
    assert_eq!(values, ["1", "2"]);
}

#[test]
fn what_is_no_text_is_not_taken_for_anything() {
    for headers in [
        &[("x-remote-user", &b"j\xe4ne"[..])][..],
        &[("x-remote-user", b"jane"), ("x-remote-group", b"\xff")],
        &[("x-remote-user", b"jane"), ("x-remote-extra-a", b"\xff")],
        &[("x-remote-user", b"jane"), ("x-remote-extra-%ff", b"a")],
    ] {
        assert!(matches!(stated(headers), Stated::Unreadable), "{headers:?}");
    }
}

#[test]
fn keys_are_decoded_as_go_decodes_them() {
    for (escaped, key) in [
        ("plain", "plain"),
        ("a%2fb", "a/b"),
        ("%41", "A"),
        ("a+b", "a+b"),
        ("%e2%82%ac", "€"),
        ("100%", "100%"),
        ("%zz", "%zz"),
        ("%2", "%2"),
        ("%2f%", "%2f%"),
    ] {
        assert_eq!(unescaped(escaped).as_deref(), Some(key), "{escaped}");
    }
    assert_eq!(unescaped("%ff"), None);
}

#[test]
fn nobody_is_stated_as_nobody() {
    let identity = somebody(stated(&[
        ("x-remote-user", b"system:anonymous"),
        ("x-remote-group", b"system:unauthenticated"),
    ]));
    assert!(!identity.is_verified());
}
