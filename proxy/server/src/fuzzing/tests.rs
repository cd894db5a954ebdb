//! The targets over their corpus and over changes of it: the same on every toolchain, and every time.

use std::path::PathBuf;

use super::*;

/// Changed inputs per target; `SPILLWAY_FUZZ_RUNS` says otherwise.
const RUNS: usize = 3000;

/// Longer inputs are cut, in bytes.
const LONGEST: usize = 16 * 1024;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../fuzz/corpus", target]
        .iter()
        .collect();
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|problem| panic!("{}: {problem}", folder.display()))
        .map(|file| file.expect("a file").path())
        .collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).expect("a seed"))
        .collect()
}

/// One or a few changes: bits, bytes, cuts, copies, and parts of other inputs.
fn changed(seeds: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let any = |random: &mut fastrand::Rng| &seeds[random.usize(..seeds.len())];
    let mut input = any(random).clone();
    for _ in 0..random.usize(1..=6) {
        let at = random.usize(..=input.len());
        let end = random.usize(at..=input.len());
        match random.u8(..8) {
            0 if at < input.len() => input[at] ^= 1 << random.u8(..8),
            1 if at < input.len() => input[at] = random.u8(..),
            2 => input.insert(at, random.u8(..)),
            3 => input.insert(
                at,
                *b"\n\r\0 ,.;:=%&/?_-\"{}[]\x80\xff"
                    .get(random.usize(..24))
                    .unwrap_or(&0),
            ),
            4 => drop(input.drain(at..end.min(at + 16))),
            5 => {
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            6 => {
                let other = any(random);
                let from = random.usize(..=other.len());
                let to = random.usize(from..=other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
            _ => input[at..end].reverse(),
        }
        input.truncate(LONGEST);
    }
    input
}

fn try_out(name: &str) {
    let runs = std::env::var("SPILLWAY_FUZZ_RUNS").ok();
    let runs = runs.and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    let seeds = corpus(name);
    assert!(!seeds.is_empty(), "{name} has no corpus");
    let changes = |seeds: &[Vec<u8>]| {
        let mut random = fastrand::Rng::with_seed(7);
        let seeds = seeds.to_vec();
        (0..runs).map(move |_| changed(&seeds, &mut random))
    };
    for input in seeds.iter().cloned().chain(changes(&seeds)) {
        let tried = std::panic::catch_unwind(|| run(name, &input));
        assert!(
            tried.is_ok(),
            "{name}: {:?}",
            String::from_utf8_lossy(&input)
        );
    }
}

macro_rules! tried_out {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            try_out(stringify!($name));
        })*

        #[test]
        fn every_target_is_tried_out() {
            assert_eq!([$(stringify!($name)),*], TARGETS.map(|(name, _)| name));
        }
    };
}

tried_out!(bearer certificate claims config connection headers key_set pem request_header review target token traceparent);

/// The corpus must get past the first check, or nothing behind it is tried.
#[test]
fn the_corpus_reaches_what_it_is_for() {
    use crate::identify::{certificate, keys};
    let some = |name: &str, reaches: &dyn Fn(&[u8]) -> bool| {
        assert!(corpus(name).iter().any(|seed| reaches(seed)), "{name}");
    };
    some("certificate", &|seed| {
        certificate::read(seed).is_some_and(|read| read.identity.is_some())
    });
    some("key_set", &|seed| {
        keys::of_key_set(seed).is_some_and(|keys| keys.len() > 1)
    });
    some("pem", &|seed| !keys::of_pem(seed).is_empty());
    some("review", &|seed| {
        crate::account::learn::identity(seed).is_some()
    });
    some("claims", &|seed| credentials::are_good(seed));
    some("config", &|seed| {
        std::str::from_utf8(seed).is_ok_and(|text| ::config::Config::parse(text, "c").is_ok())
    });
}
