//! The reading of request lines, held against the server's.

use std::borrow::Cow;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn read(method: &str, uri: &'static str) -> Attributes<'static> {
    let (path, query) = split(uri);
    parse(method, path, query, None).unwrap()
}

fn get(uri: &'static str) -> Attributes<'static> {
    read("GET", uri)
}

fn split(uri: &str) -> (&str, Option<&str>) {
    match uri.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (uri, None),
    }
}

/// The fields of a line of `request_info.tsv` as this crate sees them.
fn describe(method: &str, uri: &str) -> Vec<String> {
    let (path, query) = split(uri);
    let described: Vec<Cow<'_, str>> = match parse(method, path, query, None) {
        Err(malformed) => vec![malformed.status().to_string().into()],
        Ok(of) => vec![
            if of.is_resource { "resource" } else { "path" }.into(),
            of.verb.as_str().into(),
            of.api_group,
            of.api_version,
            of.namespace,
            of.resource,
            of.subresource,
            of.name,
            of.parts,
            of.field_selector.unwrap_or_default(),
            of.label_selector.unwrap_or_default(),
            if of.long_running { "long" } else { "short" }.into(),
        ],
    };
    described.into_iter().map(Cow::into_owned).collect()
}

#[test]
fn every_request_line_is_read_as_the_server_reads_it() {
    let mut differences = Vec::new();
    let mut cases = 0;
    for line in include_str!("request_info.tsv").lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut fields = line.split('\t');
        let (Some(method), Some(uri)) = (fields.next(), fields.next()) else {
            panic!("no request in {line:?}");
        };
        let expected: Vec<&str> = fields.collect();
        let ours = describe(method, uri);
        cases += 1;
        if ours != expected {
            differences.push(format!(
                "{method} {uri}\n  server {expected:?}\n  ours   {ours:?}"
            ));
        }
    }
    assert!(cases > 150, "only {cases} cases");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_control_character_is_refused_wherever_it_stands() {
    for (path, query) in [("/a\n", None), ("/a", Some("b\u{7f}")), ("/a\t", Some("b"))] {
        assert_eq!(
            parse("GET", path, query, None),
            Err(Malformed::ControlCharacter)
        );
    }
}

#[test]
fn more_parameters_than_the_server_reads_are_refused() {
    let most = "a&".repeat(9_999) + "watch";
    let attributes = parse("GET", "/api/v1/pods", Some(&most), None).unwrap();
    assert_eq!(attributes.verb, Verb::Watch);
    let more = most + "&limit=1";
    let refused = parse("GET", "/api/v1/pods", Some(&more), None);
    assert_eq!(refused, Err(Malformed::TooManyParameters));
}

#[test]
fn the_usual_request_borrows_everything() {
    let attributes = get("/apis/apps/v1/namespaces/ns/deployments/d/scale?timeout=5s");
    for field in [
        &attributes.path,
        &attributes.api_group,
        &attributes.namespace,
        &attributes.resource,
        &attributes.subresource,
        &attributes.name,
        &attributes.parts,
    ] {
        assert!(matches!(field, Cow::Borrowed(_)), "{field}");
    }
    let list = get("/api/v1/pods?fieldSelector=spec.nodeName=n&limit=500");
    assert!(matches!(list.field_selector, Some(Cow::Borrowed(_))));
}

#[test]
fn a_name_pinned_across_namespaces_spares_the_server_nothing() {
    // No key can be built without a namespace, so everything is scanned.
    let pods = get("/api/v1/pods?fieldSelector=metadata.name=p");
    assert_eq!((&*pods.name, pods.scope()), ("p", Scope::Cluster));
    assert!(pods.is_collection_read());
    let namespaced = get("/api/v1/namespaces/ns/pods?fieldSelector=metadata.name=p");
    assert_eq!(namespaced.scope(), Scope::Named);
    assert!(!namespaced.is_collection_read());
    let node = get("/api/v1/nodes?fieldSelector=metadata.name=n");
    assert_eq!(node.scope(), Scope::Named);
}

#[test]
fn the_scope_says_how_much_is_addressed() {
    for (uri, scope) in [
        ("/healthz", Scope::NonResource),
        ("/api/v1/pods", Scope::Cluster),
        ("/api/v1/nodes", Scope::Cluster),
        ("/api/v1/nodes/n", Scope::Named),
        ("/api/v1/namespaces/ns", Scope::Named),
        ("/api/v1/namespaces", Scope::Cluster),
        ("/api/v1/namespaces/ns/pods", Scope::Namespaced),
        ("/api/v1/namespaces/ns/pods/p/log", Scope::Named),
        ("/api/v1/namespaces//pods", Scope::Cluster),
        ("/api/v1/watch/pods", Scope::Cluster),
        ("/api/v1/watch/namespaces/ns/pods/p", Scope::Named),
    ] {
        assert_eq!(get(uri).scope(), scope, "{uri}");
    }
}

