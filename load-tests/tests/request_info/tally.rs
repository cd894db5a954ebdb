//! What came out of comparing: the differences, and whether enough was compared.

use std::collections::BTreeMap;

use http::Uri;

use super::REPORTED;
use super::generate::Case;
use super::reading::{Answer, Caution, split};

/// Counts of one run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    cases: u64,
    differences: u64,
    reported: Vec<String>,
    refused: u64,
    cautions: BTreeMap<Caution, u64>,
    hyper_cautions: BTreeMap<Caution, u64>,
    fragments: u64,
    verbs: BTreeMap<String, u64>,
    resources: u64,
    long_running: u64,
    in_namespaces: u64,
    subresources: u64,
    names_from_selectors: u64,
    selectors_ignored: u64,
}

impl Tally {
    /// Compares our reading with the server's, and hyper's with both.
    pub(crate) fn compare(&mut self, case: &Case, theirs: &Answer) {
        if !case.has_path() {
            // Only hyper tells a path from the host before it; see the test of
            // the command.
            return;
        }
        self.cases += 1;
        let ours = Answer::ours(case);
        if &ours != theirs {
            match (&ours, Caution::of_parser(case)) {
                (Answer::Refusal { status: 400 }, Some(caution)) => {
                    *self.cautions.entry(caution).or_default() += 1;
                }
                _ => self.differs(format!("{case}\n  server {theirs}\n  ours   {ours}")),
            }
        }
        self.compare_hyper(case, &ours);
        self.count(theirs);
    }

    /// hyper must split a target as our parser's input is split here, or refuse
    /// it; then the proxy never sees it.
    fn compare_hyper(&mut self, case: &Case, ours: &Answer) {
        let Ok(uri) = Uri::try_from(case.target.as_slice()) else {
            match (ours, Caution::of_hyper(case)) {
                (_, Some(caution)) => *self.hyper_cautions.entry(caution).or_default() += 1,
                (Answer::Refusal { .. }, None) => {}
                _ => self.differs(format!("{case}\n  hyper refuses it\n  ours   {ours}")),
            }
            return;
        };
        let before = case.before_fragment();
        self.fragments += u64::from(before.len() < case.target.len());
        let expected = str::from_utf8(before).map(split);
        if expected != Ok((uri.path(), uri.query())) {
            self.differs(format!("{case}\n  hyper  {uri:?}"));
        }
    }

    fn differs(&mut self, report: String) {
        self.differences += 1;
        if self.reported.len() < REPORTED {
            self.reported.push(report);
        }
    }

    fn count(&mut self, theirs: &Answer) {
        let reading = match theirs {
            Answer::Refusal { .. } => {
                self.refused += 1;
                return;
            }
            Answer::Reading(reading) => reading,
        };
        self.resources += u64::from(reading.is_resource_request);
        self.long_running += u64::from(reading.long_running);
        self.in_namespaces += u64::from(!reading.namespace.is_empty());
        self.subresources += u64::from(!reading.subresource.is_empty());
        if reading.is_resource_request {
            *self.verbs.entry(reading.verb.clone()).or_default() += 1;
        }
        if matches!(reading.verb.as_str(), "list" | "watch") {
            let pins = reading.field_selector.contains("metadata.name=");
            self.names_from_selectors += u64::from(!reading.name.is_empty());
            self.selectors_ignored += u64::from(pins && reading.name.is_empty());
        }
    }

    /// Reports what was compared.
    ///
    /// # Panics
    /// When anything differs without being allowed to.
    pub(crate) fn conclude(&self, run: &str) {
        eprintln!(
            "{run}: {} cases, {} differences; the server refuses {}; out of caution our parser refuses {:?} and hyper {:?}; {} fragments cut",
            self.cases,
            self.differences,
            self.refused,
            self.cautions,
            self.hyper_cautions,
            self.fragments,
        );
        eprintln!(
            "  {} for resources {:?}, {} long-running, {} in namespaces, {} subresources, {} names pinned, {} not",
            self.resources,
            self.verbs,
            self.long_running,
            self.in_namespaces,
            self.subresources,
            self.names_from_selectors,
            self.selectors_ignored,
        );
        assert!(
            self.differences == 0,
            "{run}: {} differences, first:\n{}",
            self.differences,
            self.reported.join("\n")
        );
    }

    /// A generator gone dull would find nothing either.
    ///
    /// # Panics
    /// When some kind of request is too rare.
    pub(crate) fn assert_variety(&self) {
        let hundredth = self.cases / 100;
        for (what, count) in [
            ("for resources", self.resources / 20),
            ("refused", self.refused / 2),
            ("long-running", self.long_running),
            ("in a namespace", self.in_namespaces),
            ("with a subresource", self.subresources),
            ("with a name from a selector", self.names_from_selectors),
            ("with a selector that pins nothing", self.selectors_ignored),
            ("refused by hyper", self.hyper_cautions.values().sum()),
        ] {
            assert!(count >= hundredth, "too few {what}: {self:?}");
        }
        for verb in [
            "",
            "get",
            "list",
            "watch",
            "create",
            "update",
            "patch",
            "delete",
            "deletecollection",
            "proxy",
        ] {
            let count = self.verbs.get(verb).copied().unwrap_or_default();
            assert!(count >= hundredth / 5, "too few {verb:?}: {self:?}");
        }
    }
}
