//! A pseudo-terminal with a program in it, and what it shows, for what only happens on a terminal.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::support::BOUND;

const COLUMNS: usize = 140;
const ROWS: usize = 40;

/// A program on a terminal; killed when dropped.
pub(crate) struct Terminal {
    child: Child,
    master: File,
    screen: Arc<Mutex<Screen>>,
}

impl Terminal {
    pub(crate) fn run(mut command: Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).expect("its other side");
        unlockpt(&master).expect("its other side");
        let size = Winsize {
            ws_row: ROWS as u16,
            ws_col: COLUMNS as u16,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size).expect("a size");
        let name = ptsname(&master, Vec::new()).expect("its name");
        let name = name.to_str().expect("a path");
        let other = File::options().read(true).write(true).open(name);
        let other = OwnedFd::from(other.expect("its other side"));
        let copy = || Stdio::from(other.try_clone().expect("a copy"));
        let child = command
            .stdin(copy())
            .stdout(copy())
            .stderr(copy())
            .spawn()
            .expect("the program starts");
        drop((command, other));
        let master = File::from(master);
        let screen = Arc::new(Mutex::new(Screen::default()));
        let (mut reader, shown) = (master.try_clone().expect("a copy"), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            let mut rest = Vec::new();
            while let Ok(length @ 1..) = reader.read(&mut piece) {
                rest.extend_from_slice(&piece[..length]);
                shown.lock().expect("unpoisoned").take(&mut rest);
            }
        });
        Self {
            child,
            master,
            screen,
        }
    }

    /// Types, as a person would.
    pub(crate) fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("typed");
    }

    /// Waits until the screen shows `text`.
    pub(crate) fn until(&self, text: &str) -> String {
        let begun = Instant::now();
        loop {
            let picture = self.screen.lock().expect("unpoisoned").text();
            if picture.contains(text) {
                return picture;
            }
            assert!(begun.elapsed() < BOUND, "no `{text}` in\n{picture}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Waits for the program's end; its exit status.
    pub(crate) fn end(mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(begun.elapsed() < BOUND, "it goes on");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As much of a terminal as the programs here use: the cursor is put somewhere, letters are written from there on.
struct Screen {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Default for Screen {
    fn default() -> Self {
        Self {
            cells: vec![vec![' '; COLUMNS]; ROWS],
            row: 0,
            column: 0,
        }
    }
}

impl Screen {
    /// Takes what is whole off `bytes` and shows it.
    fn take(&mut self, bytes: &mut Vec<u8>) {
        let whole = match std::str::from_utf8(bytes) {
            Ok(text) => text.len(),
            Err(cut) => cut.valid_up_to(),
        };
        let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
        let mut rest = text.as_str();
        while let Some(letter) = rest.chars().next() {
            if letter != '\u{1b}' {
                self.put(letter);
                rest = &rest[letter.len_utf8()..];
                continue;
            }
            let Some(sequence) = rest.strip_prefix("\u{1b}[") else {
                // Two letters, as those that save the cursor.
                rest = rest.get(2..).unwrap_or_default();
                continue;
            };
            let Some(end) = sequence.find(|letter: char| ('@'..='~').contains(&letter)) else {
                break;
            };
            self.follow(&sequence[..end], &sequence[end..=end]);
            rest = &sequence[end + 1..];
        }
        let left = rest.as_bytes().to_vec();
        let cut = bytes.split_off(whole);
        *bytes = [left, cut].concat();
    }

    fn follow(&mut self, parameters: &str, what: &str) {
        let mut numbers = parameters
            .split(';')
            .map(|number| number.parse().unwrap_or(1_usize));
        match what {
            "H" => {
                self.row = numbers.next().unwrap_or(1).saturating_sub(1);
                self.column = numbers.next().unwrap_or(1).saturating_sub(1);
            }
            "J" => self.cells = Self::default().cells,
            _ => {}
        }
    }

    fn put(&mut self, letter: char) {
        match letter {
            '\r' => self.column = 0,
            '\n' => self.row += 1,
            letter => {
                let cell = self.cells.get_mut(self.row);
                if let Some(cell) = cell.and_then(|row| row.get_mut(self.column)) {
                    *cell = letter;
                }
                self.column += 1;
            }
        }
    }

    fn text(&self) -> String {
        let lines = self.cells.iter().map(|row| row.iter().collect::<String>());
        let lines = lines.map(|line| line.trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n")
    }
}