#[test]
fn a_watch_that_replays_the_state_is_told_from_one_that_does_not() {
    for (query, initial) in [
        ("watch", true),
        ("watch&resourceVersion=", true),
        ("watch&resourceVersion=0", true),
        // Not the "0" of the server's shortcut, but it parses to zero.
        ("watch&resourceVersion=00", true),
        ("watch&resourceVersion=5", false),
        ("watch&resourceVersion=5&sendInitialEvents=false", false),
        ("watch&resourceVersion=5&sendInitialEvents=true", true),
        ("watch&resourceVersion=5&sendInitialEvents", true),
        (
            "watch&sendInitialEvents=false&resourceVersionMatch=NotOlderThan",
            true,
        ),
        ("watch&resourceVersion=5&limit=x", true),
        ("resourceVersion=0", false),
    ] {
        let attributes = parse("GET", "/api/v1/pods", Some(query), None).unwrap();
        assert_eq!(attributes.is_initial_state_watch(), initial, "{query}");
    }
}

#[test]
fn the_delegator_decides_between_cache_and_etcd() {
    let list = |query| parse("GET", "/api/v1/pods", Some(query), None).unwrap();
    for (query, source) in [
        ("", Source::Cache),
        ("limit=500", Source::Cache),
        ("resourceVersion=0", Source::Cache),
        ("resourceVersion=0&limit=500", Source::Cache),
        ("resourceVersion=7", Source::Cache),
        ("resourceVersion=7&limit=500", Source::Etcd),
        ("resourceVersion=7&limit=0", Source::Cache),
        (
            "resourceVersion=7&resourceVersionMatch=NotOlderThan&limit=500",
            Source::Cache,
        ),
        ("resourceVersion=7&resourceVersionMatch=Exact", Source::Etcd),
        ("resourceVersion=7&resourceVersionMatch=exact", Source::Etcd),
        ("continue=abc&limit=500", Source::Etcd),
        ("limit=x", Source::Etcd),
        ("watch=1&resourceVersion=7", Source::Cache),
    ] {
        assert_eq!(list(query).served_from(), source, "{query}");
    }
    let pod = "/api/v1/namespaces/ns/pods/p";
    let single = |query| parse("GET", pod, Some(query), None).unwrap().served_from();
    assert_eq!(single(""), Source::Etcd);
    assert_eq!(single("resourceVersion=0"), Source::Cache);
    assert_eq!(single("resourceVersion=0&limit=x"), Source::Cache);
    assert_eq!(read("DELETE", pod).served_from(), Source::Etcd);
}

#[test]
fn a_page_size_counts_only_where_the_server_honours_it() {
    for (query, limit) in [
        ("limit=500", Some(500)),
        ("limit=500&resourceVersion=0", None),
        ("limit=500&resourceVersion=0&continue=abc", Some(500)),
        ("limit=0", None),
        ("limit=-5", None),
        ("limit=500&watch=1", None),
        ("limit=500&timeoutSeconds=x", None),
        ("Limit=500", None),
    ] {
        let attributes = parse("GET", "/api/v1/pods", Some(query), None).unwrap();
        assert_eq!(attributes.effective_limit(), limit, "{query}");
    }
}

#[test]
fn deadlines_and_dry_runs_are_read() {
    let create = read("POST", "/api/v1/namespaces/ns/pods?dryRun=All&timeout=10s");
    assert!(create.dry_run && create.mutating());
    assert_eq!(create.timeout, Some(Duration::from_secs(10)));
    let watch = get("/api/v1/pods?watch=1&timeoutSeconds=480&allowWatchBookmarks=true");
    assert_eq!(watch.read.timeout_seconds, Some(480));
    assert!(watch.read.allow_watch_bookmarks && !watch.mutating());
    assert!(!read("POST", "/api/v1/namespaces/ns/pods?dryRun=none").dry_run);
}

