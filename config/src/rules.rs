//! Classes and rules: names, shares and the vocabulary of conditions.
//!
//! Whether a rule means what its author wanted is for `explain` to show; here stands
//! what can be known to be wrong without a request.

use std::collections::BTreeSet;

use crate::model::{Class, DEFAULT_CLASSES, Match, Rule};
use crate::raw::{self, List, Scalar, at, at_value};
use crate::resolve::{Values, unknown};
use crate::units::parse_percent;
use crate::{Percent, patterns};

/// Every class is a set of metrics.
const MAX_CLASSES: usize = 16;
/// Every rule is tried for every request until one matches.
const MAX_RULES: usize = 256;
/// Values of all conditions of one rule.
const MAX_VALUES: usize = 512;

const NAME: &str = "1 to 40 lower-case letters, digits and `-`, starting with a letter";

/// Names of rules that are always there.
const TAKEN: [&str; 3] = ["health", "otherwise", "unverified"];

/// Reads `admission.classes`.
pub(crate) fn classes(values: &mut Values<'_, '_>, raw: &raw::Admission) -> Vec<Class> {
    let Some(list) = &raw.classes else {
        return Vec::new();
    };
    if list.value.len() > MAX_CLASSES {
        let what = format!("admission.classes: {} classes", list.value.len());
        let accepted = format!("up to {MAX_CLASSES} classes");
        values.problems.add(at(&list.referenced), what, accepted);
        return Vec::new();
    }
    let mut seen = BTreeSet::new();
    let classes: Vec<Class> = list
        .value
        .iter()
        .enumerate()
        .filter_map(|(index, class)| {
            let key = format!("admission.classes[{index}]");
            let name = required(values, &format!("{key}.name"), class, &class.value.name)?;
            unique(values, &key, &mut seen, &name, class.value.name.as_ref());
            let usual = Class::usual_max_shed_share(&name);
            Some(Class {
                name,
                reserve: values.read(
                    &format!("{key}.reserve"),
                    class.value.reserve.as_ref(),
                    Percent::ZERO,
                    "0% to 100%, all classes together below 100%",
                    parse_percent,
                ),
                guarantee: values.read(
                    &format!("{key}.guarantee"),
                    class.value.guarantee.as_ref(),
                    Percent::ZERO,
                    "0% to 50%, all classes together at most 50%",
                    parse_percent,
                ),
                max_shed_share: values.read(
                    &format!("{key}.max_shed_share"),
                    class.value.max_shed_share.as_ref(),
                    usual,
                    "0% to 100%",
                    parse_percent,
                ),
            })
        })
        .collect();
    complete(values, &classes, list);
    below_the_whole(values, &classes, list);
    guarantees(values, &classes, list);
    classes
}

/// The built-in rules send requests to the built-in classes, so all must be there.
fn complete(
    values: &mut Values<'_, '_>,
    classes: &[Class],
    list: &serde_saphyr::Spanned<Vec<serde_saphyr::Spanned<raw::Class>>>,
) {
    let missing: Vec<&str> = DEFAULT_CLASSES
        .into_iter()
        .filter(|name| !classes.iter().any(|class| class.name == *name))
        .collect();
    if list.value.len() == classes.len() && !classes.is_empty() && !missing.is_empty() {
        values.problems.add(
            at(&list.referenced),
            format!(
                "admission.classes: the list replaces the built-in classes, and built-in \
                 rules use {}",
                missing.join(", ")
            ),
            format!(
                "a list with all of {}, in any order",
                DEFAULT_CLASSES.join(", ")
            ),
        );
    }
}

