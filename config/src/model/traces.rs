//! `traces`: spans of requests, sent to a collector.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::units::Percent;

/// `traces`: spans of a sample of the requests, sent to an OpenTelemetry collector (OTLP over HTTP, as JSON). Spans are
/// dropped and counted rather than anything waited for. Changes take effect with the reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Traces {
    /// `endpoint`: where they are sent, as `http://127.0.0.1:4318/v1/traces`; `off` = no request is traced, and no
    /// header of a request is looked at or changed for it. Default off.
    #[serde(serialize_with = "or_off")]
    #[schemars(with = "String")]
    pub endpoint: Option<String>,
    /// `ca`: PEM bundle that the collector's certificate must chain to; needed for `https`, where the host's own
    /// authorities are not asked. Default none.
    pub ca: Option<PathBuf>,
    /// `sample`: how many of the requests are traced, by chance, whatever becomes of them. Default 1%.
    pub sample: Percent,
    /// `asked`: so many requests a second are traced besides because their client wishes it (the sampled flag of
    /// `traceparent`), all clients together, 0..=10000. Default 10.
    #[schemars(range(min = 0, max = 10000))]
    pub asked: u32,
    /// `most`: so many requests a second are traced at most, 1..=100000. Default 100.
    #[schemars(range(min = 1, max = 100000))]
    pub most: u32,
    /// `queue`: requests whose spans wait for the collector, 1..=65536. Default 4096.
    #[schemars(range(min = 1, max = 65536))]
    pub queue: u32,
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            endpoint: None,
            ca: None,
            sample: Percent::from_basis_points(100),
            asked: 10,
            most: 100,
            queue: 4096,
        }
    }
}

fn or_off<S: Serializer>(endpoint: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(endpoint.as_deref().unwrap_or("off"))
}
