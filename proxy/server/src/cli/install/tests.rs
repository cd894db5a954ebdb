//! Manifests as kubeadm 1.37.1 wrote them (`kubeadm init phase control-plane apiserver --dry-run`, without and with
//! `deploy/kubeadm/patches`), and what is wrong with changed ones.

use super::edit::edit;
use super::finding::Finding;
use super::*;

const KUBEADM: &str = include_str!("../../../tests/install/kubeadm-1.37.yaml");
const PATCHED: &str = include_str!("../../../tests/install/kubeadm-1.37-patched.yaml");

fn pod(text: &str) -> Pod {
    Pod::parse(text).unwrap()
}

fn behind(text: &str) -> String {
    edit(
        text,
        &Wanted::behind(&pod(text), "127.0.0.1".parse().unwrap()),
    )
    .unwrap()
}

fn straight(text: &str, was: Option<&str>) -> String {
    let was = was.map(pod);
    edit(text, &Wanted::straight(&pod(text), was.as_ref())).unwrap()
}

fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_manifest_behind_spillway_is_the_one_kubeadm_makes_with_our_patches() {
    assert_eq!(lines(&behind(KUBEADM)), lines(PATCHED));
}

#[test]
fn there_and_back_again_nothing_has_changed() {
    let there = behind(KUBEADM);
    assert_eq!(behind(&there), there, "doing it twice changes nothing");
    for was in [None, Some(KUBEADM)] {
        assert_eq!(straight(&there, was).trim_end(), KUBEADM.trim_end());
        assert_eq!(straight(PATCHED, was).trim_end(), KUBEADM.trim_end());
    }
    let six = KUBEADM.replace("192.0.2.10", "2001:db8::10");
    let six = six.replace("host: 2001:db8::10", "host: \"2001:db8::10\"");
    let wanted = Wanted::behind(&pod(&six), "::1".parse().unwrap());
    let there = edit(&six, &wanted).unwrap();
    assert_eq!(pod(&there).flag("bind-address"), Some("::1"));
    assert_eq!(straight(&there, Some(&six)).trim_end(), six.trim_end());
}

#[test]
fn what_an_upgrade_changed_meanwhile_stays_on_the_way_back() {
    let was = KUBEADM.replace(
        "    - --secure-port",
        "    - --bind-address=10.0.0.9\n    - --secure-port",
    );
    let upgraded = behind(&was).replace("v1.37.1", "v1.38.0");
    let back = straight(&upgraded, Some(&was));
    assert_eq!(
        back.trim_end(),
        was.replace("v1.37.1", "v1.38.0").trim_end()
    );
}

#[test]
fn a_manifest_that_is_written_otherwise_is_left_to_its_writer() {
    let wanted = Wanted::behind(&pod(KUBEADM), "127.0.0.1".parse().unwrap());
    let json = pod(KUBEADM).whole.to_string();
    let two_words = KUBEADM.replace(
        "    - --secure-port",
        "    - --bind-address\n    - 0.0.0.0\n    - --secure-port",
    );
    let flow = KUBEADM.replace("      httpGet:\n        host: 192.0.2.10\n        path: /readyz\n        port: probe-port\n        scheme: HTTPS\n", "      httpGet: { host: 192.0.2.10, path: /readyz, port: probe-port }\n");
    assert_ne!(flow, KUBEADM);
    let nowhere = KUBEADM.replace("    - --advertise-address=192.0.2.10\n", "");
    for text in [json, two_words, flow, nowhere] {
        let problem = edit(&text, &wanted).unwrap_err();
        assert!(problem.contains("by hand"), "{problem}");
    }
    for text in [
        "",
        "kind: Pod",
        "a: [",
        "kind: Service",
        &KUBEADM.replace("kind: Pod", "kind: List"),
    ] {
        assert!(Pod::parse(text).is_err(), "{text}");
    }
}

