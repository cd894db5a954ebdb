//! Reading `admission.limits` and what is done about the culprit of an overload.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_saphyr::Spanned;

use crate::Percent;
use crate::model::{Cancel, Class, Confine, HardLimit, Per, Period, Rate};
use crate::raw::{self, Scalar, at, at_value};
use crate::resolve::Values;
use crate::rules::{class_names, conditions, known_class, required, unique};
use crate::units::parse_percent;

/// Every limit is asked for every request.
const MAX_LIMITS: usize = 64;
/// The highest count.
const MOST: u32 = 1_000_000;
/// Of a message, in characters.
const LONGEST: usize = 200;

/// Reads `admission.limits`; `classes` are those of the file, empty = the built-in ones.
pub(crate) fn limits(
    values: &mut Values<'_, '_>,
    raw: &raw::Admission,
    classes: &[Class],
) -> Vec<HardLimit> {
    let list = raw.limits.as_deref().unwrap_or_default();
    if let Some(first) = list.get(MAX_LIMITS) {
        let what = format!("{}limits: {} limits", values.within, list.len());
        let accepted = format!("up to {MAX_LIMITS} limits");
        values.problems.add(at(&first.referenced), what, accepted);
        return Vec::new();
    }
    let known = class_names(classes);
    let mut seen = BTreeSet::new();
    list.iter()
        .enumerate()
        .filter_map(|(index, limit)| {
            let key = format!("{}limits[{index}]", values.within);
            let name = required(values, &format!("{key}.name"), limit, &limit.value.name);
            if let Some(name) = &name {
                unique(values, &key, &mut seen, name, limit.value.name.as_ref());
            }
            let limit = one(values, &key, limit, name.unwrap_or_default(), &known);
            (!limit.name.is_empty()).then_some(limit)
        })
        .collect()
}

fn one(
    values: &mut Values<'_, '_>,
    key: &str,
    limit: &Spanned<raw::HardLimit>,
    name: String,
    known: &[&str],
) -> HardLimit {
    let raw = &limit.value;
    let path = |field: &str| format!("{key}.{field}");
    let class = raw
        .class
        .as_ref()
        .and_then(|class| known_class(values, &path("class"), class, known));
    let resolved = HardLimit {
        name,
        when: conditions(values, key, raw.when.as_ref()),
        class,
        per: values.choice(
            &path("per"),
            raw.per.as_ref(),
            Per::default(),
            &[
                ("rule", Per::Rule),
                ("class", Per::Class),
                ("tenant", Per::Tenant),
                ("instance", Per::Instance),
            ],
        ),
        concurrency: count(values, &path("concurrency"), raw.concurrency.as_ref(), 0),
        rate: values.read(&path("rate"), raw.rate.as_ref(), None, RATE, |text| {
            rate(text).map(Some)
        }),
        burst: count(values, &path("burst"), raw.burst.as_ref(), 1),
        server_time: raw.server_time.as_ref().map(|time| {
            values.duration(
                &path("server_time"),
                Some(time),
                Duration::from_secs(1),
                Duration::from_millis(1)..=Duration::from_secs(1000),
            )
        }),
        watches: count(values, &path("watches"), raw.watches.as_ref(), 0),
        sessions: count(values, &path("sessions"), raw.sessions.as_ref(), 0),
        deny: values.choice(
            &path("deny"),
            raw.deny.as_ref(),
            false,
            &[("true", true), ("false", false)],
        ),
        message: message(values, &path("message"), raw.message.as_ref()),
    };
    complete(values, key, limit, &resolved);
    resolved
}

/// A limit that bounds nothing, and one that both denies and bounds, were not meant so.
fn complete(
    values: &mut Values<'_, '_>,
    key: &str,
    limit: &Spanned<raw::HardLimit>,
    resolved: &HardLimit,
) {
    let raw = &limit.value;
    let bounds = [
        ("concurrency", raw.concurrency.as_ref()),
        ("rate", raw.rate.as_ref()),
        ("server_time", raw.server_time.as_ref()),
        ("watches", raw.watches.as_ref()),
        ("sessions", raw.sessions.as_ref()),
    ];
    let bound = bounds.iter().find(|(_, value)| value.is_some());
    match (resolved.deny, bound) {
        (false, None) if raw.deny.is_none() => values.problems.add(
            at(&limit.referenced),
            format!("{key} bounds nothing"),
            "at least one of concurrency, rate, server_time, watches, sessions; or deny: true",
        ),
        (true, Some((field, value))) => values.problems.add(
            at_value(*value),
            format!("{key}: what is denied needs no {field}"),
            "deny: true, or bounds",
        ),
        _ => {}
    }
    if resolved.deny && resolved.when.is_empty() && raw.class.is_none() {
        values.problems.add(
            at_value(raw.deny.as_ref()),
            format!("{key} denies every request"),
            "`when` or `class`, to say which",
        );
    }
    if let (Some(_), None) = (&raw.burst, &raw.rate) {
        values.problems.add(
            at_value(raw.burst.as_ref()),
            format!("{key}.burst: there is no rate that it could belong to"),
            "burst beside rate",
        );
    }
}

fn count(
    values: &mut Values<'_, '_>,
    key: &str,
    value: Option<&Scalar>,
    least: u32,
) -> Option<u32> {
    value.map(|value| values.number(key, Some(value), least, least..=MOST))
}

