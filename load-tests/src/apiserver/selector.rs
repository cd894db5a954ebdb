//! Label and field selectors.

use super::object::Object;
use super::status::ApiError;

/// Requirements beyond this many are refused: nobody writes more, and each is
/// tried on every object of a scan.
const MAX_REQUIREMENTS: usize = 64;

#[derive(Debug, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Missing,
    Greater(i64),
    Less(i64),
}

#[derive(Debug)]
struct Requirement {
    key: String,
    operator: Operator,
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        match &self.operator {
            Operator::In(values) => {
                value.is_some_and(|value| values.iter().any(|have| have == value))
            }
            // As in Kubernetes, an absent label satisfies `!=` and `notin`.
            Operator::NotIn(values) => {
                value.is_none_or(|value| values.iter().all(|have| have != value))
            }
            Operator::Exists => value.is_some(),
            Operator::Missing => value.is_none(),
            Operator::Greater(bound) => number(value).is_some_and(|value| value > *bound),
            Operator::Less(bound) => number(value).is_some_and(|value| value < *bound),
        }
    }
}

fn number(value: Option<&str>) -> Option<i64> {
    value.and_then(|value| value.parse().ok())
}

/// Both selectors of a request, compiled.
#[derive(Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl Selector {
    /// Compiles the two query parameters for `resource`; 400 for what does
    /// not parse and for fields the resource does not index.
    pub(super) fn compile(
        resource: &str,
        labels: Option<&str>,
        fields: Option<&str>,
    ) -> Result<Self, ApiError> {
        let labels = parse(labels.unwrap_or(""), true)?;
        let fields = parse(fields.unwrap_or(""), false)?;
        for requirement in &fields {
            if !supports(resource, &requirement.key) {
                return Err(ApiError::bad_request(format!(
                    "field label not supported: {}",
                    requirement.key
                )));
            }
        }
        Ok(Self { labels, fields })
    }

    /// Adds `metadata.name=name`, for watches of a single object.
    pub(super) fn and_name(mut self, name: &str) -> Self {
        self.fields.push(Requirement {
            key: "metadata.name".to_owned(),
            operator: Operator::In(vec![name.to_owned()]),
        });
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether an index answers it (pods by node, anything by name), so that
    /// the server does not scan.
    pub(super) fn indexed(&self) -> bool {
        self.fields.iter().any(|requirement| {
            matches!(requirement.key.as_str(), "spec.nodeName" | "metadata.name")
                && matches!(&requirement.operator, Operator::In(values) if values.len() == 1)
        })
    }

    pub(super) fn matches(&self, object: &Object) -> bool {
        self.labels
            .iter()
            .all(|requirement| requirement.matches(object.label(&requirement.key)))
            && self.fields.iter().all(|requirement| {
                object.field(&requirement.key, |value| requirement.matches(value))
            })
    }
}

/// Fields by resource, after `pkg/apis/*/v1/conversion.go` and the
/// registries' `SelectableFields`.
fn supports(resource: &str, key: &str) -> bool {
    if matches!(key, "metadata.name" | "metadata.namespace") {
        return true;
    }
    match resource {
        "pods" => matches!(
            key,
            "spec.nodeName"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "spec.serviceAccountName"
                | "spec.hostNetwork"
                | "status.phase"
                | "status.podIP"
                | "status.nominatedNodeName"
        ),
        "namespaces" => key == "status.phase",
        "nodes" => key == "spec.unschedulable",
        "secrets" => key == "type",
        "services" => matches!(key, "spec.type" | "spec.clusterIP"),
        "replicasets" => key == "status.replicas",
        "events" => {
            key.starts_with("involvedObject.")
                || matches!(key, "reason" | "reportingComponent" | "source" | "type")
        }
        _ => false,
    }
}

