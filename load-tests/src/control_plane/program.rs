//! Building the Go programs of this crate.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use super::{Error, files};

/// A Go program of this crate, in a module of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoProgram {
    /// kube-apiserver and etcd, linked in from their published modules.
    ControlPlane,
    /// Informers that count what they ask for.
    Informers,
    /// client-go and controller-runtime at work.
    Clients,
    /// kube-controller-manager and kube-scheduler.
    Controllers,
    /// Kubernetes' own end-to-end tests.
    Conformance,
}

impl GoProgram {
    /// Its directory and the name of what is built.
    fn place(self) -> (PathBuf, &'static str) {
        // They lie next to this crate's manifest.
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        match self {
            Self::ControlPlane => (home.join("kube-apiserver"), "control-plane"),
            Self::Informers => (home.join("informers"), "informers"),
            Self::Clients => (home.join("clients/go"), "clients"),
            Self::Controllers => (home.join("clients/controllers"), "controllers"),
            Self::Conformance => (home.join("clients/conformance"), "e2e.test"),
        }
    }

    /// `go`'s subcommand that builds it.
    fn verb(self) -> &'static [&'static str] {
        match self {
            Self::Conformance => &["test", "-c"],
            _ => &["build"],
        }
    }
}

/// The program, built if it is missing or older than its sources. Processes that
/// ask at the same time build once.
pub(super) fn built(which: GoProgram) -> Result<PathBuf, Error> {
    let (dir, name) = which.place();
    let bin = dir.join("bin");
    let program = bin.join(name);
    fs::create_dir_all(&bin).map_err(files::failed(&bin))?;
    let lock_path = bin.join("build.lock");
    let lock = File::create(&lock_path).map_err(files::failed(&lock_path))?;
    lock.lock().map_err(files::failed(&lock_path))?;
    if !is_current(&program, &dir)? {
        build(which.verb(), &dir, &program)?;
    }
    Ok(program)
    // The lock goes with the file.
}

fn is_current(program: &Path, dir: &Path) -> Result<bool, Error> {
    let Some(built_at) = modified(program) else {
        return Ok(false);
    };
    for entry in fs::read_dir(dir).map_err(files::failed(dir))? {
        let path = entry.map_err(files::failed(dir))?.path();
        let is_source = path.extension().is_some_and(|extension| extension == "go")
            || path.ends_with("go.mod")
            || path.ends_with("go.sum");
        if is_source && modified(&path).is_none_or(|changed_at| changed_at > built_at) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}

fn build(verb: &[&str], dir: &Path, program: &Path) -> Result<(), Error> {
    eprintln!("building {} (minutes, the first time)", program.display());
    // Built aside and renamed: a build cut short leaves no half a program, and
    // a running one is not written over.
    let fresh = program.with_extension("new");
    let manifest = files::read(&dir.join("go.mod"))?;
    let output = Command::new("go")
        .current_dir(dir)
        .args(verb)
        .args(["-buildvcs=false", "-ldflags"])
        .arg(linker_flags(&manifest))
        .arg("-o")
        .arg(&fresh)
        .arg(".")
        .output()
        .map_err(|source| Error::System {
            action: "running `go build`",
            source,
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let skip = said.lines().count().saturating_sub(40);
        return Err(Error::Build {
            dir: dir.to_owned(),
            output: said.lines().skip(skip).collect::<Vec<_>>().join("\n"),
        });
    }
    fs::rename(&fresh, program).map_err(files::failed(program))
}

/// What the project's own build does (hack/lib/version.sh), so that the server
/// reports its release and clients that compare versions behave as they do with
/// a released one.
fn linker_flags(manifest: &str) -> String {
    let mut flags = "-s -w".to_owned();
    let Some(version) = kubernetes_version(manifest) else {
        return flags;
    };
    let mut parts = version.trim_start_matches('v').split('.');
    let values = [
        ("gitVersion", version),
        ("gitMajor", parts.next().unwrap_or_default()),
        ("gitMinor", parts.next().unwrap_or_default()),
        ("gitTreeState", "clean"),
    ];
    for package in [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ] {
        for (name, value) in values {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    flags
}

fn kubernetes_version(manifest: &str) -> Option<&str> {
    manifest.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.find(|word| *word == "k8s.io/kubernetes").is_some())
            .then(|| words.next())
            .flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_reports_the_release_the_manifest_pins() {
        let flags = linker_flags("module x\n\nrequire (\n\tk8s.io/kubernetes v1.37.1\n)\n");
        assert!(
            flags.contains("-X k8s.io/component-base/version.gitVersion=v1.37.1 "),
            "{flags}"
        );
        assert!(flags.contains("version.gitMinor=37 "), "{flags}");
    }

    #[test]
    fn a_program_older_than_a_source_is_built_again() {
        let dir = std::env::temp_dir().join(format!("spillway-current-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory for the test");
        let program = dir.join("program");
        fs::write(dir.join("main.go"), "").expect("a source");
        assert!(!is_current(&program, &dir).expect("readable"));

        fs::write(&program, "").expect("a program");
        let later = SystemTime::now() + std::time::Duration::from_secs(60);
        let set = |path: &Path, time| {
            let file = File::options().write(true).open(path).expect("the file");
            file.set_modified(time).expect("its time set");
        };
        set(&program, later);
        assert!(is_current(&program, &dir).expect("readable"));

        set(
            &dir.join("main.go"),
            later + std::time::Duration::from_secs(1),
        );
        assert!(!is_current(&program, &dir).expect("readable"));
        fs::remove_dir_all(&dir).expect("the test's own directory");
    }
}
