//! `admission.limits` and what is done about the culprit of an overload.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::Match;
use crate::units::{DurationText, Percent, serialize_duration, serialize_optional_duration};

/// `admission.limits[]`: a hard limit, beside the adaptive admission and whatever room the
/// server has.
///
/// Holds for everybody on the main lane, `system:masters` included, and for nobody on the
/// reserved lane. The most important class is meant only by limits that name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct HardLimit {
    /// `name`: formed as a class name; appears in answers, logs and metrics. Required.
    pub name: String,
    /// `when`: which requests it is about, as for rules; empty = every request.
    #[schemars(default)]
    pub when: Match,
    /// `class`: only requests of this class. Default: every class but the most important one.
    #[schemars(default)]
    pub class: Option<String>,
    /// `per`: who has a bound of their own. Default rule: all of them share one.
    #[schemars(default)]
    pub per: Per,
    /// `concurrency`: requests at once that end by themselves, and watches until they have
    /// sent the state they begin with, 0..=1000000. Default none.
    #[schemars(default, range(min = 0, max = 1000000))]
    pub concurrency: Option<u32>,
    /// `rate`: requests of any kind that may begin, as `50/s`, `600/m`, `1000/h`. Default none.
    #[schemars(default)]
    pub rate: Option<Rate>,
    /// `burst`: how many of them at once, 1..=1000000. Default what one second brings.
    #[schemars(default, range(min = 1, max = 1000000))]
    pub burst: Option<u32>,
    /// `server_time`: a budget of server time, as estimated, for each second, as `250ms`;
    /// 1ms..=1000s. What is overdrawn by one request is paid back before the next. Default none.
    #[serde(serialize_with = "serialize_optional_duration")]
    #[schemars(default, with = "Option<DurationText>")]
    pub server_time: Option<Duration>,
    /// `watches`: open watches, 0..=1000000. Default none.
    #[schemars(default, range(min = 0, max = 1000000))]
    pub watches: Option<u32>,
    /// `sessions`: exec, attach, port-forward, proxy and logs, 0..=1000000. Default none.
    #[schemars(default, range(min = 0, max = 1000000))]
    pub sessions: Option<u32>,
    /// `deny`: these requests are refused as such, with 403; with no other bound. Default false.
    #[schemars(default)]
    pub deny: bool,
    /// `message`: what a refused client is told beside the limit's name, up to 200 characters:
    /// what to do instead. Default: one that fits.
    #[schemars(default)]
    pub message: Option<String>,
}

/// `admission.limits[].per`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// One bound for all.
    #[default]
    Rule,
    /// One for each class.
    Class,
    /// One for each user, service account, and for all nodes together.
    Tenant,
    /// One for each pod, node or address of a tenant.
    Instance,
}

/// `admission.confine_culprit`: whoever is behind an overload is confined to a small share of
/// the server for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Confine {
    /// `after`: the overload has lasted so long, 2s..=1h. Default 10s.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub after: Duration,
    /// `share`: of the server's time, 1% to 100%. Default 5%.
    pub share: Percent,
    /// `for`: then it is over by itself, 10s..=24h. Default 10m.
    #[serde(rename = "for", serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub period: Duration,
}

impl Default for Confine {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(10),
            share: Percent::from_basis_points(500),
            period: Duration::from_secs(600),
        }
    }
}

/// `admission.cancel_culprit`: as the last step, LISTs that a confined culprit has running are
/// broken off, the newest first, while the server still queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(default, deny_unknown_fields)]
pub struct Cancel {
    /// `after`: the culprit is confined and the server has queued ever since, 1s..=1h.
    /// Default 5s.
    #[serde(serialize_with = "serialize_duration")]
    #[schemars(with = "DurationText")]
    pub after: Duration,
    /// `rate`: how many are broken off, up to `10/s`. Default 5/s.
    pub rate: Rate,
}

impl Default for Cancel {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(5),
            rate: Rate::new(5, Period::Second),
        }
    }
}

/// What a rate counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Period {
    /// `/s`
    Second,
    /// `/m`
    Minute,
    /// `/h`
    Hour,
}

/// So many in each period, written `50/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    count: u32,
    period: Period,
}

impl Rate {
    /// `count` in each `period`.
    #[must_use]
    pub const fn new(count: u32, period: Period) -> Self {
        Self { count, period }
    }

    /// How many.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// In each of these.
    #[must_use]
    pub const fn period(self) -> Duration {
        Duration::from_secs(match self.period {
            Period::Second => 1,
            Period::Minute => 60,
            Period::Hour => 3600,
        })
    }

    /// What one second brings, at least 1.
    #[must_use]
    pub const fn per_second(self) -> u32 {
        let seconds = self.period().as_secs() as u32;
        let whole = self.count / seconds;
        if whole > 0 { whole } else { 1 }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.period {
            Period::Second => "s",
            Period::Minute => "m",
            Period::Hour => "h",
        };
        write!(f, "{}/{unit}", self.count)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Rate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]+ */ *(s|m|h)$" })
    }
}
