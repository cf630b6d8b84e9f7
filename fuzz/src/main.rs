//! libFuzzer targets: `FUZZ_TARGET` names the one that runs. `scripts/fuzz.sh` builds, makes seeds and runs them.
#![no_main]
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

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use random::Random;
use targets::Target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| Target::of_name(&std::env::var("FUZZ_TARGET").unwrap_or_default()));

fuzz_target!(|data: &[u8]| TARGET.execute(data));

// Three of four mutations keep to the structure of the format; the others are libFuzzer's own.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let changed =
        TARGET.mutate.filter(|_| Random::new(seed.into()).below(4) > 0).map(|mutate| mutate(&data[..size], seed));
    match changed {
        Some(changed) if !changed.is_empty() && changed.len() <= max_size => {
            data[..changed.len()].copy_from_slice(&changed);
            changed.len()
        }
        _ => fuzzer_mutate(data, size, max_size),
    }
});
