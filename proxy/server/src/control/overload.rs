//! Says in the log when an overload begins, who is behind it, and when it is over.

use proxy_core::admission::Culprit;
use tracing::{info, warn};

use crate::clock;
use crate::shared::Shared;

/// What was said last.
#[derive(Debug, Default)]
pub(crate) struct Overloads {
    said: Option<Culprit>,
}

impl Overloads {
    /// To be called about once a second.
    pub(crate) fn look(&mut self, shared: &Shared) {
        let culprit = shared.engine.culprit();
        let same = |a: &Culprit, b: &Culprit| {
            (a.tenant.tenant, a.overload) == (b.tenant.tenant, b.overload)
        };
        match (&self.said, &culprit) {
            (None, None) => {}
            (Some(said), Some(now)) if same(said, now) => {}
            (Some(said), None) => info!(
                tenant = &*shared.names.of(said.tenant.tenant),
                lasted_seconds = clock::now().saturating_since(said.overload).as_secs(),
                "the overload is over"
            ),
            (_, Some(culprit)) => say(shared, culprit),
        }
        self.said = culprit;
    }
}

fn say(shared: &Shared, culprit: &Culprit) {
    let tenant = &culprit.tenant;
    let snapshot = shared.snapshot.load();
    warn!(
        tenant = &*shared.names.of(tenant.tenant),
        class = &*snapshot.class(tenant.class).name,
        shape = tenant.shape.map(|shape| shared.names.of(shape).to_string()),
        herd = culprit.herd,
        instances = tenant.instances,
        requests_per_second = tenant.requests,
        demand_cores = tenant.asked,
        share = tenant.share,
        refused = tenant.refused,
        surging_since = tenant.since.map(clock::to_unix),
        overload_since = clock::to_unix(culprit.overload),
        "an overload, and who is behind it"
    );
}
