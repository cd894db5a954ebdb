//! Blocks of whole lines from files, plain or gz, one after the other.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

/// Bytes of a block, about.
const BLOCK: usize = 1 << 20;
/// A line longer than this is no audit event; the server's own bound on an object is far below.
const LONGEST: usize = 64 << 20;

/// Files to be read.
pub(super) struct Source {
    files: std::vec::IntoIter<(PathBuf, Box<dyn Read + Send>)>,
    current: Option<(PathBuf, Box<dyn Read + Send>)>,
    size: Option<u64>,
    /// Bytes read of the files as they are, compressed or not.
    pub(super) read: Arc<AtomicU64>,
    rest: Vec<u8>,
}

struct Counting<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// gz is known by its first bytes, whatever the file is called.
fn plain(file: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut file = BufReader::with_capacity(BLOCK, file);
    let compressed = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if compressed {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    })
}

impl Source {
    /// Opens all of them, so that a missing one is found at once.
    ///
    /// # Errors
    /// A text with the file that cannot be read.
    pub(super) fn open(files: &[PathBuf]) -> Result<Self, String> {
        let read = Arc::new(AtomicU64::new(0));
        let mut size = Some(0_u64);
        let mut opened = Vec::new();
        for path in files {
            let say = |problem: io::Error| format!("{}: cannot be read: {problem}", path.display());
            let reader = if path.as_os_str() == "-" {
                size = None;
                plain(Counting(io::stdin(), Arc::clone(&read)))
            } else {
                let file = File::open(path).map_err(say)?;
                let length = file.metadata().map_err(say)?.len();
                size = size.map(|size| size + length);
                plain(Counting(file, Arc::clone(&read)))
            };
            opened.push((path.clone(), reader.map_err(say)?));
        }
        Ok(Self {
            files: opened.into_iter(),
            current: None,
            size,
            read,
            rest: Vec::new(),
        })
    }

    /// Bytes of all files, if that is known.
    pub(super) const fn size(&self) -> Option<u64> {
        self.size
    }

    /// The next block of whole lines; `None` at the end.
    ///
    /// # Errors
    /// A text with the file that broke off.
    pub(super) fn block(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut block = std::mem::take(&mut self.rest);
        loop {
            if self.current.is_none() {
                self.current = self.files.next();
            }
            let Some((path, reader)) = &mut self.current else {
                return Ok((!block.is_empty()).then_some(block));
            };
            let before = block.len();
            let read = reader.by_ref().take(BLOCK as u64).read_to_end(&mut block);
            read.map_err(|problem| format!("{}: {problem}", path.display()))?;
            if block.len() == before {
                self.current = None;
                // A file's last line may lack its end.
                if block.last().is_some_and(|last| *last != b'\n') {
                    block.push(b'\n');
                }
                if block.is_empty() {
                    continue;
                }
                return Ok(Some(block));
            }
            if let Some(end) = memchr_last(&block) {
                self.rest = block.split_off(end + 1);
                return Ok(Some(block));
            }
            if block.len() > LONGEST {
                return Err(format!(
                    "{}: a line of more than {LONGEST} bytes",
                    path.display()
                ));
            }
        }
    }
}

fn memchr_last(block: &[u8]) -> Option<usize> {
    block.iter().rposition(|byte| *byte == b'\n')
}
