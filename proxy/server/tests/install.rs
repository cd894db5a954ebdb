//! `spillway install`: what it finds in the files of a node, and how it exits.

mod support;

use std::path::PathBuf;

use serde_json::Value;
use support::Pki;
use support::pki::{Authority, Leaf};
use support::process::{self, Ended};

/// kubeadm 1.37.1 with deploy/kubeadm/patches, for a node 192.0.2.10.
const PATCHED: &str = include_str!("install/kubeadm-1.37-patched.yaml");

/// What kubeadm puts into the serving certificate of a node 127.0.0.2.
const NAMES: [&str; 4] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "127.0.0.2",
];

struct Node {
    pki: Pki,
}

impl Node {
    fn new() -> Self {
        let pki = Pki::new();
        pki.write("front-proxy-ca.crt", &pki.front_proxy_ca.pem);
        let node = Self { pki };
        node.serving(&NAMES, false);
        node.manifest(|text| text);
        node.config("");
        node
    }

    fn serving(&self, names: &[&str], expired: bool) {
        let leaf = Leaf {
            user: "kube-apiserver",
            names,
            expired,
            ..Leaf::default()
        };
        let pair = self.pki.ca.issue(&leaf);
        self.pki.write("apiserver.crt", &pair.certificate);
        self.pki.write("apiserver.key", &pair.key);
    }

    fn manifest(&self, change: impl FnOnce(String) -> String) -> PathBuf {
        let pki = self.pki.path().display().to_string();
        let text = PATCHED
            .replace("192.0.2.10", "127.0.0.2")
            .replace("/etc/kubernetes/pki", &pki);
        self.pki.write("kube-apiserver.yaml", &change(text))
    }