/// Splits at commas outside parentheses and reads each requirement. Field
/// selectors (`set` false) know only `=`, `==` and `!=`.
fn parse(text: &str, set: bool) -> Result<Vec<Requirement>, ApiError> {
    let mut requirements = Vec::new();
    let mut depth = 0_u32;
    let parts = text.split(|c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    for part in parts.map(str::trim).filter(|part| !part.is_empty()) {
        if requirements.len() == MAX_REQUIREMENTS {
            return Err(ApiError::bad_request(format!(
                "a selector may have at most {MAX_REQUIREMENTS} requirements"
            )));
        }
        requirements.push(requirement(part, set).ok_or_else(|| {
            ApiError::bad_request(format!("unable to parse requirement: {part:?}"))
        })?);
    }
    Ok(requirements)
}

fn requirement(part: &str, set: bool) -> Option<Requirement> {
    let one = |key: &str, value: &str| (key.trim().to_owned(), vec![value.trim().to_owned()]);
    let (key, operator) = if let Some((key, value)) = part.split_once("!=") {
        let (key, values) = one(key, value);
        (key, Operator::NotIn(values))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        let (key, values) = one(key, value);
        (key, Operator::In(values))
    } else if !set {
        return None;
    } else if let Some(key) = part.strip_prefix('!') {
        (key.trim().to_owned(), Operator::Missing)
    } else if let Some((key, value)) = part.split_once('>') {
        (
            key.trim().to_owned(),
            Operator::Greater(value.trim().parse().ok()?),
        )
    } else if let Some((key, value)) = part.split_once('<') {
        (
            key.trim().to_owned(),
            Operator::Less(value.trim().parse().ok()?),
        )
    } else if let Some((head, values)) = part.strip_suffix(')').and_then(|p| p.split_once('(')) {
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        let (key, word) = head.trim().rsplit_once(' ')?;
        let operator = match word {
            "in" => Operator::In(values),
            "notin" => Operator::NotIn(values),
            _ => return None,
        };
        (key.trim().to_owned(), operator)
    } else {
        (part.to_owned(), Operator::Exists)
    };
    (!key.is_empty() && !key.contains(char::is_whitespace)).then_some(Requirement { key, operator })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Object {
        Object::encode(
            "v1",
            "Pod",
            json!({
                "metadata": {"name": "a", "namespace": "n", "uid": "u", "resourceVersion": "5",
                    "labels": {"app": "web", "tier": "3"}},
                "spec": {"nodeName": "node-1"},
                "status": {"phase": "Running", "podIP": "10.0.0.1"},
            }),
            5,
        )
    }

    fn labels(text: &str) -> bool {
        Selector::compile("pods", Some(text), None)
            .unwrap()
            .matches(&pod())
    }

    fn fields(text: &str) -> bool {
        Selector::compile("pods", None, Some(text))
            .unwrap()
            .matches(&pod())
    }

    #[test]
    fn label_operators_behave_as_documented() {
        for matching in [
            "app",
            "app=web",
            "app==web,tier",
            "app in (x, web)",
            "app notin (x,y)",
            "other!=x",
            "!other",
            "tier>2",
            "tier<4",
            "",
        ] {
            assert!(labels(matching), "{matching}");
        }
        for other in [
            "app=x",
            "!app",
            "app notin (web)",
            "tier>3",
            "other",
            "app=web,other",
        ] {
            assert!(!labels(other), "{other}");
        }
    }

    #[test]
    fn field_selectors_read_indexed_and_parsed_fields() {
        for matching in [
            "metadata.name=a",
            "spec.nodeName=node-1,status.phase!=Failed",
            "status.podIP=10.0.0.1",
            "metadata.namespace==n",
            "status.nominatedNodeName=",
        ] {
            assert!(fields(matching), "{matching}");
        }
        assert!(!fields("spec.nodeName=node-2"));
        assert!(!fields("metadata.name!=a"));
    }

    #[test]
    fn what_does_not_parse_is_refused() {
        for bad in ["a b", "app in x", "=x", "tier>x"] {
            assert!(Selector::compile("pods", Some(bad), None).is_err(), "{bad}");
        }
        assert!(Selector::compile("pods", None, Some("spec.color=red")).is_err());
        assert!(Selector::compile("pods", None, Some("metadata.name")).is_err());
        assert!(Selector::compile("pods", Some(&"a,".repeat(65)), None).is_err());
    }
}
