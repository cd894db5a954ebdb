//! What was looked at, what was found, and what to do about it.

use std::fmt::{self, Write as _};

use serde::Serialize;

/// How serious a finding is, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but somebody should look at it.
    Warn,
    /// Does not work, or not safely.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at, as `apiserver.bind-address`: stable, for scripts.
    pub(super) check: &'static str,
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) found: String,
    /// What to do; none when all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

/// All findings, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.0.push(Finding {
            check,
            verdict: Verdict::Ok,
            found: found.into(),
            fix: None,
        });
    }

    pub(super) fn warn(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.add(check, Verdict::Warn, found, fix);
    }

    pub(super) fn fail(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.add(check, Verdict::Fail, found, fix);
    }

    pub(super) fn add(
        &mut self,
        check: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.0.push(Finding {
            check,
            verdict,
            found: found.into(),
            fix: Some(fix.into()),
        });
    }

    /// The most serious verdict; ok when nothing was looked at.
    pub(super) fn worst(&self) -> Verdict {
        let verdicts = self.0.iter().map(|finding| finding.verdict);
        verdicts.max().unwrap_or(Verdict::Ok)
    }

    /// How many have this verdict.
    pub(super) fn count(&self, verdict: Verdict) -> usize {
        self.0
            .iter()
            .filter(|finding| finding.verdict == verdict)
            .count()
    }

    #[cfg(test)]
    pub(super) fn of(&self, check: &str) -> Vec<&Finding> {
        self.0
            .iter()
            .filter(|finding| finding.check == check)
            .collect()
    }

    /// One JSON object: `verdict`, and `findings` with `check`, `verdict`, `found` and, unless all is well, `fix`.
    pub(super) fn json(&self) -> String {
        let whole = serde_json::json!({ "verdict": self.worst(), "findings": self.0 });
        format!("{whole:#}\n")
    }
}

impl fmt::Display for Findings {
    /// One line a finding, what to do below it, and a line that counts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for finding in &self.0 {
            let mark = match finding.verdict {
                Verdict::Ok => "ok  ",
                Verdict::Warn => "WARN",
                Verdict::Fail => "FAIL",
            };
            writeln!(text, "{mark} {}: {}", finding.check, finding.found)?;
            if let Some(fix) = &finding.fix {
                writeln!(text, "     -> {fix}")?;
            }
        }
        let [ok, warn, fail] =
            [Verdict::Ok, Verdict::Warn, Verdict::Fail].map(|verdict| self.count(verdict));
        writeln!(text, "{ok} ok, {warn} to look at, {fail} to fix")?;
        f.write_str(&text)
    }
}
