//! libFuzzer targets: `FUZZ_TARGET` names the one that runs. `scripts/fuzz.sh` builds, makes seeds and runs them.
#![no_main]
// A target fails by a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod calibration;
mod compression;
mod memory;
mod model;
mod session;
mod shared;
mod weights;
mod xyz;

use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use mlff::model::import::{ImportOptions, Source, import_bytes};
use shared::Random;

/// What to do with an input, how to change one, and bytes that it may take beside 50 a byte of input.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    mutate: Option<fn(&[u8], u32) -> Vec<u8>>,
    memory: usize,
}

const MIB: usize = 1 << 20;

static TARGETS: [Target; 7] = [
    Target { name: "xyz", run: xyz::xyz, mutate: Some(|data, seed| xyz::mutate(data, seed.into())), memory: 4 * MIB },
    // A few bytes may hold much text; what a frame may take is bounded by tests of the reader.
    Target { name: "compression", run: compression::compression, mutate: None, memory: 1 << 30 },
    Target { name: "model", run: model::model, mutate: Some(mutate_model), memory: 80 * MIB },
    Target {
        name: "safetensors",
        run: weights::safetensors,
        mutate: Some(weights::mutate_safetensors),
        memory: 80 * MIB,
    },
    Target { name: "pickle", run: weights::pickle, mutate: Some(weights::mutate_pickle), memory: 80 * MIB },
    Target {
        name: "calibration",
        run: calibration::calibration,
        mutate: Some(calibration::mutate_calibration),
        memory: MIB,
    },
    // Cells that are thin or full are searched with up to some 26 MB of points.
    Target { name: "session", run: session::session, mutate: None, memory: 400 * MIB },
];

/// As [`model::mutate_model`]; what is too short to be a model becomes one of the test data.
fn mutate_model(data: &[u8], seed: u32) -> Vec<u8> {
    macro_rules! imported {
        ($source:expr, $folder:literal, $weights:literal) => {{
            let weights = include_bytes!(concat!("../../tests/data/import/", $folder, "/", $weights));
            let config = include_bytes!(concat!("../../tests/data/import/", $folder, "/config.json"));
            let import = import_bytes($source, weights, Some(config), &ImportOptions::default());
            let [config, weights] = import.expect("test data").model.to_bytes().expect("test data");
            model::join(&config, &weights)
        }};
    }
    if data.len() > 8 {
        return model::mutate_model(data, seed);
    }
    match seed % 3 {
        0 => imported!(Source::SchNetPack, "shared-both", "schnetpack_state_dict.safetensors"),
        1 => imported!(Source::SchNetPack, "one-interaction", "schnetpack_state_dict.safetensors"),
        _ => imported!(Source::Distiller, "distiller", "model.safetensors"),
    }
}

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        panic!("FUZZ_TARGET is \"{name}\", expected one of {}", names.join(", "))
    })
});

fuzz_target!(|data: &[u8]| {
    memory::bounded(TARGET.name, data.len(), TARGET.memory, || (TARGET.run)(data));
});

// Three of four mutations keep to the structure of the format; the others are libFuzzer's own.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let changed = TARGET.mutate.filter(|_| Random::new(seed).below(4) > 0).map(|mutate| mutate(&data[..size], seed));
    match changed {
        Some(changed) if !changed.is_empty() && changed.len() <= max_size => {
            data[..changed.len()].copy_from_slice(&changed);
            changed.len()
        }
        _ => fuzzer_mutate(data, size, max_size),
    }
});
