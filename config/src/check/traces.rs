//! `traces`: whose certificate is believed.

use crate::model::Config;
use crate::raw::{self, at_value};
use crate::report::Problems;

/// Notes an `https` endpoint that nobody vouches for.
pub(super) fn check(file: &raw::Config, config: &Config, problems: &mut Problems<'_>) {
    let set = &config.traces;
    let secure = set
        .endpoint
        .as_ref()
        .is_some_and(|endpoint| endpoint.starts_with("https:"));
    if secure && set.ca.is_none() {
        let raw = file.traces.as_ref().and_then(|raw| raw.endpoint.as_ref());
        problems.add(
            at_value(raw),
            "traces.endpoint: https takes traces.ca beside it; the host's own authorities are not asked",
            "traces.ca: the PEM bundle that the collector's certificate chains to",
        );
    }
}
