//! The scenarios that come with it.

use super::{Scenario, WrongScenario};

macro_rules! scenarios {
    ($($name:literal),* $(,)?) => {
        /// Name and text of each.
        const BUILTIN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../scenarios/", $name, ".yaml")))),*];
    };
}

scenarios![
    "openai-2024-12-11",
    "controller-restart",
    "apiserver-restart",
    "node-mass-reboot",
    "create-storm",
    "outage-10s",
    "whale-attack",
    "slow-readers",
    "capacity-halved",
    "tenants-slightly-over",
    "one-level",
    "wrong-clocks-and-costs",
    "large-cluster",
];

/// Their names, in the order they are run.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(name, _)| *name)
}

/// The built-in scenario of that name; `None` if there is none.
///
/// # Errors
/// [`WrongScenario`]; a test reads them all.
pub(crate) fn builtin(name: &str) -> Option<Result<Scenario, WrongScenario>> {
    let (name, yaml) = BUILTIN.iter().find(|(other, _)| *other == name)?;
    Some(Scenario::read(name, yaml))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_scenarios_are_read_and_bear_their_files_names() {
        for name in names() {
            let scenario = builtin(name).expect("it exists").expect("it can be read");
            assert_eq!(scenario.name, name);
            crate::population::of(&scenario).expect("its calls can be read");
        }
    }
}
