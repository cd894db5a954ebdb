//! Everything that is asked.

mod behind;
mod callers;
mod discovery;
mod reads;
mod watches;
mod wire;
mod writes;

use super::call::Scenario;

/// All scenarios.
pub(super) fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    all.extend(discovery::scenarios());
    all.extend(reads::scenarios());
    all.extend(writes::scenarios());
    all.extend(watches::scenarios());
    all.extend(callers::scenarios());
    all.extend(wire::scenarios());
    all.extend(behind::scenarios());
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::transparency::who::Who;

    #[test]
    fn scenarios_have_names_of_their_own_and_nobody_is_left_out() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), all.len());
        let who: BTreeSet<_> = all.iter().map(|scenario| scenario.who).collect();
        assert_eq!(who, BTreeSet::from(Who::ALL));
    }

    #[test]
    fn who_writes_has_a_namespace_to_write_to() {
        for scenario in all() {
            let named = scenario
                .steps
                .iter()
                .any(|step| step.target.contains("<ns>"));
            assert_eq!(named, scenario.own_namespace, "{}", scenario.name);
        }
    }
}
