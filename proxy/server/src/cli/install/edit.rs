//! kube-apiserver's manifest for behind Spillway, and back: line by line, so that all else stays as it was written, and
//! then compared with the old one as data, so that nothing else changed.

use std::net::IpAddr;

use serde_json::Value;

use super::manifest::{PROBES, Pod};

const BIND: &str = "--bind-address=";

/// How it is to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// `--bind-address`; none for kube-apiserver's default, every address.
    pub(super) bind: Option<String>,
    /// The hosts of its probes; `None` for a probe that is not listed, and for the pod's own address.
    pub(super) probe_hosts: Vec<(String, Option<String>)>,
}

impl Wanted {
    /// On loopback only, asked by the kubelet there.
    pub(super) fn behind(pod: &Pod, loopback: IpAddr) -> Self {
        Self {
            bind: Some(loopback.to_string()),
            probe_hosts: pod
                .probe_hosts()
                .into_iter()
                .map(|(name, _)| (name.to_owned(), Some(loopback.to_string())))
                .collect(),
        }
    }

    /// As `was`, the manifest before the take-over; without it as kubeadm writes it.
    pub(super) fn straight(pod: &Pod, was: Option<&Pod>) -> Self {
        let of = |pod: &Pod, host: Option<&str>| Self {
            bind: pod
                .flag("bind-address")
                .map(str::to_owned)
                .filter(|_| host.is_none()),
            probe_hosts: pod
                .probe_hosts()
                .into_iter()
                .map(|(name, own)| (name.to_owned(), host.or(own).map(str::to_owned)))
                .collect(),
        };
        match was {
            Some(was) => of(was, None),
            None => of(pod, Some(pod.flag("advertise-address").unwrap_or_default())),
        }
    }

    fn host(&self, probe: &str) -> Option<&str> {
        let wanted = self.probe_hosts.iter().find(|(name, _)| name == probe)?;
        wanted.1.as_deref()
    }
}

/// The manifest `text`, changed to serve as `wanted`. The same text when it does already.
pub(super) fn edit(text: &str, wanted: &Wanted) -> Result<String, String> {
    let before = Pod::parse(text)?;
    let edited = probes(&bind(text, wanted.bind.as_deref())?, wanted);
    let after = Pod::parse(&edited).map_err(|problem| format!("after the change it {problem}"))?;
    if after.flag("bind-address") != wanted.bind.as_deref() {
        return Err(by_hand("--bind-address", wanted.bind.as_deref()));
    }
    for (name, host) in after.probe_hosts() {
        if host != wanted.host(name) {
            return Err(by_hand(&format!("{name}.httpGet.host"), wanted.host(name)));
        }
    }
    if rest(before.whole) != rest(after.whole) {
        return Err(
            "would change more than --bind-address and the probes' hosts; change these by hand"
                .to_owned(),
        );
    }
    Ok(edited)
}

fn by_hand(what: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => {
            format!("is not written as kubeadm writes it; set {what} to {value} by hand")
        }
        None => format!("is not written as kubeadm writes it; take {what} out by hand"),
    }
}

/// The text of a list's element on this line, without quotes: `--flag=value`.
fn element(line: &str) -> Option<&str> {
    let element = line.trim_start().strip_prefix("- ")?.trim();
    Some(element.trim_matches(['"', '\'']))
}

fn bind(text: &str, wanted: Option<&str>) -> Result<String, String> {
    let mut lines: Vec<String> = Vec::new();
    let mut at = None;
    for line in text.lines() {
        let word = element(line).unwrap_or_default();
        if word.starts_with(BIND) {
            // Where the first was, so that going there and back leaves the order.
            at = at.or_else(|| Some((lines.len(), indent(line))));
            continue;
        }
        lines.push(line.to_owned());
    }
    let beside = || {
        let found = lines.iter().position(|line| {
            element(line).is_some_and(|word| word.starts_with("--advertise-address="))
        })?;
        Some((found + 1, lines.get(found).map(|line| indent(line))?))
    };
    if let Some(wanted) = wanted {
        let (at, indent) = at.or_else(beside).ok_or_else(|| {
            by_hand(
                "--bind-address (there is no line `- --advertise-address=` to put it after)",
                Some(wanted),
            )
        })?;
        // An IPv6 address has colons, but none that is followed by a space.
        lines.insert(at, format!("{indent}- {BIND}{wanted}"));
    }
    Ok(lines.join("\n") + "\n")
}

fn indent(line: &str) -> String {
    line.chars().take_while(|letter| *letter == ' ').collect()
}

/// Block style only, as kubeadm writes it; anything else is found out afterwards.
fn probes(text: &str, wanted: &Wanted) -> String {
    let mut lines: Vec<String> = Vec::new();
    // The probe we are in and how far it is indented; whether its host is still to be written.
    let mut probe: Option<(&str, usize)> = None;
    for line in text.lines() {
        let depth = indent(line).len();
        let word = line.trim();
        if probe.is_some_and(|(_, own)| depth <= own && !word.is_empty()) {
            probe = None;
        }
        if let Some(name) = PROBES
            .iter()
            .find(|name| word.strip_suffix(":") == Some(**name))
        {
            probe = Some((name, depth));
        }
        match probe {
            Some(_) if word.starts_with("host:") => {}
            Some((name, _)) if word == "httpGet:" => {
                lines.push(line.to_owned());
                if let Some(host) = wanted.host(name) {
                    // Quoted when YAML could take it for something else, as `::1`.
                    let quote = if host.contains(':') { "\"" } else { "" };
                    lines.push(format!("{}  host: {quote}{host}{quote}", indent(line)));
                }
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

/// The manifest without what may change.
fn rest(mut whole: Value) -> Value {
    let Some(containers) = whole
        .pointer_mut("/spec/containers")
        .and_then(Value::as_array_mut)
    else {
        return whole;
    };
    for container in containers {
        for key in ["command", "args"] {
            if let Some(words) = container.get_mut(key).and_then(Value::as_array_mut) {
                words.retain(|word| !word.as_str().is_some_and(|word| word.starts_with(BIND)));
            }
        }
        for name in PROBES {
            if let Some(get) = container
                .pointer_mut(&format!("/{name}/httpGet"))
                .and_then(Value::as_object_mut)
            {
                get.remove("host");
            }
        }
    }
    whole
}
