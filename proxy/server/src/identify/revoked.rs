//! Certificates of the break-glass authority that are refused before they end.
//!
//! A file of serial numbers in hexadecimal, one per line; what follows on a line is for people. It need not exist. A line
//! that is no serial number makes the whole file unusable: then the last good list stays in force, and nobody is let in
//! because of a slip of the pen.

use std::collections::HashSet;
use std::path::Path;

use super::tls::MaterialError;

/// More lines than this are another file. Certificates last a day at most, so that the list can be cleared.
const MOST: usize = 100_000;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Revoked(HashSet<Box<str>>);

impl Revoked {
    /// Reads `path`, if there is such a file.
    ///
    /// # Errors
    /// [`MaterialError`] with the line that is wrong.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, MaterialError> {
        let Some(path) = path.filter(|path| path.exists()) else {
            return Ok(Self::default());
        };
        let text = super::tls::read(path)?;
        let wrong = |line: usize, what: &str| {
            let problem = format!("line {line} {what}; want a serial number in hexadecimal");
            MaterialError::unusable(path, problem)
        };
        let text = String::from_utf8(text).map_err(|_| wrong(1, "is no text"))?;
        let mut serials = HashSet::new();
        for (number, line) in text.lines().enumerate() {
            let number = number + 1;
            let Some(word) = line
                .split('#')
                .next()
                .and_then(|line| line.split_whitespace().next())
            else {
                continue;
            };
            if number > MOST {
                return Err(wrong(number, "is beyond the longest list"));
            }
            serials.insert(normal(word).ok_or_else(|| wrong(number, "has none"))?);
        }
        Ok(Self(serials))
    }

    /// Whether a serial number, as [`serial`] writes it, is on the list.
    pub(crate) fn contains(&self, serial: &str) -> bool {
        self.0.contains(serial)
    }

    /// All of them, sorted.
    pub(crate) fn serials(&self) -> Vec<&str> {
        let mut serials: Vec<&str> = self.0.iter().map(|serial| &**serial).collect();
        serials.sort_unstable();
        serials
    }
}

/// A serial number's bytes in the one way it is written here: lower case, no colons, no zeros in front.
pub(crate) fn serial(bytes: &[u8]) -> Box<str> {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text.trim_start_matches('0').into()
}

/// The same of what people and other tools write.
pub(crate) fn normal(text: &str) -> Option<Box<str>> {
    let text = text.strip_prefix("0x").unwrap_or(text).replace(':', "");
    let sound = !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    sound.then(|| text.to_ascii_lowercase().trim_start_matches('0').into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Revoked, MaterialError> {
        let path = std::env::temp_dir().join(format!("spillway-revoked-{}", std::process::id()));
        std::fs::write(&path, text).expect("written");
        let loaded = Revoked::load(Some(&path));
        let _ = std::fs::remove_file(&path);
        loaded
    }

    #[test]
    fn serials_are_the_same_however_they_are_written() {
        let revoked =
            load("# left the company\n0x00AB:cd jane, 2026-01-01\n\n12 # bob\n").expect("a list");
        assert!(revoked.contains(&serial(&[0, 0xab, 0xcd])));
        assert!(revoked.contains(&serial(&[0x12])));
        assert_eq!(revoked.serials(), ["12", "abcd"]);
        assert!(load("jane\n").is_err());
        assert!(load("12\nnot-hex\n").is_err());
        assert!(Revoked::load(Some(Path::new("/nonexistent"))).is_ok());
    }
}