fn below_the_whole(
    values: &mut Values<'_, '_>,
    classes: &[Class],
    list: &serde_saphyr::Spanned<Vec<serde_saphyr::Spanned<raw::Class>>>,
) {
    // Nobody is below the last class, so its reserve takes nothing from anybody.
    let sum: u32 = classes
        .iter()
        .rev()
        .skip(1)
        .map(|class| u32::from(class.reserve.basis_points()))
        .sum();
    if sum >= u32::from(Percent::HUNDRED.basis_points()) {
        let last = list
            .value
            .iter()
            .rev()
            .skip(1)
            .find_map(|class| at_value(class.value.reserve.as_ref()));
        values.problems.add(
            last,
            format!(
                "admission.classes: the reserves add up to {}.{:02}%, nothing is left for \
                 the least important class",
                sum / 100,
                sum % 100
            ),
            "reserves that add up to less than 100%",
        );
    }
}

/// All guarantees together, in basis points.
const MOST_GUARANTEED: u32 = 5_000;

fn guarantees(
    values: &mut Values<'_, '_>,
    classes: &[Class],
    list: &serde_saphyr::Spanned<Vec<serde_saphyr::Spanned<raw::Class>>>,
) {
    let each = || classes.iter().map(|class| class.guarantee.basis_points());
    let at = |nth: usize| {
        let class = list.value.get(nth)?;
        at_value(class.value.guarantee.as_ref())
    };
    if each().next().is_some_and(|first| first > 0) {
        values.problems.add(
            at(0),
            "admission.classes[0].guarantee: the first class does not wait for others, so nothing can be \
             guaranteed to it"
                .to_owned(),
            "no guarantee there",
        );
    }
    let sum: u32 = each().map(u32::from).sum();
    if sum > MOST_GUARANTEED {
        let last = (0..list.value.len()).rev().find_map(at);
        values.problems.add(
            last,
            format!(
                "admission.classes: the guarantees add up to {}.{:02}%, too little is left to give by \
                 importance",
                sum / 100,
                sum % 100
            ),
            "guarantees that add up to at most 50%",
        );
    }
}

/// Reads `admission.rules`; `classes` are those of the file, empty = the built-in ones.
pub(crate) fn rules(
    values: &mut Values<'_, '_>,
    raw: &raw::Admission,
    classes: &[Class],
) -> Vec<Rule> {
    let list = raw.rules.as_deref().unwrap_or_default();
    if let Some(first) = list.get(MAX_RULES) {
        let what = format!("{}rules: {} rules", values.within, list.len());
        let accepted = format!("up to {MAX_RULES} rules");
        values.problems.add(at(&first.referenced), what, accepted);
        return Vec::new();
    }
    let known = class_names(classes);
    let mut seen: BTreeSet<String> = TAKEN.map(str::to_owned).into();
    list.iter()
        .enumerate()
        .filter_map(|(index, rule)| {
            let key = format!("{}rules[{index}]", values.within);
            let name = required(values, &format!("{key}.name"), rule, &rule.value.name);
            if let Some(name) = &name {
                unique(values, &key, &mut seen, name, rule.value.name.as_ref());
            }
            let when = conditions(values, &key, rule.value.when.as_ref());
            let class = class_of(values, &key, rule, &known);
            Some(Rule {
                name: name?,
                when,
                class: class?,
            })
        })
        .collect()
}

/// What a class may be called in this file.
pub(crate) fn class_names(classes: &[Class]) -> Vec<&str> {
    let mut known: Vec<&str> = DEFAULT_CLASSES.to_vec();
    known.extend(classes.iter().map(|class| class.name.as_str()));
    known.sort_unstable();
    known.dedup();
    known
}

/// The name of a class that exists.
pub(crate) fn known_class(
    values: &mut Values<'_, '_>,
    key: &str,
    class: &Scalar,
    known: &[&str],
) -> Option<String> {
    values.read(key, Some(class), None, &known.join(", "), |text| {
        if known.contains(&text) {
            Ok(Some(text.to_owned()))
        } else {
            Err(unknown(text, known))
        }
    })
}

fn class_of(
    values: &mut Values<'_, '_>,
    key: &str,
    rule: &serde_saphyr::Spanned<raw::Rule>,
    known: &[&str],
) -> Option<String> {
    let Some(class) = &rule.value.class else {
        let what = format!("{key}.class is missing");
        values
            .problems
            .add(at(&rule.referenced), what, known.join(", "));
        return None;
    };
    known_class(values, &format!("{key}.class"), class, known)
}