fn message(values: &mut Values<'_, '_>, key: &str, value: Option<&Scalar>) -> Option<String> {
    let accepted = format!("a text of 1 to {LONGEST} characters on one line");
    values.read(key, value, None, &accepted, |text| {
        let sound = !text.is_empty()
            && text.chars().count() <= LONGEST
            && !text.chars().any(char::is_control);
        if sound {
            Ok(Some(text.to_owned()))
        } else {
            Err("the text is empty, too long or more than one line".to_owned())
        }
    })
}

/// What a rate is accepted as.
const RATE: &str = "a rate, as 50/s, 600/m or 1000/h; 1/h to 1000000/s";

fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("`{text}` is not a rate");
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let count: u32 = count.trim().parse().map_err(|_| wrong())?;
    let period = match unit.trim() {
        "s" => Period::Second,
        "m" => Period::Minute,
        "h" => Period::Hour,
        _ => return Err(wrong()),
    };
    let rate = Rate::new(count, period);
    if count == 0 || rate.per_second() > MOST {
        return Err(format!("`{text}` is out of range"));
    }
    Ok(rate)
}

/// Reads `admission.confine_culprit`.
pub(crate) fn confine(values: &mut Values<'_, '_>, raw: &raw::Admission) -> Option<Confine> {
    let raw = &raw.confine_culprit.as_ref()?.value;
    let default = Confine::default();
    Some(Confine {
        after: values.duration(
            "admission.confine_culprit.after",
            raw.after.as_ref(),
            default.after,
            Duration::from_secs(2)..=Duration::from_secs(3600),
        ),
        share: values.read(
            "admission.confine_culprit.share",
            raw.share.as_ref(),
            default.share,
            "1% to 100%",
            |text| match parse_percent(text)? {
                share if share < Percent::from_basis_points(100) => {
                    Err(format!("`{text}` is out of range"))
                }
                share => Ok(share),
            },
        ),
        period: values.duration(
            "admission.confine_culprit.for",
            raw.r#for.as_ref(),
            default.period,
            Duration::from_secs(10)..=Duration::from_secs(24 * 3600),
        ),
    })
}

/// Reads `admission.cancel_culprit`.
pub(crate) fn cancel(values: &mut Values<'_, '_>, raw: &raw::Admission) -> Option<Cancel> {
    let section = raw.cancel_culprit.as_ref()?;
    if raw.confine_culprit.is_none() {
        values.problems.add(
            at(&section.referenced),
            "admission.cancel_culprit: what is broken off begins anew, unless its tenant is confined",
            "confine_culprit beside cancel_culprit",
        );
    }
    let raw = &section.value;
    let default = Cancel::default();
    Some(Cancel {
        after: values.duration(
            "admission.cancel_culprit.after",
            raw.after.as_ref(),
            default.after,
            Duration::from_secs(1)..=Duration::from_secs(3600),
        ),
        rate: values.read(
            "admission.cancel_culprit.rate",
            raw.rate.as_ref(),
            default.rate,
            "a rate up to 10/s, as 5/s or 30/m",
            |text| {
                let read = rate(text)?;
                let per_hour = u64::from(read.count()) * 3600 / read.period().as_secs();
                if per_hour > 36_000 {
                    return Err(format!("`{text}` is out of range"));
                }
                Ok(read)
            },
        ),
    })
}

/// Reads `admission.state`.
pub(crate) fn state(values: &mut Values<'_, '_>, raw: &raw::Admission) -> Option<PathBuf> {
    let path = raw.state.as_ref()?;
    Some(values.path("admission.state", Some(path), PathBuf::new()))
}

/// Reads `admission.measures`; without it they are beside what else is kept.
pub(crate) fn measures(values: &mut Values<'_, '_>, raw: &raw::Admission) -> Option<PathBuf> {
    match &raw.measures {
        Some(path) => Some(values.path("admission.measures", Some(path), PathBuf::new())),
        None => {
            let state = raw.state.as_ref()?.value.trim();
            Some(PathBuf::from(state).join("measures.json"))
        }
    }
}

/// Reads `admission.culprit_events`.
pub(crate) fn events(values: &mut Values<'_, '_>, raw: &raw::Admission) -> Option<String> {
    let accepted = "the name of a namespace, as default";
    let value = raw.culprit_events.as_ref();
    values.read("admission.culprit_events", value, None, accepted, |text| {
        namespace(text).map(Some)
    })
}

/// The name of a namespace: a DNS label.
pub(crate) fn namespace(text: &str) -> Result<String, String> {
    let sound = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if sound {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not the name of a namespace"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_they_are_written() {
        for text in ["50/s", "600/m", "1/h", "1000000/s"] {
            assert_eq!(rate(text).map(|rate| rate.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "50",
            "0/s",
            "50/d",
            "-1/s",
            "1.5/s",
            "/s",
            "50/",
            "1000001/s",
        ] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_burst_is_what_a_second_brings_unless_it_is_said() {
        let per_second = |text| rate(text).map(Rate::per_second);
        assert_eq!(per_second("50/s"), Ok(50));
        assert_eq!(per_second("600/m"), Ok(10));
        assert_eq!(per_second("30/m"), Ok(1));
    }
}
