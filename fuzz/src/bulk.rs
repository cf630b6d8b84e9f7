//! Many executions of a target without the fuzzer's counters, which cost most of the time: inputs are drawn from folders that
//! libFuzzer has filled, and changed up to three times. `bulk TARGET RUNS SEED LARGEST FOLDER…`. An input that fails is written to
//! the working directory as `failed-TARGET`.
// A target fails by a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod calibration;
mod compression;
mod memory;
mod model;
#[path = "../../src/testing/random.rs"]
mod random;
mod session;
mod shared;
mod targets;
mod weights;
mod xyz;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use random::Random;
use targets::Target;

/// Bytes overwritten, cut out, copied, put in.
fn mutate_bytes(data: &[u8], r: &mut Random) -> Vec<u8> {
    let mut out = data.to_vec();
    for _ in 0..1 + r.below(4) {
        let at = r.below(out.len() + 1);
        let end = (at + 1 + r.below(16)).min(out.len());
        match r.below(5) {
            0 if at < out.len() => out[at] = r.next() as u8,
            1 if at < out.len() => out[at] ^= 1 << r.below(8),
            2 if at < end => drop(out.drain(at..end)),
            3 if at < end => {
                let piece = out[at..end].to_vec();
                let to = r.below(out.len() + 1);
                out.splice(to..to, piece);
            }
            _ => out.insert(at, r.next() as u8),
        }
    }
    out
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, runs, seed, largest, folders @ ..] = &arguments[..] else {
        panic!("expected TARGET RUNS SEED LARGEST FOLDER…");
    };
    let target = Target::of_name(name);
    let [runs, seed, largest] = [runs, seed, largest].map(|text| text.parse::<usize>().expect("a number"));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("a folder"));
    let mut inputs: Vec<Vec<u8>> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "no inputs");
    let (mut r, start) = (Random::new(seed as u64), Instant::now());
    for run in 0..runs {
        let mut input = r.pick(&inputs).clone();
        for _ in 0..r.below(4) {
            input = match target.mutate {
                Some(mutate) if r.below(4) > 0 => mutate(&input, r.next() as u32),
                _ => mutate_bytes(&input, &mut r),
            };
        }
        input.truncate(largest);
        if catch_unwind(AssertUnwindSafe(|| target.execute(&input))).is_err() {
            std::fs::write(format!("failed-{name}"), &input).unwrap();
            panic!("execution {run} with seed {seed} failed: failed-{name} has the input");
        }
        if (run + 1) % (runs / 10).max(1) == 0 {
            println!("{name}: {} executions in {:.0} s", run + 1, start.elapsed().as_secs_f64());
        }
    }
}