/// The conditions of one rule.
pub(crate) fn conditions(
    values: &mut Values<'_, '_>,
    key: &str,
    when: Option<&raw::Match>,
) -> Match {
    let Some(when) = when else {
        return Match::default();
    };
    let lists = when.lists();
    let written = || lists.iter().filter_map(|(_, list)| *list);
    let count: usize = written().map(|list| list.value.len()).sum();
    if count > MAX_VALUES {
        let what = format!("{key}.when: {count} values");
        let accepted = format!("up to {MAX_VALUES} values in all lists of a rule");
        values
            .problems
            .add(at_value(written().next()), what, accepted);
        return Match::default();
    }
    impossible(values, key, when);
    let node = values.read(
        &format!("{key}.when.node"),
        when.node.as_ref(),
        None,
        "true, false",
        |text| match text {
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => Err(format!("`{text}` is neither true nor false")),
        },
    );
    raw::conditions(node, |field| {
        let list = lists.iter().find(|(name, _)| *name == field);
        let list = list.and_then(|(_, list)| *list);
        condition(values, &format!("{key}.when.{field}"), field, list)
    })
}

/// A path outside the resource API has no resource.
fn impossible(values: &mut Values<'_, '_>, key: &str, when: &raw::Match) {
    let resource = [
        ("api_groups", &when.api_groups),
        ("resources", &when.resources),
        ("namespaces", &when.namespaces),
        ("names", &when.names),
    ];
    let other = resource.iter().find(|(_, list)| list.is_some());
    if let (Some(paths), Some((field, _))) = (&when.non_resource, other) {
        values.problems.add(
            at(&paths.referenced),
            format!("{key}.when: non_resource and {field} can never both hold"),
            "two rules, one with each",
        );
    }
}

/// One condition, judged by what its field can hold.
fn condition(
    values: &mut Values<'_, '_>,
    key: &str,
    field: &str,
    list: Option<&List>,
) -> Vec<String> {
    let Some(list) = list else { return Vec::new() };
    let accepted = patterns::accepted(field);
    if list.value.is_empty() {
        // An empty list reads as "nobody" to one and as "anybody" to another.
        let what = format!("{key}: the list is empty");
        let accepted = "at least one value; leave the key out to ask for nothing";
        values.problems.add(at(&list.referenced), what, accepted);
    }
    for value in &list.value {
        let excludes = value
            .value
            .strip_prefix('!')
            .is_some_and(|wanted| list.value.iter().any(|other| other.value == wanted));
        if excludes {
            values.problems.add(
                at(&value.referenced),
                format!("{key}: `{}` excludes what the list also names", value.value),
                "each value once, with or without `!`",
            );
        }
    }
    values.list(key, Some(list), &accepted, |text| {
        patterns::check(field, text).map(|()| text.to_owned())
    })
}

/// A required name; `None` after noting why not.
pub(crate) fn required<T>(
    values: &mut Values<'_, '_>,
    key: &str,
    owner: &serde_saphyr::Spanned<T>,
    name: &Option<Scalar>,
) -> Option<String> {
    if name.is_none() {
        let what = format!("{key} is missing");
        values.problems.add(at(&owner.referenced), what, NAME);
    }
    values.read(key, name.as_ref(), None, NAME, |text| {
        let sound = text.len() <= 40
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if sound {
            Ok(Some(text.to_owned()))
        } else {
            Err(format!("`{text}` is not a name"))
        }
    })
}

/// Notes a name that another of the same list has.
pub(crate) fn unique(
    values: &mut Values<'_, '_>,
    key: &str,
    seen: &mut BTreeSet<String>,
    name: &str,
    place: Option<&Scalar>,
) {
    if !seen.insert(name.to_owned()) {
        let what = format!("{key}.name: `{name}` is already taken");
        values
            .problems
            .add(at_value(place), what, "a name of its own");
    }
}