/// How dear a read is, worst last, so that readings can be compared.
fn dearness(of: &Attributes<'_>) -> (bool, bool, Reach, u64, bool) {
    (
        of.is_collection_read(),
        of.is_initial_state_watch() || of.verb == Verb::List,
        match of.scope() {
            Scope::NonResource | Scope::Named => Reach::One,
            Scope::Namespaced => Reach::Some,
            Scope::Cluster => Reach::All,
        },
        of.effective_limit().unwrap_or(u64::MAX),
        of.served_from() == Source::Etcd,
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    One,
    Some,
    All,
}

/// Parameters that mean something, and values that mean or void it.
fn parameter() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec![
        "limit",
        "continue",
        "watch",
        "resourceVersion",
        "resourceVersionMatch",
        "sendInitialEvents",
        "fieldSelector",
        "labelSelector",
        "timeoutSeconds",
        "%77atch",
    ]);
    let values = prop::sample::select(vec![
        "",
        "=",
        "=0",
        "=5",
        "=x",
        "=true",
        "=false",
        "=Exact",
        "=NotOlderThan",
        "=metadata.name%3Dp",
        "=app",
        "=%zz",
        "=a;b",
    ]);
    (names, values).prop_map(|(name, value)| format!("{name}{value}"))
}

/// Parameters the server has no meaning for.
fn junk() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "pretty=true",
        "Limit=1",
        "limit;=1",
        "LIMIT=1",
        "limit=1;",
        "%zz=1",
        "limit%zz=1",
        "=limit",
        "",
        "limits=1",
        "+limit=1",
        "limit%00=1",
        "Watch=false",
        "a=b=c",
        "limit=%",
        "fieldselector=metadata.name=a",
        "metadata.name=a",
        "resourceVersion;=5",
    ])
    .prop_map(str::to_owned)
}

const PATHS: [&str; 4] = [
    "/api/v1/pods",
    "/api/v1/namespaces/ns/pods",
    "/apis/apps/v1/deployments/",
    "/api/v1/nodes",
];

proptest! {
    #[test]
    fn nothing_a_client_sends_makes_it_panic(
        method in ".{0,8}",
        path in "/?(.|/|%|api|apis|v1|watch|proxy|namespaces){0,24}",
        query in proptest::option::of("(.|&|=|;|%|\\+|,|\\\\|limit|watch|fieldSelector){0,40}"),
        accept in proptest::option::of("(.|;|,|=|q|as){0,40}"),
    ) {
        if let Ok(of) = parse(&method, &path, query.as_deref(), accept.as_deref()) {
            let _ = (of.scope(), of.served_from(), of.effective_limit(), of.mutating());
            prop_assert!(of.is_resource || of.scope() == Scope::NonResource);
            prop_assert!(!of.is_collection_read() || !of.mutating());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let text = String::from_utf8_lossy(&bytes);
        let (path, query) = split(&text);
        let _ = parse("GET", path, query, Some(&text));
        let _ = parse("GET", "/api/v1/pods", Some(&text), None);
    }

    #[test]
    fn junk_parameters_change_nothing(
        path in prop::sample::select(PATHS.to_vec()),
        given in proptest::collection::vec(parameter(), 0..5),
        junk in proptest::collection::vec(junk(), 1..5),
        at in any::<prop::sample::Index>(),
    ) {
        let plain = given.join("&");
        let mut mixed = given;
        let at = at.index(mixed.len() + 1);
        mixed.splice(at..at, junk);
        let mixed = mixed.join("&");
        let before = parse("GET", path, Some(&plain), None).unwrap();
        let after = parse("GET", path, Some(&mixed), None).unwrap();
        prop_assert_eq!(before, after);
    }

    #[test]
    fn an_appended_repetition_or_a_broken_option_never_makes_a_list_cheaper(
        path in prop::sample::select(PATHS.to_vec()),
        given in proptest::collection::vec(parameter(), 1..5),
        void in prop::sample::select(vec!["timeoutSeconds=x", "fieldSelector=nonsense", "limit="]),
    ) {
        let plain = given.join("&");
        let before = parse("GET", path, Some(&plain), None).unwrap();
        // The first value counts, so repeating all of it with others is junk.
        let repeated = format!(
            "{plain}&{}",
            given.iter().map(|pair| pair.split(['=', ';']).next().unwrap_or(pair).to_owned() + "=1")
                .filter(|pair| {
                    // Unless the first was dropped as broken.
                    let name = pair.trim_end_matches("=1");
                    given.iter().any(|other| {
                        other.split('=').next() == Some(name)
                            && !other.contains(['%', ';'])
                    })
                })
                .collect::<Vec<_>>()
                .join("&"),
        );
        let after = parse("GET", path, Some(&repeated), None).unwrap();
        prop_assert_eq!(&before, &after, "{}", repeated);
        // An option that does not decode may only make the LIST dearer.
        let voided = format!("{void}&{plain}");
        let after = parse("GET", path, Some(&voided), None).unwrap();
        if before.verb == Verb::List && after.verb == Verb::List {
            prop_assert!(dearness(&after) >= dearness(&before), "{} {}", plain, voided);
        }
    }
}
