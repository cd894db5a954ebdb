use std::fs;
use std::net::TcpListener;
use std::path::Path;

use super::*;

/// A folder of a test's own.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("spillway-host-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("a file");
    }

    fn roots(&self) -> Roots {
        Roots {
            proc: self.0.join("proc"),
            cgroup: self.0.join("cgroup"),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const MIB: u64 = 1 << 20;

/// A host as the kernel shows it: an apiserver (7) in a container of a pod on loopback, and Spillway (8) on the same port
/// of another address.
fn host(name: &str) -> Folder {
    let folder = Folder::new(name);
    folder.write(
        "proc/net/tcp",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
         0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 x\n\
         1: 0A0A0A0A:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 x\n\
         2: 0100007F:192B 0100007F:A000 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 x\n",
    );
    for (id, socket) in [(7, 4711), (8, 4712)] {
        let fd = folder.0.join(format!("proc/{id}/fd"));
        fs::create_dir_all(&fd).expect("folders");
        std::os::unix::fs::symlink(format!("socket:[{socket}]"), fd.join("3")).expect("a link");
        folder.write(
            &format!("proc/{id}/stat"),
            &format!(
                "{id} (kube (api) x) S 1 1 1 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 9 0 {id}00 1 1"
            ),
        );
    }
    folder.write("proc/7/cgroup", "0::/kube/pod/container\n");
    folder.write(
        "proc/7/status",
        "Name:\tx\nVmRSS:\t9 kB\nRssAnon:\t  2048 kB\nRssShmem:\t1024 kB\n",
    );
    folder.write(
        "proc/meminfo",
        "MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 7340032 kB\n",
    );
    let container = "cgroup/kube/pod/container";
    folder.write(&format!("{container}/memory.current"), "629145600\n");
    folder.write(&format!("{container}/memory.max"), "max\n");
    folder.write(
        &format!("{container}/memory.stat"),
        "anon 1\ninactive_file 104857600\nactive_file 5\n",
    );
    folder.write(
        &format!("{container}/memory.events"),
        "low 0\noom 4\noom_kill 3\noom_group_kill 0\n",
    );
    folder.write(
        &format!("{container}/memory.pressure"),
        "some avg10=40.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=25.50 avg60=0.00 avg300=0.00 total=1\n",
    );
    folder.write(
        &format!("{container}/cpu.stat"),
        "usage_usec 5000000\nuser_usec 1\nnr_throttled 2\nthrottled_usec 1000000\n",
    );
    folder.write(
        &format!("{container}/cpu.pressure"),
        "some avg10=12.00 avg60=0 avg300=0 total=1\n",
    );
    folder.write("cgroup/kube/pod/memory.current", "734003200\n");
    folder.write("cgroup/kube/pod/memory.max", "1073741824\n");
    folder
}

fn upstream(address: &str) -> config::Upstream {
    config::Upstream {
        address: address.parse().expect("an address"),
        ..config::Upstream::default()
    }
}

#[test]
fn the_process_behind_the_address_is_found_and_not_another_on_the_same_port() {
    let folder = host("find");
    let proc = folder.roots().proc;
    let found = |address: &str| {
        Process::listening(&proc, address.parse().expect("an address")).map(|process| process.id)
    };
    assert_eq!(found("127.0.0.1:6443"), Some(7));
    assert_eq!(found("10.10.10.10:6443"), Some(8));
    assert_eq!(found("127.0.0.1:6444"), None);
    assert_eq!(found("127.0.0.2:6443"), None);
}

#[test]
fn the_tightest_bound_above_the_container_counts_and_caches_do_not() {
    let folder = host("levels");
    let mut host = Host::find(&folder.roots(), &upstream("127.0.0.1:6443")).expect("found");
    let reading = host.read(&folder.roots(), None).expect("read");
    let memory = reading.memory.expect("known");
    assert_eq!(
        (memory.used, memory.limit),
        (700 * MIB, 1024 * MIB),
        "the pod's"
    );
    assert!((memory.stalled - 0.255).abs() < 1e-6);
    assert_eq!(reading.oom_kills, Some(3));
    assert_eq!(reading.cpu_stalled, Some(0.12));
    // What the operator sets is a bound on the server itself.
    let memory = host
        .read(&folder.roots(), Some(600 * MIB))
        .and_then(|reading| reading.memory);
    assert_eq!(
        memory.map(|memory| (memory.used, memory.limit)),
        Some((500 * MIB, 600 * MIB))
    );
}

#[test]
fn without_bounds_of_its_own_the_hosts_memory_counts() {
    let folder = host("host");
    folder.write("cgroup/kube/pod/memory.max", "max\n");
    let mut host = Host::find(&folder.roots(), &upstream("127.0.0.1:6443")).expect("found");
    let memory = host
        .read(&folder.roots(), None)
        .and_then(|reading| reading.memory);
    assert_eq!(
        memory.map(|memory| (memory.used, memory.limit)),
        Some((1024 * MIB, 8192 * MIB))
    );
}

#[test]
fn without_cgroups_the_processs_own_memory_counts() {
    let folder = host("status");
    fs::remove_dir_all(folder.roots().cgroup).expect("removed");
    let mut host = Host::find(&folder.roots(), &upstream("127.0.0.1:6443")).expect("found");
    let memory = host
        .read(&folder.roots(), Some(4 * MIB))
        .and_then(|reading| reading.memory);
    assert_eq!(
        memory.map(|memory| (memory.used, memory.limit)),
        Some((3 * MIB, 4 * MIB))
    );
}

#[test]
fn a_container_is_found_from_another_cgroup_namespace() {
    let folder = host("namespace");
    folder.write("proc/7/cgroup", "0::/../../pod/container\n");
    let host = Host::find(&folder.roots(), &upstream("127.0.0.1:6443")).expect("found");
    let path = host.cgroup.expect("its cgroup").path().to_owned();
    assert!(path.ends_with("kube/pod/container"), "{path:?}");
}

#[test]
fn another_process_of_the_same_id_is_not_the_same_process() {
    let folder = host("reused");
    let mut host = Host::find(&folder.roots(), &upstream("127.0.0.1:6443")).expect("found");
    assert!(host.read(&folder.roots(), None).is_some());
    folder.write(
        "proc/7/stat",
        "7 (kube) S 1 1 1 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 9 0 999 1 1",
    );
    assert_eq!(host.read(&folder.roots(), None), None);
}

#[test]
fn a_folder_that_is_named_needs_no_process() {
    let folder = host("folder");
    let mut upstream = upstream("192.0.2.1:6443");
    upstream.cgroup = CgroupSource::Folder(folder.0.join("cgroup/kube/pod/container"));
    let mut host = Host::find(&folder.roots(), &upstream).expect("named");
    let memory = host
        .read(&folder.roots(), Some(1000 * MIB))
        .and_then(|reading| reading.memory);
    assert_eq!(memory.map(|memory| memory.used), Some(500 * MIB));
    upstream.cgroup = CgroupSource::Folder(folder.0.join("nowhere"));
    let mut host = Host::find(&folder.roots(), &upstream).expect("named");
    assert_eq!(
        host.read(&folder.roots(), Some(MIB)),
        None,
        "nothing there is nothing known"
    );
    upstream.cgroup = CgroupSource::Off;
    assert!(Host::find(&folder.roots(), &upstream).is_none());
}

#[test]
fn cut_and_senseless_files_are_nothing_known() {
    let folder = host("senseless");
    let container = "cgroup/kube/pod/container";
    for (file, text) in [
        ("memory.current", "many\n"),
        ("memory.pressure", "full avg10=NaN\n"),
        ("cpu.stat", "usage_usec"),
        ("memory.events", "\u{0}"),
    ] {
        folder.write(&format!("{container}/{file}"), text);
    }
    let mut host = Host::find(&folder.roots(), &upstream("127.0.0.1:6443")).expect("found");
    let reading = host.read(&folder.roots(), None).expect("read");
    assert_eq!((reading.oom_kills, reading.cores), (None, None));
    folder.write(
        "proc/net/tcp",
        "x\n0: 0100007F:192B\n1: zz:192B x 0A\n: : : : :\n",
    );
    assert_eq!(
        Process::listening(&folder.roots().proc, "127.0.0.1:6443".parse().expect("one")),
        None
    );
}

#[test]
fn this_very_process_is_found_by_the_socket_it_listens_on() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address) else {
            continue;
        };
        let address = listener.local_addr().expect("bound");
        let process = Process::listening(Path::new("/proc"), address).expect("found");
        assert_eq!(process.id, std::process::id());
        assert!(process.runs(Path::new("/proc")));
        assert!(process.memory(Path::new("/proc")).expect("read") > MIB / 16);
    }
}
