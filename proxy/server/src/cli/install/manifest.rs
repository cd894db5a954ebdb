//! A static pod's manifest, as far as it matters here: flags, probes, mounts.

use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// A pod with one container.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    spec: Spec,
    container: Container,
    /// Everything, for comparisons.
    pub(super) whole: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    host_network: bool,
    priority_class_name: Option<String>,
    termination_grace_period_seconds: Option<u64>,
    containers: Vec<Container>,
    volumes: Vec<serde_json::Map<String, Value>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    image_pull_policy: Option<String>,
    command: Vec<String>,
    args: Vec<String>,
    resources: Resources,
    liveness_probe: Option<Probe>,
    readiness_probe: Option<Probe>,
    startup_probe: Option<Probe>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Resources {
    limits: serde_json::Map<String, Value>,
}

/// A probe of the kubelet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Probe {
    http_get: Option<HttpGet>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct HttpGet {
    host: Option<String>,
}

/// The names of a container's probes, as in the manifest.
pub(super) const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

impl Pod {
    /// Reads a manifest. The error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let whole: Value =
            serde_saphyr::from_str(text).map_err(|error| format!("is not YAML: {error}"))?;
        let file: File =
            serde_saphyr::from_str(text).map_err(|error| format!("is no pod: {error}"))?;
        if file.kind != "Pod" {
            return Err(format!("is of kind `{}`, not `Pod`", file.kind));
        }
        let mut spec = file.spec;
        if spec.containers.len() != 1 {
            return Err(format!("has {} containers, not one", spec.containers.len()));
        }
        let container = spec.containers.pop().ok_or("has no container")?;
        Ok(Self {
            spec,
            container,
            whole,
        })
    }

    /// As [`Self::parse`], from a file; errors name it.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{name}: cannot be read: {error}"))?;
        Self::parse(&text).map_err(|problem| format!("{name} {problem}"))
    }

    /// Command and arguments, one after the other.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        let command = self.container.command.iter();
        command.chain(&self.container.args).map(String::as_str)
    }

    /// Every value of a flag, `--name=value` or `--name value`, in order.
    pub(super) fn flag_all(&self, name: &str) -> Vec<&str> {
        let mut found = Vec::new();
        let mut words = self.words();
        while let Some(word) = words.next() {
            let Some(rest) = word
                .strip_prefix("--")
                .and_then(|word| word.strip_prefix(name))
            else {
                continue;
            };
            if let Some(value) = rest.strip_prefix('=') {
                found.push(value);
            } else if rest.is_empty() {
                found.extend(words.next());
            }
        }
        found
    }

    /// The value in force: the last.
    pub(super) fn flag(&self, name: &str) -> Option<&str> {
        self.flag_all(name).pop()
    }

    /// The values of a flag that holds a list, which may also be given several times.
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        let values = self.flag_all(name).into_iter();
        values
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .collect()
    }

    /// A flag that is an address.
    pub(super) fn address(&self, name: &str) -> Option<IpAddr> {
        self.flag(name)?.parse().ok()
    }

    /// The port kube-apiserver serves on.
    pub(super) fn secure_port(&self) -> u16 {
        self.flag("secure-port")
            .and_then(|port| port.parse().ok())
            .unwrap_or(6443)
    }

    /// The hosts its HTTP probes ask, by the probe's name; `None` is the pod's own address.
    pub(super) fn probe_hosts(&self) -> Vec<(&'static str, Option<&str>)> {
        let container = &self.container;
        let probes = [
            &container.liveness_probe,
            &container.readiness_probe,
            &container.startup_probe,
        ];
        PROBES
            .into_iter()
            .zip(probes)
            .filter_map(|(name, probe)| {
                let get = probe.as_ref()?.http_get.as_ref()?;
                Some((name, get.host.as_deref().filter(|host| !host.is_empty())))
            })
            .collect()
    }

    pub(super) fn host_network(&self) -> bool {
        self.spec.host_network
    }

    pub(super) fn priority_class(&self) -> Option<&str> {
        self.spec.priority_class_name.as_deref()
    }

    /// Seconds between SIGTERM and SIGKILL.
    pub(super) fn termination_grace(&self) -> u64 {
        self.spec.termination_grace_period_seconds.unwrap_or(30)
    }

    pub(super) fn pull_policy(&self) -> Option<&str> {
        self.container.image_pull_policy.as_deref()
    }

    pub(super) fn has_memory_limit(&self) -> bool {
        self.container.resources.limits.contains_key("memory")
    }

    /// The kinds of its volumes other than paths of the host: what would need the API at its start.
    pub(super) fn volumes_of_the_api(&self) -> Vec<&str> {
        let kinds = self.spec.volumes.iter().flat_map(|volume| volume.keys());
        kinds
            .map(String::as_str)
            .filter(|kind| !matches!(*kind, "name" | "hostPath" | "emptyDir"))
            .collect()
    }
}