    fn config(&self, more: &str) {
        let text = format!(
            "pki: {}\nlisten: {{ main: [\"127.0.0.2:6443\"] }}\n{more}",
            self.pki.path().display()
        );
        self.pki.write("config.yaml", &text);
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let file = |name: &str| self.pki.path().join(name).display().to_string();
        let mut all = vec!["install".to_owned()];
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        for (flag, value) in [
            ("--manifest", file("kube-apiserver.yaml")),
            ("--config", file("config.yaml")),
            ("--pod", file("spillway.yaml")),
            ("--kubeconfigs", file("")),
            ("--patches", file("patches")),
        ] {
            all.extend([flag.to_owned(), value]);
        }
        process::run(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Verdicts and words of one check.
    fn found(&self, check: &str) -> Vec<(String, String)> {
        let ended = self.run(&["--check", "-o", "json"]);
        let report: Value = serde_json::from_str(&ended.stdout).expect("a report");
        let findings = report["findings"].as_array().expect("findings");
        let text =
            |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        findings
            .iter()
            .filter(|finding| finding["check"] == check)
            .map(|finding| {
                let said = format!("{} {}", text(finding, "found"), text(finding, "fix"));
                (text(finding, "verdict"), said)
            })
            .collect()
    }

    fn assert_found(&self, check: &str, verdict: &str, word: &str) {
        let found = self.found(check);
        assert!(
            found
                .iter()
                .any(|(is, said)| is == verdict && said.contains(word)),
            "no {verdict} with `{word}` in {check}: {found:#?}"
        );
    }
}

#[test]
fn the_files_of_a_sound_node_are_sound() {
    let node = Node::new();
    for check in [
        "spillway.config",
        "apiserver.bind-address",
        "apiserver.advertise-address",
        "apiserver.probes",
        "apiserver.requestheader",
        "certificates.serving",
        "certificates.upstream",
        "certificates.front-proxy",
        "certificates.client-ca",
        "service-accounts",
    ] {
        let found = node.found(check);
        assert!(!found.is_empty(), "{check}");
        assert!(
            found.iter().all(|(verdict, _)| verdict == "ok"),
            "{check}: {found:#?}"
        );
    }
}

#[test]
fn a_node_where_nothing_runs_is_to_be_fixed_and_the_report_says_what() {
    let ended = Node::new().run(&["--check"]);
    assert_eq!(ended.code, Some(2), "{}", ended.stdout);
    for said in [
        "FAIL listening.apiserver",
        "FAIL apiserver.version",
        "WARN kubeadm.patches",
        "     -> ",
    ] {
        assert!(
            ended.stdout.contains(said),
            "no `{said}` in {}",
            ended.stdout
        );
    }
}

#[test]
fn a_serving_certificate_that_clients_would_refuse_is_found() {
    let node = Node::new();
    node.serving(&NAMES[..3], false);
    node.assert_found("certificates.serving", "fail", "does not name 127.0.0.2");
    node.serving(&NAMES, true);
    node.assert_found("certificates.serving", "fail", "has ended");
    node.serving(&["127.0.0.2"], false);
    node.assert_found("certificates.upstream", "fail", "upstream.server_name");
    // A name that a kubeconfig uses.
    node.serving(&NAMES, false);
    node.pki.write(
        "admin.conf",
        "clusters: [{ name: k, cluster: { server: 'https://api.example.test:6443' } }]",
    );
    node.assert_found("certificates.serving", "fail", "api.example.test");
    let wild: Vec<&str> = NAMES.into_iter().chain(["*.example.test"]).collect();
    node.serving(&wild, false);
    node.assert_found("certificates.serving", "ok", "api.example.test");
}

#[test]
fn a_front_proxy_certificate_that_the_server_would_not_believe_is_found() {
    let node = Node::new();
    node.manifest(|text| {
        text.replace(
            "allowed-names=front-proxy-client",
            "allowed-names=aggregator",
        )
    });
    node.assert_found("certificates.front-proxy", "fail", "aggregator");
    node.manifest(|text| text.replace("--requestheader-allowed-names=front-proxy-client", "--v=2"));
    node.assert_found("certificates.front-proxy", "warn", "may assert anybody");
    node.manifest(|text| text.replace("--requestheader-client-ca-file", "--unknown"));
    node.assert_found("certificates.front-proxy", "fail", "nobody may assert");
    node.manifest(|text| text);
    node.pki
        .write("front-proxy-ca.crt", &Authority::new("another").pem);
    node.assert_found(
        "certificates.front-proxy",
        "fail",
        "is not a client certificate of",
    );
}

#[test]
fn two_that_believe_different_authorities_keys_or_issuers_are_found() {
    let node = Node::new();
    let other = node
        .pki
        .write("other-ca.crt", &Authority::new("another").pem);
    let other = other.display().to_string();
    let ca = node.pki.path().join("ca.crt").display().to_string();
    node.manifest(|text| {
        text.replace(
            &format!("--client-ca-file={ca}"),
            &format!("--client-ca-file={other}"),
        )
    });
    node.assert_found("certificates.client-ca", "fail", "different authorities");
    node.manifest(|text| {
        text.replace(
            "https://kubernetes.default.svc.cluster.local",
            "https://issuer.example.test",
        )
    });
    node.assert_found("service-accounts", "fail", "issuer.example.test");
    let sa = format!(
        "--service-account-key-file={}",
        node.pki.path().join("sa.pub").display()
    );
    node.manifest(|text| {
        text.replace(
            &sa,
            &format!("{sa}\n    - --service-account-key-file={other}"),
        )
    });
    node.assert_found("service-accounts", "warn", "other-ca.crt");
}

#[test]
fn what_cannot_be_read_is_a_finding_and_no_crash() {
    let node = Node::new();
    node.pki.write("config.yaml", "listen: [");
    node.assert_found("spillway.config", "fail", "config.yaml");
    node.config("");
    for text in [
        "",
        "a: [",
        "kind: Pod\nspec: { containers: [] }",
        "kind: Pod\nspec: 7",
    ] {
        node.manifest(|_| text.to_owned());
        node.assert_found("apiserver.manifest", "fail", "kube-apiserver.yaml");
    }
    std::fs::remove_file(node.pki.path().join("kube-apiserver.yaml")).expect("removed");
    node.assert_found("apiserver.manifest", "fail", "cannot be read");
}

#[test]
fn the_manifest_is_printed_for_either_side() {
    let node = Node::new();
    let file = node.manifest(|text| text);
    let patched = std::fs::read_to_string(&file).expect("the manifest");
    let straight = node.run(&["--print", "straight"]);
    assert_eq!(straight.code, Some(0), "{}", straight.stderr);
    assert!(
        !straight.stdout.contains("--bind-address"),
        "{}",
        straight.stdout
    );
    assert!(
        straight.stdout.contains("host: 127.0.0.2"),
        "{}",
        straight.stdout
    );
    node.manifest(|_| straight.stdout.clone());
    let behind = node.run(&["--print", "behind"]).stdout;
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&behind), sorted(&patched));
    assert_eq!(
        std::fs::read_to_string(&file).expect("the manifest"),
        straight.stdout,
        "a file was changed"
    );
    node.manifest(|_| "kind: Pod".to_owned());
    assert_eq!(node.run(&["--print", "behind"]).code, Some(78));
}

#[test]
fn one_of_the_two_is_to_be_said() {
    for arguments in [
        &["install"][..],
        &["install", "--before"],
        &["install", "--check", "--print", "behind"],
    ] {
        assert_eq!(process::run(arguments).code, Some(2), "{arguments:?}");
    }
}
