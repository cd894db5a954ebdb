//! The ConfigMap and the events of its watch, as far as they are read.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::policy::Delivered;
use crate::policy::book::Stage;

/// The policy.
const POLICY: &str = "policy.yaml";
/// The policy that shall follow it.
const CANDIDATE: &str = "candidate.yaml";
/// How far the candidate has come.
const STAGE: &str = "stage";

/// An object.
#[derive(Debug, Deserialize)]
pub(super) struct ConfigMap {
    pub(super) metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// What is needed of its metadata.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    #[serde(rename = "resourceVersion", default)]
    pub(super) resource_version: String,
}

/// An event of a watch.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
pub(super) enum Event {
    Added(ConfigMap),
    Modified(ConfigMap),
    Deleted(IgnoredAny),
    Bookmark(IgnoredAny),
    Error(IgnoredAny),
}

/// Why its data are none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotUsable {
    #[error("it has no key {POLICY}")]
    NoPolicy,
    #[error("{STAGE}: {0}")]
    Stage(String),
    #[error("{STAGE} without {CANDIDATE}: nothing is there to be staged")]
    NoCandidate,
}

impl ConfigMap {
    /// What it says; `origin` is the ConfigMap, for people.
    pub(super) fn delivered(&self, origin: String) -> Result<Delivered, NotUsable> {
        let policy = self.data.get(POLICY).ok_or(NotUsable::NoPolicy)?.clone();
        let stage = self.data.get(STAGE).filter(|text| !text.trim().is_empty());
        let candidate = match (self.data.get(CANDIDATE), stage) {
            (Some(text), None) => Some((text.clone(), Stage::Shadow)),
            (Some(text), Some(stage)) => {
                let stage = Stage::parse(stage).map_err(NotUsable::Stage)?;
                Some((text.clone(), stage))
            }
            (None, Some(_)) => return Err(NotUsable::NoCandidate),
            (None, None) => None,
        };
        Ok(Delivered {
            policy,
            candidate,
            origin,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(data: &serde_json::Value) -> Result<Delivered, NotUsable> {
        let object = serde_json::json!({ "kind": "ConfigMap", "metadata": { "resourceVersion": "7", "uid": "x" }, "data": data });
        let object: ConfigMap = serde_json::from_value(object).expect("a ConfigMap");
        assert_eq!(object.metadata.resource_version, "7");
        object.delivered("a test".to_owned())
    }

    #[test]
    fn a_policy_and_a_candidate_with_its_stage_are_read() {
        let both = delivered(
            &serde_json::json!({ "policy.yaml": "a", "candidate.yaml": "b", "stage": "5%\n" }),
        );
        assert_eq!(
            both.expect("good").candidate,
            Some(("b".to_owned(), Stage::Percent(500)))
        );
        let shadow = delivered(&serde_json::json!({ "policy.yaml": "", "candidate.yaml": "b" }));
        assert_eq!(
            shadow.expect("good").candidate,
            Some(("b".to_owned(), Stage::Shadow))
        );
        let alone = delivered(&serde_json::json!({ "policy.yaml": "a" })).expect("good");
        assert_eq!((&*alone.policy, alone.candidate), ("a", None));
    }

    #[test]
    fn what_is_half_said_is_not_guessed() {
        assert_eq!(delivered(&serde_json::json!({})), Err(NotUsable::NoPolicy));
        let stage = delivered(&serde_json::json!({ "policy.yaml": "a", "stage": "5%" }));
        assert_eq!(stage, Err(NotUsable::NoCandidate));
        let wrong = delivered(
            &serde_json::json!({ "policy.yaml": "a", "candidate.yaml": "b", "stage": "all" }),
        );
        assert!(matches!(wrong, Err(NotUsable::Stage(_))), "{wrong:?}");
    }

    #[test]
    fn every_kind_of_event_is_understood() {
        let object = r#"{"kind":"ConfigMap","metadata":{"resourceVersion":"8"},"data":{}}"#;
        for (kind, object) in [
            ("ADDED", object),
            ("MODIFIED", object),
            ("DELETED", object),
            ("BOOKMARK", object),
            ("ERROR", r#"{"kind":"Status","code":410}"#),
        ] {
            let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
            assert!(serde_json::from_str::<Event>(&line).is_ok(), "{kind}");
        }
    }
}
