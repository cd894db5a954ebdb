use http::Request;
use proptest::prelude::*;

use super::*;

fn head(headers: &[(&str, &str)]) -> request::Parts {
    let mut request = Request::get("/api/v1/pods");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).expect("a request").into_parts().0
}

fn config(sample: u16, asked: u32, most: u32) -> config::Traces {
    config::Traces {
        sample: config::Percent::from_basis_points(sample),
        asked,
        most,
        ..config::Traces::default()
    }
}

const WISHED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNWISHED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[test]
fn what_clients_wish_is_bounded_whatever_they_send() {
    let traces = Traces::default();
    let config = config(0, 3, 100);
    let wished = head(&[("traceparent", WISHED)]);
    let traced = |at: u64| {
        let begun = (0..50).filter(|_| traces.begin(&config, &wished, Time(at)).is_some());
        begun.count()
    };
    assert_eq!(traced(5_000_000), 3);
    assert_eq!(traced(5_999_999), 0);
    assert_eq!(traced(6_000_000), 3);
    assert_eq!(traces.beyond_asked.load(Ordering::Relaxed), 144);
    for unwished in [head(&[]), head(&[("traceparent", UNWISHED)])] {
        assert!(traces.begin(&config, &unwished, Time(9_000_000)).is_none());
    }
}

#[test]
fn together_no_more_are_traced_than_the_configuration_says() {
    let traces = Traces::default();
    let config = config(10_000, 10, 5);
    let wished = head(&[("traceparent", WISHED)]);
    let begun = (0..50).filter(|_| traces.begin(&config, &wished, Time(1)).is_some());
    assert_eq!(begun.count(), 5);
    assert_eq!(traces.beyond_most.load(Ordering::Relaxed), 45);
}

#[test]
fn a_sound_parent_gives_its_trace_and_any_other_none() {
    let traces = Traces::default();
    let config = config(10_000, 0, 1000);
    let begin = |headers: &[(&str, &str)]| {
        let trace = traces.begin(&config, &head(headers), Time(1));
        trace.expect("traced")
    };
    for parent in [WISHED, UNWISHED] {
        let mut trace = begin(&[("traceparent", parent), ("tracestate", "a=b")]);
        let mut headers = head(&[("traceparent", parent), ("tracestate", "a=b")]).headers;
        trace.put_on(&mut headers);
        let sent = Parent::of(&headers).expect("sound");
        let theirs = Parent::read(parent.as_bytes()).expect("sound");
        assert_eq!((sent.trace, sent.sampled), (theirs.trace, true));
        assert_eq!(Hex(sent.span), trace.client);
        assert_eq!(trace.parent, Some(Hex(theirs.span)));
        assert_eq!(headers["tracestate"], "a=b");
    }
    let twice = [("traceparent", WISHED), ("traceparent", WISHED)];
    for unsound in [&[][..], &[("traceparent", "00-1-2-3")], &twice] {
        let mut trace = begin(unsound);
        let mut headers = head(unsound).headers;
        headers.append("tracestate", HeaderValue::from_static("a=b"));
        trace.put_on(&mut headers);
        assert!(trace.parent.is_none());
        assert_eq!(headers.get_all("traceparent").iter().count(), 1);
        assert_eq!(
            Parent::of(&headers).map(|sent| Hex(sent.trace)),
            Some(trace.id)
        );
        assert!(!headers.contains_key("tracestate"));
    }
}

#[test]
fn spans_are_named_as_those_of_kube_apiserver() {
    let traces = Traces::default();
    let name = |method: &str, path: &str| {
        let head = Request::builder().method(method).uri(path).body(());
        let head = head.expect("a request").into_parts().0;
        let mut trace = traces
            .begin(&config(10_000, 0, 100_000), &head, Time(1))
            .expect("traced");
        trace.reads(&crate::attribute::read(&head).expect("sound"));
        trace.name
    };
    let long = format!("/apis/g/v1/{}", "r".repeat(500));
    assert_eq!(name("GET", "/healthz"), "GET");
    assert_eq!(name("BREW", "/healthz"), "HTTP");
    assert_eq!(name("GET", "/api/v1/pods?watch=1"), "GET /api/v1/pods");
    assert_eq!(
        name("PUT", "/apis/apps/v1/namespaces/a/deployments/b/scale"),
        "PUT /apis/apps/v1/namespaces/{:namespace}/deployments/{:name}/scale"
    );
    assert_eq!(name("GET", &long).len(), LONGEST_NAME);
}

proptest! {
    /// What is written is read again; what is read was written so.
    #[test]
    fn a_parent_is_read_as_it_was_written(
        trace in prop_oneof![4 => any::<[u8; 16]>(), 1 => Just([0; 16])],
        span in prop_oneof![4 => any::<[u8; 8]>(), 1 => Just([0; 8])],
        flags in any::<u8>(), version in 0_u8..255, cut in 0_usize..60, more in "[-0-9a-z]{0,8}",
    ) {
        let text = format!("{version:02x}-{}-{}-{flags:02x}", Hex(trace), Hex(span));
        let parent = Parent { trace, span, sampled: flags & 1 == 1 };
        let sound = trace != [0; 16] && span != [0; 8];
        prop_assert_eq!(Parent::read(text.as_bytes()), sound.then_some(parent));
        let longer = format!("{text}{more}");
        let goes_on = more.is_empty() || (version > 0 && more.starts_with('-'));
        prop_assert_eq!(Parent::read(longer.as_bytes()).is_some(), sound && goes_on);
        if cut < text.len() {
            prop_assert_eq!(Parent::read(&text.as_bytes()[..cut]), None);
        }
        let upper = text.to_uppercase();
        prop_assert!(upper == text || Parent::read(upper.as_bytes()).is_none());
    }
}