#[test]
fn the_last_of_several_flags_counts_in_either_spelling() {
    let text = KUBEADM.replace(
        "    - --secure-port=6443",
        "    - --secure-port=1\n    - --secure-port\n    - \"7443\"\n    - --oidc-issuer-url=https://a/?x=y",
    );
    let pod = pod(&text);
    assert_eq!(pod.secure_port(), 7443);
    assert_eq!(pod.flag("oidc-issuer-url"), Some("https://a/?x=y"));
    assert_eq!(pod.flag("oidc"), None);
    assert_eq!(pod.flag_all("secure-port"), ["1", "7443"]);
}

fn config() -> Config {
    let mut config = Config::default();
    config.listen.main = vec!["192.0.2.10:6443".parse().unwrap()];
    config
}

fn looked(text: &str, config: &Config, stage: Stage) -> Findings {
    let mut found = Findings::default();
    flags::look(&pod(text), config, stage, &mut found);
    found
}

#[test]
fn kubeadms_own_manifest_is_sound_before_and_its_patched_one_after() {
    let before = looked(KUBEADM, &config(), Stage::Before);
    assert_eq!(before.worst(), Verdict::Ok, "{before}");
    let after = looked(PATCHED, &config(), Stage::Installed);
    assert_eq!(after.worst(), Verdict::Ok, "{after}");
}

#[test]
fn a_manifest_that_an_upgrade_wrote_anew_is_found() {
    let found = looked(KUBEADM, &config(), Stage::Installed);
    let failed = |check| {
        found
            .of(check)
            .iter()
            .all(|finding: &&Finding| finding.verdict == Verdict::Fail)
    };
    assert!(failed("apiserver.bind-address"), "{found}");
    assert!(failed("apiserver.probes"), "{found}");
    assert!(
        found.to_string().contains("livenessProbe asks 192.0.2.10"),
        "{found}"
    );
    assert!(found.to_string().contains("--patches"), "{found}");
}

/// One change to a sound manifest, what finds it, and a word of what it says.
#[test]
fn every_flag_that_matters_is_looked_at() {
    for (from, to, check, verdict, word) in [
        (
            "--bind-address=127.0.0.1",
            "--bind-address=127.0.0.3",
            "apiserver.bind-address",
            Verdict::Fail,
            "upstream.address",
        ),
        (
            "    - --advertise-address=192.0.2.10\n",
            "",
            "apiserver.advertise-address",
            Verdict::Fail,
            "not set",
        ),
        (
            "--advertise-address=192.0.2.10",
            "--advertise-address=192.0.2.11",
            "apiserver.advertise-address",
            Verdict::Fail,
            "192.0.2.11:6443",
        ),
        (
            "--secure-port=6443",
            "--secure-port=7443",
            "apiserver.secure-port",
            Verdict::Fail,
            "7443",
        ),
        (
            "host: 127.0.0.1",
            "host: 192.0.2.10",
            "apiserver.probes",
            Verdict::Fail,
            "kill a healthy",
        ),
        (
            "        host: 127.0.0.1\n",
            "",
            "apiserver.probes",
            Verdict::Fail,
            "the pod's address",
        ),
        (
            "hostNetwork: true",
            "hostNetwork: false",
            "apiserver.host-network",
            Verdict::Fail,
            "loopback",
        ),
        (
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-group-headers=X-Team",
            "apiserver.requestheader",
            Verdict::Fail,
            "X-Remote-Group",
        ),
        (
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-username-headers=X-A,x-remote-user",
            "apiserver.requestheader",
            Verdict::Ok,
            "",
        ),
        (
            "    - --secure-port=6443",
            "    - --secure-port=6443\n    - --requestheader-uid-headers=X-Remote-Uid",
            "apiserver.requestheader",
            Verdict::Warn,
            "uids",
        ),
        (
            "    - --secure-port=6443",
            "    - --secure-port=6443\n    - --peer-ca-file=/ca",
            "apiserver.peers",
            Verdict::Warn,
            "request_header.client_ca",
        ),
        (
            "    - --secure-port=6443",
            "    - --secure-port=6443\n    - --endpoint-reconciler-type=none",
            "apiserver.endpoints",
            Verdict::Warn,
            "endpoint",
        ),
    ] {
        let text = PATCHED.replace(from, to);
        assert_ne!(text, PATCHED, "{from}");
        let found = looked(&text, &config(), Stage::Installed);
        let findings = found.of(check);
        let worst = findings
            .iter()
            .max_by_key(|finding| finding.verdict)
            .unwrap();
        assert_eq!(worst.verdict, verdict, "{to}: {found}");
        let said = format!(
            "{} {}",
            worst.found,
            worst.fix.as_deref().unwrap_or_default()
        );
        assert!(said.contains(word), "{to}: {said}");
    }
}

