//! A short run of what `fuzz/` does for longer: the corpus, mutated from fixed seeds.
//!
//! `MLFF_FUZZ_RUNS` and `MLFF_FUZZ_FIRST` ask for more, and for others.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::panic::catch_unwind;
use std::path::Path;

#[path = "../fuzz/src/xyz.rs"]
mod fuzz;
#[path = "../src/testing/random.rs"]
mod random;

/// Plain files of the corpora.
fn seeds() -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    for folder in ["tests/data/xyz-corpus/files", "tests/data/xyz-odd"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        paths.extend(std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    paths.retain(|path| !["gz", "bz2", "zst", "md"].iter().any(|end| path.extension().is_some_and(|e| e == *end)));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn xyz_mutated_files_keep_their_promises() {
    let seeds = seeds();
    assert!(seeds.len() > 70);
    seeds.iter().for_each(|seed| fuzz::xyz(seed));
    let (first, runs) = (number("MLFF_FUZZ_FIRST", 0), number("MLFF_FUZZ_RUNS", 20_000));
    for k in first..first + runs {
        let mut data = seeds[(k % seeds.len() as u64) as usize].clone();
        for round in 0..=k / seeds.len() as u64 % 3 {
            data = fuzz::mutate(&data, 4 * k + round);
        }
        if let Err(panic) = catch_unwind(|| fuzz::xyz(&data)) {
            eprintln!("run {k}:\n{}", String::from_utf8_lossy(&data).escape_debug());
            std::panic::resume_unwind(panic);
        }
    }
}
