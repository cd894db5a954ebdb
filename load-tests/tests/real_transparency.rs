//! With no overload a cluster cannot tell that Spillway is there.

use load_tests::control_plane::{self, REQUIRE_VARIABLE};
use load_tests::transparency::{Effort, StageError, compare_all};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_different_through_the_proxy_but_what_has_a_reason() {
    let report = match compare_all("", Effort::Half).await {
        Ok(report) => report,
        Err(StageError::Plane(control_plane::Error::Absent { reason }))
            if std::env::var(REQUIRE_VARIABLE).is_err() =>
        {
            eprintln!("skipped: no real control plane here: {reason}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let lines: Vec<String> = report
        .unexplained
        .iter()
        .map(|found| found.line())
        .collect();
    assert!(lines.is_empty(), "unexplained:\n{}", lines.join("\n"));
    // A comparison of nothing finds nothing either.
    assert!(report.calls > 800, "{} calls", report.calls);
    assert!(report.audited > 700, "{} audited", report.audited);
    eprintln!("{} calls in {:.0} s", report.calls, report.seconds);
}