#[test]
fn an_upstream_that_is_not_on_loopback_is_refused() {
    let mut config = config();
    config.upstream.address = "192.0.2.10:6443".parse().unwrap();
    let found = looked(PATCHED, &config, Stage::Installed);
    assert_eq!(found.of("apiserver.bind-address")[0].verdict, Verdict::Fail);
}

const OWN: &str = include_str!("../../../../../deploy/static-pod.yaml");

fn own(text: &str) -> Findings {
    let folder = std::env::temp_dir().join(format!(
        "spillway-own-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("spillway.yaml");
    std::fs::write(&path, text).unwrap();
    let mut found = Findings::default();
    own_pod::look(&path, &config(), &mut found);
    std::fs::remove_dir_all(&folder).unwrap();
    found
}

#[test]
fn the_shipped_pod_is_sound_and_each_slip_is_found() {
    let found = own(OWN);
    assert_eq!(found.worst(), Verdict::Ok, "{found}");
    for (from, to, word) in [
        ("hostNetwork: true", "hostNetwork: false", "network"),
        (
            "priorityClassName: system-node-critical",
            "priorityClassName: low",
            "priority",
        ),
        (
            "imagePullPolicy: Never",
            "imagePullPolicy: Always",
            "registry",
        ),
        (
            "terminationGracePeriodSeconds: 30",
            "terminationGracePeriodSeconds: 10",
            "listen.grace",
        ),
        (
            "hostPath: { path: /etc/spillway, type: Directory }",
            "configMap: { name: spillway }",
            "configMap",
        ),
        ("host: 127.0.0.1", "host: 192.0.2.10", "livenessProbe"),
        ("memory: 1Gi", "cpu: 4", "memory limit"),
    ] {
        let text = OWN.replace(from, to);
        assert_ne!(text, OWN, "{from}");
        let found = own(&text);
        assert_eq!(found.worst(), Verdict::Fail, "{to}: {found}");
        assert!(found.to_string().contains(word), "{to}: {found}");
    }
    assert_eq!(own("kind: Pod").worst(), Verdict::Fail);
}

#[test]
fn the_shipped_patches_are_recognised_and_their_absence_is_said() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/kubeadm/patches");
    for (folder, verdict) in [
        (shipped.as_path(), Verdict::Ok),
        (Path::new("/nowhere"), Verdict::Warn),
    ] {
        let mut found = Findings::default();
        own_pod::patches(folder, &mut found);
        assert_eq!(found.worst(), verdict, "{found}");
    }
}

#[test]
fn a_report_can_be_read_by_people_and_by_scripts() {
    let found = looked(KUBEADM, &config(), Stage::Installed);
    let json: serde_json::Value = serde_json::from_str(&found.json()).unwrap();
    assert_eq!(json["verdict"], "fail");
    assert_eq!(json["findings"][0]["check"], "apiserver.bind-address");
    assert!(json["findings"][0]["fix"].is_string());
    assert!(
        found
            .to_string()
            .contains("FAIL apiserver.bind-address: 0.0.0.0"),
        "{found}"
    );
}
