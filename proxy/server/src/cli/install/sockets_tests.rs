use super::super::finding::Verdict;
use super::*;

/// 127.0.0.1:6443 and 0.0.0.0:22 listen; a connection to 6443 does not. As Linux writes it on a little-endian machine.
const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 0100007F:192B 0100007F:C000 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
";

#[test]
#[cfg(target_endian = "little")]
fn listening_sockets_are_read_and_others_are_not() {
    let read: Vec<_> = parse(TCP)
        .into_iter()
        .map(|socket| (socket.address.to_string(), socket.inode))
        .collect();
    assert_eq!(
        read,
        [
            ("127.0.0.1:6443".to_owned(), 4711),
            ("0.0.0.0:22".to_owned(), 4712)
        ]
    );
    assert_eq!(
        ip("B80D0120000000000000000001000000"),
        "2001:db8::1".parse().ok()
    );
    assert_eq!(
        ip("0000000000000000FFFF00000100007F"),
        "127.0.0.1".parse().ok()
    );
    for broken in ["", "0100007", "0100007G", "zz", "0100007F0"] {
        assert_eq!(ip(broken), None, "{broken}");
    }
    assert_eq!(parse("header\n1: x\n\n 0: 00:1 2 0A\n"), []);
}

#[test]
fn a_socket_of_this_process_is_found_with_its_name() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let all = all().unwrap();
    let own = all.iter().find(|other| other.address == address).unwrap();
    assert!(own.process.is_some());
}

fn socket(address: &str, process: &str) -> Listening {
    Listening {
        address: address.parse().unwrap(),
        inode: 1,
        process: Some(process.to_owned()),
    }
}

fn config() -> Config {
    let mut config = Config::default();
    // Loopback addresses, because a check binds them.
    config.listen.main = vec!["127.0.0.2:6443".parse().unwrap()];
    config.listen.reserved = vec!["127.0.0.2:7443".parse().unwrap()];
    config
}

fn looked(sockets: &[(&str, &str)], stage: Stage) -> Findings {
    let sockets: Vec<_> = sockets
        .iter()
        .map(|(address, process)| socket(address, process))
        .collect();
    let mut found = Findings::default();
    look(&sockets, &config(), stage, &mut found);
    found
}

const SOUND: [(&str, &str); 4] = [
    ("127.0.0.1:6443", "kube-apiserver"),
    ("127.0.0.2:6443", "spillway"),
    ("127.0.0.2:7443", "spillway"),
    ("127.0.0.1:9443", "spillway"),
];

#[test]
fn every_address_in_the_right_hands_is_sound() {
    let found = looked(&SOUND, Stage::Installed);
    assert_eq!(found.worst(), Verdict::Ok, "{found}");
    assert_eq!(found.count(Verdict::Ok), 4);
}

#[test]
fn an_apiserver_on_every_address_is_found() {
    let found = looked(&[("0.0.0.0:6443", "kube-apiserver")], Stage::Installed);
    assert_eq!(found.of("listening.apiserver")[0].verdict, Verdict::Fail);
    // It also has what the main lane needs.
    assert!(
        found
            .to_string()
            .contains("kube-apiserver has 0.0.0.0:6443"),
        "{found}"
    );
    let found = looked(&[("0.0.0.0:6443", "kube-apiserver")], Stage::Before);
    assert_eq!(found.worst(), Verdict::Ok, "{found}");
}

#[test]
fn a_port_in_foreign_hands_is_named() {
    let mut sockets = SOUND;
    sockets[2] = ("0.0.0.0:7443", "nginx");
    for stage in [Stage::Before, Stage::Installed] {
        let found = looked(&sockets, stage).to_string();
        assert!(
            found.contains("FAIL listening.spillway: listen.reserved: nginx has 0.0.0.0:7443"),
            "{found}"
        );
    }
}

#[test]
fn whoever_is_not_up_is_named() {
    let found = looked(&[], Stage::Installed);
    assert_eq!(found.count(Verdict::Fail), 4, "{found}");
    let found = looked(&[], Stage::Before);
    assert_eq!(found.count(Verdict::Fail), 1, "{found}");
}

#[test]
fn an_address_of_another_node_is_refused() {
    let mut config = config();
    config.listen.main = vec![
        "192.0.2.10:6443".parse().unwrap(),
        "0.0.0.0:6443".parse().unwrap(),
    ];
    let mut found = Findings::default();
    look(&[], &config, Stage::Before, &mut found);
    let text = found.to_string();
    assert!(
        text.contains("192.0.2.10 is not an address of this node"),
        "{text}"
    );
    assert!(text.contains("0.0.0.0:6443 is every address"), "{text}");
}
