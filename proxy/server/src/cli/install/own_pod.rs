//! Spillway's own static pod, and what keeps kube-apiserver's manifest over upgrades.

use std::path::Path;

use config::Config;

use super::finding::Findings;
use super::manifest::Pod;

/// Judges Spillway's manifest; without one there must be a unit of systemd.
pub(super) fn look(path: &Path, config: &Config, found: &mut Findings) {
    const CHECK: &str = "spillway.pod";
    if !path.exists() {
        return found.ok(
            CHECK,
            format!("no {}: taken to run under systemd", path.display()),
        );
    }
    match Pod::read(path) {
        Err(problem) => found.fail(CHECK, problem, "begin with deploy/static-pod.yaml"),
        Ok(pod) => judge(&pod, config, found),
    }
}

fn judge(pod: &Pod, config: &Config, found: &mut Findings) {
    const CHECK: &str = "spillway.pod";
    let mut sound = true;
    let mut fail = |is_wrong: bool, what: String, fix: &str| {
        if is_wrong {
            sound = false;
            found.fail(CHECK, what, fix);
        }
    };
    fail(
        !pod.host_network(),
        "has a network of its own".to_owned(),
        "set hostNetwork: true",
    );
    let priority = pod.priority_class();
    fail(
        priority != Some("system-node-critical"),
        format!("priorityClassName is {}", priority.unwrap_or("not set")),
        "set it to system-node-critical, or the kubelet evicts it under pressure",
    );
    let volumes = pod.volumes_of_the_api();
    fail(
        !volumes.is_empty(),
        format!(
            "has volumes of kind {}, which the kubelet gets from the API that is behind it",
            volumes.join(", ")
        ),
        "use paths of the host only",
    );
    fail(
        pod.pull_policy() == Some("Always"),
        "imagePullPolicy is Always: it does not start while the registry is away".to_owned(),
        "set it to IfNotPresent, and have the image on the node",
    );
    fail(
        !pod.has_memory_limit(),
        "has no memory limit: what it takes is taken from etcd".to_owned(),
        "set one; see docs/sizing.md",
    );
    let (grace, needed) = (pod.termination_grace(), config.listen.grace.as_secs());
    fail(
        grace <= needed,
        format!(
            "is killed after {grace} s, and listen.grace is {needed} s: watches are cut, and their clients LIST"
        ),
        "set terminationGracePeriodSeconds to more than listen.grace",
    );
    let admin = config.listen.admin.ip().to_string();
    let hosts = pod.probe_hosts();
    let astray: Vec<_> = hosts
        .iter()
        .filter(|(_, host)| *host != Some(&*admin))
        .map(|(name, _)| *name)
        .collect();
    fail(
        hosts.is_empty() || !astray.is_empty(),
        format!(
            "probes that do not ask {admin}, where listen.admin is: [{}]",
            astray.join(", ")
        ),
        "set httpGet.host to it: from outside nobody reaches the admin page",
    );
    if sound {
        found.ok(
            CHECK,
            "network, priority, volumes, memory, grace and probes are sound",
        );
    }
}

/// Whether there is a folder of kubeadm's patches that holds ours.
pub(super) fn patches(folder: &Path, found: &mut Findings) {
    const CHECK: &str = "kubeadm.patches";
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let text: String = files
        .filter(|file| {
            file.file_name()
                .to_string_lossy()
                .starts_with("kube-apiserver")
        })
        .filter_map(|file| std::fs::read_to_string(file.path()).ok())
        .collect();
    if text.contains("--bind-address=") && text.contains("livenessProbe") {
        found.ok(
            CHECK,
            format!(
                "{} keeps bind address and probes; give it to kubeadm upgrade --patches",
                folder.display()
            ),
        );
    } else {
        found.warn(
            CHECK,
            format!("{}: no patches for kube-apiserver: kubeadm upgrade and certs would undo the take-over", folder.display()),
            "copy deploy/kubeadm/patches there, and upgrade with --patches (or leave --patches out if you do not use kubeadm)",
        );
    }
}
