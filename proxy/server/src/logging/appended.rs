//! A file that lines are appended to, whatever becomes of it meanwhile: renamed or removed (logrotate's `create`), emptied
//! (`copytruncate`), grown too large, or its disk full.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

/// What others than its owner and its group may do with a log: nothing.
const OTHERS: u32 = 0o007;

/// See the module.
#[derive(Debug)]
pub(crate) struct Appended {
    path: PathBuf,
    /// Beyond so many bytes it is begun anew.
    max_size: u64,
    /// Full ones kept.
    keep: u32,
    open: Option<Open>,
    /// The last line in it is no whole one: what comes next begins with an end of line.
    torn: bool,
    /// A full one could not be renamed.
    stuck: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Device and inode.
    is: (u64, u64),
}

/// How far a piece got.
#[derive(Debug)]
pub(crate) struct Incomplete {
    /// Bytes of it that are whole lines in the file.
    pub(crate) whole: usize,
    pub(crate) source: io::Error,
}

impl Appended {
    pub(crate) const fn new(path: PathBuf, max_size: u64, keep: u32) -> Self {
        Self {
            path,
            max_size,
            keep,
            open: None,
            torn: false,
            stuck: false,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is too large and cannot be renamed.
    pub(crate) const fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Lets go of the file; the next lines go to whatever is at the path then.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Appends whole lines.
    ///
    /// # Errors
    /// [`Incomplete`], with how many of them are in the file.
    pub(crate) fn append(&mut self, lines: &[u8]) -> Result<(), Incomplete> {
        let mut written = 0;
        self.try_append(lines, &mut written).map_err(|source| {
            let in_file = lines.get(..written).unwrap_or_default();
            let whole = in_file.iter().rposition(|byte| *byte == b'\n');
            let whole = whole.map_or(0, |end| end + 1);
            self.torn |= whole < written;
            Incomplete { whole, source }
        })
    }

    fn try_append(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        let torn = self.torn;
        let file = self.ready(lines.len())?;
        if torn {
            file.write_all(b"\n")?;
            self.torn = false;
        }
        let Some(Open { file, .. }) = &mut self.open else {
            return Ok(());
        };
        while let Some(rest) = lines.get(*written..).filter(|rest| !rest.is_empty()) {
            match file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => *written += more,
                Err(problem) if problem.kind() == io::ErrorKind::Interrupted => {}
                Err(problem) => return Err(problem),
            }
        }
        Ok(())
    }

    /// The file that is at the path now, with room for so many bytes.
    fn ready(&mut self, more: usize) -> io::Result<&mut File> {
        let now = fs::metadata(&self.path).ok();
        let is = now.as_ref().map(|now| (now.dev(), now.ino()));
        if self.open.as_ref().map(|open| open.is) != is {
            self.open = None;
        }
        let full = now.is_some_and(|now| {
            now.is_file() && now.len() > 0 && now.len().saturating_add(more as u64) > self.max_size
        });
        if full {
            // Lines in a file that is too large are better than none.
            self.stuck = self.turn().is_err();
        }
        if self.open.is_none() {
            self.open = Some(open(&self.path)?);
        }
        match &mut self.open {
            Some(open) => Ok(&mut open.file),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// `file` becomes `file.1`, that `file.2`, and so on; the last goes.
    fn turn(&mut self) -> io::Result<()> {
        let old = |number: u32| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        if self.keep == 0 {
            fs::remove_file(&self.path)?;
        }
        for number in (1..self.keep).rev() {
            match fs::rename(old(number), old(number + 1)) {
                Err(problem) if problem.kind() != io::ErrorKind::NotFound => return Err(problem),
                _ => {}
            }
        }
        if self.keep > 0 {
            fs::rename(&self.path, old(1))?;
        }
        self.open = None;
        self.torn = false;
        Ok(())
    }
}

/// Made for its owner alone; one that is there keeps what its owner and group may do.
fn open(path: &Path) -> io::Result<Open> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let file = match options.open(path) {
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => {
            if let Some(folder) = path.parent() {
                let made = DirBuilder::new().mode(0o700).recursive(true).create(folder);
                made?;
            }
            options.open(path)?
        }
        opened => opened?,
    };
    let found = file.metadata()?;
    let mode = found.permissions().mode();
    if found.is_file() && mode & OTHERS != 0 {
        // Somebody else's file cannot be changed, and is theirs to answer for.
        let _ = file.set_permissions(fs::Permissions::from_mode(mode & 0o777 & !OTHERS));
    }
    Ok(Open {
        is: (found.dev(), found.ino()),
        file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that goes when the test ends.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("spillway-{}-log-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.at(name)).unwrap_or_else(|problem| format!("{name}: {problem}"))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn appended(folder: &Folder, max_size: u64, keep: u32) -> Appended {
        Appended::new(folder.at("log"), max_size, keep)
    }

    fn put(log: &mut Appended, line: &str) {
        log.append(line.as_bytes()).expect("written");
    }

    #[test]
    fn a_renamed_or_removed_file_is_begun_anew_and_nothing_is_lost() {
        let folder = Folder::new("rename");
        let mut log = appended(&folder, u64::MAX, 1);
        put(&mut log, "1\n");
        fs::rename(folder.at("log"), folder.at("log-old")).expect("renamed");
        put(&mut log, "2\n");
        // As `create` does: another file is there at once.
        fs::rename(folder.at("log"), folder.at("log-older")).expect("renamed");
        fs::write(folder.at("log"), "").expect("made");
        put(&mut log, "3\n");
        let read = ["log-old", "log-older", "log"].map(|name| folder.read(name));
        assert_eq!(read, ["1\n", "2\n", "3\n"]);
        fs::remove_file(folder.at("log")).expect("removed");
        put(&mut log, "4\n");
        assert_eq!(folder.read("log"), "4\n");
    }

    #[test]
    fn an_emptied_file_goes_on_at_its_beginning() {
        let folder = Folder::new("truncate");
        let mut log = appended(&folder, u64::MAX, 1);
        put(&mut log, "1\n");
        let other = OpenOptions::new().write(true).open(folder.at("log"));
        other.expect("open").set_len(0).expect("emptied");
        put(&mut log, "2\n");
        assert_eq!(folder.read("log"), "2\n");
    }

    #[test]
    fn a_full_file_is_put_aside_and_only_so_many_are_kept() {
        let folder = Folder::new("full");
        let mut log = appended(&folder, 8, 2);
        for line in ["one\n", "two\n", "three\n", "four\n", "five\n", "six\n"] {
            put(&mut log, line);
        }
        let read = ["log", "log.1", "log.2", "log.3"].map(|name| folder.read(name));
        assert_eq!(read[..3], ["six\n", "five\n", "four\n"]);
        assert!(read[3].starts_with("log.3: "), "{}", read[3]);
        let mut none = appended(&folder, 8, 0);
        put(&mut none, "seven\n");
        assert_eq!(folder.read("log"), "seven\n");
        assert_eq!(folder.read("log.1"), "five\n");
    }

    #[test]
    fn it_is_its_owners_alone_and_a_groups_if_somebody_said_so() {
        let folder = Folder::new("mode");
        let mode = |name: &str| {
            let found = fs::metadata(folder.at(name)).expect("a file");
            found.permissions().mode() & 0o777
        };
        put(&mut appended(&folder, u64::MAX, 1), "1\n");
        assert_eq!(mode("log"), 0o600);
        fs::set_permissions(folder.at("log"), fs::Permissions::from_mode(0o644)).expect("set");
        put(&mut appended(&folder, u64::MAX, 1), "2\n");
        assert_eq!(mode("log"), 0o640);
        let path = folder.at("new/er/log");
        let made = Appended::new(path, u64::MAX, 1).append(b"1\n");
        made.expect("folders are made");
        assert_eq!(mode("new"), 0o700);
    }

    #[test]
    fn a_full_disk_is_an_error_and_no_more() {
        let mut full = Appended::new(PathBuf::from("/dev/full"), 8, 1);
        for _ in 0..2 {
            let problem = full.append(b"1\n").expect_err("no space");
            assert_eq!(problem.source.raw_os_error(), Some(28));
            assert_eq!(problem.whole, 0);
        }
    }

    #[test]
    fn what_follows_half_a_line_is_a_line_of_its_own() {
        let folder = Folder::new("torn");
        let mut log = appended(&folder, u64::MAX, 1);
        put(&mut log, "{\"hal");
        log.torn = true;
        put(&mut log, "2\n");
        put(&mut log, "3\n");
        assert_eq!(folder.read("log"), "{\"hal\n2\n3\n");
    }
}
