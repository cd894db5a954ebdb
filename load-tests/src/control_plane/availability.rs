//! Which control plane this machine can run.

use std::path::PathBuf;

use super::process::Backend;
use super::{Error, GoProgram, program};

/// Where a control plane to test against can come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// `KUBEBUILDER_ASSETS` names this directory with `kube-apiserver` and
    /// `etcd`; Go is not needed.
    Assets(PathBuf),
    /// `go` is on the `PATH`: the program in `load-tests/kube-apiserver` can be
    /// built. The first build downloads its modules and takes minutes.
    Go,
    /// Neither, and one line that says what was looked for.
    Absent(String),
}

impl Availability {
    /// Looks at the environment only; nothing is built or started.
    pub fn detect() -> Self {
        let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self::from(assets, std::env::split_paths(&path))
    }

    fn from(assets: Option<PathBuf>, path: impl Iterator<Item = PathBuf>) -> Self {
        let mut looked_for = "KUBEBUILDER_ASSETS is not set".to_owned();
        if let Some(dir) = assets {
            match ["kube-apiserver", "etcd"]
                .iter()
                .find(|name| !dir.join(name).is_file())
            {
                None => return Self::Assets(dir),
                Some(missing) => {
                    looked_for = format!("KUBEBUILDER_ASSETS={} has no {missing}", dir.display());
                }
            }
        }
        if has_go(path) {
            return Self::Go;
        }
        Self::Absent(format!("{looked_for}, and there is no `go` on the PATH"))
    }
}

/// Turns what is there into something that can be started, building it first
/// where needed.
pub(super) fn prepare(availability: Availability) -> Result<Backend, Error> {
    match availability {
        Availability::Assets(dir) => Ok(Backend::Assets(dir)),
        Availability::Go => Ok(Backend::Program(program::built(GoProgram::ControlPlane)?)),
        Availability::Absent(reason) => Err(Error::Absent { reason }),
    }
}

/// A Go program of this crate, built first if need be. The control plane's has
/// modes no binary of `KUBEBUILDER_ASSETS` has, so those do not do instead.
///
/// # Errors
/// [`Error::Absent`] without `go`; [`Error::Build`] when the build fails.
pub fn go_program(which: GoProgram) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if has_go(std::env::split_paths(&path)) {
        program::built(which)
    } else {
        Err(Error::Absent {
            reason: "there is no `go` on the PATH".to_owned(),
        })
    }
}

fn has_go(mut path: impl Iterator<Item = PathBuf>) -> bool {
    path.any(|dir| dir.join("go").is_file())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct TestDir(PathBuf);

    impl Drop for TestDir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn dir_with(names: &[&str]) -> TestDir {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let dir = std::env::temp_dir().join(format!(
            "spillway-availability-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        ));
        std::fs::create_dir_all(&dir).expect("a directory for the test");
        for name in names {
            std::fs::write(dir.join(name), "").expect("a file for the test");
        }
        TestDir(dir)
    }

    #[test]
    fn complete_assets_win_over_go() {
        let assets = dir_with(&["kube-apiserver", "etcd"]);
        let go = dir_with(&["go"]);
        assert_eq!(
            Availability::from(Some(assets.0.clone()), [go.0.clone()].into_iter()),
            Availability::Assets(assets.0.clone())
        );
    }

    #[test]
    fn incomplete_assets_fall_back_to_go() {
        let assets = dir_with(&["etcd"]);
        let go = dir_with(&["go"]);
        assert_eq!(
            Availability::from(Some(assets.0.clone()), [go.0.clone()].into_iter()),
            Availability::Go
        );
    }

    #[test]
    fn absence_says_what_was_looked_for() {
        let assets = dir_with(&["etcd"]);
        let Availability::Absent(reason) =
            Availability::from(Some(assets.0.clone()), std::iter::empty())
        else {
            panic!("found something in an empty PATH");
        };
        assert!(reason.contains("has no kube-apiserver"), "{reason}");
        assert!(!reason.contains('\n'), "{reason}");
    }
}
